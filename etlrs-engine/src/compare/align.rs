//! Columns of two sides in types whose values have equal hashes if they are equal.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, Int64Array, NullArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use arrow_select::nullif::nullif;
use etlrs_core::{Error, ErrorKind, Result, row_hashes, type_name};

use crate::transform::{cast_or_null, check_cast};

/// How one side of a column is cast: to this type, or not at all.
pub(super) type Casts = Vec<Option<DataType>>;

/// What has to be cast on both sides, column by column; and what a user should know of it.
///
/// # Errors
/// `SchemaMismatch` for types that have no values in common.
pub(super) fn align(source: &Schema, target: &Schema, notes: &mut Vec<String>) -> Result<[Casts; 2]> {
    let mut casts = [Vec::new(), Vec::new()];
    for (source, target) in source.fields().iter().zip(target.fields()) {
        let (from, to) = (source.data_type(), target.data_type());
        let pair = pair(from, to).filter(|pair| {
            let can =
                |data_type, cast: &Option<DataType>| cast.as_ref().is_none_or(|to| check_cast(data_type, to).is_ok());
            can(from, &pair[0]) && can(to, &pair[1])
        });
        let Some(pair) = pair else {
            let (from, to) = (type_name(from), type_name(to));
            let message = format!("a column of {from} cannot be compared with one of {to} at the target");
            return Err(Error::new(ErrorKind::SchemaMismatch, message)
                .hint("leave it out by --columns, or read it with another type by the option types")
                .at_column(source.name()));
        };
        if let ((Kind::Timestamp(one), Kind::Timestamp(other)), true) = ((kind_of(from), kind_of(to)), pair == NONE)
            && one != other
        {
            notes.push(format!("column {:?} has a time zone on one side only, and is compared as UTC", source.name()));
        }
        let is_truth = |data_type: &DataType| kind_of(data_type) == Kind::Boolean;
        if pair.iter().flatten().next().is_some() || is_truth(from) != is_truth(to) {
            let (from, to) = (type_name(from), type_name(to));
            notes.push(format!("column {:?} is {from} at the source and {to} at the target", source.name()));
        }
        let [of_source, of_target] = pair;
        casts[0].push(of_source);
        casts[1].push(of_target);
    }
    Ok(casts)
}

const NONE: [Option<DataType>; 2] = [None, None];

/// The casts of both sides; `None` if their values have nothing in common.
fn pair(source: &DataType, target: &DataType) -> Option<[Option<DataType>; 2]> {
    use Kind::*;
    let (one, other) = (kind_of(source), kind_of(target));
    let (of_source, of_target) = (|to: DataType| Some([Some(to), None]), |to: DataType| Some([None, Some(to)]));
    match (&one, &other) {
        // What a float of 32 bits says of a number is not known any better on the other side.
        (Float, Float) if is_single(source) && !is_single(target) => of_target(DataType::Float32),
        (Null, _) | (_, Null) => Some(NONE),
        (one, other) if one == other => Some(NONE),
        // Integers are hashed so too.
        (Boolean, Exact(0)) | (Exact(0), Boolean) | (Timestamp(_), Timestamp(_)) => Some(NONE),
        // At the finer scale, which takes no digit away, with room for any digits before the point.
        (Exact(one), Exact(other)) if one < other => of_source(DataType::Decimal256(76, *other)),
        (Exact(scale), Exact(_)) => of_target(DataType::Decimal256(76, *scale)),
        (Exact(scale), Float) => of_target(decimal(source, *scale)),
        (Float, Exact(scale)) => of_source(decimal(target, *scale)),
        // The one that is midnight for the other.
        (Date, Timestamp(_)) => of_source(DataType::Timestamp(TimeUnit::Microsecond, None)),
        (Timestamp(_), Date) => of_target(DataType::Timestamp(TimeUnit::Microsecond, None)),
        // The type that says more.
        (List(_) | Struct(_) | Map(_), Text) => of_source(DataType::LargeUtf8),
        (Text, List(_) | Struct(_) | Map(_)) => of_target(DataType::LargeUtf8),
        (Text, Bytes | Other(_)) | (Bytes | Other(_), Text) => None,
        (Text, _) => of_source(target.clone()),
        (_, Text) => of_target(source.clone()),
        _ => None,
    }
}

