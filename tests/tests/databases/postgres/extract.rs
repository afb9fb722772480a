//! How tables, views and queries are read: in pieces, with conditions, in part.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Copies `table` through a file with these options, and compares what arrived with `expected`, a query, as multisets.
fn arrives(server: &Postgres, source: &str, options: &[(&str, &str)], partitions: usize, expected: &str) {
    server.sql("DROP TABLE IF EXISTS arrived");
    let copy = Copy { source_options: options, partitions: Some(partitions), ..Copy::default() };
    copy.run(&server.uri(source), &server.uri("arrived")).unwrap();
    let sql = format!(
        "(SELECT 'lost', * FROM ({expected}) e EXCEPT ALL SELECT 'lost', * FROM arrived) UNION ALL
         (SELECT 'doubled', * FROM arrived EXCEPT ALL SELECT 'doubled', * FROM ({expected}) e)"
    );
    assert_eq!(server.sql(&sql), "", "{source} {options:?} {partitions}");
}

/// Makes values of a type of the number `n`, skewed and with ties where `n` says so.
fn key(data_type: &str, n: i64) -> String {
    match data_type {
        "bigint" => match n % 5 {
            0 => "-9223372036854775808".into(),
            1 => "9223372036854775807".into(),
            2 => "42".into(),
            _ => (n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64) >> (n % 60)).to_string(),
        },
        "text" => ["", "a", "A", "é", "zz", "a b", "\\", "'", "名"][n as usize % 9].repeat(1 + n as usize % 3),
        "uuid" => format!("00000000-0000-0000-0000-{:012x}", n * n % 97),
        "date" => format!("{:04}-01-{:02}", 1 + n % 3000, 1 + n % 28),
        "numeric" => format!("{}.{}", n * n - 500, n % 10),
        "double precision" => ["NaN", "-Infinity", "Infinity", "0", "-0", "1e-300", "0.1"][n as usize % 7].into(),
        "timestamptz" => format!("2024-01-01 00:{:02}:00+00", n % 60),
        other => panic!("{other}"),
    }
}

#[test]
fn any_split_by_any_key_gives_each_row_once() {
    let server = Postgres::start();
    let types = ["bigint", "text", "uuid", "date", "numeric", "double precision", "timestamptz"];
    let case = (
        0..200_i64,
        proptest::sample::subsequence(types.to_vec(), 1..=2),
        1..9_usize,
        0..4_i64,
        any::<bool>(),
        any::<u32>(),
    );
    // Each case is a table of its own; a server takes some per second.
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    runner
        .run(&case, |(rows, keys, partitions, nulls, query, seed)| {
            let columns: Vec<_> = keys.iter().enumerate().map(|(index, key)| format!("k{index} {key}")).collect();
            let mut sql = format!("DROP TABLE IF EXISTS t; CREATE TABLE t (id int, {});", columns.join(", "));
            if rows > 0 {
                let row = |id: i64| {
                    let fields = keys.iter().enumerate().map(|(index, data_type)| {
                        let n = (id * 31 + index as i64 * 7 + i64::from(seed)) % 1009;
                        if nulls > 0 && n % 7 < nulls {
                            "NULL".into()
                        } else {
                            format!("'{}'", key(data_type, n).replace('\'', "''"))
                        }
                    });
                    format!("({id}, {})", fields.collect::<Vec<_>>().join(", "))
                };
                sql.push_str(&format!("INSERT INTO t VALUES {};", (0..rows).map(row).collect::<Vec<_>>().join(",\n")));
            }
            server.sql(&sql);
            let names: Vec<_> = (0..keys.len()).map(|index| format!("k{index}")).collect();
            let by = names.join(",");
            if query {
                arrives(
                    &server,
                    "",
                    &[("split_by", &by), ("query", "SELECT * FROM t -- all")],
                    partitions,
                    "SELECT * FROM t",
                );
            } else {
                arrives(&server, "t", &[("split_by", &by)], partitions, "SELECT * FROM t");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn ranges_of_pages_give_each_row_once_whatever_happens_meanwhile() {
    let server = Postgres::start();
    // A table of few rows on many pages, with holes; and others write to it all the time.
    server.sql(
        "CREATE TABLE t (id int, pad text) WITH (fillfactor = 10);
        INSERT INTO t SELECT i, repeat('x', i % 700) FROM generate_series(1, 5000) i; DELETE FROM t WHERE id % 3 = 0",
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Rows of the evens move about; those of the odds stay.
                server.sql(
                    "UPDATE t SET pad = pad || 'y' WHERE id % 2 = 0 AND random() < 0.2;
                    DELETE FROM t WHERE id > 5000; INSERT INTO t SELECT 5000 + i, '' FROM generate_series(1, 300) i",
                );
            }
        });
        let _over = Done(&stop);
        for partitions in [1, 2, 3, 7, 50, 200] {
            server.sql("DROP TABLE IF EXISTS arrived");
            let copy = Copy { partitions: Some(partitions), ..Copy::default() };
            copy.run(&server.uri("t"), &server.uri("arrived")).unwrap();
            let found = server.sql(
                "SELECT count(*) FILTER (WHERE id <= 5000), count(DISTINCT id) FILTER (WHERE id <= 5000),
                count(*) FILTER (WHERE id > 5000) IN (0, 300), count(*) = count(DISTINCT id) FROM arrived",
            );
            assert_eq!(found, "3334|3334|t|t", "{partitions} partitions");
        }
    });
}

