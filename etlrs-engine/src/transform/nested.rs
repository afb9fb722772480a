//! Structs and lists taken apart.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow_buffer::ArrowNativeType;
use arrow_schema::{DataType, Field, FieldRef, SchemaRef};
use arrow_select::nullif::nullif;
use arrow_select::take::take;
use etlrs_core::{
    BatchStream, BoundTransformer, Error, ErrorKind, Result, RunContext, Transformer, batch_bytes, column_index,
    flat_map_stream, type_name,
};

use super::{batch_of, row_wise, schema_of};

/// Puts the members of structs in the place of their column, under the name of the column and their own: `address` with a
/// member `city` becomes `address_city`.
///
/// Structs within structs are taken apart as well. Where a struct is null its members are.
///
/// ```
/// use etlrs_engine::Flatten;
///
/// let all = Flatten::all();
/// let one = Flatten::columns(["address"]).separator(".");
/// # let _ = (all, one);
/// ```
#[derive(Clone, Debug)]
pub struct Flatten {
    /// `None`: all that are structs.
    columns: Option<Vec<String>>,
    separator: String,
}

impl Flatten {
    /// Of every column that is a struct.
    pub fn all() -> Self {
        Self { columns: None, separator: "_".to_owned() }
    }

    /// Of these columns.
    pub fn columns<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: Some(columns.into_iter().map(Into::into).collect()), ..Self::all() }
    }

    /// What stands between the names. Default: `_`.
    #[must_use]
    pub fn separator(mut self, separator: impl Into<String>) -> Self {
        self.separator = separator.into();
        self
    }

    /// Adds the columns that `field` becomes, and the way to each: which member of which member.
    fn members(&self, field: &FieldRef, way: &[usize], fields: &mut Vec<FieldRef>, ways: &mut Vec<Vec<usize>>) {
        let DataType::Struct(members) = field.data_type() else {
            fields.push(field.clone());
            ways.push(way.to_vec());
            return;
        };
        for (index, member) in members.iter().enumerate() {
            let name = [field.name(), self.separator.as_str(), member.name()].concat();
            let nullable = field.is_nullable() || member.is_nullable();
            let member = member.as_ref().clone().with_name(name).with_nullable(nullable);
            self.members(&Arc::new(member), &[way, &[index]].concat(), fields, ways);
        }
    }
}

impl Transformer for Flatten {
    fn name(&self) -> &str {
        "flatten"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let mut wanted = vec![self.columns.is_none(); input.fields().len()];
        for name in self.columns.iter().flatten() {
            let position = column_index(input, name)?;
            let data_type = input.field(position).data_type();
            if !matches!(data_type, DataType::Struct(_)) {
                let message = format!("only a struct has members, and this is {}", type_name(data_type));
                return Err(Error::new(ErrorKind::SchemaMismatch, message).at_column(name));
            }
            wanted[position] = true;
        }
        let (mut fields, mut ways) = (Vec::new(), Vec::new());
        for (position, field) in input.fields().iter().enumerate() {
            if wanted[position] {
                self.members(field, &[position], &mut fields, &mut ways);
            } else {
                fields.push(field.clone());
                ways.push(vec![position]);
            }
        }
        let schema = schema_of(input, fields).map_err(|error| error.hint("flatten with another separator"))?;
        Ok(row_wise("flatten", schema.clone(), move |batch| {
            let columns = ways.iter().map(|way| member(batch, way)).collect::<Result<_>>()?;
            batch_of(&schema, columns, batch.num_rows())
        }))
    }
}

/// The column, or the member of a column, to which `way` leads.
fn member(batch: &RecordBatch, way: &[usize]) -> Result<ArrayRef> {
    let (first, within) = way.split_first().ok_or_else(|| Error::new(ErrorKind::Internal, "a column has no place"))?;
    let mut column = batch.column(*first).clone();
    for index in within {
        let parent = column.as_struct();
        let member = parent.column(*index).clone();
        let hidden = parent.nulls().filter(|nulls| nulls.null_count() > 0 && *member.data_type() != DataType::Null);
        column = match hidden {
            Some(nulls) => nullif(&member, &(!nulls.inner()).into())?,
            None => member,
        };
    }
    Ok(column)
}

/// Makes a row of each item of a list, with the other columns as they are.
///
/// A row whose list is null or has no items stays, with a null for the item, unless [`drop_empty`](Self::drop_empty) says
/// otherwise. The items of a map are structs of `key` and `value`. An item that is a struct can be taken apart by
/// [`Flatten`].
///
/// ```
/// use etlrs_engine::{Flatten, Unnest};
///
/// let rows = Unnest::new("items").position("line");
/// let columns = Flatten::columns(["items"]);
/// # let _ = (rows, columns);
/// ```
#[derive(Clone, Debug)]
pub struct Unnest {
    column: String,
    position: Option<String>,
    drop_empty: bool,
}

