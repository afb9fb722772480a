//! Rows that a database refuses: with a quarantine they are set aside, each of them and no other, and all else is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array};
use arrow_schema::{Field, Schema};
use etlrs_tests::random::Random;
use serde_json::Value;

use super::*;

/// A database, with the table `t` and what it refers to.
enum Server {
    Postgres(Postgres),
    Mysql(MariaDb),
    Sqlite(tempfile::TempDir),
}

impl Server {
    fn all() -> [Self; 3] {
        [Self::Postgres(Postgres::start()), Self::Mysql(MariaDb::start()), Self::Sqlite(tempfile::tempdir().unwrap())]
    }

    fn sql(&self, sql: &str) -> String {
        match self {
            Self::Postgres(server) => server.sql(sql).replace('|', " "),
            Self::Mysql(server) => server.sql(sql).replace('\t', " "),
            Self::Sqlite(folder) => {
                let database = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
                if !sql.starts_with("SELECT") {
                    database.execute_batch(sql).unwrap();
                    return String::new();
                }
                let mut query = database.prepare(sql).unwrap();
                let columns = query.column_count();
                let text = |row: &rusqlite::Row<'_>| {
                    let values = (0..columns).map(|index| match row.get::<_, rusqlite::types::Value>(index).unwrap() {
                        rusqlite::types::Value::Integer(value) => value.to_string(),
                        rusqlite::types::Value::Text(value) => value,
                        other => format!("{other:?}"),
                    });
                    Ok(values.collect::<Vec<_>>().join(" "))
                };
                query.query_map([], text).unwrap().map(std::result::Result::unwrap).collect::<Vec<_>>().join("\n")
            }
        }
    }

    fn uri(&self) -> String {
        match self {
            Self::Postgres(server) => server.uri("t"),
            Self::Mysql(server) => server.uri("t"),
            Self::Sqlite(folder) => format!("sqlite:{}#t", folder.path().join("t.db").display()),
        }
    }

    /// Makes the table anew, with rows of which each id is above 900.
    fn reset(&self) {
        // SQLite cuts no text off, and refuses none for being long.
        let name = match self {
            Self::Sqlite(_) => "text NOT NULL CHECK (length(name) <= 5)",
            _ => "varchar(5) NOT NULL",
        };
        // Loads do not look at foreign keys of SQLite.
        let kind = if matches!(self, Self::Sqlite(_)) {
            "CHECK (kind <= 3)"
        } else {
            ", FOREIGN KEY (kind) REFERENCES kinds(k)"
        };
        self.sql("DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS kinds; CREATE TABLE kinds (k int PRIMARY KEY)");
        self.sql("INSERT INTO kinds VALUES (1), (2), (3)");
        self.sql(&format!(
            "CREATE TABLE t (id int NOT NULL PRIMARY KEY, nr int, n int CHECK (n < 100), name {name}, kind int {kind})"
        ));
        self.sql("INSERT INTO t VALUES (901, -1, 1, 'a', 1), (902, -2, 1, 'b', 2)");
    }

    /// What is in the table: the id of each row, by its number.
    fn rows(&self) -> BTreeMap<i64, i64> {
        let text = self.sql("SELECT nr, id FROM t ORDER BY nr");
        let pair = |line: &str| {
            let (nr, id) = line.split_once(' ').unwrap();
            (nr.parse().unwrap(), id.parse().unwrap())
        };
        text.lines().map(pair).collect()
    }
}

#[derive(Clone, Debug)]
struct Row {
    nr: i64,
    id: i64,
    n: i64,
    name: String,
    kind: i64,
}

impl Row {
    fn good(nr: i64, id: i64) -> Self {
        Self { nr, id, n: 1, name: "x".into(), kind: 1 }
    }

