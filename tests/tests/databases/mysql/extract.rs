//! How tables, views and queries are read: in pieces, with conditions, in part.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Copies `table` through a file with these options, and compares what arrived with `expected`, a query, as multisets.
fn arrives(server: &MariaDb, source: &str, options: &[(&str, &str)], partitions: usize, expected: &str) {
    server.sql("DROP TABLE IF EXISTS arrived");
    let copy = Copy { source_options: options, partitions: Some(partitions), ..Copy::default() };
    copy.run(&server.uri(source), &server.uri("arrived")).unwrap();
    let sql = format!(
        "(SELECT 'lost', e.* FROM ({expected}) e EXCEPT ALL SELECT 'lost', arrived.* FROM arrived) UNION ALL
         (SELECT 'doubled', arrived.* FROM arrived EXCEPT ALL SELECT 'doubled', e.* FROM ({expected}) e)"
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
        "bigint unsigned" => ["0", "18446744073709551615", "9223372036854775808", "7"][n as usize % 4].into(),
        "varchar(40)" | "varchar(40) CHARACTER SET latin1" | "varbinary(40)" => {
            ["", "a", "A", "é", "zz", "a b", "\\\\", "''", "a "][n as usize % 9].repeat(1 + n as usize % 3)
        }
        "uuid" => format!("00000000-0000-0000-0000-{:012x}", n * n % 97),
        "date" => format!("{:04}-01-{:02}", 1 + n % 3000, 1 + n % 28),
        "decimal(12,1)" => format!("{}.{}", n * n - 500, n % 10),
        "datetime(3)" => format!("2024-01-01 00:{:02}:00.{:03}", n % 60, n % 1000),
        other => panic!("{other}"),
    }
}

#[test]
fn any_split_by_any_key_gives_each_row_once() {
    let server = MariaDb::start();
    let types = [
        "bigint",
        "bigint unsigned",
        "varchar(40)",
        "varchar(40) CHARACTER SET latin1",
        "varbinary(40)",
        "uuid",
        "date",
        "decimal(12,1)",
        "datetime(3)",
    ];
    let case =
        (0..200_i64, proptest::sample::subsequence(types.to_vec(), 1..=3), 1..9_usize, 0..4_i64, 0..3_u8, any::<u32>());
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    runner
        .run(&case, |(rows, keys, partitions, nulls, kind, seed)| {
            let columns: Vec<_> = keys.iter().enumerate().map(|(index, key)| format!("k{index} {key}")).collect();
            let names: Vec<_> = (0..keys.len()).map(|index| format!("k{index}")).collect();
            let by = names.join(",");
            // With an index of the keys, or of the number alone, or without.
            let index = match kind {
                0 => format!(", INDEX ({by})"),
                1 => ", PRIMARY KEY (id)".into(),
                _ => String::new(),
            };
            let mut sql = format!("DROP TABLE IF EXISTS t; CREATE TABLE t (id int, {}{index});", columns.join(", "));
            if rows > 0 {
                let row = |id: i64| {
                    let fields = keys.iter().enumerate().map(|(index, data_type)| {
                        let n = (id * 31 + index as i64 * 7 + i64::from(seed)) % 1009;
                        if nulls > 0 && n % 7 < nulls { "NULL".into() } else { format!("'{}'", key(data_type, n)) }
                    });
                    format!("({}, {})", id * id - 50, fields.collect::<Vec<_>>().join(", "))
                };
                sql.push_str(&format!("INSERT INTO t VALUES {};", (0..rows).map(row).collect::<Vec<_>>().join(",\n")));
            }
            server.sql(&sql);
            let options: &[(&str, &str)] = if kind == 1 { &[] } else { &[("split_by", &by)] };
            arrives(&server, "t", options, partitions, "SELECT * FROM t");
            Ok(())
        })
        .unwrap();
}

