//! Casts that fail rather than lose something, for [`Cast`](crate::Cast) and for `cast` in expressions.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, LargeStringArray, make_array};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_schema::{ArrowError, DataType, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result, type_name};

/// Refuses pairs of types that no value can be cast between, or not without a guess.
pub(crate) fn check_cast(from: &DataType, to: &DataType) -> Result<()> {
    let from = decoded(from);
    if from == to || *from == DataType::Null {
        return Ok(());
    }
    let refuse = |hint: &'static str| {
        Err(Error::new(ErrorKind::SchemaMismatch, format!("{} cannot be cast to {}", type_name(from), type_name(to)))
            .hint(hint))
    };
    if from.is_nested() && is_text(to) {
        return Ok(());
    }
    if from.is_nested() || to.is_nested() || matches!(to, DataType::Dictionary(..)) {
        return refuse("a list, a struct or a map can be cast to text, and nothing to one of them");
    }
    // A number could be days, seconds or microseconds.
    if (from.is_numeric() && to.is_temporal()) || (from.is_temporal() && to.is_numeric()) {
        return refuse("numbers and times have no unit in common; add days to a date instead");
    }
    if !can_cast_types(from, to) {
        return refuse("cast it to text in between");
    }
    Ok(())
}

/// `array` as `to`, where [`check_cast`] allows it.
///
/// The rule is that casting back must give the same value. What cannot keep it in principle is allowed to round to
/// the nearest: decimals to floats, `float64` to `float32` (but not to infinity), and a timestamp may become its date
/// or its time of day.
///
/// Messages of Arrow hold values of rows, so callers show their own.
pub(super) fn cast_exact(array: &dyn Array, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = array.data_type();
    if from == to {
        return Ok(make_array(array.to_data()));
    }
    let value_type = decoded(from);
    if value_type != from {
        return cast_exact(&strict(array, value_type)?, to);
    }
    if *from == DataType::Null {
        return Ok(arrow_array::new_null_array(to, array.len()));
    }
    if from.is_nested() && is_text(to) {
        return strict(&super::row_wise::json_texts(&make_array(array.to_data())), to);
    }
    if from.is_floating() && to.is_decimal() {
        // By the shortest digits that name the float: a product with a power of ten would add digits that nobody wrote.
        return cast_exact(&float_digits(array)?, to);
    }
    if is_binary(from) && is_text(to) {
        return strict(&utf8(array)?, to);
    }
    let source = make_array(array.to_data());
    let result = strict(&source, to)?;
    let exact = match (from, to) {
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, to) if to.is_decimal() => {
            let text = strict(array, &DataType::LargeUtf8)?;
            text.as_string::<i64>().iter().flatten().all(|text| fits_scale(text, to))
        }
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, to) if to.is_temporal() => {
            let text = strict(array, &DataType::LargeUtf8)?;
            let fits = |text: &str| fits_unit(text, to) && has_offset(text) == has_zone(to);
            text.as_string::<i64>().iter().flatten().all(fits)
        }
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, to) if to.is_floating() => {
            let (text, floats) = (strict(array, &DataType::LargeUtf8)?, strict(&result, &DataType::Float64)?);
            let floats = floats.as_primitive::<Float64Type>();
            // Rounded to the nearest, but a number does not become infinite.
            let fits = |(text, float): (Option<&str>, Option<f64>)| {
                float.is_none_or(|float| !float.is_infinite())
                    || text.is_some_and(|text| !text.contains(|c: char| c.is_ascii_digit()))
            };
            text.as_string::<i64>().iter().zip(floats).all(fits)
        }
        (from, to) if from.is_floating() && to.is_floating() => stays_finite(&source, &result)?,
        (from, to) if from.is_decimal() && to.is_floating() => true,
        (from, to) if is_number(from) && is_number(to) => same_when_cast_back(&source, &result)?,
        (DataType::Timestamp(..), DataType::Timestamp(..))
        | (DataType::Date32 | DataType::Date64, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
        | (DataType::Time32(_) | DataType::Time64(_), DataType::Time32(_) | DataType::Time64(_)) => {
            same_when_cast_back(&source, &result)?
        }
        _ => true,
    };
    if !exact || result.null_count() != array.null_count() {
        return Err(ArrowError::CastError("a value does not fit".into()));
    }
    Ok(result)
}

