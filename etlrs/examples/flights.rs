//! The pipeline of `examples/flights/flights.toml` in Rust, with no more of ETLRS than it needs:
//!
//! ```text
//! cargo run -p etlrs --example flights --no-default-features --features csv,parquet
//! ```
use std::path::Path;
use std::sync::Arc;

use etlrs::{
    CancelToken, CsvExtractor, CsvOptions, Derive, DropColumns, Expr, Filter, LoadMode, ParquetLoader,
    PerformanceConfig, PipelineBuilder, Result, ScanRequest, SharedDataTransformer, Verify, collect,
};

#[tokio::main]
async fn main() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flights");
    let target = folder.join("out/flights-by-rust.parquet");

    let airlines = CsvExtractor::new(folder.join("airlines.csv"));
    let all = ScanRequest::all();
    let airlines = collect(Arc::new(airlines), all, PerformanceConfig::default(), &CancelToken::new()).await?;

    let report = PipelineBuilder::new()
        .extract(
            CsvExtractor::new(folder.join("flights.csv")).with_options(CsvOptions::default().with_null_values(["NA"])),
        )
        // A cancelled flight has no departure time.
        .transform(Filter::new(Expr::parse("dep_time is not null")?))
        .transform(
            SharedDataTransformer::new(Arc::new(airlines)).on([("carrier", "carrier")]).take([("name", "airline")]),
        )
        .transform(Derive::new("made_up", Expr::parse("dep_delay - arr_delay")?))
        .transform(Derive::new("late", Expr::parse("coalesce(arr_delay, dep_delay) > 15")?))
        .transform(Derive::new("mph", Expr::parse("distance / (air_time / 60)")?))
        .transform(DropColumns::new(["year", "month", "day", "hour", "minute"]))
        .load(ParquetLoader::new(&target))
        .mode(LoadMode::Replace)
        .verify(Verify::Full)
        .build()?
        .execute()
        .await?;

    println!("{} rows read, {} dropped, {} written", report.rows_read, report.rows_dropped, report.load.records_loaded);
    println!("checksum {} in {:.2} s", report.source_checksum, report.elapsed.as_secs_f64());
    Ok(())
}
