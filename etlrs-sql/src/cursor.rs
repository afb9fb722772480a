//! Reading what is new since the last time, by a column that grows.
//!
//! The upper bound is fixed at the start, so that what is written meanwhile is left to the next run as a whole. Without a lag
//! the lower bound is exclusive: nothing is read twice, and a row that is committed later with a value that was read already is
//! missed. With a lag rows are read again, which a merge by their key puts right.

use etlrs_core::{Error, ErrorKind, Result};

/// What a user wishes of a cursor.
pub(crate) struct Cursor<'a> {
    pub(crate) column: &'a str,
    pub(crate) after: Option<&'a str>,
    pub(crate) lag: u32,
}

/// The rows that a cursor lets pass.
pub(crate) struct Bounds {
    /// As a condition of SQL.
    pub(crate) condition: String,
    /// The greatest value; `None`: there is none, now or before.
    pub(crate) reached: Option<String>,
}

impl<'a> Cursor<'a> {
    /// `None`: the user names none.
    ///
    /// # Errors
    /// `InvalidConfig` for what makes no sense without a cursor.
    pub(crate) fn new(column: &'a str, after: &'a str, lag: u32) -> Result<Option<Self>> {
        let after = (!after.is_empty()).then_some(after);
        if column.is_empty() {
            if after.is_none() && lag == 0 {
                return Ok(None);
            }
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "cursor_after and cursor_lag say nothing without a cursor",
            )
            .hint("name its column with the source option cursor"));
        }
        Ok(Some(Self { column, after, lag }))
    }

    /// The condition that rows are new; `after` is the constant that stands for that, with the lag taken off.
    pub(crate) fn newer(&self, quoted: &str, after: Option<&str>) -> String {
        match after {
            Some(after) if self.lag > 0 => format!("{quoted} >= {after}"),
            Some(after) => format!("{quoted} > {after}"),
            None => format!("{quoted} IS NOT NULL"),
        }
    }

    /// All rows that are new, up to the greatest value, a constant and its text, that there is of those.
    pub(crate) fn bounds(&self, newer: String, quoted: &str, greatest: Option<(String, String)>) -> Bounds {
        match greatest {
            Some((constant, text)) => {
                Bounds { condition: format!("{newer} AND {quoted} <= {constant}"), reached: Some(text) }
            }
            // Nothing is new, and what comes meanwhile is not either.
            None => Bounds { condition: "1 = 0".into(), reached: self.after.map(str::to_owned) },
        }
    }

    /// The error for a column whose values cannot be compared so.
    pub(crate) fn unusable(&self, type_name: &str) -> Error {
        let what = if self.lag > 0 { "a cursor with a lag" } else { "a cursor" };
        Error::new(ErrorKind::InvalidConfig, format!("a column of type {type_name} cannot be {what}"))
            .at_column(self.column)
            .hint("choose one of whole numbers, decimals, dates or times")
    }
}
