//! What the tests share. Each test file uses a part of it.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::*;
use arrow_array::types::*;
use arrow_array::*;
use arrow_schema::{DataType, Field};
use etlrs_core::*;
use etlrs_parquet::ParquetExtractor;
use futures_util::future::try_join_all;

pub(crate) fn context() -> RunContext {
    RunContext::new(PerformanceConfig { max_memory_usage: 64 << 20, ..PerformanceConfig::default() })
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn plan(schema: &SchemaRef, mode: LoadMode, partitions: usize) -> LoadPlan {
    let partitions = (0..partitions).map(|index| Partition::new(index, format!("part {index}"))).collect();
    LoadPlan::new(schema.clone(), mode, partitions)
}

/// Writes each partition with a writer of its own; `order` is that in which the writers come to finish.
pub(crate) async fn stage(
    cx: &RunContext,
    session: &dyn LoadSession,
    plan: &LoadPlan,
    parts: &[Vec<RecordBatch>],
    order: &[usize],
) -> Result<Vec<Receipt>> {
    let writers = order.iter().map(|&index| async move {
        let mut writer = session.writer(cx, &plan.partitions[index], 1).await?;
        for batch in &parts[index] {
            writer.write(batch.clone()).await?;
        }
        writer.finish().await
    });
    let mut receipts = try_join_all(writers).await?;
    receipts.sort_by_key(|receipt| receipt.partition);
    Ok(receipts)
}

pub(crate) async fn load(
    cx: &RunContext,
    loader: &dyn Loader,
    schema: &SchemaRef,
    mode: LoadMode,
    parts: &[Vec<RecordBatch>],
) -> Result<Published> {
    let plan = plan(schema, mode, parts.len());
    let session = loader.begin(cx, plan.clone()).await?;
    let order: Vec<_> = (0..parts.len()).rev().collect();
    let receipts = stage(cx, &*session, &plan, parts, &order).await?;
    session.commit(receipts).await
}

pub(crate) async fn drain(cx: &RunContext, scan: &dyn Scan) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for partition in scan.partitions() {
        let mut stream = scan.read(cx, partition)?;
        let mut rows = 0;
        while let Some(batch) = next_batch(&mut stream).await {
            let batch = batch?;
            assert_eq!(batch.schema(), scan.schema());
            rows += batch.num_rows() as u64;
            batches.push(batch);
        }
        assert_eq!(partition.rows, Some(rows));
    }
    Ok(batches)
}

pub(crate) async fn extract(path: &Path, request: &ScanRequest) -> Result<(Arc<dyn Scan>, Vec<RecordBatch>)> {
    let cx = context();
    let scan = ParquetExtractor::new(path).scan(&cx, request).await?;
    let batches = drain(&cx, &*scan).await?;
    Ok((scan, batches))
}

pub(crate) fn checksum(batches: &[RecordBatch]) -> Checksum {
    batches.iter().map(|batch| Checksum::of_batch(batch).unwrap()).collect()
}

/// The values of the first column, which are 64-bit integers.
pub(crate) fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

