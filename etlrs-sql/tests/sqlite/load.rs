use etlrs_core::*;

use crate::*;

const OLD: &str = "CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT NOT NULL DEFAULT 'd', g AS (n + 1));
    CREATE INDEX by_s ON t (s, \"n\"); CREATE UNIQUE INDEX by_n ON t (n); CREATE VIEW v AS SELECT n FROM t;
    CREATE TABLE log (n INTEGER); CREATE TABLE child (n INTEGER REFERENCES t (n));
    CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.n); END;
    CREATE TRIGGER other AFTER DELETE ON log BEGIN DELETE FROM t WHERE n = old.n; END;
    INSERT INTO t (n, s) VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES (1); DELETE FROM log WHERE n = 99;";

const DEFINITION: &str = "SELECT group_concat(sql, char(10)) FROM (SELECT sql FROM sqlite_master ORDER BY name)";

fn two_columns(numbers: &[i64]) -> RecordBatch {
    batch(vec![
        ("s", array(numbers.iter().map(|n| Some(format!("s{n}"))).collect::<arrow_array::StringArray>())),
        ("N", array(arrow_array::Int64Array::from(numbers.to_vec()))),
    ])
}

#[test]
fn nothing_is_seen_before_the_commit_and_no_trace_after_it() {
    for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
        let database = Database::new(if mode == LoadMode::Create { "CREATE TABLE x (n)" } else { OLD });
        let (before, defined) = (database.things(), database.text(DEFINITION));
        let rows =
            "SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM v) || ' ' || (SELECT count(*) FROM log)";
        let cx = context(10);
        let batches = [two_columns(&[11, 12]), two_columns(&[13])];
        run(async {
            let (session, receipts) = stage(&cx, &database.loader("T"), mode, &batches).await.unwrap();
            if mode != LoadMode::Create {
                assert_eq!(database.text(rows), "2 2 2");
            }
            assert!(database.things().starts_with(if mode == LoadMode::Create {
                "table _etlrs_ledger"
            } else {
                "table _etlrs"
            }));
            let names = etlrs_sql::SqliteExtractor::new(database.path(), "nothing");
            let error = names.scan(&cx, &ScanRequest::all()).await.err().unwrap();
            assert!(!error.to_string().contains("_etlrs_"), "{error}");
            let published = session.commit(receipts).await.unwrap();
            assert_eq!(published.rows, 3);
        });
        match mode {
            LoadMode::Create => assert_eq!(database.things(), "table T, table x"),
            LoadMode::Append => {
                assert_eq!(database.things(), before);
                assert_eq!(database.text(rows), "5 5 5", "triggers fire for appended rows");
            }
            _ => {
                assert_eq!(database.things(), before);
                assert_eq!(database.text(rows), "3 3 5", "triggers fire for replaced rows");
                assert_eq!(database.text(DEFINITION), defined);
                assert_eq!(database.text("SELECT group_concat(g) FROM t"), "12,13,14", "generated columns stay");
                database.execute("INSERT INTO t (n) VALUES (99)");
                assert_eq!(database.text("SELECT s FROM t WHERE n = 99"), "d", "defaults stay");
                assert_eq!(database.text(rows), "4 4 6", "the trigger works on");
            }
        }
        assert_eq!(
            database.text("SELECT group_concat(n) FROM (SELECT n FROM t WHERE n BETWEEN 10 AND 20 ORDER BY rowid)"),
            "11,12,13"
        );
        assert_eq!(database.text("PRAGMA integrity_check"), "ok");
        assert_eq!(database.files(), ["test.db"]);
    }
}

