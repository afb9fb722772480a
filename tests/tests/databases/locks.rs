//! What others hold, and what a user may not see or do.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A session of a client that holds what its statements locked, until it goes.
struct Holder(Child);

impl Holder {
    fn of(mut client: Command, sql: &str) -> Self {
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{sql}").unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !what() {
        assert!(Instant::now() < end, "it does not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How many wait for a lock, or hold an exclusive one.
fn locks(server: &Postgres, condition: &str) -> u32 {
    server
        .sql(&format!("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND {condition}"))
        .parse()
        .unwrap()
}

/// Reads a partition, without waiting for anybody for long.
async fn rows_of(scan: &dyn Scan, cx: &RunContext, partition: usize) -> usize {
    let mut rows = 0;
    let mut stream = scan.read(cx, &scan.partitions()[partition]).unwrap();
    while let Some(batch) = tokio::time::timeout(Duration::from_secs(20), next_batch(&mut stream)).await.unwrap() {
        rows += batch.unwrap().num_rows();
    }
    rows
}

#[test]
fn a_table_that_others_hold_is_not_waited_for_without_end() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t (id bigint); INSERT INTO t VALUES (1)");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv").to_str().unwrap().to_owned();
    copy(&server.uri("t"), &file, LoadMode::Create).unwrap();
    let mut holder = Holder::of(server.psql(), "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;");
    until(|| locks(&server, "mode = 'AccessExclusiveLock' AND granted") == 1);
    let limit = [("lock_timeout", "1")];
    let query = [("lock_timeout", "1"), ("query", "SELECT * FROM t")];
    let end = Instant::now() + Duration::from_secs(20);
    let of_table = Copy { mode: LoadMode::Replace, source_options: &limit, ..Copy::default() };
    let of_query = Copy { mode: LoadMode::Replace, source_options: &query, ..Copy::default() };
    let into = |mode| Copy { mode, target_options: &limit, ..Copy::default() }.run(&file, &server.uri("t"));
    for done in [
        of_table.run(&server.uri("t"), &file),
        of_query.run(&server.uri(""), &file),
        into(LoadMode::Append),
        into(LoadMode::Replace),
    ] {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(error.to_string().contains("lock_timeout"), "{error}");
    }
    assert!(Instant::now() < end);
    // Whoever is asked to stop stops.
    let program = env!("CARGO_BIN_EXE_etlrs-under-test");
    let child = etlrs_tests::etlrs(program, folder.path(), &["copy", &server.uri("t"), "other.csv"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until(|| locks(&server, "NOT granted") == 1);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let ran = etlrs_tests::Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{ran:?}");
    holder.0.stdin.take();
    drop(holder);
    assert_eq!(server.left_over(), "");
}

#[test]
fn who_alters_a_table_that_is_being_read_waits_and_the_read_goes_on() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id bigint, x text); INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 50000) n",
    );
    let uri = Uri::new(server.uri("t"));
    let extractor = registry().find(&uri).unwrap().extractor(&uri, &OptionMap::new()).unwrap();
    block_on(async {
        let cx = RunContext::new(PerformanceConfig::default());
        let mut request = ScanRequest::all();
        request.partitions = Some(2);
        let scan = extractor.scan(&cx, &request).await.unwrap();
        let first = rows_of(&*scan, &cx, 0).await;
        let altering = Holder::of(server.psql(), "ALTER TABLE t ADD COLUMN more int;");
        until(|| locks(&server, "NOT granted") == 1);
        // By the reader that has the lock already.
        assert_eq!(first + rows_of(&*scan, &cx, 1).await, 50_000);
        drop(scan);
        until(|| {
            server.sql("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'more'") == "1"
        });
        drop(altering);
    });
}

#[test]
fn a_part_that_is_not_read_yet_stays_until_it_is() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id bigint) PARTITION BY RANGE (id); CREATE TABLE a PARTITION OF t FOR VALUES FROM (0) TO (1000);
         CREATE TABLE b PARTITION OF t FOR VALUES FROM (1000) TO (2000); INSERT INTO t SELECT n FROM generate_series(0, 1999) n",
    );
    let uri = Uri::new(server.uri("t"));
    let extractor = registry().find(&uri).unwrap().extractor(&uri, &OptionMap::new()).unwrap();
    block_on(async {
        let cx = RunContext::new(PerformanceConfig::default());
        let mut request = ScanRequest::all();
        request.partitions = Some(2);
        let scan = extractor.scan(&cx, &request).await.unwrap();
        assert_eq!(scan.partitions().len(), 2);
        let first = rows_of(&*scan, &cx, 0).await;
        let dropping = Holder::of(server.psql(), "DROP TABLE b;");
        until(|| server.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1");
        assert_eq!(first + rows_of(&*scan, &cx, 1).await, 2000);
        drop(scan);
        until(|| server.sql("SELECT count(*) FROM pg_class WHERE relname = 'b'") == "0");
        drop(dropping);
    });
}

