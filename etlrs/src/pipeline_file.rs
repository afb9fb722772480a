use std::path::Path;
use std::sync::Arc;

use etlrs_core::{
    CancelToken, Error, ErrorKind, LoadMode, OptionMap, OptionSet, PerformanceConfig, Registry, Result, ScanRequest,
    Secret, Transformer, Uri, named, unknown_name,
};
use etlrs_engine::{AlertThresholds, PerformanceAlert, PipelineBuilder, Verify};
use toml::{Table, Value};
use yaml_rust2::{Yaml, YamlLoader};

use crate::ErrorPolicy;
use crate::section::{Section, kind};
use crate::transforms::Transform;

/// A pipeline described in a TOML or YAML file: one source, transformers, one or more targets.
///
/// Paths are relative to the folder of the file. `${NAME}` in a text stands for a variable of the environment, `$${` for
/// `${` itself. Several targets are loaded one after another, each in a run of its own.
///
/// ```
/// use etlrs::{LoadMode, PipelineFile};
///
/// let file = PipelineFile::parse_toml(r#"
///     [source]
///     uri = "flights.csv"
///     options = { null_values = "NA" }
///
///     [[transform]]
///     type = "filter"
///     where = "dep_delay is not null"
///
///     [[transform]]
///     type = "derive"
///     columns = { hours = "air_time / 60" }
///
///     [target]
///     uri = "flights.parquet"
///     mode = "replace"
/// "#)?;
/// assert_eq!(file.targets[0].mode, LoadMode::Replace);
/// # Ok::<(), etlrs::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PipelineFile {
    /// Where the data comes from.
    pub source: Uri,
    /// Options of the source.
    pub source_options: OptionMap,
    /// What is asked of the source.
    pub request: ScanRequest,
    /// Where the data goes.
    pub targets: Vec<Target>,
    /// How the run uses the machine.
    pub config: PerformanceConfig,
    /// What happens to records that cannot be taken.
    pub errors: ErrorPolicy,
    /// Beyond what alerts are raised, if there is anything.
    pub alerts: Option<AlertThresholds>,
    /// What the program does with each alert, beside telling it.
    pub alert_actions: AlertActions,
    transforms: Vec<Transform>,
    /// Name of the file, for errors.
    name: Option<String>,
}

/// What is done with an alert.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AlertActions {
    /// A command that is run by `sh -c`, with `ETLRS_ALERT`, `ETLRS_MESSAGE` and `ETLRS_PIPELINE` set.
    pub command: Option<String>,
    /// A URL to which it is posted as JSON. Such URLs hold tokens.
    pub webhook: Option<Secret>,
}

/// A target of a [`PipelineFile`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Target {
    /// Where it is.
    pub uri: Uri,
    /// What happens if it exists.
    pub mode: LoadMode,
    /// Key columns of the mode `merge`.
    pub keys: Vec<String>,
    /// How far it is checked before it is published.
    pub verify: Verify,
    /// Options of the loader.
    pub options: OptionMap,
}

