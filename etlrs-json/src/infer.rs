//! Types from a sample.
//!
//! A column gets the narrowest type that has every value of the sample exactly:
//!
//! | values | type |
//! |---|---|
//! | `true`, `false` | boolean |
//! | whole numbers | int64, uint64, or decimal(38,0) if some are larger |
//! | numbers | float64 if that keeps their digits, else a decimal of up to 38 digits, else text with the digits |
//! | strings that all are dates, or timestamps, of ISO 8601 | date, timestamp or timestamptz |
//! | other strings | text |
//! | lists | a list of what all their items have in common |
//! | objects | a struct of the keys of all |
//! | strings, numbers and truth values together | text: strings, and the others as they are written |
//! | anything else together | text that is JSON |
//! | nothing but null | text |
//!
//! The types are held on to: a later value that is none of its column's type is an error.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, TimeUnit};
use etlrs_core::{as_json_text, is_json_text};
use etlrs_files::text::value;

use crate::decode::{Reading, TextOf, TypeBy};
use crate::options::JsonOptions;
use crate::syntax::{self, Fault};

/// A set of types, a bit each, in order of preference.
type Kinds = u16;

const BOOLEAN: Kinds = 1;
const INTEGER: Kinds = 1 << 1;
const UNSIGNED: Kinds = 1 << 2;
/// Only where it is asked for, before floats.
const FLOAT: Kinds = 1 << 3;
const DECIMAL: Kinds = 1 << 4;
const DATE: Kinds = 1 << 5;
const TIMESTAMP: Kinds = 1 << 6;
const TIMESTAMPTZ: Kinds = 1 << 7;
const STRING: Kinds = 1 << 8;
const SCALAR: Kinds = 1 << 9;
const LIST: Kinds = 1 << 10;
const OBJECT: Kinds = 1 << 11;
const JSON: Kinds = 1 << 12;
const ALL: Kinds = (1 << 13) - 1;

/// Digits that a decimal can have.
const DECIMAL_DIGITS: usize = 38;
/// Keys that objects can have to be a struct. Those with more are rather maps, whose keys are data.
const MOST_KEYS: usize = 1000;
/// Columns of a table.
const MOST_COLUMNS: usize = 10_000;
/// Structs and lists within one another. Others hold fewer levels of types than this program: Parquet files with about 60 are
/// not read any more.
const MOST_LEVELS: usize = 32;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Numbers with a point are decimals.
    pub(crate) decimals: bool,
    /// Strings may be dates and timestamps.
    pub(crate) times: bool,
}

impl Rules {
    pub(crate) fn of(options: &JsonOptions) -> Self {
        Self { decimals: options.decimals, times: options.times }
    }
}

/// What is known about the values at one place.
#[derive(Clone, Debug)]
pub(crate) struct Inference {
    rules: Rules,
    /// Types that every value so far has.
    kinds: Kinds,
    values: bool,
    /// Some value is none that is a number.
    others: bool,
    /// Of numbers: digits before the point and behind it at the most.
    whole: usize,
    fraction: usize,
    /// Whether all strings, and numbers, are of these kinds in whatever spelling.
    loose: Loose,
    item: Option<Box<Inference>>,
    pub(crate) members: Members,
}

#[derive(Clone, Copy, Debug)]
struct Loose {
    integers: bool,
    numbers: bool,
    times: bool,
    booleans: bool,
    timestamps: bool,
    instants: bool,
    dates: bool,
}

/// What is known about the values of each key, in the order in which keys came.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    pub(crate) found: Vec<(Box<str>, Inference)>,
    by_name: HashMap<Box<str>, usize>,
    /// So many keys are kept,
    most: usize,
    /// and there were more.
    pub(crate) are_more: bool,
}

impl Members {
    fn new(most: usize) -> Self {
        Self { found: Vec::new(), by_name: HashMap::new(), most, are_more: false }
    }

    /// `None`: it is one too many.
    fn get(&mut self, name: &str, rules: Rules) -> Option<&mut Inference> {
        let index = match self.by_name.get(name) {
            Some(&index) => index,
            None if self.found.len() == self.most => {
                self.are_more = true;
                return None;
            }
            None => {
                self.by_name.insert(name.into(), self.found.len());
                self.found.push((name.into(), Inference::new(rules)));
                self.found.len() - 1
            }
        };
        self.found.get_mut(index).map(|(_, found)| found)
    }

    fn find(&self, name: &str) -> Option<&Inference> {
        self.by_name.get(name).and_then(|&index| self.found.get(index)).map(|(_, found)| found)
    }

    /// Whether there is such a key.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn merge(&mut self, other: &Self, rules: Rules) {
        self.are_more |= other.are_more;
        for (name, inference) in &other.found {
            if let Some(member) = self.get(name, rules) {
                member.merge(inference);
            }
        }
    }
}

