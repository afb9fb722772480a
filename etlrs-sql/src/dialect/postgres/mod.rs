//! PostgreSQL 12 and later.
//!
//! Rows travel as `COPY … (FORMAT binary)` both ways (<https://www.postgresql.org/docs/current/sql-copy.html>): `wire.rs`
//! moves the bytes, `decode.rs` reads them and `encode.rs` writes them.

mod address;
mod catalog;
mod condition;
mod decode;
mod encode;
mod error;
mod extract;
mod ledger;
mod load;
mod name;
mod numeric;
mod publish;
mod saved_cursor;
mod server;
mod session;
mod split;
mod target;
mod types;
mod wire;
mod writer;

pub use extract::PostgresExtractor;
pub use load::PostgresLoader;
pub use server::PostgresPool;
