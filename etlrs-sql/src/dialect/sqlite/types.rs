//! How Arrow types and the declared types of SQLite columns stand for each other.
//!
//! SQLite keeps any text as the declared type of a column and derives an *affinity* from it, which may change a value
//! as it is stored (<https://www.sqlite.org/datatype3.html>, section 3.1). A declared type is therefore chosen such
//! that its affinity leaves what is written as it is, and such that reading it gives the Arrow type back:
//!
//! | Arrow | declared | affinity | stored |
//! |---|---|---|---|
//! | Boolean | `BOOLEAN` | numeric | 0, 1 |
//! | Int8, Int16, Int32, Int64 | `SINT8`, `SMALLINT`, `INT4`, `INTEGER` | integer | integer |
//! | UInt8, UInt16, UInt32 | `UINT8`, `UINT16`, `UINT32` | integer | integer |
//! | Float16 and Float32, Float64 | `FLOAT4`, `REAL` | real | real; `-0.0` becomes `0.0`, NaN is refused |
//! | Utf8 of any layout | `TEXT` | text | text |
//! | Binary of any layout | `BLOB` | blob | blob |
//! | Date32 | `DATE` | numeric | text `2013-01-31`, which is no number to the affinity |
//! | Time32, Time64 in µs | `TIME` | numeric | text `05:00:00.5`, likewise |
//! | Timestamp without a zone | `TIMESTAMP` | numeric | text `2013-01-31 05:00:00`, likewise |
//! | Timestamp with a zone | `TIMESTAMPTZ` | numeric | text `2013-01-31 05:00:00+00:00`, likewise; always UTC |
//! | Decimal32, 64, 128 | `DECIMAL_TEXT(p,s)` | text | text with `s` digits after the point, those of the column |
//! | Decimal256 | `DECIMAL256_TEXT(p,s)` up to 38 digits, else as above | text | likewise |
//! | a dictionary | as its values | | |
//!
//! `DECIMAL` itself would have numeric affinity, which turns text into a float. `SINT8` is so called because `INT8` is
//! eight bytes wide elsewhere, and `TINYINT` may be unsigned.
//!
//! Tables of other programs are read so, each value being checked against it:
//!
//! | declared | Arrow |
//! |---|---|
//! | `TINYINT`, `SMALLINT`, `INT2`, `INT16` | Int16; unsigned ones Int32, but `TINYINT` |
//! | `MEDIUMINT`, `INT4`, `INT32` | Int32; unsigned ones Int64, but `MEDIUMINT` |
//! | `INTEGER`, `INT`, `BIGINT`, `BIG INT`, `INT8`, `INT64` | Int64 |
//! | `BOOLEAN`, `BOOL` | Boolean |
//! | `REAL`, `DOUBLE`, `DOUBLE PRECISION`, `FLOAT`, `FLOAT8` | Float64 |
//! | `NUMERIC`, `DECIMAL` without digits | Float64; integers that no float has exactly are refused |
//! | `NUMERIC(p,s)`, `DECIMAL(p,s)` | Decimal128 or 256; a float of at most 15 digits is those, one of more what it is exactly |
//! | `TEXT`, `CLOB`, `CHAR(n)`, `VARCHAR(n)` and so on | Utf8 |
//! | `BLOB`, `BINARY(n)`, `VARBINARY(n)` | Binary |
//! | `DATE`, `TIME`, `DATETIME`, `TIMESTAMP [WITH TIME ZONE]` | Date32, Time64, Timestamp, from text as above |
//! | none, or any other | by the storage classes of all its values: see [`StorageClasses::arrow_type`] |

use std::sync::Arc;

use arrow_array::types::{Decimal128Type, Decimal256Type, DecimalType};
use arrow_buffer::i256;
use arrow_schema::{DataType, TimeUnit};

use crate::value::Scalar;

/// Why a type cannot be stored, and the cast that would help.
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) hint: &'static str,
}

