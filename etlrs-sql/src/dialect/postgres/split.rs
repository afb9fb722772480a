//! What is read as one partition.
//!
//! A table is cut into ranges of its pages, which cost nothing to find and are read like the whole table: a row's `ctid`
//! begins with its page. That a row moves when it is updated does no harm, for all readers see one snapshot. Ranges of
//! `ctid` are only read as such since version 14; before, each would read the whole table.
//!
//! Anything else is cut by a key, at values that a sample of the rows has, so that pieces are of about one size whatever the
//! distribution. Which values these are decides about the sizes only: the conditions exclude each other and cover all keys,
//! and rows with a null in the key are a piece of their own.

use super::catalog::{Column, Kind, Relation};
use super::name::{literal, quote};
use super::server::{rows, text};
use super::wire::{Answer, Connection};

/// Pages of 8 KB in a partition, unless there would be too many: 16 MB.
const PAGES: u64 = 2048;
const MOST: u64 = 4096;

/// One partition: what stands behind FROM and WHERE, and in words.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    from: String,
    condition: Option<String>,
    pub(super) words: String,
}

impl Piece {
    pub(super) fn whole(from: String) -> Self {
        Self { from, condition: None, words: "all rows".into() }
    }

    /// The query of `columns` that gives the rows which meet the conditions too.
    pub(super) fn select(&self, columns: &str, conditions: &[String]) -> String {
        let all: Vec<_> = self.condition.iter().chain(conditions).map(String::as_str).collect();
        let filter = if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) };
        format!("SELECT {columns} FROM {}{filter}", self.from)
    }
}

/// A table that has rows of its own: the relation itself, a partition of it, or a table that inherits from it.
struct Leaf {
    /// As SQL names it.
    quoted: String,
    pub(super) words: String,
    pages: u64,
    /// A table of another server has no pages.
    is_local: bool,
}

const LEAVES: &str = "
    WITH RECURSIVE tree(oid) AS (
        SELECT $1::oid UNION
        SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid WHERE NOT i.inhdetachpending
    )
    SELECT format('%I.%I', n.nspname, c.relname), format('%s.%s', n.nspname, c.relname), c.relkind IN ('r', 'm'),
        CASE WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid) / current_setting('block_size')::int8 ELSE 0 END,
        has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AND NOT row_security_active(c.oid)
    FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind <> 'p' ORDER BY c.oid = $1::oid DESC, 1";

/// Pieces of a relation that hold each of its rows once; `wished`: how many.
pub(super) async fn by_pages(
    connection: &mut Connection,
    relation: &Relation,
    version: u32,
    wished: Option<usize>,
) -> Answer<Vec<Piece>> {
    // Names are checked when they are parsed or come from the catalogue.
    let quoted = relation.name.quoted().unwrap_or_default();
    let whole = || vec![Piece::whole(quoted.clone())];
    // Policies of a table hold only for queries of that table, not of its partitions.
    let can_be_cut = matches!(relation.kind, Kind::Table | Kind::Partitioned | Kind::MaterializedView);
    if !can_be_cut || relation.row_security || version < 140_000 {
        return Ok(whole());
    }
    let found = rows(connection, LEAVES, &[&relation.oid.to_string()]).await?;
    let mut leaves = Vec::with_capacity(found.len());
    for row in &found {
        // Somebody may read a table and none of its partitions, or not all of their rows.
        if !row.get::<bool, _>(4)? {
            return Ok(whole());
        }
        let pages: i64 = row.get(3)?;
        leaves.push(Leaf {
            quoted: row.get(0)?,
            words: row.get(1)?,
            is_local: row.get(2)?,
            pages: pages.unsigned_abs(),
        });
    }
    if leaves.is_empty() {
        return Ok(whole());
    }
    let total: u64 = leaves.iter().map(|leaf| leaf.pages).sum();
    let each = match wished {
        Some(wished) => total.div_ceil((wished as u64).max(1)),
        None => PAGES.max(total.div_ceil(MOST)),
    };
    let several = leaves.len() > 1;
    Ok(leaves.iter().flat_map(|leaf| leaf.cut(each.max(1), several)).collect())
}

