//! Modes, what a target keeps, and what is refused.

use super::*;

/// A table with all that can hang on one.
const FURNISHED: &str = "
    CREATE ROLE reader;
    CREATE TABLE t (id int PRIMARY KEY, name text NOT NULL DEFAULT 'none', amount numeric(10,2) CHECK (amount >= 0),
        doubled numeric GENERATED ALWAYS AS (amount * 2) STORED);
    CREATE INDEX t_name ON t (lower(name)); COMMENT ON TABLE t IS 'kept'; COMMENT ON COLUMN t.name IS 'too';
    GRANT SELECT ON t TO reader; GRANT UPDATE (name) ON t TO reader;
    CREATE VIEW v AS SELECT id, upper(name) AS name FROM t; GRANT SELECT ON v TO reader;
    CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t;
    CREATE TABLE log (id int);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (NEW.id); RETURN NEW; END $$;
    CREATE TRIGGER noting AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
    INSERT INTO t VALUES (1, 'old', 1), (2, 'old', 2);";

/// All that the catalogue says of a table, but for its storage.
const DESCRIPTION: &str = "
    SELECT 't', relacl::text, relowner::regrole::text, obj_description(oid) FROM pg_class WHERE oid = 't'::regclass
    UNION ALL SELECT attname, format_type(atttypid, atttypmod), attnotnull::text, concat_ws(' ', attacl::text,
        pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = 't'::regclass AND attnum > 0
    UNION ALL SELECT conname, pg_get_constraintdef(oid), '', '' FROM pg_constraint WHERE conrelid = 't'::regclass
    UNION ALL SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), '', '' FROM pg_index WHERE indrelid = 't'::regclass
    UNION ALL SELECT tgname, pg_get_triggerdef(oid), '', '' FROM pg_trigger WHERE tgrelid = 't'::regclass
    UNION ALL SELECT relname, pg_get_viewdef(oid), relacl::text, '' FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace = 'public'::regnamespace
    ORDER BY 1, 2";

fn csv(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.csv");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn create_makes_a_table_and_refuses_one_that_is_there() {
    let server = Postgres::start();
    let (_folder, file) = csv("id,name\n1,a\n2,\n");
    copy(&file, &server.uri("t"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT * FROM t ORDER BY 1"), "1|a\n2|");
    let error = copy(&file, &server.uri("t"), LoadMode::Create).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    server.sql("CREATE SCHEMA s");
    copy(&file, &server.uri("s.T"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM s.\"T\""), "2");
    let error = copy(&file, &server.uri("nowhere.t"), LoadMode::Create).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(server.left_over(), "");
}

#[test]
fn a_replaced_table_keeps_all_that_hangs_on_it() {
    let server = Postgres::start();
    server.sql(FURNISHED);
    let before = server.sql(DESCRIPTION);
    let (_folder, file) = csv("name,amount,id\nnew,10.25,7\nnewer,11,8\n");
    let types = [("types", "amount:decimal(10,2),id:int32")];
    let copy = Copy { mode: LoadMode::Replace, source_options: &types, ..Copy::default() };
    copy.run(&file, &server.uri("t")).unwrap();
    assert_eq!(server.sql("SELECT * FROM t ORDER BY id"), "7|new|10.25|20.50\n8|newer|11.00|22.00");
    assert_eq!(server.sql("SELECT * FROM v ORDER BY id"), "7|NEW\n8|NEWER");
    assert_eq!(server.sql(DESCRIPTION), before);
    assert_eq!(server.sql("SELECT count(*) FROM log"), "4");
    assert_eq!(server.left_over(), "");
}

#[test]
fn a_plain_table_is_swapped_and_keeps_its_definition() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id bigint NOT NULL, name varchar(20) DEFAULT 'none', c text COLLATE \"C\",
            CONSTRAINT positive CHECK (id > 0)); COMMENT ON COLUMN t.name IS 'kept'; INSERT INTO t VALUES (1)",
    );
    let before = server.sql(DESCRIPTION);
    let oid = server.sql("SELECT 't'::regclass::oid");
    let (_folder, file) = csv("id,c\n7,x\n8,y\n");
    copy(&file, &server.uri("t"), LoadMode::Replace).unwrap();
    assert_eq!(server.sql("SELECT * FROM t ORDER BY id"), "7|none|x\n8|none|y");
    assert_eq!(server.sql(DESCRIPTION), before);
    assert_ne!(server.sql("SELECT 't'::regclass::oid"), oid);
    // A row that the table refuses leaves the old ones.
    let (_folder, file) = csv("id,c\n7,x\n-8,y\n");
    let error = copy(&file, &server.uri("t"), LoadMode::Replace).unwrap_err();
    assert!(error.to_string().contains("breaks the check \"positive\""), "{error}");
    assert_eq!(server.sql("SELECT count(*), min(id) FROM t"), "2|7");
    assert_eq!(server.left_over(), "");
}