pub(crate) fn count(range: std::ops::Range<i64>) -> RecordBatch {
    record_batch([("n", range.map(Some).collect())])
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A column of every type that the format can hold: three values, the middle one null.
pub(crate) fn all_types() -> Vec<ArrayRef> {
    type Wide = <Decimal256Type as ArrowPrimitiveType>::Native;
    let mut list = ListBuilder::new(Int32Builder::new());
    list.append_value([Some(1), None]);
    list.append_null();
    list.append_value([]);
    let mut lists = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
    lists.values().append_value([Some("a"), None]);
    lists.append(true);
    lists.append(false);
    lists.values().append_null();
    lists.append(true);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    map.keys().append_value("k");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.append(true).unwrap();
    let mut fixed = FixedSizeBinaryBuilder::new(3);
    fixed.append_value(b"abc").unwrap();
    fixed.append_null();
    fixed.append_value(b"\0\0\0").unwrap();
    let mut pairs = FixedSizeListBuilder::new(Int16Builder::new(), 2);
    pairs.values().append_slice(&[1, 2]);
    pairs.append(true);
    pairs.values().append_slice(&[0, 0]);
    pairs.append(false);
    pairs.values().append_slice(&[3, 4]);
    pairs.append(true);
    let inner: ArrayRef = Arc::new(Int8Array::from(vec![Some(-1), None, None]));
    let fields = vec![Field::new("x", DataType::Int8, true)].into();
    let structs = StructArray::new(fields, vec![inner], Some(vec![true, false, true].into()));
    macro_rules! numbers {
        ($($array:ident $low:expr, $high:expr;)*) => { vec![$( Arc::new($array::from(vec![Some($low), None, Some($high)])) as ArrayRef ),*] };
    }
    let mut columns = numbers! {
        BooleanArray true, false;
        Int8Array i8::MIN, i8::MAX; Int16Array i16::MIN, i16::MAX; Int32Array i32::MIN, i32::MAX; Int64Array i64::MIN, i64::MAX;
        UInt8Array 0, u8::MAX; UInt16Array 0, u16::MAX; UInt32Array 0, u32::MAX; UInt64Array 0, u64::MAX;
        Float32Array f32::NAN, f32::NEG_INFINITY; Float64Array -0.0, f64::MAX;
        StringArray "", "ünïcode\0"; LargeStringArray "", "x"; StringViewArray "short", "longer than twelve bytes";
        BinaryArray b"" as &[u8], b"\xff\0" as &[u8]; LargeBinaryArray b"" as &[u8], b"\xff" as &[u8];
        BinaryViewArray b"" as &[u8], b"\xff" as &[u8];
        Date32Array -1, i32::MAX; Date64Array -86_400_000, 86_400_000;
        Time32SecondArray 0, 86_399; Time32MillisecondArray 0, 86_399_999;
        Time64MicrosecondArray 0, 86_399_999_999; Time64NanosecondArray 0, 86_399_999_999_999;
        TimestampSecondArray -1, 1; TimestampMillisecondArray -1, 1; TimestampMicrosecondArray i64::MIN, i64::MAX;
        TimestampNanosecondArray i64::MIN, i64::MAX;
        DurationSecondArray -1, 1; DurationMillisecondArray -1, 1; DurationMicrosecondArray -1, 1; DurationNanosecondArray -1, 1;
        IntervalYearMonthArray -14, 14;
    };
    let decimal = |precision, scale| {
        Decimal128Array::from(vec![Some(-99), None, Some(99)]).with_precision_and_scale(precision, scale).unwrap()
    };
    let wide = Decimal256Array::from(vec![Some(Wide::MAX), None, Some(Wide::from_i128(-7))]);
    columns.extend([
        Arc::new(TimestampMicrosecondArray::from(vec![Some(0), None, Some(1)]).with_timezone("UTC")) as ArrayRef,
        Arc::new(TimestampMillisecondArray::from(vec![Some(0), None, Some(1)]).with_timezone("Europe/Berlin")),
        Arc::new(decimal(2, 1)),
        Arc::new(decimal(18, 0)),
        Arc::new(decimal(38, 38)),
        Arc::new(wide),
        Arc::new(IntervalDayTimeArray::from(vec![
            Some(IntervalDayTime::new(1, 2)),
            None,
            Some(IntervalDayTime::new(3, 4)),
        ])),
        Arc::new(NullArray::new(3)),
        Arc::new(["a", "b", "a"].into_iter().collect::<DictionaryArray<Int8Type>>()),
        Arc::new(vec![Some("x"), None, Some("x")].into_iter().collect::<DictionaryArray<UInt32Type>>()),
        Arc::new(fixed.finish()),
        Arc::new(pairs.finish()),
        Arc::new(list.finish()),
        Arc::new(lists.finish()),
        Arc::new(map.finish()),
        Arc::new(structs),
    ]);
    columns
}
