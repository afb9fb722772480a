use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use etlrs_core::*;
use proptest::prelude::*;

use crate::*;

fn rowid() -> impl Strategy<Value = i64> {
    prop_oneof![
        -50..50i64,
        any::<i64>(),
        proptest::sample::select(vec![i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1, 0]),
        1_000_000..1_000_100i64,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_number_of_partitions_holds_each_row_once(
        rowids in proptest::collection::btree_set(rowid(), 0..60),
        partitions in 1..12usize,
        batch_size in 1..9usize,
    ) {
        let database = Database::new("CREATE TABLE t (n INTEGER)");
        let connection = database.connect();
        for rowid in &rowids {
            connection.execute("INSERT INTO t (rowid, n) VALUES (?1, ?1)", [rowid]).unwrap();
        }
        let extractor = SqliteExtractor::new(database.path(), "t");
        let request = ScanRequest::all().partitions(partitions);
        let all = read(&extractor, &request, batch_size).unwrap();
        prop_assert!(all.batches().iter().all(|batch| batch.num_rows() <= batch_size));
        let read_rows = ints(&all, 0);
        prop_assert_eq!(read_rows.len(), rowids.len());
        prop_assert_eq!(read_rows.iter().copied().collect::<BTreeSet<_>>(), rowids);
        prop_assert!(read_rows.is_sorted(), "partitions are in the order of the table");

        // What was recorded leads to the same partitions.
        let cx = context(batch_size);
        let scan = run(extractor.scan(&cx, &request)).unwrap();
        let mut again = ScanRequest::all();
        again.recorded = Some(scan.partitions().to_vec());
        let scan = run(extractor.scan(&cx, &again)).unwrap();
        prop_assert_eq!(scan.partitions(), again.recorded.as_deref().unwrap());
        prop_assert_eq!(run(DatasetSnapshot::collect(&cx, &*scan)).unwrap().checksum(), all.checksum());
    }
}

#[test]
fn gaps_take_no_piece() {
    // All but one row are far from the first.
    let database = Database::new(
        "CREATE TABLE t (n INTEGER); INSERT INTO t (rowid, n) VALUES (-9000000000000000000, 1);
         WITH RECURSIVE s(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < 999)
         INSERT INTO t (rowid, n) SELECT 5000000000 + i, i FROM s",
    );
    let cx = context(1000);
    let extractor = SqliteExtractor::new(database.path(), "t");
    let scan = run(extractor.scan(&cx, &ScanRequest::all().partitions(9))).unwrap();
    let counts: Vec<_> = scan
        .partitions()
        .iter()
        .map(|partition| {
            let mut batches = scan.read(&cx, partition).unwrap();
            let mut rows = 0;
            while let Some(batch) = run(futures_util::StreamExt::next(&mut batches)) {
                rows += batch.unwrap().num_rows();
            }
            rows
        })
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 1001);
    assert!(counts.len() == 9 && counts[1..].iter().all(|rows| *rows == 125), "{counts:?}");
}

#[test]
fn rows_that_come_outside_the_known_rowids_are_read() {
    let database = Database::new("CREATE TABLE t (n INTEGER); INSERT INTO t (rowid, n) VALUES (10, 1), (20, 2)");
    let cx = context(10);
    let extractor = SqliteExtractor::new(database.path(), "t");
    let scan = run(extractor.scan(&cx, &ScanRequest::all().partitions(3))).unwrap();
    // One for each row: what is between them needs none.
    assert_eq!(scan.partitions().len(), 2);
    let before = run(scan.fingerprint()).unwrap();
    assert_eq!(before, run(scan.fingerprint()).unwrap());
    database.execute("INSERT INTO t (rowid, n) VALUES (-5, 3), (99, 4); DELETE FROM t WHERE n = 1");
    assert_ne!(before, run(scan.fingerprint()).unwrap(), "a commit changes the fingerprint");
    assert_eq!(ints(&run(DatasetSnapshot::collect(&cx, &*scan)).unwrap(), 0), [3, 2, 4]);
}