#[test]
fn replace_keeps_the_definition_of_a_table() {
    for (sql, rows) in [
        ("CREATE TABLE t (n INTEGER PRIMARY KEY AUTOINCREMENT, more TEXT DEFAULT 'd')", "7 d"),
        ("CREATE TABLE t (more TEXT NOT NULL DEFAULT ('a' || 'b'), n BIGINT CHECK (n > 0) UNIQUE)", "7 ab"),
        ("CREATE TABLE t (n INT NOT NULL, more, PRIMARY KEY (n)) WITHOUT ROWID", "7 "),
        ("CREATE TABLE t (n INT, more INT AS (n * 2) STORED) STRICT", "7 14"),
        ("CREATE TABLE t (n INTEGER PRIMARY KEY, more); CREATE TABLE child (n INTEGER REFERENCES t (n))", "7 "),
        ("CREATE TABLE t (n INTEGER, more); CREATE UNIQUE INDEX i ON t (n, \"more\") WHERE more > 0", "7 "),
    ] {
        let database = Database::new(&format!("{sql}; INSERT INTO t (n) VALUES (1), (7)"));
        let before = database.text(DEFINITION);
        let written = [numbers("n", [7])];
        let preview = run(database.loader("t").check(&context(1), &plan(LoadMode::Replace, &written))).unwrap();
        assert_eq!(preview.notes, ["the rows of t are replaced within the table, which stays"]);
        assert_eq!(preview.ddl, [""; 0]);
        for _ in 0..2 {
            database.load("t", LoadMode::Replace, &written[0]).unwrap();
            assert_eq!(database.text(DEFINITION), before);
            assert_eq!(database.text("SELECT group_concat(n || ' ' || ifnull(more, '')) FROM t"), rows, "{sql}");
        }
        assert_eq!(database.text("SELECT CAST(count(*) AS TEXT) FROM pragma_foreign_key_check"), "0");
    }
}

#[test]
fn a_table_of_the_same_definition_takes_the_place_of_one_that_a_load_made() {
    let place = "SELECT CAST(rootpage AS TEXT) FROM sqlite_master WHERE name = 'My \"t\"'";
    let database = Database::new("CREATE TABLE x (n)");
    let written = [numbers("n", [1, 2])];
    database.load("My \"t\"", LoadMode::Create, &written[0]).unwrap();
    database.execute("CREATE INDEX i ON \"my \"\"t\"\"\" (n); CREATE VIEW v AS SELECT * FROM \"My \"\"t\"\"\"");
    let before = (database.text(DEFINITION), database.text(place));
    let preview = run(database.loader("MY \"T\"").check(&context(1), &plan(LoadMode::Replace, &written))).unwrap();
    assert_eq!(preview.notes, ["the table My \"t\" is replaced by one of the same definition"]);
    database.load("MY \"T\"", LoadMode::Replace, &numbers("n", [3, 4, 5])).unwrap();
    assert_eq!(database.text("SELECT group_concat(n) FROM v"), "3,4,5");
    assert_eq!(database.text(DEFINITION), before.0);
    assert_ne!(database.text(place), before.1, "it is another table");
    assert_eq!(database.text("PRAGMA integrity_check"), "ok");

    // A trigger is to see the rows go and come.
    database.execute(
        "CREATE TABLE log (what); CREATE TRIGGER gone AFTER DELETE ON \"My \"\"t\"\"\" BEGIN
         INSERT INTO log VALUES (old.n); END",
    );
    database.load("my \"t\"", LoadMode::Replace, &numbers("n", [6])).unwrap();
    assert_eq!(database.text("SELECT group_concat(what) FROM log"), "3,4,5");

    // A table that came after the load was planned and has more to it than a load gives.
    run(async {
        let loader = database.loader("late");
        let (session, receipts) = stage(&context(1), &loader, LoadMode::Replace, &[numbers("n", [8])]).await.unwrap();
        database.execute("CREATE TABLE late (n INTEGER DEFAULT 5, more TEXT DEFAULT 'd')");
        session.commit(receipts).await.unwrap();
    });
    assert_eq!(database.text("SELECT n || more FROM late"), "8d");
}