#[test]
fn append_adds_all_rows_or_none() {
    let server = Postgres::start();
    server.sql(FURNISHED);
    let (_folder, file) = csv("id,name,amount\n3,c,1.5\n4,d,2.5\n");
    let types = [("types", "amount:decimal(10,2),id:int32")];
    let append = |file: &str| {
        let copy = Copy { mode: LoadMode::Append, source_options: &types, ..Copy::default() };
        copy.run(file, &server.uri("t"))
    };
    append(&file).unwrap();
    assert_eq!(server.sql("SELECT id FROM t ORDER BY 1"), "1\n2\n3\n4");
    let (_folder, file) = csv("id,name,amount\n5,c,1.5\n4,d,2.5\n");
    let error = append(&file).unwrap_err();
    assert!(error.to_string().contains("unique constraint \"t_pkey\""), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(server.sql("SELECT count(*) FROM t"), "4");
    assert_eq!(server.left_over(), "");
}

#[test]
fn merge_updates_known_keys_and_inserts_others() {
    let server = Postgres::start();
    let (_folder, file) = csv("a,b,x\n1,p,one\n1,q,two\n2,p,three\n1,p,last\n");
    let merge = |file: &str, table: &str| {
        Copy { mode: LoadMode::Merge, keys: &["b", "a"], ..Copy::default() }.run(file, &server.uri(table))
    };
    // Into a table that is made for it, and again into what is there.
    for _ in 0..2 {
        merge(&file, "t").unwrap();
        assert_eq!(server.sql("SELECT a, b, x FROM t ORDER BY a, b"), "1|p|last\n1|q|two\n2|p|three");
    }
    server.sql("ALTER TABLE t ADD COLUMN untouched int DEFAULT 5; UPDATE t SET untouched = 6");
    let (_folder, file) = csv("a,b,x\n1,q,new\n9,z,other\n");
    merge(&file, "t").unwrap();
    assert_eq!(server.sql("SELECT * FROM t ORDER BY a, b"), "1|p|last|6\n1|q|new|6\n2|p|three|6\n9|z|other|5");
    // Nothing is unique about these keys.
    server.sql("CREATE TABLE u (a bigint, b text, x text)");
    let error = merge(&file, "u").unwrap_err();
    assert!(error.to_string().contains("no unique index"), "{error}");
    let (_folder, file) = csv("a,b,x\n1,q,new\n,z,other\n");
    let error = merge(&file, "t").unwrap_err();
    assert!(error.to_string().contains("column \"a\": there is a null"), "{error}");
    assert_eq!(server.left_over(), "");
}

#[test]
fn targets_that_cannot_hold_the_data_are_refused_before_anything_is_staged() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (small smallint, n numeric(4,1), whole int, day date, text text, must int NOT NULL DEFAULT 1);
        CREATE TABLE needs (a bigint, b int NOT NULL); CREATE VIEW v AS SELECT 1 AS a;
        CREATE TABLE parent (a bigint PRIMARY KEY); CREATE TABLE child (a bigint REFERENCES parent ON DELETE CASCADE);
        INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1)",
    );
    // Types of the source's own, as they are in other files and in databases.
    let typed = |column: &str| match column {
        "small" | "n" => format!("{column}:float64"),
        "whole" => format!("{column}:text"),
        "day" => format!("{column}:timestamp"),
        _ => String::new(),
    };
    for (text, table, kind, said) in [
        ("small\n1.5\n", "t", ErrorKind::SchemaMismatch, "column \"small\": float64 cannot be stored unchanged"),
        ("n\n1.5\n", "t", ErrorKind::SchemaMismatch, "column \"n\""),
        ("day\n2024-01-01T00:00:00\n", "t", ErrorKind::SchemaMismatch, "column \"day\""),
        ("whole\nx\n", "t", ErrorKind::SchemaMismatch, "column \"whole\""),
        ("other\n1\n", "t", ErrorKind::SchemaMismatch, "it has small, n, whole"),
        ("a\n1\n", "needs", ErrorKind::SchemaMismatch, "column \"b\""),
        ("a\n1\n", "v", ErrorKind::InvalidConfig, "is a view"),
        ("a\n1\n", "parent", ErrorKind::Unsupported, "child refers to the target"),
        ("ctid\n1\n", "new", ErrorKind::SchemaMismatch, "every table has"),
        ("a\n1\n", "_etlrs_x", ErrorKind::InvalidConfig, "reserved"),
    ] {
        let (_folder, file) = csv(text);
        let types = typed(text.lines().next().unwrap());
        let types: &[_] = if types.is_empty() { &[] } else { &[("types", types.as_str())] };
        let replace = Copy { mode: LoadMode::Replace, source_options: types, ..Copy::default() };
        let error = replace.run(&file, &server.uri(table)).unwrap_err();
        assert_eq!(error.kind(), kind, "{table}: {error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    assert_eq!(server.sql("SELECT count(*) FROM child"), "1");
    assert_eq!(server.left_over(), "");
}

#[test]
fn a_number_that_a_column_cannot_hold_is_told_with_its_place() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE s (a int, b bigint); INSERT INTO s SELECT i, i FROM generate_series(1, 40000) i;
        CREATE DOMAIN small AS smallint; CREATE TABLE t (a small, b int UNIQUE)",
    );
    for mode in [LoadMode::Append, LoadMode::Replace] {
        let one = Copy { mode, partitions: Some(1), ..Copy::default() };
        let error = one.run(&server.uri("s"), &server.uri("t")).unwrap_err().to_string();
        assert!(error.contains("column \"a\": row 32768 of partition 0 holds a number"), "{error}");
    }
    server.sql("DELETE FROM s WHERE a > 32767");
    copy(&server.uri("s"), &server.uri("t"), LoadMode::Append).unwrap();
    assert_eq!(server.sql("SELECT count(*), sum(a) FROM t"), "32767|536854528");
}

