//! Pieces of a table that together hold each of its rows once.
//!
//! Pieces are ranges of a key with open ends, so that no row can be missed, whatever the bounds are; bounds only decide how
//! even the pieces are. Those of whole numbers are found by halving the piece that has most rows by the estimate of the server,
//! which looks them up in the index; those of other keys are quantiles of a sample.

use super::catalog::{Column, Index, Relation};
use super::name::{hexadecimal, literal, quote};
use super::wire::{Answer, Connection, code};

/// Bytes of a piece, about: small enough to be taken as workers come free.
const PIECE_BYTES: u64 = 16 << 20;
const MOST_PIECES: u64 = 128;

/// A piece, as a condition and as words for a plan.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) condition: Option<String>,
    pub(super) words: String,
}

impl Piece {
    pub(super) fn whole() -> Self {
        Self { condition: None, words: "all".into() }
    }
}

/// The columns to split by: those that the user names, or a key under which the table itself is kept.
pub(super) fn key<'c>(relation: &'c Relation, indexes: &[Index], named: &[&'c Column]) -> Vec<&'c Column> {
    if !named.is_empty() {
        return named.to_vec();
    }
    // InnoDB keeps the rows by the first of these (the documentation's "clustered index").
    let index = indexes.iter().find(|index| index.unique && index.whole && !index.nullable);
    let columns = index.map(|index| index.columns.iter().map(|name| relation.column(name)).collect::<Option<Vec<_>>>());
    columns.flatten().filter(|columns| columns.iter().all(|column| kind(column).is_some())).unwrap_or_default()
}

/// How many pieces a table should have.
pub(super) fn count(relation: &Relation, wished: Option<usize>) -> usize {
    wished.unwrap_or_else(|| usize::try_from((relation.bytes / PIECE_BYTES).clamp(1, MOST_PIECES)).unwrap_or(1))
}

/// How constants of a type are written.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Integer,
    /// Digits and a point, or a date and a time.
    Number,
    Text,
    Bytes,
}

fn kind(column: &Column) -> Option<Kind> {
    Some(match column.data_type.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Kind::Integer,
        "decimal" | "date" | "datetime" | "timestamp" => Kind::Number,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "uuid" | "inet6" => Kind::Text,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes,
        _ => return None,
    })
}

/// Whether rows can be split by it.
pub(super) fn is_usable(column: &Column) -> bool {
    kind(column).is_some()
}

/// Pieces by ranges of `keys`; about so many as are `wished`.
pub(super) async fn by_key(
    connection: &mut Connection,
    relation: &Relation,
    indexes: &[Index],
    keys: &[&Column],
    wished: usize,
) -> Answer<Vec<Piece>> {
    let names: Vec<_> = keys.iter().map(|key| quote(&key.name).unwrap_or_default()).collect();
    let from = relation.name.backquoted().unwrap_or_default();
    let leads =
        |index: &&Index| index.whole && keys.first().is_some_and(|key| index.columns.first() == Some(&key.name));
    let bounds: Vec<Vec<String>> = match (keys.first().and_then(|key| kind(key)), indexes.iter().find(leads)) {
        (Some(Kind::Integer), Some(index)) => {
            let index = quote(&index.name).unwrap_or_default();
            match halve(connection, &from, &names[0], &index, wished).await {
                // The server keeps the index and does not use it.
                Err(error) if code(&error) == Some(1176) => quantiles(connection, &from, keys, &names, wished).await?,
                bounds => bounds?,
            }
        }
        _ => quantiles(connection, &from, keys, &names, wished).await?,
    };
    // Not `IS NULL`, which 0000-00-00 in a column that is NOT NULL is as well.
    let nullable: Vec<_> = keys.iter().zip(&names).filter(|(key, _)| !key.not_null).map(|(_, name)| name).collect();
    let present = nullable.iter().map(|name| format!("NOT {name} <=> NULL")).collect::<Vec<_>>();
    let list = names.join(", ");
    let (mut pieces, mut below) = (Vec::with_capacity(bounds.len() + 2), None);
    for above in bounds.iter().map(Some).chain([None]) {
        let mut terms = present.clone();
        terms.extend(below.map(|bound: &Vec<String>| beyond(&names, bound, true)));
        terms.extend(above.map(|bound| beyond(&names, bound, false)));
        let condition = (!terms.is_empty()).then(|| terms.join(" AND "));
        // Keys are values of rows, which plans and logs do not show.
        pieces.push(Piece { condition, words: format!("range {} of {list}", pieces.len() + 1) });
        below = above;
    }
    if !nullable.is_empty() {
        let absent = nullable.iter().map(|name| format!("{name} <=> NULL")).collect::<Vec<_>>().join(" OR ");
        pieces.push(Piece { condition: Some(format!("({absent})")), words: format!("nulls of {list}") });
    }
    Ok(pieces)
}

