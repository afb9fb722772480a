//! PostgreSQL 12 and later, through sqlx.
//!
//! Rows travel as `COPY … (FORMAT binary)` both ways (<https://www.postgresql.org/docs/current/sql-copy.html>). sqlx does
//! connecting, TLS and the frames of the protocol; what is in them is read in `decode.rs` and written in `encode.rs`.

mod catalog;
mod condition;
mod copy;
mod decode;
mod encode;
mod error;
mod extract;
mod load;
mod name;
mod numeric;
mod publish;
mod server;
mod split;
mod target;
mod types;

pub use extract::PostgresExtractor;
pub use load::PostgresLoader;
pub use server::PostgresPool;
