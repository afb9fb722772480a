//! The dialect of a file from its first bytes.
//!
//! Design note. Each delimiter that the text has is tried: the text is taken apart with it, and the reading is judged by
//! how many records have the same number of fields, by how many columns have a type, and a little by how usual the
//! delimiter is. This is the idea of van den Burg, Nazábal and Sutton, "Wrangling messy CSV files by detecting row and
//! type patterns" (2019), in a few rules whose outcome can be told to a user. Rules that keep data from being lost or
//! changed by a wrong guess:
//!
//! - A double quote is the quote unless most fields that begin with one are malformed: one bad field is an error with its
//!   place, and does not make quotes part of all values. A single quote is one only if it is never malformed.
//! - A backslash is an escape character only if quotes are malformed without it and well-formed with it.
//! - Lines before the header are left out only if they have at most half as many fields as all records behind them, or
//!   begin with `#` as no later line does. Comments further on are never guessed, for a line of data may begin so too.
//! - Spaces separate fields only where every record has as many, with a typed column among them, and a whole line is no
//!   value (`2013-01-01 10:00`). Colons never do: times and addresses have them.
//! - A file in which no delimiter has at least half of the records agree is one column.
//!
//! It is a pure function of the bytes, and there are no bytes that it fails for.

use std::ops::Range;

use arrow_schema::DataType;

use crate::infer::Inference;
use crate::records::{Dialect, Field, Step, is_blank};

/// Bytes that are looked at.
pub(crate) const WINDOW: usize = 64 << 10;

/// Records by which a column is judged.
const TYPED: usize = 200;
/// Lines that are left out before a header at the most.
const PREAMBLE: usize = 50;
/// Scores that differ by less are about equal.
const CLOSE: f64 = 0.04;

/// What need not be found, and what helps to find the rest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given<'a> {
    pub(crate) delimiter: Option<u8>,
    pub(crate) quote: Option<Option<u8>>,
    pub(crate) escape: Option<Option<u8>>,
    pub(crate) comment: Option<u8>,
    /// The text begins behind the lines that are left out.
    pub(crate) skipped: bool,
    pub(crate) header: Option<bool>,
    /// Spellings of null.
    pub(crate) nulls: &'a [String],
    /// The name of the file says that it is separated by tabs.
    pub(crate) tabs: bool,
    /// Columns of the files before this one.
    pub(crate) names: Option<&'a [String]>,
}

/// The dialect of a text, and why.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) dialect: Dialect,
    pub(crate) skipped_lines: usize,
    /// Bytes of the lines that are left out.
    pub(crate) skipped: usize,
    pub(crate) header: bool,
    /// The number of fields that most records have.
    pub(crate) width: usize,
    pub(crate) findings: Vec<Finding>,
    /// What it may be as well.
    pub(crate) doubt: Option<String>,
}

/// One item of a dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) item: &'static str,
    pub(crate) value: String,
    pub(crate) why: String,
    /// It was found, and is not what most files have.
    pub(crate) notable: bool,
}

