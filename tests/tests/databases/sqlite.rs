//! SQLite, where others look on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;

#[test]
fn readers_of_a_replaced_table_see_the_old_rows_or_the_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = |rows: usize| {
        let path = folder.path().join(format!("{rows}.csv"));
        let lines: String = (0..rows).map(|id| format!("{id},{rows}\n")).collect();
        std::fs::write(&path, format!("id,version\n{lines}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = [file(3000), file(5000)];
    for journal in ["delete", "wal"] {
        let database = folder.path().join(format!("{journal}.db"));
        let target = format!("sqlite:{}#t", database.display());
        copy(&files[0], &target, LoadMode::Create).unwrap();
        rusqlite::Connection::open(&database).unwrap().pragma_update(None, "journal_mode", journal).unwrap();
        let done = AtomicBool::new(false);
        let polls = std::thread::scope(|scope| {
            let poller = scope.spawn(|| {
                let connection = rusqlite::Connection::open(&database).unwrap();
                connection.busy_timeout(Duration::from_secs(30)).unwrap();
                let mut polls = 0;
                while !done.load(Ordering::Relaxed) {
                    let found: (i64, i64, i64) = connection
                        .query_row("SELECT count(*), min(version), max(version) FROM t", [], |row| {
                            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                        })
                        .unwrap();
                    assert!([(3000, 3000, 3000), (5000, 5000, 5000)].contains(&found), "a reader saw {found:?}");
                    polls += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                polls
            });
            let over = Done(&done);
            let options = [("busy_timeout", "30")];
            for round in 1..=20 {
                let replace = Copy { mode: LoadMode::Replace, target_options: &options, ..Copy::default() };
                replace.run(&files[round % 2], &target).unwrap();
            }
            drop(over);
            poller.join().unwrap()
        });
        assert!(polls >= 50, "{journal}: {polls}");
    }
}

#[test]
fn naughty_strings_are_values_and_names_like_others_or_are_refused() {
    let Some(strings) = naughty_strings() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    database.execute_batch("CREATE TABLE canary AS SELECT 1 AS alive; CREATE TABLE t (id int, text text)").unwrap();
    for (id, text) in strings.iter().enumerate() {
        database.execute("INSERT INTO t VALUES (?1, ?2)", (id as i64, text)).unwrap();
    }
    let parquet = folder.path().join("t.parquet").to_str().unwrap().to_owned();
    copy(&format!("sqlite:{}#t", file.display()), &parquet, LoadMode::Create).unwrap();
    copy(&parquet, &format!("sqlite:{}#back", file.display()), LoadMode::Create).unwrap();
    let texts = |sql: &str| {
        let mut statement = database.prepare(sql).unwrap();
        let texts = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        texts.collect::<std::result::Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(texts("SELECT text FROM back ORDER BY id"), strings);

    let config = PerformanceConfig { max_threads: 1, ..PerformanceConfig::default() };
    let (mut made, mut refused) = (Vec::new(), 0);
    block_on(async {
        for text in &strings {
            let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new(text, DataType::Int64, true)]);
            let values = std::sync::Arc::new(arrow_array::Int64Array::from(vec![7]));
            let batch = arrow_array::RecordBatch::try_new(std::sync::Arc::new(schema), vec![values]).unwrap();
            let source = MemoryExtractor::new(batch.schema(), vec![batch.clone()]);
            let pipeline = PipelineBuilder::new().extract(source).load(SqliteLoader::new(&file, text));
            match pipeline.mode(LoadMode::Replace).config(config.clone()).build().unwrap().execute().await {
                Ok(_) => made.push(text.clone()),
                Err(error) => {
                    assert!(text.is_empty() || text.contains('\0'), "{text:?}: {error}");
                    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
                    refused += 1;
                }
            }
        }
    });
    for name in &made {
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        let found: i64 = database.query_row(&format!("SELECT {quoted} FROM {quoted}"), [], |row| row.get(0)).unwrap();
        assert_eq!(found, 7, "{name:?}");
    }
    assert_eq!(texts("SELECT alive || '' FROM canary"), ["1"]);
    assert!(made.len() > 400 && refused > 0, "{} {refused}", made.len());
}

#[test]
fn a_name_in_quotes_is_the_name_as_in_other_databases() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.csv");
    std::fs::write(&file, "a\n1\n").unwrap();
    let file = file.to_str().unwrap();
    let path = folder.path().join("a.db");
    for (fragment, table) in [
        ("\"2024.q1\"", "2024.q1"),
        ("\"a*\"", "a*"),
        ("\"say \"\"hi\"\"\"", "say \"hi\""),
        ("\"half", "\"half"),
        ("\"a\" b \"", "\"a\" b \""),
        ("\"\"\"all\"\"\"", "\"all\""),
    ] {
        let uri = format!("sqlite:{}#{fragment}", path.display());
        copy(file, &uri, LoadMode::Create).unwrap();
        assert_eq!(copy(&uri, file, LoadMode::Replace).unwrap().rows_read, 1);
        let found: i64 = rusqlite::Connection::open(&path)
            .unwrap()
            .query_row("SELECT count(*) FROM sqlite_master WHERE name = ?1", [table], |row| row.get(0))
            .unwrap();
        assert_eq!(found, 1, "{fragment}");
    }
    // As they are listed they are found.
    let tables =
        block_on(etlrs::list_tables(&registry(), &Uri::new(format!("sqlite:{}", path.display())), &OptionMap::new()));
    for uri in tables.unwrap().unwrap() {
        assert_eq!(copy(uri.expose(), file, LoadMode::Replace).unwrap().rows_read, 1, "{uri}");
    }
}
