//! What `information_schema` says of tables and views.

use super::name::literal;
use super::wire::{Answer, Connection};
use crate::network::Row;
use crate::table::TableName;

/// A table, a view or anything else that has columns.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) name: TableName,
    pub(super) is_view: bool,
    pub(super) is_table: bool,
    /// Keeps the history of its rows, which replacing it would end.
    pub(super) is_versioned: bool,
    /// Whether its engine has transactions, whether these see snapshots, and what it is called.
    pub(super) transactional: bool,
    pub(super) has_snapshots: bool,
    pub(super) engine: String,
    /// As the server estimates.
    pub(super) bytes: u64,
    pub(super) columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// `int`, `varchar`, `enum`.
    pub(super) data_type: String,
    /// The same with all that belongs to it: `int(10) unsigned`, `enum('a','b')`.
    pub(super) column_type: String,
    pub(super) not_null: bool,
    /// Filled in by the server when it is left out.
    pub(super) has_default: bool,
    /// Numbered by the server when it is left out.
    pub(super) auto_increment: bool,
    /// Computed by the server, which takes no value for it.
    pub(super) generated: bool,
    pub(super) charset: Option<String>,
    pub(super) collation: Option<String>,
    pub(super) characters: Option<u64>,
    pub(super) octets: Option<u64>,
    pub(super) precision: Option<u64>,
    pub(super) scale: Option<u64>,
    /// Digits of a second.
    pub(super) fraction: Option<u64>,
}

impl Column {
    pub(super) fn is_unsigned(&self) -> bool {
        self.column_type.contains(" unsigned")
    }
}

/// A unique index of columns that cannot be null, or any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    pub(super) nullable: bool,
    /// Of whole columns, none of which is an expression or a prefix.
    pub(super) whole: bool,
    pub(super) columns: Vec<String>,
}

/// The database that a name is in, as SQL.
fn schema_of(name: &TableName) -> String {
    name.schema.as_deref().map_or_else(|| "DATABASE()".to_owned(), literal)
}

impl Relation {
    /// `None`: there is none of that name.
    pub(super) async fn find(connection: &mut Connection, name: &TableName) -> Answer<Option<Self>> {
        let (schema, table) = (schema_of(name), literal(&name.name));
        let sql = format!(
            "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, t.TABLE_TYPE, coalesce(t.ENGINE, ''), coalesce(t.DATA_LENGTH, 0),
                coalesce(e.TRANSACTIONS, '') = 'YES'
             FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE
             WHERE t.TABLE_SCHEMA = {schema} AND t.TABLE_NAME = {table}"
        );
        let found = connection.rows(&sql).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let name = TableName { schema: Some(row.get(0)?), name: row.get(1)? };
        let (kind, engine): (String, String) = (row.get(2)?, row.get(3)?);
        Ok(Some(Self {
            is_view: kind.ends_with("VIEW"),
            is_table: kind == "BASE TABLE" || kind == "SYSTEM VERSIONED",
            is_versioned: kind == "SYSTEM VERSIONED",
            has_snapshots: matches!(engine.to_ascii_lowercase().as_str(), "innodb" | "rocksdb"),
            engine,
            bytes: row.get(4)?,
            transactional: row.get(5)?,
            columns: columns(connection, &name).await?,
            name,
        }))
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        // Names of columns differ by more than the case of their letters.
        self.columns.iter().find(|column| column.name.to_lowercase() == name.to_lowercase())
    }
}

async fn columns(connection: &mut Connection, name: &TableName) -> Answer<Vec<Column>> {
    let sql = format!(
        "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE = 'NO',
            IS_NULLABLE = 'YES' OR COLUMN_DEFAULT IS NOT NULL OR EXTRA LIKE '%auto_increment%'
                OR EXTRA LIKE '%DEFAULT_GENERATED%', EXTRA LIKE '%auto_increment%',
            GENERATION_EXPRESSION IS NOT NULL AND GENERATION_EXPRESSION <> '',
            CHARACTER_SET_NAME, CHARACTER_MAXIMUM_LENGTH, CHARACTER_OCTET_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE,
            DATETIME_PRECISION, COLLATION_NAME
         FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} ORDER BY ORDINAL_POSITION",
        schema_of(name),
        literal(&name.name)
    );
    let column = |row: &Row| -> Answer<Column> {
        let data_type: String = row.get(1)?;
        Ok(Column {
            name: row.get(0)?,
            data_type: data_type.to_ascii_lowercase(),
            column_type: row.get(2)?,
            not_null: row.get(3)?,
            has_default: row.get(4)?,
            auto_increment: row.get(5)?,
            generated: row.get(6)?,
            charset: row.get(7)?,
            characters: row.get(8)?,
            octets: row.get(9)?,
            precision: row.get(10)?,
            scale: row.get(11)?,
            fraction: row.get(12)?,
            collation: row.get(13)?,
        })
    };
    connection.rows(&sql).await?.iter().map(column).collect()
}

/// The indexes of a table, that of the primary key first.
pub(super) async fn indexes(connection: &mut Connection, name: &TableName) -> Answer<Vec<Index>> {
    let sql = format!(
        "SELECT INDEX_NAME, NON_UNIQUE = 0, coalesce(NULLABLE, '') = 'YES', SUB_PART IS NULL AND COLUMN_NAME IS NOT NULL,
            coalesce(COLUMN_NAME, '')
         FROM information_schema.STATISTICS
         WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} AND INDEX_TYPE IN ('BTREE', 'HASH')
         ORDER BY INDEX_NAME <> 'PRIMARY', INDEX_NAME, SEQ_IN_INDEX",
        schema_of(name),
        literal(&name.name)
    );
    let mut indexes: Vec<Index> = Vec::new();
    for row in connection.rows(&sql).await? {
        let name: String = row.get(0)?;
        if indexes.last().is_none_or(|index| index.name != name) {
            indexes.push(Index { name, unique: row.get(1)?, nullable: false, whole: true, columns: Vec::new() });
        }
        if let Some(index) = indexes.last_mut() {
            index.nullable |= row.get::<bool, _>(2)?;
            index.whole &= row.get::<bool, _>(3)?;
            index.columns.push(row.get(4)?);
        }
    }
    Ok(indexes)
}

/// The tables of a database, without views.
pub(super) async fn tables(connection: &mut Connection, schema: Option<&str>) -> Answer<Vec<String>> {
    let schema = schema.map_or_else(|| "DATABASE()".to_owned(), literal);
    let sql = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = {schema}
             AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND TABLE_NAME NOT LIKE '\\_etlrs\\_%' ORDER BY 1"
    );
    connection.rows(&sql).await?.iter().map(|row| row.get(0)).collect()
}

/// Tables and views of the database, for whoever named one that is not there.
pub(super) async fn names(connection: &mut Connection, schema: Option<&str>) -> Answer<Vec<String>> {
    const MOST: usize = 200;
    let schema = schema.map_or_else(|| "DATABASE()".to_owned(), literal);
    let sql = format!(
        "SELECT TABLE_NAME FROM information_schema.TABLES
         WHERE TABLE_SCHEMA = {schema} AND TABLE_NAME NOT LIKE '\\_etlrs\\_%' ORDER BY 1 LIMIT {MOST}"
    );
    connection.rows(&sql).await?.iter().map(|row| row.get(0)).collect()
}
