use std::fmt;
use std::path::Path;

/// Where a source or a target is, as a user writes it.
///
/// A path (`sales.csv`, `out.parquet/` for a directory), `-` for standard input or output, or something with a scheme
/// (`sqlite:shop.db#orders`, `postgres://user@host/db#public.orders`) whose part after `#` names a table. `Display`
/// and `Debug` hide a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri {
    text: String,
    scheme_end: Option<usize>,
    fragment_start: Option<usize>,
}

impl Uri {
    /// Takes `text` apart; any text is a URI or a path. A file whose name has a colon is written `./a:b.csv`.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let scheme_end = text.find(':').filter(|&end| {
            let scheme = &text[..end];
            end > 1
                && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+')
        });
        let fragment_start = scheme_end.and_then(|_| text.rfind('#'));
        Self { text, scheme_end, fragment_start }
    }

    /// All of it, passwords included.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What stands before the first colon.
    pub fn scheme(&self) -> Option<&str> {
        self.scheme_end.map(|end| &self.text[..end])
    }

    /// What stands between the scheme and the fragment.
    pub fn body(&self) -> &str {
        let start = self.scheme_end.map_or(0, |end| end + 1);
        &self.text[start..self.fragment_start.unwrap_or(self.text.len())]
    }

    /// The same, with a relative path taken as relative to `folder`. Anything with `//` after the scheme has no path.
    #[must_use]
    pub fn in_folder(self, folder: &Path) -> Self {
        let body = self.body();
        if body.starts_with('/') || body == "-" || folder.as_os_str().is_empty() {
            return self;
        }
        let scheme = self.scheme().map_or(String::new(), |scheme| format!("{scheme}:"));
        let fragment = self.fragment().map_or(String::new(), |fragment| format!("#{fragment}"));
        // A trailing slash, which says that it is a directory, is kept by joining.
        Self::new(format!("{scheme}{}{fragment}", folder.join(body).display()))
    }

    /// What stands after `#`: a table.
    pub fn fragment(&self) -> Option<&str> {
        self.fragment_start.map(|start| &self.text[start + 1..])
    }

    /// The body as a path of the local file system.
    pub fn path(&self) -> &Path {
        Path::new(self.body())
    }

    /// The last extension of the path, in lower case; that of `out.parquet/` is `parquet`.
    pub fn extension(&self) -> Option<String> {
        Some(Path::new(self.body().trim_end_matches('/')).extension()?.to_str()?.to_ascii_lowercase())
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.text.find("://").and_then(|start| {
            let start = start + 3;
            // The last @ before the path ends the credentials: a password may hold one itself.
            let authority = self.text[start..].find('/').map_or(self.text.len(), |end| start + end);
            let at = start + self.text[start..authority].rfind('@').or_else(|| self.text[start..].rfind('@'))?;
            let colon = start + self.text[start..at].find(':')?;
            Some((colon + 1, at))
        });
        match hidden {
            Some((from, to)) => write!(f, "{}***{}", &self.text[..from], &self.text[to..]),
            None => f.write_str(&self.text),
        }
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uri({self})")
    }
}

impl From<&str> for Uri {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let parts = |text: &str| {
            let uri = Uri::new(text);
            (uri.scheme().map(str::to_owned), uri.body().to_owned(), uri.fragment().map(str::to_owned))
        };
        assert_eq!(parts("a.csv"), (None, "a.csv".into(), None));
        assert_eq!(parts("dir/#1.csv"), (None, "dir/#1.csv".into(), None));
        assert_eq!(parts("./a:b.csv"), (None, "./a:b.csv".into(), None));
        assert_eq!(parts("sqlite:f.db#t"), (Some("sqlite".into()), "f.db".into(), Some("t".into())));
        assert_eq!(Uri::new("out.Parquet/").extension().as_deref(), Some("parquet"));
    }

    #[test]
    fn relative_paths_are_put_into_a_folder() {
        for (text, expected) in [
            ("a.csv", "dir/a.csv"),
            ("out.parquet/", "dir/out.parquet/"),
            ("/a.csv", "/a.csv"),
            ("sqlite:f.db#t", "sqlite:dir/f.db#t"),
            ("postgres://me@host/db#t", "postgres://me@host/db#t"),
        ] {
            assert_eq!(Uri::new(text).in_folder(Path::new("dir")), Uri::new(expected));
        }
    }

    #[test]
    fn passwords_are_hidden() {
        for password in ["secret", "se:cret", "s/ecret", "se@cret"] {
            let uri = Uri::new(format!("postgres://me:{password}@host:5432/db#t"));
            assert_eq!(uri.to_string(), "postgres://me:***@host:5432/db#t");
            assert!(!format!("{uri:?}").contains("cret"));
        }
        assert_eq!(Uri::new("postgres://me@host/db").to_string(), "postgres://me@host/db");
    }
}
