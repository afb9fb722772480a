use etlrs_core::{Error, ErrorKind, Result};

use crate::table::TableName;

/// Bytes of a name that PostgreSQL keeps; of a longer one it would cut the end off without an error.
const LONGEST: usize = 63;

/// `name` as an identifier of SQL.
///
/// # Errors
/// `InvalidConfig` for a name that PostgreSQL cannot have: an empty one, one with NUL, one of more than 63 bytes.
pub(super) fn quote(name: &str) -> Result<String> {
    let wrong = |message: String| Err(Error::new(ErrorKind::InvalidConfig, message));
    if name.is_empty() {
        return wrong("a name is empty".into());
    }
    if name.contains('\0') {
        return wrong(format!("the name {name:?} has a NUL character in it"));
    }
    if name.len() > LONGEST {
        return wrong(format!("the name {name:?} has {} bytes, and PostgreSQL keeps {LONGEST}", name.len()));
    }
    Ok(format!("\"{}\"", name.replace('"', "\"\"")))
}

/// `text` as a constant of SQL, whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    if text.contains('\\') {
        return format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    }
    format!("'{}'", text.replace('\'', "''"))
}

impl TableName {
    /// As SQL names it.
    ///
    /// # Errors
    /// As [`quote`] does.
    pub(super) fn quoted(&self) -> Result<String> {
        let name = quote(&self.name)?;
        Ok(match &self.schema {
            Some(schema) => format!("{}.{name}", quote(schema)?),
            None => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_constants_are_quoted() {
        assert!(quote(&"x".repeat(64)).is_err() && quote(&"x".repeat(63)).is_ok());
        assert_eq!(quote("a\"b").unwrap(), "\"a\"\"b\"");
        assert_eq!(literal("a'b\\"), "E'a''b\\\\'");
    }
}