#[test]
fn replace_fails_whole_where_the_table_refuses_a_row() {
    let twice = batch(vec![
        ("n", array(arrow_array::Int64Array::from(vec![1, 2]))),
        ("s", array(arrow_array::StringArray::from(vec!["same", "same"]))),
    ]);
    for (sql, word) in [
        ("CREATE TABLE t (n INTEGER, s TEXT); CREATE UNIQUE INDEX one ON t (s)", "UNIQUE constraint failed: t.s"),
        (
            "CREATE TABLE \"t\" (\"n\" INTEGER, \"s\" TEXT); CREATE UNIQUE INDEX one ON t (s)",
            "UNIQUE constraint failed: t.s",
        ),
        ("CREATE TABLE t (n INTEGER CHECK (n < 2), s TEXT)", "CHECK constraint failed"),
        (
            "CREATE TABLE t (n INTEGER, s TEXT); CREATE TRIGGER keep BEFORE DELETE ON t BEGIN SELECT RAISE(IGNORE); END",
            "keeps old rows",
        ),
        ("CREATE TABLE t (n INTEGER, s INTEGER)", "or drop the table first"),
        ("CREATE TABLE t (n INTEGER)", "or drop the table first"),
    ] {
        let database = Database::new(&format!("{sql}; INSERT INTO t (n) VALUES (1)"));
        let before = database.things();
        let error = database.load("t", LoadMode::Replace, &twice).unwrap_err();
        assert!(error.to_string().contains(word), "{sql}: {error}");
        assert_eq!(database.text("SELECT group_concat(n) FROM t"), "1", "{sql}");
        assert_eq!(database.things(), before);
    }
}

#[test]
fn targets_that_do_not_fit_are_refused_and_left_alone() {
    use ErrorKind::*;
    let text = || batch(vec![("n", array(arrow_array::StringArray::from(vec!["x"])))]);
    for (sql, mode, written, kind, words) in [
        ("CREATE TABLE T (n INTEGER)", LoadMode::Create, numbers("n", [1]), AlreadyExists, "append or replace"),
        ("CREATE VIEW t AS SELECT 1 AS n", LoadMode::Create, numbers("n", [1]), InvalidConfig, "a view"),
        ("CREATE VIEW t AS SELECT 1 AS n", LoadMode::Append, numbers("n", [1]), InvalidConfig, "a view"),
        ("CREATE VIEW t AS SELECT 1 AS n", LoadMode::Replace, numbers("n", [1]), InvalidConfig, "a view"),
        ("CREATE VIRTUAL TABLE t USING fts5(n)", LoadMode::Replace, numbers("n", [1]), InvalidConfig, "virtual"),
        ("CREATE TABLE t (m INTEGER)", LoadMode::Append, numbers("n", [1]), SchemaMismatch, "no such column"),
        (
            "CREATE TABLE t (m INTEGER, n AS (m))",
            LoadMode::Append,
            numbers("n", [1]),
            SchemaMismatch,
            "computes this column",
        ),
        ("CREATE TABLE t (n INTEGER)", LoadMode::Append, text(), SchemaMismatch, "cannot be stored unchanged"),
        (
            "CREATE TABLE t (n INTEGER, m TEXT NOT NULL)",
            LoadMode::Append,
            numbers("n", [1]),
            SchemaMismatch,
            "column \"m\"",
        ),
        ("CREATE TABLE t (n INTEGER)", LoadMode::Merge, numbers("n", [1]), InvalidConfig, "needs the columns"),
    ] {
        let database = Database::new(sql);
        let before = database.things();
        let plan = plan(mode, std::slice::from_ref(&written));
        refused(run(database.loader("t").check(&context(1), &plan)), kind, &[words]);
        refused(database.load("t", mode, &written), kind, &[words]);
        assert_eq!(database.things(), before);
        assert_eq!(database.files(), ["test.db"]);
    }
}

