//! A join with a table that is small enough to be in memory.
//!
//! The table is hashed once, when the run is planned, and shared by all partitions. Keys are encoded as `arrow-row`
//! bytes, in which equal means equal values, so a collision of hashes is settled by comparing bytes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_row::{RowConverter, Rows, SortField};
use arrow_schema::{DataType, Field, SchemaRef};
use arrow_select::concat::concat;
use arrow_select::take::take;
use etlrs_core::{BoundTransformer, DatasetSnapshot, Error, ErrorKind, Result, Transformer, column_index, type_name};

use super::exact::{canonical, decoded, strict};
use super::expr::{class, common};
use super::{batch_of, row_wise_holding, schema_of};

/// Which rows a [`SharedDataTransformer`] lets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookupJoin {
    /// All; what is taken from the table is null in rows without a match.
    #[default]
    Left,
    /// Those with a match.
    Inner,
    /// Those without a match; nothing can be taken from the table.
    Anti,
}

/// Looks rows up in a table in memory, by one or more key columns, and adds columns of the table.
///
/// A null in a key matches nothing. Rows keep their order. Keys must be of one type, but widths of integers and
/// layouts of text do not matter.
///
/// ```
/// use std::sync::Arc;
/// use etlrs_core::{DatasetSnapshot, Transformer, record_batch};
/// use etlrs_engine::SharedDataTransformer;
///
/// let seats = record_batch([("plane", vec![Some(1), Some(2)]), ("seats", vec![Some(180), Some(96)])]);
/// let seats = Arc::new(DatasetSnapshot::new(seats.schema(), vec![seats])?);
/// let lookup = SharedDataTransformer::new(seats).on([("plane_id", "plane")]).take([("seats", "seats")]);
///
/// let flights = record_batch([("plane_id", vec![Some(2), None])]);
/// let schema = lookup.bind(&flights.schema())?.schema();
/// assert_eq!(schema.field(1).name(), "seats");
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SharedDataTransformer {
    table: Arc<DatasetSnapshot>,
    on: Vec<(String, String)>,
    take: Vec<(String, String)>,
    join: LookupJoin,
}

impl SharedDataTransformer {
    /// A left join with `table`.
    pub fn new(table: Arc<DatasetSnapshot>) -> Self {
        Self { table, on: Vec::new(), take: Vec::new(), join: LookupJoin::default() }
    }

    /// Pairs of a column of the input and the column of the table that must equal it.
    #[must_use]
    pub fn on<A: Into<String>, B: Into<String>>(mut self, pairs: impl IntoIterator<Item = (A, B)>) -> Self {
        self.on = owned(pairs);
        self
    }

    /// Pairs of a column of the table and its name in the output.
    #[must_use]
    pub fn take<A: Into<String>, B: Into<String>>(mut self, pairs: impl IntoIterator<Item = (A, B)>) -> Self {
        self.take = owned(pairs);
        self
    }

    /// Which rows are let through; all, unless this says otherwise.
    #[must_use]
    pub fn join(mut self, join: LookupJoin) -> Self {
        self.join = join;
        self
    }

    /// A column of the table, whole.
    fn column(&self, position: usize) -> Result<ArrayRef> {
        let parts: Vec<&dyn Array> = self.table.batches().iter().map(|batch| &**batch.column(position)).collect();
        if parts.is_empty() {
            return Ok(arrow_array::new_empty_array(self.table.schema().field(position).data_type()));
        }
        Ok(concat(&parts)?)
    }

    fn check(&self) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::new(ErrorKind::InvalidConfig, message));
        match self.join {
            _ if self.on.is_empty() => wrong("a lookup needs a pair of key columns"),
            LookupJoin::Anti if !self.take.is_empty() => {
                wrong("an anti join keeps rows without a match, so there is nothing to take from the table")
            }
            LookupJoin::Left if self.take.is_empty() => {
                wrong("a left join that takes no column of the table changes nothing")
            }
            _ => Ok(()),
        }
    }
}