impl Unnest {
    /// Of a column of lists, which becomes one of their items.
    pub fn new(column: impl Into<String>) -> Self {
        Self { column: column.into(), position: None, drop_empty: false }
    }

    /// Adds a column with the place of each item in its list, from 1; null where there is no item.
    #[must_use]
    pub fn position(mut self, column: impl Into<String>) -> Self {
        self.position = Some(column.into());
        self
    }

    /// Rows without items go.
    #[must_use]
    pub fn drop_empty(mut self) -> Self {
        self.drop_empty = true;
        self
    }
}

impl Transformer for Unnest {
    fn name(&self) -> &str {
        "unnest"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let place = column_index(input, &self.column)?;
        let field = input.field(place);
        let item = match field.data_type() {
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::Map(item, _) => item,
            other => {
                let message = format!("only a list has items, and this is {}", type_name(other));
                return Err(Error::new(ErrorKind::SchemaMismatch, message).at_column(&self.column));
            }
        };
        let mut fields = input.fields().to_vec();
        let nullable = item.is_nullable() || !self.drop_empty;
        fields[place] = Arc::new(item.as_ref().clone().with_name(&self.column).with_nullable(nullable));
        if let Some(name) = &self.position {
            fields.push(Arc::new(Field::new(name, DataType::Int64, !self.drop_empty)));
        }
        let (with_position, drop_empty) = (self.position.is_some(), self.drop_empty);
        Ok(Arc::new(BoundUnnest { schema: schema_of(input, fields)?, place, with_position, drop_empty }))
    }
}

struct BoundUnnest {
    schema: SchemaRef,
    place: usize,
    with_position: bool,
    drop_empty: bool,
}

impl BoundTransformer for BoundUnnest {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn is_row_wise(&self) -> bool {
        true
    }

    fn apply(&self, cx: &RunContext, input: BatchStream) -> BatchStream {
        let (schema, place, most_rows) = (self.schema.clone(), self.place, cx.config().batch_size.max(1));
        let (with_position, drop_empty, most_bytes) = (self.with_position, self.drop_empty, cx.batch_memory());
        flat_map_stream(input, move |batch| {
            let lists = Lists::of(batch.column(place))?;
            // A list may make many rows, each with a copy of all other columns.
            let bytes = batch_bytes(&batch) / batch.num_rows().max(1);
            let rows = (most_bytes / bytes.max(1)).clamp(1, most_rows);
            let schema = schema.clone();
            let others: Vec<_> = (0..batch.num_columns()).filter(|&column| column != place).collect();
            let others = batch.project(&others)?;
            let parts =
                Items { lists, others, drop_empty, row: 0, item: 0, rows: batch.num_rows(), most: rows, most_bytes };
            Ok(parts.map(move |part| part.rows(&schema, &batch, place, with_position)))
        })
    }
}

/// The items of a column of lists.
#[derive(Clone)]
struct Lists {
    items: ArrayRef,
    /// Of each row; empty where the list is null.
    ranges: Arc<[Range<usize>]>,
}

impl Lists {
    fn of(column: &ArrayRef) -> Result<Self> {
        fn between<O: ArrowNativeType>(offsets: &[O]) -> Vec<Range<usize>> {
            offsets.windows(2).map(|pair| pair[0].as_usize()..pair[1].as_usize()).collect()
        }
        let (items, mut ranges) = match column.data_type() {
            DataType::List(_) => (column.as_list::<i32>().values().clone(), between(column.as_list::<i32>().offsets())),
            DataType::LargeList(_) => {
                (column.as_list::<i64>().values().clone(), between(column.as_list::<i64>().offsets()))
            }
            DataType::Map(..) => {
                (Arc::new(column.as_map().entries().clone()) as ArrayRef, between(column.as_map().offsets()))
            }
            DataType::FixedSizeList(..) => {
                let lists = column.as_fixed_size_list();
                let length = lists.value_length().as_usize();
                (lists.values().clone(), (0..lists.len()).map(|row| row * length..(row + 1) * length).collect())
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("{} was not planned to be unnested", type_name(other)),
                ));
            }
        };
        // What a list that is null points at is nobody's.
        for (_, range) in ranges.iter_mut().enumerate().filter(|(row, _)| column.is_null(*row)) {
            *range = 0..0;
        }
        Ok(Self { items, ranges: ranges.into() })
    }
}

/// The rows that are made of a batch, in parts.
struct Items {
    lists: Lists,
    drop_empty: bool,
    /// The next item.
    row: usize,
    item: usize,
    rows: usize,
    /// The columns that are copied for each item.
    others: RecordBatch,
    /// Rows in a part at the most.
    most: usize,
    /// Bytes of a part that the copies of rows with many items may have; one is always taken.
    most_bytes: usize,
}