#[test]
fn append_that_breaks_a_constraint_appends_nothing() {
    for (sql, words) in [
        ("CREATE TABLE t (n INTEGER UNIQUE, m TEXT DEFAULT 'x'); INSERT INTO t VALUES (2, 'y')", "UNIQUE"),
        ("CREATE TABLE t (n INTEGER CHECK (n < 3)); INSERT INTO t VALUES (1)", "CHECK"),
        // What the table says of conflicts would leave out rows, or replace old ones.
        ("CREATE TABLE t (n INTEGER PRIMARY KEY ON CONFLICT IGNORE); INSERT INTO t VALUES (2)", "UNIQUE"),
        ("CREATE TABLE t (n INTEGER UNIQUE ON CONFLICT REPLACE, m TEXT); INSERT INTO t VALUES (2, 'y')", "UNIQUE"),
        (
            "CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1);
             CREATE TRIGGER g BEFORE INSERT ON t WHEN new.n = 3 BEGIN SELECT RAISE(IGNORE); END",
            "the table took 3 of 4 rows",
        ),
    ] {
        let database = Database::new(sql);
        let before = database.things();
        let error = database.load("t", LoadMode::Append, &numbers("n", 1..5)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::VerifyFailed), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(database.text("SELECT CAST(count(*) AS TEXT) FROM t"), "1");
        assert_eq!(database.things(), before);
    }
}

#[test]
fn a_target_that_is_not_there_is_made_in_every_mode() {
    for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
        for sql in ["", "CREATE TABLE x (n)"] {
            let database = Database::new(sql);
            let plan = plan(mode, &[numbers("n", [1])]);
            let preview = run(database.loader("t").check(&context(1), &plan)).unwrap();
            assert_eq!(preview.column_types, ["INTEGER"]);
            assert_eq!(preview.ddl, ["CREATE TABLE \"t\" (\"n\" INTEGER)"]);
            assert_eq!(database.files().is_empty(), sql.is_empty(), "a check creates nothing");
            database.load("t", mode, &numbers("n", [1])).unwrap();
            assert_eq!(database.text("SELECT CAST(n AS TEXT) FROM t"), "1");
        }
    }
    let missing = SqliteLoader::new("/no/such/folder/x.db", "t");
    refused(load(&missing, LoadMode::Create, &[numbers("n", [1])]), ErrorKind::NotFound, &["/no/such/folder"]);
}

#[test]
fn create_fails_when_the_target_appears_meanwhile() {
    let database = Database::new("");
    run(async {
        let (session, receipts) =
            stage(&context(1), &database.loader("t"), LoadMode::Create, &[numbers("n", [1])]).await.unwrap();
        database.execute("CREATE TABLE t (mine INTEGER)");
        refused(session.commit(receipts).await, ErrorKind::AlreadyExists, &["appeared"]);
    });
    assert_eq!(database.things(), "table t");
}

#[test]
fn abort_and_drop_leave_the_target_as_it_was() {
    for sql in ["", "CREATE TABLE x (n)", "PRAGMA journal_mode = WAL; CREATE TABLE x (n)"] {
        for abort in [true, false] {
            for finished in [true, false] {
                let database = Database::new(sql);
                let cx = context(1);
                run(async {
                    let loader = database.loader("t");
                    let batches = [numbers("n", [1])];
                    if finished {
                        let (session, _) = stage(&cx, &loader, LoadMode::Create, &batches).await.unwrap();
                        if abort {
                            session.abort().await.unwrap();
                        } else {
                            drop(session);
                        }
                    } else {
                        let plan = plan(LoadMode::Create, &batches);
                        let session = loader.begin(&cx, plan.clone()).await.unwrap();
                        let mut writer = session.writer(&cx, &plan.partitions[0], 1).await.unwrap();
                        writer.write(batches[0].clone()).await.unwrap();
                        if abort {
                            session.abort().await.unwrap();
                        } else {
                            drop(session);
                        }
                        drop(writer);
                    }
                });
                if sql.is_empty() {
                    assert!(database.files().is_empty(), "{:?}", database.files());
                } else {
                    assert_eq!(database.things(), "table x");
                    assert_eq!(database.files(), ["test.db"]);
                }
            }
        }
    }
}

