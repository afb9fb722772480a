//! Types from a sample.
//!
//! A column gets the narrowest type of which every value of the sample is a plain spelling, so that nothing about a value
//! is lost: `007`, `+1`, numbers that do not fit into 64 bits and dates in other orders stay text. A column without
//! values is text. The types are held on to: a later value that is none of its column's type is an error.
//!
//! A column that would have a type but for how some values are spelled is told of ([`Inference::kept_text_by`]).

use std::sync::Arc;

use arrow_schema::{DataType, TimeUnit};

use crate::format::{Format, Spellings};
use etlrs_files::text::value;

/// Spellings of null that are common enough to hint at.
const COMMON_NULLS: [&str; 9] = ["NA", "N/A", "NULL", "null", "\\N", "NaN", "nan", "None", "-"];

/// A set of types, a bit each, in order of preference.
type Kinds = u32;

const BOOLEAN: Kinds = 1;
const DATE: Kinds = 1 << 1;
const TIMESTAMP: Kinds = 1 << 2;
const TIMESTAMPTZ: Kinds = 1 << 3;
/// The first of the formats of dates, then that of timestamps, as many of each as there may be. Before numbers, for who
/// gives `%Y%m%d` means dates by what may be numbers.
const DATE_FORMATS: Kinds = 1 << 8;
const TIMESTAMP_FORMATS: Kinds = 1 << 16;
const INTEGER: Kinds = 1 << 24;
/// Only where it is asked for.
const DECIMAL: Kinds = 1 << 25;
const FLOAT: Kinds = 1 << 26;
const ALL: Kinds = (1 << 27) - 1;

/// Digits that a decimal can have.
const DECIMAL_DIGITS: usize = 38;

/// What is known about one column.
#[derive(Clone, Debug)]
pub(crate) struct Inference {
    decimals: bool,
    spellings: Arc<Spellings>,
    /// Types that every value so far has.
    kinds: Kinds,
    /// Types that any value so far has.
    seen: Kinds,
    /// The same, with values that have an obstacle taken as they would be without it.
    mended: Kinds,
    /// The one obstacle that values have; `None`: there is none, or there are several.
    obstacle: Option<Obstacle>,
    obstacles: bool,
    values: bool,
    /// Whether all values that are no common spellings of null are of these kinds, in whatever spelling.
    loose: Loose,
    /// Of decimal numbers: digits before the point and behind it at the most.
    whole: usize,
    fraction: usize,
}

/// Kinds of values that are no types of a guess.
#[derive(Clone, Copy, Debug)]
struct Loose {
    /// `007` too.
    integers: bool,
    /// Of any number of digits.
    decimals: bool,
    times: bool,
    /// Words and digits for them too.
    booleans: bool,
    /// Or dates, which are their midnights.
    timestamps: bool,
    /// Or timestamps of midnight.
    dates: bool,
}

/// Why a value is text that is nearly of another type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// A common spelling of null.
    Null(&'static str),
    Spaces,
    /// `1,5`.
    DecimalComma,
    /// `1,234.5`.
    Thousands,
    /// More digits than a float keeps.
    LongDecimal,
}

impl Obstacle {
    /// What keeps columns text, and what can be done about it.
    pub(crate) fn words(self) -> (String, String) {
        let (what, hint) = match self {
            Self::Null(null) => {
                return (format!("{null:?}"), format!("set the option null_values={null} to give them their types"));
            }
            Self::Spaces => ("spaces around values", "trim and cast them, or take the spaces out of the file"),
            Self::DecimalComma => ("commas in place of decimal points", "replace them and cast the columns"),
            Self::Thousands => ("separators between thousands", "take them out and cast the columns"),
            Self::LongDecimal => {
                ("numbers with more digits than a float64 keeps", "set the option decimals=true to keep them all")
            }
        };
        (what.to_owned(), hint.to_owned())
    }
}

impl Inference {
    pub(crate) fn new() -> Self {
        Self::with(false, Arc::default())
    }

    /// With decimals for numbers with a point, and other spellings of dates.
    pub(crate) fn with(decimals: bool, spellings: Arc<Spellings>) -> Self {
        let kinds = if decimals { ALL } else { ALL & !DECIMAL };
        let (obstacle, obstacles, values) = (None, false, false);
        let (mended, seen, whole, fraction) = (kinds, 0, 0, 0);
        let loose =
            Loose { integers: true, decimals: true, times: true, booleans: true, timestamps: true, dates: true };
        Self { decimals, spellings, kinds, seen, mended, obstacle, obstacles, values, loose, whole, fraction }
    }

