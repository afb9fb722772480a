//! Reading what is new since the last time, by a column that grows.
//!
//! The upper bound is fixed at the start, so that what is written meanwhile is left to the next run as a whole. Without a lag
//! the lower bound is exclusive: nothing is read twice, and a row that is committed later with a value that was read already is
//! missed. With a lag rows are read again, which a merge by their key puts right. Where the target keeps the position and merges,
//! the lower bound is inclusive, so that rows with the very value that was the last one are not missed.

use etlrs_core::{Error, ErrorKind, Result, ScanRequest};

/// The table in which a database keeps how far sources were read whose rows its tables have.
pub(crate) const SAVED: &str = "_etlrs_cursors";

/// What a user wishes of a cursor.
pub(crate) struct Cursor<'a> {
    pub(crate) column: &'a str,
    pub(crate) after: Option<&'a str>,
    pub(crate) lag: u32,
    /// Rows with the value `after` are read too.
    inclusive: bool,
}

/// A URL without the user, where whoever reads sees the same.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn without_user(place: &str) -> String {
    match place.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => place.to_owned(),
    }
}

/// What tells that a position is kept of one source from others: where it is, what is read of it, and by which column. `None`: there is
/// no cursor, or the user keeps the position.
pub(crate) fn kept_as(place: &str, subject: &str, column: &str, after: &str) -> Option<String> {
    const MOST: usize = 400;
    let kept = !column.is_empty() && after.is_empty();
    let name = format!("{place} {subject} by {column}");
    // A query may be long, and may have in it what others are not to see.
    kept.then(|| if name.len() > MOST { format!("{:016x} by {column}", crate::hash::hash(&name)) } else { name })
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
    pub(crate) fn new(column: &'a str, after: &'a str, lag: u32, request: &'a ScanRequest) -> Result<Option<Self>> {
        let after = (!after.is_empty()).then_some(after);
        let kept = request.after.as_ref().filter(|_| after.is_none());
        let inclusive = kept.is_some_and(|kept| kept.inclusive);
        let after = after.or(kept.map(|kept| kept.value.as_str()));
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
        Ok(Some(Self { column, after, lag, inclusive }))
    }

    /// The condition that rows are new; `after` is the constant that stands for that, with the lag taken off.
    pub(crate) fn newer(&self, quoted: &str, after: Option<&str>) -> String {
        match after {
            Some(after) if self.lag > 0 || self.inclusive => format!("{quoted} >= {after}"),
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