/// The declared type for a column of `data_type`.
pub(super) fn declared_type(data_type: &DataType) -> Result<String, Refusal> {
    use DataType::*;
    let refuse = |reason: &str, hint| Err(Refusal { reason: format!("{data_type} {reason}"), hint });
    let name = match data_type {
        // All that such a column holds is nulls.
        Null => "TEXT",
        Boolean => "BOOLEAN",
        Int8 => "SINT8",
        Int16 => "SMALLINT",
        Int32 => "INT4",
        Int64 => "INTEGER",
        UInt8 => "UINT8",
        UInt16 => "UINT16",
        UInt32 => "UINT32",
        UInt64 => return refuse("has values beyond SQLite's 64-bit integers", "cast it to decimal(20,0) or int64"),
        Float16 | Float32 => "FLOAT4",
        Float64 => "REAL",
        Utf8 | LargeUtf8 | Utf8View => "TEXT",
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "BLOB",
        Date32 => "DATE",
        Date64 => return refuse("is a date in milliseconds", "cast it to date or timestamp"),
        Time32(_) | Time64(TimeUnit::Microsecond) => "TIME",
        Time64(_) => return refuse("may be finer than microseconds", "cast it to time"),
        Timestamp(TimeUnit::Nanosecond, zone) => {
            let hint = if zone.is_some() { "cast it to timestamptz" } else { "cast it to timestamp" };
            return refuse("may be finer than microseconds", hint);
        }
        Timestamp(_, None) => "TIMESTAMP",
        Timestamp(_, Some(_)) => "TIMESTAMPTZ",
        Decimal32(precision, scale)
        | Decimal64(precision, scale)
        | Decimal128(precision, scale)
        | Decimal256(precision, scale) => {
            if *scale < 0 || scale.unsigned_abs() > *precision {
                return refuse("has a scale outside its digits", "cast it to decimal(P,S) with S from 0 to P");
            }
            let wide = if matches!(data_type, Decimal256(..)) && *precision <= 38 { "256" } else { "" };
            return Ok(format!("DECIMAL{wide}_TEXT({precision},{scale})"));
        }
        Dictionary(_, values) => return declared_type(values),
        Duration(_) | Interval(_) => return refuse("has no counterpart in SQLite", "cast it to int64 or text"),
        _ => return refuse("has no counterpart in SQLite", "cast it to text, or leave the column out"),
    };
    Ok(name.to_owned())
}

/// The type for a column of `data_type` in a STRICT table (<https://www.sqlite.org/stricttables.html>), which says less.
pub(super) fn strict_type(data_type: &DataType) -> &'static str {
    use DataType::*;
    match data_type {
        Boolean => "INTEGER",
        integer if integer.is_integer() => "INTEGER",
        Float16 | Float32 | Float64 => "REAL",
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "BLOB",
        Dictionary(_, values) => strict_type(values),
        // Decimals, dates and times are stored as text.
        _ => "TEXT",
    }
}

/// What a column of ours for `data_type` is read as.
pub(super) fn read_type(data_type: &DataType) -> Option<DataType> {
    arrow_type(&declared_type(data_type).ok()?)
}

