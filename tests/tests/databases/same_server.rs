//! Source and target in one database.

use super::*;

/// Other ways to write the table `t` of a server's URI.
fn spellings(uri: &str, schema: &str) -> Vec<String> {
    let (database, _) = uri.split_once('#').unwrap();
    let qualified = format!("{database}#{schema}.t");
    vec![qualified.clone(), qualified.replace("127.0.0.1", "localhost"), uri.replace("127.0.0.1", "localhost")]
}

#[test]
fn a_table_is_not_copied_into_itself_whatever_it_is_called() {
    let postgres = Postgres::start();
    let mysql = MariaDb::start();
    postgres.sql("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    mysql.sql("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1), (2)");
    let refused = |uri: &str, schema: &str| {
        for other in spellings(uri, schema) {
            for mode in [LoadMode::Append, LoadMode::Replace, LoadMode::Merge] {
                let run = |source: &str, target: &str| {
                    Copy { mode, keys: if mode == LoadMode::Merge { &["id"] } else { &[] }, ..Copy::default() }
                        .run(source, target)
                };
                for error in [run(uri, &other).unwrap_err(), run(&other, uri).unwrap_err()] {
                    assert_eq!(error.message(), "source and target are the same table", "{other} {mode:?} {error}");
                }
            }
        }
    };
    refused(&postgres.uri("t"), "public");
    refused(&mysql.uri("t"), "test");
    assert_eq!(postgres.sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t"), "1 2");
    assert_eq!(mysql.sql("SELECT group_concat(id ORDER BY id) FROM t"), "1,2");
    // A plan says so too, and a table of that name elsewhere is another one.
    let other = spellings(&postgres.uri("t"), "public").remove(0);
    let planned = block_on(async {
        let (source, target, options) = (Uri::new(postgres.uri("t")), Uri::new(&other), OptionMap::new());
        let builder = pipeline(&registry(), (&source, &options), (&target, &options))?.mode(LoadMode::Append);
        builder.build()?.plan().await.map(drop)
    });
    assert_eq!(planned.unwrap_err().message(), "source and target are the same table");
    postgres.sql("CREATE SCHEMA s; CREATE TABLE s.t (id bigint)");
    mysql.sql("CREATE DATABASE s; CREATE TABLE s.t (id bigint)");
    copy(&postgres.uri("t"), &postgres.uri("s.t"), LoadMode::Append).unwrap();
    copy(&mysql.uri("t"), &mysql.uri("s.t"), LoadMode::Append).unwrap();
    assert_eq!(postgres.sql("SELECT count(*) FROM s.t"), "2");
    assert_eq!(mysql.sql("SELECT count(*) FROM s.t"), "2");
    assert_eq!((postgres.left_over(), mysql.left_over()), (String::new(), String::new()));
}

#[test]
fn a_query_over_the_target_may_replace_it() {
    let postgres = Postgres::start();
    let mysql = MariaDb::start();
    let make = "CREATE TABLE t (id bigint, n bigint); INSERT INTO t VALUES (1, 10), (2, 20), (3, 30)";
    postgres.sql(make);
    mysql.sql(make);
    let options = [("query", "SELECT id, n + 1 AS n FROM t WHERE id > 1")];
    let limit = [("lock_timeout", "5")];
    for (source, target) in [(postgres.uri(""), postgres.uri("t")), (mysql.uri(""), mysql.uri("t"))] {
        let replace =
            Copy { mode: LoadMode::Replace, source_options: &options, target_options: &limit, ..Copy::default() };
        replace.run(&source, &target).unwrap();
    }
    assert_eq!(postgres.sql("SELECT * FROM t ORDER BY 1"), "2|21\n3|31");
    assert_eq!(mysql.sql("SELECT * FROM t ORDER BY 1"), "2\t21\n3\t31");
}