/// A row with more items is measured by itself: it may be much larger than the others.
const MANY: usize = 16;

/// Rows that are made of a batch: for each the row, and the item if there is one with its place.
struct Part {
    items: ArrayRef,
    row: Vec<u64>,
    item: Vec<Option<u64>>,
    position: Vec<Option<i64>>,
}

impl Iterator for Items {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        let mut part =
            Part { items: self.lists.items.clone(), row: Vec::new(), item: Vec::new(), position: Vec::new() };
        let mut copies = 0;
        while self.row < self.rows && part.row.len() < self.most {
            let range = self.lists.ranges[self.row].clone();
            if range.is_empty() {
                if !self.drop_empty {
                    part.row.push(self.row as u64);
                    part.item.push(None);
                    part.position.push(None);
                }
                self.row += 1;
                continue;
            }
            let mut taken = (range.len() - self.item).min(self.most - part.row.len());
            if range.len() > MANY {
                let width = batch_bytes(&self.others.slice(self.row, 1)).max(1);
                let room = self.most_bytes.saturating_sub(copies) / width;
                taken = taken.min(room.max(usize::from(part.row.is_empty())));
                copies += taken * width;
                if taken == 0 {
                    break;
                }
            }
            part.row.resize(part.row.len() + taken, self.row as u64);
            part.item.extend((range.start + self.item..).take(taken).map(|item| Some(item as u64)));
            part.position.extend((self.item as i64 + 1..).take(taken).map(Some));
            self.item += taken;
            if self.item == range.len() {
                (self.row, self.item) = (self.row + 1, 0);
            }
        }
        (!part.row.is_empty()).then_some(part)
    }
}

