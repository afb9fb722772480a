use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory, Parser};
use etlrs::{Error, ErrorKind, Result, Uri, registry};
use serde::{Deserialize, Serialize};

use crate::args::Args;

/// A command line as it is written down, so that it can be given again: without anything that may be secret.
///
/// A password in a URL is left out, and comes from where it is looked for when there is none: `PGPASSWORD`, `MYSQL_PWD`, the
/// files of both. What else may be secret is left out for good, and the command cannot be given again without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptCommand {
    arguments: Vec<String>,
    /// Where it was given.
    folder: PathBuf,
    /// What was left out, as it is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left_out: Vec<String>,
    /// Variables of a pipeline file whose values were left out, and can be given again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    variables: BTreeSet<String>,
}

impl KeptCommand {
    /// Of this process.
    pub(crate) fn of_process() -> Self {
        let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
        Self::new(arguments.collect(), std::env::current_dir().unwrap_or_default())
    }

    fn new(arguments: Vec<String>, folder: PathBuf) -> Self {
        let mut kept = Self { arguments: Vec::new(), folder, left_out: Vec::new(), variables: BTreeSet::new() };
        let with_value = flags_with_value(arguments.first().map_or("", String::as_str));
        let mut flag: Option<String> = None;
        for argument in arguments {
            match flag.take() {
                Some(flag) => {
                    let value = kept.without_secrets(&flag, &argument);
                    kept.arguments.push(value);
                }
                None => match argument.strip_prefix("--").and_then(|rest| rest.split_once('=')) {
                    Some((name, value)) if with_value.contains(name) => {
                        let value = kept.without_secrets(name, value);
                        kept.arguments.push(format!("--{name}={value}"));
                    }
                    _ => {
                        flag = argument.strip_prefix("--").filter(|name| with_value.contains(*name)).map(str::to_owned);
                        let value = if flag.is_some() { argument } else { kept.without_secrets("", &argument) };
                        kept.arguments.push(value);
                    }
                },
            }
        }
        kept
    }

    /// The value of a flag, or of none, as it is kept.
    fn without_secrets(&mut self, flag: &str, value: &str) -> String {
        let shown = Uri::from(value).to_string();
        match flag {
            // A source, a target, a pipeline file.
            "" | "quarantine" | "of-target" => {
                let kept = if shown == value { shown } else { shown.replacen(":***@", "@", 1) };
                if kept.contains("***") && kept != value { self.leave_out(kept) } else { kept }
            }
            "set" => {
                let (name, _) = value.split_once('=').unwrap_or((value, ""));
                let is_known =
                    KNOWN_PLACES.iter().any(|place| name == *place || name.starts_with(&format!("{place}.")));
                if is_known && shown == value {
                    return value.to_owned();
                }
                // A variable may be anything, and so may an option.
                self.variables.insert(name.to_owned());
                format!("{name}=***")
            }
            "source-option" | "target-option" => {
                let (key, _) = value.split_once('=').unwrap_or((value, ""));
                // Whoever calls an option by such a name means no password, and whoever writes one into SQL does.
                let is_plain = is_secret_option(key) == Some(false) && !["pre_sql", "post_sql", "query"].contains(&key);
                let argument = value.split_once('=').map_or("", |(_, argument)| argument);
                let is_shown = Uri::from(argument).to_string() == argument;
                if is_plain && is_shown { value.to_owned() } else { self.leave_out(format!("{key}=***")) }
            }
            "query" if shown != value => self.leave_out(shown),
            // They hold no credentials, and comparisons in them look like some.
            _ => value.to_owned(),
        }
    }

    fn leave_out(&mut self, shown: String) -> String {
        self.left_out.push(shown.clone());
        shown
    }

