//! MySQL and MariaDB.

mod extract;
mod load;
mod names;
mod round_trip;

use super::*;
