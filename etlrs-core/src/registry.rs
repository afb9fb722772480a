use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::options::similar;
use crate::{Error, ErrorKind, Extractor, Loader, OptionSpec, Result, Uri};

/// Option values by key, as a user gave them; the connector checks them.
pub type OptionMap = BTreeMap<String, String>;

/// A table of a database that holds several.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableEntry {
    /// Its bare name.
    pub name: String,
    /// As it is written after `#` in a URI.
    pub fragment: String,
}

impl TableEntry {
    /// The table `name`, which a URI calls `fragment`.
    pub fn new(name: impl Into<String>, fragment: impl Into<String>) -> Self {
        Self { name: name.into(), fragment: fragment.into() }
    }
}

/// What makes a URI into an extractor or a loader.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Name in `etlrs connectors NAME` ("csv").
    fn name(&self) -> &'static str;
    /// What it reads and writes, in a line.
    fn summary(&self) -> &'static str;
    /// A URI to show in help texts.
    fn example(&self) -> &'static str;
    /// URI schemes that it serves ("sqlite").
    fn schemes(&self) -> &'static [&'static str] {
        &[]
    }
    /// File extensions that it serves, without the first dot and in lower case; `csv.gz` is one of its own.
    fn extensions(&self) -> &'static [&'static str] {
        &[]
    }
    /// URI schemes of places besides the local file system where its files can be (`s3`).
    fn file_schemes(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether a source called `-`, standard input in no format that is named, is for it.
    fn serves_stdin(&self) -> bool {
        false
    }
    /// Options of its extractor; `None`: it does not read.
    fn source_options(&self) -> Option<Vec<OptionSpec>>;
    /// Options of its loader; `None`: it does not write.
    fn target_options(&self) -> Option<Vec<OptionSpec>>;

    /// Tables whose names match what stands after `#`, where `*` is any text and `?` any character, in the order of their
    /// names; one that is called just so is the only one. Without a `#` all tables. Views are none. `None`: it has no tables.
    ///
    /// # Errors
    /// Those of [`Extractor::scan`].
    async fn tables(&self, uri: &Uri, options: &OptionMap) -> Result<Option<Vec<TableEntry>>> {
        let _ = (uri, options);
        Ok(None)
    }

    /// What stands after `#` for a table `name`, where `pattern` has a `*` for it.
    ///
    /// # Errors
    /// `InvalidConfig` for a pattern that is no name.
    fn table_fragment(&self, pattern: &str, name: &str) -> Result<String> {
        Ok(pattern.replacen('*', name, 1))
    }

    /// # Errors
    /// `InvalidConfig` for a wrong URI or option.
    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>>;

    /// # Errors
    /// `InvalidConfig` for a wrong URI or option.
    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>>;
}

