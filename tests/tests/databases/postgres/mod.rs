//! PostgreSQL.

mod extract;
mod load;
mod names;
mod round_trip;
mod tls;

use super::*;
