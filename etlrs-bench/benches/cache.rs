//! Lookups through the cache: what is there, what is not, and what several ask for at once.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that fails ends; criterion's macros have no docs")]

use criterion::Throughput;
use etlrs_bench::{SIZES, block_on, criterion};
use etlrs_core::PerformanceConfig;
use etlrs_engine::LookupCache;

fn cache(enabled: bool) -> LookupCache<i64, i64> {
    LookupCache::new(&PerformanceConfig { enable_cache: enabled, ..PerformanceConfig::default() }, |_, _| 16)
}

/// Asks for each key once.
fn ask(cache: &LookupCache<i64, i64>, keys: usize) -> i64 {
    block_on(async {
        let mut sum = 0;
        for key in 0..keys as i64 {
            sum += cache.get_with(key, async move { Ok(key % 7) }).await.unwrap();
        }
        sum
    })
}

fn main() {
    let mut criterion = criterion();
    for keys in SIZES {
        let expected: i64 = (0..keys as i64).map(|key| key % 7).sum();
        let (warm, off) = (cache(true), cache(false));
        for cache in [&warm, &warm, &off] {
            assert_eq!(ask(cache, keys), expected);
        }
        assert_eq!((warm.stats().misses(), warm.stats().hits()), (keys as u64, keys as u64));
        let mut group = criterion.benchmark_group("cache");
        group.throughput(Throughput::Elements(keys as u64));
        group.bench_function(format!("hit/{keys}"), |bencher| bencher.iter(|| ask(&warm, keys)));
        group.bench_function(format!("miss/{keys}"), |bencher| {
            bencher.iter_with_large_drop(|| {
                let cold = cache(true);
                ask(&cold, keys);
                cold
            });
        });
        group.bench_function(format!("off/{keys}"), |bencher| bencher.iter(|| ask(&off, keys)));
        group.finish();
    }
    criterion.final_summary();
}
