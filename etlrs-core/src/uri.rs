use std::fmt;
use std::path::Path;

/// Where a source or a target is, as a user writes it.
///
/// A path (`sales.csv`, `out.parquet/` for a directory), the URL of a file elsewhere (`s3://bucket/sales.csv`), `-` for
/// standard input or output, or something with a scheme (`sqlite:shop.db#orders`, `postgres://user@host/db#public.orders`)
/// whose part after `#` names a table. `Display` and `Debug` hide a password.
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
        // `csv:s3://bucket/key` names the format of a file elsewhere.
        if Self::new(body).body().starts_with("//") {
            return self;
        }
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

    /// Where a file is: all of a URL that has `//` after its scheme, the body as a path otherwise.
    pub fn file(&self) -> &Path {
        if self.body().starts_with("//") { Path::new(&self.text) } else { self.path() }
    }

    /// The last extension of the file, in lower case; that of `out.parquet/` is `parquet`.
    pub fn extension(&self) -> Option<String> {
        let file = self.file().to_str()?.trim_end_matches('/');
        Some(Path::new(file).extension()?.to_str()?.to_ascii_lowercase())
    }

    /// Whether the file ends in `.extension`, which may be several (`csv.gz`) and is in lower case. A name has something
    /// before it.
    pub fn has_extension(&self, extension: &str) -> bool {
        let file = self.file().to_str().unwrap_or_default().trim_end_matches('/');
        let name = Path::new(file).file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default().to_ascii_lowercase();
        name.strip_suffix(extension).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slashes = |text: &str| text.find("//").map(|start| start + 2);
        let start = match self.scheme_end {
            Some(end) if self.text[end + 1..].starts_with("//") => end + 3,
            Some(end) => end + 1,
            // A path, or a URL without its colon, or what another program takes in place of one: `host=h password=…`.
            None => match slashes(&self.text) {
                Some(start) => start,
                None => return without_secrets(f, &self.text),
            },
        };
        let (start, rest) = self.text.split_at(start);
        f.write_str(start)?;
        // The last @ ends the credentials, for a password may hold any character; hiding too much does no harm.
        let Some((colon, at)) = rest.rfind('@').and_then(|at| Some((rest[..at].find(':')?, at))) else {
            // `csv:key=1.csv` is a file that is called so.
            let named = self.scheme_end.map_or(0, |_| rest.find(SEPARATORS).unwrap_or(rest.len()));
            f.write_str(&rest[..named])?;
            return without_secrets(f, &rest[named..]);
        };
        write!(f, "{}:***", &rest[..colon])?;
        // An @ behind `password=` may be part of that as well.
        if first_secret(&rest[..at]).is_some() { Ok(()) } else { without_secrets(f, &rest[at..]) }
    }
}

/// What ends a parameter of a URL, or of what other programs take in place of one.
const SEPARATORS: [char; 4] = [' ', '&', '?', ';'];

fn without_secrets(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut rest = text;
    while let Some(equals) = first_secret(rest) {
        let (shown, value) = rest.split_at(equals + 1);
        write!(f, "{shown}***")?;
        // A password may have separators too, but hardly one of these names behind it.
        const KNOWN: [&str; 16] = [
            "charset", "database", "dbname", "encrypt", "host", "hostaddr", "port", "region", "server", "sslmode",
            "ssl-mode", "table", "uid", "user", "username", "schema",
        ];
        let is_known = |&(separator, _): &(usize, &str)| {
            let name = value[separator + 1..].split_once('=').map_or("", |(name, _)| name.trim());
            KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known)) || !name.contains(SEPARATORS) && is_secret(name)
        };
        let next = value.match_indices(SEPARATORS).find(is_known).map(|(separator, _)| separator);
        let next = next.or_else(|| value.rfind('#'));
        rest = next.map_or("", |next| &value[next..]);
    }
    f.write_str(rest)
}

