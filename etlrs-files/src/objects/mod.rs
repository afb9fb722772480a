//! Files in object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.
//!
//! Design note. A name that begins with `s3://`, `gs://` or `az://` is a path like any other to the rest of the program;
//! [`Address::of`] tells them apart, in the few functions of this crate that touch files. Credentials and endpoints come
//! from the environment variables that each store's own tools read.
//!
//! Callers are worker threads that may wait, so requests run on a small runtime of their own ([`request`]) and the caller
//! waits for the answer, or for the run to be cancelled. Reads ask for ranges and say which version of the object they
//! mean, so an object that is replaced while it is read is an error and never a mixture.

mod area;
mod error;
mod object;
mod request;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use etlrs_core::{CancelToken, Error, ErrorKind, Result};
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig, UpdateVersion};

pub(crate) use self::area::ObjectArea;
use self::error::{credentials, failed, not_found, words};
pub(crate) use self::object::{Object, ObjectReader};
use self::request::{request, requests};
pub(crate) use self::upload::Upload;
use crate::pattern::PathPattern;

/// How often a request is tried before its error is told; the store's client waits longer each time.
const RETRIES: usize = 4;
/// From its first try on, so it has to leave room for one that is not answered.
const RETRY_TIMEOUT: Duration = Duration::from_secs(180);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole request; a part of an upload is 5 MB or more.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests for small things, such as the sizes of files, that are under way at once.
const AT_ONCE: usize = 16;

/// A bucket, or container, and the client for it.
struct Bucket {
    /// `s3://name`
    name: String,
    store: Arc<dyn ObjectStore>,
}

/// Where an object or a directory of objects is.
#[derive(Clone)]
pub(crate) struct Address {
    bucket: Arc<Bucket>,
    key: Key,
    shown: PathBuf,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.shown.display())
    }
}

/// What a listing says of an object, or of a directory.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) is_directory: bool,
}

