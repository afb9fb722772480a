//! CSV files, whose types are guesses, into tables that have types.

use super::*;

const ROWS: &str = "id,zip,amount,any,ratio,d,at,tz,b,t,kind,gone
1,10115,1.5,2.25,1.5,2024-01-31,2024-01-31 10:00:00,2024-01-31T10:00:00Z,true,10:00:00,x,
2,01067,12,3,2,2024-02-01,2024-01-31 10:00:00,2024-01-31T12:30:00+02:00,false,11:00,y,
3,,,,,,,,,,,
";

fn columns(kind: &str) -> String {
    let (real, time_zone, kinds) = match kind {
        "postgres" => ("float8", "timestamptz", "mood"),
        "mysql" => ("double", "timestamp NULL", "enum('x','y')"),
        _ => ("double", "timestamptz", "text"),
    };
    let any = if kind == "sqlite" { "numeric" } else { "decimal(30,5)" };
    let at = if kind == "postgres" { "timestamp" } else { "datetime" };
    let boolean = if kind == "mysql" { "tinyint(1)" } else { "boolean" };
    format!(
        "id smallint, zip varchar(10), amount decimal(10,2), {0}any{0} {any}, ratio {real}, d date, at {at},
         tz {time_zone}, b {boolean}, t time, kind {kinds}, gone date",
        if kind == "mysql" { '`' } else { '"' }
    )
}

#[test]
fn rows_are_appended_to_columns_of_other_types_than_are_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    std::fs::write(&file, ROWS).unwrap();
    let file = file.to_str().unwrap();
    let postgres = Postgres::start();
    postgres.sql(&format!("CREATE TYPE mood AS ENUM ('x', 'y'); CREATE TABLE t ({})", columns("postgres")));
    let mysql = MariaDb::start();
    mysql.sql(&format!("CREATE TABLE t ({})", columns("mysql")));
    let database = folder.path().join("t.db");
    let sqlite = rusqlite::Connection::open(&database).unwrap();
    sqlite.execute_batch(&format!("CREATE TABLE t ({})", columns("sqlite"))).unwrap();
    let here = format!("sqlite:{}#t", database.display());
    for mode in [LoadMode::Append, LoadMode::Replace] {
        let copy = Copy { mode, ..Copy::default() };
        for target in [&postgres.uri("t"), &mysql.uri("t"), &here] {
            copy.run(file, target).unwrap();
        }
    }
    assert_eq!(
        postgres.sql("SET timezone = 'UTC'; SELECT * FROM t ORDER BY id").trim_start_matches("SET\n"),
        "1|10115|1.50|2.25000|1.5|2024-01-31|2024-01-31 10:00:00|2024-01-31 10:00:00+00|t|10:00:00|x|
2|01067|12.00|3.00000|2|2024-02-01|2024-01-31 10:00:00|2024-01-31 10:30:00+00|f|11:00:00|y|
3|||||||||||"
    );
    assert_eq!(
        mysql.sql("SET time_zone = '+00:00'; SELECT * FROM t ORDER BY id").replace("NULL", ""),
        "1\t10115\t1.50\t2.25000\t1.5\t2024-01-31\t2024-01-31 10:00:00\t2024-01-31 10:00:00\t1\t10:00:00\tx\t
2\t01067\t12.00\t3.00000\t2\t2024-02-01\t2024-01-31 10:00:00\t2024-01-31 10:30:00\t0\t11:00:00\ty\t
3\t\t\t\t\t\t\t\t\t\t\t"
    );
    let list = "id, zip, amount, \"any\", ratio, d, at, tz, b, t, kind, gone";
    let sql = format!("SELECT group_concat(concat_ws('|', {list}), ' / ') FROM (SELECT * FROM t ORDER BY id)");
    let rows: String = sqlite.query_row(&sql, [], |row| row.get(0)).unwrap();
    assert_eq!(
        rows,
        "1|10115|1.5|2.25|1.5|2024-01-31|2024-01-31 10:00:00|2024-01-31 10:00:00+00:00|1|10:00:00|x / \
         2|01067|12|3|2.0|2024-02-01|2024-01-31 10:00:00|2024-01-31 10:30:00+00:00|0|11:00:00|y / 3"
    );
}

