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
    let any = if kind == "mysql" { "decimal(30,5)" } else { "numeric" };
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
        "1|10115|1.50|2.25|1.5|2024-01-31|2024-01-31 10:00:00|2024-01-31 10:00:00+00|t|10:00:00|x|
2|01067|12.00|3|2|2024-02-01|2024-01-31 10:00:00|2024-01-31 10:30:00+00|f|11:00:00|y|
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
        ("n\n1.5\nmany\n", &["column \"n\"", "no value of the column's type"]),
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
