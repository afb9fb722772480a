//! A table, and what may become of it behind the back of who loaded it.

use std::fmt::Write;
use std::path::Path;

use crate::random::Random;

/// Columns, of which the first is a key.
pub const COLUMNS: [&str; 7] = ["id", "n", "f", "t", "day", "at", "flag"];

/// Rows of values as CSV has them; `None` is null.
pub type Rows = Vec<[Option<String>; COLUMNS.len()]>;

/// One thing that is wrong with a table.
#[derive(Clone, Debug)]
pub enum Corruption {
    /// A cell has another value.
    Changed {
        /// Which row.
        row: usize,
        /// Which column.
        column: usize,
        /// The other value.
        value: Option<String>,
    },
    /// A row is gone.
    Lost {
        /// Which row.
        row: usize,
    },
    /// A row is there twice.
    Doubled {
        /// Which row.
        row: usize,
    },
    /// Two rows have exchanged their values of a column.
    Swapped {
        /// Which rows.
        rows: [usize; 2],
        /// Which column.
        column: usize,
    },
}

/// A dialect of SQL, as far as values are written in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dialect {
    /// That of PostgreSQL.
    Postgres,
    /// That of MySQL and MariaDB.
    MySql,
    /// That of SQLite.
    Sqlite,
}

fn value(random: &mut Random, column: usize, row: usize) -> Option<String> {
    let number = random.below(100_000);
    let is_null = column > 0 && random.below(9) == 0;
    (!is_null).then(|| match COLUMNS[column] {
        "id" => row.to_string(),
        "n" => (number as i64 - 50_000).to_string(),
        "f" => format!("{number}.5"),
        "t" => format!("text {} näme", number % 500),
        "day" => format!("20{:02}-{:02}-{:02}", number % 100, 1 + number % 12, 1 + number % 28),
        "at" => format!("2024-{:02}-{:02}T{:02}:{:02}:07Z", 1 + number % 12, 1 + number % 28, number % 24, number % 60),
        _ => number.is_multiple_of(2).to_string(),
    })
}

/// Rows of chance.
pub fn rows(random: &mut Random, count: usize) -> Rows {
    (0..count).map(|row| std::array::from_fn(|column| value(random, column, row))).collect()
}

/// Writes them as CSV.
pub fn write(path: &Path, rows: &Rows) {
    let mut text = COLUMNS.join(",") + "\n";
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| cell.as_deref().unwrap_or_default()).collect();
        writeln!(text, "{}", cells.join(",")).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

impl Corruption {
    /// Something that makes another table of `rows`.
    pub fn new(random: &mut Random, rows: &Rows) -> Self {
        loop {
            let (row, other) = (random.below(rows.len()), random.below(rows.len()));
            match random.below(4) {
                0 => {
                    let column = 1 + random.below(COLUMNS.len() - 1);
                    let value = value(random, column, row);
                    if value != rows[row][column] {
                        return Self::Changed { row, column, value };
                    }
                }
                1 => return Self::Lost { row },
                2 => return Self::Doubled { row },
                _ => {
                    let column = random.below(COLUMNS.len());
                    if rows[row][column] != rows[other][column] {
                        return Self::Swapped { rows: [row, other], column };
                    }
                }
            }
        }
    }

    /// Rows that are missing, changed and unexpected then, by their key.
    pub fn expected(&self) -> [u64; 3] {
        match self {
            Self::Changed { .. } => [0, 1, 0],
            Self::Lost { .. } => [1, 0, 0],
            Self::Doubled { .. } => [0, 0, 1],
            Self::Swapped { .. } => [0, 2, 0],
        }
    }

    /// The table as it is then.
    pub fn of(&self, rows: &Rows) -> Rows {
        let mut rows = rows.clone();
        match self {
            Self::Changed { row, column, value } => rows[*row][*column].clone_from(value),
            Self::Lost { row } => _ = rows.remove(*row),
            Self::Doubled { row } => rows.push(rows[*row].clone()),
            Self::Swapped { rows: [one, other], column } => {
                let value = rows[*one][*column].take();
                rows[*one][*column] = std::mem::replace(&mut rows[*other][*column], value);
            }
        }
        rows
    }

    /// What makes it of the table `t`, whose ids are the numbers of the rows.
    pub fn sql(&self, rows: &Rows, dialect: Dialect) -> String {
        let set = |row: usize, column: usize, value: &Option<String>| {
            format!("UPDATE t SET {} = {} WHERE id = {row};", COLUMNS[column], literal(column, value, dialect))
        };
        match self {
            Self::Changed { row, column, value } => set(*row, *column, value),
            Self::Lost { row } => format!("DELETE FROM t WHERE id = {row};"),
            Self::Doubled { row } => format!("INSERT INTO t SELECT * FROM t WHERE id = {row};"),
            Self::Swapped { rows: [one, other], column: 0 } => {
                format!(
                    "UPDATE t SET id = -1 WHERE id = {one}; UPDATE t SET id = {one} WHERE id = {other};
                     UPDATE t SET id = {other} WHERE id = -1;"
                )
            }
            Self::Swapped { rows: [one, other], column } => {
                set(*one, *column, &rows[*other][*column]) + &set(*other, *column, &rows[*one][*column])
            }
        }
    }
}

fn literal(column: usize, value: &Option<String>, dialect: Dialect) -> String {
    let Some(value) = value else { return "NULL".into() };
    match (COLUMNS[column], dialect) {
        ("id" | "n" | "f", _) => value.clone(),
        ("flag", Dialect::MySql | Dialect::Sqlite) => u8::from(value == "true").to_string(),
        ("at", Dialect::MySql) => format!("'{}'", value.replace('T', " ").replace('Z', "")),
        ("at", Dialect::Sqlite) => format!("'{}'", value.replace('T', " ").replace('Z', "+00:00")),
        _ => format!("'{value}'"),
    }
}
