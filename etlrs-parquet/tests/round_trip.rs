//! What is loaded is extracted again: all types, and tables of any shape.

// A test fails by panicking.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use arrow_array::*;
use arrow_schema::{DataType, Field, Schema};
use common::*;
use etlrs_core::*;
use etlrs_parquet::*;
use proptest::prelude::*;

#[test]
fn all_types_come_back_as_they_were() {
    let columns = all_types();
    let fields: Vec<_> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| Field::new(format!("c{index} {}", column.data_type()), column.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let empty = batch.slice(0, 0);
    let parts = [vec![empty.clone(), batch.clone(), empty.clone()], vec![], vec![empty], vec![batch.clone()]];
    for (name, dictionary) in [("dictionary.parquet", true), ("plain.parquet", false)] {
        let path = folder.path().join(name);
        let loader = ParquetLoader::new(&path).with_options(ParquetWriteOptions::default().with_dictionary(dictionary));
        block_on(load(&context(), &loader, &schema, LoadMode::Create, &parts)).unwrap();
        let (scan, batches) = block_on(extract(&path, &ScanRequest::all().partitions(1))).unwrap();
        assert_eq!(scan.schema(), schema);
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 6);
        for (index, field) in schema.fields().iter().enumerate() {
            let column = batches[0].column(index);
            assert_eq!(column.slice(0, 3).to_data(), batch.column(index).to_data(), "{}", field.name());
            assert_eq!(column.slice(3, 3).to_data(), batch.column(index).to_data(), "{}", field.name());
        }
    }
}

#[test]
fn columns_are_given_in_the_wanted_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let batch = record_batch([("a", vec![Some(1)]), ("b", vec![Some(2)]), ("c", vec![Some(3)]), ("d", vec![Some(4)])]);
    block_on(load(&context(), &ParquetLoader::new(&path), &batch.schema(), LoadMode::Create, &[vec![batch.clone()]]))
        .unwrap();
    for (wanted, positions) in
        [(vec!["c", "a", "d"], vec![2, 0, 3]), (vec!["d", "b", "c", "a"], vec![3, 1, 2, 0]), (vec![], vec![])]
    {
        let (scan, batches) = block_on(extract(&path, &ScanRequest::all().columns(wanted.clone()))).unwrap();
        assert!(scan.pushdown().columns);
        assert_eq!(batches, [batch.project(&positions).unwrap()], "{wanted:?}");
    }
    let error = block_on(extract(&path, &ScanRequest::all().columns(["A"]))).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

/// The deepest that is written: a reader of the Arrow schema in the file may refuse all of it.
#[test]
fn types_nested_deep_are_read_back() {
    let column = (0..40).fold(Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef, |inner, level| {
        let field = Arc::new(Field::new("item", inner.data_type().clone(), true));
        if level % 2 == 0 {
            return Arc::new(StructArray::from(vec![(field, inner)]));
        }
        let offsets = arrow_buffer::OffsetBuffer::from_lengths(std::iter::repeat_n(1, inner.len()));
        Arc::new(ListArray::new(field, offsets, inner, None))
    });
    let batch = RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    block_on(load(&context(), &ParquetLoader::new(&path), &batch.schema(), LoadMode::Create, &[vec![batch.clone()]]))
        .unwrap();
    assert_eq!(block_on(extract(&path, &ScanRequest::all())).unwrap().1, [batch]);
}

#[test]
fn a_nested_column_is_projected_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let columns = all_types();
    let columns: Vec<_> =
        columns[columns.len() - 3..].iter().enumerate().map(|(i, c)| (format!("c{i}"), c.clone(), true)).collect();
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    block_on(load(&context(), &ParquetLoader::new(&path), &batch.schema(), LoadMode::Create, &[vec![batch.clone()]]))
        .unwrap();
    let (_, batches) = block_on(extract(&path, &ScanRequest::all().columns(["c2", "c1"]))).unwrap();
    assert_eq!(batches, [batch.project(&[2, 1]).unwrap()]);
}

fn table() -> impl Strategy<Value = Vec<Vec<RecordBatch>>> {
    let row = (any::<Option<i64>>(), prop::option::of("[a-c]{0,3}"), any::<Option<f64>>(), any::<bool>());
    let batch = prop::collection::vec(row, 0..30).prop_map(|rows| {
        let schema = Schema::new(vec![
            Field::new("i", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("f", DataType::Float64, true),
            Field::new("b", DataType::Boolean, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1.clone()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|row| Some(row.3)).collect::<BooleanArray>()),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    });
    prop::collection::vec(prop::collection::vec(batch, 0..4), 1..5)
}

/// The rows as text, so that batch boundaries do not count and NaN equals itself.
fn rows(batches: &[RecordBatch]) -> Vec<String> {
    batches
        .iter()
        .flat_map(|batch| (0..batch.num_rows()).map(|row| format!("{:?}", batch.slice(row, 1).columns())))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_table_comes_back_in_its_order(
        parts in table(),
        seed in any::<prop::sample::Index>(),
        memory in prop::sample::select(vec![4_usize << 10, 1 << 20, 64 << 20]),
        row_group in 1..40_usize,
        wanted in prop::option::of(1..6_usize),
        batch_size in 1..50_usize,
        directory in any::<bool>(),
        drop_first in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let schema = parts.iter().flatten().next().map_or_else(|| record_batch([("n", vec![])]).schema(), RecordBatch::schema);
        let loader = if directory { ParquetLoader::directory(&path) } else { ParquetLoader::new(&path) };
        let loader = loader.with_options(ParquetWriteOptions::default().with_row_group_size(row_group));
        let plan = plan(&schema, LoadMode::Create, parts.len());
        let mut order: Vec<_> = (0..parts.len()).collect();
        order.rotate_left(seed.index(parts.len()));
        if seed.index(2) == 0 { order.reverse(); }

        let (scan, batches) = block_on(async {
            let cx = context();
            let session = loader.begin(&cx, plan.clone()).await.unwrap();
            if drop_first {
                // An attempt that fails before anything is in the file leaves nothing behind.
                let mut writer = session.writer(&cx, &plan.partitions[0], 1).await.unwrap();
                for batch in &parts[0] {
                    writer.write(batch.clone()).await.unwrap();
                }
            }
            let receipts = stage(&cx.for_worker(memory), &*session, &plan, &parts, &order).await.unwrap();
            for (receipt, part) in receipts.iter().zip(&parts) {
                assert_eq!(receipt.rows, part.iter().map(|batch| batch.num_rows() as u64).sum::<u64>());
            }
            session.commit(receipts).await.unwrap();
            let config = PerformanceConfig { batch_size, ..PerformanceConfig::default() };
            let cx = RunContext::new(config);
            let mut request = ScanRequest::all();
            request.partitions = wanted;
            let scan = ParquetExtractor::new(&path).scan(&cx, &request).await.unwrap();
            let batches = drain(&cx, &*scan).await.unwrap();
            assert_eq!(cx.counters().bytes_read.get(), scan.partitions().iter().filter_map(|p| p.bytes).sum::<u64>());
            (scan, batches)
        });
        let source: Vec<_> = parts.into_iter().flatten().collect();
        prop_assert!(batches.iter().all(|batch| batch.num_rows() <= batch_size));
        prop_assert_eq!(rows(&batches), rows(&source));
        prop_assert_eq!(checksum(&batches), checksum(&source));
        let found = scan.schema();
        prop_assert_eq!(found.fields(), schema.fields());
    }
}
