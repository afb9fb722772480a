use etlrs_core::{Error, ErrorKind, Result};

use crate::table::TableName;

/// Characters of a name at the most.
const LONGEST: usize = 64;

/// `name` as an identifier of SQL.
///
/// # Errors
/// `InvalidConfig` for a name that MySQL cannot have: an empty one, one with NUL or with a character beyond U+FFFF, one that
/// ends with a blank, one of more than 64 characters
/// (<https://dev.mysql.com/doc/refman/8.4/en/identifiers.html>).
pub(super) fn quote(name: &str) -> Result<String> {
    let wrong = |message: String| Err(Error::new(ErrorKind::InvalidConfig, message));
    if name.is_empty() {
        return wrong("a name is empty".into());
    }
    if name.contains('\0') {
        return wrong(format!("the name {name:?} has a NUL character in it"));
    }
    if let Some(character) = name.chars().find(|character| *character > '\u{ffff}') {
        return wrong(format!("the name {name:?} has {character:?} in it, and MySQL keeps no character beyond U+FFFF"));
    }
    if name.ends_with(' ') {
        return wrong(format!("the name {name:?} ends with a blank, which MySQL does not keep"));
    }
    let length = name.chars().count();
    if length > LONGEST {
        return wrong(format!("the name {name:?} has {length} characters, and MySQL keeps {LONGEST}"));
    }
    Ok(format!("`{}`", name.replace('`', "``")))
}

/// A name that the server itself gave to a column of a result, as an identifier.
pub(super) fn quote_given(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A table is a file of its name, with `@` and some digits for most characters
/// (<https://dev.mysql.com/doc/refman/8.4/en/identifier-mapping.html>).
///
/// # Errors
/// `InvalidConfig` for a name whose file would have a name that is too long.
pub(super) fn check_file_name(name: &str) -> Result<()> {
    /// Bytes of a name, without the end that tells what is in the file.
    const LONGEST: usize = 251;
    let bytes = |character: char| match character {
        '0'..='9' | 'A'..='Z' | 'a'..='z' | '_' => 1,
        '\u{c0}'..='\u{2af}' | '\u{370}'..='\u{58f}' | '\u{1e00}'..='\u{1fff}' => 3,
        '\u{2160}'..='\u{217f}' | '\u{24b6}'..='\u{24e9}' | '\u{ff21}'..='\u{ff5a}' => 3,
        _ => 5,
    };
    let length: usize = name.chars().map(bytes).sum();
    if length > LONGEST {
        let message =
            format!("the name {name:?} is too long for a file of the server, in which it takes {length} bytes");
        return Err(Error::new(ErrorKind::InvalidConfig, message).hint("choose a shorter name"));
    }
    Ok(())
}

/// `text` as a constant of SQL, whatever the mode of the server is.
pub(super) fn literal(text: &str) -> String {
    format!("_utf8mb4 {}", hexadecimal(text.as_bytes()))
}

/// Bytes as a constant of SQL.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut sql = String::with_capacity(bytes.len() * 2 + 3);
    sql.push_str("X'");
    for byte in bytes {
        _ = write!(sql, "{byte:02X}");
    }
    sql.push('\'');
    sql
}

impl TableName {
    /// As SQL of MySQL names it.
    ///
    /// # Errors
    /// As [`quote`] does.
    pub(super) fn backquoted(&self) -> Result<String> {
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
        assert_eq!(quote("a`b").unwrap(), "`a``b`");
        assert_eq!(literal("a'"), "_utf8mb4 X'6127'");
        for name in ["", "a\0", "a ", "😀", &"é".repeat(65)] {
            assert!(quote(name).is_err(), "{name}");
        }
        assert!(quote(&"é".repeat(64)).is_ok());
    }
}
