//! What stores answer, in words for users.

use std::path::Path;

use etlrs_core::{Error, ErrorKind};
use object_store::client::{HttpError, HttpErrorKind};

/// Where a store's credentials come from, for hints.
pub(super) fn credentials(scheme: &str) -> &'static str {
    match scheme {
        "gs" => "credentials come from GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
        "az" => {
            "credentials come from AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the AZURE_ variables of a \
             service principal"
        }
        _ => {
            "credentials come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, the region from \
             AWS_REGION; AWS_SKIP_SIGNATURE=true reads public buckets"
        }
    }
}

pub(super) fn not_found(operation: &str, shown: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("cannot {operation} {}: no such object", shown.display()))
        .naming(shown.display())
}

/// What a store said when it was asked to do `operation`. Answers that refuse credentials are not repeated: they may quote
/// them.
pub(super) fn failed(operation: &str, shown: &Path, error: &object_store::Error) -> Error {
    use object_store::Error as Store;
    let scheme = crate::store_scheme(shown).unwrap_or("s3");
    let because = |kind, reason: String| {
        Error::new(kind, format!("cannot {operation} {}: {reason}", shown.display())).naming(shown.display())
    };
    match error {
        Store::NotFound { source, .. } if is_no_bucket(&source.to_string()) => {
            because(ErrorKind::NotFound, "there is no such bucket".to_owned())
        }
        Store::NotFound { .. } => not_found(operation, shown),
        Store::AlreadyExists { .. } => because(ErrorKind::AlreadyExists, "there is such an object already".to_owned()),
        Store::PermissionDenied { .. } => {
            because(ErrorKind::PermissionDenied, "access is denied".to_owned()).hint(credentials(scheme))
        }
        Store::Unauthenticated { .. } => {
            because(ErrorKind::PermissionDenied, "the credentials are not accepted".to_owned())
                .hint(credentials(scheme))
        }
        Store::Precondition { .. } | Store::NotModified { .. } => {
            because(ErrorKind::SourceChanged, "the object was written by somebody else meanwhile".to_owned())
                .hint("run again when nobody writes to it")
        }
        error => {
            let words = words(error);
            // The address of the service that machines in a cloud get credentials from.
            if words.contains("169.254.169.254") || words.contains("metadata.google.internal") {
                return because(ErrorKind::PermissionDenied, "no credentials were found".to_owned())
                    .hint(credentials(scheme));
            }
            if is_no_bucket(&words) {
                return because(ErrorKind::NotFound, "there is no such bucket".to_owned());
            }
            if words.contains("status code: 403") || words.contains("status code: 401") {
                return because(ErrorKind::PermissionDenied, "access is denied".to_owned()).hint(credentials(scheme));
            }
            // The client has tried again for a while; a run may do so later.
            let passes =
                ["status code: 5", "status code: 429", "status code: 408"].iter().any(|status| words.contains(status));
            let Some(cause) = cause_in_network(error) else {
                let error = because(ErrorKind::Connection, words);
                return if passes { error.transient() } else { error };
            };
            let server = server(&words).unwrap_or("the server");
            if cause.contains("scheme is not allowed") {
                return because(ErrorKind::InvalidConfig, format!("{server} is not asked without encryption")).hint(
                    "use https://, or set AWS_ALLOW_HTTP=true (AZURE_ALLOW_HTTP=true) if the network is trusted",
                );
            }
            because(ErrorKind::Connection, format!("cannot reach {server}: {cause}")).transient()
        }
    }
}

fn is_no_bucket(words: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| words.contains(code))
}

/// Why there is no answer, if there is none.
fn cause_in_network(error: &object_store::Error) -> Option<String> {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    let mut kind = None;
    while let Some(inner) = cause.source() {
        cause = inner;
        kind = cause.downcast_ref::<HttpError>().map(HttpError::kind).or(kind);
    }
    match kind? {
        HttpErrorKind::Timeout => Some("it did not answer in time".to_owned()),
        HttpErrorKind::Decode => None,
        _ => {
            let text = cause.to_string();
            // Without the number, and as a part of a sentence.
            let text = text.split(" (os error").next().unwrap_or_default();
            let mut letters = text.chars();
            Some(letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect()))
        }
    }
}

/// The server that a request went to, of the words of its error.
fn server(words: &str) -> Option<&str> {
    let start = words.find("http://").or_else(|| words.find("https://"))?;
    let host = start + words[start..].find("://")? + 3;
    let end = words[host..].find(['/', '?', ' ']).map_or(words.len(), |end| host + end);
    Some(words[start..end].trim_end_matches(':'))
}

/// An error in one line of bounded length.
pub(super) fn words(error: &object_store::Error) -> String {
    const LONGEST: usize = 300;
    let text = match error {
        object_store::Error::Generic { source, .. } => {
            // The innermost cause says why a connection failed.
            let mut text = source.to_string();
            let mut cause = source.source();
            while let Some(inner) = cause {
                let more = inner.to_string();
                if !text.contains(&more) {
                    text = format!("{text}: {more}");
                }
                cause = inner.source();
            }
            text
        }
        error => error.to_string(),
    };
    let mut line = in_short(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Without how often and how long it was tried, and of an answer in XML only what it says.
pub(super) fn in_short(line: &str) -> String {
    let request = line.find("Error performing ").map(|start| &line[start + "Error performing ".len()..]);
    let request = request.and_then(|rest| rest.split_once(" in ")).and_then(|(request, rest)| {
        let (_, answer) = rest.split_once(" - ")?;
        Some(format!("{request}: {answer}"))
    });
    let line = request.as_deref().unwrap_or(line);
    let lower = line.to_ascii_lowercase();
    if let Some(start) = lower.find("<!doctype html").or_else(|| lower.find("<html")) {
        let title = lower[start..].find("<title>").and_then(|at| {
            let title = &line[start + at + "<title>".len()..];
            title.split_once('<').map(|(title, _)| title.trim())
        });
        return format!("{}a page ({})", &line[..start], title.unwrap_or("without a title"));
    }
    let Some(start) = line.find("<?xml").or_else(|| line.find("<Error>")) else { return line.to_owned() };
    let (said, answer) = line.split_at(start);
    let within = |tag: &str| {
        let (_, rest) = answer.split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>")).map(|(text, _)| text)
    };
    let parts: Vec<_> = [within("Code"), within("Message")].into_iter().flatten().collect();
    format!("{said}{}", parts.join(", "))
}