#[test]
fn partitioned_and_inherited_tables_are_read_whole() {
    let server = Postgres::start();
    server.sql("CREATE TABLE p (id int, region text) PARTITION BY LIST (region);
        CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu') PARTITION BY RANGE (id);
        CREATE TABLE p_eu_1 PARTITION OF p_eu FOR VALUES FROM (0) TO (500);
        CREATE TABLE p_eu_2 (region text, gone int, id int); ALTER TABLE p_eu_2 DROP COLUMN gone;
        ALTER TABLE p_eu ATTACH PARTITION p_eu_2 FOR VALUES FROM (500) TO (10000);
        CREATE TABLE p_other PARTITION OF p DEFAULT;
        INSERT INTO p SELECT i, CASE WHEN i % 3 = 0 THEN 'us' ELSE 'eu' END FROM generate_series(0, 3000) i;
        CREATE TABLE parent (id int, name text); CREATE TABLE child (more int) INHERITS (parent);
        INSERT INTO parent SELECT i, 'parent' FROM generate_series(1, 2000) i; INSERT INTO child VALUES (1, 'child', 5);
        CREATE VIEW v AS SELECT id FROM p; CREATE MATERIALIZED VIEW m AS SELECT * FROM p; CREATE TABLE empty (id int);
        CREATE ROLE limited LOGIN; GRANT SELECT ON p TO limited; GRANT SELECT ON empty TO limited; CREATE SCHEMA limited AUTHORIZATION limited");
    for table in ["p", "parent", "v", "m", "empty", "child"] {
        for partitions in [1, 4, 20] {
            arrives(&server, table, &[], partitions, &format!("SELECT * FROM {table}"));
        }
    }
    // Who may read the whole and none of its partitions.
    let source = server.uri("p").replace("postgres@", "limited@");
    copy(&source, &server.uri("of_limited"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM of_limited"), "3001");
}

#[test]
fn columns_and_conditions_are_left_to_the_server() {
    let server = Postgres::start_with(&["log_statement=all"]);
    server.sql("CREATE TABLE t (id int, price numeric(10,2), name text, at timestamptz, day date, ok boolean, f float8);
        INSERT INTO t SELECT i, i / 4.0, CASE WHEN i % 5 = 0 THEN NULL ELSE 'name ' || i END, '2024-01-01Z'::timestamptz + i * interval '1 hour',
            '2024-01-01'::date + i, i % 2 = 0, CASE WHEN i % 7 = 0 THEN 'NaN' ELSE i / 10.0 END FROM generate_series(-50, 50) i");
    let folder = tempfile::tempdir().unwrap();
    for (filter, sql, pushed) in [
        ("id > 10", "id > 10", "\"id\" > '10'::int8"),
        ("price <= 2.25", "price <= 2.25", "'225e-2'::numeric"),
        ("name = 'name 7' or id < 0", "name = 'name 7' or id < 0", ""),
        ("name >= 'name 3' and ok", "name COLLATE \"C\" >= 'name 3' and ok", "COLLATE \"C\" >= 'name 3'"),
        ("name is null", "name is null", "\"name\" IS NOT DISTINCT FROM NULL"),
        ("id in (1, 2, 300)", "id in (1, 2, 300)", " OR "),
        ("day >= date '2024-01-20'", "day >= '2024-01-20'", "'19742'::int4"),
        ("f > 2", "f > 2", "'2'::float8"),
    ] {
        let file = folder.path().join("out.csv");
        let target = Uri::new(file.to_str().unwrap());
        let source = Uri::new(server.uri("t"));
        let report = block_on(async {
            pipeline(&registry(), (&source, &OptionMap::new()), (&target, &OptionMap::new()))?
                .mode(LoadMode::Replace)
                .transform(Filter::new(Expr::parse(filter)?))
                .build()?
                .execute()
                .await
        });
        let report = report.unwrap();
        assert_eq!(
            report.load.records_loaded.to_string(),
            server.sql(&format!("SELECT count(*) FROM t WHERE {sql}")),
            "{filter}"
        );
        let copies = server.log().lines().rfind(|line| line.contains("COPY (SELECT")).unwrap().to_owned();
        assert!(copies.contains(pushed), "{filter}: {copies}");
        if !pushed.is_empty() && !filter.contains(" and ok") {
            assert_eq!(report.rows_read, report.load.records_loaded, "{filter}");
        }
    }
}

#[test]
fn a_query_is_read_and_can_change_nothing() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t (id int, price numeric(10,2)); INSERT INTO t VALUES (1, 2.50), (2, 3)");
    let query = |sql: &str| {
        server.sql("DROP TABLE IF EXISTS arrived");
        Copy { source_options: &[("query", sql)], ..Copy::default() }.run(&server.uri(""), &server.uri("arrived"))
    };
    query("SELECT id, price, count(*) OVER () AS all FROM t WHERE id > 0;").unwrap();
    assert_eq!(server.sql("SELECT *, pg_typeof(price) FROM arrived ORDER BY 1"), "1|2.50|2|numeric\n2|3.00|2|numeric");
    assert!(query("DELETE FROM t RETURNING id").is_err());
    assert!(query("SELECT 1 AS a, 2 AS a").is_err());
    assert!(query("SELECT nothing FROM t").unwrap_err().to_string().contains("nothing"));
    assert!(query("SELECT 1 AS a; DROP TABLE t").is_err());
    assert!(query("SELECT 1 AS a) TO STDOUT; DROP TABLE t; --").is_err());
    server.sql("CREATE FUNCTION drops() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t; RETURN 1; END $$");
    let error = query("SELECT drops()").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(server.sql("SELECT count(*) FROM t"), "2");
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let server = Postgres::start();
    server.sql("CREATE TABLE orders (id int); CREATE SCHEMA s; CREATE TABLE s.sales (id int)");
    let read = |table: &str, options: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.csv");
        Copy { source_options: options, ..Copy::default() }
            .run(&server.uri(table), file.to_str().unwrap())
            .unwrap_err()
            .to_string()
    };
    let said = read("order", &[]);
    assert!(
        said.contains("there is no table \"order\"") && said.contains("orders") && said.contains("s.sales"),
        "{said}"
    );
    let said = read("Orders", &[]);
    assert!(said.contains("orders"), "{said}");
    assert!(read("orders", &[("split_by", "key")]).contains("there is id"));
    assert!(read("orders", &[("query", "SELECT 1")]).contains("both a table and a query"));
    assert!(read("", &[]).contains("names no table"));
}

#[test]
fn rows_that_are_larger_than_a_batch_are_read_like_others() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id int, big bytea); INSERT INTO t SELECT i, CASE WHEN i % 50 = 7 THEN
        convert_to(repeat('x', 5000000), 'UTF8') ELSE 'y' END FROM generate_series(1, 200) i",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.parquet");
    let source = Uri::new(server.uri("t"));
    let target = Uri::new(file.to_str().unwrap());
    // A batch may have 2 MB.
    let config = PerformanceConfig { max_memory_usage: 64 << 20, ..PerformanceConfig::default() };
    let report = block_on(async {
        let builder = pipeline(&registry(), (&source, &OptionMap::new()), (&target, &OptionMap::new()))?;
        builder.config(config).verify(Verify::Full).build()?.execute().await
    });
    assert_eq!(report.unwrap().load.records_loaded, 200);
}

