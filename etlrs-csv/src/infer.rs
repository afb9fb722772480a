//! Types from a sample.
//!
//! A column gets the narrowest type of which every value of the sample is a plain spelling, so that nothing about a value
//! is lost: `007`, `+1`, numbers that do not fit into 64 bits and dates in other orders stay text. A column without
//! values is text. The types are held on to: a later value that is none of its column's type is an error.

use std::sync::Arc;

use arrow_schema::{DataType, TimeUnit};

use crate::value;

/// Spellings of null that are common enough to hint at.
const COMMON_NULLS: [&str; 9] = ["NA", "N/A", "NULL", "null", "\\N", "NaN", "nan", "None", "-"];

/// A set of types, a bit each, in order of preference.
type Kinds = u8;

const BOOLEAN: Kinds = 1;
const INTEGER: Kinds = 1 << 1;
const FLOAT: Kinds = 1 << 2;
const DATE: Kinds = 1 << 3;
const TIMESTAMP: Kinds = 1 << 4;
const TIMESTAMPTZ: Kinds = 1 << 5;
const ALL: Kinds = (1 << 6) - 1;

/// What is known about one column.
#[derive(Clone, Debug)]
pub(crate) struct Inference {
    /// Types that every value so far has.
    kinds: Kinds,
    /// The same, with common spellings of null left out.
    kinds_without_nulls: Kinds,
    values: bool,
    seen_null: Option<&'static str>,
}

impl Inference {
    pub(crate) fn new() -> Self {
        Self { kinds: ALL, kinds_without_nulls: ALL, values: false, seen_null: None }
    }

    /// Looks at a field that is not null.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let kinds = kinds(bytes);
        self.kinds &= kinds;
        match common_null(bytes) {
            Some(null) => self.seen_null = Some(null),
            None => {
                self.values = true;
                self.kinds_without_nulls &= kinds;
            }
        }
    }

    /// The type.
    pub(crate) fn data_type(&self) -> DataType {
        if self.has_values() { data_type(self.kinds) } else { DataType::Utf8 }
    }

    /// What is known of both together.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.kinds &= other.kinds;
        self.kinds_without_nulls &= other.kinds_without_nulls;
        self.values |= other.values;
        self.seen_null = self.seen_null.or(other.seen_null);
    }

    /// Whether there was a value at all.
    pub(crate) fn has_values(&self) -> bool {
        self.values || self.seen_null.is_some()
    }

    /// The type if common spellings of null are no values.
    pub(crate) fn type_without_nulls(&self) -> DataType {
        if self.values { data_type(self.kinds_without_nulls) } else { DataType::Utf8 }
    }

    /// The spelling of null that alone makes the column text, and the type that it would have without.
    pub(crate) fn kept_text_by(&self) -> Option<(&'static str, DataType)> {
        let null = self.seen_null.filter(|_| self.values && self.data_type() == DataType::Utf8)?;
        Some((null, data_type(self.kinds_without_nulls))).filter(|(_, better)| *better != DataType::Utf8)
    }
}

/// The common spelling of null that `bytes` are.
pub(crate) fn common_null(bytes: &[u8]) -> Option<&'static str> {
    COMMON_NULLS.into_iter().find(|null| null.as_bytes() == bytes)
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

fn data_type(kinds: Kinds) -> DataType {
    let micros = TimeUnit::Microsecond;
    match kinds & kinds.wrapping_neg() {
        BOOLEAN => DataType::Boolean,
        INTEGER => DataType::Int64,
        FLOAT => DataType::Float64,
        DATE => DataType::Date32,
        TIMESTAMP => DataType::Timestamp(micros, None),
        TIMESTAMPTZ => DataType::Timestamp(micros, Some(Arc::from("UTC"))),
        _ => DataType::Utf8,
    }
}

#[cfg(test)]
mod tests {
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
            (&[], "text"),
        ] {
            assert_eq!(etlrs_core::type_name(&infer(values).data_type()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_spelling_of_null_is_hinted_at() {
        assert_eq!(infer(&["1", "NA"]).data_type(), DataType::Utf8);
        assert_eq!(infer(&["1", "NA"]).kept_text_by(), Some(("NA", DataType::Int64)));
        assert_eq!(infer(&["a", "NA"]).kept_text_by(), None);
        assert_eq!(infer(&["NA"]).kept_text_by(), None);
    }
}