impl PipelineFile {
    /// Reads the file at `path`: YAML if it ends in `.yaml` or `.yml`, else TOML. Each of `set` is a key and a value: a
    /// key with dots is a place in the file (`target.mode`), any other is a variable and wins over the environment.
    ///
    /// # Errors
    /// `InvalidConfig`, with the line where the syntax is wrong, or the table and key that are.
    pub fn read(path: impl AsRef<Path>, set: &[(String, String)]) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        let yaml = matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml"));
        let table = if yaml { yaml_table(&text) } else { toml_table(&text) };
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let name = path.display().to_string();
        let file = table.and_then(|table| Self::of(table, &folder, set)).map_err(|error| error.within(&name))?;
        Ok(Self { name: Some(name), ..file })
    }

    /// From TOML; paths are relative to the working directory.
    ///
    /// # Errors
    /// As [`read`](PipelineFile::read).
    pub fn parse_toml(text: &str) -> Result<Self> {
        Self::of(toml_table(text)?, Path::new(""), &[])
    }

    fn of(mut table: Table, folder: &Path, set: &[(String, String)]) -> Result<Self> {
        let mut variables = Vec::new();
        for (key, value) in set {
            match key.split_once('.') {
                Some(_) => place(&mut table, key, value)?,
                None => variables.push((key.as_str(), value.as_str())),
            }
        }
        for (key, value) in &mut table {
            expand_all(value, &variables).map_err(|error| error.in_source(format!("[{key}]")))?;
        }
        let mut file = Section::new("the file", table);
        let folder = folder.to_owned();

        let mut source = Section::of("[source]", file.take("source").ok_or_else(|| file.missing("source"))?)?;
        let mut request = ScanRequest::all();
        let uri = relative(source.required_text("uri")?, &folder);
        request.columns = source.texts("columns")?;
        request.partitions = source.count("partitions")?;
        let source_options = source.options("options")?.into_iter().collect();
        source.finish()?;

        let transforms = match file.take("transform") {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| Transform::read(index + 1, item, &folder))
                .collect::<Result<_>>()?,
            Some(other) => return Err(shape("transform", "written [[transform]], for there may be several", &other)),
        };

        let targets = match file.take("target").ok_or_else(|| file.missing("target"))? {
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| Target::read(format!("target {}", index + 1), item, &folder))
                .collect::<Result<Vec<_>>>()?,
            one => vec![Target::read("[target]".into(), one, &folder)?],
        };
        if targets.is_empty() {
            return Err(file.missing("target"));
        }
        for (index, target) in targets.iter().enumerate() {
            if targets[..index].iter().any(|earlier| earlier.uri == target.uri) {
                let message = format!("two targets are {}", target.uri);
                return Err(Error::new(ErrorKind::InvalidConfig, message).hint("give each its own name"));
            }
        }
        let performance = file.options("performance")?;
        let pairs = performance.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let config = PerformanceConfig::from_env()?;
        let config = config.with_pairs(pairs).map_err(|error| error.in_source("[performance]"))?;
        let errors = match file.take("errors") {
            Some(value) => read_errors(Section::of("[errors]", value)?, &folder)?,
            None => ErrorPolicy::default(),
        };
        let (alerts, alert_actions) = match file.take("alerts") {
            Some(value) => read_alerts(Section::of("[alerts]", value)?)?,
            None => (None, AlertActions::default()),
        };
        file.finish()?;
        let (source, name) = (uri, None);
        Ok(Self { source, source_options, request, targets, config, errors, alerts, alert_actions, transforms, name })
    }

    /// A pipeline for each target, with everything of the file set; `cancel` stops them. Tables of lookups are read here.
    ///
    /// # Errors
    /// Those of the connectors for URIs and options, and of reading a lookup's table.
    pub async fn pipelines(&self, registry: &Registry, cancel: &CancelToken) -> Result<Vec<(Target, PipelineBuilder)>> {
        let mut transformers: Vec<Arc<dyn Transformer>> = Vec::new();
        let (mut identity, mut passing, mut so_far) = (String::new(), String::new(), String::new());
        for transform in &self.transforms {
            let name = transform.name.clone();
            let name = self.name.as_ref().map_or(name.clone(), |file| format!("{file}, {name}"));
            let first = transformers.len();
            transform
                .build(registry, &self.config, cancel, &mut transformers, &mut identity)
                .await
                .map_err(|error| error.within(&name))?;
            for transformer in &mut transformers[first..] {
                *transformer = Arc::new(named(name.clone(), transformer.clone()));
            }
            // What comes before it may decide too.
            so_far.push_str(transform.text());
            if transform.may_drop_rows() {
                passing.clone_from(&so_far);
            }
        }
        let pipelines = self.targets.iter().map(|target| {
            let ends = ((&self.source, &self.source_options), (&target.uri, &target.options));
            let mut builder = crate::pipeline(registry, ends.0, ends.1)
                .map_err(|error| self.name.iter().fold(error, Error::within))?
                .mode(target.mode)
                .keys(target.keys.clone())
                .verify(target.verify)
                .request(self.request.clone())
                .config(self.config.clone())
                .identity(identity.clone())
                .cursor_identity(passing.clone())
                .cancel(cancel.clone());
            if let Some(thresholds) = &self.alerts {
                builder = builder.alert(PerformanceAlert::new(thresholds.clone()));
            }
            for transformer in &transformers {
                builder = builder.transform_with(transformer.clone());
            }
            let builder = self
                .errors
                .apply(registry, &self.source, &target.uri, builder)
                .map_err(|error| self.name.iter().fold(error, Error::within))?;
            Ok((target.clone(), builder))
        });
        pipelines.collect()
    }
}

