use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Schema, TimeUnit};

use crate::{Error, ErrorKind, OptionArgument, OptionValue, Result};

/// Names of types, as users write them, with what they stand for. The first name of each is the one that is shown.
const TYPES: &[(&[&str], DataType)] = &[
    (&["bool", "boolean"], DataType::Boolean),
    (&["int8", "tinyint"], DataType::Int8),
    (&["int16", "smallint"], DataType::Int16),
    (&["int32", "int", "integer"], DataType::Int32),
    (&["int64", "bigint"], DataType::Int64),
    (&["uint8"], DataType::UInt8),
    (&["uint16"], DataType::UInt16),
    (&["uint32"], DataType::UInt32),
    (&["uint64"], DataType::UInt64),
    (&["float32", "real", "float"], DataType::Float32),
    (&["float64", "double"], DataType::Float64),
    (&["text", "string", "varchar"], DataType::Utf8),
    (&["binary", "bytes", "blob"], DataType::Binary),
    (&["date"], DataType::Date32),
    (&["time"], DataType::Time64(TimeUnit::Microsecond)),
    (&["timestamp", "datetime"], DataType::Timestamp(TimeUnit::Microsecond, None)),
];

/// The key under which Arrow keeps what a column means beyond its type.
const EXTENSION: &str = "ARROW:extension:name";

/// Whether a column of text is marked as [JSON](https://arrow.apache.org/docs/format/CanonicalExtensions.html#json).
pub fn is_json_text(field: &Field) -> bool {
    matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        && field.metadata().get(EXTENSION).is_some_and(|name| name == "arrow.json")
}

/// The column, marked as one whose text is JSON.
#[must_use]
pub fn as_json_text(field: Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(EXTENSION.to_owned(), "arrow.json".to_owned());
    metadata.insert("ARROW:extension:metadata".to_owned(), String::new());
    field.with_metadata(metadata)
}

/// The column without that mark, and without whatever else is remembered of it: what a user wants to be just text.
#[must_use]
pub fn without_json_mark(field: &Field) -> Field {
    Field::new(field.name(), field.data_type().clone(), field.is_nullable())
}

/// The type that a user names: `int64`, `decimal(12,2)`, `timestamptz`. Names are not case-sensitive.
///
/// Times and timestamps count microseconds; `timestamptz` is in UTC. A decimal of up to 38 digits takes 16 bytes, one
/// of up to 76 takes 32.
///
/// ```
/// use etlrs_core::{DataType, parse_type};
///
/// assert_eq!(parse_type("bigint")?, DataType::Int64);
/// assert_eq!(parse_type("decimal(12, 2)")?, DataType::Decimal128(12, 2));
/// # Ok::<(), etlrs_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidConfig`, with the types that there are.
pub fn parse_type(text: &str) -> Result<DataType> {
    let name = text.trim().to_ascii_lowercase();
    if name == "timestamptz" {
        return Ok(DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))));
    }
    if let Some(digits) = name.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')) {
        return parse_decimal(digits).ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, format!("{text:?} is no decimal type"))
                .hint("write decimal(P,S) with at most P = 76 digits, S of them after the point")
        });
    }
    TYPES.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, data_type)| data_type.clone()).ok_or_else(
        || {
            let names: Vec<_> =
                TYPES.iter().map(|(names, _)| names[0]).chain(["timestamptz", "decimal(P,S)"]).collect();
            crate::unknown_name("type", text, &names)
        },
    )
}

fn parse_decimal(digits: &str) -> Option<DataType> {
    let (precision, scale) = digits.split_once(',').unwrap_or((digits, "0"));
    let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
    if scale < 0 || i16::from(scale) > i16::from(precision) {
        return None;
    }
    match precision {
        1..=38 => Some(DataType::Decimal128(precision, scale)),
        39..=76 => Some(DataType::Decimal256(precision, scale)),
        _ => None,
    }
}

/// The short name of a type, as [`parse_type`] reads it where it can; of nested ones `list<int64>`, `struct<a int64, b text>`
/// and `map<text, int64>`.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("list<{}>", type_name(item.data_type()))
        }
        DataType::FixedSizeList(item, length) => format!("list<{}, {length}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let member = |field: &FieldRef| format!("{} {}", field.name(), type_name(field.data_type()));
            format!("struct<{}>", fields.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let parts = fields.iter().map(|field| type_name(field.data_type()));
                format!("map<{}>", parts.collect::<Vec<_>>().join(", "))
            }
            other => format!("map<{}>", type_name(other)),
        },
        DataType::Dictionary(_, values) => type_name(values),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => "timestamptz".to_owned(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("decimal({precision},{scale})")
        }
        DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        other => TYPES
            .iter()
            .find(|(_, known)| known == other)
            .map_or_else(|| other.to_string(), |(names, _)| names[0].to_owned()),
    }
}