/// The least row, from 0, at which `fails` is true of the rows before and including it, given that it is true of all.
pub(super) fn first_failing_row(rows: usize, fails: impl Fn(usize) -> bool) -> usize {
    let (mut fine, mut failing) = (0, rows);
    while failing > fine + 1 {
        let middle = fine + (failing - fine) / 2;
        if fails(middle) {
            failing = middle;
        } else {
            fine = middle;
        }
    }
    failing.saturating_sub(1)
}

/// A float array in which equal numbers are equal bits: one zero, one NaN. Arrow compares floats by `totalOrder`.
pub(super) fn canonical(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float32 => {
            let plain = |value: f32| if value.is_nan() { f32::NAN } else { value + 0.0 };
            Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(plain))
        }
        DataType::Float64 => {
            let plain = |value: f64| if value.is_nan() { f64::NAN } else { value + 0.0 };
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(plain))
        }
        _ => array,
    }
}

/// The type of the values of a dictionary.
pub(super) fn decoded(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        DataType::RunEndEncoded(_, values) => values.data_type(),
        other => other,
    }
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

pub(super) fn is_binary(data_type: &DataType) -> bool {
    use DataType::*;
    matches!(data_type, Binary | LargeBinary | BinaryView | FixedSizeBinary(_))
}

/// Floats as text without an exponent, in as few digits as name them. NaN and infinite ones are an error.
fn float_digits(floats: &dyn Array) -> Result<LargeStringArray, ArrowError> {
    fn digits<T: ToString>(value: Option<T>, is_finite: bool) -> Result<Option<String>, ArrowError> {
        match value {
            Some(_) if !is_finite => Err(ArrowError::CastError("a float is no number".into())),
            value => Ok(value.map(|value| value.to_string())),
        }
    }
    if let Some(floats) = floats.as_primitive_opt::<Float64Type>() {
        return floats.iter().map(|value| digits(value, value.is_none_or(f64::is_finite))).collect();
    }
    let floats = strict(floats, &DataType::Float32)?;
    floats.as_primitive::<Float32Type>().iter().map(|value| digits(value, value.is_none_or(f32::is_finite))).collect()
}

/// Bytes as text, looked at value by value: Arrow looks at all bytes of a buffer, be they of other rows.
fn utf8(bytes: &dyn Array) -> Result<LargeStringArray, ArrowError> {
    let bytes = strict(bytes, &DataType::LargeBinary)?;
    let text = |value: Option<&[u8]>| value.map(|value| String::from_utf8(value.to_vec())).transpose();
    let wrong = |_| ArrowError::CastError("bytes are no text".into());
    bytes.as_binary::<i64>().iter().map(|value| text(value).map_err(wrong)).collect()
}

/// Arrow's own cast, with an error for a value that it would make null.
pub(super) fn strict(array: &dyn Array, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CastOptions { safe: false, ..CastOptions::default() })
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric() || *data_type == DataType::Boolean
}

fn same_when_cast_back(source: &ArrayRef, result: &ArrayRef) -> Result<bool, ArrowError> {
    let back = cast_with_options(result, source.data_type(), &CastOptions::default())?;
    Ok(!arrow_ord::cmp::distinct(&canonical(back), &canonical(source.clone()))?.has_true())
}

fn stays_finite(source: &ArrayRef, result: &ArrayRef) -> Result<bool, ArrowError> {
    let (before, after) = (strict(source, &DataType::Float64)?, strict(result, &DataType::Float64)?);
    let (before, after) = (before.as_primitive::<Float64Type>(), after.as_primitive::<Float64Type>());
    Ok(before.iter().zip(after).all(|(before, after)| {
        let finite = |value: Option<f64>| value.is_none_or(f64::is_finite);
        finite(after) || !finite(before)
    }))
}