fn is_single(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float16 | DataType::Float32)
}

/// A decimal for floats that are compared with values of `exact`.
fn decimal(exact: &DataType, scale: i8) -> DataType {
    match exact {
        DataType::Decimal256(..) => DataType::Decimal256(76, scale),
        _ => DataType::Decimal128(38, scale),
    }
}

/// Values of types of one kind have equal hashes if they are equal.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Boolean,
    /// Integers and decimals, with digits behind the point.
    Exact(i8),
    Float,
    Text,
    Bytes,
    Date,
    Time,
    Timestamp(bool),
    Duration,
    List(Box<Kind>),
    Struct(Vec<(String, Kind)>),
    Map(Box<Kind>),
    Other(DataType),
}

pub(super) fn kind_of(data_type: &DataType) -> Kind {
    use DataType::*;
    match data_type {
        Null => Kind::Null,
        Boolean => Kind::Boolean,
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => Kind::Exact(0),
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => Kind::Exact(*scale),
        Float16 | Float32 | Float64 => Kind::Float,
        Utf8 | LargeUtf8 | Utf8View => Kind::Text,
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Kind::Bytes,
        Date32 => Kind::Date,
        Time32(_) | Time64(_) => Kind::Time,
        Date64 => Kind::Timestamp(false),
        Timestamp(_, zone) => Kind::Timestamp(zone.is_some()),
        Duration(_) => Kind::Duration,
        Dictionary(_, values) => kind_of(values),
        List(item) | LargeList(item) | FixedSizeList(item, _) => Kind::List(Box::new(kind_of(item.data_type()))),
        Struct(fields) => {
            Kind::Struct(fields.iter().map(|field| (field.name().clone(), kind_of(field.data_type()))).collect())
        }
        Map(entries, _) => Kind::Map(Box::new(kind_of(entries.data_type()))),
        other => Kind::Other(other.clone()),
    }
}

/// `batch`, of one side, as it is compared: its columns cast, and behind them one for each column that is cast on either side, with
/// something of each value that could not be.
pub(super) fn aligned(batch: &RecordBatch, casts: &Casts, others: &Casts) -> Result<RecordBatch> {
    if casts.iter().chain(others).all(Option::is_none) {
        return Ok(batch.clone());
    }
    let (mut columns, mut misfits): (Vec<ArrayRef>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    for ((column, cast), other) in batch.columns().iter().zip(casts).zip(others) {
        match cast {
            Some(to) => {
                let cast = cast_plain(column, to)?;
                misfits.push(misfit(column, &cast)?);
                columns.push(cast);
            }
            None => {
                if other.is_some() {
                    misfits.push(Arc::new(NullArray::new(column.len())));
                }
                columns.push(column.clone());
            }
        }
    }
    columns.append(&mut misfits);
    unnamed(columns, batch.num_rows())
}

/// The hash of each value that `cast` has lost.
fn misfit(column: &ArrayRef, cast: &ArrayRef) -> Result<ArrayRef> {
    if cast.logical_null_count() == column.logical_null_count() {
        return Ok(Arc::new(NullArray::new(column.len())));
    }
    let (before, after) = (column.logical_nulls(), cast.logical_nulls());
    let is_null =
        |nulls: &Option<arrow_buffer::NullBuffer>, row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    let hashes = row_hashes(&unnamed(vec![column.clone()], column.len())?)?;
    let lost = hashes.into_iter().enumerate().map(|(row, hash)| {
        // As bits.
        (!is_null(&before, row) && is_null(&after, row)).then_some(hash.cast_signed())
    });
    Ok(Arc::new(lost.collect::<Int64Array>()))
}

fn unnamed(columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let fields = columns.iter().map(|column| Field::new("", column.data_type().clone(), true));
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// The columns of the key, which are at `keys`, as they are compared. A value that cannot be cast is null there, which puts its row
/// into the wrong group, and finds it to be different there.
pub(super) fn key_of(batch: &RecordBatch, keys: &[usize], casts: &Casts) -> Result<RecordBatch> {
    let key = |at: &usize| match casts.get(*at).and_then(Option::as_ref) {
        Some(to) => cast_plain(batch.column(*at), to),
        None => Ok(batch.column(*at).clone()),
    };
    unnamed(keys.iter().map(key).collect::<Result<_>>()?, batch.num_rows())
}

/// `column` as `to`; null where that has no such value, and where a text spells it otherwise than it is written.
fn cast_plain(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let texts = match column.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => arrow_cast::cast(column, &DataType::LargeUtf8)?,
        _ => return cast_or_null(column, to),
    };
    let odd = texts.as_string::<i64>().iter().map(|text| Some(text.is_some_and(|text| !is_plain(text, to))));
    cast_or_null(&nullif(&texts, &odd.collect::<BooleanArray>())?, to)
}

/// Whether a text is a way to write a value of `to` that loses nothing: `007` is no 7, and a day with a time is no date.
fn is_plain(text: &str, to: &DataType) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match kind_of(to) {
        Kind::Boolean => matches!(text, "true" | "false"),
        Kind::Exact(_) | Kind::Float => {
            let text = text.strip_prefix('-').unwrap_or(text);
            let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
            let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
            let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let is_short = whole.len() == 1 || !whole.starts_with('0');
            // NaN and the infinities, in their one spelling.
            matches!(text, "NaN" | "inf" | "Infinity")
                || is_short && [whole, fraction, exponent].into_iter().all(digits)
        }
        Kind::Date => text.len() == 10,
        _ => text.trim() == text,
    }
}

