//! The pipeline of ETLRS.

mod transform;

pub use transform::*;
