use etlrs_core::{ColumnTypes, OptionMap, OptionValue, Registry, Rejected, Result, Uri};
use etlrs_engine::{PipelineBuilder, Replay};

use crate::ends::is_same_place;

/// The [`Replay`] of the quarantine at `place` by `builder`, which loads into `target`: of the records that were to go there. Only one
/// at a time may be at work on a quarantine.
///
/// # Errors
/// `InvalidConfig` for a place that no connector reads and writes.
pub fn replay(registry: &Registry, place: &Uri, builder: PipelineBuilder, target: &Uri) -> Result<Replay> {
    let wrong = |error: etlrs_core::Error| error.in_source(format!("quarantine {place}"));
    let connector = registry.find(place).map_err(wrong)?;
    let mut options = OptionMap::new();
    // Of files of text the types would be guessed.
    if connector.schemes().is_empty()
        && connector.source_options().is_some_and(|specs| specs.iter().any(|spec| spec.key == "types"))
    {
        let types = ColumnTypes::of(&Rejected::schema()).unwrap_or_default().0.into_iter();
        let text = |(name, data_type)| match name {
            name if name == "raw" => (name, etlrs_core::DataType::Utf8),
            name => (name, data_type),
        };
        options.insert("types".into(), ColumnTypes(types.map(text).collect()).show());
    }
    let extractor = connector.extractor(place, &options).map_err(wrong)?;
    let loader = connector.loader(place, &OptionMap::new()).map_err(wrong)?;
    let builder = builder.quarantine_into(loader).target_name(target.to_string());
    let (target, found) = (target.clone(), registry.clone());
    let replay = Replay::new(builder, extractor, registry.clone());
    Ok(replay.targets(move |name| is_same_target(&found, name, &target)))
}

/// Whether a target is one that a quarantine calls by a name: its URI, without a password.
fn is_same_target(registry: &Registry, name: &str, target: &Uri) -> bool {
    let without_password = |text: &str| text.replacen(":***@", "@", 1);
    let named = Uri::new(name);
    let is_file = |uri: &Uri| {
        let is_server = uri.body().starts_with("//")
            && uri
                .scheme()
                .is_some_and(|scheme| registry.find(uri).is_ok_and(|found| found.schemes().contains(&scheme)));
        !is_server
    };
    without_password(name) == without_password(&target.to_string())
        || is_file(&named) && is_file(target) && named.fragment() == target.fragment() && is_same_place(&named, target)
}

#[cfg(all(test, feature = "csv", feature = "postgres", feature = "sqlite"))]
mod tests {
    use super::*;

    #[test]
    fn targets_are_known_by_their_names() {
        let here = std::env::current_dir().unwrap();
        let absolute = here.join("a.csv");
        for (name, target, is_same) in [
            ("a.csv", "a.csv", true),
            ("a.csv", absolute.to_str().unwrap(), true),
            ("a.csv", "b.csv", false),
            ("sqlite:a.db#t", "sqlite:./a.db#t", true),
            ("sqlite:a.db#t", "sqlite:a.db#u", false),
            ("postgres://me@h/d#t", "postgres://me:secret@h/d#t", true),
            ("postgres://me@h/d#t", "postgres://me@h/d#u", false),
        ] {
            assert_eq!(is_same_target(&crate::registry(), name, &Uri::new(target)), is_same, "{name} {target}");
        }
    }
}
