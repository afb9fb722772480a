//! Strings of all kinds as values, and as names of tables and columns.

use std::sync::Arc;

use super::*;

#[test]
fn naughty_strings_are_values_like_others() {
    let Some(strings) = naughty_strings() else { return };
    for settings in [&["--local-infile=1"], &["--local-infile=0"]] {
        let server = MariaDb::start_with(settings);
        server.sql("CREATE TABLE canary AS SELECT 1 AS alive; CREATE TABLE t (id int PRIMARY KEY, text text) CHARACTER SET utf8mb4");
        let folder = tempfile::tempdir().unwrap();
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        let rows: Vec<_> = strings.iter().enumerate().map(|(id, text)| format!("({id}, X'{}')", hex(text))).collect();
        server.sql(&format!("INSERT INTO t VALUES {}", rows.join(",\n")));
        let parquet = folder.path().join("t.parquet");
        let parquet = parquet.to_str().unwrap();
        copy(&server.uri("t"), parquet, LoadMode::Create).unwrap();
        copy(parquet, &server.uri("back"), LoadMode::Create).unwrap();
        copy(&server.uri("t"), &server.uri("direct"), LoadMode::Create).unwrap();
        for table in ["back", "direct"] {
            let found = server.sql(&format!("SELECT lower(hex(text)) FROM {table} ORDER BY id"));
            assert!(found.lines().eq(strings.iter().map(|text| hex(text))), "{table}");
        }
        assert_eq!(server.sql("SELECT * FROM canary"), "1");
    }
}

#[test]
fn naughty_strings_are_names_like_others_or_are_refused() {
    let Some(strings) = naughty_strings() else { return };
    let server = MariaDb::start();
    server.sql("CREATE TABLE canary AS SELECT 1 AS alive");
    let pool = MysqlPool::connect_lazy(&server.uri("")).unwrap();
    let config = PerformanceConfig { max_threads: 1, ..PerformanceConfig::default() };
    let (mut made, mut refused) = (Vec::new(), 0);
    block_on(async {
        for text in &strings {
            let name = format!("\"{}\"", text.replace('"', "\"\""));
            let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new(text, DataType::Int64, true)]);
            let values = Arc::new(arrow_array::Int64Array::from(vec![7]));
            let batch = arrow_array::RecordBatch::try_new(Arc::new(schema), vec![values]).unwrap();
            let source = MemoryExtractor::new(batch.schema(), vec![batch.clone()]);
            let copied = async {
                let loader = MysqlLoader::new(pool.clone(), &name)?;
                let pipeline = PipelineBuilder::new().extract(source).load(loader).config(config.clone());
                pipeline.mode(LoadMode::Replace).build()?.execute().await
            };
            match copied.await {
                Ok(_) => made.push(text.clone()),
                Err(error) => {
                    let said = error.to_string();
                    let known = text.is_empty()
                        || text.chars().count() > 64
                        || text.ends_with(' ')
                        || said.contains("too long for a file") && !text.is_ascii()
                        || text.chars().any(|character| character > '\u{ffff}');
                    assert!(known, "{text:?}: {said}");
                    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{said}");
                    refused += 1;
                }
            }
        }
    });
    drop(pool);
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let sql: String = made.iter().map(|name| format!("SELECT {0} FROM {0};\n", quoted(name))).collect();
    assert!(server.sql(&sql).lines().eq(made.iter().map(|_| "7")));
    assert_eq!(server.sql("SELECT * FROM canary"), "1");
    assert_eq!(server.left_over(), "");
    let made = made.len();
    assert!(made > 300 && refused > 50, "{made} {refused}");
}