impl Target {
    fn read(name: String, value: Value, folder: &Path) -> Result<Self> {
        let mut section = Section::of(name, value)?;
        let uri = relative(section.required_text("uri")?, folder);
        let mode = section.text("mode")?.map_or(Ok(LoadMode::default()), |mode| mode.parse())?;
        let keys = section.texts("keys")?.unwrap_or_default();
        let verify = match section.text("verify")?.as_deref() {
            None => Verify::default(),
            Some(text) => text.parse()?,
        };
        let options = section.options("options")?.into_iter().collect();
        section.finish()?;
        Ok(Self { uri, mode, keys, verify, options })
    }
}

fn read_errors(mut section: Section, folder: &Path) -> Result<ErrorPolicy> {
    let errors = ErrorPolicy {
        on_error: section.text("on_error")?.map(|text| text.parse()).transpose()?,
        quarantine: section.text("quarantine")?.map(|text| relative(text, folder)),
        max_errors: section.max_errors("max_errors")?,
    };
    section.finish()?;
    Ok(errors)
}

fn read_alerts(mut section: Section) -> Result<(Option<AlertThresholds>, AlertActions)> {
    let command = section.text("command")?;
    let webhook = section.text("webhook")?;
    if webhook.as_ref().is_some_and(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
        return Err(Error::new(ErrorKind::InvalidConfig, "webhook is no URL that begins with https:// or http://")
            .in_source("[alerts]"));
    }
    let pairs = section.rest();
    let mut known: Vec<String> = AlertThresholds::specs().into_iter().map(|spec| spec.key.to_string()).collect();
    known.extend(["command", "webhook"].map(str::to_owned));
    if let Some((key, _)) = pairs.iter().find(|(key, _)| !known.contains(key)) {
        return Err(unknown_name("key", key, &known).in_source("[alerts]"));
    }
    let pairs = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let thresholds = AlertThresholds::from_pairs(pairs).and_then(|thresholds| {
        thresholds.check()?;
        Ok(thresholds)
    });
    let thresholds = thresholds.map_err(|error| error.in_source("[alerts]"))?;
    Ok((Some(thresholds), AlertActions { command, webhook: webhook.map(Secret::new) }))
}

pub(crate) fn relative(text: String, folder: &Path) -> Uri {
    Uri::new(text).in_folder(folder)
}

fn toml_table(text: &str) -> Result<Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count() as u64);
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        let error = Error::new(ErrorKind::InvalidConfig, format!("this is no TOML: {message}"));
        match line {
            Some(line) => error.at_line(line),
            None => error,
        }
    })
}

fn yaml_table(text: &str) -> Result<Table> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| {
        Error::new(ErrorKind::InvalidConfig, format!("this is no YAML: {}", error.info()))
            .at_line(error.marker().line() as u64)
    })?;
    let mut documents = documents.into_iter();
    let root = documents.next().map_or(Ok(Value::Table(Table::new())), yaml_value)?;
    match (root, documents.next()) {
        (Value::Table(table), None) => Ok(table),
        (Value::Table(_), Some(_)) => {
            Err(Error::new(ErrorKind::InvalidConfig, "the file holds several YAML documents"))
        }
        (other, _) => Err(shape("the file", "a table", &other)),
    }
}