    /// Looks at a field that is not null.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let kinds = self.kinds_of(bytes);
        self.kinds &= kinds;
        self.seen |= kinds;
        if let Some(null) = common_null(bytes) {
            self.stumble(Obstacle::Null(null));
            return;
        }
        self.values = true;
        let integer = value::integer(bytes, false).is_some();
        self.loose.integers &= integer;
        self.loose.decimals &= integer || value::decimal_digits(bytes).is_some();
        self.loose.times &= value::time(bytes).is_some();
        self.loose.booleans &= value::boolean_word(bytes).is_some();
        self.loose.timestamps &= value::clock(bytes).is_some();
        self.loose.dates &= value::day(bytes).is_some();
        let mended = if kinds != 0 { None } else { self.mend(bytes) };
        self.mended &= match mended {
            Some((obstacle, mended)) => {
                self.stumble(obstacle);
                mended
            }
            None => kinds,
        };
    }

    fn stumble(&mut self, obstacle: Obstacle) {
        let same = !self.obstacles || self.obstacle == Some(obstacle);
        let nulls = matches!((self.obstacle, obstacle), (Some(Obstacle::Null(_)), Obstacle::Null(_)));
        self.obstacle = if same || nulls { Some(obstacle) } else { None };
        self.obstacles = true;
    }

    fn kinds_of(&mut self, bytes: &[u8]) -> Kinds {
        let mut kinds = kinds(bytes);
        if self.decimals
            && let Some((whole, fraction)) = value::decimal_digits(bytes)
        {
            kinds |= DECIMAL;
            self.whole = self.whole.max(whole);
            self.fraction = self.fraction.max(fraction);
        }
        if !self.spellings.is_empty() {
            for (at, format) in self.spellings.dates.iter().enumerate() {
                kinds |= if format.date(bytes).is_some() { DATE_FORMATS << at } else { 0 };
            }
            for (at, format) in self.spellings.timestamps.iter().enumerate() {
                kinds |= if format.timestamp(bytes).is_some() { TIMESTAMP_FORMATS << at } else { 0 };
            }
        }
        kinds
    }

    /// How values of `data_type` are spelled in the column, if not as in ISO 8601.
    ///
    /// In the format that all of the sample has, or else some of it, for one bad value among many is no reason to take none
    /// of them; of a sample without values in the first that was given.
    pub(crate) fn format(&self, data_type: &DataType) -> Option<&Format> {
        let Spellings { dates, timestamps } = &*self.spellings;
        let bits = |first: Kinds, formats: &'_ [Format]| (0..formats.len()).map(move |at| first << at);
        let dates = bits(DATE_FORMATS, dates).zip(dates);
        let timestamps = bits(TIMESTAMP_FORMATS, timestamps).zip(timestamps);
        let (iso, formats): (_, Vec<_>) = match data_type {
            DataType::Date32 => (DATE, dates.chain(timestamps.filter(|(_, format)| !format.has_time())).collect()),
            DataType::Timestamp(_, None) => (TIMESTAMP, timestamps.chain(dates).collect()),
            _ => return None,
        };
        let of = |kinds: Kinds| formats.iter().find(|(bit, _)| kinds & bit != 0).map(|&(_, format)| format);
        match self.has_values() {
            false => formats.first().map(|&(_, format)| format),
            true if self.kinds & iso != 0 => None,
            true => of(self.kinds).or_else(|| of(self.seen).filter(|_| self.seen & iso == 0)),
        }
    }

    /// What keeps `bytes`, which are text, from having a type, and the types without it.
    fn mend(&mut self, bytes: &[u8]) -> Option<(Obstacle, Kinds)> {
        let trimmed = bytes.trim_ascii();
        if trimmed.len() < bytes.len() {
            return Some((Obstacle::Spaces, kinds(trimmed))).filter(|(_, kinds)| *kinds != 0);
        }
        if let Some((whole, fraction)) = value::decimal_digits(bytes)
            && fraction > 0
            && whole + fraction <= DECIMAL_DIGITS
        {
            return Some((Obstacle::LongDecimal, FLOAT));
        }
        for (separator, point) in [(b',', b'.'), (b'.', b','), (b' ', b',')] {
            if thousands(bytes, separator, point) {
                let whole = if bytes.contains(&point) { 0 } else { INTEGER };
                return Some((Obstacle::Thousands, whole | FLOAT));
            }
        }
        let point: Vec<u8> = bytes.iter().map(|&byte| if byte == b',' { b'.' } else { byte }).collect();
        let comma = bytes.iter().filter(|&&byte| byte == b',').count() == 1 && !bytes.contains(&b'.');
        Some((Obstacle::DecimalComma, kinds(&point))).filter(|(_, kinds)| comma && *kinds != 0)
    }

    /// The type.
    pub(crate) fn data_type(&self) -> DataType {
        if self.has_values() { self.data_type_of(self.kinds) } else { DataType::Utf8 }
    }

    /// Whether values are rather read as `wanted`, the type that the target has, than as the guess. So it is where the sample
    /// speaks for it, and where a later value that is none would be none of the guess, or could not be written.
    pub(crate) fn is_rather(&self, wanted: &DataType) -> bool {
        let is_decimal = matches!(wanted, DataType::Decimal128(_, 0..));
        let is_time = matches!(wanted, DataType::Time64(TimeUnit::Microsecond));
        if !self.has_values() {
            let micros = matches!(wanted, DataType::Timestamp(TimeUnit::Microsecond, _));
            let float = matches!(wanted, DataType::Float32 | DataType::Float64);
            let other = matches!(wanted, DataType::Boolean | DataType::Date32);
            return wanted.is_integer() || is_decimal || is_time || micros || float || other;
        }
        let Loose { integers, decimals, times, booleans, timestamps, dates } = self.loose;
        let loose = match wanted {
            DataType::Boolean => booleans,
            DataType::Date32 => dates,
            DataType::Timestamp(TimeUnit::Microsecond, None) => timestamps,
            _ => wanted.is_integer() && integers || is_decimal && decimals || is_time && times,
        };
        match self.data_type() {
            DataType::Utf8 => loose && self.values,
            guess if guess == *wanted => guess.is_integer(),
            _ if *wanted == DataType::Utf8 => true,
            DataType::Int64 => {
                wanted.is_integer()
                    || is_decimal
                    || *wanted == DataType::Float64
                    || *wanted == DataType::Boolean && loose
            }
            DataType::Float64 => is_decimal,
            DataType::Date32 | DataType::Timestamp(_, None) => loose,
            _ => false,
        }
    }

    /// What is known of both together.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.kinds &= other.kinds;
        self.seen |= other.seen;
        self.mended &= other.mended;
        if let Some(obstacle) = other.obstacle {
            self.stumble(obstacle);
        } else if other.obstacles {
            (self.obstacle, self.obstacles) = (None, true);
        }
        self.values |= other.values;
        self.loose.integers &= other.loose.integers;
        self.loose.decimals &= other.loose.decimals;
        self.loose.times &= other.loose.times;
        self.loose.booleans &= other.loose.booleans;
        self.loose.timestamps &= other.loose.timestamps;
        self.loose.dates &= other.loose.dates;
        self.whole = self.whole.max(other.whole);
        self.fraction = self.fraction.max(other.fraction);
    }

    /// Whether there was a value at all.
    pub(crate) fn has_values(&self) -> bool {
        self.values || self.obstacles
    }

    /// The type if common spellings of null are no values.
    pub(crate) fn type_without_nulls(&self) -> DataType {
        match self.obstacle {
            Some(Obstacle::Null(_)) if self.values => self.data_type_of(self.mended),
            _ if self.values => self.data_type_of(self.kinds),
            _ => DataType::Utf8,
        }
    }

    /// What alone makes the column text, and the type that it would have without.
    pub(crate) fn kept_text_by(&self) -> Option<(Obstacle, DataType)> {
        let obstacle = self.obstacle.filter(|_| self.values && self.data_type() == DataType::Utf8)?;
        Some((obstacle, self.data_type_of(self.mended))).filter(|(_, better)| *better != DataType::Utf8)
    }

    fn data_type_of(&self, kinds: Kinds) -> DataType {
        let mut kinds = kinds;
        if self.whole + self.fraction > DECIMAL_DIGITS {
            kinds &= !DECIMAL;
        }
        let micros = TimeUnit::Microsecond;
        match kinds & kinds.wrapping_neg() {
            DATE_FORMATS..TIMESTAMP_FORMATS => DataType::Date32,
            TIMESTAMP_FORMATS..INTEGER => DataType::Timestamp(micros, None),
            BOOLEAN => DataType::Boolean,
            INTEGER => DataType::Int64,
            DECIMAL => {
                // With room for later values: 18 digits are what a target can hold in 64 bits.
                let precision = if self.whole + self.fraction + 2 <= 18 { 18 } else { 38 };
                DataType::Decimal128(precision, i8::try_from(self.fraction).unwrap_or(0))
            }
            FLOAT => DataType::Float64,
            DATE => DataType::Date32,
            TIMESTAMP => DataType::Timestamp(micros, None),
            TIMESTAMPTZ => DataType::Timestamp(micros, Some(Arc::from("UTC"))),
            _ => DataType::Utf8,
        }
    }
}