/// Whether `name` is matched by `pattern`, in which `*` is any text and `?` any character.
pub fn matches_pattern(name: &str, pattern: &str) -> bool {
    let (name, pattern): (Vec<char>, Vec<char>) = (name.chars().collect(), pattern.chars().collect());
    // Where to go on when the text that the last `*` stands for has to be longer.
    let (mut at, mut of, mut again) = (0, 0, None);
    while at < name.len() {
        match pattern.get(of) {
            Some('*') => {
                again = Some((at, of));
                of += 1;
            }
            Some(&character) if character == '?' || character == name[at] => (at, of) = (at + 1, of + 1),
            _ => match &mut again {
                Some((from, star)) => {
                    *from += 1;
                    (at, of) = (*from, *star + 1);
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|character| *character == '*')
}

/// The connectors of a program, found by scheme or by file extension.
#[derive(Clone, Default)]
pub struct Registry {
    connectors: Vec<Arc<dyn Connector>>,
}

impl Registry {
    /// Without connectors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connector; a later one wins over an earlier one for the same scheme or extension.
    #[must_use]
    pub fn with(mut self, connector: impl Connector + 'static) -> Self {
        self.connectors.push(Arc::new(connector));
        self
    }

    /// All connectors, in the order in which they were added.
    pub fn connectors(&self) -> &[Arc<dyn Connector>] {
        &self.connectors
    }

    /// The connector that serves `uri`.
    ///
    /// # Errors
    /// `InvalidConfig`, listing what is served.
    pub fn find(&self, uri: &Uri) -> Result<&Arc<dyn Connector>> {
        let mut latest_first = self.connectors.iter().rev();
        let is_file_scheme = |connector: &Arc<dyn Connector>| {
            uri.scheme().is_none_or(|scheme| connector.file_schemes().contains(&scheme) && uri.body().starts_with("//"))
        };
        if let Some(scheme) = uri.scheme().filter(|_| !self.connectors.iter().any(is_file_scheme)) {
            let found = latest_first.clone().find(|connector| connector.schemes().contains(&scheme));
            // The name of a format before a name that does not tell it: csv:-, csv:data/.
            let is_format = |connector: &&Arc<dyn Connector>| {
                connector.name() == scheme && connector.schemes().is_empty() && !uri.body().starts_with("//")
            };
            let found = found.or_else(|| latest_first.find(is_format));
            let nested = Uri::new(uri.body());
            if found.is_some_and(|connector| connector.schemes().is_empty())
                && let Some(other) = nested.scheme().filter(|_| nested.body().starts_with("//"))
                && !self.connectors.iter().any(|connector| connector.file_schemes().contains(&other))
            {
                let message = format!("{scheme}: is for files, and {other}: names none");
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint(format!("leave out {scheme}:")));
            }
            return found.ok_or_else(|| {
                let served = format!("the schemes are {}, and files need none", list(&self.schemes()));
                let error = Error::new(ErrorKind::InvalidConfig, format!("no connector serves {scheme}:"));
                // With // after it, it is meant as a scheme. What follows may be a password.
                let is_url = uri.body().starts_with("//");
                let file = if is_url { "" } else { "; before the name of a file that has a colon stands ./" };
                error.hint(format!("{served}{file}"))
            });
        }
        if uri.body() == "-" {
            return latest_first.find(|connector| connector.serves_stdin()).ok_or_else(|| {
                Error::new(ErrorKind::Unsupported, "no connector serves standard input").hint("name a file")
            });
        }
        let extension = uri.extension();
        if let Some((file, table)) = uri.body().rsplit_once('#').filter(|(file, _)| file.contains('.')) {
            let served =
                self.connectors.iter().find(|c| c.extensions().iter().any(|name| file.ends_with(&format!(".{name}"))));
            if let Some(scheme) = served.and_then(|connector| connector.schemes().first()) {
                return Err(Error::new(ErrorKind::InvalidConfig, "a table is named only after a scheme")
                    .hint(format!("write {scheme}:{file}#{table}"))
                    .in_source(uri));
            }
        }
        let serves = |connector: &&Arc<dyn Connector>| {
            is_file_scheme(connector) && connector.extensions().iter().any(|name| uri.has_extension(name))
        };
        let found = latest_first.find(serves);
        found.ok_or_else(|| {
            // Those of compressed files would be many, and it is known what they are made of.
            let simple = |name: &&&'static str| !name.contains('.');
            let extensions: Vec<_> = self.connectors.iter().flat_map(|c| c.extensions()).filter(simple).collect();
            // What follows a question mark may be a secret.
            let is_plain = |extension: &String| extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let message = match extension.filter(is_plain) {
                Some(extension) => {
                    let guess = similar(&extension, extensions.iter().map(|name| **name));
                    let guess = guess.map_or(String::new(), |guess| format!(" (did you mean .{guess}?)"));
                    format!("no connector serves files that end in .{extension}{guess}")
                }
                None => "the name has no extension that tells its format".to_owned(),
            };
            let formats = self.connectors.iter().filter(|connector| connector.schemes().is_empty());
            let formats: Vec<_> = formats.map(|connector| format!("{}:{uri}", connector.name())).collect();
            let before = if formats.is_empty() {
                String::new()
            } else {
                format!("name the format before it, as in {}; ", formats.join(" or "))
            };
            let known = format!("the extensions are {}, the schemes {}", list(&extensions), list(&self.schemes()));
            Error::new(ErrorKind::InvalidConfig, message).hint(before + &known).in_source(uri)
        })
    }

    /// All schemes, each once.
    fn schemes(&self) -> Vec<&&'static str> {
        let own = self.connectors.iter().flat_map(|connector| connector.schemes());
        let of_files = self.connectors.iter().flat_map(|connector| connector.file_schemes());
        let mut schemes: Vec<&&'static str> = Vec::new();
        for scheme in own.chain(of_files) {
            if !schemes.contains(&scheme) {
                schemes.push(scheme);
            }
        }
        schemes
    }
}

fn list(names: &[&&'static str]) -> String {
    names.iter().map(|name| **name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_names() {
        for (name, pattern, expected) in [
            ("orders", "*", true),
            ("orders", "ord*", true),
            ("orders", "*d?rs", true),
            ("orders", "*x*", false),
            ("orders", "order", false),
            ("orders", "orders?", false),
            ("", "*", true),
            ("aab", "*ab", true),
            ("é", "?", true),
        ] {
            assert_eq!(matches_pattern(name, pattern), expected, "{name} {pattern}");
        }
    }
}