/// Judges `text`, the start of a file without a byte order mark; `whole`: it is all of the file.
pub(crate) fn detect(text: &[u8], whole: bool, given: &Given<'_>) -> Found {
    let hashes = if given.skipped || given.comment.is_some() { Vec::new() } else { hash_lines(text) };
    let start = hashes.last().map_or(0, |line| line.end);
    let mut readings: Vec<Reading> = candidates(text, given)
        .into_iter()
        .map(|delimiter| Reading::of(text, start, whole, delimiter, given))
        .filter(|reading| given.delimiter.is_some() || reading.may_be(text))
        .collect();
    readings.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut readings = readings.into_iter();
    let mut doubt = None;
    let best = match readings.next() {
        Some(best) => {
            if let Some(other) = readings.next().filter(|other| best.score - other.score < CLOSE) {
                doubt = Some(format!(
                    "the delimiter may be {} as well as {} ({}); the option delimiter settles it",
                    shown(Some(other.dialect.delimiter)),
                    shown(Some(best.dialect.delimiter)),
                    other.agreement()
                ));
            }
            best
        }
        None => Reading::of(text, start, whole, lone_delimiter(text, start, whole, given), given),
    };

    let mut skipped = start;
    let mut why_skipped = if start > 0 { "lines that begin with #" } else { "blank lines" };
    if best.lead > 0 {
        why_skipped = "fewer fields than in all records behind";
    }
    if (best.lead > 0 || best.width > 1) && !given.skipped && given.comment.is_none() && best.malformed == 0 {
        // Behind blank lines too.
        skipped = best.records.get(best.lead).map_or(start, |record| record.start);
    }
    // Without a header the first that is a record begins the data; else the last is the header, unless it is a remark
    // behind one.
    let is_found = |line: &&Range<usize>| is_record(text, (*line).clone(), skipped, &best, whole, given);
    let has_no_space = |line: &Range<usize>| text.get(line.start + 1) != Some(&b' ');
    let found = match given.header {
        Some(false) => hashes.iter().find(is_found),
        _ => hashes.iter().rev().filter(|line| Some(*line) == hashes.last() || has_no_space(line)).find(is_found),
    };
    if let Some(line) = found.filter(|_| best.lead == 0) {
        skipped = line.start;
        why_skipped = "lines that begin with #, and the header behind them";
    }
    let skipped_lines = lines(text.get(..skipped).unwrap_or_default());
    let header = header(text, skipped, &best, whole, given);
    let findings = findings(&best, given, (skipped_lines, why_skipped), &header);
    let (dialect, width, header) = (best.dialect, best.width, header.is_there);
    Found { dialect, skipped_lines, skipped, header, width, findings, doubt }
}

/// Whether a line that begins with `#` is no comment but a header, or data where there is none. `behind` it is a record.
///
/// It has as many fields as that record, which is not the header for certain. Whoever says that there is a header, where
/// that record has values, must mean the line.
fn is_record(
    text: &[u8],
    line: Range<usize>,
    behind: usize,
    reading: &Reading,
    whole: bool,
    given: &Given<'_>,
) -> bool {
    let bytes = text.get(line.clone()).unwrap_or_default();
    let unasked = Given { header: None, ..*given };
    let judged = |start| header(text, start, reading, whole, &unasked);
    let next = judged(behind);
    if count_fields(reading.dialect, bytes) != reading.width || (next.is_there && next.is_certain) {
        return false;
    }
    let several = reading.width > 1;
    // A line of words. That it is one field as all lines are says nothing, so no space at all is allowed then.
    let is_remark = if several { bytes.get(1) == Some(&b' ') } else { bytes.contains(&b' ') };
    match given.header {
        Some(false) => !is_remark || several && !judged(line.start).is_there,
        _ if !is_remark => true,
        asked => !next.is_there && (several || asked == Some(true)),
    }
}

/// The lines with `#` that a text begins with, if no later line begins with it and there are others.
fn hash_lines(text: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    while text.get(start) == Some(&b'#') && found.len() < PREAMBLE {
        let Some(length) = memchr::memchr(b'\n', &text[start..]) else { return Vec::new() };
        found.push(start..start + length + 1);
        start += length + 1;
    }
    let rest = text.get(start..).unwrap_or_default();
    let is_blank = rest.iter().all(|byte| matches!(byte, b'\n' | b'\r'));
    if is_blank || rest.starts_with(b"#") || memchr::memmem::find(rest, b"\n#").is_some() {
        return Vec::new();
    }
    found
}

/// Delimiters that are worth trying: those that the text has, the usual first.
fn candidates(text: &[u8], given: &Given<'_>) -> Vec<u8> {
    match given.delimiter {
        Some(delimiter) => vec![delimiter],
        None => b",\t;| ".iter().copied().filter(|&delimiter| memchr::memchr(delimiter, text).is_some()).collect(),
    }
}

/// The delimiter of a text that is one column: one that does not cut its values, if the first record has none of the usual.
fn lone_delimiter(text: &[u8], start: usize, whole: bool, given: &Given<'_>) -> u8 {
    let usual = if given.tabs { b'\t' } else { b',' };
    let reading = Reading::of(text, start, whole, usual, given);
    if reading.records.first().is_some_and(|first| first.fields.len() > 1) {
        return usual;
    }
    let mut others = [usual, b',', b'\t', b';', b'|'].into_iter();
    others
        .find(|&delimiter| {
            let reading = Reading::of(text, start, whole, delimiter, given);
            reading.records.iter().all(|record| record.fields.len() == 1)
        })
        .unwrap_or(usual)
}

