use std::sync::Arc;

use etlrs_core::{Connector, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, Uri};
use etlrs_files::{STORE_SCHEMES, file_of, is_directory_target};

use crate::{EXTENSIONS, ParquetExtractor, ParquetLoader, ParquetReadOptions, ParquetWriteOptions};

/// Serves paths and URLs of object stores that end in `.parquet`, `.parq` or `.pq`. A target that ends in `/`, or that is a
/// directory already, becomes a directory of one file per partition. The prefix `parquet:` says that a name without such an
/// end is Parquet.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParquetConnector;

impl Connector for ParquetConnector {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn summary(&self) -> &'static str {
        "Parquet files, and directories of them, also in object stores (s3:// gs:// az://)"
    }

    fn example(&self) -> &'static str {
        "sales.parquet"
    }

    fn extensions(&self) -> &'static [&'static str] {
        EXTENSIONS
    }

    fn file_schemes(&self) -> &'static [&'static str] {
        STORE_SCHEMES
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(ParquetReadOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        Some(ParquetWriteOptions::specs())
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let options = ParquetReadOptions::from_pairs(pairs(options))?;
        Ok(Arc::new(ParquetExtractor::new(file_of(uri, "parquet")?).with_options(options)))
    }

    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>> {
        let options = ParquetWriteOptions::from_pairs(pairs(options))?;
        options.validate()?;
        let path = file_of(uri, "parquet")?;
        let loader = if is_directory_target(path) { ParquetLoader::directory(path) } else { ParquetLoader::new(path) };
        Ok(Arc::new(loader.with_options(options)))
    }
}

fn pairs(options: &OptionMap) -> impl Iterator<Item = (&str, &str)> {
    options.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

#[cfg(test)]
mod tests {
    use etlrs_core::ErrorKind;

    use super::*;

    #[test]
    fn wrong_options_are_refused_with_a_guess() {
        let uri = Uri::new("a.parquet");
        for (key, value, words) in [
            ("compresion", "zstd", "did you mean compression?"),
            ("compression", "zst", "did you mean zstd?"),
            ("row_group_size", "many", "whole number"),
            ("row_group_size", "0", "row_group_size must be at least 1"),
            ("data_page_rows", "0", "data_page_rows must be at least 1"),
        ] {
            let options = OptionMap::from([(key.to_owned(), value.to_owned())]);
            let error = ParquetConnector.loader(&uri, &options).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(ParquetConnector.extractor(&Uri::new("s3:a.parquet"), &OptionMap::new()).is_err());
    }
}
