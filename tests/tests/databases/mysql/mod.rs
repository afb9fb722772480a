//! MySQL and MariaDB.

mod extract;
mod load;
mod names;
pub(crate) mod round_trip;
mod tls;

use super::*;