impl Address {
    /// The place that `path` names, if it is the URL of an object store.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>> {
        let Some(scheme) = crate::store_scheme(path) else { return Ok(None) };
        let wrong = |reason: String| {
            Error::new(ErrorKind::InvalidConfig, reason)
                .hint(format!("write {scheme}://BUCKET/PATH"))
                .in_source(path.display())
        };
        crate::place::require_no_credentials(path)?;
        let text = path.to_str().ok_or_else(|| wrong("the name is no Unicode".to_owned()))?;
        let rest = text.get(scheme.len() + 3..).unwrap_or_default();
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong("the URL names no bucket".to_owned()));
        }
        if !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(wrong(format!("{bucket:?} is no name for a bucket")));
        }
        let key =
            Key::parse(key.trim_end_matches('/')).map_err(|error| wrong(format!("the name is wrong: {error}")))?;
        Ok(Some(Self { bucket: Bucket::open(scheme, bucket, path)?, key, shown: path.to_owned() }))
    }

    /// The object `name` in the directory that this is.
    pub(crate) fn child(&self, name: &str) -> Self {
        // As it is: joining would spell some characters in another way.
        let key = if self.key.is_root() { name.to_owned() } else { format!("{}/{name}", self.key) };
        let key = Key::parse(key).unwrap_or_else(|_| self.key.clone().join(name));
        Self { bucket: self.bucket.clone(), key, shown: self.shown.join(name) }
    }

    /// As users write it.
    pub(crate) fn shown(&self) -> &Path {
        &self.shown
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        self.bucket.store.clone()
    }

    fn failed(&self, operation: &str) -> impl Fn(object_store::Error) -> Error + Send + 'static {
        let (operation, shown) = (operation.to_owned(), self.shown.clone());
        move |error| failed(&operation, &shown, &error)
    }

    /// The object, if there is one of this name.
    pub(crate) fn find(&self, cancel: &CancelToken) -> Result<Option<ObjectMeta>> {
        if self.key.is_root() {
            return Ok(None);
        }
        let (store, key) = (self.store(), self.key.clone());
        let found = request(cancel, self.failed("look at"), async move {
            match store.head(&key).await {
                Ok(found) => Ok(Some(found)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        found?.wait()
    }

    /// Whether there are objects in the directory of this name.
    pub(crate) fn is_directory(&self, cancel: &CancelToken) -> Result<bool> {
        let (address, store) = (self.clone(), self.store());
        let any = request(cancel, self.failed("list"), async move {
            let mut listed = store.list(Some(&address.key));
            while let Some(found) = listed.try_next().await? {
                if !address.is_marker(&found) {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        any?.wait()
    }

    /// Whether `found`, of a listing of this directory, only marks it: consoles make folders of an object `folder/`, which
    /// is listed with the name of the folder.
    pub(crate) fn is_marker(&self, found: &ObjectMeta) -> bool {
        found.location == self.key
    }

    /// What is in the directory, in the order of the names.
    pub(crate) fn list(&self, cancel: &CancelToken) -> Result<Vec<Found>> {
        let (store, key) = (self.store(), self.key.clone());
        let listed = request(cancel, self.failed("list"), async move { store.list_with_delimiter(Some(&key)).await });
        let listed = listed?.wait()?;
        let name = |key: &Key| key.filename().map(str::to_owned);
        let directories = listed.common_prefixes.iter().filter_map(name).map(|name| (name, true));
        let is_marker = |found: &ObjectMeta| {
            self.is_marker(found) || found.size == 0 && listed.common_prefixes.contains(&found.location)
        };
        let objects = listed.objects.iter().filter(|found| !is_marker(found));
        let objects = objects.filter_map(|found| name(&found.location)).map(|name| (name, false));
        let found = directories.chain(objects);
        let mut found: Vec<_> =
            found.map(|(name, is_directory)| Found { path: self.shown.join(name), is_directory }).collect();
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    /// The objects whose names match the pattern that this is, in the order of their names.
    pub(crate) fn matching(&self, pattern: &PathPattern, cancel: &CancelToken) -> Result<Vec<PathBuf>> {
        let parts = self.key.parts().map(|part| part.as_ref().to_owned());
        let folder = parts.take_while(|part| !part.contains(['*', '?', '['])).collect::<Vec<_>>().join("/");
        let (store, folder) = (self.store(), Key::parse(folder).unwrap_or_default());
        let listed =
            request(
                cancel,
                self.failed("list"),
                async move { store.list(Some(&folder)).try_collect::<Vec<_>>().await },
            );
        let listed = listed?.wait()?;
        let is_in = |name: &Key, folder: &Key| name != folder && name.prefix_matches(folder);
        let is_marker =
            |found: &ObjectMeta| found.size == 0 && listed.iter().any(|other| is_in(&other.location, &found.location));
        let name = |found: &ObjectMeta| PathBuf::from(format!("{}/{}", self.bucket.name, found.location));
        let found = listed.iter().map(|found| (found, name(found))).filter(|(_, name)| pattern.matches(name));
        let mut found: Vec<_> = found.filter(|(found, _)| !is_marker(found)).map(|(_, name)| name).collect();
        found.sort();
        Ok(found)
    }

    /// All of a small object, with what identifies this version of it; `None` if there is no such object.
    pub(crate) fn read(&self, cancel: &CancelToken) -> Result<Option<(Vec<u8>, UpdateVersion)>> {
        let (store, key) = (self.store(), self.key.clone());
        let read = request(cancel, self.failed("read"), async move {
            match store.get(&key).await {
                Ok(found) => {
                    let version =
                        UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                    Ok(Some((found.bytes().await?.to_vec(), version)))
                }
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        read?.wait()
    }

    /// Opens the object for reading.
    pub(crate) fn open(&self, cancel: &CancelToken) -> Result<Object> {
        let found = self.find(cancel)?.ok_or_else(|| not_found("open", &self.shown))?;
        Ok(Object::new(self.clone(), &found, cancel))
    }
}

/// What identifies each version of `objects`, in their order: differs when one was written again.
pub(crate) fn versions(objects: Vec<Address>, cancel: &CancelToken) -> Result<Vec<String>> {
    let looks = objects.into_iter().map(|address| async move {
        let found = address.store().head(&address.key).await.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                Error::new(ErrorKind::SourceChanged, "the object is no longer there").in_source(address.shown.display())
            }
            error => failed("look again at", &address.shown, &error),
        })?;
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let (tag, version) = (part(&found.e_tag), part(&found.version));
        Ok(format!("{} {} {tag} {version}", found.size, found.last_modified.timestamp_micros()))
    });
    let looks: Vec<_> = looks.collect();
    requests(cancel, async move { futures_util::stream::iter(looks).buffered(AT_ONCE).try_collect().await })
}

/// Buckets that are in use.
static BUCKETS: Mutex<Option<HashMap<String, Weak<Bucket>>>> = Mutex::new(None);

impl Bucket {
    /// The client for a bucket, which all who use it at the same time share, and with it connections and credentials.
    fn open(scheme: &str, name: &str, shown: &Path) -> Result<Arc<Self>> {
        let full = format!("{scheme}://{name}");
        let mut buckets = BUCKETS.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = buckets.get_or_insert_default();
        if let Some(bucket) = buckets.get(&full).and_then(Weak::upgrade) {
            return Ok(bucket);
        }
        check_settings(scheme, |variable| std::env::var(variable).ok())
            .map_err(|error| error.in_source(shown.display()))?;
        let store = client(scheme, name).map_err(|error| {
            Error::new(ErrorKind::InvalidConfig, format!("the object store cannot be used: {}", words(&error)))
                .hint(credentials(scheme))
                .in_source(shown.display())
        })?;
        let bucket = Arc::new(Self { name: full.clone(), store });
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        buckets.insert(full, Arc::downgrade(&bucket));
        Ok(bucket)
    }
}

/// Variables that name a server of S3, the first that is set before the others.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// The server of S3 that `variable` gives, of the environment.
fn endpoint(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    ENDPOINTS.into_iter().find_map(|name| Some((name, variable(name).filter(|value| !value.is_empty())?)))
}

/// Refuses settings of the environment by which the client for `scheme` would panic, or show what is in them. Values are
/// not shown.
fn check_settings(scheme: &str, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let wrong = |name: &str, what: &str| {
        Error::new(ErrorKind::InvalidConfig, format!("the environment variable {name} {what}"))
    };
    if let Some((name, endpoint)) = endpoint(&variable).filter(|_| scheme == "s3") {
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://")).unwrap_or_default();
        let name_of_host = host.split('/').next().unwrap_or_default();
        if host.contains('@') {
            return Err(wrong(name, "has credentials in it").hint(credentials("s3")));
        }
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
        if name_of_host.is_empty() || !name_of_host.bytes().all(usable) {
            return Err(
                wrong(name, "is no URL of a server").hint("write http://HOST:PORT or https://HOST, or unset it")
            );
        }
    }
    let in_headers: &[&str] = match scheme {
        // Paths of files, and JSON.
        "gs" => &[],
        "az" => &[
            "AZURE_STORAGE_ACCOUNT_NAME",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_TOKEN",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_STORAGE_CLIENT_SECRET",
            "AZURE_STORAGE_TENANT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_CLIENT_SECRET",
            "AZURE_TENANT_ID",
        ],
        _ => &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"],
    };
    for name in in_headers {
        if variable(name).is_some_and(|value| value.bytes().any(|byte| !byte.is_ascii_graphic())) {
            return Err(wrong(name, "has a blank, a line end or another character in it that cannot be"));
        }
    }
    Ok(())
}

fn client(scheme: &str, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT, ..Default::default() };
    let options = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(REQUEST_TIMEOUT);
    Ok(match scheme {
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            Arc::new(builder.with_retry(retry).with_client_options(options).build()?)
        }
        "az" => {
            let emulated = is_set("AZURE_STORAGE_USE_EMULATOR");
            let options = options.with_allow_http(emulated || is_set("AZURE_ALLOW_HTTP"));
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            Arc::new(builder.with_retry(retry).with_client_options(options).build()?)
        }
        _ => {
            // A server on this machine has no certificate; to any other, http has to be asked for.
            let endpoint = endpoint(|name| std::env::var(name).ok());
            let allowed =
                endpoint.as_ref().is_some_and(|(_, endpoint)| is_loopback(endpoint)) || is_set("AWS_ALLOW_HTTP");
            // As `from_env` does, which would take empty values too.
            let set = std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
            let set = set.filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
            let keys = set.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)));
            let builder = keys.fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value));
            let mut builder = builder.with_bucket_name(bucket);
            if let Some((_, endpoint)) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Arc::new(builder.with_retry(retry).with_client_options(options.with_allow_http(allowed)).build()?)
        }
    })
}

fn is_set(variable: &str) -> bool {
    std::env::var(variable)
        .is_ok_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("http://").unwrap_or_default();
    let host = host.split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}
