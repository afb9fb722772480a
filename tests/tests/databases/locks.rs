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
        let read = async |partition: &Partition| {
            let mut rows = 0;
            let mut stream = scan.read(&cx, partition).unwrap();
            while let Some(batch) =
                tokio::time::timeout(Duration::from_secs(20), next_batch(&mut stream)).await.unwrap()
            {
                rows += batch.unwrap().num_rows();
            }
            rows
        };
        let first = read(&scan.partitions()[0]).await;
        let altering = Holder::of(server.psql(), "ALTER TABLE t ADD COLUMN more int;");
        until(|| locks(&server, "NOT granted") == 1);
        // By the reader that has the lock already.
        assert_eq!(first + read(&scan.partitions()[1]).await, 50_000);
        drop(scan);
        until(|| {
            server.sql("SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'more'") == "1"
        });
        drop(altering);
    });
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
    let (database, _) = (server.uri("t").replace("root@", "u@"), ());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv").to_str().unwrap().to_owned();
    std::fs::write(&file, "id\n1\n").unwrap();
    server.sql("CREATE USER u; CREATE TABLE t (id bigint PRIMARY KEY, x int)");
    let all = ["CREATE", "DROP", "ALTER", "INSERT", "SELECT"];
    let run = |mode| {
        Copy { mode, keys: if mode == LoadMode::Merge { &["id"] } else { &[] }, ..Copy::default() }
            .run(&file, &database)
    };
    for missing in all {
        let granted: Vec<_> = all.into_iter().filter(|privilege| *privilege != missing).collect();
        server.sql(&format!("REVOKE ALL PRIVILEGES, GRANT OPTION FROM u; GRANT {} ON test.* TO u", granted.join(", ")));
        let error = run(LoadMode::Append).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        if missing != "SELECT" {
            assert!(error.message().contains(missing), "{missing}: {error}");
        }
        assert_eq!(server.left_over(), "", "{missing}");
    }
    server.sql(&format!("REVOKE ALL PRIVILEGES, GRANT OPTION FROM u; GRANT {} ON test.* TO u", all.join(", ")));
    run(LoadMode::Append).unwrap();
    for (mode, missing) in [(LoadMode::Replace, "DELETE"), (LoadMode::Merge, "UPDATE")] {
        let error = run(mode).unwrap_err();
        assert!(error.message().contains(missing), "{error}");
        server.sql(&format!("GRANT {missing} ON test.* TO u"));
        run(mode).unwrap();
    }
    assert_eq!(server.sql("SELECT * FROM t"), "1\tNULL");
    assert_eq!(server.left_over(), "");
}