    /// As a shell takes it.
    pub(crate) fn shown(&self) -> String {
        let words = self.arguments.iter().map(|argument| quoted(argument));
        ["etlrs".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// What it says, with the `variables` that are given again.
    ///
    /// # Errors
    /// `InvalidConfig` if it cannot be given again.
    pub(crate) fn args(&self, variables: &[(String, String)]) -> Result<Args> {
        let refused = |message: String| Error::new(ErrorKind::InvalidConfig, message);
        if let [first, ..] = self.left_out.as_slice() {
            let message = format!("the command held what may be secret ({first}), and is not kept with it");
            return Err(refused(message).hint(
                "give the whole command once more: it goes on by itself, and with --restart it begins anew and removes what was kept",
            ));
        }
        if let Some((name, _)) = variables.iter().find(|(name, _)| !self.variables.contains(name)) {
            let message = format!("the value of {name} is not one that the command left out");
            return Err(refused(message).hint("to set something else, give the whole command once more"));
        }
        let is_given = |name: &String| variables.iter().any(|(given, _)| given == name);
        if let Some(missing) = self.variables.iter().find(|name| !is_given(name)) {
            let message = format!("the value of the variable {missing} is not kept, for it may be secret");
            return Err(refused(message).hint(format!("give it again: --set {missing}=…")));
        }
        let mut arguments = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            let hidden = |(name, _): &&(String, String)| {
                argument.strip_suffix("=***").is_some_and(|kept| kept.strip_prefix("--set=").unwrap_or(kept) == name)
            };
            arguments.push(match variables.iter().find(hidden) {
                Some((_, value)) => argument.strip_suffix("***").unwrap_or(argument).to_owned() + value,
                None => argument.clone(),
            });
        }
        Args::try_parse_from(["etlrs".to_owned()].into_iter().chain(arguments))
            .map_err(|_| refused(format!("this version cannot read the command: {}", self.shown())))
    }
}

/// Places in a pipeline file whose values are no secrets.
const KNOWN_PLACES: [&str; 6] =
    ["performance", "source.partitions", "target.mode", "target.key", "errors.max_errors", "errors.on_error"];

/// Whether an option of that name is a secret; `None` if no connector has it.
fn is_secret_option(key: &str) -> Option<bool> {
    let registry = registry();
    let specs = registry.connectors().iter();
    let specs =
        specs.flat_map(|connector| [connector.source_options(), connector.target_options()]).flatten().flatten();
    specs.filter(|spec| spec.key == key).map(|spec| spec.secret).reduce(|one, other| one || other)
}

/// Flags of a subcommand that take a value.
fn flags_with_value(subcommand: &str) -> BTreeSet<String> {
    let args = Args::command();
    let Some(found) = args.find_subcommand(subcommand) else { return BTreeSet::new() };
    let takes_value = |arg: &&clap::Arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    found.get_arguments().filter(takes_value).filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+#".contains(c);
    match !word.is_empty() && !word.starts_with('#') && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Command;

    fn kept(arguments: &[&str]) -> KeptCommand {
        KeptCommand::new(arguments.iter().map(|&argument| argument.to_owned()).collect(), PathBuf::from("/here"))
    }

    #[test]
    fn nothing_that_may_be_secret_is_kept() {
        for (arguments, shown) in [
            (&["copy", "a b.csv", "postgres://me:hunter2@h/db#t"][..], "etlrs copy 'a b.csv' postgres://me@h/db#t"),
            (
                &["copy", "postgres://me@h/db?password=hunter2", "a.csv"],
                "etlrs copy 'postgres://me@h/db?password=***' a.csv",
            ),
            (
                &["copy", "a.csv", "b.csv", "--target-option=secret_access_key=hunter2"],
                "etlrs copy a.csv b.csv '--target-option=secret_access_key=***'",
            ),
            (
                &["copy", "a.csv", "b.csv", "--source-option", "no_such=hunter2"],
                "etlrs copy a.csv b.csv --source-option 'no_such=***'",
            ),
            (
                &["copy", "a.csv", "b.csv", "--quarantine", "mysql://u:hunter2@h/d#t"],
                "etlrs copy a.csv b.csv --quarantine mysql://u@h/d#t",
            ),
            (
                &["replay", "q.csv", "a.csv", "--of-target", "mysql://u:hunter2@h/d#t"],
                "etlrs replay q.csv a.csv --of-target mysql://u@h/d#t",
            ),
            (&["run", "p.toml", "--set", "X=hunter2"], "etlrs run p.toml --set 'X=***'"),
            (&["run", "p.toml", "--set=source.password=hunter2"], "etlrs run p.toml '--set=source.password=***'"),
            (
                &["run", "p.toml", "--set", "alerts.webhook=https://hooks.example.com/hunter2"],
                "etlrs run p.toml --set 'alerts.webhook=***'",
            ),
            (
                &["copy", "a.csv", "b.csv", "--target-option", "post_sql=ALTER ROLE x PASSWORD 'hunter2'"],
                "etlrs copy a.csv b.csv --target-option 'post_sql=***'",
            ),
            (
                &["copy", "postgres://h/d", "b.csv", "--query", "select http://a:hunter2@c"],
                "etlrs copy postgres://h/d b.csv --query 'select http://a:***@c'",
            ),
        ] {
            let kept = kept(arguments);
            assert_eq!(kept.shown(), shown);
            assert!(!serde_json::to_string(&kept).unwrap().contains("hunter2"));
            assert_eq!(kept.args(&[]).is_err(), shown.contains("***"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_secret_is_given_again() {
        let kept = kept(&[
            "copy",
            "a.csv",
            "sqlite:b.db#t",
            "--where",
            "key = 'it''s'",
            "--source-option",
            "delimiter=;",
            "--memory=64MB",
            "--target-option",
            "primary_key=false",
        ]);
        assert_eq!(
            kept.shown(),
            r"etlrs copy a.csv sqlite:b.db#t --where 'key = '\''it'\'''\''s'\''' --source-option 'delimiter=;' --memory=64MB --target-option primary_key=false"
        );
        let Command::Copy(copy) = kept.args(&[]).unwrap().command else { panic!("another command") };
        assert_eq!(copy.copy.filter.as_deref(), Some("key = 'it''s'"));
        assert_eq!(copy.copy.source_option, [("delimiter".to_owned(), ";".to_owned())]);
    }

    #[test]
    fn a_variable_is_given_again_by_whoever_goes_on() {
        let kept = kept(&["run", "p.toml", "--set", "X=hunter2", "--set=Y=1", "--set", "target.mode=append"]);
        let message = kept.args(&[("X".into(), "1".into())]).unwrap_err().to_string();
        assert!(message.contains("the variable Y"), "{message}");
        let variables = [("X".to_owned(), "a=b".to_owned()), ("Y".to_owned(), String::new())];
        let Command::Run(run) = kept.args(&variables).unwrap().command else { panic!("another command") };
        let set: Vec<_> = run.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(set, [("X", "a=b"), ("Y", ""), ("target.mode", "append")]);
    }
}