#[test]
fn a_time_that_a_column_would_round_is_refused() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t (at timestamp(3))");
    let (_folder, file) = csv("at\n2024-01-01 00:00:00.123\n");
    copy(&file, &server.uri("t"), LoadMode::Append).unwrap();
    let (_folder, file) = csv("at\n2024-01-01 00:00:00.123\n2024-01-01 00:00:00.1234\n");
    for mode in [LoadMode::Append, LoadMode::Replace] {
        let error = copy(&file, &server.uri("t"), mode).unwrap_err().to_string();
        assert!(error.contains("column \"at\": row 2 of partition 0 holds a time of more digits"), "{error}");
    }
    assert_eq!(server.sql("SELECT * FROM t"), "2024-01-01 00:00:00.123");
}

#[test]
fn a_table_that_is_written_to_is_read_as_of_one_moment() {
    let server = Postgres::start();
    // Each transaction moves an amount from one row to another, so that the sum is always the same.
    server.sql(
        "CREATE TABLE t (id int, amount bigint, pad text);
        INSERT INTO t SELECT i, 100, repeat('x', 200) FROM generate_series(1, 40000) i",
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                server.sql("BEGIN; UPDATE t SET amount = amount - 1 WHERE id % 7 = 1; UPDATE t SET amount = amount + 1 WHERE id % 7 = 2;
                    INSERT INTO t VALUES (0, 5, ''), (0, -5, ''); COMMIT");
            }
        });
        let _over = Done(&stop);
        for round in 0..3 {
            let file = folder.path().join(format!("{round}.parquet"));
            Copy { partitions: Some(9), ..Copy::default() }.run(&server.uri("t"), file.to_str().unwrap()).unwrap();
            copy(file.to_str().unwrap(), &server.uri(&format!("copy{round}")), LoadMode::Create).unwrap();
        }
    });
    for round in 0..3 {
        let found = server.sql(&format!(
            "SELECT sum(amount), count(*) FILTER (WHERE id > 0), count(DISTINCT id) FILTER (WHERE id > 0) FROM copy{round}"
        ));
        assert_eq!(found, "4000000|40000|40000");
    }
}

