use std::sync::Arc;

use etlrs_core::{Connector, Error, ErrorKind, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, Uri};

use crate::{EXTENSIONS, ParquetExtractor, ParquetLoader, ParquetReadOptions, ParquetWriteOptions};

/// Serves paths that end in `.parquet`, `.parq` or `.pq`. A target path that ends in `/`, or that is a directory
/// already, becomes a directory of one file per partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParquetConnector;

impl Connector for ParquetConnector {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn summary(&self) -> &'static str {
        "Parquet files, and directories of them"
    }

    fn example(&self) -> &'static str {
        "sales.parquet"
    }

    fn extensions(&self) -> &'static [&'static str] {
        EXTENSIONS
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(ParquetReadOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        Some(ParquetWriteOptions::specs())
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let options = ParquetReadOptions::from_pairs(pairs(options))?;
        Ok(Arc::new(ParquetExtractor::new(local(uri)?).with_options(options)))
    }

    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>> {
        let options = ParquetWriteOptions::from_pairs(pairs(options))?;
        let path = local(uri)?;
        let directory = uri.body().ends_with('/') || path.is_dir();
        let loader = if directory { ParquetLoader::directory(path) } else { ParquetLoader::new(path) };
        Ok(Arc::new(loader.with_options(options)))
    }
}

fn pairs(options: &OptionMap) -> impl Iterator<Item = (&str, &str)> {
    options.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn local(uri: &Uri) -> Result<&std::path::Path> {
    match uri.scheme() {
        None => Ok(uri.path()),
        Some(scheme) => Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("Parquet is read and written at paths, and {scheme}: is none"),
        )
        .in_source(uri)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_options_are_refused_with_a_guess() {
        let uri = Uri::new("a.parquet");
        for (key, value, words) in [
            ("compresion", "zstd", "did you mean compression?"),
            ("compression", "zst", "did you mean zstd?"),
            ("row_group_size", "many", "whole number"),
        ] {
            let options = OptionMap::from([(key.to_owned(), value.to_owned())]);
            let error = ParquetConnector.loader(&uri, &options).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(ParquetConnector.extractor(&Uri::new("s3:a.parquet"), &OptionMap::new()).is_err());
    }
}
