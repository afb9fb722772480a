//! SQL of the user's own before and after a load, and tables of SQLite that are strict.

use super::*;

/// One row in a file, into table `t` of a server of each kind.
fn each_kind(test: impl Fn(&str, &dyn Fn(&str, &[(&str, &str)]) -> Result<RunReport>, &dyn Fn(&str) -> String)) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("in.csv");
    std::fs::write(&source, "id\n1\n").unwrap();
    let source = source.to_str().unwrap();
    let copy = |uri: &str, table: &str, options: &[(&str, &str)]| {
        Copy { target_options: options, mode: LoadMode::Append, ..Copy::default() }
            .run(source, &format!("{uri}#{table}"))
    };
    let server = Postgres::start();
    test("postgres", &|table, options| copy(&server.uri(""), table, options), &|sql| server.sql(sql));
    let server = MariaDb::start();
    test("mysql", &|table, options| copy(&server.uri(""), table, options), &|sql| server.sql(sql));
    let file = folder.path().join("t.db");
    let ask = |sql: &str| {
        let connection = rusqlite::Connection::open(&file).unwrap();
        if !sql.starts_with("SELECT") {
            connection.execute_batch(sql).unwrap();
            return String::new();
        }
        let found = connection.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
        match found {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        }
    };
    test("sqlite", &|table, options| copy(&format!("sqlite:{}", file.display()), table, options), &ask);
}

#[test]
fn sql_is_run_before_and_after_a_load() {
    each_kind(|kind, copy, sql| {
        let before = "CREATE TABLE t (id bigint); INSERT INTO t VALUES (5); CREATE TABLE seen (n bigint)";
        let after = "INSERT INTO seen SELECT count(*) FROM t; UPDATE t SET id = id + 100 WHERE id = 5";
        copy("t", &[("pre_sql", before), ("post_sql", after)]).unwrap();
        assert_eq!(sql("SELECT n FROM seen"), "2", "{kind}");
        assert_eq!(sql("SELECT sum(id) FROM t"), "106", "{kind}");

        // What fails before leaves all as it was, and what fails after, too, where that is one transaction.
        let error = copy("t", &[("pre_sql", "DELETE FROM nowhere")]).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("pre_sql"), "{error}");
        assert_eq!(sql("SELECT count(*) FROM t"), "2", "{kind}");
        let error = copy("t", &[("post_sql", "DELETE FROM seen; DELETE FROM nowhere")]).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("post_sql"), "{error}");
        let (rows, seen) = if kind == "mysql" { ("3", "0") } else { ("2", "1") };
        assert_eq!(
            (sql("SELECT count(*) FROM t").as_str(), sql("SELECT count(*) FROM seen").as_str()),
            (rows, seen),
            "{kind}"
        );
        assert_eq!(error.contains("the rows are published"), kind == "mysql", "{error}");
        if kind == "postgres" {
            // Runs in no transaction with anything else.
            copy("t", &[("pre_sql", "VACUUM t")]).unwrap();
        }
        // What is not published has nothing after it.
        sql("CREATE TABLE checked (id bigint CHECK (id > 1))");
        let seen = sql("SELECT count(*) FROM seen");
        copy("checked", &[("post_sql", "INSERT INTO seen VALUES (99)")]).unwrap_err();
        assert_eq!(sql("SELECT count(*) FROM seen"), seen, "{kind}");
        if kind != "mysql" {
            let error = copy("t", &[("post_sql", "COMMIT")]).unwrap_err().to_string();
            assert!(error.contains("post_sql ended the transaction"), "{error}");
        }
    });
}

#[test]
fn strict_tables_hold_the_values_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("in.csv");
    std::fs::write(
        &source,
        "b,i,f,t,d,ts,dec,day\ntrue,9223372036854775807,0.1,it's,2024-02-29,2024-02-29 12:00:00.5,123.45,x\n,,,,,,,\n",
    )
    .unwrap();
    let target = format!("sqlite:{}#t", folder.path().join("t.db").display());
    let types = [("types", "b:bool,i:int64,f:float64,t:text,d:date,ts:timestamp,dec:decimal(10,2)")];
    for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
        let copy = Copy { mode, source_options: &types, target_options: &[("strict", "true")], ..Copy::default() };
        copy.run(source.to_str().unwrap(), &target).unwrap();
    }
    let connection = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    let ddl: String =
        connection.query_row("SELECT sql FROM sqlite_master WHERE name = 't'", [], |row| row.get(0)).unwrap();
    assert!(ddl.ends_with("STRICT"), "{ddl}");
    let row: String = connection
        .query_row(
            "SELECT group_concat(quote(b) || quote(i) || quote(f) || quote(t) || quote(d) || quote(ts) || quote(dec), ';') FROM t",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(
        row,
        "192233720368547758070.1'it''s''2024-02-29''2024-02-29 12:00:00.500000''123.45';NULLNULLNULLNULLNULLNULLNULL"
    );
}