#[test]
fn readers_of_a_replaced_table_see_the_old_rows_or_the_new_ones() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let server = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |rows: usize| {
        let path = folder.path().join(format!("{rows}.csv"));
        std::fs::write(
            &path,
            format!("id,version\n{}", (0..rows).map(|id| format!("{id},{rows}\n")).collect::<String>()),
        )
        .unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = [file(3000), file(5000)];
    // One that is swapped and one that is filled again.
    for table in ["plain", "indexed"] {
        copy(&files[0], &server.uri(table), LoadMode::Create).unwrap();
    }
    server.sql("CREATE INDEX ON indexed (id); CREATE VIEW v AS SELECT * FROM indexed");
    let done = AtomicBool::new(false);
    let polls = std::thread::scope(|scope| {
        let poller = scope.spawn(|| {
            let mut polls = 0;
            while !done.load(Ordering::Relaxed) {
                // 50 statements of one connection, 10 ms apart.
                let sql = "SELECT 'plain', count(*), min(version), max(version) FROM plain;
                    SELECT 'indexed', count(*), min(version), max(version) FROM v; SELECT pg_sleep(0.01);";
                for line in server.sql(&sql.repeat(50)).lines().filter(|line| !line.is_empty()) {
                    let ok = ["|3000|3000|3000", "|5000|5000|5000"].iter().any(|end| line.ends_with(end));
                    assert!(ok, "a reader saw {line}");
                    polls += 1;
                }
            }
            polls
        });
        let over = Done(&done);
        for round in 1..=10 {
            for table in ["plain", "indexed"] {
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
    let server = Postgres::start();
    server.sql("CREATE TABLE t (id bigint); INSERT INTO t VALUES (1)");
    let (_folder, file) = csv("id\n2\n");
    let mut holder = server.psql().stdin(std::process::Stdio::piped()).spawn().unwrap();
    use std::io::Write;
    let input = holder.stdin.as_mut().unwrap();
    writeln!(input, "BEGIN; SELECT * FROM t;").unwrap();
    while server.sql("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass") == "0" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let options = [("lock_timeout", "1")];
    let replace = Copy { mode: LoadMode::Replace, target_options: &options, ..Copy::default() };
    let error = replace.run(&file, &server.uri("t")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert_eq!(server.sql("SELECT * FROM t"), "1");
    assert!(error.to_string().contains("1 of 1 pieces are kept"), "{error}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let report = replace.run(&file, &server.uri("t")).unwrap();
    assert_eq!(report.resumed.map(|resumed| resumed.partitions), Some(1));
    assert_eq!(server.sql("SELECT * FROM t"), "2");
    assert_eq!(server.left_over(), "");
}

#[test]
fn two_runs_on_one_table_exclude_each_other() {
    let server = Postgres::start();
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
    });
    assert_eq!(server.left_over().lines().count(), 2);
    copy(&file, &server.uri("t"), LoadMode::Create).unwrap();
    assert_eq!(server.left_over(), "");
}

/// The loader of a table, for tests that do something between its steps.
async fn staged(server: &Postgres, table: &str, mode: LoadMode) -> (Box<dyn LoadSession>, Receipt) {
    let target = Uri::new(server.uri(table));
    let loader = registry().find(&target).unwrap().loader(&target, &OptionMap::new()).unwrap();
    let cx = RunContext::new(PerformanceConfig::default());
    let schema = std::sync::Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let partition = Partition::new(0, "all");
    let session = loader.begin(&cx, LoadPlan::new(schema.clone(), mode, vec![partition.clone()])).await.unwrap();
    let mut writer = session.writer(&cx, &partition, 1).await.unwrap();
    let values = std::sync::Arc::new(arrow_array::Int64Array::from(vec![10, 11]));
    writer.write(RecordBatch::try_new(schema, vec![values]).unwrap()).await.unwrap();
    let receipt = writer.finish().await.unwrap();
    (session, receipt)
}

#[test]
fn a_target_that_is_changed_while_rows_are_staged_is_not_published_over() {
    let server = Postgres::start();
    for (mode, change) in [
        (LoadMode::Replace, "ALTER TABLE t ADD COLUMN extra int"),
        (LoadMode::Replace, "ALTER TABLE t ADD CHECK (id > 0)"),
        (LoadMode::Replace, "ALTER TABLE t ALTER COLUMN id SET DEFAULT 5"),
        (LoadMode::Replace, "CREATE VIEW v AS SELECT * FROM t"),
        (LoadMode::Replace, "DROP TABLE t; CREATE TABLE t (id bigint)"),
        (LoadMode::Append, "ALTER TABLE t ALTER COLUMN id TYPE text"),
    ] {
        server.sql("DROP TABLE IF EXISTS t CASCADE; CREATE TABLE t (id bigint); INSERT INTO t VALUES (1)");
        let error = block_on(async {
            let (session, receipt) = staged(&server, "t", mode).await;
            server.sql(change);
            session.commit(vec![receipt]).await.unwrap_err()
        });
        assert!(matches!(error.kind(), ErrorKind::SourceChanged | ErrorKind::SchemaMismatch), "{change}: {error}");
        assert_eq!(server.sql("SELECT count(*) FROM t WHERE id::text IN ('10', '11')"), "0", "{change}");
        assert_eq!(server.left_over(), "");
    }
}

#[test]
fn a_partition_that_is_staged_again_is_there_once() {
    let server = Postgres::start();
    let rows = block_on(async {
        let target = Uri::new(server.uri("t"));
        let loader = registry().find(&target).unwrap().loader(&target, &OptionMap::new()).unwrap();
        let cx = RunContext::new(PerformanceConfig::default());
        let schema = std::sync::Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let partitions: Vec<_> = (0..3).map(|index| Partition::new(index, "x")).collect();
        let session =
            loader.begin(&cx, LoadPlan::new(schema.clone(), LoadMode::Create, partitions.clone())).await.unwrap();
        let stage = async |partition: &Partition, attempt: u32, finish: bool| {
            let mut writer = session.writer(&cx, partition, attempt).await.unwrap();
            let values = vec![i64::from(partition.id.0) * 10, i64::from(attempt)];
            let values = std::sync::Arc::new(arrow_array::Int64Array::from(values));
            writer.write(RecordBatch::try_new(schema.clone(), vec![values]).unwrap()).await.unwrap();
            if finish { Some(writer.finish().await.unwrap()) } else { None }
        };
        let first = stage(&partitions[0], 1, true).await.unwrap();
        // Finished, but as far as the engine knows it failed: the answer was lost.
        stage(&partitions[1], 1, true).await;
        // Dropped in the middle.
        stage(&partitions[2], 1, false).await;
        let second = stage(&partitions[1], 2, true).await.unwrap();
        let third = stage(&partitions[2], 2, true).await.unwrap();
        session.commit(vec![first, second, third]).await.unwrap().rows
    });
    assert_eq!(rows, 6);
    assert_eq!(server.sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t"), "0 1 2 2 10 20");
}

#[test]
fn triggers_that_keep_old_rows_and_defaults_of_roles_are_noticed() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id bigint); INSERT INTO t VALUES (1);
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
        CREATE TRIGGER keeping BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    let (_folder, file) = csv("id\n10\n");
    let error = copy(&file, &server.uri("t"), LoadMode::Replace).unwrap_err();
    assert!(error.to_string().contains("keeps old rows"), "{error}");
    server.sql(
        "DROP TRIGGER keeping ON t; CREATE TRIGGER skipping BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    let error = copy(&file, &server.uri("t"), LoadMode::Append).unwrap_err();
    assert!(error.to_string().contains("took 0 of 1 rows"), "{error}");
    assert_eq!(server.sql("SELECT * FROM t"), "1");
    server.sql(
        "DROP TRIGGER skipping ON t; ALTER ROLE postgres SET default_transaction_isolation = 'serializable';
        ALTER ROLE postgres SET default_transaction_read_only = on; ALTER ROLE postgres SET datestyle = 'German';
        ALTER ROLE postgres SET standard_conforming_strings = off; ALTER ROLE postgres SET statement_timeout = 100",
    );
    copy(&file, &server.uri("t"), LoadMode::Replace).unwrap();
    copy(&server.uri("t"), &server.uri("u"), LoadMode::Create).unwrap();
    Copy { source_options: &[("query", "SELECT id FROM t, pg_sleep(0.3)")], ..Copy::default() }
        .run(&server.uri(""), &server.uri("w"))
        .unwrap();
    assert_eq!(server.sql("SET statement_timeout = 0; SELECT * FROM t, u, w"), "10|10|10");
}

#[test]
fn rows_of_other_tables_are_not_deleted_through_partitions() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE p (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); INSERT INTO p VALUES (1);
        CREATE TABLE x (id bigint REFERENCES p1 ON DELETE CASCADE); INSERT INTO x VALUES (1)",
    );
    let (_folder, file) = csv("id\n10\n");
    let error = copy(&file, &server.uri("p"), LoadMode::Replace).unwrap_err();
    assert!(error.to_string().contains("x refers to the target"), "{error}");
    assert_eq!(server.sql("SELECT * FROM x"), "1");
    server.sql("DROP TABLE x");
    copy(&file, &server.uri("p"), LoadMode::Replace).unwrap();
    assert_eq!(server.sql("SELECT * FROM p1"), "10");
}

#[test]
fn texts_that_a_column_would_cut_or_round_are_refused() {
    let server = Postgres::start();
    for (data_type, good, bad) in [
        ("varchar(3)", "abc", "abc  "),
        ("varchar(3)", "naï", "abcd"),
        ("name", "short", "a name of so many characters that PostgreSQL would cut its end off without a word"),
        ("\"char\"", "h", "hello"),
        ("interval(0)", "2 sec", "1.6 sec"),
        ("bit(3)", "101", "10101"),
        ("numeric(10,2)[]", "{1.5}", "{1.239}"),
        ("char(3)", "ab", "abcd"),
        ("inet", "10.0.0.1", "nowhere"),
        ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99"),
        ("jsonb", "[1]", "[1"),
    ] {
        server.sql(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id bigint, odd {data_type}); INSERT INTO t VALUES (0, NULL)"
        ));
        let types = [("types", "id:int64,odd:text")];
        for mode in [LoadMode::Append, LoadMode::Replace] {
            let copy = Copy { mode, source_options: &types, ..Copy::default() };
            let (_folder, file) = csv(&format!("id,odd\n1,\"{good}\"\n"));
            copy.run(&file, &server.uri("t")).unwrap_or_else(|error| panic!("{data_type}: {error}"));
            let before = server.sql("SELECT * FROM t ORDER BY 1");
            let (_folder, file) = csv(&format!("id,odd\n1,\"{good}\"\n2,\"{bad}\"\n"));
            let error = copy.run(&file, &server.uri("t")).err().unwrap_or_else(|| panic!("{data_type} takes {bad}"));
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{data_type}: {error}");
            // Values of rows are in no message.
            assert!(!format!("{error} {error:?}").contains(bad), "{error:?}");
            assert_eq!(server.sql("SELECT * FROM t ORDER BY 1"), before, "{data_type}");
        }
    }
    assert_eq!(server.left_over(), "");
}

