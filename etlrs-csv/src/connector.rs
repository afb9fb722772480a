use std::sync::Arc;

use etlrs_core::{Connector, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, Uri};

use crate::{CsvExtractor, CsvLoader, CsvOptions, CsvWriteOptions, EXTENSIONS};

/// Serves paths that end in `.csv` or `.tsv`, and with `.gz`, `.zst`, `.bz2` or `.xz` behind it. A target path that ends in
/// `/`, or that is a directory already, becomes a directory of one file per partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct CsvConnector;

impl Connector for CsvConnector {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn summary(&self) -> &'static str {
        "CSV and TSV files in UTF-8; written compressed too (.csv.gz .zst .bz2 .xz), and as directories"
    }

    fn example(&self) -> &'static str {
        "sales.csv"
    }

    fn extensions(&self) -> &'static [&'static str] {
        EXTENSIONS
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(CsvOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        Some(CsvWriteOptions::specs())
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let mut parsed = CsvOptions::from_pairs(pairs(options))?;
        if is_tsv(uri) && !options.contains_key("delimiter") {
            parsed = parsed.with_delimiter(b'\t');
        }
        Ok(Arc::new(CsvExtractor::new(uri.path()).with_options(parsed)))
    }

    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>> {
        let mut parsed = CsvWriteOptions::from_pairs(pairs(options))?;
        if is_tsv(uri) && !options.contains_key("delimiter") {
            parsed = parsed.with_delimiter(b'\t');
        }
        let path = uri.path();
        let directory = uri.body().ends_with('/') || path.is_dir();
        let loader = if directory { CsvLoader::directory(path) } else { CsvLoader::new(path) };
        Ok(Arc::new(loader.with_options(parsed)))
    }
}

fn pairs(options: &OptionMap) -> impl Iterator<Item = (&str, &str)> {
    options.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn is_tsv(uri: &Uri) -> bool {
    let extensions = EXTENSIONS.iter().filter(|extension| extension.starts_with("tsv"));
    extensions.into_iter().any(|extension| uri.has_extension(extension))
}