/// A server of each kind with a table `t`, given by the URI and by what runs SQL there.
fn each_source(columns: &str, test: impl Fn(&str, &str, &dyn Fn(&str))) {
    let create = format!("CREATE TABLE t ({columns})");
    let server = Postgres::start();
    server.sql(&create);
    test("postgres", &server.uri("t"), &|sql| _ = server.sql(sql));
    let server = MariaDb::start();
    server.sql(&create);
    test("mysql", &server.uri("t"), &|sql| _ = server.sql(sql));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.db");
    let run = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    run(&create);
    test("sqlite", &format!("sqlite:{}#t", file.display()), &run);
}

#[test]
fn what_is_new_is_read_by_a_cursor() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.csv");
    let read = |uri: &str, options: &[(&str, &str)]| -> Result<(String, Option<String>)> {
        let copy = Copy { mode: LoadMode::Replace, source_options: options, partitions: Some(3), ..Copy::default() };
        let report = copy.run(uri, file.to_str().unwrap())?;
        let text = std::fs::read_to_string(&file).unwrap();
        let mut ids: Vec<_> = text.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect();
        ids.sort_by_key(|id| id.parse::<i64>().unwrap());
        Ok((ids.join(" "), report.cursor))
    };
    each_source("id int PRIMARY KEY, at timestamp NULL, name varchar(9)", |kind, uri, sql| {
        sql("INSERT INTO t VALUES (1, '2024-01-01 00:00:00', 'a'), (2, '2024-01-02 00:00:00', 'b'), (3, NULL, 'c')");
        let (ids, by_id) = read(uri, &[("cursor", "id")]).unwrap();
        assert_eq!((ids.as_str(), by_id.as_deref()), ("1 2 3", Some("3")), "{kind}");
        let (ids, by_time) = read(uri, &[("cursor", "at")]).unwrap();
        assert_eq!(ids, "1 2", "{kind}");
        let by_time = by_time.unwrap();
        assert!(by_time.starts_with("2024-01-02"), "{kind}: {by_time}");
        // Nothing is new.
        for (cursor, after) in [("id", "3"), ("at", by_time.as_str())] {
            let (ids, again) = read(uri, &[("cursor", cursor), ("cursor_after", after)]).unwrap();
            assert_eq!((ids.as_str(), again.as_deref()), ("", Some(after)), "{kind}");
        }
        sql("INSERT INTO t VALUES (4, '2024-01-03 00:00:00', 'd'), (5, '2024-01-01 12:00:00', 'late')");
        assert_eq!(
            read(uri, &[("cursor", "id"), ("cursor_after", "3")]).unwrap(),
            ("4 5".into(), Some("5".into())),
            "{kind}"
        );
        assert_eq!(read(uri, &[("cursor", "at"), ("cursor_after", &by_time)]).unwrap().0, "4", "{kind}");
        assert_eq!(
            read(uri, &[("cursor", "id"), ("cursor_after", "5"), ("cursor_lag", "2")]).unwrap().0,
            "3 4 5",
            "{kind}"
        );
        let lagging = [("cursor", "at"), ("cursor_after", by_time.as_str()), ("cursor_lag", "43200")];
        assert_eq!(read(uri, &lagging).unwrap().0, "2 4 5", "{kind}");
        for (options, said) in [
            (&[("cursor", "nothing")][..], "nothing"),
            (&[("cursor", "id"), ("cursor_after", "x' OR 1=1")], "cursor_after is no value"),
            (&[("cursor", "name"), ("cursor_after", "a"), ("cursor_lag", "1")], "cannot be a cursor with a lag"),
            (&[("cursor_after", "3")], "without a cursor"),
        ] {
            let error = read(uri, options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{kind}: {error}");
            assert!(error.to_string().contains(said), "{kind}: {error}");
        }
    });
}

