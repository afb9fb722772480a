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

#[test]
fn a_key_of_another_type_names_the_same_rows() {
    let server = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("s.csv");
    let rows: String = (1..=900).map(|id| format!("{id},{}\n", id * 2)).collect();
    std::fs::write(&source, format!("id,x\n{rows}")).unwrap();
    server.sql("CREATE TABLE t (id numeric(12,2) PRIMARY KEY, x bigint)");
    let (source, target) = (Uri::from(source.to_str().unwrap()), Uri::from(server.uri("t").as_str()));
    copy(&source.to_string(), &target.to_string(), LoadMode::Append).unwrap();
    server.sql("UPDATE t SET x = 0 WHERE id = 7; DELETE FROM t WHERE id = 8");
    let (registry, none) = (registry(), OptionMap::new());
    block_on(async {
        let pipeline = pipeline(&registry, (&source, &none), (&target, &none))?.build()?;
        let target = registry.find(&target)?.extractor(&target, &none)?;
        let found = pipeline.compare(target.clone(), &CompareOptions::default()).await?;
        assert_eq!([found.missing, found.changed, found.unexpected], [1, 1, 0], "{found:?}");
        assert_eq!(found.keys, ["id"]);
        let report = pipeline.repair(&found, Unexpected::Keep).await?;
        assert_eq!(report.load.records_loaded, 2);
        assert!(pipeline.compare(target, &CompareOptions::default()).await?.is_equal());
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(server.sql("SELECT x FROM t WHERE id IN (7, 8) ORDER BY id"), "14\n16");
}