    /// The column that is at fault whatever else is there.
    fn fault(&self) -> Option<&'static str> {
        match self {
            _ if self.n >= 100 => Some("n"),
            _ if self.name.is_empty() || self.name.len() > 5 => Some("name"),
            _ if self.kind > 3 => Some("kind"),
            _ => None,
        }
    }

    fn random(random: &mut Random, nr: i64, ids: usize) -> Self {
        let mut row = Self::good(nr, i64::try_from(random.below(ids)).unwrap());
        match random.below(12) {
            0 => row.n = 200,
            1 => row.name = "zzzzzz".into(),
            2 => row.name = String::new(),
            3 => row.kind = 9,
            4 => row.id = 901,
            _ => {}
        }
        row
    }
}

fn write(path: &std::path::Path, rows: &[Row]) {
    let mut text = "id,nr,n,name,kind\n".to_owned();
    for Row { id, nr, n, name, kind } in rows {
        writeln!(text, "{id},{nr},{n},{name},{kind}").unwrap();
    }
    std::fs::write(path, text).unwrap();
}

/// Loads `rows` with a quarantine; gives what is set aside: number, column and reason.
fn load(server: &Server, copy: &Copy<'_>, rows: &[Row]) -> (RunReport, BTreeMap<i64, (Option<String>, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let (file, quarantine) = (folder.path().join("rows.csv"), folder.path().join("q.db"));
    write(&file, rows);
    let place = format!("sqlite:{}#q", quarantine.display());
    let copy = Copy { quarantine: Some(&place), partitions: Some(4), threads: Some(2), ..*copy };
    let report =
        copy.run(file.to_str().unwrap(), &server.uri()).unwrap_or_else(|error| panic!("{}: {error}", server.uri()));
    let mut found = BTreeMap::new();
    if report.rows_rejected > 0 {
        let database = rusqlite::Connection::open(quarantine).unwrap();
        let mut query = database.prepare("SELECT raw, \"column\", reason, stage FROM q").unwrap();
        let mut rows = query.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let raw: Vec<u8> = row.get(0).unwrap();
            let raw: Value = serde_json::from_slice(&raw).unwrap();
            assert_eq!(row.get::<_, String>(3).unwrap(), "target");
            let before = found.insert(raw["nr"].as_i64().unwrap(), (row.get(1).unwrap(), row.get(2).unwrap()));
            assert_eq!(before, None, "{raw} is set aside twice");
        }
    }
    assert_eq!(found.len() as u64, report.rows_rejected);
    assert_eq!(report.load.records_loaded + report.rows_rejected, rows.len() as u64);
    assert_eq!(report.rows_read, rows.len() as u64);
    (report, found)
}

/// Each row is at the target or set aside; of rows with one key one is loaded, if any is good.
fn assert_sifted(server: &Server, rows: &[Row], refused: &BTreeMap<i64, (Option<String>, String)>, before: &[i64]) {
    let loaded = server.rows();
    let new: BTreeSet<i64> = loaded.keys().copied().filter(|nr| *nr > 0).collect();
    let all: BTreeSet<i64> = rows.iter().map(|row| row.nr).collect();
    let either: BTreeSet<i64> = new.iter().chain(refused.keys()).copied().collect();
    assert_eq!(either, all, "{}", server.uri());
    assert_eq!(new.len() + refused.len(), all.len(), "{}: a row is loaded and set aside", server.uri());
    let mut ids: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        ids.entry(row.id).or_default().push(row);
    }
    for (id, rows) in ids {
        let loaded = rows.iter().filter(|row| new.contains(&row.nr)).count();
        let good = rows.iter().filter(|row| row.fault().is_none()).count();
        let expected = usize::from(good > 0 && !before.contains(&id));
        assert_eq!(loaded, expected, "{}: id {id} of {rows:?}", server.uri());
        assert!(rows.iter().all(|row| row.fault().is_none() || refused.contains_key(&row.nr)), "{rows:?}");
    }
}