/// Where the `=` of the first secret parameter is.
fn first_secret(text: &str) -> Option<usize> {
    let is_secret = |&(equals, _): &(usize, &str)| {
        let key = text[..equals].trim_end();
        let key = &key[key.rfind(SEPARATORS).map_or(0, |separator| separator + 1)..];
        // A folder of a path may be called so.
        is_secret(key) && !key.contains('/')
    };
    text.match_indices('=').find(is_secret).map(|(equals, _)| equals)
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // `sig` is the key in a shared access signature of Azure.
    key == "sig" || ["pas", "pw", "secret", "token", "key", "signature"].iter().any(|word| key.contains(word))
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
        for (uri, extension, has) in [
            ("a.CSV.gz", "csv.gz", true),
            ("d/a.csv.gz/", "gz", true),
            ("a.csv", "csv.gz", false),
            (".csv", "csv", false),
            ("d.csv/a", "csv", false),
            ("acsv", "csv", false),
            ("s3://bucket/a#1.csv.gz", "csv.gz", true),
            ("csv:s3://bucket/a.csv", "csv", true),
        ] {
            assert_eq!(Uri::new(uri).has_extension(extension), has, "{uri}");
        }
    }

    #[test]
    fn a_url_is_a_file_as_a_whole() {
        for (uri, file) in [
            ("d/a.csv", "d/a.csv"),
            ("s3://bucket/d/a#1.csv", "s3://bucket/d/a#1.csv"),
            ("csv:s3://bucket/d/", "s3://bucket/d/"),
            ("sqlite:shop.db#t", "shop.db"),
        ] {
            assert_eq!(Uri::new(uri).file(), Path::new(file));
        }
    }

    #[test]
    fn relative_paths_are_put_into_a_folder() {
        for (text, expected) in [
            ("a.csv", "dir/a.csv"),
            ("out.parquet/", "dir/out.parquet/"),
            ("/a.csv", "/a.csv"),
            ("sqlite:f.db#t", "sqlite:dir/f.db#t"),
            ("postgres://me@host/db#t", "postgres://me@host/db#t"),
            ("csv:s3://bucket/d/", "csv:s3://bucket/d/"),
            ("csv:a:b/c.csv", "csv:dir/a:b/c.csv"),
        ] {
            assert_eq!(Uri::new(text).in_folder(Path::new("dir")), Uri::new(expected));
        }
    }

    #[test]
    fn passwords_are_hidden() {
        for password in ["secret", "se:cret", "s/ecret", "se@cret", "se?cret", "s@e/cret", "s#ecret"] {
            let uri = Uri::new(format!("postgres://me:{password}@host:5432/db#t"));
            assert_eq!(uri.to_string(), "postgres://me:***@host:5432/db#t");
            assert!(!format!("{uri:?}").contains("cret"));
        }
        for (text, shown) in [
            ("postgres://me@host/db", "postgres://me@host/db"),
            ("postgres://me@host/db?password=x&port=1#t", "postgres://me@host/db?password=***&port=1#t"),
            ("postgres://me@host/db?port=1&sslPassword=x#t", "postgres://me@host/db?port=1&sslPassword=***#t"),
            ("az://c/a.csv?sv=1&sig=x", "az://c/a.csv?sv=1&sig=***"),
            ("https://h/a.csv?X-Amz-Signature=x&a=b", "https://h/a.csv?X-Amz-Signature=***"),
            ("postgres:me:secret@host/db", "postgres:me:***@host/db"),
            ("sqlite:a@b.db#t", "sqlite:a@b.db#t"),
            ("a:b@c.csv", "a:b@c.csv"),
            ("postgres//me:se@cret@host/db#t", "postgres//me:***@host/db#t"),
            ("mysql;//me:secret@host/db", "mysql;//me:***@host/db"),
            ("//me:secret@host/db", "//me:***@host/db"),
            ("csv:postgres://me:secret@host/db", "csv:postgres:***@host/db"),
            ("postgres://host/db?user=me&pasword=secret#t", "postgres://host/db?user=me&pasword=***#t"),
            ("host=h user=me password=secret port=1", "host=h user=me password=*** port=1"),
            ("d//a=1/part b.csv", "d//a=1/part b.csv"),
            ("d/key=5/passengers=1/a.csv", "d/key=5/passengers=1/a.csv"),
            ("host=h password=se;cr;et user=me", "host=h password=*** user=me"),
            ("host=h password=ab;c=secret user=me", "host=h password=*** user=me"),
            ("host=h password = secret user=me", "host=h password =*** user=me"),
            ("host=h password='a secret' user=me", "host=h password=*** user=me"),
            ("host=h password=a?b&secret user=me", "host=h password=*** user=me"),
            ("mysql://host/db?ssl-mode=REQUIRED;password=secret", "mysql://host/db?ssl-mode=REQUIRED;password=***"),
            ("mysql://host/db;password=a?b&secret", "mysql://host/db;password=***"),
            ("sqlserver://host:1433;user=me;password=se@cret", "sqlserver://host:***"),
            ("postgres://host:5432/db?password=se@cret#t", "postgres://host:***"),
            ("postgres://host/db?password=se@cret#t", "postgres://host/db?password=***#t"),
            ("postgres//host:5432/db?password=se@cret", "postgres//host:***"),
            ("postgres://me:a@host/db?password=b&pw=c#t", "postgres://me:***@host/db?password=***&pw=***#t"),
            ("mysql://host/db;password=secret;port=1", "mysql://host/db;password=***;port=1"),
            ("sqlserver://host;user=me;password=secret?a=1#t", "sqlserver://host;user=me;password=***#t"),
            ("csv:key=1.csv", "csv:key=1.csv"),
            ("host/db;user=me;password=secret", "host/db;user=me;password=***"),
            ("postgres//host/db?password=secret", "postgres//host/db?password=***"),
        ] {
            assert_eq!(Uri::new(text).to_string(), shown);
        }
    }
}
