use std::sync::Arc;

use etlrs_core::{Connector, Error, ErrorKind, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, Uri};

use crate::{CsvExtractor, CsvOptions};

/// Makes `sales.csv` and `sales.tsv` into extractors.
#[derive(Clone, Copy, Debug, Default)]
pub struct CsvConnector;

impl Connector for CsvConnector {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn summary(&self) -> &'static str {
        "CSV and TSV files in UTF-8"
    }

    fn example(&self) -> &'static str {
        "sales.csv"
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["csv", "tsv"]
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(CsvOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        None
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let mut parsed = CsvOptions::from_pairs(options.iter().map(|(key, value)| (key.as_str(), value.as_str())))?;
        if uri.extension().as_deref() == Some("tsv") && !options.contains_key("delimiter") {
            parsed = parsed.with_delimiter(b'\t');
        }
        Ok(Arc::new(CsvExtractor::new(uri.path()).with_options(parsed)))
    }

    fn loader(&self, uri: &Uri, _: &OptionMap) -> Result<Arc<dyn Loader>> {
        Err(Error::new(ErrorKind::Unsupported, "CSV files can be read but not written yet")
            .hint("write Parquet or SQLite")
            .in_source(uri))
    }
}