impl Transformer for SharedDataTransformer {
    fn name(&self) -> &str {
        "lookup"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        self.check()?;
        let table = self.table.schema();
        let mut keys = Vec::new();
        let mut table_keys = Vec::new();
        for (input_name, table_name) in &self.on {
            let position = column_index(input, input_name)?;
            let table_position = column_index(table, table_name).map_err(|error| error.in_source("lookup table"))?;
            let to = key_type(input.field(position), table.field(table_position))?;
            table_keys.push(key_column(&self.column(table_position)?, &to)?);
            keys.push((position, to));
        }
        let mut fields = input.fields().to_vec();
        let mut taken = Vec::new();
        for (table_name, name) in &self.take {
            let position = column_index(table, table_name).map_err(|error| error.in_source("lookup table"))?;
            let field = table.field(position).clone().with_name(name);
            let nullable = field.is_nullable() || self.join == LookupJoin::Left;
            fields.push(Arc::new(field.with_nullable(nullable)));
            taken.push(self.column(position)?);
        }
        let schema = schema_of(input, fields).map_err(|error| error.hint("take it under another name"))?;
        let index = Index::build(keys.iter().map(|(_, to)| to.clone()), &table_keys)?;
        // The table, its columns taken once more, and its keys.
        let table_memory: usize = self.table.batches().iter().map(RecordBatch::get_array_memory_size).sum();
        let taken_memory: usize = taken.iter().map(Array::get_array_memory_size).sum();
        let held_memory = table_memory + taken_memory + index.memory();
        let bound = Lookup { schema: schema.clone(), keys, index, taken, join: self.join };
        Ok(row_wise_holding(held_memory, "lookup", schema, move |batch| bound.apply(batch)))
    }
}

struct Lookup {
    schema: SchemaRef,
    keys: Vec<(usize, DataType)>,
    index: Index,
    taken: Vec<ArrayRef>,
    join: LookupJoin,
}

impl Lookup {
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let keys = self.keys.iter().map(|(position, to)| {
            key_column(batch.column(*position), to)
                .map_err(|error| error.at_column(self.schema.field(*position).name()))
        });
        let mut matches = self.index.find(&keys.collect::<Result<Vec<_>>>()?)?;
        let mut columns = batch.columns().to_vec();
        if self.join != LookupJoin::Left {
            let wanted = self.join == LookupJoin::Inner;
            let kept: UInt64Array =
                (0..).zip(&matches).filter(|(_, found)| found.is_some() == wanted).map(|(row, _)| row).collect();
            matches.retain(|found| found.is_some() == wanted);
            // A gather of all rows would copy them for nothing.
            if kept.len() < batch.num_rows() {
                for column in &mut columns {
                    *column = take(column, &kept, None)?;
                }
            }
        }
        let rows = matches.len();
        let matches = UInt64Array::from(matches);
        for column in &self.taken {
            columns.push(take(column, &matches, None)?);
        }
        batch_of(&self.schema, columns, rows)
    }
}

/// Rows of the table by key.
struct Index {
    converter: RowConverter,
    rows: HashMap<Box<[u8]>, u64>,
}

impl Index {
    fn memory(&self) -> usize {
        // A pointer, a length and a position, in tables that are at most twice as large as what is in them.
        self.rows.keys().map(|key| key.len() + 64).sum()
    }

    fn build(types: impl Iterator<Item = DataType>, keys: &[ArrayRef]) -> Result<Self> {
        let converter = RowConverter::new(types.map(SortField::new).collect())?;
        let encoded = converter.convert_columns(keys)?;
        let mut rows = HashMap::with_capacity(encoded.num_rows());
        let mut duplicates = 0_u64;
        for ((at, row), position) in encoded.iter().enumerate().zip(0_u64..) {
            // A null key can never be asked for.
            if !has_null(keys, at) && rows.insert(Box::from(row.data()), position).is_some() {
                duplicates += 1;
            }
        }
        if duplicates > 0 {
            let message = format!("{duplicates} rows of the lookup table have the key of another row");
            return Err(
                Error::new(ErrorKind::InvalidData, message).hint("give more key columns, or a table without them")
            );
        }
        Ok(Self { converter, rows })
    }

    fn find(&self, keys: &[ArrayRef]) -> Result<Vec<Option<u64>>> {
        let encoded: Rows = self.converter.convert_columns(keys)?;
        let found = encoded
            .iter()
            .enumerate()
            .map(|(at, row)| if has_null(keys, at) { None } else { self.rows.get(row.data()).copied() });
        Ok(found.collect())
    }
}

fn has_null(keys: &[ArrayRef], row: usize) -> bool {
    keys.iter().any(|key| key.is_null(row))
}

/// The type in which keys of both sides are compared.
fn key_type(input: &Field, table: &Field) -> Result<DataType> {
    let (left, right) = (decoded(input.data_type()), decoded(table.data_type()));
    let to = common(left, right).filter(|to| class(left) == class(right) && !to.is_nested() && *to != DataType::Null);
    to.ok_or_else(|| {
        let (left, right) = (type_name(left), type_name(right));
        let message = format!("the key is {left} but column {:?} of the lookup table is {right}", table.name());
        Error::new(ErrorKind::SchemaMismatch, message).hint("cast one of them before").at_column(input.name())
    })
}