/// Whether decimal digits in `text` go past the scale of `to`; zeros at the end do not count.
fn fits_scale(text: &str, to: &DataType) -> bool {
    let scale = match to {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => i64::from(*scale),
        _ => return false,
    };
    // Arrow takes no exponents here. With a negative scale the zeros at the end of whole numbers count.
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let significant = match fraction.trim_end_matches('0') {
        "" => -count(whole.len() - whole.trim_end_matches('0').len()),
        fraction => count(fraction.len()),
    };
    significant <= scale
}

/// Whether the digits of a second in `text` fit into the unit of `to`; zeros at the end do not count.
fn fits_unit(text: &str, to: &DataType) -> bool {
    let most = match to {
        DataType::Timestamp(unit, _) | DataType::Time32(unit) | DataType::Time64(unit) => match unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        },
        _ => return true,
    };
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    let digits = fraction.len() - fraction.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    fraction[..digits].trim_end_matches('0').len() <= most
}

/// Whether a time in `text` says how far it is from UTC.
fn has_offset(text: &str) -> bool {
    let clock = text.trim().get(10..).unwrap_or_default();
    clock.contains(['+', '-']) || clock.ends_with(|c: char| c.is_ascii_alphabetic())
}

fn has_zone(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(_, Some(_)))
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use arrow_array::*;
    use arrow_schema::TimeUnit;

    use super::*;

    fn text(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }

    fn show(array: &ArrayRef) -> Vec<String> {
        let text = strict(array, &DataType::Utf8).unwrap();
        text.as_string::<i32>().iter().map(|value| value.unwrap_or("null").to_owned()).collect()
    }

    #[test]
    fn what_fits_is_cast() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let naive = DataType::Timestamp(TimeUnit::Microsecond, None);
        let cases: Vec<(ArrayRef, DataType, &[&str])> = vec![
            (Arc::new(Int64Array::from(vec![Some(7), None])), DataType::Int8, &["7", "null"]),
            (Arc::new(Float64Array::from(vec![3.0, -0.0])), DataType::Int32, &["3", "0"]),
            (Arc::new(Float64Array::from(vec![0.1, 12.5])), DataType::Decimal128(5, 2), &["0.10", "12.50"]),
            (Arc::new(Float64Array::from(vec![0.1])), DataType::Float32, &["0.1"]),
            (Arc::new(Int64Array::from(vec![1 << 53])), DataType::Float64, &["9007199254740992.0"]),
            (text(&["1.20", "-3", " 1.500"]), DataType::Decimal128(5, 1), &["1.2", "-3.0", "1.5"]),
            (text(&["2013-01-01T05:00:00Z"]), utc.clone(), &["2013-01-01T05:00:00Z"]),
            (text(&["2013-01-01 05:00:00"]), naive.clone(), &["2013-01-01T05:00:00"]),
            (text(&["2013-02-28"]), DataType::Date32, &["2013-02-28"]),
            (Arc::new(TimestampMicrosecondArray::from(vec![-1])), DataType::Date32, &["1969-12-31"]),
            (Arc::new(TimestampMicrosecondArray::from(vec![-1])), utc.clone(), &["1969-12-31T23:59:59.999999Z"]),
            (Arc::new(TimestampNanosecondArray::from(vec![-1000])), naive.clone(), &["1969-12-31T23:59:59.999999"]),
            (Arc::new(NullArray::new(1)), DataType::Int32, &["null"]),
            (Arc::new(BooleanArray::from(vec![true])), DataType::Int64, &["1"]),
        ];
        for (array, to, expected) in cases {
            check_cast(array.data_type(), &to).unwrap();
            let result = cast_exact(&array, &to).unwrap_or_else(|error| panic!("{array:?} to {to}: {error}"));
            assert_eq!(result.data_type(), &to);
            assert_eq!(show(&strict(&result, &to).unwrap()), expected, "{array:?} to {to}");
        }
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let naive = DataType::Timestamp(TimeUnit::Microsecond, None);
        let decimal = |value, scale| {
            Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(20, scale).unwrap()) as ArrayRef
        };
        let cases: Vec<(ArrayRef, DataType)> = vec![
            (Arc::new(Int64Array::from(vec![128])), DataType::Int8),
            (Arc::new(Int64Array::from(vec![-1])), DataType::UInt64),
            (Arc::new(Int64Array::from(vec![5])), DataType::Boolean),
            (Arc::new(Int64Array::from(vec![(1 << 53) + 1])), DataType::Float64),
            (Arc::new(Int64Array::from(vec![i64::MAX])), DataType::Float64),
            (Arc::new(Int64Array::from(vec![1000])), DataType::Decimal128(4, 1)),
            (Arc::new(Float64Array::from(vec![1.5])), DataType::Int64),
            (Arc::new(Float64Array::from(vec![f64::NAN])), DataType::Int64),
            (Arc::new(Float64Array::from(vec![f64::NAN])), DataType::Decimal128(5, 2)),
            (Arc::new(Float64Array::from(vec![1.239])), DataType::Decimal128(5, 2)),
            (Arc::new(Float64Array::from(vec![1e300])), DataType::Float32),
            (decimal(150, 2), DataType::Int64),
            (decimal(155, 2), DataType::Decimal128(20, 1)),
            (text(&["1.239"]), DataType::Decimal128(5, 2)),
            (text(&["1.5"]), DataType::Int64),
            (text(&[""]), DataType::Int64),
            (text(&["2013-02-30"]), DataType::Date32),
            (text(&["2013-01-01 00:00:00.1234567"]), naive.clone()),
            (text(&["2013-01-01T00:00:00+05:00"]), naive.clone()),
            (text(&["2013-01-01T00:00:00"]), DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            (text(&["2013-02-28T23:00:00-05:00"]), DataType::Date32),
            (text(&["1e400"]), DataType::Float64),
            (Arc::new(TimestampNanosecondArray::from(vec![1])), naive.clone()),
            (Arc::new(Date32Array::from(vec![i32::MAX])), naive),
            (Arc::new(Date32Array::from(vec![i32::MAX])), DataType::Timestamp(TimeUnit::Nanosecond, None)),
            (Arc::new(BinaryArray::from(vec![&b"\xff"[..]])), DataType::Utf8),
        ];
        for (array, to) in cases {
            check_cast(array.data_type(), &to).unwrap();
            assert!(cast_exact(&array, &to).is_err(), "{array:?} to {to}");
        }
    }

    #[test]
    fn dictionaries_are_cast_by_value() {
        let dictionary: DictionaryArray<types::Int8Type> = [Some("3"), None, Some("4")].into_iter().collect();
        let result = cast_exact(&dictionary.slice(1, 2), &DataType::Int64).unwrap();
        assert_eq!(result.data_type(), &DataType::Int64);
        assert_eq!(show(&result), ["null", "4"]);
    }

    #[test]
    fn pairs_without_a_common_unit_are_refused() {
        for (from, to) in [
            (DataType::Int64, DataType::Timestamp(TimeUnit::Microsecond, None)),
            (DataType::Date32, DataType::Int32),
            (DataType::Boolean, DataType::Date32),
            (DataType::new_list(DataType::Int64, true), DataType::Int64),
            (DataType::Utf8, DataType::new_list(DataType::Int64, true)),
        ] {
            let error = check_cast(&from, &to).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SchemaMismatch, "{from} to {to}");
        }
    }

    #[test]
    fn the_first_failing_row_is_found() {
        for bad in 0..7 {
            assert_eq!(first_failing_row(7, |rows| rows > bad), bad);
        }
    }
}
