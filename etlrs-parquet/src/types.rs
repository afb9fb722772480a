use std::path::Path;
use std::sync::Arc;

use arrow_array::new_null_array;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema};
use etlrs_core::{Error, ErrorKind, Result, type_name};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};

use crate::error::{guarded, writing};

/// Types within one another that are written. The Arrow schema in the file is a FlatBuffer, which readers of Arrow verify up to
/// 64 tables within one another, and they refuse the whole file then.
const MOST_LEVELS: usize = 40;

/// How a schema is stored.
pub(crate) struct StoredSchema {
    pub(crate) root: TypePtr,
    /// Type of each column in the words of the format.
    pub(crate) columns: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Finds how `schema` is stored, and refuses what cannot be.
pub(crate) fn stored_schema(schema: &Schema, target: &Path) -> Result<StoredSchema> {
    if schema.fields().is_empty() {
        return Err(
            Error::new(ErrorKind::SchemaMismatch, "a Parquet file has at least one column").in_source(target.display())
        );
    }
    let mut notes = Vec::new();
    for field in schema.fields() {
        try_column(field, target).map_err(|error| {
            Error::new(
                ErrorKind::SchemaMismatch,
                format!("Parquet cannot hold the type {} ({})", type_name(field.data_type()), error.message()),
            )
            .hint(helpful_cast(field.data_type()))
            .in_source(target.display())
            .at_column(field.name())
        })?;
        if stored_as_bare_number(field.data_type()) {
            notes.push(format!(
                "column {:?} of type {} is stored as a plain number, which only readers of the Arrow schema understand",
                field.name(),
                type_name(field.data_type())
            ));
        }
    }
    let descriptor = ArrowSchemaConverter::new().convert(schema).map_err(|error| writing(target, error))?;
    let columns = descriptor.root_schema().get_fields().iter().map(|column| describe(column)).collect();
    Ok(StoredSchema { root: descriptor.root_schema_ptr(), columns, notes })
}

/// Encodes one null: what the writer leaves out shows only there.
fn try_column(field: &FieldRef, target: &Path) -> Result<()> {
    let refused = |what| Err(Error::new(ErrorKind::Unsupported, what));
    if levels(field.data_type()) > MOST_LEVELS {
        return refused("it is nested so deep that nobody could read it back");
    }
    if contains(field.data_type(), &|inner| matches!(inner, DataType::RunEndEncoded(..))) {
        return refused("it would be read back as another type");
    }
    if contains(field.data_type(), &|inner| matches!(inner, DataType::Union(..))) {
        return refused("the format has no unions");
    }
    guarded(target, || {
        let field = Arc::new(field.as_ref().clone().with_nullable(true));
        let schema = Arc::new(Schema::new(vec![field.clone()]));
        let encode = || {
            let root = ArrowSchemaConverter::new().convert(&schema)?.root_schema_ptr();
            let file = SerializedFileWriter::new(std::io::sink(), root, Arc::new(WriterProperties::default()))?;
            let columns = ArrowRowGroupWriterFactory::new(&file, schema.clone()).create_column_writers(0)?;
            for (mut column, leaf) in
                columns.into_iter().zip(compute_leaves(&field, &new_null_array(field.data_type(), 1))?)
            {
                column.write(&leaf)?;
                column.close()?;
            }
            Ok(())
        };
        encode().map_err(|error| writing(target, error))
    })
}

/// Types within one another.
fn levels(data_type: &DataType) -> usize {
    children(data_type).iter().map(|child| 1 + levels(child.data_type())).max().unwrap_or(0)
}

pub(crate) fn contains(data_type: &DataType, wanted: &dyn Fn(&DataType) -> bool) -> bool {
    wanted(data_type) || children(data_type).iter().any(|child| contains(child.data_type(), wanted))
}

fn children(data_type: &DataType) -> Vec<FieldRef> {
    match data_type {
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child)
        | DataType::FixedSizeList(child, _)
        | DataType::Map(child, _) => vec![child.clone()],
        DataType::Struct(children) => children.to_vec(),
        DataType::RunEndEncoded(_, values) => vec![values.clone()],
        _ => Vec::new(),
    }
}

fn helpful_cast(data_type: &DataType) -> String {
    match data_type {
        DataType::RunEndEncoded(_, values) => format!("cast it to {}", type_name(values.data_type())),
        DataType::Struct(fields) if fields.is_empty() => "leave the column out".to_owned(),
        _ => "cast it to text, or leave the column out".to_owned(),
    }
}

/// The format has timestamps and times of milliseconds and finer, and no durations.
fn stored_as_bare_number(data_type: &DataType) -> bool {
    use arrow_schema::TimeUnit::Second;
    matches!(
        data_type,
        DataType::Timestamp(Second, _) | DataType::Time32(Second) | DataType::Duration(_) | DataType::Date64
    )
}