/// The Arrow type of a column of another program or our own; `None`: the values have to tell.
pub(super) fn arrow_type(declared: &str) -> Option<DataType> {
    use DataType::*;
    let declared = declared.to_ascii_uppercase();
    // VARCHAR(20), INT(11) UNSIGNED, TIMESTAMP(6) WITH TIME ZONE: words before and after the digits.
    let (before, rest) = declared.split_once('(').unwrap_or((&declared, ""));
    let (digits, after) = rest.split_once(')').unwrap_or((rest, ""));
    let mut unsigned = false;
    let words: Vec<_> = before
        .split_ascii_whitespace()
        .chain(after.split_ascii_whitespace())
        .filter(|word| {
            unsigned |= *word == "UNSIGNED";
            !matches!(*word, "UNSIGNED" | "SIGNED")
        })
        .collect();
    Some(match (words.join(" ").as_str(), unsigned) {
        ("BOOLEAN" | "BOOL", _) => Boolean,
        ("SINT8", _) => Int8,
        ("TINYINT", _) | ("SMALLINT" | "INT2" | "INT16", false) => Int16,
        ("SMALLINT" | "INT2" | "INT16", true) | ("MEDIUMINT", _) | ("INT4" | "INT32", false) => Int32,
        ("INTEGER" | "INT" | "BIGINT" | "BIG INT" | "INT8" | "INT64" | "INT4" | "INT32", _) => Int64,
        ("UINT8", _) => UInt8,
        ("UINT16", _) => UInt16,
        ("UINT32", _) => UInt32,
        ("FLOAT4", _) => Float32,
        ("REAL" | "DOUBLE" | "DOUBLE PRECISION" | "FLOAT" | "FLOAT8", _) => Float64,
        (
            "TEXT" | "CLOB" | "CHAR" | "CHARACTER" | "VARCHAR" | "NCHAR" | "NVARCHAR" | "VARYING CHARACTER"
            | "CHARACTER VARYING" | "NATIVE CHARACTER" | "TINYTEXT" | "MEDIUMTEXT" | "LONGTEXT",
            _,
        ) => Utf8,
        ("BLOB" | "BINARY" | "VARBINARY" | "TINYBLOB" | "MEDIUMBLOB" | "LONGBLOB", _) => Binary,
        ("DATE", _) => Date32,
        ("TIME", _) => Time64(TimeUnit::Microsecond),
        ("DATETIME" | "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE", _) => Timestamp(TimeUnit::Microsecond, None),
        ("TIMESTAMPTZ" | "TIMESTAMP WITH TIME ZONE", _) => Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))),
        ("NUMERIC" | "DECIMAL" | "DEC", _) if digits.is_empty() => Float64,
        ("NUMERIC" | "DECIMAL" | "DEC" | "DECIMAL_TEXT", _) => decimal(digits, 38)?,
        ("DECIMAL256_TEXT", _) => decimal(digits, 0)?,
        _ => return None,
    })
}

/// `P` or `P,S` as a type of 128 bits up to `narrow` digits, else of 256.
fn decimal(digits: &str, narrow: u8) -> Option<DataType> {
    let (precision, scale) = digits.split_once(',').unwrap_or((digits, "0"));
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    if !(1..=76).contains(&precision) || scale < 0 || scale.unsigned_abs() > precision {
        return None;
    }
    Some(if precision <= narrow {
        DataType::Decimal128(precision, scale)
    } else {
        DataType::Decimal256(precision, scale)
    })
}

/// What SQLite does to a value on its way into a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    /// By the rules of SQLite, in their order.
    pub(super) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        match () {
            () if has(&["INT"]) => Self::Integer,
            () if has(&["CHAR", "CLOB", "TEXT"]) => Self::Text,
            () if has(&["BLOB"]) || declared.is_empty() => Self::Blob,
            () if has(&["REAL", "FLOA", "DOUB"]) => Self::Real,
            () => Self::Numeric,
        }
    }
}

