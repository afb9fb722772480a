//! A password is in no output, whatever goes wrong.

use std::path::Path;
use std::process::Command;

use etlrs_tests::{Ran, etlrs};

use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");
const CANARY: &str = "cAnArY5ecret";

/// The arguments of the program for a URI.
type Arguments<'a> = &'a dyn Fn(&str) -> Vec<String>;

/// Where a password can be given.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Url,
    Parameter,
    Environment,
    File,
    Variable,
}

/// How a kind of server is told a password.
struct Kind {
    scheme: &'static str,
    variable: &'static str,
    /// The name of the file of passwords, and what is in it.
    file: (&'static str, &'static str),
    /// Parameters of URLs that cannot work.
    broken: [&'static str; 4],
    denied: &'static str,
}

const POSTGRES: Kind = Kind {
    scheme: "postgres",
    variable: "PGPASSWORD",
    file: (".pgpass", "# a comment\nbroken:PASSWORD\n*:*:*:me:PASSWORD\n"),
    broken: ["sslmode=require", "sslmode=nonsense", "sslrootcert=/no/such/file&sslmode=verify-full", "unknown=1"],
    denied: "password authentication failed",
};

const MYSQL: Kind = Kind {
    scheme: "mysql",
    variable: "MYSQL_PWD",
    file: (".my.cnf", "# a comment\nbroken PASSWORD\n[client]\npassword = \"PASSWORD\"\n"),
    broken: ["ssl-mode=required", "ssl-mode=nonsense", "ssl-ca=/no/such/file&ssl-mode=verify_identity", "unknown=1"],
    denied: "Access denied",
};

/// Runs the program with the password in `slot`, and asserts that it shows it nowhere.
fn run(kind: &Kind, folder: &Path, slot: Slot, address: &str, table: &str, arguments: Arguments<'_>) -> Ran {
    let (credentials, parameters) = match slot {
        Slot::Url | Slot::Variable => (format!("me:{CANARY}@"), String::new()),
        Slot::Parameter => ("me@".to_owned(), format!("?password={CANARY}")),
        Slot::Environment | Slot::File => ("me@".to_owned(), String::new()),
    };
    let separator = if address.contains('?') { parameters.replace('?', "&") } else { parameters };
    let scheme = kind.scheme;
    let uri = format!("{scheme}://{credentials}{address}{separator}#{table}");
    let mut command = match slot {
        Slot::Variable => {
            let uri = uri.replace(CANARY, "${SECRET}");
            let file = folder.join("pipeline.toml");
            let text = format!("[source]\nuri = '{uri}'\n[target]\nuri = 'out.csv'\nmode = 'replace'\n");
            std::fs::write(&file, text).unwrap();
            etlrs(PROGRAM, folder, &["run", "pipeline.toml"])
        }
        _ => {
            let arguments = arguments(&uri);
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            etlrs(PROGRAM, folder, &arguments)
        }
    };
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").env("SECRET", CANARY);
    // The files of passwords are in the home of the user.
    command.env_remove("PGPASSFILE").env_remove("PGPASSWORD").env_remove("MYSQL_PWD").env("HOME", folder);
    let (name, text) = kind.file;
    let file = folder.join(name);
    _ = std::fs::remove_file(&file);
    match slot {
        Slot::Environment => _ = command.env(kind.variable, CANARY),
        Slot::File => {
            std::fs::write(&file, text.replace("PASSWORD", CANARY)).unwrap();
            Command::new("chmod").arg("600").arg(&file).status().unwrap();
        }
        _ => {}
    }
    let ran = Ran::of(&command.output().unwrap());
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(!said.contains(CANARY) && !said.contains("5ecret"), "{slot:?} {address}#{table}: {said}");
    ran
}

/// Forces every path with an error, with a user `me` of the password and a table `t` at `port`; `sql` speaks to the server.
fn force_every_error(kind: &Kind, port: u16, sql: &dyn Fn(&str), change_password: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.csv"), "id\n1\n").unwrap();
    let good = format!("127.0.0.1:{port}/test");
    let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let read = |uri: &str| strings(&["copy", uri, "out.csv", "--mode", "replace"]);
    let write = |uri: &str| strings(&["copy", "in.csv", uri, "--mode", "append", "--output", "json"]);
    let plan = |uri: &str| strings(&["plan", uri, "out.parquet"]);
    let inspect = |uri: &str| strings(&["inspect", uri]);
    let ways: [Arguments<'_>; 4] = [&read, &write, &plan, &inspect];
    let mut broken = vec![
        ("127.0.0.1:1/test".to_owned(), "t"),
        (format!("no-such-host.invalid:{port}/test"), "t"),
        (format!("127.0.0.1:{port}/nowhere"), "t"),
        ("127.0.0.1:port/test".to_owned(), "t"),
        ("[::1/test".to_owned(), "t"),
        (good.clone(), "no_such_table"),
        (good.clone(), "a.b.c"),
        (good.clone(), ""),
    ];
    broken.extend(kind.broken.map(|parameters| (format!("{good}?{parameters}"), "t")));
    for slot in [Slot::Url, Slot::Parameter, Slot::Environment, Slot::File, Slot::Variable] {
        for way in ways {
            let ran = run(kind, folder.path(), slot, &good, "t", way);
            assert_eq!(ran.code, 0, "{slot:?} {ran:?}");
            if matches!(slot, Slot::Variable) {
                break;
            }
        }
        for (address, table) in &broken {
            for way in [ways[0], ways[1]] {
                // A table that is appended to comes into being.
                let ran = run(kind, folder.path(), slot, address, table, way);
                let made = *table == "no_such_table";
                assert!(made || ran.code == 1 || ran.code == 2, "{slot:?} {address}#{table} {ran:?}");
                sql("DROP TABLE IF EXISTS no_such_table");
            }
        }
    }
    // A wrong password.
    sql(change_password);
    for slot in [Slot::Url, Slot::Parameter, Slot::Environment, Slot::File, Slot::Variable] {
        let ran = run(kind, folder.path(), slot, &good, "t", &read);
        assert!(ran.code == 1 && ran.stderr.contains(kind.denied), "{ran:?}");
    }
}

#[test]
fn a_password_of_postgres_is_shown_nowhere() {
    let server = Postgres::start();
    server.add_user_with_password("me", CANARY);
    server.sql("CREATE TABLE t AS SELECT generate_series(1, 10) AS id");
    let sql = |sql: &str| _ = server.sql(sql);
    force_every_error(&POSTGRES, server.port(), &sql, "ALTER ROLE me PASSWORD 'changed'");
}

#[test]
fn a_password_of_mysql_is_shown_nowhere() {
    let server = MariaDb::start();
    server.sql(&format!("CREATE USER me IDENTIFIED BY '{CANARY}'; GRANT ALL ON *.* TO me"));
    server.sql("CREATE TABLE t AS SELECT seq AS id FROM seq_1_to_10");
    let sql = |sql: &str| _ = server.sql(sql);
    force_every_error(&MYSQL, server.port(), &sql, "ALTER USER me IDENTIFIED BY 'changed'");
}

#[test]
fn a_lost_connection_ends_the_run_with_one_sentence() {
    let server = Postgres::start();
    server.add_user_with_password("me", CANARY);
    server.sql("CREATE TABLE t AS SELECT i AS id, repeat('x', 500) AS pad FROM generate_series(1, 400000) i");
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("postgres://me:{CANARY}@127.0.0.1:{}/test#t", server.port());
    let copying = etlrs(PROGRAM, folder.path(), &["copy", &uri, "out.csv", "--threads", "1"])
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND usename = 'me'") == "0" {}
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'me'");
    let ran = Ran::of(&copying.wait_with_output().unwrap());
    assert!(!format!("{ran:?}").contains(CANARY), "{ran:?}");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("connection"), "{ran:?}");
    assert!(!folder.path().join("out.csv").exists());
}

#[test]
fn a_password_in_a_mistyped_url_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), "a\n1\n").unwrap();
    for url in [
        "postgres//me:CANARY@localhost/shop",
        "mysql;//me:CANARY@localhost/shop#t",
        "me:CANARY@localhost:5432/shop#t",
        "//me:CANARY@localhost/shop",
        "csv:postgres://me:CANARY@localhost/shop#t",
        "postgres://localhost/shop?user=me&pasword=CANARY#t",
        "mysql://localhost/shop?user=me&pwd=CANARY#t",
        "host=localhost user=me password=CANARY",
        "sqlite://me:CANARY@localhost/shop#t",
        "pg://me:CANARY@localhost/shop#t",
    ] {
        for arguments in
            [["copy", url, "o.csv"], ["copy", "a.csv", url], ["plan", url, "o.csv"], ["inspect", url, "--rows=1"]]
        {
            let program = env!("CARGO_BIN_EXE_etlrs-under-test");
            let ran = Ran::of(&etlrs(program, folder.path(), &arguments).output().unwrap());
            assert_ne!(ran.code, 0, "{arguments:?}");
            assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("CANARY"), "{arguments:?}: {ran:?}");
        }
    }
}