fn count_fields(dialect: Dialect, line: &[u8]) -> usize {
    let mut fields = Vec::new();
    let _ = dialect.record(line, 0, true, &mut fields);
    fields.len()
}

fn lines(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

/// A text taken apart with one delimiter.
struct Reading {
    dialect: Dialect,
    fields: Vec<Field>,
    /// Without blank lines.
    records: Vec<Record>,
    /// Fields that begin with the quote and are closed.
    quoted: usize,
    /// Records that are none.
    malformed: usize,
    /// Records before the first with `width` fields, which are left out.
    lead: usize,
    /// The number of fields that most records have.
    width: usize,
    /// Records with `width` fields.
    agreeing: usize,
    typed: usize,
    score: f64,
}

struct Record {
    start: usize,
    fields: Range<usize>,
}

impl Reading {
    /// With the quote and the escape character that fit best.
    fn of(text: &[u8], start: usize, whole: bool, delimiter: u8, given: &Given<'_>) -> Self {
        let with = |quote, escape| {
            let quote = given.quote.unwrap_or(quote).filter(|&quote| quote != delimiter);
            let escape = given.escape.unwrap_or(escape).filter(|&escape| escape != delimiter && Some(escape) != quote);
            let dialect = Dialect { delimiter, quote, escape, comment: given.comment };
            Self::read(text, start, whole, dialect)
        };
        let mut best = with(Some(b'"'), None);
        if best.malformed > 0 && given.escape.is_none() && memchr::memmem::find(text, b"\\\"").is_some() {
            let escaped = with(Some(b'"'), Some(b'\\'));
            if escaped.malformed < best.malformed {
                best = escaped;
            }
        }
        if given.quote.is_none() {
            if best.quoted == 0 && best.malformed == 0 && memchr::memchr(b'\'', text).is_some() {
                let single = with(Some(b'\''), None);
                if single.malformed == 0 && single.quoted >= 2 {
                    best = single;
                }
            } else if best.malformed >= 2 && best.malformed > best.quoted {
                best = with(None, None);
            }
        }
        best.judge(text, given);
        best
    }

    fn read(text: &[u8], start: usize, whole: bool, dialect: Dialect) -> Self {
        let (mut fields, mut records) = (Vec::new(), Vec::new());
        let (mut at, mut malformed) = (start, 0);
        while at < text.len() {
            let before = fields.len();
            match dialect.record(text, at, whole, &mut fields) {
                Ok(Step::Record(next)) => {
                    if is_blank(fields.get(before..).unwrap_or_default()) {
                        fields.truncate(before);
                    } else {
                        records.push(Record { start: at, fields: before..fields.len() });
                    }
                    at = next;
                }
                Ok(Step::Comment(next)) => at = next,
                Ok(Step::Incomplete) => {
                    fields.truncate(before);
                    break;
                }
                Err((bad, _)) => {
                    fields.truncate(before);
                    malformed += 1;
                    let from = bad.max(at);
                    let rest = text.get(from..).unwrap_or_default();
                    at = memchr::memchr(b'\n', rest).map_or(text.len(), |line| from + line + 1);
                }
            }
        }
        let quoted = fields.iter().filter(|field| field.is_quoted()).count();
        let (lead, width, agreeing, typed, score) = (0, 1, 0, 0, 0.0);
        Self { dialect, fields, records, quoted, malformed, lead, width, agreeing, typed, score }
    }

    fn judge(&mut self, text: &[u8], given: &Given<'_>) {
        let mut counts: Vec<(usize, usize)> = Vec::new();
        for record in &self.records {
            let width = record.fields.len();
            match counts.iter_mut().find(|(known, _)| *known == width) {
                Some((_, count)) => *count += 1,
                None => counts.push((width, 1)),
            }
        }
        let most = counts.into_iter().max_by_key(|&(width, count)| (count, width));
        let Some((width, agreeing)) = most else { return };
        (self.width, self.agreeing) = (width, agreeing);
        let short = |record: &&Record| record.fields.len() * 2 <= width && record.fields.len() < width;
        let lead = self.records.iter().take_while(short).count();
        // Of lines, not of records that go over several.
        let end = self.records.get(lead).map_or(0, |record| record.start);
        // Also where it is given what is left out: that may not change what is found beside it.
        if self.malformed == 0
            && lead <= PREAMBLE
            && agreeing >= 2
            && agreeing + lead == self.records.len()
            && lines(text.get(..end).unwrap_or_default()) <= 2 * PREAMBLE
        {
            self.lead = lead;
        }
        let columns = self.columns(text, self.records.iter().skip(self.lead + 1), given.nulls);
        self.typed = columns.iter().filter(|column| is_typed(column)).count();
        let decimal_commas = self.decimal_commas(text);
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let usual = match self.dialect.delimiter {
            b'\t' if given.tabs => 0.06,
            b',' => 0.02,
            b'\t' => 0.015,
            _ => 0.01,
        };
        self.score = share(agreeing, self.records.len())
            + 0.1 * share(self.typed + decimal_commas, width)
            + 0.005 * share(width.min(10), 1)
            + usual
            - if self.lead > 0 { 0.25 } else { 0.0 }
            - share(self.malformed, self.malformed + self.records.len());
    }

    /// Whether it is a reading of more than one column that can be believed.
    fn may_be(&self, text: &[u8]) -> bool {
        let behind = self.records.len() - self.lead;
        if self.width < 2 || self.agreeing * 2 < behind {
            return false;
        }
        if self.dialect.delimiter != b' ' {
            return true;
        }
        let mut whole_lines = Inference::new();
        for record in self.records.iter().skip(1).take(TYPED) {
            let fields = self.fields.get(record.fields.clone()).unwrap_or_default();
            let (first, last) = (fields.first(), fields.last());
            if let (Some(first), Some(last)) = (first, last) {
                whole_lines.add(text.get(first.start()..last.end()).unwrap_or_default());
            }
        }
        self.agreeing == self.records.len() && self.agreeing >= 2 && self.typed > 0 && !is_typed(&whole_lines)
    }

    /// What is known about each column from `records`.
    fn columns<'a>(&self, text: &[u8], records: impl Iterator<Item = &'a Record>, nulls: &[String]) -> Vec<Inference> {
        let mut columns = vec![Inference::new(); self.width];
        for record in records.filter(|record| record.fields.len() == self.width).take(TYPED) {
            let fields = self.fields.get(record.fields.clone()).unwrap_or_default();
            for (column, field) in columns.iter_mut().zip(fields) {
                let value = text.get(field.range()).unwrap_or_default();
                if !value.is_empty() && !nulls.iter().any(|null| null.as_bytes() == value) {
                    column.add(value);
                }
            }
        }
        columns
    }

    /// Columns of numbers such as `1,5`, which speak for another delimiter than the comma.
    fn decimal_commas(&self, text: &[u8]) -> usize {
        let is_one = |value: &[u8]| {
            let digits = value.strip_prefix(b"-").unwrap_or(value);
            let mut parts = digits.split(|&byte| byte == b',');
            let number =
                |part: Option<&[u8]>| part.is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
            number(parts.next()) && number(parts.next()) && parts.next().is_none()
        };
        let all = |column: usize| {
            let mut values = self.records.iter().skip(self.lead + 1).take(TYPED).filter_map(|record| {
                let field = self.fields.get(record.fields.clone())?.get(column)?;
                text.get(field.range()).filter(|value| !value.is_empty())
            });
            values.next().is_some_and(is_one) && values.all(is_one)
        };
        if self.dialect.delimiter == b',' { 0 } else { (0..self.width.min(1000)).filter(|&column| all(column)).count() }
    }

    fn agreement(&self) -> String {
        let number = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let (fields, behind) = (number(self.width, "field"), self.records.len() - self.lead);
        if self.agreeing == behind {
            format!("{fields} in each of {}", number(behind, "record"))
        } else {
            format!("{fields} in {} of {}", self.agreeing, number(behind, "record"))
        }
    }
}

