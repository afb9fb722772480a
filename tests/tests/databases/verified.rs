//! Tables of servers that are no longer what was loaded.

use etlrs_tests::corruption::{self, Corruption, Dialect};
use etlrs_tests::random::Random;

use super::*;

/// With those of files and of SQLite a thousand.
const CORRUPTIONS: usize = 125;

/// Every one of many single corruptions is found, and told as what it is.
fn find_all(uri: &str, dialect: Dialect, sql: impl Fn(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new();
    let rows = corruption::rows(&mut random, 300);
    let source = folder.path().join("s.csv");
    corruption::write(&source, &rows);
    let source = source.to_str().unwrap();
    Copy { partitions: Some(3), ..Copy::default() }.run(source, uri).unwrap();
    sql("CREATE TABLE saved AS SELECT * FROM t");
    assert!(compare(source, uri, &corruption::COLUMNS).unwrap().is_equal());
    for index in 0..CORRUPTIONS {
        let wrong = Corruption::new(&mut random, &rows);
        sql(&wrong.sql(&rows, dialect));
        let found = compare(source, uri, &corruption::COLUMNS).unwrap();
        let what = format!("{index}, seed {}: {wrong:?}: {found:?}", random.seed);
        assert!(!found.is_equal() && found.is_whole, "{what}");
        assert_eq!([found.missing, found.changed, found.unexpected], wrong.expected(), "{what}");
        sql("DELETE FROM t; INSERT INTO t SELECT * FROM saved");
    }
    assert!(compare(source, uri, &corruption::COLUMNS).unwrap().is_equal());
}

#[test]
fn each_corruption_of_a_table_of_postgres_is_found() {
    let server = Postgres::start();
    find_all(&server.uri("t"), Dialect::Postgres, |sql| _ = server.sql(sql));
}

#[test]
fn each_corruption_of_a_table_of_mysql_is_found() {
    let server = MariaDb::start();
    find_all(&server.uri("t"), Dialect::MySql, |sql| _ = server.sql(sql));
}