/// Whether rows of `source` can be appended to a column that is declared so without a value being changed.
pub(super) fn can_append(source: &DataType, declared: &str) -> bool {
    use DataType::*;
    let affinity = Affinity::of(declared);
    if let Dictionary(_, values) = source {
        return can_append(values, declared);
    }
    if *source == Null || affinity == Affinity::Blob && arrow_type(declared).is_none() {
        return true;
    }
    // Both sides in terms of what reading back would give.
    let stored = declared_type(source).ok().and_then(|declared| arrow_type(&declared));
    let (Some(from), Some(to)) = (stored, arrow_type(declared)) else {
        // A declared type that says nothing: only its affinity counts.
        return match affinity {
            Affinity::Text => matches!(source, Utf8 | LargeUtf8 | Utf8View),
            Affinity::Integer | Affinity::Numeric => source.is_integer() || *source == Boolean,
            _ => false,
        };
    };
    let numeric = matches!(affinity, Affinity::Numeric | Affinity::Integer);
    match (&from, &to) {
        (from, to) if from == to && !matches!(from, Decimal128(..) | Decimal256(..)) => true,
        (from, to) if integer_range(from).is_some() && integer_range(to).is_some() => {
            integer_range(from).zip(integer_range(to)).is_some_and(|(a, b)| b.0 <= a.0 && a.1 <= b.1)
        }
        (Float32, Float64) => true,
        (from, Float64) => integer_range(from).is_some_and(|(_, max)| max <= 1 << 32),
        (Decimal128(p, s) | Decimal256(p, s), Decimal128(p2, s2) | Decimal256(p2, s2)) => {
            s <= s2 && *p <= most_digits(numeric, *s, (*p2, *s2))
        }
        (from, Decimal128(p, s) | Decimal256(p, s)) if numeric => integer_range(from)
            .is_some_and(|(_, max)| max.checked_ilog10().unwrap_or(0) < u32::from(*p - s.unsigned_abs())),
        _ => false,
    }
}

/// How the values of a column of the source are written into one of a target that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) check: Option<Check>,
    pub(super) fraction: Fraction,
}

/// The digits behind the point of a decimal that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fraction {
    /// As many as its type has.
    #[default]
    All,
    /// So many at least: one number is to be one text, which may be a key.
    Padded(u8),
    /// Without zeros at the end, for SQLite makes a number of it, of few digits exactly.
    Short,
}

impl Fit {
    pub(super) fn of(source: &DataType, declared: &str) -> Self {
        let check = if can_append(source, declared) { None } else { Check::of(source, declared) };
        let scale = decimal_scale(source);
        let wanted = arrow_type(declared).as_ref().and_then(decimal_scale);
        let fraction = match (scale, wanted, Affinity::of(declared)) {
            (Some(scale), Some(wanted), Affinity::Text) if scale < wanted => Fraction::Padded(wanted.unsigned_abs()),
            (Some(_), _, Affinity::Numeric | Affinity::Integer) => Fraction::Short,
            _ => Fraction::All,
        };
        Self { check, fraction }
    }
}

/// What a value must be like for a column to keep it, where types alone do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// A text that is no number, of which SQLite would make one.
    NoNumber,
    /// An integer that a float has exactly.
    Float,
    /// An integer from the first to the second, as the column's type has it.
    Range(i64, i64),
    /// A decimal of at most so many digits, those behind the point included; `numeric`: and one of which SQLite makes a number
    /// that is it.
    Digits { most: u8, numeric: bool },
}

impl Check {
    /// That of a column that is declared so and for which [`can_append`] does not hold; `None`: it keeps no values of `source`.
    pub(super) fn of(source: &DataType, declared: &str) -> Option<Self> {
        use DataType::*;
        let numeric = matches!(Affinity::of(declared), Affinity::Numeric | Affinity::Integer);
        match (source, arrow_type(declared)) {
            (Dictionary(_, values), _) => Self::of(values, declared),
            (Utf8 | LargeUtf8 | Utf8View, None) => numeric.then_some(Self::NoNumber),
            (source, Some(Float64)) => integer_range(source).is_some().then_some(Self::Float),
            (source, Some(to)) if source.is_integer() && to.is_integer() => {
                integer_range(source).and(integer_range(&to)).map(|(least, greatest)| Self::Range(least, greatest))
            }
            (source, Some(Decimal128(p, s) | Decimal256(p, s))) if source.is_integer() && numeric => {
                let digits = u32::from(p - s.unsigned_abs());
                let greatest = 10_i64.checked_pow(digits).map_or(i64::MAX, |next| next - 1);
                integer_range(source).map(|_| Self::Range(-greatest, greatest))
            }
            (
                Decimal32(_, s) | Decimal64(_, s) | Decimal128(_, s) | Decimal256(_, s),
                Some(Decimal128(p2, s2) | Decimal256(p2, s2)),
            ) => (0..=s2).contains(s).then(|| Self::Digits { most: most_digits(false, *s, (p2, s2)), numeric }),
            _ => None,
        }
    }

