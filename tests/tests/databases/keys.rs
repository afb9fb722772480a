//! The primary key of a source, and what becomes of it.

use super::*;

/// A database of each kind, with the same table.
pub(crate) struct Databases {
    pub(crate) postgres: Postgres,
    pub(crate) mysql: MariaDb,
    folder: tempfile::TempDir,
}

impl Databases {
    /// With what this SQL makes.
    pub(crate) fn with(sql: &str) -> Self {
        let databases =
            Self { postgres: Postgres::start(), mysql: MariaDb::start(), folder: tempfile::tempdir().unwrap() };
        databases.postgres.sql(sql);
        databases.mysql.sql(sql);
        databases.sqlite().execute_batch(sql).unwrap();
        databases
    }

    fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.folder.path().join("a.db")).unwrap()
    }

    /// A table of that name in each.
    pub(crate) fn sources(&self, table: &str) -> [String; 3] {
        let file = self.folder.path().join("a.db");
        [self.postgres.uri(table), self.mysql.uri(table), format!("sqlite:{}#{table}", file.display())]
    }

    /// A table of that name in each, SQLite's in another file, for one is not copied into itself.
    pub(crate) fn targets(&self, table: &str) -> [String; 3] {
        let file = self.folder.path().join("b.db");
        [self.postgres.uri(table), self.mysql.uri(table), format!("sqlite:{}#{table}", file.display())]
    }

    /// The columns of the primary key of that table in each target, and those that may be null.
    fn keys(&self, table: &str) -> [String; 3] {
        let postgres = self.postgres.sql(&format!(
            "SELECT (SELECT string_agg(attname, ',' ORDER BY n) FROM pg_index, unnest(indkey::int2[]) WITH ORDINALITY k(a, n),
                pg_attribute WHERE indrelid = '{table}'::regclass AND indisprimary AND attrelid = indrelid AND attnum = a),
                (SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
                    WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attnotnull)"
        ));
        let mysql = self.mysql.sql(&format!(
            "SELECT concat(coalesce((SELECT group_concat(COLUMN_NAME ORDER BY SEQ_IN_INDEX) FROM information_schema.STATISTICS
                WHERE TABLE_NAME = '{table}' AND INDEX_NAME = 'PRIMARY'), ''), '|',
                (SELECT group_concat(COLUMN_NAME ORDER BY ORDINAL_POSITION) FROM information_schema.COLUMNS
                    WHERE TABLE_NAME = '{table}' AND IS_NULLABLE = 'YES'))"
        ));
        let sql = format!(
            "SELECT coalesce((SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info('{table}') WHERE pk ORDER BY pk)), '')
                || '|' || (SELECT group_concat(name) FROM pragma_table_info('{table}') WHERE NOT \"notnull\")"
        );
        let sqlite = rusqlite::Connection::open(self.folder.path().join("b.db")).unwrap();
        let sqlite = sqlite.query_row(&sql, [], |row| row.get(0)).unwrap();
        [postgres, mysql, sqlite]
    }
}

#[test]
fn a_table_that_is_made_gets_the_primary_key_of_the_source() {
    let databases = Databases::with(
        "CREATE TABLE t (x varchar(10), b varchar(20) NOT NULL, a int NOT NULL, PRIMARY KEY (a, b));
         INSERT INTO t VALUES ('x', 'one', 1), (NULL, 'two', 1), ('x', 'one', 2);
         CREATE TABLE n (x varchar(10), id integer NOT NULL PRIMARY KEY);
         INSERT INTO n VALUES ('x', 7), ('y', -3), ('z', 2147483647), (NULL, 0)",
    );
    for (from, source) in ["postgres", "mysql", "sqlite"].into_iter().zip(databases.sources("t")) {
        let table = format!("t_{from}");
        for target in databases.targets(&table) {
            Copy { partitions: Some(3), ..Copy::default() }.run(&source, &target).unwrap();
        }
        assert_eq!(databases.keys(&table), ["a,b|x", "a,b|x", "a,b|x"], "{from}");
    }
    for (from, source) in ["postgres", "mysql", "sqlite"].into_iter().zip(databases.sources("n")) {
        let table = format!("n_{from}");
        for target in databases.targets(&table) {
            Copy { partitions: Some(3), ..Copy::default() }.run(&source, &target).unwrap();
        }
        assert_eq!(databases.keys(&table), ["id|x", "id|x", "id|x"], "{from}");
    }
    // Neither without a column of it, nor when the user wants none.
    let source = databases.postgres.uri("t");
    for target in databases.targets("part") {
        Copy { columns: Some(&["b", "x"]), ..Copy::default() }.run(&source, &target).unwrap();
    }
    assert_eq!(databases.keys("part"), ["|x", "|x", "|x"]);
    for target in databases.targets("plain") {
        Copy { target_options: &[("primary_key", "false")], ..Copy::default() }.run(&source, &target).unwrap();
    }
    assert_eq!(databases.keys("plain"), ["|x", "|x", "|x"]);
    assert_eq!((databases.postgres.left_over(), databases.mysql.left_over()), (String::new(), String::new()));
}

