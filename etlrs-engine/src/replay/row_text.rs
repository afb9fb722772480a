//! Rows that were written as JSON objects, back into columns.
//!
//! Each value was written as it is shown, so its text is cast to the type that its column had. What a user writes in place of a row is
//! read in the same way.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::BinaryBuilder;
use arrow_array::{
    ArrayRef, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch, RecordBatchOptions,
    StringArray, StructArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, Fields, SchemaRef};
use etlrs_core::{Error, ErrorKind, Result, type_name};
use serde_json::value::RawValue;

use super::rows::bytes_of;

/// Rows of `schema` from their texts.
///
/// # Errors
/// `InvalidData` for the first that is none, naming the column if one is at fault.
pub(super) fn rows_of(schema: &SchemaRef, texts: &[&[u8]]) -> Result<RecordBatch> {
    let objects = texts.iter().map(|text| object(text)).collect::<Result<Vec<_>>>()?;
    for object in &objects {
        if let Some(key) = object.keys().find(|key| schema.field_with_name(key).is_err()) {
            return Err(invalid(format!("there is no column {key:?}")));
        }
    }
    let columns = schema.fields().iter().map(|field| {
        let values: Vec<Value<'_>> = objects.iter().map(|object| object.get(field.name().as_str()).copied()).collect();
        column(field, &values).map_err(|error| error.at_column(field.name()))
    });
    let options = RecordBatchOptions::new().with_row_count(Some(texts.len()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_>>()?, &options)?)
}

type Value<'a> = Option<&'a RawValue>;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, message.into())
}

fn object(text: &[u8]) -> Result<HashMap<String, &RawValue>> {
    serde_json::from_slice(text).map_err(|_| invalid("the row is no JSON object"))
}

fn is_null(value: Value<'_>) -> bool {
    value.is_none_or(|value| value.get() == "null")
}

/// The text of a string, or of something else that is not nested.
fn text(value: Value<'_>) -> Result<Option<String>> {
    let Some(value) = value.filter(|value| !is_null(Some(value))) else { return Ok(None) };
    match value.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(value.get()).map(Some).map_err(|_| invalid("the string is malformed")),
        Some(b'{' | b'[') => Err(invalid("the value is nested")),
        _ => Ok(Some(value.get().to_owned())),
    }
}

fn column(field: &Field, values: &[Value<'_>]) -> Result<ArrayRef> {
    if !field.is_nullable() && values.iter().any(|value| is_null(*value)) {
        return Err(invalid("the value is missing"));
    }
    let nulls = || Some(NullBuffer::from_iter(values.iter().map(|value| !is_null(*value))));
    let wrong = || invalid(format!("the value is no {}", type_name(field.data_type())));
    match field.data_type() {
        DataType::Null => Ok(arrow_array::new_null_array(&DataType::Null, values.len())),
        DataType::Struct(fields) => members(fields, values, nulls()).map(|members| Arc::new(members) as ArrayRef),
        DataType::List(item) => list::<i32>(item, values, nulls()),
        DataType::LargeList(item) => list::<i64>(item, values, nulls()),
        DataType::FixedSizeList(item, length) => {
            let size = usize::try_from(*length).map_err(|_| wrong())?;
            let mut all: Vec<Value<'_>> = Vec::new();
            for value in values {
                let found = items(*value)?;
                match found.len() == size {
                    true => all.extend(found.into_iter().map(Some)),
                    false if is_null(*value) => all.extend(std::iter::repeat_n(None, size)),
                    false => return Err(wrong()),
                }
            }
            // What stands where the list is null is of no meaning.
            let item = Arc::new(item.as_ref().clone().with_nullable(true));
            let array = FixedSizeListArray::try_new(item.clone(), *length, column(&item, &all)?, nulls())?;
            cast(&(Arc::new(array) as ArrayRef), field.data_type())
        }
        DataType::Map(entries, ordered) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err(wrong()) };
            let (all, lengths) = flattened(values)?;
            let entries_array = members(fields, &all, None)?;
            let offsets = OffsetBuffer::from_lengths(lengths);
            Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, entries_array, nulls(), *ordered)?))
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let mut bytes = BinaryBuilder::new();
            for value in values {
                bytes.append_option(text(*value)?.map(|digits| bytes_of(&digits).ok_or_else(wrong)).transpose()?);
            }
            cast(&(Arc::new(bytes.finish()) as ArrayRef), field.data_type())
        }
        other => {
            let texts = values.iter().map(|value| text(*value)).collect::<Result<Vec<_>>>()?;
            if let DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) = other
                && texts.iter().flatten().any(|text| fraction(text) > usize::try_from(*scale).unwrap_or(0))
            {
                return Err(wrong());
            }
            let texts: ArrayRef = Arc::new(texts.into_iter().collect::<StringArray>());
            cast(&texts, other).map_err(|_| wrong())
        }
    }
}