fn is_typed(column: &Inference) -> bool {
    column.type_without_nulls() != DataType::Utf8
}

/// Whether a record holds the names of the columns, and why.
struct Header {
    is_there: bool,
    /// Its fields say so.
    is_certain: bool,
    why: &'static str,
}

/// Whether the record at `start`, behind blank lines, is a header.
fn header(text: &[u8], start: usize, reading: &Reading, whole: bool, given: &Given<'_>) -> Header {
    let certain = |is_there, why| Header { is_there, is_certain: true, why };
    let likely = |why| Header { is_there: true, is_certain: false, why };
    if let Some(is_there) = given.header {
        return certain(is_there, "given");
    }
    let mut fields = Vec::new();
    let dialect = reading.dialect;
    let mut at = start;
    while let Ok(Step::Record(next) | Step::Comment(next)) = dialect.record(text, at, whole, &mut fields) {
        if (fields.is_empty() || is_blank(&fields)) && next > at && next < text.len() {
            fields.clear();
            at = next;
            continue;
        }
        break;
    }
    let first: Vec<&[u8]> = fields.iter().map(|field| text.get(field.range()).unwrap_or_default()).collect();
    if let Some(names) = given.names
        && names.len() == first.len()
        && names.iter().zip(&first).all(|(name, field)| name.as_bytes() == *field)
    {
        return certain(true, "the same names as in the file before");
    }
    let alone = |value: &[u8]| {
        let mut column = Inference::new();
        column.add(value);
        is_typed(&column)
    };
    let body: Vec<&Record> = reading.records.iter().filter(|record| record.start > at).collect();
    if body.is_empty() {
        let all = !first.is_empty() && first.iter().all(|value| alone(value));
        return match all {
            true => certain(false, "every field of the only record is a value of a type"),
            false => likely("there is only one record"),
        };
    }
    let columns = reading.columns(text, body.into_iter(), given.nulls);
    let typed: Vec<usize> = (0..columns.len()).filter(|&column| columns.get(column).is_some_and(is_typed)).collect();
    if typed.is_empty() {
        return likely("usual, for no column has a type");
    }
    let is_value = |column: &usize| {
        let value = first.get(*column).copied().unwrap_or_default();
        let null = value.is_empty() || given.nulls.iter().any(|null| null.as_bytes() == value);
        let fits = columns.get(*column).is_some_and(|column| {
            let mut with = column.clone();
            with.add(value);
            is_typed(&with)
        });
        (null, fits)
    };
    let found: Vec<(bool, bool)> = typed.iter().map(is_value).collect();
    if found.iter().any(|&(null, fits)| !null && !fits) {
        return certain(true, "the first record has text above a column with a type");
    }
    if found.iter().any(|&(null, fits)| !null && fits) {
        return certain(false, "the first record has values of the types below it");
    }
    likely("usual, for the first record is empty above all columns with a type")
}

