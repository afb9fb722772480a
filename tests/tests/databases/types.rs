//! What `docs/type-mapping.md` says, compared with the program.

use arrow_schema::{Field, Schema};

use super::*;

/// Rows of the first table after `heading` in the documentation, without code marks.
fn documented(heading: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(etlrs_tests::root().join("docs/type-mapping.md")).unwrap();
    let (_, section) = page.split_once(heading).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    rows.skip(2).map(cells).collect()
}

/// Compares a table of the types under `heading` with what is read of it, and with what would be made of that at `made_at`.
fn check_source(heading: &str, uri: &str, made_at: &str, create: &dyn Fn(&str)) {
    let rows = documented(heading);
    let columns: Vec<_> = rows.iter().enumerate().map(|(index, row)| format!("c{index} {}", row[0])).collect();
    create(&format!("CREATE TABLE t ({})", columns.join(", ")));
    let uri = Uri::new(uri);
    let options = OptionMap::new();
    let (schema, made) = block_on(async {
        let cx = RunContext::new(PerformanceConfig::default());
        let scan = registry().find(&uri).unwrap().extractor(&uri, &options).unwrap();
        let schema = scan.scan(&cx, &ScanRequest::all()).await.unwrap().schema();
        let target = Uri::new(made_at);
        let loader = registry().find(&target).unwrap().loader(&target, &options).unwrap();
        let plan = LoadPlan::new(schema.clone(), LoadMode::Create, Vec::new());
        (schema, loader.check(&cx, &plan).await.unwrap().column_types)
    });
    for ((row, field), made) in rows.iter().zip(schema.fields()).zip(made) {
        assert_eq!([&row[1], &row[2]], [&type_name(field.data_type()), &made], "{}", row[0]);
    }
    assert!(rows.len() > 15);
}

#[test]
fn types_are_read_and_made_as_documented() {
    let server = Postgres::start();
    check_source("## From PostgreSQL", &server.uri("t"), &server.uri("new"), &|sql| _ = server.sql(sql));
    let server = MariaDb::start();
    check_source("## From MySQL", &server.uri("t"), &server.uri("new"), &|sql| _ = server.sql(sql));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.db");
    let uri = |table: &str| format!("sqlite:{}#{table}", file.display());
    let create = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    check_source("## From SQLite", &uri("t"), &uri("new"), &create);
}

#[test]
fn types_of_arrow_become_what_is_documented() {
    let (postgres, mysql) = (Postgres::start(), MariaDb::start());
    let folder = tempfile::tempdir().unwrap();
    let targets = [postgres.uri("t"), mysql.uri("t"), format!("sqlite:{}#t", folder.path().join("t.db").display())];
    let rows = documented("## Into a database");
    for row in &rows {
        let data_type = parse_type(&row[0]).unwrap();
        let schema = std::sync::Arc::new(Schema::new(vec![Field::new("c", data_type, true)]));
        for (target, expected) in targets.iter().zip(&row[1..]) {
            let target = Uri::new(target.as_str());
            let loader = registry().find(&target).unwrap().loader(&target, &OptionMap::new()).unwrap();
            let plan = LoadPlan::new(schema.clone(), LoadMode::Create, Vec::new());
            let cx = RunContext::new(PerformanceConfig::default());
            let preview = block_on(async { loader.check(&cx, &plan).await });
            let found = preview.map_or_else(|_| "refused".to_owned(), |preview| preview.column_types.concat());
            assert_eq!(&found, expected, "{} into {target}", row[0]);
        }
    }
    assert!(rows.len() >= 19);
}