/// What a source that can only guess types is told of those of the other side: all but those that it finds itself, where being told
/// would hide that a text is not quite one of them.
pub(super) fn lent(schema: &Schema) -> Schema {
    use DataType::*;
    let finds = |data_type: &DataType| {
        matches!(data_type, Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | Date32)
    };
    Schema::new(schema.fields().iter().filter(|field| !finds(field.data_type())).cloned().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use arrow_array::*;
    use arrow_cast::cast;

    use super::*;

    /// The rows of both arrays that count as equal.
    fn equal(source: &ArrayRef, target: &ArrayRef) -> Option<Vec<bool>> {
        let schema = |array: &ArrayRef| Schema::new(vec![Field::new("x", array.data_type().clone(), true)]);
        let [of_source, of_target] = align(&schema(source), &schema(target), &mut Vec::new()).ok()?;
        let hashes = |array: &ArrayRef, casts: &Casts, others: &Casts| {
            let batch = RecordBatch::try_new(Arc::new(schema(array)), vec![array.clone()]).unwrap();
            row_hashes(&aligned(&batch, casts, others).unwrap()).unwrap()
        };
        let (one, other) = (hashes(source, &of_source, &of_target), hashes(target, &of_target, &of_source));
        Some(one.iter().zip(&other).map(|(one, other)| one == other).collect())
    }

    /// A key has the same hash on both sides if its values are equal, whichever side is cast.
    #[test]
    fn keys_of_other_types_are_found() {
        use DataType::*;
        let micro = Timestamp(TimeUnit::Microsecond, None);
        for (from, to, text) in [
            (Int64, Utf8, "7"),
            (Int64, Float64, "7"),
            (Decimal128(12, 2), Int32, "7"),
            (Utf8, Decimal128(12, 2), "7.50"),
            (Date32, micro.clone(), "2024-01-02"),
            (micro, Utf8, "2024-01-02T03:04:05"),
        ] {
            for (from, to) in [(&from, &to), (&to, &from)] {
                let (source, target) = (of(&[Some(text)], from), of(&[Some(text)], to));
                let schema = |array: &ArrayRef| Schema::new(vec![Field::new("k", array.data_type().clone(), true)]);
                let casts = align(&schema(&source), &schema(&target), &mut Vec::new()).unwrap();
                let hash = |array: &ArrayRef, casts: &Casts| {
                    let batch = RecordBatch::try_new(Arc::new(schema(array)), vec![array.clone()]).unwrap();
                    row_hashes(&key_of(&batch, &[0], casts).unwrap()).unwrap()
                };
                assert_eq!(hash(&source, &casts[0]), hash(&target, &casts[1]), "{from} and {to}");
            }
        }
    }

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn of(values: &[Option<&str>], data_type: &DataType) -> ArrayRef {
        cast(&texts(values), data_type).unwrap()
    }

    /// Types and values of both sides, and which of them are equal.
    type Case<'a> = (DataType, &'a [Option<&'a str>], DataType, &'a [Option<&'a str>], &'a [bool]);

    #[test]
    fn values_are_equal_if_they_mean_the_same() {
        use DataType::*;
        let micro = Timestamp(TimeUnit::Microsecond, None);
        let utc = Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let cases: &[Case] = &[
            (Int32, &[Some("5"), Some("5"), None], Int64, &[Some("5"), Some("6"), None], &[true, false, true]),
            (Int64, &[Some("7"), Some("7")], Decimal128(12, 2), &[Some("7.00"), Some("7.01")], &[true, false]),
            (
                Decimal128(9, 1),
                &[Some("1.5"), Some("12345678.5")],
                Decimal128(5, 3),
                &[Some("1.500"), None],
                &[true, false],
            ),
            (
                Decimal128(12, 3),
                &[Some("1.500"), Some("1.501")],
                Decimal128(12, 1),
                &[Some("1.5"), Some("1.5")],
                &[true, false],
            ),
            (
                Float64,
                &[Some("0.1"), Some("2.5")],
                Decimal128(38, 19),
                &[Some("0.1000000000000000055"), Some("2.5")],
                &[false, true],
            ),
            (Decimal128(9, 1), &[Some("1.5"), Some("1.5")], Float64, &[Some("1.5"), Some("1.55")], &[true, false]),
            (Int64, &[Some("5"), Some("5")], Float64, &[Some("5"), Some("5.5")], &[true, false]),
            (Float32, &[Some("0.1"), Some("0.1")], Float64, &[Some("0.1"), Some("0.2")], &[true, false]),
            (Float64, &[Some("0.5"), Some("0.1")], Float32, &[Some("0.5"), Some("0.1")], &[true, false]),
            (
                Date32,
                &[Some("2024-01-01"), Some("2024-01-01")],
                micro.clone(),
                &[Some("2024-01-01T00:00:00"), Some("2024-01-01T17:30:00")],
                &[true, false],
            ),
            (
                micro.clone(),
                &[Some("2024-01-01T00:00:00"), Some("2024-01-01T17:30:00")],
                Date32,
                &[Some("2024-01-01"), Some("2024-01-01")],
                &[true, false],
            ),
            (micro.clone(), &[Some("2024-01-01T10:00:00")], utc, &[Some("2024-01-01T10:00:00Z")], &[true]),
            // A text that is no number is no null, nor any other such text.
            (Int64, &[Some("5"), Some("5"), None], Utf8, &[Some("5"), Some("abc"), Some("abc")], &[true, false, false]),
            (Utf8, &[Some("a"), None, Some("true")], Boolean, &[None, None, Some("true")], &[false, true, true]),
            (
                Utf8,
                &[Some("007"), Some(" 7"), Some("7")],
                Int64,
                &[Some("7"), Some("7"), Some("7")],
                &[false, false, true],
            ),
            (Float64, &[Some("1.5"), Some("1e21")], Utf8, &[Some("1.50"), Some("1e21")], &[true, true]),
            (
                Date32,
                &[Some("2024-01-02"), Some("2024-01-02")],
                Utf8,
                &[Some("2024-01-02T12:34:56"), Some("2024-01-02")],
                &[false, true],
            ),
            (Boolean, &[Some("true"), Some("true")], Int64, &[Some("1"), Some("5")], &[true, false]),
        ];
        for (from, source, to, target, expected) in cases {
            let found = equal(&of(source, from), &of(target, to));
            assert_eq!(found.as_deref(), Some(*expected), "{from} {source:?} and {to} {target:?}");
        }
    }

    #[test]
    fn what_has_no_values_in_common_is_not_compared() {
        use DataType::*;
        let time = Time64(TimeUnit::Microsecond);
        for (from, to) in [
            (time.clone(), Timestamp(TimeUnit::Microsecond, None)),
            (Timestamp(TimeUnit::Microsecond, None), time),
            (Date32, Int32),
            (Binary, Utf8),
        ] {
            let empty = |data_type: &DataType| new_empty_array(data_type);
            assert_eq!(equal(&empty(&from), &empty(&to)), None, "{from} and {to}");
        }
    }
}