impl Leaf {
    fn cut(&self, each: u64, several: bool) -> Vec<Piece> {
        let of = if several { format!(" of {}", self.words) } else { String::new() };
        // ONLY: what inherits from it is a leaf of its own.
        let only = format!("ONLY {}", self.quoted);
        if !self.is_local || self.pages <= each {
            return vec![Piece { from: only, condition: None, words: format!("all rows{of}") }];
        }
        let count = self.pages.div_ceil(each);
        let piece = |index: u64| {
            let (from, to) = (index * each, (index + 1) * each);
            let tid = |page: u64| literal(&format!("({page},0)"));
            // The last one is open, so that nothing depends on the size being that of the snapshot.
            let (condition, words) = if index + 1 == count {
                (format!("ctid >= {}", tid(from)), format!("pages {from}.."))
            } else {
                (format!("ctid >= {} AND ctid < {}", tid(from), tid(to)), format!("pages {from}..{to}"))
            };
            Piece { from: only.clone(), condition: Some(condition), words: format!("{words}{of}") }
        };
        (0..count).map(piece).collect()
    }
}

/// Pieces by ranges of `keys`, of what stands behind FROM; about so many as are `wished`.
pub(super) async fn by_key(
    connection: &mut Connection,
    from: &str,
    keys: &[&Column],
    wished: usize,
) -> Answer<Vec<Piece>> {
    let names: Vec<_> = keys.iter().map(|key| quote(&key.name).unwrap_or_default()).collect();
    let list = names.join(", ");
    // IS NOT NULL looks into composite values.
    let present = names.iter().map(|name| format!("{name} IS DISTINCT FROM NULL")).collect::<Vec<_>>().join(" AND ");
    let sample = sample(connection, from, &list, &names, &present).await?;
    // A bound is a row of constants of the types of the keys.
    let bound = |row: &Vec<String>| {
        let constants = row.iter().zip(keys).map(|(text, key)| format!("{}::{}", literal(text), key.type_name));
        format!("({})", constants.collect::<Vec<_>>().join(", "))
    };
    let mut bounds: Vec<_> = (1..wished).filter_map(|index| sample.get(sample.len() * index / wished)).collect();
    bounds.dedup();
    let (mut pieces, mut below) = (Vec::with_capacity(bounds.len() + 2), None);
    let piece = |condition: Option<String>, words: String| Piece { from: from.to_owned(), condition, words };
    for above in bounds.iter().map(|row| Some(bound(row))).chain([None]) {
        // A row compares by its first difference, so a null behind that would not be noticed.
        let mut condition = present.clone();
        condition.extend(below.iter().map(|bound| format!(" AND ({list}) >= {bound}")));
        condition.extend(above.iter().map(|bound| format!(" AND ({list}) < {bound}")));
        // Keys are values of rows, which plans and logs do not show.
        pieces.push(piece(Some(condition), format!("range {} of {list}", pieces.len() + 1)));
        below = above;
    }
    // Also where the key is declared NOT NULL, which does not bind tables that inherit it.
    pieces.push(piece(Some(format!("NOT ({present})")), format!("nulls of {list}")));
    Ok(pieces)
}

/// Keys of some thousand rows, in their order, as text.
async fn sample(
    connection: &mut Connection,
    from: &str,
    list: &str,
    names: &[String],
    present: &str,
) -> Answer<Vec<Vec<String>>> {
    const ROWS: f64 = 20_000.0;
    // With names of their own, for ORDER BY would take a name of what is selected for the text of it.
    let texts = names.iter().enumerate().map(|(index, name)| format!("{name}::text AS _etlrs_{index}"));
    let texts = texts.collect::<Vec<_>>().join(", ");
    let explained = text(connection, &format!("EXPLAIN (FORMAT JSON) SELECT {list} FROM {from}"), &[]).await?;
    let share = explained.as_deref().and_then(planned_rows).map_or(1.0, |rows| (ROWS / rows.max(1.0)).min(1.0));
    let sql = format!(
        "SELECT {texts} FROM (SELECT {list} FROM {from} WHERE {present} AND random() < {share:e}::float8 LIMIT {}) AS sample
         ORDER BY {list}",
        ROWS as u64 * 10
    );
    let found = rows(connection, &sql, &[]).await?;
    found.iter().map(|row| (0..names.len()).map(|index| row.get(index)).collect()).collect()
}

/// The number of rows that the planner expects.
fn planned_rows(plan: &str) -> Option<f64> {
    let (_, rest) = plan.split_once("\"Plan Rows\":")?;
    rest.split([',', '\n', '}']).next()?.trim().parse().ok()
}