#[test]
fn a_write_ahead_log_is_part_of_the_fingerprint() {
    let database = Database::new("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER)");
    let scan = run(SqliteExtractor::new(database.path(), "t").scan(&context(1), &ScanRequest::all())).unwrap();
    let before = run(scan.fingerprint()).unwrap();
    let writer = database.connect();
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES (1)").unwrap();
    assert_ne!(before, run(scan.fingerprint()).unwrap());
    assert_eq!(ints(&database.read("t").unwrap(), 0), [1]);
}

#[test]
fn what_has_no_rowid_is_one_partition() {
    let database = Database::new(
        "CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9);
         CREATE VIEW v AS SELECT n, n * 2 AS twice, 'x' || n AS label FROM t;
         CREATE TABLE w (k TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID;
         INSERT INTO w SELECT 'k' || n, n FROM t;
         CREATE TABLE shadowed (n INTEGER, RowID TEXT, oid TEXT, _rowid_ TEXT);
         INSERT INTO shadowed SELECT n, 'a', 'b', 'c' FROM t;",
    );
    for (table, column) in [("v", "n"), ("w", "n"), ("shadowed", "n")] {
        let extractor = SqliteExtractor::new(database.path(), table);
        let request = ScanRequest::all().partitions(4).columns([column]);
        let scan = run(extractor.scan(&context(4), &request)).unwrap();
        assert_eq!(scan.partitions().len(), 1, "{table}");
        assert_eq!(ints(&read(&extractor, &request, 4).unwrap(), 0), [1, 2, 3, 4, 5, 6, 7, 8, 9], "{table}");
    }
    let view = database.read("v").unwrap();
    let types: Vec<_> = view.schema().fields().iter().map(|field| type_name(field.data_type())).collect();
    assert_eq!(types, ["int64", "int64", "text"]);
}

#[test]
fn a_column_named_rowid_does_not_hide_rows() {
    let database = Database::new(
        "CREATE TABLE t (rowid TEXT, oid TEXT, n INTEGER);
         INSERT INTO t VALUES ('same', '', 1), ('same', '', 2), ('same', '', 3);",
    );
    let extractor = SqliteExtractor::new(database.path(), "T");
    let snapshot = read(&extractor, &ScanRequest::all().partitions(3), 1).unwrap();
    assert_eq!(ints(&snapshot, 2), [1, 2, 3]);
    let scan = run(extractor.scan(&context(1), &ScanRequest::all().partitions(3))).unwrap();
    assert_eq!(scan.partitions().len(), 3);
}

#[test]
fn a_stream_that_is_dropped_or_cancelled_ends() {
    let database = Database::new(
        "CREATE VIEW endless AS WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
    );
    let options = SqliteSourceOptions::from_pairs([("types", "n:int64")]).unwrap();
    let extractor = SqliteExtractor::new(database.path(), "endless").with_options(options);
    let cx = context(10);
    let scan = run(extractor.scan(&cx, &ScanRequest::all())).unwrap();
    let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
    assert_eq!(run(next_batch(&mut stream)).unwrap().unwrap().num_rows(), 10);
    drop(stream);
    let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
    cx.cancel().cancel();
    refused(run(next_batch(&mut stream)).unwrap(), ErrorKind::Cancelled, &[]);
}

#[test]
fn batches_keep_to_their_memory() {
    let database = Database::new(
        "CREATE TABLE t (a TEXT); INSERT INTO t SELECT printf('%.*c', 1000, 'x') FROM
         (WITH RECURSIVE r (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 500) SELECT n FROM r)",
    );
    let cx = context(10_000).for_worker(8 * 20_000);
    let scan = run(SqliteExtractor::new(database.path(), "t").scan(&cx, &ScanRequest::all())).unwrap();
    let all = run(DatasetSnapshot::collect(&cx, &*scan)).unwrap();
    assert_eq!(all.total_count(), 500);
    for batch in all.batches() {
        let bytes = batch.get_array_memory_size();
        assert!(bytes <= cx.batch_memory() + 512, "{bytes} bytes, {} rows", batch.num_rows());
    }
    assert!(all.batches().len() < 50, "{} batches", all.batches().len());
}

#[test]
fn odd_names_are_only_names() {
    for name in ["select", "a b", "q\"uote", "semi;--", "'", "ü", "[x]", "`", "%", "rowid", " ", "a.b", "table"] {
        let database = Database::new("");
        let written = batch(vec![
            (name, array(etlrs_core::arrow_array::Int64Array::from(vec![1, 2]))),
            ("other", array(etlrs_core::arrow_array::StringArray::from(vec!["a", "b"]))),
        ]);
        for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
            database.load(name, mode, &written).unwrap();
            let snapshot = database.read(name).unwrap();
            assert_eq!(snapshot.schema().fields(), written.schema_ref().fields(), "{name}");
        }
        assert_eq!(ints(&database.read(name).unwrap(), 0), [1, 2]);
        assert_eq!(database.files(), ["test.db"]);
    }
    let database = Database::new("");
    let written = numbers("", [1]);
    database.load("t", LoadMode::Create, &written).unwrap();
    assert_eq!(database.read("t").unwrap().schema().field(0).name(), "");
    for name in ["", "sqlite_x", "_ETLRS_x", "nul\0"] {
        refused(database.load(name, LoadMode::Create, &written), ErrorKind::InvalidConfig, &[]);
    }
    refused(database.load("u", LoadMode::Create, &numbers("nul\0", [1])), ErrorKind::InvalidConfig, &["NUL"]);
    let twice = record_batch([("a", vec![Some(1)]), ("A", vec![Some(1)])]);
    refused(database.load("u", LoadMode::Create, &twice), ErrorKind::SchemaMismatch, &["two columns"]);
}