#[test]
fn numbers_that_a_column_cannot_hold_are_refused_one_by_one() {
    let server = Postgres::start();
    for (data_type, text) in [
        ("smallint", "32768"),
        ("integer", "-2147483649"),
        ("numeric(3,0)", "1000"),
        ("double precision", "9007199254740993"),
        ("real", "16777217"),
    ] {
        for more in ["", ", CONSTRAINT c UNIQUE (n)"] {
            server.sql(&format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (n {data_type}{more}); INSERT INTO t VALUES (1)"
            ));
            for mode in [LoadMode::Append, LoadMode::Replace] {
                let (_folder, file) = csv(&format!("n\n5\n{text}\n"));
                let error = copy(&file, &server.uri("t"), mode).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{data_type}: {error}");
                assert!(!error.to_string().contains(text), "{error}");
                assert_eq!(server.sql("SELECT * FROM t"), "1");
            }
            let (_folder, file) = csv("n\n5\n-7\n");
            copy(&file, &server.uri("t"), LoadMode::Replace).unwrap();
            assert_eq!(server.sql("SELECT * FROM t ORDER BY 1"), "-7\n5");
        }
    }
}

#[test]
fn subscribers_see_no_staging() {
    let server = Postgres::start_with(&["wal_level=logical"]);
    server.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY); CREATE PUBLICATION everything FOR ALL TABLES;
        SELECT pg_create_logical_replication_slot('slot', 'pgoutput')",
    );
    let (_folder, file) = csv("id\n10\n");
    copy(&file, &server.uri("t"), LoadMode::Replace).unwrap();
    copy(&file, &server.uri("new"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT * FROM t, new"), "10|10");
    let changes = server.sql("SELECT count(*) FILTER (WHERE position('_etlrs' in encode(data, 'escape')) > 0),
        count(*) FILTER (WHERE get_byte(data, 0) = ascii('I'))
        FROM pg_logical_slot_get_binary_changes('slot', NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')");
    assert_eq!(changes, "0|2");
}

#[test]
fn a_table_that_cannot_be_copied_in_all_that_counts_is_filled_again() {
    let server = Postgres::start();
    // A copy would have the check validated.
    server.sql(
        "CREATE TABLE t (id int, name varchar(20)); INSERT INTO t VALUES (-1, 'old');
         ALTER TABLE t ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
    );
    let (_folder, file) = csv("id,name\n2,new\n");
    copy(&file, &server.uri("t"), LoadMode::Replace).unwrap();
    assert_eq!(server.sql("SELECT * FROM t"), "2|new");
    let check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'positive'";
    assert_eq!(server.sql(check), "CHECK ((id > 0)) NOT VALID");
    assert_eq!(server.left_over(), "");
}

#[test]
fn a_value_that_is_refused_late_is_told_with_its_column() {
    let server = Postgres::start();
    server.sql(
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE t (id int, a mood, b mood);
         CREATE TABLE p (id int, a text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (5)",
    );
    let (_folder, file) = csv("id,a,b\n1,good,bad\n2,bad,odd\n");
    for mode in [LoadMode::Append, LoadMode::Replace] {
        let error = copy(&file, &server.uri("t"), mode).unwrap_err();
        assert_eq!(error.position().column.as_deref(), Some("b"), "{mode:?} {error}");
    }
    let (_folder, file) = csv("id,a\n1,good\n7,bad\n");
    let error = copy(&file, &server.uri("p"), LoadMode::Append).unwrap_err();
    assert!(error.to_string().contains("belongs to no partition"), "{error}");
    assert_eq!(server.left_over(), "");
}

/// Keys are compared as the table takes them, of which some it does not take.
#[test]
fn of_a_merge_keys_that_are_none_are_set_aside() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t (k uuid PRIMARY KEY, v int)");
    let good = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"];
    let (folder, file) = csv(&format!("k,v\n{},1\nno-uuid,2\n{},3\n", good[0], good[1]));
    let quarantine = folder.path().join("q.csv").display().to_string();
    let merge = Copy { mode: LoadMode::Merge, keys: &["k"], quarantine: Some(&quarantine), ..Copy::default() };
    let report = merge.run(&file, &server.uri("t")).unwrap();
    assert_eq!((report.load.records_loaded, report.rows_rejected), (2, 1));
    assert_eq!(server.sql("SELECT string_agg(v::text, ' ' ORDER BY k) FROM t"), "1 3");
    // Two spellings of one are refused still.
    let (folder, file) = csv(&format!("k,v\n{},1\nno-uuid,2\n{},3\n", good[0], good[0].to_uppercase()));
    let quarantine = folder.path().join("q.csv").display().to_string();
    let merge = Copy { mode: LoadMode::Merge, keys: &["k"], quarantine: Some(&quarantine), ..Copy::default() };
    let error = merge.run(&file, &server.uri("t")).unwrap_err();
    assert!(error.to_string().contains("two keys of the source are one"), "{error}");
}

#[test]
fn a_role_that_reads_by_default_loads_again_and_again() {
    let server = Postgres::start();
    server.sql("CREATE ROLE reader LOGIN; ALTER ROLE reader SET default_transaction_read_only = on");
    server.sql("CREATE TABLE t (id bigint); ALTER TABLE t OWNER TO reader; GRANT ALL ON SCHEMA public TO reader");
    let (_folder, file) = csv("id\n1\n");
    let uri = server.uri("t").replace("postgres@", "reader@");
    for rows in 1..=3 {
        copy(&file, &uri, LoadMode::Append).unwrap();
        assert_eq!(server.sql("SELECT count(*) FROM t"), rows.to_string());
        assert_eq!(server.left_over(), "");
    }
}

#[test]
fn a_cursor_that_ends_at_infinity_is_refused() {
    let server = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    for (values, data_type) in [("'2024-01-01', 'infinity'", "timestamp"), ("1, 'NaN'", "float8")] {
        let rows = values.split(", ").map(|value| format!("({value})")).collect::<Vec<_>>().join(", ");
        server.sql(&format!("DROP TABLE IF EXISTS s; CREATE TABLE s (c {data_type}); INSERT INTO s VALUES {rows}"));
        let target = format!("sqlite:{}#t", folder.path().join("t.db").display());
        let options = [("cursor", "c")];
        let copy = Copy { mode: LoadMode::Append, source_options: &options, ..Copy::default() };
        let error = copy.run(&server.uri("s"), &target).unwrap_err();
        assert!(error.to_string().contains("behind which nothing would be read again"), "{error}");
    }
}

#[test]
fn whoever_may_not_forget_positions_replaces_nothing() {
    let server = Postgres::start();
    server.sql("CREATE TABLE s (id bigint PRIMARY KEY); INSERT INTO s VALUES (1), (2); CREATE TABLE t (id bigint)");
    let options = [("cursor", "id")];
    let append = Copy { mode: LoadMode::Append, source_options: &options, ..Copy::default() };
    append.run(&server.uri("s"), &server.uri("t")).unwrap();
    server.sql("CREATE ROLE other LOGIN; ALTER TABLE t OWNER TO other; GRANT ALL ON SCHEMA public TO other");
    let (_folder, file) = csv("id\n1\n");
    let uri = server.uri("t").replace("postgres@", "other@");
    let error = copy(&file, &uri, LoadMode::Replace).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(server.sql("SELECT count(*) FROM t"), "2");
    server.sql("GRANT SELECT, DELETE ON _etlrs_cursors TO other");
    copy(&file, &uri, LoadMode::Replace).unwrap();
    assert_eq!(server.sql("SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM _etlrs_cursors)"), "1 0");
}