/// Equal values as equal bits: one layout, and no null hidden in a dictionary.
pub(super) fn key_column(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let values = decoded(column.data_type()).clone();
    let cast = strict(column, &values).and_then(|column| strict(&column, to));
    let column =
        cast.map_err(|_| Error::new(ErrorKind::InvalidData, format!("a key does not fit into {}", type_name(to))))?;
    Ok(canonical(column))
}

fn owned<A: Into<String>, B: Into<String>>(pairs: impl IntoIterator<Item = (A, B)>) -> Vec<(String, String)> {
    pairs.into_iter().map(|(a, b)| (a.into(), b.into())).collect()
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Int8Type, Int64Type};
    use arrow_array::*;
    use etlrs_core::{Schema, record_batch};
    use proptest::prelude::*;

    use super::*;
    use crate::transform::testing::{refused, run, run_one};

    fn lookup(batches: Vec<RecordBatch>) -> SharedDataTransformer {
        SharedDataTransformer::new(Arc::new(DatasetSnapshot::new(batches[0].schema(), batches).unwrap()))
    }

    fn seats() -> SharedDataTransformer {
        let first = record_batch([("plane", vec![Some(1), Some(2)]), ("seats", vec![Some(180), None])]);
        let second = record_batch([("plane", vec![None, None, Some(3)]), ("seats", vec![Some(1), Some(2), Some(96)])]);
        lookup(vec![first, second]).on([("id", "plane")]).take([("seats", "seats")])
    }

    fn ints(batch: &RecordBatch, column: usize) -> Vec<Option<i64>> {
        batch.column(column).as_primitive::<Int64Type>().iter().collect()
    }

    #[test]
    fn each_join_lets_its_rows_through() {
        let batch =
            record_batch([("id", vec![Some(9), Some(3), None, Some(4), Some(2), Some(3), Some(1)])]).slice(1, 6);
        let left = run_one(&seats(), batch.clone()).unwrap();
        assert_eq!(ints(&left, 0), ints(&batch, 0));
        assert_eq!(ints(&left, 1), [Some(96), None, None, None, Some(96), Some(180)]);
        let inner = run_one(&seats().join(LookupJoin::Inner), batch.clone()).unwrap();
        assert_eq!(ints(&inner, 0), [Some(3), Some(2), Some(3), Some(1)]);
        assert_eq!(ints(&inner, 1), [Some(96), None, Some(96), Some(180)]);
        let anti = run_one(&seats().take::<&str, &str>([]).join(LookupJoin::Anti), batch.clone()).unwrap();
        assert_eq!(ints(&anti, 0), [None, Some(4)]);
        assert!(run(&seats(), vec![batch.slice(0, 0)]).unwrap().is_empty());
    }

    #[test]
    fn an_empty_table_matches_nothing() {
        let table = record_batch([("plane", vec![]), ("seats", vec![])]);
        let lookup = SharedDataTransformer::new(Arc::new(DatasetSnapshot::new(table.schema(), vec![]).unwrap()))
            .on([("id", "plane")])
            .take([("seats", "s")]);
        let output = run_one(&lookup, record_batch([("id", vec![Some(1), None])])).unwrap();
        assert_eq!(ints(&output, 1), [None, None]);
    }

    #[test]
    fn nulls_of_unmatched_rows_are_allowed_by_the_schema() {
        let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let table = RecordBatch::try_from_iter([("k", column(vec![1])), ("v", column(vec![7]))]).unwrap();
        assert!(!table.schema().field(1).is_nullable());
        let lookup = lookup(vec![table]).on([("k", "k")]).take([("v", "v")]);
        let batch = record_batch([("k", vec![Some(1), Some(2)])]);
        assert_eq!(ints(&run_one(&lookup, batch.clone()).unwrap(), 1), [Some(7), None]);
        let inner = run_one(&lookup.join(LookupJoin::Inner), batch).unwrap();
        assert!(!inner.schema().field(1).is_nullable());
    }

    #[test]
    fn keys_may_differ_in_width_and_layout() {
        let dictionary: DictionaryArray<Int8Type> = ["b", "a"].into_iter().collect();
        let batch = |columns: [(&str, ArrayRef); 2]| RecordBatch::try_from_iter(columns).unwrap();
        let table = batch([
            ("n", Arc::new(UInt64Array::from(vec![u64::MAX, 2]))),
            ("s", Arc::new(LargeStringArray::from(vec!["b", "a"]))),
        ]);
        for (n, s) in [
            (
                Arc::new(Int8Array::from(vec![-1, 2])) as ArrayRef,
                Arc::new(StringViewArray::from(vec!["b", "a"])) as ArrayRef,
            ),
            (Arc::new(Int64Array::from(vec![0, 2])), Arc::new(dictionary)),
        ] {
            let lookup = lookup(vec![table.clone()]).on([("n", "n"), ("s", "s")]).join(LookupJoin::Inner);
            let output = run_one(&lookup, batch([("n", n.clone()), ("s", s)])).unwrap();
            assert_eq!(output.column(0).as_ref(), n.slice(1, 1).as_ref());
        }
        let zero =
            RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![0.0, f64::NAN])) as ArrayRef)]).unwrap();
        let minus =
            RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![-0.0, -f64::NAN])) as ArrayRef)])
                .unwrap();
        let output = run_one(&lookup(vec![zero]).on([("x", "x")]).join(LookupJoin::Inner), minus).unwrap();
        assert_eq!(output.num_rows(), 2);
    }

    #[test]
    fn what_is_wrong_is_refused_when_planned() {
        let batch = record_batch([("id", vec![]), ("x", vec![])]);
        let doubles = record_batch([("plane", vec![Some(4711), Some(4711), Some(4711), None, None])]);
        let text = RecordBatch::try_from_iter([("plane", Arc::new(StringArray::from(vec!["1"])) as ArrayRef)]).unwrap();
        let cases = [
            (
                lookup(vec![doubles]).on([("id", "plane")]).take([("plane", "p")]),
                "2 rows of the lookup table have the key",
            ),
            (seats().take([("seats", "x")]), "there would be two columns \"x\"; take it under another name"),
            (seats().take([("seats", "a"), ("seats", "a")]), "there would be two columns \"a\""),
            (seats().take([("seat", "a")]), "lookup table: there is no column \"seat\""),
            (seats().on([("ids", "plane")]), "there is no column \"ids\""),
            (seats().on::<&str, &str>([]), "a lookup needs a pair of key columns"),
            (seats().join(LookupJoin::Anti), "an anti join keeps"),
            (seats().take::<&str, &str>([]), "a left join that takes no column"),
            (
                lookup(vec![text]).on([("id", "plane")]).take([("plane", "p")]),
                "column \"id\": the key is int64 but column \"plane\"",
            ),
        ];
        for (transformer, expected) in cases {
            let error = refused(&transformer, &batch).to_string();
            assert!(error.starts_with(expected) && !error.contains("4711"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_nested_loop(
            table in prop::collection::btree_map((-4_i64..4, "[ab]?"), any::<Option<i64>>(), 0..12),
            input in prop::collection::vec((prop::option::of(-5_i64..5), prop::option::of("[abc]?")), 1..24),
            inner: bool,
        ) {
            let schema = Arc::new(Schema::new(vec![
                Field::new("n", DataType::Int64, true),
                Field::new("s", DataType::Utf8, true),
            ]));
            let texts = |texts: Vec<Option<&str>>| Arc::new(StringArray::from(texts)) as ArrayRef;
            let ints = |ints: Vec<Option<i64>>| Arc::new(Int64Array::from(ints)) as ArrayRef;
            let held = RecordBatch::try_from_iter_with_nullable([
                ("n", ints(table.keys().map(|(n, _)| Some(*n)).collect()), true),
                ("s", texts(table.keys().map(|(_, s)| Some(s.as_str())).collect()), true),
                ("v", ints(table.values().copied().collect()), true),
            ]).unwrap();
            let batch = batch_of(&schema, vec![
                ints(input.iter().map(|(n, _)| *n).collect()),
                texts(input.iter().map(|(_, s)| s.as_deref()).collect()),
            ], input.len()).unwrap();
            let join = if inner { LookupJoin::Inner } else { LookupJoin::Left };
            let transformer = lookup(vec![held]).on([("n", "n"), ("s", "s")]).take([("v", "v")]).join(join);
            let mut expected = Vec::new();
            for (n, s) in &input {
                let found = table.iter().find(|((tn, ts), _)| Some(*tn) == *n && Some(ts) == s.as_ref());
                if !inner || found.is_some() {
                    expected.push((*n, s.clone(), found.and_then(|(_, v)| *v)));
                }
            }
            let output = run(&transformer, vec![batch]).unwrap();
            let mut rows = Vec::new();
            for batch in &output {
                let texts = batch.column(1).as_string::<i32>();
                for (row, text) in texts.iter().enumerate() {
                    let int = |column| super::tests::ints(batch, column)[row];
                    rows.push((int(0), text.map(str::to_owned), int(2)));
                }
            }
            prop_assert_eq!(rows, expected);
        }
    }
}