/// Digits behind the point that say something.
fn fraction(text: &str) -> usize {
    text.split_once('.').map_or(0, |(_, digits)| digits.trim_end_matches('0').len())
}

fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    Ok(cast_with_options(column, to, &CastOptions { safe: false, ..CastOptions::default() })?)
}

fn members(fields: &Fields, values: &[Value<'_>], nulls: Option<NullBuffer>) -> Result<StructArray> {
    let read = |value: &Value<'_>| -> Result<Option<HashMap<String, Box<RawValue>>>> {
        let Some(value) = value.filter(|value| !is_null(Some(value))) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|_| invalid("the value is no object"))
    };
    let objects = values.iter().map(read).collect::<Result<Vec<_>>>()?;
    let columns = fields.iter().map(|field| {
        let of_member = |object: &'_ Option<HashMap<String, Box<RawValue>>>| {
            object.as_ref().and_then(|object| object.get(field.name()).cloned())
        };
        let found: Vec<Option<Box<RawValue>>> = objects.iter().map(of_member).collect();
        let found: Vec<Value<'_>> = found.iter().map(Option::as_deref).collect();
        // What stands where the struct is null is of no meaning.
        let is_null_within = |at: usize| objects.get(at).is_some_and(Option::is_none);
        if !field.is_nullable() && (0..found.len()).any(is_null_within) {
            return Err(invalid("a value within it is missing"));
        }
        column(field, &found)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    if fields.is_empty() {
        return Ok(StructArray::new_empty_fields(values.len(), nulls));
    }
    Ok(StructArray::try_new(fields.clone(), columns, nulls)?)
}

fn items<'a>(value: Value<'a>) -> Result<Vec<&'a RawValue>> {
    match value.filter(|value| !is_null(Some(value))) {
        Some(value) => serde_json::from_str(value.get()).map_err(|_| invalid("the value is no list")),
        None => Ok(Vec::new()),
    }
}

/// The items of all lists, one behind the other, and how many each has.
fn flattened<'a>(values: &[Value<'a>]) -> Result<(Vec<Value<'a>>, Vec<usize>)> {
    let (mut all, mut lengths) = (Vec::new(), Vec::with_capacity(values.len()));
    for value in values {
        let found = items(*value)?;
        lengths.push(found.len());
        all.extend(found.into_iter().map(Some));
    }
    Ok((all, lengths))
}

