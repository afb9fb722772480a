use std::sync::Arc;

use etlrs_core::{
    Connector, Error, ErrorKind, Extractor, Loader, OptionMap, OptionSet, OptionSpec, Result, TableEntry, Uri,
    async_trait,
};

use super::{no_table, pairs, table};
use crate::network::Timeouts;
use crate::table::TableName;
use crate::{PostgresExtractor, PostgresLoader, PostgresPool, PostgresSourceOptions, PostgresTargetOptions};

/// Serves `postgres://user@host/database#schema.table`; `postgresql:` means the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresConnector;

#[async_trait]
impl Connector for PostgresConnector {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn summary(&self) -> &'static str {
        "tables, views and queries of PostgreSQL databases"
    }

    fn example(&self) -> &'static str {
        "postgres://user@host/database#orders"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["postgres", "postgresql"]
    }

    fn source_options(&self) -> Option<Vec<OptionSpec>> {
        Some(PostgresSourceOptions::specs())
    }

    fn target_options(&self) -> Option<Vec<OptionSpec>> {
        Some(PostgresTargetOptions::specs())
    }

    async fn tables(&self, uri: &Uri, options: &OptionMap) -> Result<Option<Vec<TableEntry>>> {
        let options = PostgresSourceOptions::from_pairs(pairs(options))?;
        let pool = PostgresPool::from_uri(uri, Timeouts::new(options.connect_timeout, options.network_timeout))?;
        let pattern = table(uri).unwrap_or_else(|| "*".into());
        let pattern = TableName::parse(&pattern).map_err(|error| error.in_source(uri))?;
        let names = pool.tables(&pattern).await.map_err(|error| error.in_source(uri))?;
        let schema = &pattern.schema;
        let entry = |name: String| {
            let fragment = TableName { schema: schema.clone(), name: name.clone() }.to_string();
            TableEntry::new(name, super::fragment(&fragment))
        };
        Ok(Some(names.into_iter().map(entry).collect()))
    }

    fn table_fragment(&self, pattern: &str, name: &str) -> Result<String> {
        let TableName { schema, name: pattern } = TableName::parse(&super::decoded(pattern))?;
        Ok(super::fragment(&TableName { schema, name: pattern.replacen('*', name, 1) }.to_string()))
    }

    fn extractor(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Extractor>> {
        let options = PostgresSourceOptions::from_pairs(pairs(options))?;
        let pool = PostgresPool::from_uri(uri, Timeouts::new(options.connect_timeout, options.network_timeout))?;
        let extractor = match (table(uri), options.query.as_str()) {
            (Some(_), query) if !query.is_empty() => {
                return Err(Error::new(ErrorKind::InvalidConfig, "there are both a table and a query")
                    .hint("leave out what follows #, or the query")
                    .in_source(uri));
            }
            (Some(table), _) => PostgresExtractor::table(pool, &table).map_err(|error| error.in_source(uri))?,
            (None, "") => {
                return Err(no_table(uri)
                    .hint("write it at the end, as in postgres://user@host/database#orders, or give a query"));
            }
            (None, query) => PostgresExtractor::query(pool, query),
        };
        Ok(Arc::new(extractor.with_options(options)))
    }

    fn loader(&self, uri: &Uri, options: &OptionMap) -> Result<Arc<dyn Loader>> {
        let options = PostgresTargetOptions::from_pairs(pairs(options))?;
        let pool = PostgresPool::from_uri(uri, Timeouts::new(options.connect_timeout, options.network_timeout))?;
        let table = table(uri)
            .ok_or_else(|| no_table(uri).hint("write it at the end, as in postgres://user@host/database#orders"))?;
        let loader = PostgresLoader::new(pool, &table).map_err(|error| error.in_source(uri))?;
        Ok(Arc::new(loader.with_options(options)))
    }
}