#[test]
fn databases_of_any_kind_are_read_and_written_by_one_name() {
    each_source("id int PRIMARY KEY, name varchar(9)", |kind, uri, sql| {
        let rows: Vec<_> = (0..1000).map(|id| format!("({id}, 'n{id}')")).collect();
        sql(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
        let url = uri.strip_suffix("#t").unwrap();
        block_on(async {
            let pool = DatabasePool::connect_lazy(url).unwrap();
            let cx = RunContext::new(PerformanceConfig::default());
            let extractor =
                DatabaseExtractor::new(pool.clone()).table("t").with_fetch_size(64).with_parallel_queries(1);
            let scan = extractor.scan(&cx, &ScanRequest::all().partitions(3)).await.unwrap();
            assert_eq!(scan.max_readers(), 1, "{kind}");
            let mut found = 0;
            for partition in scan.partitions() {
                let mut batches = scan.read(&cx, partition).unwrap();
                while let Some(batch) = futures(&mut batches).await {
                    let rows = batch.unwrap().num_rows();
                    assert!(rows <= 64, "{kind}: {rows}");
                    found += rows;
                }
            }
            assert_eq!(found, 1000, "{kind}");
            drop(scan);
            // Two runs share one connection for writing.
            let config = PerformanceConfig { max_threads: 3, ..PerformanceConfig::default() };
            let batch_size = 7;
            let loader =
                |table: &str| BatchLoader::new(pool.clone(), table).with_batch_size(batch_size).with_max_connections(1);
            let shared = loader("one");
            let run = |loader: BatchLoader, mode| {
                let source = DatabaseExtractor::new(pool.clone()).table("t").with_prepared_statements(kind == "mysql");
                let pipeline = PipelineBuilder::new().extract(source).load(loader).config(config.clone());
                pipeline.mode(mode).verify(Verify::Full).build().unwrap()
            };
            if kind != "sqlite" {
                let (one, again) = (run(shared.clone(), LoadMode::Create), run(shared, LoadMode::Replace));
                assert_eq!(one.execute().await.unwrap().load.records_loaded, 1000, "{kind}");
                assert_eq!(again.execute().await.unwrap().load.records_loaded, 1000, "{kind}");
            }
        });
        for wrong in ["oracle://h/db", "nothing"] {
            assert_eq!(DatabasePool::connect_lazy(wrong).unwrap_err().kind(), ErrorKind::InvalidConfig, "{wrong}");
        }
    });
}

async fn futures(batches: &mut BatchStream) -> Option<Result<arrow_array::RecordBatch>> {
    std::future::poll_fn(|cx| batches.as_mut().poll_next(cx)).await
}

#[test]
fn all_tables_of_a_database_are_copied_at_once() {
    const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        etlrs_tests::Ran::of(&etlrs_tests::etlrs(PROGRAM, folder.path(), arguments).output().unwrap())
    };
    each_source("id int PRIMARY KEY", |kind, uri, sql| {
        let quote = if kind == "mysql" { '`' } else { '"' };
        let odd = format!("{quote}a/b.c{quote}");
        sql("INSERT INTO t VALUES (1), (2)");
        sql(&format!(
            "CREATE TABLE {odd} (n int); INSERT INTO {odd} VALUES (5); CREATE TABLE other (n int); CREATE VIEW tv AS SELECT * FROM t"
        ));
        let url = uri.strip_suffix("#t").unwrap();
        let _ = std::fs::remove_dir_all(folder.path().join("backup"));
        std::fs::create_dir(folder.path().join("backup")).unwrap();
        let ran = run(&["copy", &format!("{url}#*"), "backup/*.parquet", "--no-progress"]);
        assert_eq!(ran.code, 0, "{kind}: {ran:?}");
        let mut files: Vec<_> = std::fs::read_dir(folder.path().join("backup"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["a%2fb.c.parquet", "other.parquet", "t.parquet"], "{kind}");
        // Into a database, and from there into the first one under other names.
        let target = format!("sqlite:{kind}.db#*");
        let ran = run(&["copy", &format!("{url}#?"), &target, "--no-progress", "--output", "json"]);
        assert_eq!(ran.code, 0, "{kind}: {ran:?}");
        let ran = run(&["copy", &format!("{url}#*"), &target, "--mode", "replace", "--no-progress"]);
        assert_eq!(ran.code, 0, "{kind}: {ran:?}");
        let connection = rusqlite::Connection::open(folder.path().join(format!("{kind}.db"))).unwrap();
        let found: String = connection
            .query_row(
                "SELECT (SELECT count(*) FROM t) || (SELECT n FROM \"a/b.c\") || (SELECT count(*) FROM other)",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(found, "250", "{kind}");
        let ran = run(&["copy", &format!("sqlite:{kind}.db#*"), &format!("{url}#copy_of_*"), "--no-progress"]);
        assert!(ran.code == 0 || kind == "sqlite", "{kind}: {ran:?}");
        for (source, target, said) in [
            (format!("{url}#none*"), "backup/*.parquet", "no table matches none*"),
            (format!("{url}#*"), "backup.parquet", "no * for the names"),
        ] {
            let ran = run(&["copy", &source, target]);
            assert!(ran.code != 0 && ran.stderr.contains(said), "{kind}: {ran:?}");
        }
    });
}

#[test]
fn a_query_is_read_and_nothing_else_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.csv");
    each_source("id int PRIMARY KEY, name varchar(9)", |kind, uri, sql| {
        sql("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, NULL)");
        let url = uri.strip_suffix("#t").unwrap();
        let read = |query: &str| {
            let options = [("query", query)];
            let copy = Copy { mode: LoadMode::Replace, source_options: &options, ..Copy::default() };
            copy.run(url, file.to_str().unwrap()).map(|_| std::fs::read_to_string(&file).unwrap())
        };
        let text = read("SELECT id * 2 AS twice, name FROM t WHERE id > 1 ORDER BY id DESC -- all;").unwrap();
        assert_eq!(text, "twice,name\n6,\n4,b\n", "{kind}");
        for query in [
            "SELECT 1; DROP TABLE t",
            "SELECT nothing FROM t",
            "DELETE FROM t",
            "SELEC 1",
            "SELECT 1) x; DROP TABLE t; SELECT (1",
        ] {
            let error = read(query).unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::NotFound),
                "{kind} {query}: {:?} {error}",
                error.kind()
            );
        }
        assert_eq!(read("SELECT count(*) AS n FROM t").unwrap(), "n\n3\n", "{kind}");
        // SQLite makes names of its own that differ.
        let twice = read("SELECT 1 AS id, 2 AS id");
        assert_eq!(twice.is_ok(), kind == "sqlite", "{kind}: {twice:?}");
        let folder = file.parent().unwrap();
        let inspect = ["inspect", url, "--query", "SELECT 7 AS seven"];
        let ran = etlrs_tests::Ran::of(
            &etlrs_tests::etlrs(env!("CARGO_BIN_EXE_etlrs-under-test"), folder, &inspect).output().unwrap(),
        );
        assert!(ran.code == 0 && ran.stdout.contains("seven"), "{kind}: {ran:?}");
    });
}

