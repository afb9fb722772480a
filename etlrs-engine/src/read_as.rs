//! How a record that was set aside is read once more, as it is written down beside it.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Schema};
use etlrs_core::{OptionMap, RecordFormat};
use serde::{Deserialize, Serialize};

/// As JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum ReadAs {
    /// A row that was written as a JSON object, with these columns.
    Rows { rows: Vec<FieldRef> },
    /// A record as its source has it.
    Source(SourceFormat),
}

/// A [`RecordFormat`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceFormat {
    pub(crate) connector: String,
    pub(crate) options: OptionMap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) header: Option<String>,
    pub(crate) columns: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) delicate: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) line_ends_are_spaces: bool,
}

impl ReadAs {
    pub(crate) fn of_source(format: RecordFormat) -> Self {
        let RecordFormat { connector, options, header, columns, delicate, line_ends_are_spaces, .. } = format;
        Self::Source(SourceFormat { connector, options, header, columns, delicate, line_ends_are_spaces })
    }

    /// Of rows of `schema`. `None` if some value could not be read from its text.
    pub(crate) fn of_rows(schema: &Schema) -> Option<Self> {
        let rows: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        rows.iter().all(|field| is_readable(field.data_type())).then_some(Self::Rows { rows })
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

/// Whether the text of a value leads back to it.
fn is_readable(data_type: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Dictionary, FixedSizeBinary, FixedSizeList, LargeBinary, LargeList, List, Map, Null, Struct,
    };
    match data_type {
        Null | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => true,
        List(item) | LargeList(item) | FixedSizeList(item, _) | Map(item, _) => is_readable(item.data_type()),
        Struct(fields) => fields.iter().all(|field| is_readable(field.data_type())),
        Dictionary(_, values) => is_readable(values),
        // Those are not written as JSON has them.
        other if other.is_nested() => false,
        other => arrow_cast::can_cast_types(&DataType::Utf8, other),
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{Field, TimeUnit};

    use super::*;

    #[test]
    fn what_is_written_down_is_read() {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let schema = Schema::new(vec![
            field("a,b", DataType::Decimal256(60, 2)),
            field("c", DataType::Timestamp(TimeUnit::Nanosecond, Some("Europe/Berlin".into()))),
            field("d", DataType::List(Arc::new(field("item", DataType::Int64)))),
        ]);
        let rows = ReadAs::of_rows(&schema).unwrap();
        assert_eq!(ReadAs::parse(&rows.to_text()), Some(rows));
        let mut format = RecordFormat::new("csv");
        format.header = Some("a".into());
        let source = ReadAs::of_source(format);
        assert_eq!(ReadAs::parse(&source.to_text()), Some(source));
        assert_eq!(ReadAs::parse("{}"), None);
        // Of which no text is read.
        let views = DataType::ListView(Arc::new(field("item", DataType::Int64)));
        assert_eq!(ReadAs::of_rows(&Schema::new(vec![field("v", views)])), None);
    }
}
