//! Modes, what a target keeps, and what is refused.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// A table with all that can hang on one.
const FURNISHED: &str = "
    CREATE USER reader;
    CREATE TABLE t (id int PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'none' COMMENT 'too', amount decimal(10,2) CHECK (amount >= 0),
        doubled decimal(11,2) AS (amount * 2) STORED, INDEX by_name (name)) COMMENT 'kept';
    GRANT SELECT ON t TO reader; GRANT UPDATE (name) ON t TO reader;
    CREATE VIEW v AS SELECT id, upper(name) AS name FROM t; CREATE TABLE log (id int);
    INSERT INTO t (id, name, amount) VALUES (1, 'old', 1), (2, 'old', 2);";

const TRIGGER: &str = "CREATE TRIGGER noting AFTER INSERT ON t FOR EACH ROW INSERT INTO log VALUES (NEW.id);";

const DESCRIPTION: &str = "SHOW CREATE TABLE t; SHOW GRANTS FOR reader; SHOW CREATE VIEW v; SHOW TRIGGERS";

fn csv(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.csv");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn create_makes_a_table_and_refuses_one_that_is_there() {
    let server = MariaDb::start();
    let (_folder, file) = csv("id,name\n1,a\n2,\n");
    copy(&file, &server.uri("t"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT * FROM t ORDER BY 1"), "1\ta\n2\tNULL");
    let error = copy(&file, &server.uri("t"), LoadMode::Create).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    server.sql("CREATE DATABASE s");
    copy(&file, &server.uri("s.T"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM s.T"), "2");
    let error = copy(&file, &server.uri("nowhere.t"), LoadMode::Create).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(server.left_over(), "");
}

#[test]
fn a_replaced_table_keeps_all_that_hangs_on_it() {
    let server = MariaDb::start();
    server.sql(FURNISHED);
    // Without the trigger the table is swapped, with it its rows are replaced.
    for (trigger, noted) in [("", "0"), (TRIGGER, "4")] {
        server.sql(trigger);
        let before = server.sql(DESCRIPTION);
        for rows in ["7,new\n8,newer", "7,new\n9,newest"] {
            let rows = rows.replace(',', ",10.25,");
            let (_folder, file) = csv(&format!("id,amount,name\n{rows}\n"));
            let types = [("types", "amount:decimal(10,2),id:int32")];
            let copy = Copy { mode: LoadMode::Replace, source_options: &types, ..Copy::default() };
            copy.run(&file, &server.uri("t")).unwrap();
        }
        assert_eq!(server.sql("SELECT * FROM t ORDER BY id"), "7\tnew\t10.25\t20.50\n9\tnewest\t10.25\t20.50");
        assert_eq!(server.sql("SELECT * FROM v ORDER BY id"), "7\tNEW\n9\tNEWEST");
        assert_eq!(server.sql(DESCRIPTION), before);
        assert_eq!(server.sql("SELECT count(*) FROM log"), noted);
    }
    // What the table refuses leaves the old rows.
    let types = [("types", "amount:decimal(10,2),id:int32")];
    for (text, said) in [("id,amount\n1,1\n1,2\n", "same key"), ("id,amount\n1,-1\n", "breaks a check")] {
        for drop in ["", "DROP TRIGGER noting"] {
            server.sql(drop);
            let (_folder, file) = csv(text);
            let copy = Copy { mode: LoadMode::Replace, source_options: &types, ..Copy::default() };
            let error = copy.run(&file, &server.uri("t")).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(server.sql("SELECT count(*), min(id) FROM t"), "2\t7");
        }
        server.sql(TRIGGER);
    }
    assert_eq!(server.left_over(), "");
}

#[test]
fn the_next_number_of_a_key_goes_on() {
    let server = MariaDb::start();
    server.sql("CREATE TABLE t (id bigint AUTO_INCREMENT PRIMARY KEY, name varchar(9)) AUTO_INCREMENT = 1000");
    let (_folder, file) = csv("id,name\n0,zero\n5,five\n");
    copy(&file, &server.uri("t"), LoadMode::Replace).unwrap();
    server.sql("INSERT INTO t (name) VALUES ('next')");
    assert_eq!(server.sql("SELECT * FROM t ORDER BY id"), "0\tzero\n5\tfive\n1000\tnext");
    // Keys that the server makes itself.
    let (_folder, file) = csv("name\nmore\n");
    copy(&file, &server.uri("t"), LoadMode::Append).unwrap();
    assert_eq!(server.sql("SELECT id FROM t WHERE name = 'more'"), "1001");
}

#[test]
fn append_adds_all_rows_or_none() {
    let server = MariaDb::start();
    server.sql(FURNISHED);
    let types = [("types", "amount:decimal(10,2),id:int32")];
    let append = |text: &str| {
        let (_folder, file) = csv(text);
        Copy { mode: LoadMode::Append, source_options: &types, ..Copy::default() }.run(&file, &server.uri("t"))
    };
    append("id,name,amount\n3,c,1.5\n4,d,2.5\n").unwrap();
    assert_eq!(server.sql("SELECT id FROM t ORDER BY 1"), "1\n2\n3\n4");
    let error = append("id,name,amount\n5,c,1.5\n4,d,2.5\n").unwrap_err();
    assert!(error.to_string().contains("same key"), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(server.sql("SELECT count(*) FROM t"), "4");
    assert_eq!(server.left_over(), "");
}

#[test]
fn merge_updates_known_keys_and_inserts_others() {
    let server = MariaDb::start();
    let merge = |text: &str, table: &str| {
        let (_folder, file) = csv(text);
        Copy { mode: LoadMode::Merge, keys: &["b", "a"], ..Copy::default() }.run(&file, &server.uri(table))
    };
    // Into a table that is made for it, and again into what is there. Keys are the same only if all their bytes are.
    for _ in 0..2 {
        merge("a,b,x\n1,p,one\n1,q,two\n2,p,three\n1,P,other\n1,p,last\n1,\"p \",blank\n", "t").unwrap();
        assert_eq!(
            server.sql("SELECT a, b, x FROM t ORDER BY a, hex(b)"),
            "1\tP\tother\n1\tp\tlast\n1\tp \tblank\n1\tq\ttwo\n2\tp\tthree"
        );
    }
    server.sql("ALTER TABLE t ADD COLUMN untouched int DEFAULT 5; UPDATE t SET untouched = 6; DELETE FROM t WHERE x IN ('other', 'blank')");
    merge("a,b,x\n1,q,new\n9,z,other\n", "t").unwrap();
    assert_eq!(
        server.sql("SELECT * FROM t ORDER BY a, b"),
        "1\tp\tlast\t6\n1\tq\tnew\t6\n2\tp\tthree\t6\n9\tz\tother\t5"
    );
    // Numbers of the server's own find no row.
    server.sql("CREATE TABLE n (id int AUTO_INCREMENT PRIMARY KEY, a bigint NOT NULL, b varchar(9) NOT NULL, x text, UNIQUE (a, b)); INSERT INTO n VALUES (7, 1, 'q', 'old')");
    merge("a,b,x\n1,q,new\n9,z,other\n", "n").unwrap();
    assert_eq!(server.sql("SELECT id > 7, a, b, x FROM n ORDER BY id"), "0\t1\tq\tnew\n1\t9\tz\tother");
    server.sql("CREATE TABLE few (id tinyint AUTO_INCREMENT PRIMARY KEY, a bigint NOT NULL, b varchar(9) NOT NULL, x text, UNIQUE (a, b)); INSERT INTO few VALUES (126, 1, 'q', 'old')");
    let error = merge("a,b,x\n1,q,new\n9,z,other\n", "few").unwrap_err().to_string();
    assert!(error.contains("not enough numbers") && error.contains("column \"id\""), "{error}");
    assert_eq!(server.sql("SELECT * FROM few"), "126\t1\tq\told");
    assert!(merge("id,a,b,x\n1,1,q,new\n", "n").unwrap_err().to_string().contains("another unique index"));
    server.sql("CREATE TABLE u (a bigint, b varchar(9), x text); CREATE TABLE w (a bigint, b varchar(9), x text, PRIMARY KEY (a, b), u int UNIQUE)");
    for (table, said) in [("u", "no unique index"), ("w", "another unique index")] {
        let error = merge("a,b,x\n1,q,new\n", table).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    let error = merge("a,b,x\n1,q,new\n,z,other\n", "t").unwrap_err();
    assert!(error.to_string().contains("a null where the column is NOT NULL"), "{error}");
    assert_eq!(server.left_over(), "");
}

#[test]
fn targets_that_cannot_hold_the_data_are_refused_before_anything_is_staged() {
    let server = MariaDb::start();
    let (_folder, file) = csv("id,name,at,price\n1,a,2024-01-01 00:00:00,1.25\n");
    let types = [("types", "id:int64,name:text,at:timestamp,price:decimal(10,2)")];
    for (columns, said) in [
        ("id bigint, name text, at datetime", "column \"price\": the target has no such column"),
        ("id bigint, name text, at date, price decimal(10,2)", "column \"at\""),
        ("id bigint, name int, at datetime, price decimal(10,2)", "column \"name\""),
        ("id bigint, name text, at datetime, price decimal(10,1)", "column \"price\""),
        ("id bigint, name text, at datetime, price decimal(10,2), more int NOT NULL", "column \"more\""),
        ("id datetime, name text, at datetime, price decimal(10,2)", "column \"id\""),
        ("id bigint, name text, at timestamp NULL, price decimal(10,2)", "column \"at\""),
    ] {
        server.sql(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t ({columns})"));
        for mode in [LoadMode::Append, LoadMode::Replace] {
            let error =
                Copy { mode, source_options: &types, ..Copy::default() }.run(&file, &server.uri("t")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SchemaMismatch, "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }
    server.sql("DROP TABLE t; CREATE TABLE t (id bigint, name text, at datetime, price double) ENGINE=MyISAM");
    let error = copy(&file, &server.uri("t"), LoadMode::Append).unwrap_err();
    assert!(error.to_string().contains("MyISAM") && error.to_string().contains("ENGINE=InnoDB"), "{error}");
    server.sql(
        "DROP TABLE t; CREATE TABLE t (id bigint PRIMARY KEY, name text, at datetime, price double);
        CREATE TABLE child (t bigint, FOREIGN KEY (t) REFERENCES t (id) ON DELETE CASCADE)",
    );
    let error = copy(&file, &server.uri("t"), LoadMode::Replace).unwrap_err();
    assert!(error.to_string().contains("the table child refers to the target"), "{error}");
    assert_eq!(server.left_over(), "");
}

#[test]
fn values_that_a_column_would_change_are_refused() {
    let server = MariaDb::start();
    for (column, data_type, value, said) in [
        ("tinyint", "int64", "128", "a number that the column's type cannot hold"),
        ("tinyint unsigned", "int64", "-1", "a number that the column's type cannot hold"),
        ("float", "int64", "16777217", "a number that the column's type cannot hold"),
        ("decimal(4,2)", "decimal(10,2)", "123.45", "outside the range"),
        ("year", "int64", "70", "a year"),
        ("varchar(3)", "text", "名名名名", "longer"),
        ("tinytext", "text", &"x".repeat(256), "longer"),
        ("char(9)", "text", "a ", "ends with a blank"),
        ("varchar(9) CHARACTER SET latin1", "text", "名", "no value of the column's type"),
        ("enum('a')", "text", "b", "no value of the column's type"),
        ("enum('a','b')", "text", "1", "no value of the column's type"),
        ("enum('a','b')", "text", "B", "no value of the column's type"),
        ("set('x','y','z')", "text", "z,x", "no value of the column's type"),
        ("set('x','y','z')", "text", "3", "no value of the column's type"),
        ("uuid", "text", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "no value of the column's type"),
        ("float(7,2)", "float32", "1.23456", "cannot be stored unchanged"),
        ("datetime", "timestamp", "2024-01-01 00:00:00.5", "finer"),
        ("datetime(6)", "timestamp", "-0001-01-01 00:00:00", ""),
        ("time(1)", "time", "00:00:00.25", "finer"),
        ("json", "text", "{", "breaks a check"),
    ] {
        server.sql(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id bigint PRIMARY KEY, c {column}); INSERT INTO t (id) VALUES (7)"
        ));
        let (_folder, file) = csv(&format!("id,c\n1,\n2,\"{value}\"\n"));
        let types = format!("id:int64,c:{data_type}");
        let types = [("types", types.as_str())];
        for mode in [LoadMode::Append, LoadMode::Replace, LoadMode::Merge] {
            let error = Copy {
                mode,
                keys: if mode == LoadMode::Merge { &["id"] } else { &[] },
                source_options: &types,
                ..Copy::default()
            }
            .run(&file, &server.uri("t"))
            .unwrap_err();
            let text = error.to_string();
            assert!(text.contains(said) && text.contains('c'), "{column} {mode}: {text}");
            assert!(value.len() < 4 || !text.contains(value), "{column} {mode}: {text}");
            assert_eq!(server.sql("SELECT id FROM t"), "7", "{column} {mode}");
        }
    }
    assert_eq!(server.left_over(), "");
}

#[test]
fn readers_of_a_replaced_table_see_the_old_rows_or_the_new_ones() {
    let server = MariaDb::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |rows: usize| {
        let path = folder.path().join(format!("{rows}.csv"));
        let lines: String = (0..rows).map(|id| format!("{id},{rows}\n")).collect();
        std::fs::write(&path, format!("id,version\n{lines}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = [file(3000), file(5000)];
    // One that is swapped and one that is filled again.
    for table in ["plain", "noted"] {
        copy(&files[0], &server.uri(table), LoadMode::Create).unwrap();
    }
    server.sql("CREATE TABLE log (id int); CREATE TRIGGER noting AFTER DELETE ON noted FOR EACH ROW INSERT INTO log VALUES (1)");
    let done = AtomicBool::new(false);
    let polls = std::thread::scope(|scope| {
        let poller = scope.spawn(|| {
            let mut polls = 0;
            while !done.load(Ordering::Relaxed) {
                // 50 statements of one connection, 10 ms apart.
                let sql = "SELECT 'plain', count(*), min(version), max(version) FROM plain;
                    SELECT 'noted', count(*), min(version), max(version) FROM noted; DO sleep(0.01);";
                for line in server.sql(&sql.repeat(50)).lines().filter(|line| !line.is_empty()) {
                    let ok = ["\t3000\t3000\t3000", "\t5000\t5000\t5000"].iter().any(|end| line.ends_with(end));
                    assert!(ok, "a reader saw {line}");
                    polls += 1;
                }
            }
            polls
        });
        let over = Done(&done);
        for round in 1..=10 {
            for table in ["plain", "noted"] {
                copy(&files[round % 2], &server.uri(table), LoadMode::Replace).unwrap();
            }
        }
        drop(over);
        poller.join().unwrap()
    });
    assert!(polls >= 100, "{polls}");
}

#[test]
fn a_lock_that_does_not_go_away_leaves_the_target() {
    use std::io::Write;
    let server = MariaDb::start();
    server.sql("CREATE TABLE t (id bigint); INSERT INTO t VALUES (1)");
    let (_folder, file) = csv("id\n2\n");
    let mut holder = server.client().arg("--unbuffered").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let input = holder.stdin.as_mut().unwrap();
    writeln!(input, "START TRANSACTION; SELECT * FROM t; DO sleep(1000);").unwrap();
    while server.sql("SELECT count(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO sleep%'") == "0" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let options = [("lock_timeout", "1")];
    let replace = Copy { mode: LoadMode::Replace, target_options: &options, ..Copy::default() };
    let error = replace.run(&file, &server.uri("t")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert_eq!(server.sql("SELECT * FROM t"), "1");
    assert!(error.to_string().contains("1 of 1 pieces are kept"), "{error}");
    // Whoever is asked to stop while it waits does not publish.
    let program = env!("CARGO_BIN_EXE_etlrs-under-test");
    let child =
        etlrs_tests::etlrs(program, std::path::Path::new("."), &["copy", &file, &server.uri("t"), "--mode", "replace"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let ran = etlrs_tests::Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{ran:?}");
    assert_eq!(server.sql("SELECT * FROM t"), "1");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let report = Copy { mode: LoadMode::Replace, ..Copy::default() }.run(&file, &server.uri("t")).unwrap();
    assert_eq!(report.resumed.map(|resumed| resumed.partitions), Some(1));
    assert_eq!(server.sql("SELECT * FROM t"), "2");
    assert_eq!(server.left_over(), "");
}

#[test]
fn two_runs_on_one_table_exclude_each_other_and_the_next_removes_what_is_left() {
    let server = MariaDb::start();
    let (_folder, file) = csv("id\n2\n");
    let options = OptionMap::new();
    let target = Uri::new(server.uri("t"));
    let loader = registry().find(&target).unwrap().loader(&target, &options).unwrap();
    block_on(async {
        let cx = RunContext::new(PerformanceConfig::default());
        let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new("id", DataType::Int64, true)]);
        let plan = LoadPlan::new(std::sync::Arc::new(schema), LoadMode::Create, vec![Partition::new(0, "all")]);
        let session = loader.begin(&cx, plan.clone()).await.unwrap();
        let second = loader.begin(&RunContext::new(PerformanceConfig::default()), plan).await;
        assert_eq!(second.err().map(|error| error.kind()), Some(ErrorKind::Locked));
        // Dropped, not aborted: what it staged is there until the next run on this table.
        drop(session);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    });
    assert_eq!(server.left_over().lines().count(), 2);
    copy(&file, &server.uri("t"), LoadMode::Create).unwrap();
    assert_eq!(server.left_over(), "");
}

#[test]
fn a_target_that_is_changed_while_rows_are_staged_is_not_published_over() {
    let server = MariaDb::start();
    let batch = arrow_array::RecordBatch::try_from_iter([(
        "id",
        std::sync::Arc::new(arrow_array::Int64Array::from(vec![1])) as arrow_array::ArrayRef,
    )])
    .unwrap();
    let options = OptionMap::new();
    for (change, mode) in [
        ("ALTER TABLE t ADD COLUMN more int", LoadMode::Replace),
        ("CREATE INDEX i ON t (id)", LoadMode::Replace),
        ("DROP TABLE t", LoadMode::Append),
        ("CREATE TRIGGER noting AFTER INSERT ON t FOR EACH ROW SET @a = 1", LoadMode::Replace),
    ] {
        server.sql("DROP TABLE IF EXISTS t; CREATE TABLE t (id bigint)");
        let target = Uri::new(server.uri("t"));
        let loader = registry().find(&target).unwrap().loader(&target, &options).unwrap();
        let error = block_on(async {
            let cx = RunContext::new(PerformanceConfig::default());
            let partition = Partition::new(0, "all");
            let plan = LoadPlan::new(batch.schema(), mode, vec![partition.clone()]);
            let session = loader.begin(&cx, plan).await.unwrap();
            let mut writer = session.writer(&cx, &partition, 1).await.unwrap();
            writer.write(batch.clone()).await.unwrap();
            let receipt = writer.finish().await.unwrap();
            // An attempt after one that was committed counts and writes nothing.
            let mut again = session.writer(&cx, &partition, 2).await.unwrap();
            again.write(batch.clone()).await.unwrap();
            assert_eq!(again.finish().await.unwrap().rows, receipt.rows);
            server.sql(change);
            session.commit(vec![receipt]).await.unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{change}: {error}");
        assert_eq!(server.left_over(), "");
    }
}

#[test]
fn a_null_is_never_replaced_by_something_else() {
    let server = MariaDb::start();
    server
        .sql("CREATE TABLE t (id bigint AUTO_INCREMENT PRIMARY KEY, at timestamp NOT NULL DEFAULT current_timestamp)");
    let types = [("types", "id:int64,at:timestamptz")];
    for (text, column) in [("id,at\n,2024-01-01T00:00:00Z\n", "id"), ("id,at\n1,\n", "at")] {
        let (_folder, file) = csv(text);
        for mode in [LoadMode::Append, LoadMode::Replace] {
            let error =
                Copy { mode, source_options: &types, ..Copy::default() }.run(&file, &server.uri("t")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("column \"{column}\"")) && text.contains("null where"), "{mode}: {text}");
            assert_eq!(server.sql("SELECT count(*) FROM t"), "0");
        }
    }
}

#[test]
fn what_a_user_may_not_see_of_a_table_stays() {
    let server = MariaDb::start();
    server.sql(
        "CREATE TABLE noted (id bigint); CREATE TABLE log (id bigint); INSERT INTO noted VALUES (1);
         CREATE TRIGGER noting AFTER INSERT ON noted FOR EACH ROW INSERT INTO log VALUES (NEW.id);
         CREATE TABLE parent (id bigint PRIMARY KEY); INSERT INTO parent VALUES (1), (2);
         CREATE TABLE cascading (id bigint PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 1;
         CREATE DATABASE hidden;
         CREATE TABLE hidden.child (id bigint, FOREIGN KEY (id) REFERENCES test.parent (id) ON DELETE CASCADE);
         INSERT INTO hidden.child VALUES (1), (2);
         CREATE USER limited;
         GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, INDEX, LOCK TABLES, REFERENCES ON test.* TO limited",
    );
    let (_folder, file) = csv("id\n1\n3\n");
    let uri = |table: &str| server.uri(table).replace("root@", "limited@");
    copy(&file, &uri("noted"), LoadMode::Replace).unwrap();
    assert_eq!(server.sql("SELECT group_concat(id ORDER BY id) FROM noted"), "1,3");
    assert_eq!(
        server.sql("SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_TABLE = 'noted'"),
        "noting"
    );
    // Its trigger may be hidden, so the rows are replaced within the table; those of the hidden child are left alone.
    copy(&file, &uri("parent"), LoadMode::Replace).unwrap();
    assert_eq!(server.sql("SELECT group_concat(id ORDER BY id) FROM hidden.child"), "1,2");
    // With the right to triggers the table is swapped, and put back for the sake of the child.
    server.sql("GRANT TRIGGER ON test.* TO limited; DELETE FROM hidden.child WHERE id = 2");
    let error = copy(&file, &uri("parent"), LoadMode::Replace).unwrap_err();
    assert!(error.to_string().contains("may not see"), "{error}");
    assert_eq!(server.sql("SELECT group_concat(id ORDER BY id) FROM parent"), "1,3");
    server.sql("INSERT INTO hidden.child VALUES (3)");
    assert!(!server.try_sql("INSERT INTO hidden.child VALUES (9)").status.success());
    assert_eq!(server.left_over(), "");
}

#[test]
fn what_is_altered_while_the_commit_waits_is_not_undone() {
    let server = MariaDb::start();
    for (mode, alter, kept) in [
        (LoadMode::Replace, "ALTER TABLE t ADD COLUMN important int DEFAULT 42", "important"),
        (LoadMode::Append, "ALTER TABLE t MODIFY d decimal(10,1)", "d"),
    ] {
        server
            .sql("DROP TABLE IF EXISTS t; CREATE TABLE t (id bigint, d decimal(10,4)); INSERT INTO t VALUES (1, 1.5)");
        let (_folder, file) = csv("id,d\n2,1.2345\n");
        let types = [("types", "d:decimal(10,4)")];
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| server.sql("START TRANSACTION; SELECT * FROM t; DO sleep(1.5); COMMIT"));
            std::thread::sleep(std::time::Duration::from_millis(300));
            let altering = scope.spawn(|| server.sql(alter));
            std::thread::sleep(std::time::Duration::from_millis(100));
            let result = Copy { mode, source_options: &types, ..Copy::default() }.run(&file, &server.uri("t"));
            holder.join().unwrap();
            altering.join().unwrap();
            let there = server.sql(&format!(
                "SELECT count(*) FROM information_schema.COLUMNS WHERE TABLE_NAME = 't' AND COLUMN_NAME = '{kept}'"
            ));
            assert_eq!(there, "1", "{mode}: {result:?}");
            let rows = server.sql("SELECT group_concat(d ORDER BY id) FROM t");
            let right = if result.is_ok() { ["1.2345", "1.5000,1.2345"] } else { ["1.5000", "1.5"] };
            assert!(right.contains(&rows.as_str()), "{mode}: {rows} {result:?}");
        });
        assert_eq!(server.left_over(), "");
    }
}

#[test]
fn keys_that_a_collation_takes_for_one_are_refused() {
    let server = MariaDb::start();
    server.sql("CREATE TABLE t (k varchar(9) PRIMARY KEY, n bigint) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci; INSERT INTO t VALUES ('A', 1)");
    let merge = |text: &str| {
        let (_folder, file) = csv(text);
        Copy { mode: LoadMode::Merge, keys: &["k"], ..Copy::default() }.run(&file, &server.uri("t"))
    };
    let error = merge("k,n\na,2\ná,3\n").unwrap_err();
    assert!(error.to_string().contains("two keys of the source are one"), "{error}");
    assert_eq!(server.sql("SELECT * FROM t"), "A\t1");
    merge("k,n\nb,2\nc,3\nb,4\n").unwrap();
    assert_eq!(server.sql("SELECT * FROM t ORDER BY k"), "A\t1\nb\t4\nc\t3");
}

#[test]
fn servers_that_want_a_primary_key_are_understood() {
    let server = MariaDb::start_with(&["--innodb-force-primary-key=1"]);
    let (_folder, file) = csv("id\n1\n");
    server.sql("CREATE TABLE t (id bigint PRIMARY KEY)");
    for mode in [LoadMode::Append, LoadMode::Replace] {
        copy(&file, &server.uri("t"), mode).unwrap();
    }
    let error = copy(&file, &server.uri("new"), LoadMode::Create).unwrap_err();
    assert!(error.to_string().contains("wants a primary key"), "{error}");
    let merge = Copy { mode: LoadMode::Merge, keys: &["id"], ..Copy::default() };
    merge.run(&file, &server.uri("new")).unwrap();
    assert_eq!(server.left_over(), "");
}

#[test]
fn what_a_crash_left_between_two_renames_is_put_back() {
    let server = MariaDb::start();
    let (_folder, file) = csv("id\n1\n");
    copy(&file, &server.uri("t"), LoadMode::Create).unwrap();
    // The name that a run would have taken is found from one that was dropped.
    let loader = MysqlLoader::new(MysqlPool::connect_lazy(&server.uri("")).unwrap(), "t").unwrap();
    block_on(async {
        let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new("id", DataType::Int64, true)]);
        let plan = LoadPlan::new(std::sync::Arc::new(schema), LoadMode::Append, vec![Partition::new(0, "all")]);
        drop(loader.begin(&RunContext::new(PerformanceConfig::default()), plan).await.unwrap());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    });
    let left = server.left_over();
    let staging = left.lines().find(|name| name.contains("staging")).unwrap();
    server.sql(&format!("RENAME TABLE t TO {}", staging.replace("staging", "old")));
    copy(&file, &server.uri("t"), LoadMode::Append).unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM t"), "2");
    assert_eq!(server.left_over(), "");
}

#[test]
fn a_table_that_cannot_be_copied_in_all_that_counts_is_filled_again() {
    use std::os::unix::fs::PermissionsExt;
    let server = MariaDb::start();
    let elsewhere = server.folder().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o777)).unwrap();
    server.sql(&format!(
        "CREATE TABLE t (id int, name varchar(20)) DATA DIRECTORY='{}'; INSERT INTO t VALUES (1, 'old')",
        elsewhere.display()
    ));
    let before = server.sql("SHOW CREATE TABLE t");
    let (_folder, file) = csv("id,name\n2,new\n");
    copy(&file, &server.uri("t"), LoadMode::Replace).unwrap();
    assert_eq!(server.sql("SELECT * FROM t"), "2\tnew");
    assert_eq!(server.sql("SHOW CREATE TABLE t"), before);
    assert_eq!(server.left_over(), "");
}

/// That a table is gone is no proof that it was renamed.
#[test]
fn what_was_dropped_by_hand_was_not_published() {
    let server = MariaDb::start();
    let batch = record_batch([("id", vec![Some(1)])]);
    for (mode, dropped) in [
        (LoadMode::Replace, &["staging"][..]),
        (LoadMode::Replace, &["staging", "ledger"]),
        (LoadMode::Append, &["staging", "ledger"]),
    ] {
        let loader = MysqlLoader::new(MysqlPool::connect_lazy(&server.uri("")).unwrap(), "t").unwrap();
        // Which in the mode append comes when the run had begun, so that its own table would have got that name.
        let create = "CREATE TABLE t (id bigint)";
        server.sql("DROP TABLE IF EXISTS t");
        if mode == LoadMode::Replace {
            server.sql(create);
        }
        block_on(async {
            let cx = RunContext::new(PerformanceConfig::default());
            let partition = Partition::new(0, "all");
            let mut plan = LoadPlan::new(batch.schema(), mode, vec![partition.clone()]);
            plan.record = Some("the same".into());
            let session = loader.begin(&cx, plan).await.unwrap();
            let mut writer = session.writer(&cx, &partition, 1).await.unwrap();
            writer.write(batch.clone()).await.unwrap();
            writer.seal(Tally { checksum: Checksum::of_batch(&batch).unwrap(), rows_read: 1 });
            writer.finish().await.unwrap();
            assert_eq!(session.suspend().await.unwrap(), 1);
            for table in server.left_over().lines().filter(|name| dropped.iter().any(|what| name.contains(what))) {
                server.sql(&format!("DROP TABLE {table}"));
            }
            if mode == LoadMode::Append {
                server.sql(create);
            }
            let left = loader.interrupted(&cx).await.unwrap().unwrap();
            assert!(left.run == cx.run_id() && !left.published, "{mode}, {dropped:?}");
        });
        let (_folder, file) = csv("id\n7\n");
        copy(&file, &server.uri("t"), mode).unwrap();
        assert_eq!(server.sql("SELECT id FROM t"), "7");
        assert_eq!(server.left_over(), "");
    }
}

#[test]
fn numbers_of_any_type_become_years_and_decimals() {
    let server = MariaDb::start();
    for (year, good) in [("uint64", true), ("int16", true), ("decimal(4,0)", true), ("boolean", false)] {
        server.sql("DROP TABLE IF EXISTS t; CREATE TABLE t (b decimal(5,2), y year)");
        let (_folder, file) = csv(if good { "b,y\ntrue,2024\n" } else { "b,y\ntrue,true\n" });
        let types = format!("b:boolean,y:{year}");
        let options = [("types", &*types)];
        let append = Copy { mode: LoadMode::Append, source_options: &options, ..Copy::default() };
        match append.run(&file, &server.uri("t")) {
            Ok(_) => assert_eq!((server.sql("SELECT * FROM t"), good), ("1.00\t2024".to_owned(), true)),
            Err(error) => assert!(!good && error.kind() == ErrorKind::SchemaMismatch, "{year}: {error}"),
        }
    }
}