/// A type in the words of the format: `INT64 (TIMESTAMP(MICROS,UTC))`, `LIST(INT32)`.
fn describe(node: &Type) -> String {
    let info = node.get_basic_info();
    let list = |fields: &[TypePtr]| fields.iter().map(|field| describe(field)).collect::<Vec<_>>().join(", ");
    match node {
        Type::PrimitiveType { physical_type, type_length, .. } => {
            let physical = match physical_type {
                parquet::basic::Type::FIXED_LEN_BYTE_ARRAY => format!("{physical_type}({type_length})"),
                _ => physical_type.to_string(),
            };
            match annotation(info.logical_type_ref(), info.converted_type()) {
                Some(annotation) => format!("{physical} ({annotation})"),
                None => physical,
            }
        }
        Type::GroupType { fields, .. } => match (info.logical_type_ref(), &fields[..]) {
            (Some(LogicalType::List), [repeated]) if repeated.is_group() => {
                format!("LIST({})", list(repeated.get_fields()))
            }
            (Some(LogicalType::Map), [entries]) if entries.is_group() => format!("MAP({})", list(entries.get_fields())),
            _ => {
                let fields: Vec<_> =
                    fields.iter().map(|field| format!("{} {}", field.name(), describe(field))).collect();
                format!("STRUCT({})", fields.join(", "))
            }
        },
    }
}

fn annotation(logical: Option<&LogicalType>, converted: ConvertedType) -> Option<String> {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::MILLIS => "MILLIS",
        TimeUnit::MICROS => "MICROS",
        TimeUnit::NANOS => "NANOS",
    };
    Some(match logical {
        Some(LogicalType::Timestamp(stamp)) => {
            let zone = if stamp.is_adjusted_to_u_t_c { "UTC" } else { "local" };
            format!("TIMESTAMP({},{zone})", unit(&stamp.unit))
        }
        Some(LogicalType::Time(time)) => format!("TIME({})", unit(&time.unit)),
        Some(LogicalType::Decimal(decimal)) => format!("DECIMAL({},{})", decimal.precision, decimal.scale),
        Some(LogicalType::Integer(integer)) => {
            format!("{}INT({})", if integer.is_signed { "" } else { "U" }, integer.bit_width)
        }
        Some(LogicalType::String) => "STRING".to_owned(),
        Some(LogicalType::Date) => "DATE".to_owned(),
        Some(LogicalType::Float16) => "FLOAT16".to_owned(),
        Some(LogicalType::Unknown) => "NULL".to_owned(),
        Some(other) => format!("{other:?}").to_uppercase(),
        None if converted == ConvertedType::NONE => return None,
        None => converted.to_string(),
    })
}

/// The first column in which `other` differs from `first`, with words that go on "… in NAME OF FIRST". Metadata does
/// not count.
pub(crate) fn first_difference(first: &Fields, other: &Fields) -> Option<(String, String)> {
    compare(
        first,
        other,
        |first, other| plain(first.data_type()) == plain(other.data_type()),
        |first, other| first.is_nullable() == other.is_nullable(),
    )
}

/// As [`first_difference`], for rows of `new` that are to go into a file of `old`: text is text however it is laid out
/// in memory, and a column without nulls fits into one that may have them.
pub(crate) fn first_misfit(old: &Fields, new: &Fields) -> Option<(String, String)> {
    compare(
        old,
        new,
        |old, new| fits(old.data_type(), new.data_type()),
        |old, new| old.is_nullable() || !new.is_nullable(),
    )
}

fn compare(
    first: &Fields,
    other: &Fields,
    same_type: impl Fn(&Field, &Field) -> bool,
    same_nulls: impl Fn(&Field, &Field) -> bool,
) -> Option<(String, String)> {
    for (index, (a, b)) in first.iter().zip(other).enumerate() {
        let difference = if a.name() != b.name() {
            format!("column {} has this name, and is {:?}", index + 1, a.name())
        } else if !same_type(a, b) {
            format!("the type is {}, and is {}", type_name(b.data_type()), type_name(a.data_type()))
        } else if !same_nulls(a, b) {
            let (here, there) = if b.is_nullable() { ("may", "must not") } else { ("must not", "may") };
            format!("values {here} be null, and {there} be")
        } else {
            continue;
        };
        return Some((b.name().clone(), difference));
    }
    match (first.get(other.len()), other.get(first.len())) {
        (Some(missing), _) => Some((missing.name().clone(), "the column is missing, and is there".to_owned())),
        (_, Some(extra)) => Some((extra.name().clone(), "the column is there, and is not".to_owned())),
        _ => None,
    }
}

