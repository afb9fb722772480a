//! Tables of a pipeline file, read key by key, so that what is left over is a mistake that can be named.

use etlrs_core::{Error, ErrorKind, Result, unknown_name};
use etlrs_engine::MaxErrors;
use toml::{Table, Value};

/// A table, and how a user would call it ("[source]", "transform 2 (filter)").
pub(crate) struct Section {
    pub(crate) name: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    pub(crate) fn new(name: impl Into<String>, table: Table) -> Self {
        Self { name: name.into(), table, known: Vec::new() }
    }

    /// From a value that has to be a table.
    pub(crate) fn of(name: impl Into<String>, value: Value) -> Result<Self> {
        let name = name.into();
        match value {
            Value::Table(table) => Ok(Self::new(name, table)),
            other => Err(Error::new(ErrorKind::InvalidConfig, format!("{name} is {}, not a table", kind(&other)))),
        }
    }

    /// A value that may be missing.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "text", &other)),
        }
    }

    pub(crate) fn required_text(&mut self, key: &'static str) -> Result<String> {
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn missing(&self, key: &str) -> Error {
        Error::new(ErrorKind::InvalidConfig, format!("{} lacks the key {key:?}", self.name))
    }

    /// A list of texts; a single text stands for a list of one.
    pub(crate) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text])),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => Err(self.wrong(key, "a list of texts", &other)),
                })
                .collect::<Result<_>>()
                .map(Some),
            Some(other) => Err(self.wrong(key, "a list of texts", &other)),
        }
    }

    /// A table of texts, in the order of the file.
    pub(crate) fn pairs(&mut self, key: &'static str) -> Result<Option<Vec<(String, String)>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Table(table)) => table
                .into_iter()
                .map(|(name, value)| match value {
                    Value::String(text) => Ok((name, text)),
                    other => Err(self.wrong(key, "a table of texts", &other)),
                })
                .collect::<Result<_>>()
                .map(Some),
            Some(other) => Err(self.wrong(key, "a table of texts", &other)),
        }
    }

    pub(crate) fn required_texts(&mut self, key: &'static str) -> Result<Vec<String>> {
        self.texts(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn required_pairs(&mut self, key: &'static str) -> Result<Vec<(String, String)>> {
        self.pairs(key)?.ok_or_else(|| self.missing(key))
    }

    /// What one of several words stands for.
    pub(crate) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                Err(unknown_name(key, &text, &known).in_source(&self.name))
            }
        }
    }

    pub(crate) fn count(&mut self, key: &'static str) -> Result<Option<usize>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => usize::try_from(number)
                .map(Some)
                .map_err(|_| self.wrong(key, "a number of at least 0", &Value::Integer(number))),
            Some(other) => Err(self.wrong(key, "a number", &other)),
        }
    }

    /// A number of records, or a part of them.
    pub(crate) fn max_errors(&mut self, key: &'static str) -> Result<Option<MaxErrors>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => {
                text.parse().map(Some).map_err(|error: Error| error.within(format!("{key} in {}", self.name)))
            }
            Some(Value::Integer(number)) => {
                let records = u64::try_from(number);
                let records =
                    records.map_err(|_| self.wrong(key, "a number of at least 0", &Value::Integer(number)))?;
                Ok(Some(records.into()))
            }
            Some(other) => Err(self.wrong(key, "a number, or a text such as \"0.5%\"", &other)),
        }
    }

    /// Options of a connector or of the run: any plain value, as it would be written on the command line.
    pub(crate) fn options(&mut self, key: &'static str) -> Result<Vec<(String, String)>> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(value) => {
                let options = Section::of(format!("{key} in {}", self.name), value)?;
                Ok(options.table.into_iter().map(|(key, value)| (key, plain(value))).collect())
            }
        }
    }

    /// All that is left, as options.
    pub(crate) fn rest(self) -> Vec<(String, String)> {
        self.table.into_iter().map(|(key, value)| (key, plain(value))).collect()
    }

    fn wrong(&self, key: &str, wanted: &str, found: &Value) -> Error {
        let message = format!("{key} in {} must be {wanted}, but is {}", self.name, kind(found));
        Error::new(ErrorKind::InvalidConfig, message)
    }

    /// # Errors
    /// `InvalidConfig` for a key that nobody asked for.
    pub(crate) fn finish(self) -> Result<()> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(unknown_name(&format!("key in {} called", self.name), key, &self.known)),
        }
    }
}

/// As it would be written on the command line.
pub(crate) fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::Datetime(value) => value.to_string(),
        Value::Array(items) => items.into_iter().map(plain).collect::<Vec<_>>().join(","),
        // The types of columns, for one.
        Value::Table(table) => {
            table.into_iter().map(|(name, value)| format!("{name}:{}", plain(value))).collect::<Vec<_>>().join(",")
        }
    }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