/// The common spelling of null that `bytes` are.
pub(crate) fn common_null(bytes: &[u8]) -> Option<&'static str> {
    COMMON_NULLS.into_iter().find(|null| null.as_bytes() == bytes)
}

/// Whether `bytes` are a number whose thousands are apart by `separator`.
fn thousands(bytes: &[u8], separator: u8, point: u8) -> bool {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let mut parts = digits.splitn(2, |&byte| byte == point);
    let (whole, fraction) = (parts.next().unwrap_or_default(), parts.next());
    let mut groups = whole.split(|&byte| byte == separator);
    let numeric = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    let first = groups.next().is_some_and(|group| numeric(group) && group.len() <= 3 && !group.starts_with(b"0"));
    let rest: Vec<_> = groups.collect();
    // One group alone may as well be digits behind a point.
    let enough = rest.len() > 1 || (rest.len() == 1 && fraction.is_some());
    first && enough && rest.iter().all(|group| group.len() == 3 && numeric(group)) && fraction.is_none_or(numeric)
}

fn kinds(bytes: &[u8]) -> Kinds {
    let mut kinds = 0;
    let mut add = |kind, fits: bool| kinds |= if fits { kind } else { 0 };
    match bytes.first() {
        Some(b't' | b'T' | b'f' | b'F') => add(BOOLEAN, value::boolean(bytes).is_some()),
        Some(b'0'..=b'9' | b'-' | b'.') => {
            add(INTEGER, value::integer(bytes, true).is_some());
            add(FLOAT, value::float(bytes, true).is_some());
            add(DATE, value::date(bytes).is_some());
            let timestamp = value::timestamp(bytes);
            add(TIMESTAMP, matches!(timestamp, Some((_, false))));
            add(TIMESTAMPTZ, matches!(timestamp, Some((_, true))));
        }
        _ => {}
    }
    kinds
}