#[test]
fn a_value_that_the_target_cannot_hold_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    let server = Postgres::start();
    server.sql("CREATE TABLE t (id smallint, n numeric, r real, at timestamptz)");
    for (text, words) in [
        ("id\n1\n99999\n", &["record 2, line 3", "column \"id\"", "the type that the target has"][..]),
        ("id\nx\n", &["text cannot be stored unchanged in a column of type smallint", "types=id:int16"]),
        ("n\n1.5\n", &["column \"n\"", "types=n:decimal(18,4), or decimals=true"]),
        ("r\n1.5\n", &["float64 cannot be stored unchanged", "types=r:float32"]),
        ("at\n2024-01-31 10:00:00\n", &["timestamp cannot be stored unchanged", "types=at:timestamptz"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let append = Copy { mode: LoadMode::Append, ..Copy::default() };
        let error = append.run(file.to_str().unwrap(), &server.uri("t")).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(server.sql("SELECT count(*) FROM t"), "0");
    }
}

/// A server with the table `t`, and a way to load a CSV text into it.
fn load(columns: &str, text: &str, mode: LoadMode, options: &[(&str, &str)]) -> (Postgres, Result<RunReport>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    std::fs::write(&file, text).unwrap();
    let server = Postgres::start();
    server.sql(&format!("CREATE TABLE t ({columns})"));
    let copy = Copy { mode, source_options: options, ..Copy::default() };
    let report = copy.run(file.to_str().unwrap(), &server.uri("t"));
    (server, report)
}

fn program(folder: &std::path::Path, arguments: &[&str]) -> etlrs_tests::Ran {
    let program = env!("CARGO_BIN_EXE_etlrs-under-test");
    etlrs_tests::Ran::of(&etlrs_tests::etlrs(program, folder, arguments).output().unwrap())
}

#[test]
fn what_a_guess_was_good_for_is_loaded_as_it_was() {
    // Verified by reading it back, which is text of a form that the server does not keep.
    let text = "id,doc,u,n\n1,\"{\"\"a\"\":1}\",A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11,\"5\"\n2,7,{a0eebc999c0b4ef8bb6d6bb9bd380a11},\"\"\n";
    let (server, report) = load("id int, doc jsonb, u uuid, n numeric", text, LoadMode::Replace, &[]);
    report.unwrap();
    assert_eq!(
        server.sql("SELECT * FROM t ORDER BY id"),
        "1|{\"a\": 1}|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|5\n2|7|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|"
    );
    let (server, report) = load("n numeric", "n\n1.5\n2.25\n", LoadMode::Append, &[("decimals", "true")]);
    report.unwrap();
    assert_eq!(server.sql("SELECT sum(n) FROM t"), "3.75");
}

#[test]
fn rows_that_a_filter_drops_need_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.csv"), "id,n,kind\n1,1,A-17\n2,99999.5,x\n40000,3,x\n").unwrap();
    let server = Postgres::start();
    server.sql("CREATE TABLE t (id smallint, n numeric(4,1), kind int DEFAULT 9)");
    let target = server.uri("t");
    let args =
        ["copy", "rows.csv", &target, "--mode", "append", "--where", "id < 1000 and n < 50", "--columns", "id,n"];
    let ran = program(folder.path(), &args);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(server.sql("SELECT * FROM t"), "1|1.0|9");

    let path = folder.path().join("t.db");
    let sqlite = rusqlite::Connection::open(&path).unwrap();
    sqlite.execute_batch("CREATE TABLE t (id SMALLINT, n DECIMAL(4,1))").unwrap();
    let args = [&args[..2], &["sqlite:t.db#t"], &args[3..]].concat();
    let ran = program(folder.path(), &args);
    assert_eq!(ran.code, 0, "{ran:?}");
    let found: String = sqlite.query_row("SELECT group_concat(id || '|' || n) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "1|1");
}

#[test]
fn a_filter_means_the_same_whatever_the_target_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.csv"), "a,b,c\n9,10,7\n").unwrap();
    let sqlite = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    sqlite.execute_batch("CREATE TABLE t (A TEXT, b TEXT, c TEXT)").unwrap();
    let args = ["copy", "rows.csv", "sqlite:t.db#t", "--mode", "append", "--where", "a < b"];
    let ran = program(folder.path(), &args);
    // As texts 9 comes after 10, and the row would be gone without a word.
    assert!(ran.code == 1 && ran.stderr.contains("types=a:text"), "{ran:?}");
    let ran = program(folder.path(), &[&args[..], &["--columns", "c"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let found: String = sqlite.query_row("SELECT group_concat(c) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "7");

    // Nothing between quotes is null as a number and not as text.
    std::fs::write(folder.path().join("quoted.csv"), "\"b\",\"c\"\n\"1\",\"2\"\n\"3\",\"\"\n").unwrap();
    let args = ["copy", "quoted.csv", "sqlite:t.db#t", "--mode", "append", "--where", "c is null"];
    let ran = program(folder.path(), &args);
    assert!(ran.code == 1 && ran.stderr.contains("types=c:text"), "{ran:?}");
    let ran = program(folder.path(), &[&args[..], &["--columns", "b"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let found: String = sqlite.query_row("SELECT group_concat(b) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "3");
}

#[test]
fn a_file_that_does_not_fit_at_all_replaces_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.csv"), "d,n\n31/01/2024,\"1,5\"\n01/02/2024,\"2,5\"\n").unwrap();
    let server = Postgres::start();
    server.sql("CREATE TABLE t (d date, n numeric(4,1)); INSERT INTO t VALUES ('2024-01-01', 1)");
    let target = server.uri("t");
    let args =
        ["copy", "rows.csv", &target, "--mode", "replace", "--on-error", "quarantine", "--quarantine", "q.parquet"];
    let ran = program(folder.path(), &args);
    assert!(ran.code == 1 && ran.stderr.contains("cannot be stored unchanged"), "{ran:?}");
    assert_eq!(server.sql("SELECT * FROM t"), "2024-01-01|1.0");
}

#[test]
fn strict_and_earlier_tables_of_sqlite_are_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    let path = folder.path().join("t.db");
    let load = |text: &str, table: &str, mode, keys: &[&str], strict: &str| {
        std::fs::write(&file, text).unwrap();
        let options = [("strict", strict), ("primary_key", "false")];
        let copy = Copy { mode, keys, target_options: &options, ..Copy::default() };
        copy.run(file.to_str().unwrap(), &format!("sqlite:{}#{table}", path.display())).unwrap();
    };
    let found = |sql: &str| -> String {
        rusqlite::Connection::open(&path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    };
    // One moment is one key, as it was written the first time.
    let text = "at,n\n2024-01-31T10:00:00Z,1\n";
    for _ in 0..2 {
        load(text, "s", LoadMode::Merge, &["at"], "true");
    }
    assert_eq!(found("SELECT group_concat(at) FROM s"), "2024-01-31 10:00:00+00:00");
    // Prices that happen to be whole one day.
    for text in ["price\n1.5\n", "price\n2\n3\n"] {
        load(text, "p", LoadMode::Replace, &[], "false");
    }
    assert_eq!(found("SELECT group_concat(price) FROM p"), "2.0,3.0");
    // Written from whole numbers, and not as the decimals that it is read as.
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE w (n DECIMAL(20,0))").unwrap();
    load("n\n1234567890123456789\n", "w", LoadMode::Append, &[], "false");
    assert_eq!(found("SELECT CAST(group_concat(n) AS TEXT) FROM w"), "1234567890123456789");
    // A common declaration for prices.
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE d (price DECIMAL(18,2))").unwrap();
    for text in ["price\n1.50\n", "price\n150\n"] {
        load(text, "d", LoadMode::Append, &[], "false");
    }
    assert_eq!(found("SELECT group_concat(price) FROM d"), "1.5,150");
}

#[test]
fn booleans_and_times_are_taken_as_other_programs_write_them() {
    let text = "a,b,c,d,day,at,mixed,moment\n\
        1,t,yes,ON,2024-05-01 00:00:00,2024-05-01,2024-05-01 10:00:00,2024-05-01 10:00:00\n\
        0,f,No,off,2024-05-02,2024-05-02,2024-05-02,2024-05-02\n,,,,,,,\n";
    let columns =
        "a boolean, b boolean, c boolean, d boolean, day date, at timestamp, mixed timestamp, moment timestamptz";
    // What has no offset is of no zone by itself.
    let (_, report) = load(columns, text, LoadMode::Append, &[]);
    let error = report.unwrap_err().to_string();
    assert!(error.contains("column \"moment\"") && error.contains("types=moment:timestamptz"), "{error}");
    let (server, report) = load(columns, text, LoadMode::Append, &[("types", "moment:timestamptz")]);
    report.unwrap();
    assert_eq!(
        server.sql("SET timezone = 'UTC'; SELECT * FROM t ORDER BY day").trim_start_matches("SET\n"),
        "t|t|t|t|2024-05-01|2024-05-01 00:00:00|2024-05-01 10:00:00|2024-05-01 10:00:00+00\n\
         f|f|f|f|2024-05-02|2024-05-02 00:00:00|2024-05-02 00:00:00|2024-05-02 00:00:00+00\n|||||||"
    );
    for (columns, text, words) in [
        ("a boolean", "a\n1\n2\n", "int64 cannot be stored unchanged in a column of type boolean"),
        ("a boolean", "a\nyes\nmaybe\n", "text cannot be stored"),
        ("day date", "day\n2024-05-01 10:00:00\n", "timestamp cannot be stored unchanged in a column of type date"),
        ("at timestamp", "at\n2024-05-01T10:00:00Z\n", "timestamptz cannot be stored unchanged"),
    ] {
        let (_, report) = load(columns, text, LoadMode::Append, &[]);
        let error = report.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_replace_of_which_all_is_rejected_leaves_the_table_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..20_000).map(|id| format!("{id},{}\n", if id == 50 { "maybe" } else { "true" })).collect();
    std::fs::write(folder.path().join("rows.csv"), format!("id,active\n{rows}")).unwrap();
    std::fs::write(folder.path().join("none.csv"), "id,active\nx,y\nz,y\n").unwrap();
    let server = MariaDb::start();
    server.sql("CREATE TABLE t (id int PRIMARY KEY, active boolean); INSERT INTO t VALUES (1, true)");
    let target = server.uri("t");
    let copy = |file: &str, more: &[&str]| {
        let args =
            ["copy", file, &target, "--mode", "replace", "--on-error", "quarantine", "--quarantine", "q.parquet"];
        let args = [&args[..], more].concat();
        program(folder.path(), &args)
    };
    // One bad value among the first makes no type, and is no reason to set all of them aside.
    let ran = copy("rows.csv", &[]);
    assert!(ran.code == 1 && ran.stderr.contains("text cannot be stored unchanged"), "{ran:?}");
    let ran = copy("none.csv", &["--source-option", "types=id:int64,active:bool"]);
    assert!(ran.code == 1 && ran.stderr.contains("all 2 records were rejected"), "{ran:?}");
    assert_eq!(server.sql("SELECT * FROM t"), "1\t1");
    assert!(folder.path().join("q.parquet").exists(), "they are kept");
    std::fs::remove_file(folder.path().join("q.parquet")).unwrap();
    // Whether the filter would have dropped what was rejected, nobody knows.
    let ran = copy("rows.csv", &["--source-option", "types=active:bool", "--where", "id < 0"]);
    assert!(ran.code == 1 && ran.stderr.contains("no row is left, and 1 record was rejected"), "{ran:?}");
    assert_eq!(server.sql("SELECT * FROM t"), "1\t1");
    std::fs::remove_file(folder.path().join("q.parquet")).unwrap();
    let ran = copy("rows.csv", &["--source-option", "types=active:bool"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert_eq!(server.sql("SELECT count(*), sum(active) FROM t"), "19999\t19999");
}