fn findings(reading: &Reading, given: &Given<'_>, skipped: (usize, &str), header: &Header) -> Vec<Finding> {
    let Dialect { delimiter, quote, escape, comment } = reading.dialect;
    let finding = |item, value: String, found: bool, usual: bool, why: String| Finding {
        item,
        value,
        why: if found { why } else { "given".to_owned() },
        notable: found && !usual,
    };
    let why = if reading.width > 1 { reading.agreement() } else { "one column".to_owned() };
    let usual_delimiter = delimiter == if given.tabs { b'\t' } else { b',' } || reading.width == 1;
    let why_quote = match (quote, reading.quoted) {
        (None, _) if reading.malformed == 0 => "records agree better without".to_owned(),
        (None, _) => format!("{} records are malformed with quotes", reading.malformed),
        (Some(_), 0) => "usual, for no field is quoted".to_owned(),
        (Some(_), 1) => "1 field is quoted".to_owned(),
        (Some(_), quoted) => format!("{quoted} fields are quoted"),
    };
    let why_escape = match escape {
        None => "quotes within quotes are doubled, if there are any",
        Some(_) => "quotes within quotes have it before them",
    };
    let why_skipped = if skipped.0 == 0 { "the first line is like the others" } else { skipped.1 };
    let mut all = vec![
        finding("delimiter", shown(Some(delimiter)), given.delimiter.is_none(), usual_delimiter, why),
        finding("quote", shown(quote), given.quote.is_none(), quote == Some(b'"'), why_quote),
        finding("escape", shown(escape), given.escape.is_none(), escape.is_none(), why_escape.to_owned()),
    ];
    if comment.is_some() {
        all.push(finding("comment", shown(comment), false, true, String::new()));
    }
    let lines = skipped.0.to_string();
    all.push(finding("skip_lines", lines, !given.skipped, skipped.0 == 0, why_skipped.to_owned()));
    let (is_there, why) = (header.is_there, header.why.to_owned());
    all.push(finding("header", is_there.to_string(), given.header.is_none(), is_there, why));
    all
}