#[test]
fn a_database_that_cannot_be_read_is_not_touched() {
    let database = Database::new("");
    refused(database.read("t"), ErrorKind::NotFound, &["test.db", "no such file"]);
    assert!(database.files().is_empty());
    std::fs::write(database.path(), "this is no database, however long one looks at it".repeat(50)).unwrap();
    refused(database.read("t"), ErrorKind::InvalidData, &["test.db", "not a SQLite database"]);
    refused(database.load("t", LoadMode::Create, &numbers("n", [1])), ErrorKind::InvalidData, &["not a SQLite"]);
    assert_eq!(database.files(), ["test.db"]);
    let folder = SqliteExtractor::new(database.folder.path(), "t");
    refused(read(&folder, &ScanRequest::all(), 1), ErrorKind::InvalidConfig, &["no database file"]);
}

#[test]
fn reading_leaves_no_files_behind() {
    for journal in ["delete", "wal"] {
        let database = Database::new(&format!(
            "PRAGMA journal_mode = {journal}; CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1)"
        ));
        let before = std::fs::metadata(database.path()).unwrap().modified().unwrap();
        let scan = run(SqliteExtractor::new(database.path(), "t").scan(&context(1), &ScanRequest::all())).unwrap();
        let first = run(scan.fingerprint()).unwrap();
        assert_eq!(ints(&database.read("t").unwrap(), 0), [1]);
        assert_eq!(run(scan.fingerprint()).unwrap(), first, "{journal}");
        assert_eq!(std::fs::metadata(database.path()).unwrap().modified().unwrap(), before);
        // SQLite itself makes a log's index to read a database that has a log, and only a writer removes it.
        if journal == "delete" {
            assert_eq!(database.files(), ["test.db"]);
        }
    }
}

