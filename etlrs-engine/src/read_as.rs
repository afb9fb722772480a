//! How a record that was set aside is read once more, as it is written down beside it.

use std::sync::Arc;

use arrow_schema::{DataType, Schema};
use etlrs_core::{ColumnTypes, OptionMap, OptionValue, RecordFormat, parse_type, type_name};
use serde::{Deserialize, Serialize};

/// A [`RecordFormat`] as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadAs {
    pub(crate) connector: String,
    pub(crate) options: OptionMap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) header: Option<String>,
    pub(crate) columns: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) delicate: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) line_ends_are_spaces: bool,
    /// Columns of text whose values are hexadecimal digits of bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) binary: Vec<String>,
}

impl ReadAs {
    /// Of a record as its source has it.
    pub(crate) fn of_source(format: RecordFormat) -> Self {
        let RecordFormat { connector, options, header, columns, delicate, line_ends_are_spaces, .. } = format;
        Self { connector, options, header, columns, delicate, line_ends_are_spaces, binary: Vec::new() }
    }

    /// Of rows of `schema` that were written as JSON objects. `None` if a column has a name that no list can have.
    pub(crate) fn of_rows(schema: &Schema) -> Option<Self> {
        use DataType::{Binary, BinaryView, FixedSizeBinary, LargeBinary};
        let is_binary =
            |data_type: &DataType| matches!(data_type, Binary | LargeBinary | BinaryView | FixedSizeBinary(_));
        let fields = schema.fields().iter().map(|field| {
            let data_type = field.data_type();
            let is_text = is_binary(data_type) || !data_type.is_nested() && parse_type(&type_name(data_type)).is_err();
            if is_text { field.as_ref().clone().with_data_type(DataType::Utf8) } else { field.as_ref().clone() }
        });
        let types = ColumnTypes::of(&Schema::new(fields.collect::<Vec<_>>()))?;
        let mut options: OptionMap = [("layout", "lines"), ("sample", "full"), ("times", "false")]
            .map(|(key, value)| (key.into(), value.into()))
            .into();
        if !types.0.is_empty() {
            options.insert("types".into(), types.show());
        }
        let names = || schema.fields().iter();
        Some(Self {
            connector: "json".into(),
            options,
            columns: names().map(|field| field.name().clone()).collect(),
            line_ends_are_spaces: true,
            binary: names().filter(|field| is_binary(field.data_type())).map(|field| field.name().clone()).collect(),
            ..Self::default()
        })
    }

    pub(crate) fn to_text(&self) -> Arc<str> {
        // Text in maps and lists can always be written.
        serde_json::to_string(self).map(Arc::from).unwrap_or_default()
    }

    /// As it was written down. `None` if another version did.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{Field, TimeUnit};

    use super::*;

    #[test]
    fn rows_are_read_with_the_types_that_they_had() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let schema = Schema::new(vec![
            field("a", DataType::Decimal128(10, 2)),
            field("b", DataType::LargeBinary),
            field("c", DataType::Timestamp(TimeUnit::Nanosecond, None)),
            field("d", DataType::List(Arc::new(field("item", DataType::Int64)))),
        ]);
        let format = ReadAs::of_rows(&schema).unwrap();
        assert_eq!(format.options["types"], "a:decimal(10,2),b:text,c:text");
        assert_eq!((format.columns.join(","), format.binary.join(",")), ("a,b,c,d".into(), "b".into()));
        assert_eq!(ReadAs::parse(&format.to_text()), Some(format));
        assert_eq!(ReadAs::of_rows(&Schema::new(vec![field("a,b", DataType::Utf8)])), None);
        assert_eq!(ReadAs::parse("{}"), None);
    }
}
