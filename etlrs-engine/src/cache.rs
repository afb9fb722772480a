//! What lookups found, kept for a while.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etlrs_core::{Error, PerformanceConfig, Result};
use moka::future::Cache;

/// Keeps what an asynchronous function found for a key: an answer of a service, a row of a database.
///
/// Those that ask for one key at the same time wait for one call. What a call fails with is not kept. The cache forgets what was
/// not asked for lately when it is full, and everything after [its time](PerformanceConfig::cache_ttl_seconds). Clones are the
/// same cache.
///
/// ```
/// use etlrs_core::{OwnedRecord, PerformanceConfig, Value};
/// use etlrs_engine::{LookupCache, StreamingTransformer};
///
/// async fn seats(plane: i64) -> etlrs_core::Result<i64> {
///     Ok(plane % 300)
/// }
///
/// let cache = LookupCache::new(&PerformanceConfig::default(), |_: &i64, _: &i64| 16);
/// let with_seats = StreamingTransformer::records(move |mut record: OwnedRecord| {
///     let cache = cache.clone();
///     async move {
///         if let Value::Int(plane) = *record.get("plane")? {
///             record.set("seats", cache.get_with(plane, seats(plane)).await?)?;
///         }
///         Ok(record)
///     }
/// });
/// # let _ = with_seats;
/// ```
pub struct LookupCache<K, V> {
    /// `None`: nothing is kept.
    cache: Option<Cache<K, V>>,
    stats: CacheStats,
}

impl<K, V> Clone for LookupCache<K, V> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), stats: self.stats.clone() }
    }
}

impl<K, V> std::fmt::Debug for LookupCache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookupCache").field("enabled", &self.cache.is_some()).field("stats", &self.stats).finish()
    }
}

/// How often a cache had what it was asked for. Clones count the same.
#[derive(Clone, Debug, Default)]
pub struct CacheStats(Arc<[AtomicU64; 2]>);

impl CacheStats {
    /// Calls that were saved.
    pub fn hits(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Calls that were made.
    pub fn misses(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    fn count(&self, hit: bool) {
        self.0[usize::from(!hit)].fetch_add(1, Ordering::Relaxed);
    }
}

/// What an entry takes beside its key and its value.
const ENTRY: u32 = 128;

impl<K, V> LookupCache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// With the size and the time of `config`; `bytes` says how many a key and its value take.
    pub fn new(config: &PerformanceConfig, bytes: impl Fn(&K, &V) -> usize + Send + Sync + 'static) -> Self {
        let most = (config.cache_size_mb as u64).saturating_mul(1 << 20);
        let cache = config.enable_cache.then(|| {
            Cache::builder()
                .max_capacity(most)
                .weigher(move |key, value| u32::try_from(bytes(key, value)).unwrap_or(u32::MAX).saturating_add(ENTRY))
                .time_to_live(Duration::from_secs(config.cache_ttl_seconds.max(1) as u64))
                .build()
        });
        Self { cache, stats: CacheStats::default() }
    }

    /// What is kept for `key`, or what `call` gives, which is kept then.
    ///
    /// # Errors
    /// That of `call`, which everybody gets who waited for it. It stays [transient](Error::is_transient) if it is.
    pub async fn get_with(&self, key: K, call: impl Future<Output = Result<V>>) -> Result<V> {
        let Some(cache) = &self.cache else {
            self.stats.count(false);
            return call.await;
        };
        let mut called = false;
        let counted = async {
            called = true;
            call.await
        };
        let found = cache.try_get_with(key, counted).await;
        self.stats.count(!called);
        found.map_err(shared)
    }

    /// Bytes that it holds, about: what was put in lately may not be counted yet.
    pub fn bytes(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| usize::try_from(cache.weighted_size()).unwrap_or(usize::MAX))
    }

    /// How often it had what it was asked for.
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }
}

/// The error of a call that several waited for.
fn shared(error: Arc<Error>) -> Error {
    Arc::try_unwrap(error).unwrap_or_else(|error| {
        let copy = Error::new(error.kind(), error.to_string());
        if error.is_transient() { copy.transient() } else { copy }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use etlrs_core::ErrorKind;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn config() -> PerformanceConfig {
        PerformanceConfig { cache_size_mb: 1, cache_ttl_seconds: 1, ..PerformanceConfig::default() }
    }

    #[test]
    fn those_that_ask_at_the_same_time_wait_for_one_call() {
        let cache = LookupCache::new(&config(), |_: &i64, _: &i64| 16);
        let calls = AtomicUsize::new(0);
        let one = |key: i64| {
            cache.get_with(key, async {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(1)
            })
        };
        let found = block_on(futures_util::future::join_all([1, 2, 1, 1, 2].map(one)));
        assert!(found.into_iter().all(|found| found.unwrap() == 1));
        assert_eq!((calls.load(Ordering::SeqCst), cache.stats().hits(), cache.stats().misses()), (2, 3, 2));
    }

    #[test]
    fn failures_are_told_to_all_and_not_kept() {
        let cache = LookupCache::new(&config(), |_: &i64, _: &i64| 16);
        let failing = || {
            cache.get_with(1, async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Err(Error::new(ErrorKind::Connection, "no answer").transient())
            })
        };
        let (one, other) = block_on(futures_util::future::join(failing(), failing()));
        for error in [one.unwrap_err(), other.unwrap_err()] {
            assert!(error.is_transient() && error.to_string() == "no answer", "{error:?}");
        }
        assert_eq!(block_on(cache.get_with(1, async { Ok(2) })).unwrap(), 2);
    }

    #[test]
    fn what_is_kept_has_a_size_and_a_time() {
        block_on(async {
            let cache = LookupCache::new(&config(), |_: &i64, text: &String| text.len());
            for key in 0..100 {
                cache.get_with(key, async { Ok("x".repeat(100_000)) }).await.unwrap();
            }
            let inner = cache.cache.as_ref().unwrap();
            inner.run_pending_tasks().await;
            assert!(inner.weighted_size() <= 1 << 20, "{}", inner.weighted_size());
            let small = LookupCache::new(&config(), |_: &i64, _: &i64| 8);
            small.get_with(1, async { Ok(1) }).await.unwrap();
            assert_eq!(small.get_with(1, async { Ok(2) }).await.unwrap(), 1);
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert_eq!(small.get_with(1, async { Ok(2) }).await.unwrap(), 2);
        });
    }

    #[test]
    fn a_cache_can_be_switched_off() {
        let off = PerformanceConfig { enable_cache: false, ..config() };
        let cache = LookupCache::new(&off, |_: &i64, _: &i64| 16);
        for value in [1, 2] {
            assert_eq!(block_on(cache.get_with(1, async { Ok(value) })).unwrap(), value);
        }
        assert_eq!((cache.stats().hits(), cache.stats().misses()), (0, 2));
    }
}