#[test]
fn a_file_that_others_have_filled_meanwhile_is_kept() {
    let database = Database::new("");
    run(async {
        let (session, _) =
            stage(&context(1), &database.loader("t"), LoadMode::Create, &[numbers("n", [1])]).await.unwrap();
        database.execute("CREATE TABLE theirs (n)");
        session.abort().await.unwrap();
    });
    assert_eq!(database.things(), "table theirs");
}

#[test]
fn an_attempt_that_failed_or_finished_leaves_no_rows_to_the_next() {
    for finish in [false, true] {
        let database = Database::new("");
        let cx = context(1);
        run(async {
            let batches = [numbers("n", [1, 2]), numbers("n", [3])];
            let plan = plan(LoadMode::Create, &batches);
            let session = database.loader("t").begin(&cx, plan.clone()).await.unwrap();
            let mut receipts = Vec::new();
            for (partition, batch) in plan.partitions.iter().zip(&batches) {
                let mut writer = session.writer(&cx, partition, 1).await.unwrap();
                writer.write(batch.clone()).await.unwrap();
                refused(session.writer(&cx, partition, 1).await, ErrorKind::Internal, &["before the one before"]);
                if finish {
                    writer.finish().await.unwrap();
                } else {
                    drop(writer);
                }
                let mut writer = session.writer(&cx, partition, 2).await.unwrap();
                writer.write(batch.clone()).await.unwrap();
                receipts.push(writer.finish().await.unwrap());
            }

            assert_eq!(receipts[0].rows, 2);
            session.commit(receipts).await.unwrap();
        });
        assert_eq!(ints(&database.read("t").unwrap(), 0), [1, 2, 3]);
    }
}

#[test]
fn receipts_that_do_not_match_what_is_staged_publish_nothing() {
    for wrong in [vec![], vec![Receipt::new(PartitionId(0), 2, 0)], vec![Receipt::new(PartitionId(1), 1, 0)]] {
        let database = Database::new("CREATE TABLE t (n INTEGER)");
        run(async {
            let batches = [numbers("n", [1])];
            let (session, _) = stage(&context(1), &database.loader("t"), LoadMode::Replace, &batches).await.unwrap();
            refused(session.commit(wrong).await, ErrorKind::Internal, &["receipts"]);
        });
        assert_eq!(database.text("SELECT CAST(count(*) AS TEXT) FROM t"), "0");
        assert_eq!(database.things(), "table t");
    }
}

#[test]
fn what_dead_runs_left_is_removed_and_nothing_else() {
    let run_id = RunId::generate();
    let database = Database::new(&format!(
        "CREATE TABLE _etlrs_staging_t_{run_id} (n); CREATE TABLE _etlrs_staging_t_x_{run_id} (n);
         CREATE TABLE _etlrs_staging_t_mine (n)"
    ));
    database.load("T", LoadMode::Create, &numbers("n", [1])).unwrap();
    assert_eq!(database.things(), format!("table _etlrs_staging_t_mine, table _etlrs_staging_t_x_{run_id}, table T"));
}

#[test]
fn two_sessions_on_one_table_exclude_each_other() {
    let database = Database::new("");
    run(async {
        let cx = context(1);
        let batches = [numbers("n", [1])];
        let (first, receipts) = stage(&cx, &database.loader("t"), LoadMode::Create, &batches).await.unwrap();
        let second = database.loader("T").begin(&context(1), plan(LoadMode::Create, &batches)).await;
        refused(second, ErrorKind::Locked, &["process"]);
        // Another table of the same file is free, and outlives the first one's abort.
        let (other, others) = stage(&context(1), &database.loader("t2"), LoadMode::Create, &batches).await.unwrap();
        drop(receipts);
        first.abort().await.unwrap();
        other.commit(others).await.unwrap();
    });
    assert_eq!(database.things(), "table t2");
    assert_eq!(database.files(), ["test.db"]);
}