#[cfg(test)]
mod tests {
    use etlrs_core::OptionArgument as _;

    use super::*;

    fn infer(values: &[&str]) -> Inference {
        let mut inference = Inference::new();
        values.iter().for_each(|value| inference.add(value.as_bytes()));
        inference
    }

    #[test]
    fn the_narrowest_type_that_loses_nothing() {
        for (values, expected) in [
            (&["1", "-20"][..], "int64"),
            (&["1", "2.5"], "float64"),
            (&["1", "9223372036854775807"], "int64"),
            (&["1.5", "9223372036854775807"], "text"),
            (&["1", "9223372036854775808"], "text"),
            (&["01", "2"], "text"),
            (&["+1"], "text"),
            (&["true", "FALSE"], "bool"),
            (&["true", "1"], "text"),
            (&["2013-01-01"], "date"),
            (&["2013-01-01", "2013-01-01T00:00:00"], "text"),
            (&["2013-01-01 10:00", "2013-01-01T00:00:00.5"], "timestamp"),
            (&["2013-01-01T10:00:00Z"], "timestamptz"),
            (&["2013-01-01T10:00:00Z", "2013-01-01T10:00:00"], "text"),
            (&["01/02/2013"], "text"),
            (&["nan", "1.5"], "text"),
            (&["+49 170 1234567"], "text"),
            (&["0170 1234567"], "text"),
            (&["12-34-56"], "text"),
            (&["1_000"], "text"),
            (&["12345678901234567890"], "text"),
            (&[], "text"),
        ] {
            assert_eq!(etlrs_core::type_name(&infer(values).data_type()), expected, "{values:?}");
        }
    }

