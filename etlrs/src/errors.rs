use etlrs_core::{Error, ErrorKind, OptionMap, Registry, Result, Uri, unknown_name};
use etlrs_engine::{MaxErrors, PipelineBuilder};

use crate::ends::{is_same_place, require_apart};

/// What a run does about records that cannot be taken: the flags of the program and the section `[errors]` of a pipeline
/// file.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ErrorPolicy {
    /// `None`: quarantine if one of the others is given, else fail.
    pub on_error: Option<OnError>,
    /// Where they are kept; by default beside the target.
    pub quarantine: Option<Uri>,
    /// More of them end the run.
    pub max_errors: Option<MaxErrors>,
}

/// What happens to a record that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// It ends the run, and the target is as it was.
    Fail,
    /// It is kept in the quarantine, and the run goes on.
    Quarantine,
}

impl OnError {
    const ALL: [(&str, Self); 2] = [("fail", Self::Fail), ("quarantine", Self::Quarantine)];
}

impl std::str::FromStr for OnError {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, policy)| policy).ok_or_else(|| unknown_name("on_error", text, &Self::ALL.map(|(name, _)| name)))
    }
}

impl ErrorPolicy {
    /// Where a run into `target` keeps such records. `None`: they end it.
    ///
    /// # Errors
    /// `InvalidConfig` if no place is named and there is none beside the target.
    pub fn place(&self, registry: &Registry, target: &Uri) -> Result<Option<Uri>> {
        let given = self.quarantine.is_some() || self.max_errors.is_some();
        let implied = if given { OnError::Quarantine } else { OnError::Fail };
        match (self.on_error.unwrap_or(implied), &self.quarantine) {
            (OnError::Fail, _) => Ok(None),
            (OnError::Quarantine, Some(place)) => Ok(Some(place.clone())),
            (OnError::Quarantine, None) => beside(registry, target).map(Some),
        }
    }

    /// A pipeline from `source` to `target` that does so.
    ///
    /// # Errors
    /// As [`place`](Self::place), for a place that no connector writes to, and for one that is the source or the target.
    pub fn apply(
        &self,
        registry: &Registry,
        source: &Uri,
        target: &Uri,
        builder: PipelineBuilder,
    ) -> Result<PipelineBuilder> {
        let Some(place) = self.place(registry, target)? else { return Ok(builder) };
        let wrong = |error: Error| error.in_source(format!("quarantine {place}"));
        for (what, other) in [("source", source), ("target", target)] {
            if is_same_place(&place, other) {
                let error = Error::new(ErrorKind::InvalidConfig, format!("it is in the same place as the {what}"));
                return Err(wrong(error.hint("give it a file of its own")));
            }
        }
        require_apart(registry, source, &place).map_err(wrong)?;
        let loader = registry.find(&place).and_then(|found| found.loader(&place, &OptionMap::new())).map_err(wrong)?;
        let builder = builder.quarantine_into(loader).target_name(target.to_string());
        Ok(match self.max_errors {
            Some(most) => builder.max_errors(most),
            None => builder,
        })
    }
}

/// `sales.parquet.rejected.parquet` beside `sales.parquet`.
fn beside(registry: &Registry, target: &Uri) -> Result<Uri> {
    let is_file = match target.scheme() {
        None => true,
        // The name of a format, and no database.
        Some(scheme) => registry.find(target).is_ok_and(|found| !found.schemes().contains(&scheme)),
    };
    let path = target.body().trim_end_matches('/');
    if !is_file || path.is_empty() || path == "-" || path.starts_with("//") {
        return Err(Error::new(ErrorKind::InvalidConfig, "there is no place beside the target for a quarantine")
            .hint("name one with --quarantine, or the key quarantine in [errors]")
            .in_source(target));
    }
    // With a colon in its name it would be taken for something with a scheme.
    let here = if path.contains(':') && !path.contains('/') { "./" } else { "" };
    Ok(Uri::new(format!("{here}{path}.rejected.parquet")))
}

#[cfg(all(test, feature = "csv", feature = "parquet", feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn a_quarantine_is_beside_a_file_unless_it_is_named() {
        let policy = |on_error, quarantine: Option<&str>, max_errors: Option<u64>| ErrorPolicy {
            on_error,
            quarantine: quarantine.map(Uri::from),
            max_errors: max_errors.map(Into::into),
        };
        let (fail, keep) = (Some(OnError::Fail), Some(OnError::Quarantine));
        let place = |policy: &ErrorPolicy, target: &str| policy.place(&crate::registry(), &Uri::from(target));
        for (policy, target, expected) in [
            (policy(None, None, None), "a.csv", None),
            (policy(fail, Some("q.csv"), Some(1)), "a.csv", None),
            (policy(keep, None, None), "a.csv", Some("a.csv.rejected.parquet")),
            (policy(None, None, Some(1)), "d/a.parquet/", Some("d/a.parquet.rejected.parquet")),
            (policy(keep, None, None), "csv:d/a", Some("d/a.rejected.parquet")),
            (policy(keep, None, None), "./a:b.csv", Some("./a:b.csv.rejected.parquet")),
            (policy(None, Some("q.csv"), None), "sqlite:a.db#t", Some("q.csv")),
        ] {
            assert_eq!(place(&policy, target).unwrap(), expected.map(Uri::from), "{policy:?} {target}");
        }
        for target in ["sqlite:a.db#t", "-", "csv:-"] {
            let error = place(&policy(keep, None, None), target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains("--quarantine"), "{error}");
        }
    }

    #[test]
    fn a_quarantine_is_neither_source_nor_target() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Uri::new(name).in_folder(folder.path());
        let apply = |place: &str, source: &str, target: &str| {
            let policy = ErrorPolicy { quarantine: Some(at(place)), ..ErrorPolicy::default() };
            policy.apply(&crate::registry(), &at(source), &at(target), PipelineBuilder::new()).map(drop)
        };
        apply("q.parquet", "a.csv", "b.parquet").unwrap();
        for (place, source, target, needle) in [
            ("./b.parquet", "a.csv", "b.parquet", "as the target"),
            ("b.csv", "a.csv", "b.csv/", "as the target"),
            ("a.csv", "a.csv", "b.parquet", "as the source"),
            ("sqlite:b.db#q", "a.csv", "sqlite:b.db#t", "as the target"),
            ("q.xyz", "a.csv", "b.csv", "no connector"),
        ] {
            let error = apply(place, source, target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(needle), "{error}");
        }
    }
}