#[test]
fn long_names_of_tables_have_short_locks() {
    let database = Database::new("");
    let (a, b) = (format!("{}a", "ü".repeat(100)), format!("{}b", "ü".repeat(100)));
    run(async {
        let batches = [numbers("n", [1])];
        let (first, _) = stage(&context(1), &database.loader(&a), LoadMode::Create, &batches).await.unwrap();
        let (second, _) = stage(&context(1), &database.loader(&b), LoadMode::Create, &batches).await.unwrap();
        second.abort().await.unwrap();
        // The one that made the file removes it.
        first.abort().await.unwrap();
    });
    assert!(database.files().is_empty());
}

#[test]
fn the_journal_mode_is_left_as_it_is() {
    for mode in ["wal", "delete", "truncate"] {
        let database = Database::new(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE x (n)"));
        database.load("t", LoadMode::Create, &numbers("n", [1])).unwrap();
        let expected = if mode == "truncate" { "delete" } else { mode };
        assert_eq!(database.text("PRAGMA journal_mode"), expected);
    }
}

#[test]
fn merge_updates_known_keys_and_inserts_others() {
    let rows = |keys: &[(i64, &str, &str)]| {
        batch(vec![
            ("a", array(arrow_array::Int64Array::from(keys.iter().map(|row| row.0).collect::<Vec<_>>()))),
            ("b", array(arrow_array::StringArray::from(keys.iter().map(|row| row.1).collect::<Vec<_>>()))),
            ("x", array(arrow_array::StringArray::from(keys.iter().map(|row| row.2).collect::<Vec<_>>()))),
        ])
    };
    let all = "SELECT group_concat(a || b || x, ' ') FROM (SELECT * FROM t ORDER BY a, b)";
    let database = Database::new("");
    let first = [rows(&[(1, "p", "one"), (1, "q", "two"), (2, "p", "three")]), rows(&[(1, "p", "last")])];
    // Into a table that is made for it, and again into what is there.
    for _ in 0..2 {
        assert_eq!(merge(&database.loader("t"), &["b", "a"], &first).unwrap().rows, 4);
        assert_eq!(database.text(all), "1plast 1qtwo 2pthree");
    }
    database.execute("ALTER TABLE t ADD COLUMN y DEFAULT 5; UPDATE t SET y = 6");
    merge(&database.loader("t"), &["a", "b"], &[rows(&[(1, "q", "new"), (9, "z", "other")])]).unwrap();
    let all = "SELECT group_concat(a || b || x || y, ' ') FROM (SELECT * FROM t ORDER BY a, b)";
    assert_eq!(database.text(all), "1plast6 1qnew6 2pthree6 9zother5");
    assert_eq!(database.things(), "index sqlite_autoindex_t_1, table t");

    // By a unique index, which may tell fewer texts apart; and by none.
    let loader = database.loader("u");
    database.execute("CREATE TABLE u (a INTEGER, b TEXT, x TEXT); CREATE UNIQUE INDEX i ON u (b COLLATE NOCASE)");
    let error = merge(&loader, &["a"], &[rows(&[(1, "p", "x")])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains("no unique index"), "{error}");
    let error = merge(&loader, &["b"], &[rows(&[(1, "p", "x"), (2, "P", "y")])]).unwrap_err();
    assert!(error.to_string().contains("two keys of the source are one"), "{error}");
    for row in [(1, "p", "x"), (2, "P", "y")] {
        merge(&loader, &["b"], &[rows(&[row])]).unwrap();
    }
    assert_eq!(database.text("SELECT a || b || x FROM u"), "2Py");

    // A key that is null is in no index.
    let nulls = batch(vec![("b", array(arrow_array::StringArray::from(vec![Some("q"), None])))]);
    let error = merge(&loader, &["b"], &[nulls]).unwrap_err();
    assert!(error.to_string().contains("column \"b\": there is a null"), "{error}");
    assert_eq!(database.text("SELECT count(*) || '' FROM u"), "1");
}

#[test]
fn values_that_a_column_would_change_are_refused_one_by_one() {
    use arrow_array::{Decimal128Array, Decimal256Array, Int64Array, StringArray};
    use etlrs_core::arrow_array;

    let decimals =
        |values: &[i128]| array(Decimal128Array::from(values.to_vec()).with_precision_and_scale(18, 2).unwrap());
    let wide = |value: &str| {
        let value = arrow_buffer::i256::from_string(value).unwrap();
        array(Decimal256Array::from(vec![value]).with_precision_and_scale(40, 2).unwrap())
    };
    let text = |values: &[&str]| array(StringArray::from(values.to_vec()));
    let ints = |values: &[i64]| array(Int64Array::from(values.to_vec()));
    for (declared, values, kept) in [
        ("DECIMAL(18,2)", decimals(&[150, -999_999_999_999_999, 0]), "1.5 -9999999999999.99 0"),
        // SQLite makes a float of it, and of a float a whole number with digits of its own.
        ("DECIMAL(18,2)", decimals(&[123_456_789_012_345_010]), "a decimal of more digits than the column keeps"),
        ("DECIMAL(18,2)", decimals(&[1, 1_234_567_890_123_456]), "declare the column DECIMAL_TEXT(P,S)"),
        // Digits are counted without the zeros behind them, and are those of an integer without a fraction.
        (
            "DECIMAL(18,2)",
            decimals(&[123_456_789_012_345_600, 1_234_567_890_123_450]),
            "1234567890123456 12345678901234.5",
        ),
        ("DECIMAL(40,2)", decimals(&[150]), "1.5"),
        ("DECIMAL_TEXT(40,2)", decimals(&[999_999_999_999_999_999]), "9999999999999999.99"),
        ("DECIMAL(40,2)", wide("12345"), "123.45"),
        ("DECIMAL(40,2)", wide("1234567890123456789012345678901234567890"), "a decimal of more digits"),
        ("DECIMAL(10,2)", decimals(&[9_999_999_999]), "99999999.99"),
        ("DECIMAL(10,2)", decimals(&[10_000_000_000]), "a decimal of more digits"),
        ("DECIMAL(10,1)", decimals(&[10]), "cannot be stored unchanged"),
        ("DECIMAL_TEXT(12,4)", decimals(&[150, -5]), "1.5000 -0.0500"),
        ("DECIMAL_TEXT(12,4)", decimals(&[10_000_000_000]), "a decimal of more digits"),
        ("SMALLINT", ints(&[-32_768, 32_767]), "-32768 32767"),
        ("SMALLINT", ints(&[32_768]), "an integer beyond the range of the column's type"),
        ("UINT8", ints(&[-1]), "an integer beyond the range"),
        ("BOOLEAN", ints(&[1]), "cannot be stored unchanged"),
        ("DECIMAL(5,2)", ints(&[-999, 7]), "-999 7"),
        ("DECIMAL(5,2)", ints(&[1000]), "an integer beyond the range"),
        ("DECIMAL_TEXT(5,2)", ints(&[1]), "cannot be stored unchanged"),
        (
            "uuid",
            text(&["a0eebc99-9c0b", "", "x1", "1 2", "inf", "-", "0x1f", "1e"]),
            "a0eebc99-9c0b  x1 1 2 inf - 0x1f 1e",
        ),
        ("json", text(&["[1]", " 12 "]), "a text that is a number"),
        ("string", text(&["007"]), "a text that is a number"),
        ("money", text(&["-.5e3"]), "a text that is a number"),
        ("REAL", ints(&[1, -9_007_199_254_740_992]), "1.0 -9.00719925474099e+15"),
        ("DOUBLE", ints(&[9_007_199_254_740_993]), "an integer that the column's float cannot hold exactly"),
    ] {
        let database = Database::new(&format!("CREATE TABLE t (v {declared})"));
        for mode in [LoadMode::Append, LoadMode::Replace] {
            match database.load("t", mode, &batch(vec![("v", values.clone())])) {
                Ok(_) => {
                    assert_eq!(database.text("SELECT group_concat(v, ' ') FROM t"), kept, "{declared}");
                    // What is read is what was written.
                    let types = if declared.contains('(') { None } else { Some("v:text") };
                    let read = types.map_or_else(|| database.read("t"), |types| database.read_as("t", types));
                    let (read, written) = (read.unwrap(), batch(vec![("v", values.clone())]));
                    assert_eq!(read.checksum().rows(), values.len() as u64);
                    if read.schema().field(0).data_type() == values.data_type() {
                        assert_eq!(read.checksum(), Checksum::of_batch(&written).unwrap(), "{declared}");
                    }
                    database.execute("DELETE FROM t");
                }
                Err(error) => {
                    assert!(
                        error.to_string().contains(kept) && error.to_string().contains("\"v\""),
                        "{declared}: {error}"
                    );
                    assert_eq!(database.text("SELECT CAST(count(*) AS TEXT) FROM t"), "0");
                }
            }
        }
    }
}

/// Numeric affinity makes floats and integers of them.
#[test]
fn decimals_that_a_column_keeps_are_read_as_they_were_written() {
    use arrow_array::Decimal128Array;
    use etlrs_core::arrow_array;

    let mut state = 7_u64;
    let mut digits = |most: u32| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = i128::from(state) % 10_i128.pow(1 + state as u32 % most);
        if state & 1 << 40 == 0 { value } else { -value }
    };
    let (mut declared, mut written, mut read) = (Vec::new(), Vec::new(), Vec::new());
    let names: Vec<_> = (0..16).map(|scale| format!("c{scale}")).collect();
    let full_names: Vec<_> = names.iter().map(|name| format!("f{name}")).collect();
    for (scale, name) in names.iter().enumerate() {
        let most = if scale == 0 { 18 } else { 15 };
        let values: Vec<i128> = (0..1000).map(|_| digits(most)).collect();
        let decimals = |values: Vec<i128>, precision: u8, scale: i8| {
            array(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
        };
        let more = 10_i128.pow(18 - scale as u32);
        declared.push(format!("{name} DECIMAL(38,18)"));
        // As a source gives them that takes its types from the table.
        let full: Vec<_> = values.iter().map(|value| value * more).collect();
        declared.push(format!("f{name} DECIMAL(38,18)"));
        written.push((full_names[scale].as_str(), decimals(full.clone(), 38, 18)));
        read.push((full_names[scale].as_str(), decimals(full, 38, 18)));
        written.push((name.as_str(), decimals(values.clone(), most as u8, scale as i8)));
        read.push((name.as_str(), decimals(values.iter().map(|value| value * more).collect(), 38, 18)));
    }
    let database = Database::new(&format!("CREATE TABLE t ({})", declared.join(", ")));
    database.load("t", LoadMode::Append, &batch(written)).unwrap();
    assert_eq!(database.read("t").unwrap().checksum(), Checksum::of_batch(&batch(read)).unwrap());
}

#[test]
fn decimals_are_one_key_whatever_the_scale_that_they_come_with() {
    use arrow_array::Decimal128Array;
    use etlrs_core::arrow_array;

    let database = Database::new("CREATE TABLE t (k DECIMAL_TEXT(10,4) PRIMARY KEY); INSERT INTO t VALUES ('1.5000')");
    let key = array(Decimal128Array::from(vec![150]).with_precision_and_scale(5, 2).unwrap());
    merge(&database.loader("t"), &["k"], &[batch(vec![("k", key)])]).unwrap();
    assert_eq!(database.text("SELECT group_concat(k) FROM t"), "1.5000");
}

#[test]
fn a_table_that_is_altered_while_rows_are_staged_takes_none() {
    let database = Database::new("CREATE TABLE t (s TEXT)");
    run(async {
        let rows = batch(vec![("s", array(etlrs_core::arrow_array::StringArray::from(vec!["007"])))]);
        let (session, receipts) =
            stage(&context(1), &database.loader("t"), LoadMode::Append, std::slice::from_ref(&rows)).await.unwrap();
        database.execute("DROP TABLE t; CREATE TABLE t (s string)");
        refused(session.commit(receipts).await, ErrorKind::SchemaMismatch, &["altered", "run again"]);
    });
    assert_eq!(database.text("SELECT CAST(count(*) AS TEXT) FROM t"), "0");
}