impl Part {
    fn rows(self, schema: &SchemaRef, batch: &RecordBatch, place: usize, with_position: bool) -> Result<RecordBatch> {
        let (rows, items) = (UInt64Array::from(self.row), UInt64Array::from(self.item));
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (index, column) in batch.columns().iter().enumerate() {
            columns.push(if index == place { take(&self.items, &items, None)? } else { take(column, &rows, None)? });
        }
        if with_position {
            columns.push(Arc::new(Int64Array::from(self.position)));
        }
        batch_of(schema, columns, rows.len())
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::StructArray;
    use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
    use arrow_array::types::Int64Type;
    use etlrs_core::{PerformanceConfig, batches_from_iter, next_batch};
    use proptest::prelude::*;

    use super::*;
    use crate::transform::testing::{refused, run, run_one};

    fn column(values: Vec<Option<i64>>) -> ArrayRef {
        Arc::new(Int64Array::from(values))
    }

    fn ints(column: &dyn Array) -> Vec<Option<i64>> {
        column.as_primitive::<Int64Type>().iter().collect()
    }

    fn named(names: &SchemaRef) -> Vec<&str> {
        names.fields().iter().map(|field| field.name().as_str()).collect()
    }

    fn field(name: &str, array: &ArrayRef) -> FieldRef {
        Arc::new(Field::new(name, array.data_type().clone(), true))
    }

    /// x, a struct of y and of a struct of z, and w.
    fn nested() -> RecordBatch {
        let (y, z) = (column(vec![Some(1), Some(2), Some(3)]), column(vec![Some(4), Some(5), Some(6)]));
        let inner: ArrayRef =
            Arc::new(StructArray::new(vec![field("z", &z)].into(), vec![z], Some(vec![true, false, true].into())));
        let outer: ArrayRef = Arc::new(StructArray::new(
            vec![field("y", &y), field("in", &inner)].into(),
            vec![y, inner],
            Some(vec![true, true, false].into()),
        ));
        let w = column(vec![Some(7), Some(8), Some(9)]);
        RecordBatch::try_from_iter_with_nullable([("x", outer, true), ("w", w, true)]).unwrap()
    }

    #[test]
    fn members_of_structs_are_columns_and_null_where_a_struct_is() {
        let output = run_one(&Flatten::all(), nested()).unwrap();
        assert_eq!(named(&output.schema()), ["x_y", "x_in_z", "w"]);
        assert_eq!(ints(output.column(0)), [Some(1), Some(2), None]);
        assert_eq!(ints(output.column(1)), [Some(4), None, None]);
        let sliced = run_one(&Flatten::columns(["x"]).separator("."), nested().slice(1, 2)).unwrap();
        assert_eq!(named(&sliced.schema()), ["x.y", "x.in.z", "w"]);
        assert_eq!(ints(sliced.column(0)), [Some(2), None]);
        assert_eq!(ints(sliced.column(2)), [Some(8), Some(9)]);
        let wrong = refused(&Flatten::columns(["w"]), &nested()).to_string();
        assert!(wrong.contains("column \"w\"") && wrong.contains("this is int64"), "{wrong}");
    }

    /// One row of a megabyte with many items, among small ones: the copies of it do not come all at once.
    #[test]
    fn copies_of_a_large_row_keep_to_the_size_of_a_batch() {
        let (mut texts, mut lists) = (StringBuilder::new(), ListBuilder::new(Int64Builder::new()));
        for row in 0..1000 {
            texts.append_value("x".repeat(if row == 500 { 1 << 20 } else { 10 }));
            let items = if row == 500 { 300 } else { 1 };
            lists.append_value((0..items).map(Some));
        }
        let columns = [("t", Arc::new(texts.finish()) as ArrayRef), ("items", Arc::new(lists.finish()) as ArrayRef)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let cx = RunContext::new(PerformanceConfig { max_memory_usage: 64 << 20, ..PerformanceConfig::default() });
        let bound = Unnest::new("items").bind(batch.schema_ref()).unwrap();
        let mut stream = bound.apply(&cx, batches_from_iter([Ok(batch)]));
        let mut rows = 0;
        futures_util::FutureExt::now_or_never(async {
            while let Some(batch) = next_batch(&mut stream).await {
                let batch = batch.unwrap();
                assert!(batch_bytes(&batch) <= 2 * cx.batch_memory(), "{} rows", batch.num_rows());
                rows += batch.num_rows();
            }
        })
        .unwrap();
        assert_eq!(rows, 999 + 300);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (unnest, expected) in [
            (Unnest::new("w"), "only a list has items, and this is int64"),
            (Unnest::new("v"), "there is no column \"v\""),
        ] {
            let error = refused(&unnest, &nested()).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn entries_of_maps_are_structs() {
        let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        map.keys().append_value("a");
        map.values().append_value(1);
        map.append(true).unwrap();
        map.append(true).unwrap();
        let batch =
            RecordBatch::try_from_iter_with_nullable([("m", Arc::new(map.finish()) as ArrayRef, true)]).unwrap();
        let rows = run_one(&Unnest::new("m"), batch).unwrap();
        assert_eq!(rows.num_rows(), 2);
        let flat = run_one(&Flatten::all(), rows).unwrap();
        assert_eq!(ints(flat.column(1)), [Some(1), None]);
    }

    proptest! {
        #[test]
        fn each_item_is_a_row(
            rows in prop::collection::vec((any::<i64>(), prop::option::of(prop::collection::vec(any::<Option<i64>>(), 0..5))), 1..20),
            batch_size in 1usize..9,
            from in 0usize..5,
            drop_empty: bool,
        ) {
            let mut lists = ListBuilder::new(Int64Builder::new());
            for (_, list) in &rows {
                lists.append_option(list.clone());
            }
            let batch = RecordBatch::try_from_iter_with_nullable([
                ("id", column(rows.iter().map(|(id, _)| Some(*id)).collect()), true),
                ("l", Arc::new(lists.finish()) as ArrayRef, true),
            ]).unwrap();
            let from = from.min(rows.len());
            let mut unnest = Unnest::new("l").position("n");
            if drop_empty {
                unnest = unnest.drop_empty();
            }
            let bound = unnest.bind(&batch.schema()).unwrap();
            let cx = RunContext::new(PerformanceConfig::default().with_batch_size(batch_size));
            let mut stream = bound.apply(&cx, batches_from_iter([Ok(batch.slice(from, rows.len() - from))]));
            let mut found = Vec::new();
            while let Some(part) = futures_util::FutureExt::now_or_never(next_batch(&mut stream)).unwrap() {
                let part = part.unwrap();
                prop_assert!((1..=batch_size).contains(&part.num_rows()));
                let columns: Vec<_> = part.columns().iter().map(|column| ints(column)).collect();
                found.extend((0..part.num_rows()).map(|row| (columns[0][row], columns[1][row], columns[2][row])));
            }
            let mut expected = Vec::new();
            for (id, list) in &rows[from..] {
                let items = list.clone().unwrap_or_default();
                if items.is_empty() && !drop_empty {
                    expected.push((Some(*id), None, None));
                }
                expected.extend(items.into_iter().zip(1..).map(|(item, at)| (Some(*id), item, Some(at))));
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn lists_of_other_layouts_are_unnested_too() {
        let fixed = arrow_array::FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(
            [Some([Some(1), Some(2)]), None, Some([None, Some(4)])],
            2,
        );
        let large = arrow_array::LargeListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1), Some(2)]),
            None,
            Some(vec![None, Some(4)]),
        ]);
        for lists in [Arc::new(fixed) as ArrayRef, Arc::new(large)] {
            let batch = RecordBatch::try_from_iter_with_nullable([("l", lists, true)]).unwrap();
            let output = run(&Unnest::new("l"), vec![batch]).unwrap();
            assert_eq!(ints(output[0].column(0)), [Some(1), Some(2), None, None, Some(4)]);
        }
    }
}
