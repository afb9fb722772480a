/// A moment that tests know by its name, so that they can stop a run in it (feature `failpoints`, crate `fail`). It is nothing
/// otherwise.
///
/// A connector has one wherever what is durable changes, and one between any two such places: a run that dies there must be one
/// that can be gone on with.
#[inline(always)]
pub fn failpoint(name: &'static str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name);
    let _ = name;
}
