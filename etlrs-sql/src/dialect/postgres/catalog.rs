//! What the catalogue says of tables and views (<https://www.postgresql.org/docs/current/catalogs.html>).

use super::server::rows;
use super::wire::{Answer, Connection};
use crate::network::Row;
use crate::table::TableName;

/// A table, a view or anything else that has columns.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) oid: u32,
    pub(super) name: TableName,
    pub(super) kind: Kind,
    /// Rows are hidden from this user.
    pub(super) row_security: bool,
    pub(super) columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// Of the type that a domain is of.
    pub(super) type_oid: u32,
    pub(super) typmod: i32,
    /// The type as SQL writes it, with its modifier.
    pub(super) type_name: String,
    /// The same without the modifier, such that casting to it cuts nothing off.
    pub(super) bare_type: String,
    pub(super) is_enum: bool,
    pub(super) not_null: bool,
    /// Filled in by the server when it is left out.
    pub(super) has_default: bool,
    /// Computed by the server, which takes no value for it.
    pub(super) generated: bool,
    /// Numbered by the server, which lets nobody update it.
    pub(super) identity_always: bool,
    /// For one in which texts that differ may be equal: what SQL has to say behind its type for it to be so, if anything.
    pub(super) folds: Option<String>,
}

/// Columns of the relation `$1`, domains followed to the type that they are of.
const COLUMNS: &str = "
    WITH RECURSIVE base(attnum, oid, typmod, depth) AS (
        SELECT attnum, atttypid, atttypmod, 0 FROM pg_attribute
        WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT b.attnum, t.typbasetype, t.typtypmod, b.depth + 1
        FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
    )
    SELECT a.attname::text, b.oid::int8, b.typmod, format_type(b.oid, b.typmod), format_type(b.oid, -1),
        t.typtype = 'e', a.attnotnull AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
            WHERE i.inhparent = $1::oid AND p.relkind = 'r') AND NOT EXISTS (SELECT FROM pg_constraint
            WHERE conrelid = $1::oid AND contype = 'n' AND NOT convalidated AND conkey @> ARRAY[a.attnum]),
        a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', coalesce(
            (SELECT format(' COLLATE %I.%I', n.nspname, c.collname) FROM pg_collation c
                JOIN pg_namespace n ON n.oid = c.collnamespace
                WHERE c.oid = a.attcollation AND to_jsonb(c)->>'collisdeterministic' = 'false'),
            CASE WHEN t.typname = 'citext' THEN '' END), a.attidentity = 'a'
    FROM base b JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
    JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attnum = b.attnum
    ORDER BY a.attnum";

impl Relation {
    /// `None`: there is none of that name.
    pub(super) async fn find(connection: &mut Connection, name: &TableName) -> Answer<Option<Self>> {
        // A name is checked when it is parsed.
        let quoted = name.quoted().unwrap_or_default();
        let sql = "SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, row_security_active(c.oid)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";
        let found = rows(connection, sql, &[&quoted]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let oid = oid(row.get(0)?);
        let kind = match row.get::<&str, _>(3)? {
            "r" => Kind::Table,
            "p" => Kind::Partitioned,
            "v" => Kind::View,
            "m" => Kind::MaterializedView,
            "f" => Kind::Foreign,
            _ => Kind::Other,
        };
        let name = TableName { schema: Some(row.get(1)?), name: row.get(2)? };
        let row_security = row.get(4)?;
        let columns = columns(connection, oid).await?;
        Ok(Some(Self { oid, name, kind, row_security, columns }))
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// The columns of a relation, in their order.
pub(super) async fn columns(connection: &mut Connection, relation: u32) -> Answer<Vec<Column>> {
    let found = rows(connection, COLUMNS, &[&relation.to_string()]).await?;
    found
        .iter()
        .map(|row| {
            Ok(Column {
                name: row.get(0)?,
                type_oid: oid(row.get(1)?),
                typmod: row.get(2)?,
                type_name: row.get(3)?,
                bare_type: row.get(4)?,
                is_enum: row.get(5)?,
                not_null: row.get(6)?,
                has_default: row.get(7)?,
                generated: row.get(8)?,
                folds: row.get(9)?,
                identity_always: row.get(10)?,
            })
        })
        .collect()
}

/// The columns of the primary key of a table, in their order. That of a table with children says nothing of their rows.
pub(super) async fn primary_key(connection: &mut Connection, relation: &Relation) -> Answer<Vec<String>> {
    let sql = "SELECT a.attname::text FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = $1::oid AND i.indisprimary AND i.indisvalid AND i.indimmediate AND k.n <= i.indnkeyatts
            AND NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent
                WHERE h.inhparent = i.indrelid AND p.relkind = 'r')
        ORDER BY k.n";
    rows(connection, sql, &[&relation.oid.to_string()]).await?.iter().map(|row| row.get(0)).collect()
}

fn oid(value: i64) -> u32 {
    // The catalogue's own, which are 32 bits wide.
    u32::try_from(value).unwrap_or_default()
}

/// Tables and views that a user made, for whoever named one that is not there.
pub(super) async fn names(connection: &mut Connection) -> Answer<Vec<String>> {
    const MOST: &str = "200";
    let sql = "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN '' ELSE n.nspname END, c.relname::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
            AND c.relname !~ '^_etlrs_'
        ORDER BY 1, 2 LIMIT $1::int8";
    let found = rows(connection, sql, &[MOST]).await?;
    let name = |row: &Row| -> Answer<String> {
        let schema: String = row.get(0)?;
        Ok(TableName { schema: Some(schema).filter(|schema| !schema.is_empty()), name: row.get(1)? }.to_string())
    };
    found.iter().map(name).collect()
}

/// What the server says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// 150013 for version 15.13.
    pub(super) version: u32,
    /// Whether it keeps text in UTF-8.
    pub(super) is_utf8: bool,
}

impl Server {
    pub(super) async fn ask(connection: &mut Connection) -> Answer<Self> {
        let sql = "SELECT current_setting('server_version_num'), current_setting('server_encoding')";
        let found = rows(connection, sql, &[]).await?;
        let at = |index: usize| found.first().map_or(Ok(""), |row| row.get(index));
        Ok(Self { version: at(0)?.parse().unwrap_or_default(), is_utf8: at(1)? == "UTF8" })
    }
}