impl Inference {
    pub(crate) fn new(rules: Rules) -> Self {
        let loose = Loose {
            integers: true,
            numbers: true,
            times: true,
            booleans: true,
            timestamps: true,
            instants: true,
            dates: true,
        };
        let (whole, fraction, item, members) = (0, 0, None, Members::new(MOST_KEYS));
        Self { rules, kinds: ALL, values: false, others: false, whole, fraction, loose, item, members }
    }

    /// Of the records of a table, which are objects.
    pub(crate) fn of_records(rules: Rules) -> Self {
        Self { members: Members::new(MOST_COLUMNS), ..Self::new(rules) }
    }

    /// Looks at the value that begins at `at`, and gives the place behind it.
    pub(crate) fn add(&mut self, bytes: &[u8], at: usize, depth: usize) -> Result<usize, Fault> {
        let (kinds, end) = match syntax::byte(bytes, at)? {
            b'n' => return syntax::word(bytes, at, "null"),
            b'"' => {
                let (text, end) = syntax::string(bytes, at)?;
                let mut out = Vec::new();
                text.append(&mut out);
                (self.string(&out), end)
            }
            b'-' | b'0'..=b'9' => {
                let end = syntax::number(bytes, at)?;
                (self.number(&bytes[at..end]), end)
            }
            b't' => (self.boolean(), syntax::word(bytes, at, "true")?),
            b'f' => (self.boolean(), syntax::word(bytes, at, "false")?),
            b'{' | b'[' if self.kinds & (LIST | OBJECT) == 0 || depth >= MOST_LEVELS => {
                // It is text, so nobody asks what is in it.
                (JSON, syntax::value(bytes, at, depth)?)
            }
            b'[' => (LIST | JSON, self.list(bytes, at, depth)?),
            b'{' => (OBJECT | JSON, self.object(bytes, at, depth)?),
            _ => return Err(Fault::Expected(at, "a value")),
        };
        if kinds & (SCALAR | STRING) == 0 {
            self.loose = Loose {
                integers: false,
                numbers: false,
                times: false,
                booleans: false,
                timestamps: false,
                instants: false,
                dates: false,
            };
        }
        self.values = true;
        self.others |= !matches!(bytes.get(at), Some(b'-' | b'0'..=b'9'));
        self.kinds &= kinds;
        Ok(end)
    }

    fn object(&mut self, bytes: &[u8], at: usize, depth: usize) -> Result<usize, Fault> {
        let mut at = syntax::space(bytes, at + 1);
        if syntax::byte(bytes, at)? == b'}' {
            return Ok(at + 1);
        }
        loop {
            if syntax::byte(bytes, at)? != b'"' {
                return Err(Fault::Expected(at, "a key in quotes"));
            }
            let (text, end) = syntax::string(bytes, at)?;
            let mut key = Vec::new();
            text.append(&mut key);
            at = syntax::space(bytes, syntax::token(bytes, end, b':', "a colon")?);
            let rules = self.rules;
            at = match self.members.get(&String::from_utf8_lossy(&key), rules) {
                Some(member) => member.add(bytes, at, depth + 1)?,
                None => syntax::value(bytes, at, depth + 1)?,
            };
            at = syntax::space(bytes, at);
            match syntax::byte(bytes, at)? {
                b',' => at = syntax::space(bytes, at + 1),
                b'}' => return Ok(at + 1),
                _ => return Err(Fault::Expected(at, "a comma or }")),
            }
        }
    }

    fn list(&mut self, bytes: &[u8], at: usize, depth: usize) -> Result<usize, Fault> {
        let rules = self.rules;
        let item = self.item.get_or_insert_with(|| Box::new(Self::new(rules)));
        let mut at = syntax::space(bytes, at + 1);
        if syntax::byte(bytes, at)? == b']' {
            return Ok(at + 1);
        }
        loop {
            at = syntax::space(bytes, item.add(bytes, at, depth + 1)?);
            match syntax::byte(bytes, at)? {
                b',' => at = syntax::space(bytes, at + 1),
                b']' => return Ok(at + 1),
                _ => return Err(Fault::Expected(at, "a comma or ]")),
            }
        }
    }

    fn boolean(&mut self) -> Kinds {
        self.loose = Loose { booleans: self.loose.booleans, ..NONE };
        BOOLEAN | SCALAR | JSON
    }

