//! One module per database.

#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
