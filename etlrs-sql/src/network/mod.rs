//! What databases behind a network have in common: URLs, sockets with TLS, pools of connections, and tasks that move bytes in
//! bulk.

mod failure;
mod pool;
mod row;
mod scan;
mod socket;
pub(crate) mod tls;
mod transfer;
mod url;
mod watch;

pub(crate) use failure::{Answer, Failure, connection_error, held_by};
pub(crate) use pool::{Connect, Pool, Timeouts, close_all};
pub(crate) use row::Row;
pub(crate) use scan::{Decode, ServerScan, Snapshot};
pub(crate) use socket::{Socket, connect, connect_file, send};
pub(crate) use transfer::{Incoming, Keep, Outgoing, ReadRows, WriteRows};
pub(crate) use url::{Environment, Host, Parts, Protection, Tls, malformed};
pub(crate) use watch::{Ask, Watched};