#[test]
fn a_hash_in_the_name_of_a_table_is_written_as_in_any_url() {
    let databases = crate::keys::Databases::with("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (2)");
    for (source, target) in databases.sources("t").iter().zip(databases.targets("a%23b")) {
        copy(source, &target, LoadMode::Create).unwrap();
        assert_eq!(copy(&target, source, LoadMode::Append).unwrap().rows_read, 2);
    }
    assert_eq!(databases.postgres.sql("SELECT count(*) FROM \"a#b\""), "2");
    assert_eq!(databases.mysql.sql("SELECT count(*) FROM `a#b`"), "2");
    // A name that has the %23 itself is another one.
    for target in databases.targets("a%2523b") {
        copy(&databases.postgres.uri("t"), &target, LoadMode::Create).unwrap();
    }
    assert_eq!(databases.postgres.sql("SELECT count(*) FROM \"a%23b\""), "4");
    // Where many are copied, too.
    let folder = tempfile::tempdir().unwrap();
    for (at, source) in databases.targets("a*").iter().enumerate() {
        let target = format!("sqlite:all.db#{at} *");
        let program = env!("CARGO_BIN_EXE_etlrs-under-test");
        let ran = etlrs_tests::etlrs(program, folder.path(), &["copy", source, &target]).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    }
    let database = rusqlite::Connection::open(folder.path().join("all.db")).unwrap();
    for at in 0..3 {
        let sql = format!("SELECT count(*) FROM \"{at} a#b\"");
        assert_eq!(database.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
        let sql = format!("SELECT count(*) FROM \"{at} a%23b\"");
        assert_eq!(database.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap(), 4);
    }
}

#[test]
fn tables_are_listed_where_none_is_named() {
    each_source("id int", |kind, uri, sql| {
        sql("CREATE TABLE other (id int)");
        sql("CREATE VIEW view_of_t AS SELECT * FROM t");
        if kind == "sqlite" {
            sql("CREATE VIRTUAL TABLE words USING fts5(w)");
        }
        let database = uri.strip_suffix("#t").unwrap();
        let inspect = |uri: &str, more: &[&str]| {
            let program = env!("CARGO_BIN_EXE_etlrs-under-test");
            let folder = tempfile::tempdir().unwrap();
            let args = [&["inspect", uri][..], more].concat();
            etlrs_tests::Ran::of(&etlrs_tests::etlrs(program, folder.path(), &args).output().unwrap())
        };
        let listed = |uri: &str| {
            let ran = inspect(uri, &[]);
            assert_eq!(ran.code, 0, "{ran:?}");
            let names = ran.stdout.lines().skip(3).map(|line| line.rsplit('#').next().unwrap().to_owned());
            names.collect::<Vec<_>>().join(" ")
        };
        let all = if kind == "sqlite" { "other t words" } else { "other t" };
        assert_eq!(listed(database), all);
        assert_eq!(listed(&format!("{database}#")), all);
        assert_eq!(listed(&format!("{database}#o*")), "other");
        assert_eq!(listed(&format!("{database}#x*")), "");
        let one = inspect(&format!("{database}#t"), &[]);
        assert!(one.stdout.contains("1 column"), "{one:?}");
        let json = inspect(database, &["--output", "json"]).json();
        assert_eq!(json["tables"].as_array().unwrap().len(), all.split(' ').count());
    });
}
