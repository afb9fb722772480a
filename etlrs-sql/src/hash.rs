//! A hash of names.

/// What tells the staging areas of tables apart. FNV-1a: the same in every version, for others look for it.
pub(crate) fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
