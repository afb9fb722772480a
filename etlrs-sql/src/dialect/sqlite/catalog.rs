//! What the database says about its tables.

use rusqlite::{Connection, OptionalExtension, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    View,
    Virtual,
}

/// A table or view as it is in the catalogue.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// As it was created; names are not case-sensitive.
    pub(super) name: String,
    /// What stands for it behind FROM.
    pub(super) from: String,
    pub(super) kind: Kind,
    /// A name by which the rowid can be asked for; none for views, tables without one, and where columns have taken
    /// all three.
    pub(super) rowid: Option<&'static str>,
    pub(super) columns: Vec<Column>,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
    /// Its place in the primary key, from 1; 0 for a column that is not in it.
    pub(super) primary_key: u32,
    pub(super) generated: bool,
}

impl Table {
    /// The table or view `name`, if there is one.
    pub(super) fn find(connection: &Connection, name: &str) -> Result<Option<Self>> {
        let mut statement = connection.prepare(
            "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
        )?;
        let found: Option<(String, String, bool)> =
            statement.query_row([name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        let Some((name, kind, without_rowid)) = found else { return Ok(None) };
        let kind = match kind.as_str() {
            "view" => Kind::View,
            "virtual" => Kind::Virtual,
            _ => Kind::Table,
        };
        let mut columns = columns(connection, &name)?;
        // A key without an index is what the table is stored by: the rowid, or that of a table without one.
        let indexed = "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')";
        let indexed: bool = connection.query_row(indexed, [&name], |row| row.get(0))?;
        for column in columns.iter_mut().filter(|column| column.primary_key > 0) {
            column.not_null |= without_rowid || !indexed;
        }
        let rowid =
            if kind == Kind::Table && !without_rowid { rowid_name(columns.iter().map(|c| &*c.name)) } else { None };
        let from = super::quoted(&name);
        Ok(Some(Self { name, from, kind, rowid, columns }))
    }

    /// What a query gives, as if it were a view.
    pub(super) fn of_query(connection: &Connection, sql: &str) -> Result<Self> {
        // A comment at the end of the query must not take the parenthesis in.
        let from = format!("({sql}\n)");
        let statement = connection.prepare(&format!("SELECT * FROM {from}"))?;
        let column = |column: &rusqlite::Column<'_>| Column {
            name: column.name().to_owned(),
            declared: column.decl_type().unwrap_or_default().to_owned(),
            not_null: false,
            has_default: false,
            primary_key: 0,
            generated: false,
        };
        let columns = statement.columns().iter().map(column).collect();
        Ok(Self { name: "the query".into(), from, kind: Kind::View, rowid: None, columns })
    }

    /// The columns of the primary key, in their order, if none of them can be null.
    pub(super) fn primary_key(&self) -> Vec<&str> {
        let mut key: Vec<_> = self.columns.iter().filter(|column| column.primary_key > 0).collect();
        if !key.iter().all(|column| column.not_null) {
            return Vec::new();
        }
        key.sort_by_key(|column| column.primary_key);
        key.into_iter().map(|column| column.name.as_str()).collect()
    }

    /// The column `name`, found as SQLite finds it.
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }
}

fn columns(connection: &Connection, table: &str) -> Result<Vec<Column>> {
    let mut statement = connection.prepare(
        r#"SELECT name, type, "notnull", dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo(?1)
           WHERE hidden <> 1 ORDER BY cid"#,
    )?;
    let columns = statement.query_map([table], |row| {
        Ok(Column {
            name: row.get(0)?,
            declared: row.get(1)?,
            not_null: row.get(2)?,
            has_default: row.get(3)?,
            primary_key: row.get(4)?,
            generated: row.get::<_, i64>(5)? >= 2,
        })
    })?;
    columns.collect()
}

/// The first of the three names of the rowid that no column has taken.
pub(super) fn rowid_name<'a>(columns: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !columns.clone().any(|column| column.eq_ignore_ascii_case(name)))
}

/// The collation of each of `keys` in a unique index of them. The rowid, and a table without such an index, have none.
pub(super) fn key_collations(connection: &Connection, table: &str, keys: &[String]) -> Result<Vec<Option<String>>> {
    let mut statement = connection.prepare(
        r#"SELECT l.name, x.name, x.coll FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x
           WHERE l."unique" AND NOT l.partial AND x.key ORDER BY l.seq, x.seqno"#,
    )?;
    let mut indexes: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next()? {
        let index: String = row.get(0)?;
        if indexes.last().is_none_or(|(name, _)| *name != index) {
            indexes.push((index, Vec::new()));
        }
        if let Some((_, columns)) = indexes.last_mut() {
            // An expression has no name.
            columns.push((row.get::<_, Option<String>>(1)?.unwrap_or_default(), row.get(2)?));
        }
    }
    let collation = |columns: &[(String, String)], key: &String| {
        columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, collation)| collation.clone())
    };
    let of_keys = |columns: &[(String, String)]| -> Option<Vec<Option<String>>> {
        let found: Vec<_> = keys.iter().map(|key| collation(columns, key)).collect();
        (columns.len() == keys.len() && found.iter().all(Option::is_some)).then_some(found)
    };
    Ok(indexes.iter().find_map(|(_, columns)| of_keys(columns)).unwrap_or_else(|| vec![None; keys.len()]))
}

/// The statement that makes a table on which there are no triggers.
pub(super) fn definition(connection: &Connection, table: &str) -> Result<Option<String>> {
    let sql = "SELECT sql FROM sqlite_master AS t WHERE type = 'table' AND name = ?1 COLLATE NOCASE AND NOT EXISTS
        (SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND tbl_name = t.name COLLATE NOCASE)";
    connection.query_row(sql, [table], |row| row.get(0)).optional()
}

/// The statements that make the indexes of a table, but for those that its constraints bring along.
pub(super) fn index_statements(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT sql FROM sqlite_master
         WHERE type = 'index' AND tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL ORDER BY rowid",
    )?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// Tables that a user may mean; SQLite's own, those behind virtual ones and those of runs in progress are left out.
pub(super) fn tables(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare(
        r"SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')
          AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE '\_etlrs\_%' ESCAPE '\' ORDER BY name",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// The same, and the views.
pub(super) fn names(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare(
        r"SELECT name FROM sqlite_master WHERE type IN ('table', 'view')
          AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name NOT LIKE '\_etlrs\_%' ESCAPE '\' ORDER BY name",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}
