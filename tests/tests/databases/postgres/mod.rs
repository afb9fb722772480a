//! PostgreSQL.

mod extract;
mod faults;
mod load;
mod names;
mod round_trip;
mod secrets;
mod tls;

use super::*;