/// Rows at or after a bound, or those before it. The server uses no index for a comparison of rows, so it is spelled out, with
/// the first column once more in front.
fn beyond(names: &[String], bound: &[String], after: bool) -> String {
    let (strict, or_equal) = if after { (">", ">=") } else { ("<", "<=") };
    let mut all = String::new();
    for (index, (name, constant)) in names.iter().zip(bound).enumerate().rev() {
        all = if index + 1 == bound.len() {
            format!("{name} {} {constant}", if after { ">=" } else { "<" })
        } else {
            format!("({name} {strict} {constant} OR ({name} = {constant} AND {all}))")
        };
    }
    match (names.first(), bound) {
        (Some(name), [first, _, ..]) => format!("{name} {or_equal} {first} AND {all}"),
        _ => all,
    }
}

/// Bounds of a column of whole numbers.
async fn halve(
    connection: &mut Connection,
    from: &str,
    name: &str,
    index: &str,
    wished: usize,
) -> Answer<Vec<Vec<String>>> {
    let found = connection.rows(&format!("SELECT min({name}), max({name}) FROM {from}")).await?;
    let Some(row) = found.first() else { return Ok(Vec::new()) };
    let (least, most): (Option<&str>, Option<&str>) = (row.get(0)?, row.get(1)?);
    let (Some(least), Some(most)) = (least.and_then(number), most.and_then(number)) else { return Ok(Vec::new()) };
    let mut ranges = vec![(estimate(connection, from, name, index, least, most).await?, least, most)];
    let goal = ranges[0].0 / wished.max(1) as u64;
    while ranges.len() < wished {
        let Some(largest) =
            (0..ranges.len()).filter(|index| ranges[*index].1 < ranges[*index].2).max_by_key(|i| ranges[*i].0)
        else {
            break;
        };
        let (rows, low, high) = ranges[largest];
        if rows <= goal {
            break;
        }
        let middle = low + (high - low) / 2;
        let lower = estimate(connection, from, name, index, low, middle).await?;
        let upper = estimate(connection, from, name, index, middle + 1, high).await?;
        ranges.splice(largest..=largest, [(lower, low, middle), (upper, middle + 1, high)]);
    }
    Ok(ranges.iter().skip(1).map(|(_, low, _)| vec![low.to_string()]).collect())
}

fn number(text: &str) -> Option<i128> {
    text.parse().ok()
}

/// Rows in a range, as the server finds by looking up both ends.
async fn estimate(
    connection: &mut Connection,
    from: &str,
    name: &str,
    index: &str,
    low: i128,
    high: i128,
) -> Answer<u64> {
    let sql =
        format!("EXPLAIN SELECT {name} FROM {from} FORCE INDEX ({index}) WHERE {name} >= {low} AND {name} <= {high}");
    planned_rows(connection, &sql).await
}

