use etlrs_core::arrow_array::types::*;
use etlrs_core::arrow_array::*;
use etlrs_core::arrow_schema::TimeUnit;
use etlrs_core::*;
use proptest::prelude::*;

use crate::*;

fn options<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T>,
    extremes: Vec<T>,
) -> impl Strategy<Value = Vec<Option<T>>> {
    let value = prop_oneof![4 => value, 1 => proptest::sample::select(extremes)];
    proptest::collection::vec(proptest::option::weighted(0.8, value), ROWS)
}

const ROWS: usize = 23;

macro_rules! ints {
    ($array:ident, $native:ident) => {
        options(any::<$native>(), vec![$native::MIN, $native::MAX, 0]).prop_map(|v| array($array::from(v)))
    };
}

/// A column of each type that comes back as just the same type.
fn columns() -> Vec<(&'static str, BoxedStrategy<ArrayRef>)> {
    let digits = |n: u32| {
        let most = 10i128.pow(n) - 1;
        options(-most..=most, vec![most, -most, 0, 1, -1, 10, 99, -5])
    };
    let instants = || options(any::<i64>(), vec![i64::MIN, i64::MAX, 0, -1, 1_357_016_405_000_000]);
    let wide = || options(any::<(i128, i64)>(), vec![(i128::MAX, i64::MAX), (0, 0), (i128::MIN, 1), (-1, 1)]);
    vec![
        ("bool", options(any::<bool>(), vec![true]).prop_map(|v| array(BooleanArray::from(v))).boxed()),
        ("i8", ints!(Int8Array, i8).boxed()),
        ("i16", ints!(Int16Array, i16).boxed()),
        ("i32", ints!(Int32Array, i32).boxed()),
        ("i64", ints!(Int64Array, i64).boxed()),
        ("u8", ints!(UInt8Array, u8).boxed()),
        ("u16", ints!(UInt16Array, u16).boxed()),
        ("u32", ints!(UInt32Array, u32).boxed()),
        (
            "f32",
            options(any::<f32>(), vec![f32::MIN, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, -0.0, 16_777_217.0])
                .prop_map(|v| array(Float32Array::from(v)))
                .boxed(),
        ),
        (
            "f64",
            options(any::<f64>(), vec![f64::MIN, f64::MAX, 5e-324, f64::NEG_INFINITY, -0.0, 1e15, 9e18])
                .prop_map(|v| array(Float64Array::from(v)))
                .boxed(),
        ),
        (
            "text",
            options(
                any::<String>(),
                vec!["".into(), "a\0b".into(), "\0".into(), "12".into(), "1e3".into(), "ü\u{10FFFF}".into()],
            )
            .prop_map(|v| array(StringArray::from(v)))
            .boxed(),
        ),
        (
            "binary",
            options(any::<Vec<u8>>(), vec![vec![], vec![0], vec![255, 0, 254], b"12".to_vec()])
                .prop_map(|v| array(v.into_iter().collect::<BinaryArray>()))
                .boxed(),
        ),
        (
            "date",
            options(any::<i32>(), vec![i32::MIN, i32::MAX, 0, -719_528])
                .prop_map(|v| array(Date32Array::from(v)))
                .boxed(),
        ),
        (
            "time",
            options(0..86_400_000_000i64, vec![0, 86_399_999_999, 1])
                .prop_map(|v| array(Time64MicrosecondArray::from(v)))
                .boxed(),
        ),
        ("ts", instants().prop_map(|v| array(TimestampMicrosecondArray::from(v))).boxed()),
        ("tstz", instants().prop_map(|v| array(TimestampMicrosecondArray::from(v).with_timezone("UTC"))).boxed()),
        (
            "dec",
            digits(38).prop_map(|v| array(Decimal128Array::from(v).with_precision_and_scale(38, 10).unwrap())).boxed(),
        ),
        (
            "dec38",
            digits(38).prop_map(|v| array(Decimal128Array::from(v).with_precision_and_scale(38, 38).unwrap())).boxed(),
        ),
        (
            "dec0",
            digits(5).prop_map(|v| array(Decimal128Array::from(v).with_precision_and_scale(5, 0).unwrap())).boxed(),
        ),
        (
            "dec256",
            wide()
                .prop_map(|v| {
                    let wide = |(a, b): (i128, i64)| {
                        let a = arrow_buffer::i256::from_i128(a);
                        a.wrapping_mul(arrow_buffer::i256::from_i128(b.into()))
                    };
                    let values: Decimal256Array = v.into_iter().map(|v| v.map(wide)).collect();
                    array(values.with_precision_and_scale(76, 30).unwrap())
                })
                .boxed(),
        ),
        (
            "dec256narrow",
            digits(9)
                .prop_map(|v| {
                    let wide = v.into_iter().map(|v| v.map(arrow_buffer::i256::from_i128));
                    array(wide.collect::<Decimal256Array>().with_precision_and_scale(9, 2).unwrap())
                })
                .boxed(),
        ),
    ]
}