#[test]
fn missing_tables_and_columns_are_guessed() {
    let database =
        Database::new("CREATE TABLE orders (id INTEGER); CREATE TABLE _etlrs_x (n); CREATE VIEW v AS SELECT 1 AS n");
    let error = refused(database.read("order"), ErrorKind::InvalidConfig, &["did you mean orders", "orders, v"]);
    assert!(!error.to_string().contains("_etlrs"), "{error}");
    let extractor = SqliteExtractor::new(database.path(), "orders");
    let request = ScanRequest::all().columns(["idd"]);
    refused(read(&extractor, &request, 1), ErrorKind::InvalidConfig, &["did you mean id"]);
    refused(database.read_as("orders", "x:text"), ErrorKind::InvalidConfig, &["no column", "id"]);
}

#[test]
fn a_locked_database_is_locked_within_the_busy_timeout() {
    let database = Database::new("CREATE TABLE t (n INTEGER)");
    let other = database.connect();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let start = Instant::now();
    let options = SqliteSourceOptions::default().with_busy_timeout(1);
    let extractor = SqliteExtractor::new(database.path(), "t").with_options(options);
    let error = refused(read(&extractor, &ScanRequest::all(), 1), ErrorKind::Locked, &["test.db", "busy_timeout"]);
    assert!(error.is_transient());
    let options = etlrs_sql::SqliteTargetOptions::default().with_busy_timeout(0);
    let loader = database.loader("u").with_options(options);
    let error = refused(load(&loader, LoadMode::Create, &[numbers("n", [1])]), ErrorKind::Locked, &["test.db"]);
    assert!(error.is_transient());
    assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&start.elapsed()), "{:?}", start.elapsed());
    other.execute_batch("ROLLBACK").unwrap();
    read(&extractor, &ScanRequest::all(), 1).unwrap();
}

#[test]
fn floats_in_decimal_columns_are_what_was_written_or_what_they_are_exactly() {
    use etlrs_core::arrow_array::Decimal128Array;

    let columns = ["a DECIMAL(30,18)", "b DECIMAL(18,10)", "c DECIMAL(20,0)", "d DECIMAL(18,2)"];
    let database = Database::new(&format!("CREATE TABLE t ({})", columns.join(", ")));
    database.execute("INSERT INTO t VALUES (0.1, 12345678.1, 9223372036854775808, 1234567890123456.78)");
    let decimal = |value: i128, precision, scale| {
        array(Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale).unwrap())
    };
    let expected = batch(vec![
        ("a", decimal(100_000_000_000_000_000, 30, 18)),
        ("b", decimal(123_456_781_000_000_000, 18, 10)),
        ("c", decimal(9_223_372_036_854_775_808, 20, 0)),
        // SQLite itself has made this of it.
        ("d", decimal(123_456_789_012_345_675, 18, 2)),
    ]);
    assert_eq!(database.read("t").unwrap().checksum(), Checksum::of_batch(&expected).unwrap());
}

