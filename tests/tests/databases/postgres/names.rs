//! Strings of all kinds as values, and as names of tables and columns.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::*;

#[test]
fn naughty_strings_are_values_like_others() {
    let Some(strings) = naughty_strings() else { return };
    let server = Postgres::start();
    server.sql("CREATE TABLE canary AS SELECT 1 AS alive; CREATE TABLE t (id int, text text)");
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<_> = strings.iter().enumerate().map(|(id, text)| format!("({id}, {})", quoted(text))).collect();
    server.sql(&format!("INSERT INTO t VALUES {}", rows.join(",\n")));
    let (csv, parquet) = (folder.path().join("t.csv"), folder.path().join("t.parquet"));
    copy(&server.uri("t"), csv.to_str().unwrap(), LoadMode::Create).unwrap();
    let types = [("types", "id:int32,text:text"), ("null_values", "NOTHING")];
    Copy { source_options: &types, ..Copy::default() }.run(csv.to_str().unwrap(), parquet.to_str().unwrap()).unwrap();
    copy(&server.uri("t"), &server.uri("direct"), LoadMode::Create).unwrap();
    assert_eq!(server.sql("SELECT * FROM t EXCEPT SELECT * FROM direct"), "");
    assert_eq!(server.sql("SELECT * FROM direct EXCEPT SELECT * FROM t"), "");
    assert_eq!(server.sql("SELECT * FROM canary"), "1");
}

fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[test]
fn naughty_strings_are_names_like_others_or_are_refused() {
    let Some(strings) = naughty_strings() else { return };
    let server = Postgres::start();
    server.sql("CREATE TABLE canary AS SELECT 1 AS alive");
    let pool = PostgresPool::connect_lazy(&server.uri("")).unwrap();
    let config = PerformanceConfig { max_threads: 1, ..PerformanceConfig::default() };
    // Connections belong to the runtime that opened them.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (made, refused) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let create = |text: &str| {
        let name = format!("\"{}\"", text.replace('"', "\"\""));
        let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new(text, DataType::Int64, true)]);
        let values = Arc::new(arrow_array::Int64Array::from(vec![7]));
        let batch = arrow_array::RecordBatch::try_new(Arc::new(schema), vec![values]).unwrap();
        let source = MemoryExtractor::new(batch.schema(), vec![batch.clone()]);
        let copied = PostgresLoader::new(pool.clone(), &name).and_then(|loader| {
            let pipeline = PipelineBuilder::new().extract(source).load(loader).config(config.clone());
            let pipeline = pipeline.mode(LoadMode::Replace).build()?;
            runtime.handle().block_on(async { pipeline.execute().await })
        });
        match copied {
            Ok(_) => made.lock().unwrap().push(name),
            Err(error) => {
                let said = error.to_string();
                assert!(text.is_empty() || text.len() > 63, "{text:?}: {said}");
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{said}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let mut strings = strings;
    strings.sort();
    strings.dedup();
    std::thread::scope(|scope| {
        for share in strings.chunks(strings.len().div_ceil(8)) {
            scope.spawn(|| share.iter().for_each(|text| create(text)));
        }
    });
    let (made, refused) = (made.into_inner().unwrap(), refused.into_inner());
    drop((pool, runtime));
    let sql: String = made.iter().map(|name| format!("SELECT {name} FROM {name};\n")).collect();
    assert!(server.sql(&sql).lines().eq(made.iter().map(|_| "7")));
    assert_eq!(server.sql("SELECT * FROM canary"), "1");
    assert_eq!(server.left_over(), "");
    let made = made.len();
    assert!(made > 300 && refused > 50, "{made} {refused}");
}