fn batches() -> impl Strategy<Value = RecordBatch> {
    let (names, columns): (Vec<_>, Vec<_>) = columns().into_iter().unzip();
    columns.prop_map(move |columns| batch(names.iter().copied().zip(columns).collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_type_comes_back_as_it_was(first in batches(), second in batches(), partitions in 1..5usize) {
        let database = Database::new("");
        let published = load(&database.loader("t"), LoadMode::Create, &[first.clone(), second.clone()]).unwrap();
        prop_assert_eq!(published.rows, 2 * ROWS as u64);
        let request = ScanRequest::all().partitions(partitions);
        let read = read(&SqliteExtractor::new(database.path(), "t"), &request, 5).unwrap();
        prop_assert_eq!(read.schema().fields(), first.schema_ref().fields());
        let written: Checksum = [&first, &second].map(|batch| Checksum::of_batch(batch).unwrap()).into_iter().collect();
        prop_assert_eq!(read.checksum(), written);

        // Appending to what we made, and replacing it, are exact as well.
        database.load("t", LoadMode::Append, &first).unwrap();
        let all: Checksum = [written, Checksum::of_batch(&first).unwrap()].into_iter().collect();
        prop_assert_eq!(database.read("t").unwrap().checksum(), all);
    }
}

#[test]
fn types_without_a_counterpart_are_widened_exactly() {
    let text = vec![Some("a"), None, Some("")];
    let zone = TimestampMicrosecondArray::from(vec![Some(5), None, Some(-5)]).with_timezone("Europe/Berlin");
    let keys: DictionaryArray<Int8Type> = vec![Some("x"), None, Some("x")].into_iter().collect();
    let half = Float16Array::from(vec![None, None, None]);
    let written = batch(vec![
        ("null", array(NullArray::new(3))),
        ("large", array(LargeStringArray::from(text.clone()))),
        ("view", array(StringViewArray::from(text))),
        ("fixed", array(FixedSizeBinaryArray::try_from_iter([[1u8, 2], [3, 4], [0, 0]].iter()).unwrap())),
        ("dict", array(keys)),
        ("half", array(half)),
        ("ts_s", array(TimestampSecondArray::from(vec![Some(1), None, Some(-1)]))),
        ("ts_ms", array(TimestampMillisecondArray::from(vec![Some(1), None, Some(-1)]))),
        ("time_s", array(Time32SecondArray::from(vec![Some(1), None, Some(86_399)]))),
        ("time_ms", array(Time32MillisecondArray::from(vec![Some(1), None, Some(86_399_999)]))),
        ("zone", array(zone)),
        (
            "dec64",
            array(Decimal64Array::from(vec![Some(-5), None, Some(123)]).with_precision_and_scale(10, 2).unwrap()),
        ),
        ("dec32", array(Decimal32Array::from(vec![Some(-5), None, Some(123)]).with_precision_and_scale(5, 2).unwrap())),
    ]);
    let database = Database::new("");
    database.load("t", LoadMode::Create, &written).unwrap();
    let read = database.read("t").unwrap();
    assert_eq!(read.checksum(), Checksum::of_batch(&written).unwrap());
    let types: Vec<_> = read.schema().fields().iter().map(|field| type_name(field.data_type())).collect();
    let expected =
        "text text text binary text float32 timestamp timestamp time time timestamptz decimal(10,2) decimal(5,2)";
    assert_eq!(types.join(" "), expected);
}

#[test]
fn types_that_would_lose_something_are_refused_by_column_and_cast() {
    use DataType::*;
    let list = List(Arc::new(Field::new("item", Int32, true)));
    for (data_type, words) in [
        (UInt64, "cast it to decimal(20,0) or int64"),
        (Timestamp(TimeUnit::Nanosecond, None), "cast it to timestamp"),
        (Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), "cast it to timestamptz"),
        (Time64(TimeUnit::Nanosecond), "cast it to time"),
        (Date64, "cast it to date or timestamp"),
        (list, "cast it to text"),
        (Struct(vec![Field::new("a", Int32, true)].into()), "cast it to text"),
        (Interval(etlrs_core::arrow_schema::IntervalUnit::DayTime), "cast it to int64 or text"),
        (Duration(TimeUnit::Second), "cast it to int64 or text"),
        (Decimal128(5, -2), "cast it to decimal(P,S)"),
    ] {
        let database = Database::new("");
        let schema = Arc::new(Schema::new(vec![Field::new("ok", Int32, true), Field::new("bad", data_type, true)]));
        let plan = LoadPlan::new(schema, LoadMode::Create, vec![Partition::new(0, "p")]);
        let checked = run(database.loader("t").check(&context(1), &plan));
        refused(checked, ErrorKind::SchemaMismatch, &["column \"bad\"", words]);
        refused(run(database.loader("t").begin(&context(1), plan)), ErrorKind::SchemaMismatch, &[words]);
        assert!(database.files().is_empty());
    }
}

#[test]
fn values_that_sqlite_cannot_hold_are_refused_by_column_and_row() {
    for (column, words) in [
        (array(Float64Array::from(vec![1.0, f64::NAN])), "NaN"),
        (array(Float32Array::from(vec![1.0, f32::NAN])), "NaN"),
        (array(TimestampSecondArray::from(vec![0, i64::MAX])), "64 bits of microseconds"),
        (array(Time64MicrosecondArray::from(vec![0, -1])), "not within a day"),
    ] {
        let database = Database::new("");
        let error = database.load("t", LoadMode::Create, &batch(vec![("x", column)])).unwrap_err();
        refused::<()>(Err(error), ErrorKind::InvalidData, &["column \"x\"", "row 2 of partition 0", words]);
        assert!(database.files().is_empty(), "{:?}", database.files());
    }
}

#[test]
fn sqlites_own_functions_read_what_is_written() {
    let at = 1_357_016_405_250_000;
    let database = Database::new("");
    let written = batch(vec![
        ("d", array(Date32Array::from(vec![15_706]))),
        ("t", array(Time64MicrosecondArray::from(vec![18_005_250_000]))),
        ("ts", array(TimestampMicrosecondArray::from(vec![at]))),
        ("tz", array(TimestampMicrosecondArray::from(vec![at]).with_timezone("UTC"))),
        ("dec", array(Decimal128Array::from(vec![-5]).with_precision_and_scale(9, 2).unwrap())),
        ("b", array(BooleanArray::from(vec![true]))),
    ]);
    database.load("t", LoadMode::Create, &written).unwrap();
    for (sql, expected) in [
        ("d", "2013-01-01"),
        ("date(d, '+1 day')", "2013-01-02"),
        ("t", "05:00:05.250000"),
        ("time(t)", "05:00:05"),
        ("ts", "2013-01-01 05:00:05.250000"),
        ("strftime('%s', ts)", "1357016405"),
        ("tz", "2013-01-01 05:00:05.250000+00:00"),
        ("strftime('%s %f', tz)", "1357016405 05.250"),
        ("typeof(d) || typeof(t) || typeof(ts) || typeof(tz) || typeof(dec)", "texttexttexttexttext"),
        ("dec", "-0.05"),
        ("cast(dec * 100 AS INTEGER) || typeof(b)", "-5integer"),
    ] {
        assert_eq!(database.text(&format!("SELECT {sql} FROM t")), expected, "{sql}");
    }
}