fn fits(old: &DataType, new: &DataType) -> bool {
    let text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let bytes =
        |data_type: &DataType| matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    let value = |data_type: &DataType| match data_type {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    let (old_value, new_value) = (value(old), value(new));
    (text(&old_value) && text(&new_value)) || (bytes(&old_value) && bytes(&new_value)) || plain(old) == plain(new)
}

/// The type without the metadata of its inner fields.
fn plain(data_type: &DataType) -> DataType {
    let bare = |field: &FieldRef| Arc::new(Field::new(field.name(), plain(field.data_type()), field.is_nullable()));
    match data_type {
        DataType::List(child) => DataType::List(bare(child)),
        DataType::LargeList(child) => DataType::LargeList(bare(child)),
        DataType::ListView(child) => DataType::ListView(bare(child)),
        DataType::LargeListView(child) => DataType::LargeListView(bare(child)),
        DataType::FixedSizeList(child, length) => DataType::FixedSizeList(bare(child), *length),
        DataType::Map(entries, sorted) => DataType::Map(bare(entries), *sorted),
        DataType::Struct(children) => DataType::Struct(children.iter().map(bare).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{IntervalUnit, TimeUnit as Unit, UnionFields, UnionMode};

    use super::*;

    fn stored(data_type: DataType) -> Result<String> {
        let schema = Schema::new(vec![Field::new("c", data_type, true)]);
        stored_schema(&schema, Path::new("t.parquet")).map(|stored| stored.columns.join(";"))
    }

    #[test]
    fn types_are_told_in_the_words_of_the_format() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        for (data_type, expected) in [
            (DataType::Int64, "INT64"),
            (DataType::UInt16, "INT32 (UINT(16))"),
            (DataType::Utf8View, "BYTE_ARRAY (STRING)"),
            (DataType::LargeBinary, "BYTE_ARRAY"),
            (DataType::Date32, "INT32 (DATE)"),
            (DataType::Time64(Unit::Microsecond), "INT64 (TIME(MICROS))"),
            (DataType::Timestamp(Unit::Microsecond, Some("UTC".into())), "INT64 (TIMESTAMP(MICROS,UTC))"),
            (DataType::Timestamp(Unit::Nanosecond, None), "INT64 (TIMESTAMP(NANOS,local))"),
            (DataType::Decimal128(9, 2), "INT32 (DECIMAL(9,2))"),
            (DataType::Decimal256(76, 0), "FIXED_LEN_BYTE_ARRAY(32) (DECIMAL(76,0))"),
            (DataType::Float16, "FIXED_LEN_BYTE_ARRAY(2) (FLOAT16)"),
            (DataType::Interval(IntervalUnit::DayTime), "FIXED_LEN_BYTE_ARRAY(12) (INTERVAL)"),
            (DataType::List(item(DataType::Utf8)), "LIST(BYTE_ARRAY (STRING))"),
            (DataType::Struct(vec![item(DataType::Int32)].into()), "STRUCT(item INT32)"),
            (DataType::Null, "INT32 (NULL)"),
        ] {
            assert_eq!(stored(data_type.clone()).unwrap(), expected, "{data_type}");
        }
    }

    /// As many lists and structs within one another.
    fn nested(levels: usize) -> DataType {
        (0..levels).fold(DataType::Int64, |inner, level| {
            let field = Arc::new(Field::new("item", inner, true));
            if level % 2 == 0 { DataType::List(field) } else { DataType::Struct(vec![field].into()) }
        })
    }

    #[test]
    fn what_cannot_be_held_is_refused_with_column_and_cast() {
        let item = Arc::new(Field::new("item", DataType::Interval(IntervalUnit::MonthDayNano), true));
        let ends = Arc::new(Field::new("run_ends", DataType::Int32, false));
        let values = Arc::new(Field::new("values", DataType::Int64, true));
        for (data_type, cast) in [
            (DataType::Interval(IntervalUnit::MonthDayNano), "cast it to text"),
            (DataType::List(item), "cast it to text"),
            (DataType::Union(UnionFields::empty(), UnionMode::Sparse), "cast it to text"),
            (DataType::RunEndEncoded(ends, values), "cast it to int64"),
            (DataType::Struct(Fields::empty()), "leave the column out"),
            (nested(MOST_LEVELS + 1), "cast it to text"),
        ] {
            let error = stored(data_type.clone()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SchemaMismatch, "{data_type}");
            let text = error.to_string();
            assert!(text.contains("column \"c\"") && text.contains(cast) && !text.contains("damaged"), "{text}");
        }
        assert!(stored_schema(&Schema::empty(), Path::new("t")).is_err());
    }

    #[test]
    fn the_first_difference_is_named() {
        let fields = |fields: &[(&str, DataType, bool)]| -> Fields {
            fields.iter().map(|(name, data_type, nullable)| Field::new(*name, data_type.clone(), *nullable)).collect()
        };
        let old = fields(&[("a", DataType::Int64, true), ("b", DataType::LargeUtf8, true)]);
        for (new, column, difference, misfit) in [
            (
                fields(&[("a", DataType::Int32, true), ("b", DataType::LargeUtf8, true)]),
                "a",
                "int32, and is int64",
                true,
            ),
            (fields(&[("a", DataType::Int64, true), ("b", DataType::Utf8, true)]), "b", "the type is text", false),
            (fields(&[("a", DataType::Int64, false), ("b", DataType::LargeUtf8, true)]), "a", "null", false),
            (fields(&[("a", DataType::Int64, true)]), "b", "is missing", true),
            (fields(&[("x", DataType::Int64, true), ("b", DataType::LargeUtf8, true)]), "x", "is \"a\"", true),
        ] {
            let (found, words) = first_difference(&old, &new).unwrap();
            assert!(found == column && words.contains(difference), "{found}: {words}");
            assert_eq!(first_misfit(&old, &new).is_some(), misfit, "{words}");
        }
        assert_eq!(first_difference(&old, &old), None);
    }
}
