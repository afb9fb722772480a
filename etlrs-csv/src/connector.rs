use std::sync::Arc;

use etlrs_core::{Connector, Error, ErrorKind, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, Uri};
use etlrs_files::{STORE_SCHEMES, file_of, is_directory_target};

use crate::{CsvExtractor, CsvLoader, CsvOptions, CsvWriteOptions, EXTENSIONS, TAB_EXTENSIONS};

/// Serves paths and URLs of object stores that end in `.csv` or `.tsv`, and with `.gz`, `.zst`, `.bz2` or `.xz` behind it. A target path that ends in
/// `/`, or that is a directory already, becomes a directory of one file per partition. A source may be a pattern, a
/// directory, or `-` for standard input; the prefix `csv:` says that a name without such an end is CSV.
#[derive(Clone, Copy, Debug, Default)]
pub struct CsvConnector;

impl Connector for CsvConnector {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn summary(&self) -> &'static str {
        "CSV and TSV files, also compressed (.csv.gz .zst .bz2 .xz), directories, patterns (a-*.csv), standard input (-), \
         and in object stores (s3:// gs:// az://)"
    }

    fn example(&self) -> &'static str {
        "sales.csv"
    }

    fn serves_stdin(&self) -> bool {
        true
    }

    fn extensions(&self) -> &'static [&'static str] {
        EXTENSIONS
    }

    fn file_schemes(&self) -> &'static [&'static str] {
        STORE_SCHEMES
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(CsvOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        Some(CsvWriteOptions::specs())
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let parsed = CsvOptions::from_pairs(pairs(options))?;
        let extractor = if uri.body() == "-" { CsvExtractor::stdin() } else { CsvExtractor::new(file_of(uri, "csv")?) };
        Ok(Arc::new(extractor.with_options(parsed)))
    }

    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>> {
        if uri.body() == "-" {
            return Err(Error::new(ErrorKind::Unsupported, "standard output is not served yet").hint("name a file"));
        }
        let mut parsed = CsvWriteOptions::from_pairs(pairs(options))?;
        if is_tsv(uri) && !options.contains_key("delimiter") {
            parsed = parsed.with_delimiter(b'\t');
        }
        let path = file_of(uri, "csv")?;
        let loader = if is_directory_target(path) { CsvLoader::directory(path) } else { CsvLoader::new(path) };
        Ok(Arc::new(loader.with_options(parsed)))
    }
}

fn pairs(options: &OptionMap) -> impl Iterator<Item = (&str, &str)> {
    options.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn is_tsv(uri: &Uri) -> bool {
    TAB_EXTENSIONS.iter().any(|extension| uri.has_extension(extension))
}
