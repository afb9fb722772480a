//! The pieces that the files of a table are read in.

use std::ops::Range;
use std::path::Path;

use etlrs_core::{Error, ErrorKind, Partition, Result, RunContext, ScanRequest};

/// A piece is at least so large, unless more are asked for.
const SMALLEST: u64 = 1 << 20;
const LARGEST: u64 = 16 << 20;
/// Of an object in a store, where each request takes a while.
const LARGEST_REMOTE: u64 = 64 << 20;

/// What a file has that can be cut into pieces.
#[derive(Clone, Debug)]
pub struct Extent<'a> {
    /// Where the file is.
    pub path: &'a Path,
    /// Bytes as they are stored, where that is known.
    pub stored: Option<u64>,
    /// Where its records are; `None` for a stream, which is one piece.
    pub records: Option<Range<u64>>,
    /// Whether each read is a request over a network.
    pub is_remote: bool,
}

impl Extent<'_> {
    fn size(&self) -> u64 {
        match &self.records {
            Some(records) => records.end.saturating_sub(records.start),
            None => self.stored.unwrap_or(0),
        }
    }
}

/// What is read of which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which of the files of the table.
    pub file: usize,
    /// Where it starts and ends; `None`: all of a stream.
    pub range: Option<(u64, u64)>,
}

impl Piece {
    fn descriptor(self, files: usize) -> String {
        let what = self.range.map_or("all of it".to_owned(), |(start, end)| format!("bytes {start}..{end}"));
        if files == 1 { what } else { format!("file {}, {what}", self.file) }
    }

    fn parse(partition: &Partition, files: &[Extent<'_>]) -> Result<Self> {
        let text = partition.descriptor.as_str();
        let parse = || {
            let (file, what) = match text.strip_prefix("file ") {
                Some(rest) => rest.split_once(", ").and_then(|(file, what)| Some((file.parse().ok()?, what)))?,
                None => (0, text),
            };
            let is_stream = files.get(file)?.records.is_none();
            if what == "all of it" {
                return is_stream.then_some(Self { file, range: None });
            }
            let (start, end) = what.strip_prefix("bytes ")?.split_once("..")?;
            let range = Some((start.parse().ok()?, end.parse().ok()?));
            (!is_stream).then_some(Self { file, range })
        };
        parse().ok_or_else(|| {
            let message = format!("the source no longer has the piece {text:?} that the run was planned for");
            Error::new(ErrorKind::SourceChanged, message)
        })
    }
}

/// The pieces of all files, one file after another, and the partitions that they are.
///
/// `cut` is told a file and how many pieces it should have, one at the least, and says where they end: in ascending order, and
/// the last at the end of the file.
///
/// # Errors
/// Those of `cut`; `SourceChanged` for recorded partitions that are none of these files.
pub fn pieces(
    files: &[Extent<'_>],
    cx: &RunContext,
    request: &ScanRequest,
    mut cut: impl FnMut(usize, u64) -> Result<Vec<u64>>,
) -> Result<(Vec<Piece>, Vec<Partition>)> {
    if let Some(recorded) = &request.recorded {
        let pieces = recorded.iter().map(|partition| Piece::parse(partition, files)).collect::<Result<_>>()?;
        return Ok((pieces, recorded.clone()));
    }
    let total: u64 = files.iter().map(Extent::size).sum();
    let (mut pieces, mut partitions) = (Vec::new(), Vec::new());
    for (index, file) in files.iter().enumerate() {
        let mut add = |range: Option<(u64, u64)>| {
            let piece = Piece { file: index, range };
            let partition = Partition::new(partitions.len(), piece.descriptor(files.len()));
            let partition = partition.with_source(file.path.to_string_lossy());
            partitions.push(match range.map(|(start, end)| end - start).or(file.stored) {
                Some(bytes) => partition.with_bytes(bytes),
                None => partition,
            });
            pieces.push(piece);
        };
        let Some(records) = &file.records else {
            add(None);
            continue;
        };
        let size = file.size();
        let wanted = match request.partitions {
            Some(wanted) if files.len() == 1 => wanted as u64,
            // As many of them as it has of the bytes.
            Some(wanted) => {
                let share = u128::from(size) * wanted as u128 / u128::from(total.max(1));
                u64::try_from(share).unwrap_or(u64::MAX)
            }
            None => {
                let for_balance = total / (8 * cx.config().workers() as u64).max(1);
                let largest = if file.is_remote { LARGEST_REMOTE } else { LARGEST };
                size.div_ceil(for_balance.clamp(SMALLEST, largest))
            }
        };
        let mut start = records.start;
        for end in cut(index, wanted.max(1))? {
            add(Some((start, end)));
            start = end;
        }
    }
    Ok((pieces, partitions))
}

#[cfg(test)]
mod tests {
    use etlrs_core::PerformanceConfig;

    use super::*;

    fn extent(records: Option<Range<u64>>) -> Extent<'static> {
        Extent { path: Path::new("a.txt"), stored: Some(50), records, is_remote: false }
    }

    #[test]
    fn pieces_are_found_again_by_what_describes_them() {
        let cx = RunContext::new(PerformanceConfig::default());
        for files in [vec![extent(Some(3..100))], vec![extent(Some(0..0)), extent(None), extent(Some(10..100))]] {
            let mut request = ScanRequest::all();
            request.partitions = Some(4);
            let cut = |file: usize, wanted: u64| {
                let records = files[file].records.clone().unwrap();
                Ok((1..=wanted).map(|index| records.start + (records.end - records.start) * index / wanted).collect())
            };
            let (found, partitions) = pieces(&files, &cx, &request, cut).unwrap();
            let bytes: u64 = found.iter().filter_map(|piece| piece.range).map(|(start, end)| end - start).sum();
            assert_eq!(
                bytes,
                files.iter().filter_map(|file| file.records.clone()).map(|r| r.end - r.start).sum::<u64>()
            );
            request.recorded = Some(partitions.clone());
            let again =
                pieces(&files, &cx, &request, |_, _| Err(Error::new(ErrorKind::Internal, "cut again"))).unwrap();
            assert_eq!(again, (found, partitions));
        }
        let wrong = ["bytes 1..", "all of it", "file 1, bytes 1..2", "file x, bytes 1..2", "bytes 2", ""];
        for descriptor in wrong {
            let mut request = ScanRequest::all();
            request.recorded = Some(vec![Partition::new(0, descriptor)]);
            let error = pieces(&[extent(Some(3..100))], &cx, &request, |_, _| Ok(vec![100])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SourceChanged, "{descriptor}");
        }
    }
}
