//! Many tables of a database at once.

use etlrs_core::{Error, ErrorKind, OptionMap, Registry, Result, Uri};

/// Whether the fragment of a URI is a pattern: it has `*` or `?` outside quotes.
fn is_pattern(fragment: &str) -> bool {
    let mut quote = None;
    fragment.chars().any(|character| match quote {
        Some(open) => {
            if character == open {
                quote = None;
            }
            false
        }
        None => {
            quote = Some(character).filter(|character| matches!(character, '"' | '`'));
            matches!(character, '*' | '?')
        }
    })
}

/// The tables that `source` stands for when it names none (`sqlite:shop.db`), or when what follows its `#` is a pattern; `None` for
/// any other.
///
/// # Errors
/// What the database says.
pub async fn list_tables(registry: &Registry, source: &Uri, options: &OptionMap) -> Result<Option<Vec<Uri>>> {
    let fragment = source.fragment().filter(|fragment| !fragment.is_empty());
    if fragment.is_some_and(|fragment| !is_pattern(fragment)) {
        return Ok(None);
    }
    let Some(found) = registry.find(source)?.tables(source, options).await? else { return Ok(None) };
    if found.iter().any(|entry| Some(entry.fragment.as_str()) == fragment) {
        return Ok(None);
    }
    let whole = source.expose();
    let before = fragment.and_then(|fragment| whole.strip_suffix(fragment)).unwrap_or(whole).trim_end_matches('#');
    Ok(Some(found.iter().map(|entry| Uri::new(format!("{before}#{}", entry.fragment))).collect()))
}

/// The source and the target of each table that `source` stands for, if what follows its `#` is a pattern
/// (`postgres://…#public.*`); `target` has a `*` for their names (`backup/*.parquet`, `mysql://…#*`).
///
/// Any other source is given back with its target as they are.
///
/// # Errors
/// `NotFound` if no table matches, `InvalidConfig` for a target without a place for the names, and what the database says.
pub async fn tables(registry: &Registry, source: &Uri, options: &OptionMap, target: &Uri) -> Result<Vec<(Uri, Uri)>> {
    let one = || Ok(vec![(source.clone(), target.clone())]);
    let Some(pattern) = source.fragment().filter(|fragment| is_pattern(fragment)) else { return one() };
    let Some(found) = registry.find(source)?.tables(source, options).await? else { return one() };
    if let [only] = found.as_slice()
        && only.fragment == pattern
    {
        return one();
    }
    if found.is_empty() {
        let message = format!("no table matches {pattern}");
        return Err(Error::new(ErrorKind::NotFound, message).in_source(source));
    }
    // Not in the password of a URL.
    let whole = target.expose();
    let (user, place) = match whole.rfind('@').filter(|_| whole.contains("://")) {
        Some(at) => whole.split_at(at),
        None => ("", whole),
    };
    if !place.contains('*') {
        let message = format!("the target has no * for the names of {} tables", found.len());
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .hint("write a folder and a format, as in backup/*.parquet, or the tables of a database, as in sqlite:backup.db#*")
            .in_source(target));
    }
    let before = source.expose().strip_suffix(pattern).unwrap_or_default();
    let mut pairs = Vec::with_capacity(found.len());
    for entry in found {
        let place = match target.fragment() {
            Some(fragment) if fragment.contains('*') => {
                let filled = registry.find(target)?.table_fragment(fragment, &entry.name)?;
                format!("{}{filled}", target.expose().strip_suffix(fragment).unwrap_or_default())
            }
            _ => format!("{user}{}", place.replacen('*', &file_name(&entry.name), 1)),
        };
        pairs.push((Uri::new(format!("{before}{}", entry.fragment)), Uri::new(place)));
    }
    Ok(pairs)
}

/// A name of a table as that of a file.
fn file_name(table: &str) -> String {
    let mut name = String::with_capacity(table.len());
    for character in table.chars() {
        // What would end the name or name another folder, what a shell or a pattern takes for something else, and `%` itself.
        if character.is_control() || matches!(character, '/' | '\\' | '*' | '?' | '[' | '#' | ':' | '%') {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                name.push_str(&format!("%{byte:02x}"));
            }
        } else {
            name.push(character);
        }
    }
    // A file of that name would be hidden, or the folder itself.
    match name.strip_prefix('.') {
        Some(rest) => format!("%2e{rest}"),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_outside_quotes() {
        for (fragment, expected) in
            [("*", true), ("public.*", true), ("a?", true), ("orders", false), ("\"a*\"", false), ("\"a*\".*", true)]
        {
            assert_eq!(is_pattern(fragment), expected, "{fragment}");
        }
    }

    #[test]
    fn names_of_tables_are_names_of_files() {
        for (table, expected) in
            [("orders", "orders"), ("a/b", "a%2fb"), ("..", "%2e."), ("é #1", "é %231"), ("50%", "50%25")]
        {
            assert_eq!(file_name(table), expected);
        }
    }
}
