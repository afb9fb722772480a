//! What becomes of each Arrow type as text.

use arrow_schema::{DataType, TimeUnit};

/// How values of a type are written.
#[derive(Debug)]
pub(crate) struct Form {
    /// In words.
    pub(crate) described: &'static str,
    /// The type as which they are read back with nothing lost; there is none for some.
    pub(crate) read_as: Option<DataType>,
    /// Whether a field could be such a value by its letters.
    pub(crate) may_be: fn(&str) -> bool,
}

/// Why a type cannot be written, and the cast that would help.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) hint: &'static str,
}

/// How values of `data_type` are written.
pub(crate) fn form(data_type: &DataType) -> Result<Form, Refusal> {
    use DataType::*;
    let moment = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || b"-: .Z".contains(&byte));
    let form = |described, read_as, may_be| Ok(Form { described, read_as: Some(read_as), may_be });
    match data_type {
        Null => form("always null", Utf8, |_| false),
        Boolean => form("true or false", Boolean, |text| matches!(text, "true" | "false")),
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => form("integer", data_type.clone(), number),
        Float16 => form("number", Float32, number_or_word),
        Float32 | Float64 => form("number", data_type.clone(), number_or_word),
        &Decimal32(precision, scale)
        | &Decimal64(precision, scale)
        | &Decimal128(precision, scale)
        | &Decimal256(precision, scale) => {
            let readable = precision <= 38 && u8::try_from(scale).is_ok_and(|scale| scale <= precision);
            let read_as = readable.then_some(Decimal128(precision, scale));
            Ok(Form { described: "decimal number", read_as, may_be: number })
        }
        Date32 => form("YYYY-MM-DD", Date32, moment),
        Time32(_) | Time64(_) => form("HH:MM:SS", Time64(TimeUnit::Microsecond), moment),
        Timestamp(_, None) => form("YYYY-MM-DD HH:MM:SS", Timestamp(TimeUnit::Microsecond, None), moment),
        Timestamp(_, zone @ Some(_)) => {
            form("YYYY-MM-DD HH:MM:SSZ", Timestamp(TimeUnit::Microsecond, zone.clone()), moment)
        }
        Utf8 | LargeUtf8 | Utf8View => form("text", Utf8, |_| false),
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => Ok(Form {
            described: HEXADECIMAL,
            read_as: None,
            may_be: |text| text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        }),
        Dictionary(_, values) => self::form(values),
        Date64 => Err(Refusal { reason: "is a date in milliseconds", hint: "cast it to date or timestamp" }),
        Duration(_) | Interval(_) => {
            Err(Refusal { reason: "has no form in CSV that is read back", hint: "cast it to int64 or text" })
        }
        _ => Err(Refusal {
            reason: "has no form in CSV, whose fields are single values",
            hint: "cast it to text, or leave the column out",
        }),
    }
}

/// What binary columns are described as.
pub(crate) const HEXADECIMAL: &str = "hexadecimal digits";

fn number(text: &str) -> bool {
    let signs = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    text.bytes().all(signs) && text.bytes().any(|byte| byte.is_ascii_digit())
}

fn number_or_word(text: &str) -> bool {
    matches!(text, "NaN" | "inf" | "-inf") || number(text)
}
