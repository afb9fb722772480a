//! What a path may name besides a local file.

use std::path::Path;

use etlrs_core::{Error, ErrorKind, Result, Uri};

/// The schemes of object stores.
pub const STORE_SCHEMES: &[&str] = &["s3", "gs", "az"];

/// The scheme of the object store that `path` is a URL of: `s3` for `s3://bucket/key`.
pub fn store_scheme(path: &Path) -> Option<&'static str> {
    let text = path.as_os_str().as_encoded_bytes();
    let is = |scheme: &&&'static str| text.strip_prefix(scheme.as_bytes()).is_some_and(|rest| rest.starts_with(b"://"));
    STORE_SCHEMES.iter().find(is).copied()
}

/// The path or URL of a file that `uri` names, perhaps with the name of its format before it (`csv:s3://bucket/data/`).
///
/// # Errors
/// `InvalidConfig` for another scheme, and for the URL of an object with credentials in it.
pub fn file_of<'a>(uri: &'a Uri, format: &str) -> Result<&'a Path> {
    require_no_credentials(uri.file())?;
    match uri.scheme() {
        Some(scheme) if scheme != format && store_scheme(uri.file()).is_none() => {
            let message = format!("{format} is read and written at paths, and {scheme}: is none");
            Err(Error::new(ErrorKind::InvalidConfig, message).in_source(uri))
        }
        _ => Ok(uri.file()),
    }
}

/// Refuses the URL of an object that has credentials in it, before anything may show it.
pub(crate) fn require_no_credentials(path: &Path) -> Result<()> {
    let Some(scheme) = store_scheme(path) else { return Ok(()) };
    let text = path.to_string_lossy();
    let rest = text.get(scheme.len() + 3..).unwrap_or_default();
    let has_user = rest.split('/').next().is_some_and(|bucket| bucket.contains(['@', ':']));
    // A question mark is a wildcard too.
    let query = rest.split_once('?').map_or(String::new(), |(_, query)| query.to_ascii_lowercase());
    if has_user || ["sig=", "signature=", "security-token="].iter().any(|key| query.contains(key)) {
        let message = format!("the URL of an object in {scheme}: has more than a bucket and a path");
        return Err(Error::new(ErrorKind::InvalidConfig, message)
            .hint("credentials come from the environment variables that the store's own tools read"));
    }
    Ok(())
}

/// Whether a target at `path` is a directory, because it is written so or is one already.
pub fn is_directory_target(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir()
}

/// Refuses the URL of an object store where there is no client for one.
///
/// # Errors
/// `Unsupported`.
pub(crate) fn require_local(path: &Path) -> Result<()> {
    #[cfg(not(feature = "object-store"))]
    if store_scheme(path).is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "object storage is not part of this program")
            .hint("build it with the feature object-store")
            .in_source(path.display()));
    }
    let _ = path;
    Ok(())
}