#[test]
fn values_that_do_not_fit_are_named_by_rowid_and_column() {
    for (declared, value, found) in [
        ("INTEGER", "'secret'", "text that is no such integer, where int64"),
        ("INTEGER", "1e300", "a real number that is no integer"),
        ("INTEGER", "x'00'", "a blob, where int64"),
        ("SMALLINT", "40000", "an integer that is out of range, where int16"),
        ("UINT8", "-1", "out of range"),
        ("REAL", "'secret'", "text, where float64"),
        ("NUMERIC", "9007199254740993", "an integer beyond 2^53"),
        ("FLOAT4", "0.1", "more than 32 bits"),
        ("BOOLEAN", "2", "an integer other than 0 and 1"),
        ("TEXT", "x'ff'", "a blob, where text"),
        ("TEXT", "CAST(x'ff' AS TEXT)", "text that is not valid UTF-8"),
        ("BLOB", "'secret'", "text, where binary"),
        ("DATE", "'01/02/2013'", "text of another form, where date"),
        ("DATE", "2456293", "an integer, where date"),
        ("TIMESTAMPTZ", "'2013-01-01 00:00:00 here'", "text of another form"),
        ("TIMESTAMP", "'2013-01-01 00:00:00Z'", "text of another form"),
        ("DECIMAL(18,1)", "1234567890123456.3", "a real number that the digits"),
        ("DECIMAL(20,2)", "1e300", "a real number that the digits"),
        ("DECIMAL(5,2)", "1.255", "a real number that the digits"),
        ("DECIMAL(5,2)", "1000", "an integer with too many digits"),
        ("DECIMAL_TEXT(5,2)", "'1.255'", "text that is no such decimal"),
    ] {
        let database = Database::new(&format!(
            "CREATE TABLE t (a TEXT, b {declared}); INSERT INTO t (rowid, b) VALUES (4, NULL), (17, {value})"
        ));
        let place = format!("{}#t", show(&database.path()));
        let error = refused(
            database.read("t"),
            ErrorKind::InvalidData,
            &["rowid 17 holds", found, "column \"b\"", &place, "the option types=b:"],
        );
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(error.position().record, None);
        let bytes = value.contains("ff") || value.contains("00'") && value.starts_with('x');
        let taken = database.read_as("t", if bytes { "b:binary" } else { "b:text" });
        assert_eq!(taken.unwrap_or_else(|error| panic!("{declared} {value}: {error}")).total_count(), 2);
    }
    // Without rowids the row is counted.
    let database = Database::new(
        "CREATE TABLE w (k INTEGER PRIMARY KEY, n INTEGER) WITHOUT ROWID; INSERT INTO w VALUES (5, 1), (6, 'x')",
    );
    refused(database.read("w"), ErrorKind::InvalidData, &["row 2 holds text"]);
}

#[test]
fn tables_of_other_programs_are_read_by_their_declared_types() {
    for (declared, values, data_type, expected) in [
        ("INT", "1, -9223372036854775808", "int64", "1|-9223372036854775808"),
        ("DOUBLE PRECISION", "1, 2.5", "float64", "1|2.5"),
        ("DECIMAL(5,2)", "1, 2.50, '3.25', 0.1", "decimal(5,2)", "1.00|2.50|3.25|0.10"),
        ("NUMERIC(10)", "12", "decimal(10,0)", "12"),
        ("NUMERIC", "1, 2.5", "float64", "1|2.5"),
        ("VARCHAR(3)", "'abcd', 12", "text", "abcd|12"),
        ("", "1, 2", "int64", "1|2"),
        ("", "1, 2.5", "float64", "1|2.5"),
        ("", "9007199254740993, 2.5", "text", "9007199254740993|2.5"),
        ("", "1, 'x', 0.1, 1e300", "text", "1|x|0.1|1e300"),
        ("", "NULL", "text", ""),
        ("JSON", "'{}', 5", "text", "{}|5"),
        ("GEOMETRY", "x'3132'", "binary", "12"),
        ("", "x'3132', 'ab'", "binary", "12|ab"),
    ] {
        let rows: Vec<_> = values.split(", ").map(|value| format!("({value})")).collect();
        let database =
            Database::new(&format!("CREATE TABLE t (v {declared}); INSERT INTO t VALUES {}", rows.join(", ")));
        let snapshot = database.read("t").unwrap_or_else(|error| panic!("{declared} {values}: {error}"));
        assert_eq!(type_name(snapshot.schema().field(0).data_type()), data_type, "{declared} {values}");
        let shown: Vec<_> = snapshot.records().map(|record| shown(record.get(0).unwrap())).collect();
        assert_eq!(shown.join("|"), expected, "{declared} {values}");
    }
}

fn shown(value: Value<'_>) -> String {
    match value {
        Value::Null => String::new(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Text(text) => text.into_owned(),
        Value::Binary(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
        Value::Decimal { value, scale } => {
            let text = format!("{value:03}");
            if scale == 0 {
                value.to_string()
            } else {
                format!("{}.{}", &text[..text.len() - 2], &text[text.len() - 2..])
            }
        }
        other => format!("{other:?}"),
    }
}
