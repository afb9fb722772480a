//! Names of tables, as users write them.

use std::fmt;

use etlrs_core::{Error, ErrorKind, Result};

/// A table or view, in a schema or wherever the search path finds it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TableName {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
}

impl TableName {
    /// As a user writes it: `orders`, `sales.orders`, or with quotes around a name that has a dot: `"2024.q1"`,
    /// `sales."2024.q1"`. The case of letters counts.
    ///
    /// # Errors
    /// `InvalidConfig` for what is none of these. What a database cannot have as a name it refuses when it quotes it.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let part;
            (part, rest) = first_part(rest).ok_or_else(|| malformed(text))?;
            if part.is_empty() || part.contains('\0') {
                return Err(malformed(text));
            }
            parts.push(part);
            match rest.strip_prefix('.') {
                Some(more) => rest = more,
                None if rest.is_empty() => break,
                None => return Err(malformed(text)),
            }
        }
        let name = parts.pop().unwrap_or_default();
        match parts.len() {
            0 => Ok(Self { schema: None, name }),
            1 => Ok(Self { schema: parts.pop(), name }),
            _ => Err(malformed(text)),
        }
    }
}

/// The error for a table that would be read and written by one run.
pub(crate) fn same_table() -> Error {
    Error::new(ErrorKind::InvalidConfig, "source and target are the same table")
        .hint("copy to another table, or use SQL within the database")
}

/// The name in quotes or before the next dot, and what follows.
fn first_part(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, rest)),
        }
    }
}

fn malformed(text: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{text:?} is not the name of a table"))
        .hint("write TABLE or SCHEMA.TABLE, with double quotes around a name that has a dot or a quote in it")
}

fn write_part(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    if name.contains(['.', '"']) { write!(f, "\"{}\"", name.replace('"', "\"\"")) } else { f.write_str(name) }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write_part(f, schema)?;
            f.write_str(".")?;
        }
        write_part(f, &self.name)
    }
}

impl fmt::Debug for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_tables() {
        for (text, expected) in [
            ("orders", Some((None, "orders"))),
            ("Sales.Orders", Some((Some("Sales"), "Orders"))),
            ("\"2024.q1\"", Some((None, "2024.q1"))),
            ("s.\"a\"\"b\"", Some((Some("s"), "a\"b"))),
            ("with space", Some((None, "with space"))),
            ("", None),
            (".a", None),
            ("a.", None),
            ("a.b.c", None),
            ("\"a", None),
            ("\"a\"b", None),
            ("a\0", None),
        ] {
            let found = TableName::parse(text).ok();
            let found = found.as_ref().map(|name| (name.schema.as_deref(), name.name.as_str()));
            assert_eq!(found, expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_parsed(schema in proptest::option::of("[a-zA-Z.\" ]{1,8}"), name in "[a-zA-Z.\" é]{1,8}") {
            let name = TableName { schema, name };
            prop_assert_eq!(TableName::parse(&name.to_string()).unwrap(), name);
        }
    }
}