/// What TOML would make of the same. A null, which TOML lacks, is the text of its spelling: no key takes one.
fn yaml_value(yaml: Yaml) -> Result<Value> {
    Ok(match yaml {
        Yaml::Real(text) => text.parse().map(Value::Float).unwrap_or(Value::String(text)),
        Yaml::Integer(number) => Value::Integer(number),
        Yaml::String(text) => Value::String(text),
        Yaml::Boolean(value) => Value::Boolean(value),
        Yaml::Null => Value::String("null".into()),
        Yaml::Array(items) => Value::Array(items.into_iter().map(yaml_value).collect::<Result<_>>()?),
        Yaml::Hash(pairs) => {
            let pairs = pairs.into_iter().map(|(key, value)| match yaml_value(key)? {
                Value::Array(_) | Value::Table(_) => {
                    Err(Error::new(ErrorKind::InvalidConfig, "a key of the file is a list or a table"))
                }
                key => Ok((crate::section::plain(key), yaml_value(value)?)),
            });
            Value::Table(pairs.collect::<Result<_>>()?)
        }
        Yaml::Alias(_) | Yaml::BadValue => {
            return Err(Error::new(ErrorKind::InvalidConfig, "the file has a value that YAML cannot place"));
        }
    })
}

/// Puts `value` at `path` ("target.mode"), in tables that are there or new.
fn place(table: &mut Table, path: &str, value: &str) -> Result<()> {
    let mut at = table;
    let mut keys = path.split('.').peekable();
    while let Some(key) = keys.next() {
        if keys.peek().is_none() {
            // Numbers and truth values are written as such, all else is text.
            // But for 007, which may be a text.
            let number = value.parse::<i64>().ok().filter(|number| number.to_string() == value).map(Value::Integer);
            let parsed = number.or_else(|| value.parse().ok().map(Value::Boolean));
            at.insert(key.to_owned(), parsed.unwrap_or_else(|| Value::String(value.to_owned())));
            return Ok(());
        }
        let next = at.entry(key).or_insert_with(|| Value::Table(Table::new()));
        at = match next {
            Value::Table(table) => table,
            _ => {
                let message = format!("{path} cannot be set, for {key} is no table in the file");
                return Err(
                    Error::new(ErrorKind::InvalidConfig, message).hint("use ${NAME} in the file, and --set NAME=VALUE")
                );
            }
        };
    }
    Ok(())
}

fn shape(what: &str, wanted: &str, found: &Value) -> Error {
    Error::new(ErrorKind::InvalidConfig, format!("{what} must be {wanted}, but there is {}", kind(found)))
}

fn expand_all(value: &mut Value, variables: &[(&str, &str)]) -> Result<()> {
    match value {
        Value::String(text) => *text = expand(text, variables)?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| expand_all(item, variables))?,
        Value::Table(table) => table.iter_mut().try_for_each(|(_, value)| expand_all(value, variables))?,
        _ => {}
    }
    Ok(())
}