#[test]
fn all_readers_see_one_moment_whatever_is_written_meanwhile() {
    let server = MariaDb::start();
    // Each transaction keeps the sum; and rows come and go.
    server.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, amount bigint NOT NULL, pad varchar(300));
         INSERT INTO t SELECT seq * 1000, 100, repeat('x', seq % 300) FROM seq_1_to_4000;
         DELIMITER //
         CREATE PROCEDURE churn() BEGIN
             DECLARE n int DEFAULT 500;
             DECLARE one, other bigint;
             WHILE n > 0 DO
                 SET one = 1000 * (1 + floor(rand() * 4000)), other = 1000 * (1 + floor(rand() * 4000));
                 START TRANSACTION;
                 UPDATE t SET amount = amount - 7 WHERE id = one;
                 UPDATE t SET amount = amount + 7 WHERE id = other;
                 COMMIT;
                 SET n = n - 1;
             END WHILE;
         END //
         DELIMITER ;",
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                server.sql(
                    "CALL churn(); START TRANSACTION; DELETE FROM t WHERE id % 1000 = 1;
                     INSERT INTO t SELECT seq * 1000 + 1, 0, '' FROM seq_1_to_50; COMMIT",
                );
            }
        });
        let _over = Done(&stop);
        for partitions in [1, 2, 7, 50, 2, 7, 50] {
            server.sql("DROP TABLE IF EXISTS arrived");
            let copy = Copy { partitions: Some(partitions), threads: Some(8), ..Copy::default() };
            copy.run(&server.uri("t"), &server.uri("arrived")).unwrap();
            let found = server.sql("SELECT sum(amount), sum(id % 1000 = 0), count(DISTINCT id) = count(*), sum(id % 1000 = 1) IN (0, 50) FROM arrived");
            assert_eq!(found, "400000\t4000\t1\t1", "{partitions} partitions");
        }
    });
}

#[test]
fn views_engines_and_users_without_privileges_are_read_too() {
    let server = MariaDb::start();
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, name varchar(20)); INSERT INTO t SELECT seq, concat('n', seq) FROM seq_1_to_3000;
         CREATE VIEW v AS SELECT id, name FROM t WHERE id % 2 = 0; CREATE TABLE empty (id int PRIMARY KEY);
         CREATE TABLE m (id int PRIMARY KEY, name text) ENGINE=MyISAM; INSERT INTO m SELECT * FROM t;
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 5; INSERT INTO p SELECT id FROM t;
         CREATE TABLE heap (id int); INSERT INTO heap SELECT id FROM t;
         CREATE USER limited; GRANT SELECT ON test.t TO limited; CREATE DATABASE other; GRANT ALL ON other.* TO limited",
    );
    for table in ["t", "v", "empty", "m", "p", "heap", "test.t"] {
        for partitions in [1, 4, 20] {
            arrives(&server, table, &[], partitions, &format!("SELECT * FROM {table}"));
        }
    }
    arrives(&server, "v", &[("split_by", "id")], 5, "SELECT * FROM v");
    arrives(
        &server,
        "",
        &[("query", "SELECT id, count(*) AS n FROM t GROUP BY id % 7 -- all")],
        4,
        "SELECT id, count(*) AS n FROM t GROUP BY id % 7",
    );
    let source = server.uri("t").replace("root@", "limited@");
    let target = server.uri("got").replace("root@", "limited@").replace("/test#", "/other#");
    Copy { partitions: Some(8), ..Copy::default() }.run(&source, &target).unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM other.got"), "3000");
}