    /// Of each column the type that is found, and the format for dates and for timestamps.
    #[test]
    fn a_format_that_was_given_is_chosen_by_the_type() {
        let (dates, timestamps) = (["%d.%m.%Y", "%Y%m%d"], ["%Y%m%d %H:%M", "%m/%d/%Y"]);
        let formats = (dates.into_option_value(), timestamps.into_option_value());
        let spellings = Arc::new(Spellings::new(&formats.0, &formats.1).unwrap());
        for (values, data_type, date, timestamp) in [
            (&["20240131", "20241231"][..], "date", Some(dates[1]), Some(dates[1])),
            (&["20240131", "20241331"], "int64", Some(dates[1]), Some(dates[1])),
            (&["31.12.2024"], "date", Some(dates[0]), Some(dates[0])),
            (&["2024-12-31"], "date", None, None),
            (&["20240131 10:00"], "timestamp", None, Some(timestamps[0])),
            (&["12/31/2024"], "timestamp", Some(timestamps[1]), Some(timestamps[1])),
            // One of the values is none of a type that has been named.
            (&["31.12.2024", "NA", "unknown"], "text", Some(dates[0]), Some(dates[0])),
            (&["2024-12-31", "31.12.2024"], "text", None, Some(dates[0])),
            (&["x"], "text", None, None),
            (&[], "text", Some(dates[0]), Some(timestamps[0])),
        ] {
            let mut inference = Inference::with(false, spellings.clone());
            values.iter().for_each(|value| inference.add(value.as_bytes()));
            assert_eq!(etlrs_core::type_name(&inference.data_type()), data_type, "{values:?}");
            let format = |data_type: &DataType| inference.format(data_type).map(|format| format.text().to_owned());
            assert_eq!(format(&DataType::Date32).as_deref(), date, "{values:?}");
            assert_eq!(format(&DataType::Timestamp(TimeUnit::Microsecond, None)).as_deref(), timestamp, "{values:?}");
            assert_eq!(format(&DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))), None);
            assert_eq!(format(&DataType::Utf8), None);
        }
    }

    #[test]
    fn a_spelling_of_null_is_hinted_at() {
        assert_eq!(infer(&["1", "NA"]).data_type(), DataType::Utf8);
        assert_eq!(infer(&["1", "NA"]).kept_text_by(), Some((Obstacle::Null("NA"), DataType::Int64)));
        assert_eq!(infer(&["a", "NA"]).kept_text_by(), None);
        assert_eq!(infer(&["NA"]).kept_text_by(), None);
    }

    #[test]
    fn what_keeps_a_column_text_is_hinted_at() {
        for (values, expected) in [
            (&["1", "2 "][..], Some((Obstacle::Spaces, DataType::Int64))),
            (&["1,5", "2"], Some((Obstacle::DecimalComma, DataType::Float64))),
            (&["1,234.5", "2"], Some((Obstacle::Thousands, DataType::Float64))),
            (&["1.234.567", "2"], Some((Obstacle::Thousands, DataType::Int64))),
            (&["0.12345678901234567890", "2.5"], Some((Obstacle::LongDecimal, DataType::Float64))),
            (&["1,5", "2 "], None),
            (&["1,5", "x"], None),
            (&["007", "2"], None),
        ] {
            assert_eq!(infer(values).kept_text_by(), expected, "{values:?}");
        }
    }

    #[test]
    fn decimals_hold_what_the_sample_needs_if_they_are_asked_for() {
        for (values, expected) in [
            (&["1.50", "-20"][..], "decimal(18,2)"),
            (&["0.12345678901234567890"], "decimal(38,20)"),
            (&["1", "2"], "int64"),
            (&["1.5", "1e5"], "float64"),
            (&["007.5", "1.5"], "text"),
        ] {
            let mut inference = Inference::with(true, Arc::default());
            values.iter().for_each(|value| inference.add(value.as_bytes()));
            assert_eq!(etlrs_core::type_name(&inference.data_type()), expected, "{values:?}");
        }
    }
}