/// Types of single columns, written `id:text,price:decimal(12,2)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnTypes(pub Vec<(String, DataType)>);

impl ColumnTypes {
    /// The type given for `column`, if there is one.
    pub fn get(&self, column: &str) -> Option<&DataType> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, data_type)| data_type)
    }
}

impl ColumnTypes {
    /// Those of `schema`, as far as they have a [name](parse_type); of nested columns none. `None` if a column has a name that
    /// cannot be written in a list.
    pub fn of(schema: &Schema) -> Option<Self> {
        let types = schema.fields().iter().filter_map(|field| {
            let data_type = parse_type(&type_name(field.data_type())).ok()?;
            Some((field.name().clone(), data_type))
        });
        let types = Self(types.collect());
        let is_written =
            types.0.is_empty() || <Self as OptionValue>::parse(&types.show()).is_ok_and(|read| read == types);
        is_written.then_some(types)
    }
}

impl<N: Into<String>, const COUNT: usize> OptionArgument<ColumnTypes> for [(N, DataType); COUNT] {
    fn into_option_value(self) -> ColumnTypes {
        ColumnTypes(self.into_iter().map(|(name, data_type)| (name.into(), data_type)).collect())
    }
}

impl OptionValue for ColumnTypes {
    const KIND: &'static str = "list of COLUMN:TYPE, separated by commas";

    fn parse(text: &str) -> Result<Self, String> {
        let mut types = Vec::new();
        let mut depth = 0;
        let items = text.split(|c| {
            depth += match c {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            c == ',' && depth == 0
        });
        for item in items {
            let (name, data_type) =
                item.rsplit_once(':').ok_or_else(|| format!("{item:?} is not of the form COLUMN:TYPE"))?;
            types.push((name.to_owned(), parse_type(data_type).map_err(|error| error.to_string())?));
        }
        Ok(Self(types))
    }

    fn show(&self) -> String {
        let items: Vec<_> = self.0.iter().map(|(name, data_type)| format!("{name}:{}", type_name(data_type))).collect();
        items.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_types() {
        for text in ["bool", "int64", "text", "timestamp", "timestamptz", "decimal(38,10)", "decimal(76,0)", "time"] {
            assert_eq!(type_name(&parse_type(text).unwrap()), text);
        }
        for text in ["", "int65", "decimal(0,0)", "decimal(77,0)", "decimal(5,6)", "decimal(5,-1)", "decimal(x)"] {
            assert_eq!(parse_type(text).unwrap_err().kind(), ErrorKind::InvalidConfig, "{text}");
        }
    }

    #[test]
    fn nested_types_are_named_by_their_parts() {
        use arrow_schema::Field;
        let list = |inner| DataType::List(Arc::new(Field::new("item", inner, true)));
        let part = DataType::Struct(
            vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)].into(),
        );
        let key = Field::new("keys", DataType::Utf8, false);
        let entries = DataType::Struct(vec![key, Field::new("values", list(DataType::Date32), true)].into());
        let map = DataType::Map(Arc::new(Field::new("entries", entries, false)), false);
        for (data_type, name) in [(list(part), "list<struct<a int64, b text>>"), (map, "map<text, list<date>>")] {
            assert_eq!(type_name(&data_type), name);
        }
    }

    #[test]
    fn column_types_are_written_as_a_list() {
        let types = <ColumnTypes as OptionValue>::parse("a:b:text,price:decimal(12,2),n:int64").unwrap();
        assert_eq!(types.get("a:b"), Some(&DataType::Utf8));
        assert_eq!(types.get("price"), Some(&DataType::Decimal128(12, 2)));
        assert_eq!(types.show(), "a:b:text,price:decimal(12,2),n:int64");
        assert!(<ColumnTypes as OptionValue>::parse("a").is_err());
        let of =
            |name: &str, data_type: DataType| ColumnTypes::of(&Schema::new(vec![Field::new(name, data_type, true)]));
        assert_eq!(of("a:b", DataType::LargeUtf8).unwrap().show(), "a:b:text");
        assert_eq!(of("a", DataType::List(Arc::new(Field::new("item", DataType::Int8, true)))).unwrap().show(), "");
        assert_eq!(of("a,b", DataType::Utf8), None);
        assert!(<ColumnTypes as OptionValue>::parse("a:nothing").unwrap_err().contains("there is bool"));
    }
}