#[test]
fn conditions_are_left_to_the_server() {
    let server = MariaDb::start_with(&["--general-log=1", "--general-log-file=general.log"]);
    server.sql(
        "CREATE TABLE t (id int, price decimal(10,2), name varchar(20), at datetime(6), day date, u bigint unsigned);
         INSERT INTO t SELECT seq, seq / 4, IF(seq % 5 = 0, NULL, concat('name ', seq)), '2024-01-01' + INTERVAL seq HOUR,
            '2024-01-01' + INTERVAL seq DAY, seq * 1000 FROM seq_1_to_100",
    );
    let folder = tempfile::tempdir().unwrap();
    for (filter, sql, pushed) in [
        ("id > 10", "id > 10", "`id` > 10"),
        ("price <= 2.25", "price <= 2.25", "`price` <= 2.25"),
        ("name = 'name 7' or id < 5", "name = 'name 7' or id < 5", ""),
        ("name is null", "name is null", "`name` <=> NULL"),
        ("id in (1, 2, 300)", "id in (1, 2, 300)", " OR "),
        ("day >= date '2024-01-20'", "day >= '2024-01-20'", "DATE'2024-01-20'"),
        ("u > -1", "u > 0", "`u` > -1"),
    ] {
        let file = folder.path().join("out.csv");
        let target = Uri::new(file.to_str().unwrap());
        let source = Uri::new(server.uri("t"));
        let none = OptionMap::new();
        let rows = block_on(async {
            let builder = pipeline(&registry(), (&source, &none), (&target, &none)).unwrap().mode(LoadMode::Replace);
            let built = builder.transform(Filter::new(Expr::parse(filter).unwrap())).build().unwrap();
            built.execute().await.unwrap().load.records_loaded
        });
        assert_eq!(rows.to_string(), server.sql(&format!("SELECT count(*) FROM t WHERE {sql}")), "{filter}");
        let log = std::fs::read_to_string(server.folder().join("data/general.log")).unwrap();
        assert!(log.contains(pushed), "{filter}: {pushed}");
    }
}

#[test]
fn what_hides_from_a_plain_select_is_read_too() {
    let server = MariaDb::start();
    server.sql(
        "CREATE TABLE inv (id int PRIMARY KEY, s int INVISIBLE DEFAULT 7, n int); INSERT INTO inv (id, s, n) VALUES (1, 8, 9);
         CREATE TABLE long_keys (id int, k text NOT NULL);
         INSERT INTO long_keys SELECT seq, concat(repeat('x', 1500), lpad(seq * 7919 % 2000, 5, '0')) FROM seq_1_to_2000;
         CREATE TABLE ignored (id int PRIMARY KEY, k int NOT NULL, INDEX by_k (k) IGNORED); INSERT INTO ignored SELECT seq, seq FROM seq_1_to_100;
         CREATE TABLE fixed (id int, b4 binary(4), b2 binary(2), e enum('a','bbb') CHARACTER SET binary); INSERT INTO fixed VALUES (1, 'abcd', 'ab', 'a'), (2, 'abcd', 'ab', 'bbb');
         SET sql_mode = ''; CREATE TABLE day (id int, d date NOT NULL); INSERT INTO day VALUES (1, '0000-00-00'), (2, '2024-01-01');
         CREATE TABLE base (id int); INSERT INTO base VALUES (1), (2), (3);
         CREATE VIEW zero AS SELECT base.id, day.d FROM base LEFT JOIN day USING (id)",
    );
    arrives(&server, "inv", &[], 2, "SELECT id, s, n FROM inv");
    for partitions in [2, 3, 8, 16] {
        arrives(&server, "long_keys", &[("split_by", "k")], partitions, "SELECT * FROM long_keys");
    }
    arrives(&server, "ignored", &[("split_by", "k")], 4, "SELECT * FROM ignored");
    arrives(&server, "fixed", &[], 1, "SELECT * FROM fixed");
    arrives(
        &server,
        "",
        &[("query", "SELECT IF(id = 1, b4, b2) AS b FROM fixed")],
        1,
        "SELECT IF(id = 1, b4, b2) AS b FROM fixed",
    );
    for partitions in [1, 2, 5] {
        server.sql("DROP TABLE IF EXISTS arrived");
        let options = [("split_by", "d"), ("types", "d:text")];
        let copy = Copy { source_options: &options, partitions: Some(partitions), ..Copy::default() };
        copy.run(&server.uri("zero"), &server.uri("arrived")).unwrap();
        assert_eq!(server.sql("SELECT group_concat(id ORDER BY id) FROM arrived"), "1,2,3");
    }
}

