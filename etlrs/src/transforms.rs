//! The transformers of a pipeline file.
//!
//! | `type` | keys | |
//! |---|---|---|
//! | `filter` | `where` | keeps the rows for which an expression is true |
//! | `select`, `drop` | `columns` | keeps or removes columns |
//! | `rename` | `columns = { old = "new" }` | |
//! | `cast` | `columns = { a = "int64" }`, `policy = "fail"` or `"null"` | changes types |
//! | `derive` | `columns = { a = "expression" }` | adds or replaces columns; an expression may be a constant |
//! | `lookup` | `source`, `on`, `take`, `join` | joins with a table that is held in memory |
//! | `deduplicate` | `keys`, `keep = "first"` or `"any"`, `max_memory` | keeps one row of each key, or of those that are equal |
//! | `mask` | `columns = { a = "sha256", b = "partial(0,4)", c = "null" }`, `salt` | hides values |
//! | `flatten` | `columns`, `separator` | makes columns of the members of structs |
//! | `unnest` | `column`, `position`, `empty = "keep"` or `"drop"` | makes rows of the items of a list |
//! | `metadata` | `columns = { a = "run_id", b = "load_time", c = "source_file" }` | adds columns that tell of the run |
//!
//! With `chunk_size`, one that works row by row is given chunks of a batch on all cores.

use std::path::Path;
use std::sync::Arc;

use etlrs_core::{
    CancelToken, Error, ErrorKind, OptionMap, PerformanceConfig, Registry, Result, ScanRequest, Secret, Transformer,
    Uri, parse_bytes, parse_type, unknown_name,
};
use etlrs_engine::{
    AddMetadata, Cast, CastPolicy, Deduplicate, Derive, DropColumns, Expr, Filter, Flatten, Keep, LookupJoin, Mask,
    Masking, ParallelTransformer, Rename, Select, SharedDataTransformer, Unnest, collect,
};
use toml::Value;

use crate::pipeline_file::relative;
use crate::section::Section;

#[derive(Clone, Debug)]
pub(crate) struct Transform {
    pub(crate) name: String,
    what: What,
    chunk_size: Option<usize>,
    /// How it is written in the file, with the values of variables.
    text: Secret,
}

#[derive(Clone, Debug)]
enum What {
    Filter(Filter),
    Select(Select),
    Drop(DropColumns),
    Rename(Rename),
    Cast(Cast),
    Derive(Vec<Derive>),
    Lookup(Lookup),
    Deduplicate(Deduplicate),
    Mask(Mask),
    Flatten(Flatten),
    Unnest(Unnest),
    Metadata(AddMetadata),
}

const TYPES: [&str; 12] = [
    "filter",
    "select",
    "drop",
    "rename",
    "cast",
    "derive",
    "lookup",
    "deduplicate",
    "mask",
    "flatten",
    "unnest",
    "metadata",
];