    /// Whether the value is kept.
    pub(super) fn holds(self, value: &Scalar<'_>) -> bool {
        match (self, value) {
            (Self::NoNumber, Scalar::Text(text)) => {
                let text = text.trim();
                let begins = text.trim_start_matches(['+', '-', '.']).starts_with(|c: char| c.is_ascii_digit());
                !(begins && text.parse::<f64>().is_ok())
            }
            (Self::Float, Scalar::Int(value)) => is_float(*value),
            (Self::Range(least, greatest), Scalar::Int(value)) => (least..=greatest).contains(value),
            (Self::Digits { most, numeric }, Scalar::Decimal(value, scale)) => {
                // More digits than its type has it cannot have.
                let most = most.min(Decimal128Type::MAX_PRECISION);
                Decimal128Type::is_valid_decimal_precision(*value, most) && (!numeric || is_number(*value, *scale))
            }
            (Self::Digits { most, numeric }, Scalar::Wide(value, scale)) => {
                let is_number = || is_wide_number(**value, *scale);
                Decimal256Type::is_valid_decimal_precision(**value, most) && (!numeric || is_number())
            }
            _ => true,
        }
    }
}

fn decimal_scale(data_type: &DataType) -> Option<i8> {
    use DataType::*;
    match data_type {
        Dictionary(_, values) => decimal_scale(values),
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => Some(*scale),
        _ => None,
    }
}

/// The digits that every decimal of `scale` may have to be kept by a column for decimals of `to`, as precision and scale.
fn most_digits(numeric: bool, scale: i8, to: (u8, i8)) -> u8 {
    let fit = to.0.saturating_sub((to.1 - scale).unsigned_abs());
    match (numeric, scale) {
        (false, _) => fit,
        (true, 0) => fit.min(18),
        (true, _) => fit.min(15),
    }
}

/// Whether SQLite makes a number of `value / 10^scale` that is it: an integer of 64 bits, or the float of 15 digits.
/// <https://www.sqlite.org/datatype3.html>, section 3.
fn is_number(mut value: i128, mut scale: i8) -> bool {
    while scale > 0 && value % 10 == 0 {
        (value, scale) = (value / 10, scale - 1);
    }
    if scale == 0 { i64::try_from(value).is_ok() } else { value.unsigned_abs() < 10_u128.pow(15) }
}

/// [`is_number`] of 256 bits.
fn is_wide_number(mut value: i256, mut scale: i8) -> bool {
    let ten = i256::from_i128(10);
    while scale > 0 && value.checked_rem(ten) == Some(i256::ZERO) {
        (value, scale) = (value.wrapping_div(ten), scale - 1);
    }
    value.to_i128().is_some_and(|value| is_number(value, scale))
}

/// Whether a float of 64 bits has the value.
pub(super) fn is_float(value: i64) -> bool {
    (value as f64) as i128 == i128::from(value)
}

/// Least and greatest value of an integer type, with Boolean as one of them.
fn integer_range(data_type: &DataType) -> Option<(i64, i64)> {
    Some(match data_type {
        DataType::Boolean => (0, 1),
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => (i64::MIN, i64::MAX),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        _ => return None,
    })
}

/// Which storage classes the values of a column have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StorageClasses {
    pub(super) integer: bool,
    pub(super) real: bool,
    pub(super) text: bool,
    pub(super) blob: bool,
    /// Every integer is within ±2^53, where floats are exact.
    pub(super) small: bool,
}