async fn planned_rows(connection: &mut Connection, explain: &str) -> Answer<u64> {
    // id, select_type, table, (partitions,) type, possible_keys, key, key_len, ref, rows
    let column = if connection.is_mariadb() { 8 } else { 9 };
    let found = connection.rows(explain).await?;
    let rows = found.first().map(|row| row.get::<Option<&str>, _>(column)).transpose()?.flatten();
    Ok(rows.and_then(|rows| rows.parse().ok()).unwrap_or(0))
}

/// Bounds of any key, from a sample.
async fn quantiles(
    connection: &mut Connection,
    from: &str,
    keys: &[&Column],
    names: &[String],
    wished: usize,
) -> Answer<Vec<Vec<String>>> {
    const ROWS: f64 = 20_000.0;
    let texts = keys.iter().zip(names).map(|(key, name)| match kind(key) {
        Some(Kind::Text) => format!("hex(CONVERT({name} USING utf8mb4))"),
        Some(Kind::Bytes) => format!("hex({name})"),
        _ => format!("CAST({name} AS CHAR)"),
    });
    let (texts, list) = (texts.collect::<Vec<_>>().join(", "), names.join(", "));
    let present = names.iter().map(|name| format!("NOT {name} <=> NULL")).collect::<Vec<_>>().join(" AND ");
    let rows = planned_rows(connection, &format!("EXPLAIN SELECT {list} FROM {from}")).await?;
    let share = (ROWS / rows.max(1) as f64).min(1.0);
    let sql = format!(
        "SELECT {texts} FROM {from} WHERE rand() < {share:.9} AND {present} ORDER BY {list} LIMIT {}",
        ROWS as u64 * 10
    );
    let mut sample = Vec::new();
    // As far as keys differ, for the bounds must ascend. Not for other statements: a server sorts by so much memory at least.
    connection.execute("SET SESSION max_sort_length = 8388608").await?;
    let found = connection.rows(&sql).await;
    connection.execute("SET SESSION max_sort_length = DEFAULT").await?;
    let found = match found {
        // Keys that are too long to be sorted are in one piece.
        Err(error) if code(&error) == Some(1038) => Vec::new(),
        found => found?,
    };
    for row in found {
        let constants = keys.iter().enumerate().map(|(index, key)| Ok(constant(key, row.get(index)?)));
        // What is no constant beyond doubt, a date that is none, is no bound.
        if let Some(bound) = constants.collect::<Answer<Option<Vec<String>>>>()? {
            sample.push(bound);
        }
    }
    let mut bounds: Vec<_> =
        (1..wished).filter_map(|index| sample.get(sample.len() * index / wished)).cloned().collect();
    bounds.dedup();
    Ok(bounds)
}

/// A value of a key as SQL.
fn constant(key: &Column, text: &str) -> Option<String> {
    let decode = || -> Option<Vec<u8>> {
        let digits = text.as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
    };
    match kind(key)? {
        Kind::Integer => number(text).map(|number| number.to_string()),
        Kind::Number => {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b':' | b'.' | b' '));
            let is_date = key.data_type != "decimal";
            let odd = is_date && (text.starts_with("0000") || text.contains("-00"));
            (plain && !odd).then(|| if is_date { format!("'{text}'") } else { text.to_owned() })
        }
        Kind::Text => Some(literal(&String::from_utf8(decode()?).ok()?)),
        Kind::Bytes => Some(hexadecimal(&decode()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_column_by_column() {
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let bound = ["1".to_owned(), "2".to_owned(), "3".to_owned()];
        assert_eq!(beyond(&names, &bound, true), "a >= 1 AND (a > 1 OR (a = 1 AND (b > 2 OR (b = 2 AND c >= 3))))");
        assert_eq!(beyond(&names, &bound, false), "a <= 1 AND (a < 1 OR (a = 1 AND (b < 2 OR (b = 2 AND c < 3))))");
        assert_eq!(beyond(&names[..1], &bound[..1], false), "a < 1");
        // Bounds of the first column alone.
        assert_eq!(beyond(&names, &bound[..1], true), "a >= 1");
    }
}
