//! Keys that are spelled in more than one way.

use super::*;

#[test]
fn a_row_that_a_key_finds_becomes_that_of_the_source_with_its_spelling() {
    let postgres = Postgres::start();
    let mysql = MariaDb::start();
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("a.db");
    let sqlite = rusqlite::Connection::open(&database).unwrap();
    let make = |name: &str, key: &str| {
        format!(
            "CREATE TABLE {name} (k {key} NOT NULL, n bigint, PRIMARY KEY (k)); INSERT INTO {name} VALUES ('AA', 1), ('b', 2)"
        )
    };
    postgres.sql(&format!(
        "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false); {}",
        make("t", "text COLLATE folding")
    ));
    mysql.sql(&make("t", "varchar(20) COLLATE utf8mb4_general_ci"));
    sqlite.execute_batch(&make("t", "text COLLATE NOCASE")).unwrap();
    let (once, twice) = (folder.path().join("once.csv"), folder.path().join("twice.csv"));
    std::fs::write(&once, "k,n\naa,10\nc,30\n").unwrap();
    std::fs::write(&twice, "k,n\nx,10\nX,30\n").unwrap();
    let here = format!("sqlite:{}#t", database.display());
    let targets = [postgres.uri("t"), mysql.uri("t"), here];
    let merge = Copy { mode: LoadMode::Merge, keys: &["k"], ..Copy::default() };
    for target in &targets {
        merge.run(once.to_str().unwrap(), target).unwrap();
        // Neither of two that are one key for the target is lost without a word.
        let error = merge.run(twice.to_str().unwrap(), target).unwrap_err();
        assert!(error.message().starts_with("two keys of the source are one"), "{target}: {error}");
    }
    assert_eq!(postgres.sql("SELECT * FROM t ORDER BY n"), "b|2\naa|10\nc|30");
    assert_eq!(mysql.sql("SELECT * FROM t ORDER BY n"), "b\t2\naa\t10\nc\t30");
    let sql = "SELECT group_concat(k || '|' || n, ' ') FROM (SELECT * FROM t ORDER BY n)";
    let rows: String = sqlite.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, "b|2 aa|10 c|30");
}

#[test]
fn texts_that_are_one_value_of_the_key_are_refused() {
    let server = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.csv");
    let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    for (index, (key, one, other)) in [
        ("char(5)", "ab".to_owned(), "\"ab \"".to_owned()),
        ("uuid", id.to_owned(), id.to_uppercase()),
        ("inet", "10.0.0.1".to_owned(), "10.0.0.1/32".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let table = format!("t{index}");
        server.sql(&format!(
            "CREATE TABLE {table} (k {key} PRIMARY KEY, n bigint); INSERT INTO {table} VALUES ('{one}', 1)"
        ));
        let types = [("types", "k:text")];
        let merge = Copy { mode: LoadMode::Merge, keys: &["k"], source_options: &types, ..Copy::default() };
        std::fs::write(&file, format!("k,n\n{one},10\n{other},30\n")).unwrap();
        let error = merge.run(file.to_str().unwrap(), &server.uri(&table)).unwrap_err();
        assert!(error.message().starts_with("two keys of the source are one"), "{key}: {error}");
        assert_eq!(server.sql(&format!("SELECT n FROM {table}")), "1", "{key}");
        // One row twice is one row.
        std::fs::write(&file, format!("k,n\n{other},10\n{other},30\n")).unwrap();
        merge.run(file.to_str().unwrap(), &server.uri(&table)).unwrap();
        assert_eq!(server.sql(&format!("SELECT n FROM {table}")), "30", "{key}");
    }
}