impl Transform {
    /// # Errors
    /// `InvalidConfig` for a key or a value that is wrong. Columns are looked for when a run is planned.
    pub(crate) fn read(number: usize, value: Value, folder: &Path) -> Result<Self> {
        let text = Secret::new(format!("{value:?}"));
        let mut section = Section::of(format!("transform {number}"), value)?;
        let name = section.required_text("type")?;
        section.name = format!("transform {number} ({name})");
        let here = section.name.clone();
        let expression = |text: &str| Expr::parse(text).map_err(|error| error.in_source(&here));
        let what = match name.as_str() {
            "filter" => What::Filter(Filter::new(expression(&section.required_text("where")?)?)),
            "select" => What::Select(Select::new(section.required_texts("columns")?)),
            "drop" => What::Drop(DropColumns::new(section.required_texts("columns")?)),
            "rename" => What::Rename(Rename::new(section.required_pairs("columns")?)),
            "cast" => {
                let columns = section.required_pairs("columns")?;
                let types = columns.into_iter().map(|(name, text)| Ok((name, parse_type(&text)?)));
                let cast = Cast::new(types.collect::<Result<Vec<_>>>().map_err(|error| error.in_source(&here))?);
                let policies = [("fail", CastPolicy::Fail), ("null", CastPolicy::Null)];
                What::Cast(cast.policy(section.word("policy", &policies)?.unwrap_or_default()))
            }
            "derive" => {
                let columns = section.required_pairs("columns")?;
                let columns = columns.into_iter().map(|(name, text)| Ok(Derive::new(name, expression(&text)?)));
                What::Derive(columns.collect::<Result<_>>()?)
            }
            "lookup" => What::Lookup(Lookup {
                source: relative(section.required_text("source")?, folder),
                options: section.options("options")?.into_iter().collect(),
                on: section.required_pairs("on")?,
                take: section.pairs("take")?.unwrap_or_default(),
                join: section.word("join", &JOINS)?.unwrap_or_default(),
            }),
            "deduplicate" => {
                let keys = section.texts("keys")?;
                let mut deduplicate = keys.map_or_else(Deduplicate::rows, Deduplicate::by);
                if let Some(keep) = section.word("keep", &[("first", Keep::First), ("any", Keep::Any)])? {
                    deduplicate = deduplicate.keep(keep);
                }
                if let Some(bytes) = section.text("max_memory")? {
                    deduplicate = deduplicate.max_memory(parse_bytes(&bytes).map_err(|error| error.in_source(&here))?);
                }
                What::Deduplicate(deduplicate)
            }
            "mask" => {
                let columns = section.required_pairs("columns")?;
                let salt = section.text("salt")?.map(Secret::new);
                let columns = columns.into_iter().map(|(name, text)| {
                    let masking = masking(&text, salt.as_ref());
                    Ok((name.clone(), masking.map_err(|error| error.in_source(&here).at_column(name))?))
                });
                What::Mask(Mask::new(columns.collect::<Result<Vec<_>>>()?))
            }
            "flatten" => {
                let columns = section.texts("columns")?;
                let flatten = columns.map_or_else(Flatten::all, Flatten::columns);
                What::Flatten(section.text("separator")?.into_iter().fold(flatten, Flatten::separator))
            }
            "unnest" => {
                let unnest = Unnest::new(section.required_text("column")?);
                let unnest = section.text("position")?.into_iter().fold(unnest, Unnest::position);
                match section.word("empty", &[("keep", false), ("drop", true)])? {
                    Some(true) => What::Unnest(unnest.drop_empty()),
                    _ => What::Unnest(unnest),
                }
            }
            "metadata" => {
                let mut metadata = AddMetadata::new();
                for (name, what) in section.required_pairs("columns")? {
                    metadata = match what.as_str() {
                        "run_id" => metadata.run_id(name),
                        "load_time" => metadata.load_time(name),
                        "source_file" => metadata.source_file(name),
                        other => {
                            let known = ["run_id", "load_time", "source_file"];
                            return Err(unknown_name("metadata", other, &known).in_source(&here).at_column(name));
                        }
                    };
                }
                What::Metadata(metadata)
            }
            other => return Err(unknown_name("transform", other, &TYPES).in_source(format!("transform {number}"))),
        };
        let chunk_size = section.count("chunk_size")?;
        section.finish()?;
        Ok(Self { name: here, what, chunk_size, text })
    }

    /// How it is written in the file, with the values of variables, of which some may be secret.
    pub(crate) fn text(&self) -> &str {
        self.text.expose()
    }

    /// Whether some rows may not get through.
    pub(crate) fn may_drop_rows(&self) -> bool {
        match &self.what {
            What::Filter(_) | What::Deduplicate(_) | What::Unnest(_) => true,
            What::Lookup(lookup) => lookup.join != LookupJoin::Left,
            _ => false,
        }
    }

    /// Adds the transformers; reads the table of a lookup. Adds to `identity` what tells them from others.
    pub(crate) async fn build(
        &self,
        registry: &Registry,
        config: &PerformanceConfig,
        cancel: &CancelToken,
        into: &mut Vec<Arc<dyn Transformer>>,
        identity: &mut String,
    ) -> Result<()> {
        identity.push_str(self.text.expose());
        let mut add = |transformer: Arc<dyn Transformer>| {
            into.push(match self.chunk_size {
                Some(rows) => Arc::new(ParallelTransformer::of(transformer).chunk_size(rows)),
                None => transformer,
            });
        };
        match &self.what {
            What::Filter(filter) => add(Arc::new(filter.clone())),
            What::Select(select) => add(Arc::new(select.clone())),
            What::Drop(drop) => add(Arc::new(drop.clone())),
            What::Rename(rename) => add(Arc::new(rename.clone())),
            What::Cast(cast) => add(Arc::new(cast.clone())),
            What::Derive(columns) => columns.iter().for_each(|derive| add(Arc::new(derive.clone()))),
            What::Lookup(lookup) => add(Arc::new(lookup.build(registry, config, cancel, identity).await?)),
            What::Deduplicate(deduplicate) => add(Arc::new(deduplicate.clone())),
            What::Mask(mask) => add(Arc::new(mask.clone())),
            What::Flatten(flatten) => add(Arc::new(flatten.clone())),
            What::Unnest(unnest) => add(Arc::new(unnest.clone())),
            What::Metadata(metadata) => add(Arc::new(metadata.clone())),
        }
        Ok(())
    }
}