/// A byte of a dialect as the option for it takes it.
pub(crate) fn shown(byte: Option<u8>) -> String {
    match byte {
        None => "none".to_owned(),
        Some(b'\t') => "tab".to_owned(),
        Some(b' ') => "space".to_owned(),
        Some(byte) => char::from(byte).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Found {
        detect(text.as_bytes(), true, &Given::default())
    }

    /// `delimiter quote escape skipped-lines header`.
    fn in_short(found: &Found) -> String {
        let Dialect { delimiter, quote, escape, .. } = found.dialect;
        let [delimiter, quote, escape] = [Some(delimiter), quote, escape].map(shown);
        format!("{delimiter} {quote} {escape} {} {}", found.skipped_lines, found.header)
    }

    #[test]
    fn dialects_are_found() {
        for (text, expected) in [
            ("a,b\n1,x\n", ", \" none 0 true"),
            ("a;b\n1,5;2,5\n2,5;3\n", "; \" none 0 true"),
            ("1,5;2,5\n3,5;4,5\n", "; \" none 0 true"),
            ("a\tb c\n1\tx y\n2\tz\n", "tab \" none 0 true"),
            ("name|tags\nx|a,b\ny|c,d\n", "| \" none 0 true"),
            ("host status size\na 200 17\nb 404 0\n", "space \" none 0 true"),
            ("when\n2013-01-01 10:00\n2013-01-01 11:00\n", ", \" none 0 true"),
            ("2013-01-01 10:00\n2013-01-01 11:00\n", ", \" none 0 false"),
            ("John Smith\nJane Doe\n", ", \" none 0 true"),
            ("note\nhello, world\nbye\nwhy\n", "tab \" none 0 true"),
            ("a,'b'\n1,'x,y'\n2,'z'\n", ", ' none 0 true"),
            ("a,b\n1,it's\n2,'tis\n", ", \" none 0 true"),
            ("a,b\n1,\"x\\\"y\"\n2,\"z\\\",\"\n", ", \" \\ 0 true"),
            ("a,b\nx,\"y\"z\n", ", \" none 0 true"),
            ("a,b\n\"x\"1,\"y\"z\n\"p\"q,w\n\"5\" pipe,v\n", ", none none 0 true"),
            ("Report of May\nfor all\n\na,b,c\n1,2,3\n4,5,6\n", ", \" none 3 true"),
            ("# one\n# two, three\na,b\n1,2\n", ", \" none 2 true"),
            ("##meta\n#id\tpos\n1\t2\n", "tab \" none 1 true"),
            ("a,b\n#1,2\n3,4\n", ", \" none 0 true"),
            ("1,2\n3,4\n", ", \" none 0 false"),
            ("1,2\n", ", \" none 0 false"),
            ("id,2019,2020\n1,1,2\n", ", \" none 0 true"),
            ("2019,2020\nx,y\n", ", \" none 0 true"),
            ("a,b\n3\n", ", \" none 0 true"),
            ("a,b\n1,2\n3,4,5\n", ", \" none 0 true"),
            ("a\n1,2\n", ", \" none 0 true"),
            ("a;b\r\n1;2\r\n", "; \" none 0 true"),
            ("", ", \" none 0 true"),
        ] {
            assert_eq!(in_short(&found(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_given_is_kept_and_hints_win_ties() {
        let text = b"a;b\n1;2\n";
        let given = Given { delimiter: Some(b','), header: Some(false), ..Given::default() };
        assert_eq!(in_short(&detect(text, true, &given)), ", \" none 0 false");
        let given = Given { tabs: true, ..Given::default() };
        assert_eq!(in_short(&detect(b"a\n1\n", true, &given)), "tab \" none 0 true");
        assert_eq!(in_short(&detect(b"a,x\tb,y\nc,z\td,v\n", true, &Given::default())), ", \" none 0 true");
        assert_eq!(in_short(&detect(b"a,x\tb\nc,z\td\n", true, &given)), "tab \" none 0 true");
        let names = ["1".to_owned(), "2".to_owned()];
        let given = Given { names: Some(&names), ..Given::default() };
        assert!(detect(b"1,2\n3,4\n", true, &given).header);
    }

    /// What is in a line with `#` before records is never lost if it may be more than a comment. Of each text the lines that
    /// are left out and whether there is a header: by itself, with header=true, and with header=false.
    #[test]
    fn a_line_with_a_hash_is_the_header_or_data_or_left_out() {
        for (text, expected) in [
            // Values behind it: it is the only header that there may be.
            ("#id,pos\n1,2\n3,4\n", ["0 true", "0 true", "0 false"]),
            ("#id\n1\n2\n", ["0 true", "0 true", "0 false"]),
            ("#id,pos\n1,2\n", ["0 true", "0 true", "0 false"]),
            ("# made, by me\n1,2\n3,4\n", ["0 true", "0 true", "1 false"]),
            ("# made by me\n1\n2\n", ["1 false", "0 true", "1 false"]),
            ("# made by me\n1,2\n3,4\n", ["1 false", "1 true", "1 false"]),
            // A header behind it.
            ("#x,y\nid,pos\n1,2\n", ["1 true", "1 true", "1 false"]),
            ("# made, by me\nid,pos\n1,2\n", ["1 true", "1 true", "1 false"]),
            ("#x\nid\n1\n2\n", ["1 true", "1 true", "1 false"]),
            ("# made by me\nid\n1\n", ["1 true", "1 true", "1 false"]),
            // What may be either behind it.
            ("#name,town\nann,rome\nbob,bonn\n", ["0 true", "0 true", "0 false"]),
            ("# made, by me\nname,town\nbob,bonn\n", ["1 true", "1 true", "1 false"]),
            ("#name\nann\nbob\n", ["0 true", "0 true", "0 false"]),
            ("#made by me\nname\nbob\n", ["1 true", "1 true", "1 false"]),
            ("#name,town\nann,rome\n", ["0 true", "0 true", "0 false"]),
            // Data, by what is below it.
            ("# ann,1\nbob,2\neve,3\n", ["0 false", "0 true", "0 false"]),
            // Of several the last, and nothing but blank lines behind it.
            ("# one\n#id,pos\n1,2\n3,4\n", ["1 true", "1 true", "1 false"]),
            ("#id,pos\n\n", ["0 true", "0 true", "0 false"]),
        ] {
            let found = [None, Some(true), Some(false)].map(|header| {
                let found = detect(text.as_bytes(), true, &Given { header, ..Given::default() });
                format!("{} {}", found.skipped_lines, found.header)
            });
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn reasons_are_told() {
        let found = found("a;b\n1;2\n3;4\n");
        let delimiter = &found.findings[0];
        assert_eq!((delimiter.value.as_str(), delimiter.why.as_str()), (";", "2 fields in each of 3 records"));
        assert!(delimiter.notable && !found.findings[1].notable);
        let found = self::found("a;b,c\nd;e,f\n");
        assert!(found.doubt.unwrap().contains("may be ; as well as ,"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(prop::sample::select(b"a1,;\t| \"'\\\n\r#-\xff".to_vec()), 0..200),
            whole in any::<bool>(), delimiter in prop::option::of(any::<u8>()), skipped in any::<bool>(),
        ) {
            let found = detect(&bytes, whole, &Given { delimiter, skipped, ..Given::default() });
            prop_assert!(found.skipped <= bytes.len());
        }

        /// A well-formed file of typed columns is read as what it is.
        #[test]
        fn a_written_file_is_found(
            delimiter in prop::sample::select(b",;\t|".to_vec()),
            rows in prop::collection::vec((0u32..9999, "[a-z]{1,6}", "[a-z,;|]{0,6}"), 3..30),
        ) {
            let d = char::from(delimiter);
            let mut text = format!("id{d}name{d}note\n");
            for (id, name, note) in rows {
                text.push_str(&format!("{id}{d}{name}{d}\"{note}\"\n"));
            }
            let found = detect(text.as_bytes(), true, &Given::default());
            prop_assert_eq!((found.dialect, found.skipped, found.header), (Dialect::new(delimiter, Some(b'"')), 0, true));
        }
    }
}