#[test]
fn a_table_that_is_being_truncated_is_waited_for() {
    use std::io::Write;
    let server = Postgres::start();
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 100) AS id");
    let mut other = server.psql().stdin(std::process::Stdio::piped()).spawn().unwrap();
    let input = other.stdin.as_mut().unwrap();
    writeln!(input, "BEGIN; TRUNCATE t; INSERT INTO t SELECT generate_series(1, 300);").unwrap();
    while server.sql("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessExclusiveLock'")
        == "0"
    {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let report = std::thread::scope(|scope| {
        let copying = scope.spawn(|| copy(&server.uri("t"), &server.uri("arrived"), LoadMode::Create));
        while server.sql("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted") == "0" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        writeln!(input, "COMMIT;").unwrap();
        copying.join().unwrap()
    });
    assert_eq!(report.unwrap().load.records_loaded, 300);
    drop(other.stdin.take());
    other.wait().unwrap();
}

#[test]
fn tables_with_more_than_one_parent_and_hidden_rows_are_read_as_sql_reads_them() {
    let server = Postgres::start();
    server.sql("CREATE TABLE a (id int); CREATE TABLE b () INHERITS (a); CREATE TABLE c () INHERITS (a);
        CREATE TABLE d () INHERITS (b, c); INSERT INTO a VALUES (1); INSERT INTO d VALUES (2); INSERT INTO b VALUES (3);
        CREATE TABLE p (id int, region text) PARTITION BY LIST (region); CREATE TABLE p1 PARTITION OF p FOR VALUES IN ('eu');
        CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1, 'eu'), (2, 'eu'), (3, 'us');
        ALTER TABLE p1 ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON p1 USING (id = 1);
        CREATE ROLE limited LOGIN; GRANT SELECT ON p, p1, p2 TO limited; GRANT CREATE ON SCHEMA public TO limited");
    arrives(&server, "a", &[], 8, "SELECT * FROM a");
    let source = server.uri("p").replace("postgres@", "limited@");
    copy(&source, &server.uri("of_limited"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM of_limited"), "3");
}