    fn string(&mut self, text: &[u8]) -> Kinds {
        let timestamp = value::timestamp(text);
        let (date, clock) = (value::date(text), value::clock(text));
        self.loose.integers &= value::integer(text, false).is_some();
        self.loose.numbers &= value::decimal_digits(text).is_some();
        self.loose.times &= value::time(text).is_some();
        self.loose.booleans &= value::boolean_word(text).is_some();
        self.loose.timestamps &= clock.is_some();
        self.loose.instants &= matches!(timestamp, Some((_, true)));
        self.loose.dates &= value::day(text).is_some();
        let times = match timestamp {
            _ if !self.rules.times => 0,
            Some((_, true)) => TIMESTAMPTZ,
            Some((_, false)) => TIMESTAMP,
            None if date.is_some() => DATE,
            None => 0,
        };
        times | STRING | SCALAR | JSON
    }

    fn number(&mut self, text: &[u8]) -> Kinds {
        let numbers = SCALAR | JSON;
        self.loose = Loose { integers: self.loose.integers, numbers: self.loose.numbers, ..NONE };
        let exact = value::float(text, true).is_some();
        let float = if exact { FLOAT } else { 0 };
        let Some((whole, fraction)) = value::decimal_digits(text) else {
            // With an exponent.
            self.loose = NONE;
            return numbers | float;
        };
        (self.whole, self.fraction) = (self.whole.max(whole), self.fraction.max(fraction));
        let is_whole = fraction == 0;
        self.loose.integers &= is_whole;
        let integer = if is_whole && value::integer(text, true).is_some() { INTEGER } else { 0 };
        let parsed = std::str::from_utf8(text).ok().filter(|_| is_whole).and_then(|text| text.parse::<u64>().ok());
        let unsigned = if parsed.is_some() { UNSIGNED } else { 0 };
        if is_negative_zero(text) {
            return numbers | FLOAT;
        }
        numbers | float | integer | unsigned | DECIMAL
    }

