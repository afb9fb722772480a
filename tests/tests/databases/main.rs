//! Databases as sources and as targets, against private servers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod certificates;
mod csv;
mod cursors;
mod faults;
mod keys;
mod limits;
mod locks;
mod memory;
mod merge;
mod mysql;
mod pairs;
mod postgres;
mod refused;
mod replayed;
mod same_server;
mod secrets;
mod set_aside;
mod sql;
mod sqlite;
mod types;
mod verified;

use etlrs::*;
pub use etlrs_tests::mariadb::MariaDb;
pub use etlrs_tests::postgres::Postgres;

/// A runtime such as the program has.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// What a copy may be told besides its ends.
#[derive(Default)]
pub struct Copy<'a> {
    /// What happens to a target that exists.
    pub mode: LoadMode,
    /// Of the mode merge.
    pub keys: &'a [&'a str],
    /// Options of the source.
    pub source_options: &'a [(&'a str, &'a str)],
    /// Options of the target.
    pub target_options: &'a [(&'a str, &'a str)],
    /// How many pieces.
    pub partitions: Option<usize>,
    /// How many at a time.
    pub threads: Option<usize>,
    /// Columns of the source.
    pub columns: Option<&'a [&'a str]>,
    /// Where records go that are refused, if they do not end it.
    pub quarantine: Option<&'a str>,
    /// How many they may be.
    pub max_errors: Option<u64>,
}

impl Copy<'_> {
    /// Copies, reads back what is staged, and compares.
    pub fn run(&self, source: &str, target: &str) -> Result<RunReport> {
        let options = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (source, target) = (Uri::new(source), Uri::new(target));
        block_on(async {
            let builder = pipeline(
                &registry(),
                (&source, &options(self.source_options)),
                (&target, &options(self.target_options)),
            )?
            .mode(self.mode)
            .keys(self.keys.iter().copied())
            .verify(Verify::Full)
            .config(PerformanceConfig {
                max_threads: self.threads.unwrap_or(PerformanceConfig::default().max_threads),
                ..PerformanceConfig::default()
            });
            let mut request = ScanRequest::all();
            request.partitions = self.partitions;
            if let Some(columns) = self.columns {
                request = request.columns(columns.iter().copied());
            }
            let mut builder = builder.request(request);
            if let Some(place) = self.quarantine {
                let place = Uri::new(place);
                builder = builder.quarantine_into(registry().find(&place)?.loader(&place, &OptionMap::new())?);
            }
            if let Some(most) = self.max_errors {
                builder = builder.max_errors(most);
            }
            builder.build()?.execute().await
        })
    }
}

/// Copies in `mode`.
pub fn copy(source: &str, target: &str, mode: LoadMode) -> Result<RunReport> {
    Copy { mode, ..Copy::default() }.run(source, target)
}

/// Compares a source with a target, in these columns.
pub fn compare(source: &str, target: &str, columns: &[&str]) -> Result<Verification> {
    let (source, target, registry) = (Uri::new(source), Uri::new(target), registry());
    block_on(async {
        let none = OptionMap::new();
        let builder = pipeline(&registry, (&source, &none), (&target, &none))?;
        let pipeline = builder.request(ScanRequest::all().columns(columns.iter().copied())).build()?;
        let target = registry.find(&target)?.extractor(&target, &none)?;
        let mut options = CompareOptions::default();
        options.keys = vec!["id".into()];
        pipeline.compare(target, &options).await
    })
}

/// Sets its flag when it goes, so that what another thread does meanwhile ends when a test fails too.
pub struct Done<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The strings of the suite, with which other programs had trouble.
pub fn naughty_strings() -> Option<Vec<String>> {
    let suites =
        std::env::var_os("ETLRS_SUITES").map_or_else(|| etlrs_tests::root().join("../shared/suites"), Into::into);
    let Ok(text) = std::fs::read_to_string(suites.join("blns/blns.json")) else {
        eprintln!("SKIPPED: the suite of naughty strings is not at {}", suites.display());
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}
