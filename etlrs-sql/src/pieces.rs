use etlrs_core::{Error, ErrorKind, Partition, Result};

/// Partitions for pieces, which are told in words, in their order; those that an earlier scan recorded must be the same.
///
/// # Errors
/// `SourceChanged` if they are not.
pub(crate) fn partitions<'a>(
    words: impl Iterator<Item = &'a str>,
    recorded: Option<&[Partition]>,
) -> Result<Vec<Partition>> {
    let found: Vec<_> = words.enumerate().map(|(index, words)| Partition::new(index, words)).collect();
    let same = |recorded: &[Partition]| {
        recorded.iter().map(|partition| &partition.descriptor).eq(found.iter().map(|partition| &partition.descriptor))
    };
    if recorded.is_none_or(same) {
        return Ok(found);
    }
    Err(Error::new(ErrorKind::SourceChanged, "the source is not as large as it was").hint("start a new run"))
}