    /// What is known of both together.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.kinds &= other.kinds;
        self.values |= other.values;
        self.others |= other.others;
        self.whole = self.whole.max(other.whole);
        self.fraction = self.fraction.max(other.fraction);
        let Loose { integers, numbers, times, booleans, timestamps, instants, dates } = &mut self.loose;
        *integers &= other.loose.integers;
        *numbers &= other.loose.numbers;
        *times &= other.loose.times;
        *booleans &= other.loose.booleans;
        *timestamps &= other.loose.timestamps;
        *instants &= other.loose.instants;
        *dates &= other.loose.dates;
        match (&mut self.item, &other.item) {
            (Some(item), Some(other)) => item.merge(other),
            (None, Some(other)) => self.item = Some(other.clone()),
            _ => {}
        }
        let rules = self.rules;
        self.members.merge(&other.members, rules);
    }

    /// Whether there was a value that is not null.
    pub(crate) fn has_values(&self) -> bool {
        self.values
    }

    /// The type, and what text is made of.
    pub(crate) fn data_type(&self) -> (DataType, TextOf) {
        let micros = TimeUnit::Microsecond;
        let data_type = match self.kind() {
            _ if !self.values => DataType::Utf8,
            BOOLEAN => DataType::Boolean,
            INTEGER => DataType::Int64,
            UNSIGNED => DataType::UInt64,
            DECIMAL if self.fraction == 0 => DataType::Decimal128(38, 0),
            DECIMAL => {
                // With room for later values: 18 digits are what a target can hold in 64 bits.
                let precision = if self.whole + self.fraction + 2 <= 18 { 18 } else { 38 };
                DataType::Decimal128(precision, i8::try_from(self.fraction).unwrap_or(0))
            }
            FLOAT => DataType::Float64,
            DATE => DataType::Date32,
            TIMESTAMP => DataType::Timestamp(micros, None),
            TIMESTAMPTZ => DataType::Timestamp(micros, Some(Arc::from("UTC"))),
            STRING => DataType::Utf8,
            SCALAR => return (DataType::Utf8, TextOf::Scalars),
            LIST => {
                let item = self.item.as_ref().map_or_else(|| text("item"), |item| item.field("item"));
                DataType::List(item)
            }
            OBJECT => DataType::Struct(self.members.found.iter().map(|(name, member)| member.field(name)).collect()),
            _ => return (DataType::Utf8, TextOf::Json),
        };
        (data_type, TextOf::Strings)
    }

    /// The preferred one of the types that all values have.
    fn kind(&self) -> Kinds {
        let mut kinds = self.kinds;
        if self.whole + self.fraction > DECIMAL_DIGITS {
            kinds &= !DECIMAL;
        }
        // Objects that have no keys, or too many.
        if self.members.found.is_empty() || self.members.are_more {
            kinds &= !OBJECT;
        }
        let decimal = kinds & DECIMAL != 0 && kinds & (INTEGER | UNSIGNED) == 0;
        if self.rules.decimals && decimal {
            return DECIMAL;
        }
        kinds & kinds.wrapping_neg()
    }

    /// The column that the values are.
    pub(crate) fn field(&self, name: &str) -> FieldRef {
        let (data_type, text_of) = self.data_type();
        let field = Field::new(name, data_type, true);
        Arc::new(if text_of == TextOf::Json { as_json_text(field) } else { field })
    }

    /// Why the column is text, if that is for values of several kinds.
    pub(crate) fn mixture(&self) -> Option<&'static str> {
        match self.data_type().1 {
            TextOf::Scalars if !self.others => {
                Some("text, for its numbers have more digits than a float64 or a decimal keeps")
            }
            TextOf::Scalars => Some("text, for its values are of several kinds"),
            TextOf::Json if self.members.are_more => Some("JSON, for its objects have very many keys"),
            TextOf::Json if self.kinds & OBJECT != 0 => Some("JSON, for its objects have no keys"),
            TextOf::Json => Some("JSON, for its values are of several kinds"),
            TextOf::Strings | TextOf::Anything => None,
        }
    }

    /// What text is made of if the column is text whatever was found.
    pub(crate) fn text(&self) -> TextOf {
        match (self.kinds & SCALAR != 0, self.kinds & STRING != 0) {
            _ if !self.values => TextOf::Scalars,
            (_, true) => TextOf::Strings,
            (true, false) => TextOf::Scalars,
            (false, false) => TextOf::Json,
        }
    }

    /// How the values are read as `field`, which has this type by `by`.
    pub(crate) fn reading(this: Option<&Self>, field: &Field, by: TypeBy, ignore_unknown: bool) -> Reading {
        let text = match this {
            _ if is_json_text(field) => TextOf::Json,
            Some(found) if by == TypeBy::Sample => found.data_type().1,
            Some(found) if by == TypeBy::Target => found.text(),
            // Whoever asks for text takes what there is.
            _ => TextOf::Anything,
        };
        let parts = match field.data_type() {
            DataType::Struct(fields) => {
                let member = |field: &FieldRef| {
                    let found = this.and_then(|found| found.members.find(field.name()));
                    Self::reading(found, field, by, ignore_unknown)
                };
                fields.iter().map(member).collect()
            }
            DataType::List(item) => {
                let found = this.and_then(|found| found.item.as_deref());
                vec![Self::reading(found, item, by, ignore_unknown)]
            }
            _ => Vec::new(),
        };
        Reading { by, text, ignore_unknown, parts }
    }

    /// Whether values are rather read as `wanted`, the column of the target, than as the guess. So it is where the sample speaks
    /// for it, and where a later value that is none would be none of the guess, or could not be written.
    pub(crate) fn is_rather(&self, wanted: &Field) -> bool {
        use DataType::*;
        let data_type = wanted.data_type();
        let is_decimal = matches!(data_type, Decimal128(_, 0..));
        let is_time = matches!(data_type, Time64(TimeUnit::Microsecond));
        if is_json_text(wanted) {
            return true;
        }
        if !self.values {
            let micros = matches!(data_type, Timestamp(TimeUnit::Microsecond, _));
            let other = matches!(data_type, Boolean | Date32 | Float32 | Float64 | Utf8);
            return data_type.is_integer() || is_decimal || is_time || micros || other;
        }
        let Loose { integers, numbers, times, booleans, timestamps, instants, dates } = self.loose;
        let loose = match data_type {
            Boolean => booleans,
            Date32 => dates,
            Timestamp(TimeUnit::Microsecond, None) => timestamps,
            Timestamp(TimeUnit::Microsecond, Some(_)) => instants,
            _ => data_type.is_integer() && integers || is_decimal && numbers || is_time && times,
        };
        match self.data_type().0 {
            guess if guess == *data_type => guess.is_integer(),
            // Of a struct JSON, which a column of text holds as well.
            _ if *data_type == Utf8 => true,
            Utf8 => loose,
            Int64 | UInt64 => data_type.is_integer() || is_decimal || *data_type == Float64,
            Float64 => is_decimal || matches!(data_type, Float32),
            Decimal128(..) => is_decimal,
            Date32 | Timestamp(..) => loose,
            _ => false,
        }
    }
}

const NONE: Loose = Loose {
    integers: false,
    numbers: false,
    times: false,
    booleans: false,
    timestamps: false,
    instants: false,
    dates: false,
};

fn text(name: &str) -> FieldRef {
    Arc::new(Field::new(name, DataType::Utf8, true))
}

/// Whether a number is a zero with a sign, which is a part of it only as a float.
pub(crate) fn is_negative_zero(number: &[u8]) -> bool {
    let Some(digits) = number.strip_prefix(b"-") else { return false };
    let points = digits.iter().filter(|&&byte| byte == b'.').count();
    digits.starts_with(b"0") && points < 2 && digits.iter().all(|byte| matches!(byte, b'0' | b'.'))
}