#[test]
fn each_row_is_loaded_or_set_aside() {
    let mut random = Random::new();
    for server in Server::all() {
        for mode in [LoadMode::Append, LoadMode::Replace] {
            for count in [40, 300, 3000] {
                server.reset();
                let rows: Vec<_> =
                    (1..=count).map(|nr| Row::random(&mut random, nr, usize::try_from(count).unwrap())).collect();
                let (_, refused) = load(&server, &Copy { mode, ..Copy::default() }, &rows);
                let before: &[i64] = if mode == LoadMode::Append { &[901, 902] } else { &[] };
                assert_sifted(&server, &rows, &refused, before);
                assert_eq!(server.rows().keys().filter(|nr| **nr < 0).count(), before.len());
            }
        }
    }
}

#[test]
fn what_is_at_fault_is_told() {
    for server in Server::all() {
        server.reset();
        let bad = |change: fn(&mut Row)| {
            let mut row = Row::good(1, 1);
            change(&mut row);
            vec![row]
        };
        for (rows, words, column) in [
            (bad(|row| row.n = 100), ["check", "CHECK"], None),
            (bad(|row| row.name = "zzzzzz".into()), ["longer", "CHECK"], Some("name")),
            (bad(|row| row.name = String::new()), ["null", "NOT NULL"], Some("name")),
            (bad(|row| row.id = 901), ["same", "UNIQUE"], None),
        ] {
            let (_, refused) = load(&server, &Copy { mode: LoadMode::Append, ..Copy::default() }, &rows);
            let (told, reason) = &refused[&1];
            assert!(words.iter().any(|word| reason.contains(word)), "{}: {reason}", server.uri());
            assert!(!reason.contains("zzzzzz"), "{reason}");
            if column.is_some() && !matches!(server, Server::Sqlite(_)) {
                assert_eq!(told.as_deref(), column, "{}: {reason}", server.uri());
            }
            assert_eq!(server.rows().len(), 2);
        }
    }
}

#[test]
fn a_merge_does_without_the_bad_rows() {
    for server in Server::all() {
        server.reset();
        let mut rows: Vec<_> = (1..=200).map(|nr| Row::good(nr, nr)).collect();
        // Updates one that is there; a later row of a key counts; a bad one that is later does not.
        rows.push(Row::good(201, 901));
        rows.push(Row::good(202, 7));
        rows.push(Row { n: 500, ..Row::good(203, 8) });
        rows.push(Row { kind: 9, ..Row::good(204, 902) });
        rows.push(Row { name: String::new(), ..Row::good(205, 400) });
        let (_, refused) = load(&server, &Copy { mode: LoadMode::Merge, keys: &["id"], ..Copy::default() }, &rows);
        assert_eq!(refused.keys().copied().collect::<Vec<_>>(), [203, 204, 205], "{}: {refused:?}", server.uri());
        let mut expected: BTreeMap<i64, i64> = (1..=200).map(|nr| (nr, nr)).collect();
        expected.remove(&7);
        expected.extend([(201, 901), (202, 7), (-2, 902)]);
        assert_eq!(server.rows(), expected, "{}", server.uri());
    }
}

/// A source that says of the column `id` that it is a key.
struct Keyed(MemoryExtractor);

#[async_trait]
impl Extractor for Keyed {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(KeyedScan(self.0.scan(cx, request).await?, vec!["id".to_owned()])))
    }
}

struct KeyedScan(Arc<dyn Scan>, Vec<String>);

#[async_trait]
impl Scan for KeyedScan {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn partitions(&self) -> &[Partition] {
        self.0.partitions()
    }

    fn primary_key(&self) -> &[String] {
        &self.1
    }

    async fn fingerprint(&self) -> Result<Fingerprint> {
        self.0.fingerprint().await
    }

    fn read(&self, cx: &RunContext, partition: &Partition) -> Result<BatchStream> {
        self.0.read(cx, partition)
    }
}