#[test]
fn keys_go_through_filters_and_new_names_and_no_further() {
    let databases = Databases::with(
        "CREATE TABLE t (id bigint NOT NULL PRIMARY KEY, x bigint); INSERT INTO t VALUES (1, 1), (2, 2), (3, 1)",
    );
    let source = Uri::new(databases.postgres.uri("t"));
    let copy = |table: &str, transformers: Vec<Box<dyn Fn(PipelineBuilder) -> PipelineBuilder>>| {
        for target in databases.targets(table) {
            let (target, options) = (Uri::new(target), OptionMap::new());
            block_on(async {
                let mut builder = pipeline(&registry(), (&source, &options), (&target, &options)).unwrap();
                for add in &transformers {
                    builder = add(builder);
                }
                builder.build().unwrap().execute().await.unwrap();
            });
        }
        databases.keys(table)
    };
    let filter = || Filter::new(Expr::parse("x = 1").unwrap());
    let kept = copy(
        "kept",
        vec![Box::new(move |b| b.transform(filter())), Box::new(|b| b.transform(Rename::new([("id", "key")])))],
    );
    assert_eq!(kept, ["key|x", "key|x", "key|x"]);
    // The values are others.
    let derived = copy("derived", vec![Box::new(|b| b.transform(Derive::new("id", Expr::parse("x").unwrap())))]);
    assert_eq!(derived, ["|id,x", "|id,x", "|id,x"]);
    // Another column of that name.
    let other = copy(
        "other",
        vec![
            Box::new(|b| b.transform(DropColumns::new(["id"]))),
            Box::new(|b| b.transform(Rename::new([("x", "id")]))),
        ],
    );
    assert_eq!(other, ["|id", "|id", "|id"]);
}

#[test]
fn what_is_no_key_of_all_rows_is_not_taken_for_one() {
    let databases = Databases::with("SELECT 1");
    // Children have rows of their own, whose keys may be the same.
    databases.postgres.sql(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c () INHERITS (p); INSERT INTO p VALUES (1); INSERT INTO c VALUES (1);
         CREATE TABLE d (id int, PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    // A key that is not the rowid may be null.
    databases
        .sqlite()
        .execute_batch(
            "CREATE TABLE quirk (id INTEGER PRIMARY KEY DESC); INSERT INTO quirk VALUES (1), (NULL), (NULL);
         CREATE TABLE text (id text PRIMARY KEY); INSERT INTO text VALUES ('a'), (NULL), (NULL);
         CREATE TABLE stored (id text PRIMARY KEY, x int) WITHOUT ROWID; INSERT INTO stored VALUES ('a', 1)",
        )
        .unwrap();
    let sources = [databases.postgres.uri("p"), databases.postgres.uri("d")]
        .into_iter()
        .chain(["quirk", "text", "stored"].map(|table| databases.sources(table)[2].clone()));
    for (source, (table, expected)) in
        sources.zip([("p", "|id"), ("d", "|"), ("quirk", "|id"), ("text", "|id"), ("stored", "id|x")])
    {
        let target = databases.postgres.uri(&format!("{table}_copy"));
        copy(&source, &target, LoadMode::Create).unwrap();
        assert_eq!(databases.postgres.sql(&format!(
            "SELECT (SELECT string_agg(attname, ',') FROM pg_index, pg_attribute WHERE indrelid = '{table}_copy'::regclass
                AND attrelid = indrelid AND attnum = ANY (indkey)),
                (SELECT string_agg(attname, ',') FROM pg_attribute WHERE attrelid = '{table}_copy'::regclass
                    AND attnum > 0 AND NOT attnotnull)"
        )), expected, "{table}");
    }
}