fn expand(text: &str, variables: &[(&str, &str)]) -> Result<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            expanded.push_str(&rest[..at]);
            expanded.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        expanded.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner
            .find('}')
            .ok_or_else(|| Error::new(ErrorKind::InvalidConfig, "a text has ${ without the } that belongs to it"))?;
        let name = &inner[..end];
        let given = variables.iter().rev().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned());
        let value = given.or_else(|| std::env::var(name).ok()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, format!("the variable {name} is not set"))
                .hint(format!("set it in the environment, or with --set {name}=VALUE"))
        })?;
        expanded.push_str(&value);
        rest = &inner[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[source]\nuri = 'a.csv'\n[target]\nuri = 'sqlite:b.db#t'\n";

    fn refused(text: &str) -> String {
        PipelineFile::parse_toml(text).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            ("[source\n", "line 1: this is no TOML"),
            ("[target]\nuri='x'", "the file lacks the key \"source\""),
            ("[source]\nuri = 1\n[target]\nuri='x'", "uri in [source] must be text, but is a number"),
            (&format!("{SMALL}moed='x'"), "there is no key in [target] called \"moed\"; did you mean mode?"),
            (&format!("{SMALL}mode='x'"), "there is create, append, replace, merge"),
            (&format!("{SMALL}[performance]\nbatchsize=1"), "did you mean batch_size?"),
            (&format!("{SMALL}[errors]\non_error='quarantin'"), "did you mean quarantine?"),
            (&format!("{SMALL}[errors]\nmax_errors=-1"), "max_errors in [errors] must be a number of at least 0"),
            (&format!("{SMALL}[errors]\npath='x'"), "[errors]"),
            (&format!("{SMALL}[alerts]\nwebhook='hooks.example/secret'"), "[alerts]: webhook is no URL that begins"),
            (&format!("{SMALL}[alerts]\nmax_second=5"), "did you mean max_seconds?"),
            (&format!("{SMALL}[alerts]\nmax_error_rate='x'"), "option max_error_rate cannot be"),
            (&format!("{SMALL}[alerts]\nmax_error_rate=2"), "[alerts]: max_error_rate must be from 0 to 1"),
            (&format!("{SMALL}[alerts]\nhook='x'"), "max_error_rate, command, webhook"),
            (&format!("{SMALL}[transform]\ntype='x'"), "[[transform]]"),
            (
                &format!("{SMALL}[[transform]]\ntype='fliter'"),
                "transform 1: there is no transform \"fliter\"; did you mean filter?",
            ),
            (&format!("{SMALL}[[transform]]\ntype='filter'"), "transform 1 (filter) lacks the key \"where\""),
            (&format!("{SMALL}[[transform]]\ntype='filter'\nwhere='a +'"), "transform 1 (filter)"),
            (&SMALL.replace("a.csv", "${ETLRS_NO_SUCH}"), "the variable ETLRS_NO_SUCH is not set"),
        ] {
            let error = refused(text);
            assert!(error.contains(needle), "{text:?}: {error}");
            assert_eq!(PipelineFile::parse_toml(text).unwrap_err().kind(), ErrorKind::InvalidConfig);
        }
    }

    #[test]
    fn yaml_says_the_same() {
        let yaml = "source:\n  uri: a.csv\n  options: {null_values: NA, sample: 5}\ntarget:\n  uri: sqlite:b.db#t\n  mode: append\n";
        let file = PipelineFile::of(yaml_table(yaml).unwrap(), Path::new("dir"), &[]).unwrap();
        assert_eq!(file.source, Uri::new("dir/a.csv"));
        assert_eq!(file.source_options["sample"], "5");
        assert_eq!(file.targets[0].uri, Uri::new("sqlite:dir/b.db#t"));
        assert_eq!(file.targets[0].mode, LoadMode::Append);
        for (text, needle) in [
            ("a: 1\nb: ]\n", "line 2: this is no YAML"),
            ("- 1", "the file must be a table"),
            ("[1, 2]: 3", "a key of the file"),
            ("a: 1\n---\nb: 2", "several YAML documents"),
        ] {
            let error = yaml_table(text).unwrap_err();
            assert!(error.to_string().contains(needle), "{text:?}: {error}");
        }
        assert_eq!(yaml_table("1: {null: ~}").unwrap()["1"]["null"], Value::String("null".into()));
    }

    #[test]
    fn values_are_set_from_outside() {
        let set = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            PipelineFile::of(toml_table(&SMALL.replace("a.csv", "${name}-$${x}.csv")).unwrap(), Path::new(""), &pairs)
        };
        let file = set(&[("name", "n"), ("target.mode", "replace"), ("performance.max_threads", "3")]).unwrap();
        assert_eq!(file.source, Uri::new("n-${x}.csv"));
        assert_eq!((file.targets[0].mode, file.config.max_threads), (LoadMode::Replace, 3));
        assert!(set(&[]).is_err());
        let file = set(&[("name", "n"), ("errors.quarantine", "q.csv"), ("errors.max_errors", "5")]).unwrap();
        assert_eq!((file.errors.quarantine, file.errors.max_errors), (Some(Uri::new("q.csv")), Some(5.into())));
    }
}