const JOINS: [(&str, LookupJoin); 3] =
    [("left", LookupJoin::Left), ("inner", LookupJoin::Inner), ("anti", LookupJoin::Anti)];

#[derive(Clone, Debug)]
struct Lookup {
    source: Uri,
    options: OptionMap,
    on: Vec<(String, String)>,
    take: Vec<(String, String)>,
    join: LookupJoin,
}

impl Lookup {
    async fn build(
        &self,
        registry: &Registry,
        config: &PerformanceConfig,
        cancel: &CancelToken,
        identity: &mut String,
    ) -> Result<SharedDataTransformer> {
        let extractor = registry.find(&self.source)?.extractor(&self.source, &self.options)?;
        let mut columns: Vec<String> = Vec::new();
        let keys = self.on.iter().map(|(_, column)| column);
        for name in keys.chain(self.take.iter().map(|(column, _)| column)) {
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
        let table = collect(extractor, ScanRequest::all().columns(columns), config.clone(), cancel).await?;
        identity.push_str(&table.checksum().to_string());
        Ok(SharedDataTransformer::new(Arc::new(table)).on(self.on.clone()).take(self.take.clone()).join(self.join))
    }
}

/// `sha256`, `partial(FIRST,LAST)` or `null`.
fn masking(text: &str, salt: Option<&Secret>) -> Result<Masking> {
    let partial = || {
        let (first, last) = text.strip_prefix("partial(")?.strip_suffix(')')?.split_once(',')?;
        Some(Masking::Partial { first: first.trim().parse().ok()?, last: last.trim().parse().ok()?, with: '*' })
    };
    match (text, salt) {
        ("sha256", Some(salt)) if !salt.expose().is_empty() => Ok(Masking::Sha256 { salt: salt.clone() }),
        ("sha256", _) => Err(Error::new(ErrorKind::InvalidConfig, "sha256 needs the key salt, and something in it")
            .hint("set salt = \"${SALT}\", from the environment; without a secret, values can be found by trying")),
        ("null", _) => Ok(Masking::Null),
        _ => partial().ok_or_else(|| {
            let message = format!("{text:?} is no way to mask a column");
            Error::new(ErrorKind::InvalidConfig, message).hint(
                "there is sha256, null, and partial(FIRST,LAST) with the numbers of characters that stay at the ends",
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Transform> {
        Transform::read(1, Value::Table(text.parse().unwrap()), Path::new(""))
    }

    #[test]
    fn all_types_are_read() {
        for text in [
            "type='filter'\nwhere='a > 1'\nchunk_size=100",
            "type='select'\ncolumns=['a']",
            "type='cast'\ncolumns={a='int64'}\npolicy='null'",
            "type='derive'\ncolumns={a='1'}",
            "type='lookup'\nsource='a.csv'\non={a='b'}\njoin='anti'",
            "type='deduplicate'",
            "type='deduplicate'\nkeys=['a']\nkeep='any'\nmax_memory='1GB'",
            "type='mask'\ncolumns={a='sha256', b='partial(1, 2)', c='null'}\nsalt='pepper'",
            "type='flatten'\ncolumns='a'\nseparator='.'",
            "type='unnest'\ncolumn='a'\nposition='n'\nempty='drop'",
            "type='metadata'\ncolumns={a='run_id', b='load_time', c='source_file'}",
        ] {
            read(text).unwrap();
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, needle) in [
            ("type='cast'\ncolumns={a='int65'}", "transform 1 (cast): there is no type"),
            ("type='cast'\ncolumns={a='int64'}\npolicy='nul'", "did you mean null?"),
            ("type='deduplicate'\nkey=['a']", "did you mean keys?"),
            ("type='deduplicate'\nmax_memory='x'", "\"x\" is no size"),
            ("type='mask'\ncolumns={a='sha256'}", "column \"a\": sha256 needs the key salt"),
            ("type='mask'\ncolumns={a='sha256'}\nsalt=''", "column \"a\": sha256 needs the key salt"),
            ("type='mask'\ncolumns={a='partial(1)'}", "is no way to mask a column"),
            ("type='unnest'", "transform 1 (unnest) lacks the key \"column\""),
            ("type='metadata'\ncolumns={a='runid'}", "did you mean run_id?"),
            ("type='filter'\nwhere='a'\nchunk_size='x'", "chunk_size in transform 1 (filter) must be a number"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }

    #[test]
    fn the_salt_is_not_shown() {
        let transform = read("type='mask'\ncolumns={a='sha256'}\nsalt='pepper'").unwrap();
        assert!(!format!("{transform:?}").contains("pepper"));
    }
}
