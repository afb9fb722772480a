//! MySQL 8 and later, MariaDB 10.5 and later.
//!
//! Rows are read by prepared statements, for their values are exact in that form, and written by `LOAD DATA LOCAL`, or by
//! INSERT where the server refuses that: `wire.rs` moves the bytes, `decode.rs` reads them and `encode.rs` writes them.

mod address;
mod catalog;
mod condition;
mod decode;
mod encode;
mod error;
mod extract;
mod handshake;
mod ledger;
mod load;
mod name;
mod publish;
mod saved_cursor;
mod server;
mod session;
mod snapshot;
mod split;
mod staging;
mod target;
mod types;
mod wire;
mod writer;
mod writing;

pub use extract::MysqlExtractor;
pub use load::MysqlLoader;
pub use server::MysqlPool;