/// It is not written down, so it is given again, as the server's clients take it.
#[test]
fn a_run_whose_url_had_a_password_is_resumed_and_forgotten_without() {
    let (postgres, mariadb) = (Postgres::start(), MariaDb::start());
    mariadb.sql(&format!("CREATE USER me IDENTIFIED BY '{CANARY}'; GRANT ALL ON *.* TO me"));
    for url in [
        postgres.uri("t").replace("postgres@", &format!("postgres:{CANARY}@")),
        mariadb.uri("t").replace("root@", &format!("me:{CANARY}@")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.csv"), "id\n1\n2\n").unwrap();
        let run = |arguments: &[&str], kill: bool| {
            let mut command = etlrs(PROGRAM, folder.path(), arguments);
            command.env("XDG_STATE_HOME", folder.path().join("state"));
            command.envs(kill.then_some((etlrs_tests::KILL_AT, "run-staged:1")));
            command.env("PGPASSWORD", CANARY).env("MYSQL_PWD", CANARY);
            let ran = Ran::of(&command.output().unwrap());
            assert!(!ran.stdout.contains(CANARY) && !ran.stderr.contains(CANARY), "{ran:?}");
            ran
        };
        let id = || run(&["runs", "--output", "json"], false).json()[0]["run"].as_str().unwrap().to_owned();
        for command in ["resume", "forget"] {
            assert_eq!(run(&["copy", "a.csv", &url, "--mode", "append"], true).code, -9);
            let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
            loop {
                let ran = run(&[command, &id()], false);
                if ran.code == 0 || std::time::Instant::now() > end {
                    assert_eq!(ran.code, 0, "{command} {url}: {ran:?}");
                    break;
                }
            }
        }
    }
}