/// The table is made by the load, with the key of the source.
#[test]
fn rows_that_have_the_key_of_others_are_set_aside_from_a_new_table() {
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    let schema = Arc::new(Schema::new(vec![field("id"), field("nr")]));
    let columns = [vec![1, 2, 2, 3, 1], vec![10, 20, 21, 30, 11]];
    let columns: Vec<ArrayRef> =
        columns.into_iter().map(|column| Arc::new(Int64Array::from(column)) as ArrayRef).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    for server in Server::all() {
        server.reset();
        server.sql("DROP TABLE t");
        let quarantine = MemoryLoader::new();
        let target = Uri::from(server.uri().as_str());
        let loader = registry().find(&target).unwrap().loader(&target, &OptionMap::new()).unwrap();
        let pipeline = PipelineBuilder::new()
            .extract(Keyed(MemoryExtractor::new(schema.clone(), [batch.clone()])))
            .load_into(loader)
            .quarantine(quarantine.clone());
        let report = block_on(pipeline.build().unwrap().execute()).unwrap();
        assert_eq!((report.rows_rejected, report.load.records_loaded), (2, 3), "{}", server.uri());
        assert_eq!(server.sql("SELECT id, nr FROM t ORDER BY id"), "1 10\n2 20\n3 30");
        assert_eq!(quarantine.snapshot().unwrap().total_count(), 2);
    }
}

#[test]
fn rows_of_a_tree_may_come_before_their_parents() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tree.csv");
    let quarantine = format!("sqlite:{}#q", folder.path().join("q.db").display());
    // Each refers to the one behind it, and the last to one that is not there; another refers to itself.
    let mut text = "id,parent\n1000,1000\n".to_owned();
    for id in 1..=40 {
        writeln!(text, "{id},{}", if id == 20 { 20 } else { id + 1 }).unwrap();
    }
    std::fs::write(&file, text).unwrap();
    let postgres = Postgres::start();
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t(id))");
    let copy = Copy { mode: LoadMode::Append, quarantine: Some(&quarantine), partitions: Some(3), ..Copy::default() };
    let report = copy.run(file.to_str().unwrap(), &postgres.uri("t")).unwrap();
    assert_eq!((report.rows_rejected, report.load.records_loaded), (20, 21));
    assert_eq!(postgres.sql("SELECT count(*), max(id) FROM t WHERE id < 1000"), "20|20");
    let error = Copy { max_errors: Some(19), ..copy }.run(file.to_str().unwrap(), &postgres.uri("t")).unwrap_err();
    assert!(error.message().contains("more than the 19 records"), "{error}");
    assert_eq!(postgres.sql("SELECT count(*) FROM t"), "21");
}

/// What the bytes of a type cannot say is refused before they are sent.
#[test]
fn values_that_no_column_can_hold_are_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let quarantine = format!("sqlite:{}#q", folder.path().join("q.db").display());
    let file = folder.path().join("nul.ndjson");
    std::fs::write(&file, "{\"id\":1,\"x\":\"a\"}\n{\"id\":2,\"x\":\"a\\u0000b\"}\n{\"id\":3,\"x\":\"c\"}\n").unwrap();
    let server = Postgres::start();
    for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
        let copy = Copy { mode, quarantine: Some(&quarantine), ..Copy::default() };
        let report = copy.run(file.to_str().unwrap(), &server.uri("t")).unwrap();
        assert_eq!((report.rows_rejected, report.load.records_loaded), (1, 2), "{mode}");
        let first = report.first_rejected.unwrap();
        assert!(first.contains("column \"x\"") && first.contains("NUL"), "{first}");
    }
    assert_eq!(server.sql("SELECT id FROM t ORDER BY id"), "1\n3");
    let error = copy(file.to_str().unwrap(), &server.uri("t"), LoadMode::Replace).unwrap_err();
    assert!(error.message().contains("row 2"), "{error}");
}