#[test]
fn what_a_query_reads_is_not_emptied_before_it_is_read() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t (id bigint); INSERT INTO t VALUES (1), (2)");
    let uri = Uri::new(server.uri(""));
    let options = [("query", "SELECT id + 1 AS n FROM t"), ("lock_timeout", "1")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let extractor = registry().find(&uri).unwrap().extractor(&uri, &options).unwrap();
    block_on(async {
        let cx = RunContext::new(PerformanceConfig::default());
        let scan = extractor.scan(&cx, &ScanRequest::all()).await.unwrap();
        let truncating = Holder::of(server.psql(), "TRUNCATE t;");
        until(|| locks(&server, "NOT granted") == 1);
        // The reader stands behind it, and gives up: no rows would be wrong.
        let mut stream = scan.read(&cx, &scan.partitions()[0]).unwrap();
        let error = next_batch(&mut stream).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        drop((stream, scan));
        until(|| server.sql("SELECT count(*) FROM t") == "0");
        drop(truncating);
    });
}

#[test]
fn who_stops_while_it_waits_frees_the_target() {
    let postgres = Postgres::start();
    let mysql = MariaDb::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv").to_str().unwrap().to_owned();
    std::fs::write(&file, "id\n2\n").unwrap();
    let make = "CREATE TABLE t (id bigint); INSERT INTO t VALUES (1)";
    postgres.sql(make);
    mysql.sql(make);
    let holders = [
        Holder::of(postgres.psql(), "BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE;"),
        Holder::of(mysql.client(), "LOCK TABLES t WRITE; DO sleep(1000);"),
    ];
    until(|| locks(&postgres, "mode = 'AccessExclusiveLock' AND granted") == 1);
    until(|| mysql.sql("SELECT count(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO sleep%'") == "1");
    let program = env!("CARGO_BIN_EXE_etlrs-under-test");
    for uri in [postgres.uri("t"), mysql.uri("t")] {
        let child = etlrs_tests::etlrs(program, folder.path(), &["copy", &file, &uri, "--mode", "replace"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(1));
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
        let ran = etlrs_tests::Ran::of(&child.wait_with_output().unwrap());
        assert_eq!(ran.code, 130, "{ran:?}");
    }
    drop(holders);
    for uri in [postgres.uri("t"), mysql.uri("t")] {
        let start = Instant::now();
        copy(&file, &uri, LoadMode::Replace).unwrap();
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert_eq!((postgres.left_over(), mysql.left_over()), (String::new(), String::new()));
}

#[test]
fn a_mysql_table_that_others_hold_is_not_waited_for_without_end() {
    let server = MariaDb::start();
    server.sql("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1)");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv").to_str().unwrap().to_owned();
    copy(&server.uri("t"), &file, LoadMode::Create).unwrap();
    let holder = Holder::of(server.client(), "LOCK TABLES t WRITE; DO sleep(1000);");
    until(|| server.sql("SELECT count(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO sleep%'") == "1");
    let limit = [("lock_timeout", "1")];
    let end = Instant::now() + Duration::from_secs(20);
    let of_table = Copy { mode: LoadMode::Replace, source_options: &limit, ..Copy::default() };
    let into = |mode| Copy { mode, target_options: &limit, ..Copy::default() }.run(&file, &server.uri("t"));
    for done in [of_table.run(&server.uri("t"), &file), into(LoadMode::Append), into(LoadMode::Replace)] {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
        assert!(error.to_string().contains("lock_timeout"), "{error}");
    }
    assert!(Instant::now() < end);
    drop(holder);
}

#[test]
fn hidden_rows_are_left_out_only_if_the_user_says_so() {
    let server = Postgres::start();
    server.sql(
        "CREATE TABLE t (id bigint, owner text); INSERT INTO t VALUES (1, 'u'), (2, 'v');
         CREATE VIEW v WITH (security_invoker) AS SELECT * FROM t;
         ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON t USING (owner = current_user);
         CREATE ROLE u LOGIN; GRANT SELECT ON t, v TO u; GRANT ALL ON SCHEMA public TO u",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv").to_str().unwrap().to_owned();
    let source = |table: &str| {
        let uri = server.uri(table);
        let (_, rest) = uri.split_once('@').unwrap();
        format!("postgres://u@{rest}")
    };
    let query = [("query", "SELECT * FROM t")];
    let of_query = Copy { source_options: &query, ..Copy::default() };
    for done in [
        copy(&source("t"), &file, LoadMode::Create),
        copy(&source("v"), &file, LoadMode::Create),
        of_query.run(&source(""), &file),
    ] {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("row_security=true"), "{error}");
    }
    for (table, options) in [
        ("t", vec![("row_security", "true")]),
        ("v", vec![("row_security", "true")]),
        ("", vec![("row_security", "true"), query[0]]),
    ] {
        let copy = Copy { mode: LoadMode::Replace, source_options: &options, ..Copy::default() };
        assert_eq!(copy.run(&source(table), &file).unwrap().rows_read, 1, "{table}");
    }
    // The owner sees all.
    assert_eq!(copy(&server.uri("t"), &file, LoadMode::Replace).unwrap().rows_read, 2);
}

#[test]
fn who_could_not_publish_does_not_stage() {
    let server = MariaDb::start();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("statements").to_str().unwrap().to_owned();
    // The server writes it as its own user.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    server.sql(&format!("SET GLOBAL general_log_file = '{log}'; SET GLOBAL general_log = 1"));
    let uri = |table: &str| server.uri(table).replace("root@", "u@");
    let file = folder.path().join("t.csv").to_str().unwrap().to_owned();
    std::fs::write(&file, "id\n1\n").unwrap();
    server.sql("CREATE USER u; CREATE TABLE t (id bigint PRIMARY KEY, x int)");
    let all = ["CREATE", "DROP", "ALTER", "INSERT", "SELECT"];
    let run = |mode, table: &str| {
        let keys: &[&str] = if mode == LoadMode::Merge { &["id"] } else { &[] };
        Copy { mode, keys, ..Copy::default() }.run(&file, &uri(table))
    };
    let grant = |privileges: &[&str]| {
        let privileges = privileges.join(", ");
        server.sql(&format!("REVOKE ALL PRIVILEGES, GRANT OPTION FROM u; GRANT {privileges} ON test.* TO u"));
    };
    for missing in all {
        grant(&all.into_iter().filter(|privilege| *privilege != missing).collect::<Vec<_>>());
        let error = run(LoadMode::Create, "new").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let said = format!("the user has no privilege to {missing} in the database test");
        assert!(error.message().starts_with(&said), "{missing}: {error}");
        assert_eq!(server.left_over(), "", "{missing}");
    }
    // Nothing is renamed to append or to merge.
    grant(&["CREATE", "DROP", "INSERT", "SELECT"]);
    server.sql("GRANT UPDATE ON test.t TO u");
    run(LoadMode::Append, "t").unwrap();
    std::fs::write(&file, "id,x\n1,5\n").unwrap();
    run(LoadMode::Merge, "t").unwrap();
    assert_eq!(server.sql("SELECT * FROM t"), "1\t5");
    grant(&all);
    for (mode, missing) in [(LoadMode::Replace, "DELETE"), (LoadMode::Merge, "UPDATE")] {
        let error = run(mode, "t").unwrap_err();
        assert!(error.message().contains(&format!("no privilege to {missing} on the target")), "{error}");
    }
    // Of all that was refused nothing was staged.
    let statements = std::fs::read_to_string(&log).unwrap();
    let staged = statements
        .lines()
        .filter(|line| line.contains("LOAD DATA") || line.contains("CREATE TABLE `test`.`_etlrs_ledger"))
        .count();
    assert_eq!(staged, 2 * 2, "{statements}");
    for (mode, missing) in [(LoadMode::Replace, "DELETE"), (LoadMode::Merge, "UPDATE")] {
        server.sql(&format!("GRANT {missing} ON test.* TO u"));
        run(mode, "t").unwrap();
    }
    assert_eq!(server.sql("SELECT * FROM t"), "1\t5");
    assert_eq!(server.left_over(), "");
}
