use std::sync::Arc;

use etlrs_core::{Connector, Error, ErrorKind, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, Uri};
use etlrs_files::{STORE_SCHEMES, file_of, is_directory_target};

use crate::{EXTENSIONS, JsonExtractor, JsonLoader, JsonOptions, JsonWriteOptions};

/// Serves paths and URLs of object stores that end in `.ndjson`, `.jsonl` or `.json`, and with `.gz`, `.zst`, `.bz2` or `.xz`
/// behind it. A target path that ends in `/`, or that is a directory already, becomes a directory of one file per partition. A
/// source may be a pattern, a directory, or `json:-` for standard input; the prefix `json:` says that a name without such an
/// end is JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonConnector;

impl Connector for JsonConnector {
    fn name(&self) -> &'static str {
        "json"
    }

    fn summary(&self) -> &'static str {
        "JSON files with a record on each line (.ndjson .jsonl) or in a list (.json), also compressed (.gz .zst .bz2 .xz), \
         directories, patterns (a-*.ndjson), standard input (json:-), and in object stores (s3:// gs:// az://)"
    }

    fn example(&self) -> &'static str {
        "sales.ndjson"
    }

    fn extensions(&self) -> &'static [&'static str] {
        EXTENSIONS
    }

    fn file_schemes(&self) -> &'static [&'static str] {
        STORE_SCHEMES
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(JsonOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        Some(JsonWriteOptions::specs())
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let parsed = JsonOptions::from_pairs(pairs(options))?;
        let extractor =
            if uri.body() == "-" { JsonExtractor::stdin() } else { JsonExtractor::new(file_of(uri, "json")?) };
        Ok(Arc::new(extractor.with_options(parsed)))
    }

    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>> {
        if uri.body() == "-" {
            return Err(Error::new(ErrorKind::Unsupported, "standard output is not served yet").hint("name a file"));
        }
        let parsed = JsonWriteOptions::from_pairs(pairs(options))?;
        let path = file_of(uri, "json")?;
        let loader = if is_directory_target(path) { JsonLoader::directory(path) } else { JsonLoader::new(path) };
        Ok(Arc::new(loader.with_options(parsed)))
    }
}

fn pairs(options: &OptionMap) -> impl Iterator<Item = (&str, &str)> {
    options.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}
