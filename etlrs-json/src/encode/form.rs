//! What becomes of each Arrow type as JSON.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};

use etlrs_core::is_json_text;

/// How values of a column are written.
#[derive(Debug)]
pub(crate) struct Form {
    /// In words.
    pub(crate) described: &'static str,
    /// The type as which they are read back with nothing lost; there is none for some.
    pub(crate) read_as: Option<DataType>,
}

/// Why a type cannot be written, and the cast that would help.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) hint: &'static str,
}

/// What binary columns are described as.
pub(crate) const HEXADECIMAL: &str = "string of hexadecimal digits";

/// What columns of JSON are described as.
pub(crate) const JSON: &str = "JSON as it is";

/// How values of `field` are written.
pub(crate) fn form(field: &Field) -> Result<Form, Refusal> {
    use DataType::*;
    let form = |described, read_as| Ok(Form { described, read_as: Some(read_as) });
    match field.data_type() {
        _ if is_json_text(field) => Ok(Form { described: JSON, read_as: None }),
        Null => form("null", Null),
        Boolean => form("true or false", Boolean),
        data_type if data_type.is_integer() => form("number", data_type.clone()),
        Float16 => form("number", Float32),
        Float32 | Float64 => form("number", field.data_type().clone()),
        &Decimal32(precision, scale)
        | &Decimal64(precision, scale)
        | &Decimal128(precision, scale)
        | &Decimal256(precision, scale) => {
            let readable = precision <= 38 && u8::try_from(scale).is_ok_and(|scale| scale <= precision);
            Ok(Form { described: "number", read_as: readable.then_some(Decimal128(precision, scale)) })
        }
        Date32 => form("YYYY-MM-DD", Date32),
        Time32(_) | Time64(_) => form("HH:MM:SS", Time64(TimeUnit::Microsecond)),
        Timestamp(_, None) => form("YYYY-MM-DDTHH:MM:SS", Timestamp(TimeUnit::Microsecond, None)),
        Timestamp(_, zone @ Some(_)) => form("YYYY-MM-DDTHH:MM:SSZ", Timestamp(TimeUnit::Microsecond, zone.clone())),
        Utf8 | LargeUtf8 | Utf8View => form("string", Utf8),
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Ok(Form { described: HEXADECIMAL, read_as: None }),
        Dictionary(_, values) if values.is_nested() => {
            Err(Refusal { reason: "has no form in JSON", hint: "leave the column out" })
        }
        Dictionary(_, values) => self::form(&Field::new(field.name(), values.as_ref().clone(), true)),
        Struct(fields) => {
            let (mut read, mut names) = (Some(Vec::new()), HashSet::new());
            for field in fields {
                if !names.insert(field.name()) {
                    return Err(Refusal { reason: "has two members of one name", hint: "leave the column out" });
                }
                let form = self::form(field)?;
                read = read.zip(form.read_as).map(|(mut fields, data_type)| {
                    fields.push(Field::new(field.name(), data_type, true));
                    fields
                });
            }
            Ok(Form {
                described: "object",
                read_as: read.filter(|fields| !fields.is_empty()).map(|fields| Struct(fields.into())),
            })
        }
        List(item) | LargeList(item) | FixedSizeList(item, _) => {
            let read_as = self::form(item)?.read_as;
            let list = |data_type| List(Arc::new(Field::new("item", data_type, true)));
            Ok(Form { described: "list", read_as: read_as.map(list) })
        }
        Map(entries, _) => match entries.data_type() {
            Struct(fields) => match &fields[..] {
                [key, value] if matches!(key.data_type(), Utf8 | LargeUtf8 | Utf8View) && !is_json_text(key) => {
                    self::form(value)?;
                    Ok(Form { described: "object", read_as: None })
                }
                _ => Err(Refusal { reason: "has keys that are no text", hint: "leave the column out" }),
            },
            _ => Err(Refusal { reason: "is no map", hint: "leave the column out" }),
        },
        Date64 => Err(Refusal { reason: "is a date in milliseconds", hint: "cast it to date or timestamp" }),
        Duration(_) | Interval(_) => {
            Err(Refusal { reason: "has no form in JSON that is read back", hint: "cast it to int64 or text" })
        }
        _ => Err(Refusal { reason: "has no form in JSON", hint: "cast it to text, or leave the column out" }),
    }
}