impl StorageClasses {
    /// The type that holds every value exactly: Int64, Float64, Utf8 or Binary where the values agree; Float64 for
    /// integers and floats if none is too large; Binary for text and blobs; Utf8, with numbers printed exactly, for
    /// any other mixture, and for a column of nulls.
    pub(super) fn arrow_type(self) -> DataType {
        match (self.integer, self.real, self.text, self.blob) {
            (true, false, false, false) => DataType::Int64,
            (false, true, false, false) => DataType::Float64,
            (true, true, false, false) if self.small => DataType::Float64,
            (false, false, _, true) => DataType::Binary,
            _ => DataType::Utf8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_reads_as_what_was_written() {
        use DataType::*;
        for data_type in [
            Boolean,
            Int8,
            Int16,
            Int32,
            Int64,
            UInt8,
            UInt16,
            UInt32,
            Float32,
            Float64,
            Utf8,
            Binary,
            Date32,
            Time64(TimeUnit::Microsecond),
            Timestamp(TimeUnit::Microsecond, None),
            Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Decimal128(38, 38),
            Decimal128(1, 0),
            Decimal256(1, 0),
            Decimal256(76, 10),
        ] {
            let Ok(declared) = declared_type(&data_type) else { panic!("{data_type} is refused") };
            assert_eq!(arrow_type(&declared).as_ref(), Some(&data_type), "{declared}");
            assert!(can_append(&data_type, &declared), "{declared}");
        }
    }

    #[test]
    fn declared_types_of_other_programs() {
        use DataType::*;
        for (declared, expected) in [
            ("integer", Some(Int64)),
            ("INT(11) UNSIGNED", Some(Int64)),
            ("UNSIGNED BIG INT", Some(Int64)),
            ("tinyint unsigned", Some(Int16)),
            ("smallint unsigned", Some(Int32)),
            ("varchar(20)", Some(Utf8)),
            ("Double  Precision", Some(Float64)),
            ("TIMESTAMP(6) WITH TIME ZONE", Some(Timestamp(TimeUnit::Microsecond, Some("UTC".into())))),
            ("decimal(10, 2)", Some(Decimal128(10, 2))),
            ("NUMERIC(40)", Some(Decimal256(40, 0))),
            ("DECIMAL(5,9)", None),
            ("NUMERIC", Some(Float64)),
            ("JSON", None),
            ("", None),
            ("((", None),
        ] {
            assert_eq!(arrow_type(declared), expected, "{declared}");
        }
    }

    #[test]
    fn wide_decimals_are_looked_at_without_the_zeros_at_their_end() {
        let digits = |count: u32| i256::from_i128(10).wrapping_pow(count);
        let check = Check::Digits { most: 76, numeric: true };
        assert!(check.holds(&Scalar::Wide(&digits(42), 40)));
        assert!(!check.holds(&Scalar::Wide(&(digits(42) + i256::ONE), 40)));
        assert!(!check.holds(&Scalar::Wide(&digits(60), 40)));
    }

    #[test]
    fn appending_never_changes_a_value() {
        use DataType::*;
        for (source, declared, expected) in [
            (Int32, "INTEGER", true),
            (Int64, "INT4", false),
            (UInt32, "INT4", false),
            (Boolean, "INTEGER", true),
            (Int64, "REAL", false),
            (Int32, "REAL", true),
            (Int64, "TEXT", false),
            (Utf8, "INTEGER", false),
            (Utf8, "JSON", false),
            (Utf8, "", true),
            (Utf8, "VARCHAR(3)", true),
            (LargeUtf8, "TEXT", true),
            (Float64, "FLOAT4", false),
            (Decimal128(5, 2), "DECIMAL_TEXT(10,4)", true),
            (Decimal128(9, 2), "DECIMAL_TEXT(10,4)", false),
            (Decimal128(12, 2), "DECIMAL(12,2)", true),
            (Decimal128(20, 2), "DECIMAL(20,2)", false),
            (Timestamp(TimeUnit::Second, None), "DATETIME", true),
            (Timestamp(TimeUnit::Microsecond, None), "TIMESTAMPTZ", false),
            (Date32, "DATE", true),
            (Date32, "TEXT", false),
        ] {
            assert_eq!(can_append(&source, declared), expected, "{source} to {declared}");
        }
    }
}
