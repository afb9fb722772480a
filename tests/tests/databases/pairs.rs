//! From every database into every other, and back: each column comes back as it was, or is refused by its name.

use std::path::PathBuf;

use super::*;
use crate::mysql::round_trip as my;
use crate::postgres::round_trip as pg;

/// A database with a table `every` of all types, with an `id`.
enum Database {
    Postgres(Postgres),
    MySql(MariaDb),
    Sqlite(tempfile::TempDir),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Postgres,
    MySql,
    Sqlite,
}

/// Declared types of SQLite with values of each.
const SQLITE: &[(&str, &[&str])] = &[
    ("BOOLEAN", &["0", "1"]),
    ("SINT8", &["-128", "127"]),
    ("SMALLINT", &["-32768", "32767"]),
    ("INT4", &["-2147483648", "2147483647"]),
    ("BIGINT", &["-9223372036854775808", "9223372036854775807", "0"]),
    ("UINT8", &["0", "255"]),
    ("UINT16", &["65535"]),
    ("UINT32", &["4294967295"]),
    ("FLOAT4", &["0.5", "3.4028234663852886e38", "-1.401298464324817e-45"]),
    ("REAL", &["1.7976931348623157e308", "5e-324", "0.1", "-2.5"]),
    ("TEXT", &["''", "' '", "'naïve 名 🦀'", "'a' || char(10) || char(9) || '\\N'", "'it''s'"]),
    ("VARCHAR(20)", &["'trailing  '", "''"]),
    ("BLOB", &["X''", "X'00'", "X'FF0A095C27'"]),
    ("DATE", &["'0001-01-01'", "'1970-01-01'", "'9999-12-31'"]),
    ("TIME", &["'00:00:00'", "'23:59:59.999999'"]),
    ("TIMESTAMP", &["'0001-01-01 00:00:00'", "'2024-06-01 12:00:00.000001'", "'9999-12-31 23:59:59.999999'"]),
    ("TIMESTAMPTZ", &["'2024-06-01 12:00:00+00:00'", "'0001-01-01 00:00:00.500000+00:00'"]),
    ("DECIMAL_TEXT(12,2)", &["'9999999999.99'", "'-0.01'"]),
    ("DECIMAL_TEXT(50,4)", &["'9999999999999999999999999999999999999999999999.9999'", "'-1.0000'"]),
    ("DECIMAL256_TEXT(20,4)", &["'9999999999999999.9999'", "'0.0001'"]),
    ("NUMERIC(10,2)", &["12.5", "-99999999.99", "7"]),
];