#[test]
fn a_query_keeps_its_order_and_loses_nothing() {
    let server = MariaDb::start_with(&["--group-concat-max-len=64"]);
    server.sql(
        "CREATE TABLE t (id int PRIMARY KEY, x int); INSERT INTO t SELECT seq, seq * 7919 % 101 FROM seq_1_to_100",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.csv");
    let read = |query: &str| {
        let options = [("query", query)];
        let copy = Copy { mode: LoadMode::Replace, source_options: &options, ..Copy::default() };
        copy.run(&server.uri(""), file.to_str().unwrap())
    };
    read("SELECT x AS `x ` FROM t ORDER BY x DESC").unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().skip(1).eq(server.sql("SELECT x FROM t ORDER BY x DESC").lines()), "{text}");
    // Text is sorted in as much memory as the server has.
    server.sql("CREATE TABLE texts (t longtext); INSERT INTO texts SELECT concat('t', seq % 7) FROM seq_1_to_100");
    read("SELECT t, count(*) AS n FROM texts GROUP BY t ORDER BY t").unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 8);
    let error = read("SELECT group_concat(id) AS ids FROM t").unwrap_err();
    assert!(error.to_string().contains("group_concat_max_len"), "{error}");
}

#[test]
fn a_cursor_of_times_is_given_in_any_usual_form() {
    let server = MariaDb::start();
    server.sql(
        "SET time_zone = '+00:00'; CREATE TABLE t (id int PRIMARY KEY, at datetime(6), stamp timestamp(6) NULL);
        INSERT INTO t VALUES (1, '2024-01-31 10:00:00', '2024-01-31 10:00:00'),
            (2, '2024-01-31 23:00:00.5', '2024-01-31 23:00:00.5'), (3, '2024-02-01 00:00:00', '2024-02-01 00:00:00')",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.csv");
    for (column, after, expected) in [
        ("at", "2024-01-31", "1 2 3"),
        ("at", "2024-01-31 10:00:00", "2 3"),
        ("at", "2024-01-31T23:00:00.5", "3"),
        ("at", "2024-01-31 10:00", "2 3"),
        ("at", "2024-01-31T10:00:00Z", "cursor_after is no value of type timestamp; write it as in"),
        ("at", "yesterday", "cursor_after is no value"),
        ("at", "2024-01-31' OR '1'='1", "cursor_after is no value"),
        ("stamp", "2024-01-31", "1 2 3"),
        ("stamp", "2024-01-31T10:00:00Z", "2 3"),
        ("stamp", "2024-02-01 00:30:00+02:00", "2 3"),
        ("stamp", "2024-01-31T18:00:01-05", "3"),
        ("stamp", "2024-01-31T15:30:00+0530", "2 3"),
        ("stamp", "2024-01-31T15:30:00+5", "cursor_after is no value"),
        ("stamp", "2024-01-31T23:00:00+13:00", "2 3"),
        ("stamp", "2024-01-31T09:00:01.5-14:00", "3"),
        ("stamp", "1970-01-01T05:00:00+12:00", "1 2 3"),
        ("stamp", "0001-01-01T00:00:00+05:00", "1 2 3"),
        ("stamp", "2024-01-31T15:30:00+16:00", "cursor_after is no value"),
        ("stamp", "2024-01-31T15:30:00+05:60", "cursor_after is no value"),
        ("stamp", "2024-01-31T15:30:00+1:2:3", "cursor_after is no value"),
        ("stamp", "2024-01-31T15:30:00+", "cursor_after is no value"),
        ("stamp", "2024-01-31 10:00:00+00:00') OR (1=1", "cursor_after is no value"),
    ] {
        let options = [("cursor", column), ("cursor_after", after)];
        let copy = Copy { mode: LoadMode::Replace, source_options: &options, ..Copy::default() };
        let found = match copy.run(&server.uri("t"), file.to_str().unwrap()) {
            Ok(_) => {
                let text = std::fs::read_to_string(&file).unwrap();
                text.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        };
        assert!(found == expected || expected.len() > 9 && found.contains(expected), "{column} {after}: {found}");
    }
}

#[test]
fn nobody_waits_for_a_view_that_is_read() {
    let server = MariaDb::start_with(&["--general-log=1", "--general-log-file=general.log"]);
    server.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE VIEW v AS SELECT * FROM t");
    arrives(&server, "v", &[], 1, "SELECT * FROM v");
    let log = std::fs::read_to_string(server.folder().join("data/general.log")).unwrap();
    assert!(!log.contains("LOCK TABLES"));
}