fn list<O: OffsetSizeTrait>(item: &FieldRef, values: &[Value<'_>], nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    let (all, lengths) = flattened(values)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(GenericListArray::<O>::try_new(item.clone(), offsets, column(item, &all)?, nulls)?))
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
    use arrow_array::*;
    use arrow_schema::{Schema, TimeUnit};

    use super::*;
    use crate::transform::row_as_json;

    fn again(batch: &RecordBatch) -> RecordBatch {
        let texts: Vec<Vec<u8>> = (0..batch.num_rows()).map(|row| row_as_json(batch, row)).collect();
        let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        rows_of(&batch.schema(), &texts).unwrap()
    }

    #[test]
    fn values_are_what_they_were_whatever_their_type() {
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(1), None]);
        lists.append_null();
        lists.append_value([]);
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        map.keys().append_value("k \"é\"");
        map.values().append_value(7);
        map.append(true).unwrap();
        map.append(false).unwrap();
        map.append(true).unwrap();
        let part: ArrayRef = Arc::new(StringArray::from(vec![Some("{\"a\":1}"), None, Some("null")]));
        let parts = StructArray::new(
            vec![Field::new("p", DataType::Utf8, true)].into(),
            vec![part.clone()],
            Some(vec![true, false, true].into()),
        );
        let micros = TimestampMicrosecondArray::from(vec![Some(-1), None, Some(1_709_164_800_123_456)]);
        let nanos = TimestampNanosecondArray::from(vec![Some(1), None, Some(1_709_164_800_123_456_789)]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)]))),
            ("uint64", Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)]))),
            ("float32", Arc::new(Float32Array::from(vec![Some(f32::MIN_POSITIVE), None, Some(0.1)]))),
            ("float64", Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::INFINITY), Some(1e300)]))),
            ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("text", Arc::new(StringArray::from(vec![Some(""), None, Some("\"a\n\u{1}\\é𝄞 null")]))),
            ("large text", Arc::new(LargeStringArray::from(vec![Some("x"), None, Some("007")]))),
            (
                "view, too",
                Arc::new(StringViewArray::from(vec![Some("x"), None, Some("a long text that is not inlined")])),
            ),
            ("binary", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None, Some(b"")]))),
            ("date", Arc::new(Date32Array::from(vec![Some(-719_528), None, Some(19_782)]))),
            ("time", Arc::new(Time64MicrosecondArray::from(vec![Some(0), None, Some(86_399_999_999)]))),
            ("micros", Arc::new(micros.clone())),
            ("nanos", Arc::new(nanos)),
            ("utc", Arc::new(micros.clone().with_timezone("UTC"))),
            ("berlin", Arc::new(micros.with_timezone("Europe/Berlin"))),
            (
                "decimal",
                Arc::new(
                    Decimal128Array::from(vec![
                        Some(-1),
                        None,
                        Some(99_999_999_999_999_999_999_999_999_999_999_999_999),
                    ])
                    .with_precision_and_scale(38, 10)
                    .unwrap(),
                ),
            ),
            ("list", Arc::new(lists.finish())),
            ("map", Arc::new(map.finish())),
            ("struct", Arc::new(parts)),
            ("dictionary", Arc::new(DictionaryArray::<types::Int32Type>::from_iter([Some("a"), None, Some("b")]))),
        ];
        let fields: Vec<_> =
            columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
        let found = again(&batch);
        for (field, (found, expected)) in
            batch.schema().fields().iter().zip(found.columns().iter().zip(batch.columns()))
        {
            assert_eq!(found, expected, "{}", field.name());
        }
        assert!(crate::read_as::ReadAs::of_rows(&batch.schema()).is_some());
    }

    #[test]
    fn what_is_no_row_is_refused() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int32, false),
            Field::new("d", DataType::Decimal128(5, 2), true),
            Field::new("t", DataType::Timestamp(TimeUnit::Second, None), true),
        ]));
        let refused = |text: &str| rows_of(&schema, &[text.as_bytes()]).unwrap_err().to_string();
        for (text, told) in [
            ("{\"n\":1} {}", "the row is no JSON object"),
            ("[1]", "the row is no JSON object"),
            ("", "the row is no JSON object"),
            ("{\"n\":null}", "column \"n\": the value is missing"),
            ("{}", "column \"n\": the value is missing"),
            ("{\"n\":1.5}", "column \"n\": the value is no int32"),
            ("{\"n\":3000000000}", "column \"n\": the value is no int32"),
            ("{\"n\":[1]}", "column \"n\": the value is nested"),
            ("{\"n\":1,\"d\":1.005}", "column \"d\": the value is no decimal(5,2)"),
            ("{\"n\":1,\"d\":1000}", "column \"d\": the value is no decimal(5,2)"),
            ("{\"n\":1,\"x\":1}", "there is no column \"x\""),
        ] {
            assert_eq!(refused(text), told, "{text}");
        }
        assert_eq!(rows_of(&schema, &[b"{\"n\":1,\"d\":1.500}"]).unwrap().num_rows(), 1);
    }
}