impl Database {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Postgres => {
                let server = Postgres::start();
                pg::every_type(&server);
                Self::Postgres(server)
            }
            Kind::MySql => {
                let server = MariaDb::start();
                my::every_type(&server);
                Self::MySql(server)
            }
            Kind::Sqlite => {
                let database = Self::Sqlite(tempfile::tempdir().unwrap());
                let columns: Vec<_> =
                    SQLITE.iter().enumerate().map(|(index, (name, _))| format!("c{index} {name}")).collect();
                let mut sql = format!(
                    "CREATE TABLE every (id INTEGER NOT NULL, {}); INSERT INTO every (id) VALUES (-1);",
                    columns.join(", ")
                );
                for row in 0..5 {
                    let values = SQLITE.iter().map(|(_, values)| values[row % values.len()]);
                    sql.push_str(&format!(
                        "INSERT INTO every VALUES ({row}, {});",
                        values.collect::<Vec<_>>().join(", ")
                    ));
                }
                database.sql(&sql);
                database
            }
        }
    }

    fn file(folder: &tempfile::TempDir) -> PathBuf {
        folder.path().join("every.db")
    }

    fn uri(&self, table: &str) -> String {
        match self {
            Self::Postgres(server) => server.uri(table),
            Self::MySql(server) => server.uri(table),
            Self::Sqlite(folder) => format!("sqlite:{}#{table}", Self::file(folder).display()),
        }
    }

    fn sql(&self, sql: &str) {
        match self {
            Self::Postgres(server) => _ = server.sql(sql),
            Self::MySql(server) => _ = server.sql(sql),
            Self::Sqlite(folder) => rusqlite::Connection::open(Self::file(folder)).unwrap().execute_batch(sql).unwrap(),
        }
    }

    /// The columns besides `id`: name and type.
    fn columns(&self) -> Vec<(String, String)> {
        let numbered = |names: Vec<&str>| {
            names.iter().enumerate().map(|(index, name)| (format!("c{index}"), (*name).to_owned())).collect()
        };
        match self {
            Self::Postgres(_) => pg::COLUMNS.iter().map(|(name, _)| (pg::column(name), (*name).to_owned())).collect(),
            Self::MySql(_) => numbered(my::COLUMNS.iter().map(|(name, _)| *name).collect()),
            Self::Sqlite(_) => numbered(SQLITE.iter().map(|(name, _)| *name).collect()),
        }
    }

    /// An empty table like `every`.
    fn create_like_every(&self, table: &str) {
        self.sql(&format!("DROP TABLE IF EXISTS {table}"));
        match self {
            Self::Postgres(server) => _ = server.sql(&format!("CREATE TABLE {table} (LIKE every)")),
            Self::MySql(server) => _ = server.sql(&format!("CREATE TABLE {table} LIKE every")),
            Self::Sqlite(_) => {
                let columns: Vec<_> = self.columns().iter().map(|(name, kind)| format!("{name} {kind}")).collect();
                self.sql(&format!("CREATE TABLE {table} (id INTEGER NOT NULL, {})", columns.join(", ")));
            }
        }
    }

    /// The values of a column, exactly, by their ids.
    fn values(&self, table: &str, column: &str, data_type: &str) -> String {
        match self {
            Self::Postgres(server) => server.sql(&format!(
                // SQLite keeps no sign of zero.
                "SET timezone = 'UTC'; SET extra_float_digits = 3;
                 SELECT id, CASE {column}::text WHEN '-0' THEN '0' ELSE {column}::text END FROM {table} ORDER BY id"
            )),
            Self::MySql(server) => {
                let exact = my::exact(column[1..].parse().unwrap(), data_type);
                server.sql(&format!("SELECT id, {exact} FROM {table} ORDER BY id"))
            }
            Self::Sqlite(folder) => {
                let connection = rusqlite::Connection::open(Self::file(folder)).unwrap();
                let sql =
                    format!("SELECT id || ' ' || typeof({column}) || ' ' || quote({column}) FROM {table} ORDER BY id");
                let mut statement = connection.prepare(&sql).unwrap();
                let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
                rows.map(|row| row.unwrap()).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

/// What does not go.
#[derive(Debug)]
struct Refused {
    column: String,
    /// Before a row was read, so that it is the type.
    planned: bool,
}

/// Copies as many columns as go, and gives those that do not: a refusal must name its column.
fn copy_what_goes(
    copy: &Copy<'_>,
    source: &str,
    target: &str,
    columns: &mut Vec<String>,
    before: &dyn Fn(),
) -> Vec<Refused> {
    let mut refused = Vec::new();
    loop {
        before();
        let wanted: Vec<_> = std::iter::once("id").chain(columns.iter().map(String::as_str)).collect();
        let copy =
            Copy { columns: Some(&wanted), mode: copy.mode, source_options: copy.source_options, ..Copy::default() };
        let Err(error) = copy.run(source, target) else { return refused };
        let text = error.to_string();
        let planned = error.kind() == ErrorKind::SchemaMismatch;
        assert!(planned || error.kind() == ErrorKind::InvalidData, "{text}");
        let named = columns.iter().position(|column| text.contains(&format!("column \"{column}\"")));
        let column = columns.remove(named.unwrap_or_else(|| panic!("no column is named: {text}")));
        refused.push(Refused { column, planned });
    }
}

/// There and back, as far as it goes: columns of type `zoned` are read back as times of UTC, which the other database has not.
fn go(
    source: &Database,
    target: &Database,
    table: &str,
    zoned: &[&str],
    columns: &mut Vec<String>,
) -> (Vec<Refused>, Vec<Refused>) {
    let all = source.columns();
    let type_of = |name: &String| &all.iter().find(|(column, _)| column == name).unwrap().1;
    let there = Copy { mode: LoadMode::Replace, ..Copy::default() };
    let before = || target.sql("DROP TABLE IF EXISTS arrived");
    let not_there = copy_what_goes(&there, &source.uri(table), &target.uri("arrived"), columns, &before);
    // What was written is what was read, as the table says it, whether or not it can come back by itself.
    let compared: Vec<_> = std::iter::once("id").chain(columns.iter().map(String::as_str)).collect();
    let found = compare(&source.uri(table), &target.uri("arrived"), &compared).unwrap();
    assert!(found.is_equal() && found.source.checksum.rows() > 0, "{found:?}");
    let types: Vec<_> = columns.iter().filter(|name| zoned.contains(&type_of(name).as_str())).collect();
    let types = types.iter().map(|name| format!("{name}:timestamptz")).collect::<Vec<_>>().join(",");
    let options = [("types", types.as_str())];
    let back = Copy {
        mode: LoadMode::Append,
        source_options: if types.is_empty() { &[] } else { &options },
        ..Copy::default()
    };
    let before = || source.create_like_every("back");
    let not_back = copy_what_goes(&back, &target.uri("arrived"), &source.uri("back"), columns, &before);
    for column in columns {
        let data_type = type_of(column);
        let (was, is) = (source.values(table, column, data_type), source.values("back", column, data_type));
        assert_eq!(was, is, "{data_type}");
    }
    (not_there, not_back)
}

/// `refused` are the types that do not go, with the number of values if it is only some, and `lost` those that go and do not
/// come back into such a column by themselves.
fn there_and_back(from: Kind, to: Kind, zoned: &[&str], refused: &[&str], lost: &[&str]) {
    let (source, target) = (Database::new(from), Database::new(to));
    let all = source.columns();
    let type_of = |name: &String| all.iter().find(|(column, _)| column == name).unwrap().1.clone();
    let mut columns: Vec<_> = all.iter().map(|(name, _)| name.clone()).collect();
    let (not_there, not_back) = go(&source, &target, "every", zoned, &mut columns);
    let mut found = Vec::new();
    for Refused { column, planned } in not_there {
        if planned {
            found.push(type_of(&column));
            continue;
        }
        // Each value by itself is refused, or comes back.
        let values = source.values("every", &column, &type_of(&column)).lines().count();
        let alone = |row: usize| {
            source.create_like_every("one");
            source.sql(&format!("INSERT INTO one SELECT * FROM every WHERE id = {row}"));
            !go(&source, &target, "one", zoned, &mut vec![column.clone()]).0.is_empty()
        };
        let count = (0..values - 1).filter(|row| alone(*row)).count();
        assert!((1..values - 1).contains(&count), "{count} of {values} values of {column}");
        found.push(format!("{}: {count}", type_of(&column)));
    }
    assert_eq!(found, refused, "refused from {from:?} to {to:?}");
    let found: Vec<_> = not_back.iter().map(|refused| type_of(&refused.column)).collect();
    assert_eq!(found, lost, "not back from {from:?} to {to:?}");
}

#[test]
fn postgres_to_mysql() {
    // More digits than a decimal of MySQL has, years outside 0 to 9999, NaN and the infinities.
    let refused = [
        "numeric(76,76)",
        "numeric(76,0)",
        "date: 4",
        "timestamp without time zone: 5",
        "timestamp with time zone: 4",
        "real: 4",
        "double precision: 4",
    ];
    let zoned = ["timestamp with time zone", "timestamp(0) with time zone"];
    let lost = ["boolean", "numeric", "numeric(100,3)", "numeric(3,-2)"];
    there_and_back(Kind::Postgres, Kind::MySql, &zoned, &refused, &lost);
}

#[test]
fn postgres_to_sqlite() {
    // NaN.
    let refused = ["real: 2", "double precision: 2"];
    there_and_back(Kind::Postgres, Kind::Sqlite, &[], &refused, &["numeric", "numeric(100,3)", "numeric(3,-2)"]);
}

#[test]
fn mysql_to_postgres() {
    // A NUL character.
    let refused = ["tinytext: 1", "text: 1", "mediumtext: 1", "longtext: 1"];
    there_and_back(Kind::MySql, Kind::Postgres, &[], &refused, &[]);
}

#[test]
fn mysql_to_sqlite() {
    there_and_back(Kind::MySql, Kind::Sqlite, &[], &["bigint(20) unsigned", "bit(64)"], &[]);
}

#[test]
fn sqlite_to_postgres() {
    there_and_back(Kind::Sqlite, Kind::Postgres, &[], &[], &[]);
}

#[test]
fn sqlite_to_mysql() {
    there_and_back(Kind::Sqlite, Kind::MySql, &["TIMESTAMPTZ"], &[], &["BOOLEAN"]);
}

#[test]
fn each_database_to_its_like() {
    for kind in [Kind::Postgres, Kind::MySql, Kind::Sqlite] {
        there_and_back(kind, kind, &[], &[], &[]);
    }
}
