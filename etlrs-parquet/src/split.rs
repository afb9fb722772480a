//! Design note. A partition is a run of neighbouring row groups of one file: the smallest that can be read by itself
//! without decoding what belongs to another. The weight of a row group is what is read of it: the compressed bytes of
//! the wanted columns. Each row group is in exactly one partition, whatever the weights; `tests` says so for any of
//! them, and whoever changes the cutting should keep that property as it is.

use std::ops::Range;

use etlrs_core::{Error, ErrorKind, Partition, Result};

/// What a partition covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) file: usize,
    pub(crate) groups: Range<usize>,
}

impl Piece {
    pub(crate) fn descriptor(&self) -> String {
        format!("file {}, row groups {}..{}", self.file, self.groups.start, self.groups.end)
    }

    fn parse(descriptor: &str) -> Option<Self> {
        let (file, groups) = descriptor.strip_prefix("file ")?.split_once(", row groups ")?;
        let (start, end) = groups.split_once("..")?;
        Some(Self { file: file.parse().ok()?, groups: start.parse().ok()?..end.parse().ok()? })
    }
}

/// The row groups of one file that a scan covers.
pub(crate) struct FileGroups {
    /// Index of the first; those before it are not of this scan.
    pub(crate) first: usize,
    /// Bytes to read of each.
    pub(crate) bytes: Vec<u64>,
}

impl FileGroups {
    fn range(&self) -> Range<usize> {
        self.first..self.first + self.bytes.len()
    }
}

/// Cuts `files` into about `wanted` pieces of like size, or, without a wish, into pieces of at least `least` bytes.
pub(crate) fn cut(files: &[FileGroups], wanted: Option<usize>, least: u64) -> Vec<Piece> {
    // The byte that is added keeps row groups without data apart too.
    let weights = |file: &FileGroups| file.bytes.iter().map(|bytes| u128::from(*bytes) + 1).collect::<Vec<_>>();
    let total: u128 = files.iter().flat_map(weights).sum();
    let mut before = 0;
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let groups = file.range();
        if groups.is_empty() {
            pieces.push(Piece { file: index, groups });
            continue;
        }
        let first_piece = pieces.len();
        let mut open: Option<(Piece, u128)> = None;
        let mut gathered = 0;
        for (group, weight) in groups.zip(weights(file)) {
            let slot = match wanted {
                // Where the middle of the row group falls when the whole is cut into equal lengths.
                Some(wanted) => (2 * before + weight).saturating_mul(wanted.max(1) as u128) / (2 * total),
                None => gathered / u128::from(least.max(1)),
            };
            before += weight;
            gathered += weight;
            match &mut open {
                Some((piece, in_slot)) if *in_slot == slot => piece.groups.end = group + 1,
                _ => {
                    pieces.extend(open.take().map(|(piece, _)| piece));
                    if wanted.is_none() {
                        gathered = weight;
                    }
                    open = Some((
                        Piece { file: index, groups: group..group + 1 },
                        if wanted.is_none() { 0 } else { slot },
                    ));
                }
            }
        }
        pieces.extend(open.map(|(piece, _)| piece));
        join_a_small_last(&mut pieces[first_piece..], file, wanted, least);
        // What was joined is marked by an empty range, which a file with row groups has nowhere else.
        pieces.retain(|piece| piece.file != index || !piece.groups.is_empty());
    }
    pieces
}

fn join_a_small_last(pieces: &mut [Piece], file: &FileGroups, wanted: Option<usize>, least: u64) {
    if let (None, [.., before, last]) = (wanted, pieces) {
        let bytes: u64 = last.groups.clone().filter_map(|group| file.bytes.get(group - file.first)).sum();
        if bytes < least / 2 {
            before.groups.end = last.groups.end;
            last.groups.start = last.groups.end;
        }
    }
}

/// The pieces that a plan recorded, if they still cover `files` exactly.
pub(crate) fn recorded(files: &[FileGroups], partitions: &[Partition]) -> Result<Vec<Piece>> {
    let changed = || {
        Error::new(ErrorKind::SourceChanged, "the source no longer has the row groups that the run was planned for")
            .hint("start a new run")
    };
    let pieces: Vec<Piece> = partitions
        .iter()
        .map(|partition| Piece::parse(&partition.descriptor))
        .collect::<Option<_>>()
        .ok_or_else(changed)?;
    let mut rest = pieces.iter().peekable();
    for (index, file) in files.iter().enumerate() {
        let groups = file.range();
        let mut next = groups.start;
        let mut any = false;
        while let Some(piece) = rest.next_if(|piece| piece.file == index) {
            if piece.groups.start != next || piece.groups.end > groups.end || (any && piece.groups.is_empty()) {
                return Err(changed());
            }
            any = true;
            next = piece.groups.end.max(next);
        }
        if !any || next != groups.end {
            return Err(changed());
        }
    }
    if rest.next().is_some() { Err(changed()) } else { Ok(pieces) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(bytes: &[Vec<u64>]) -> Vec<FileGroups> {
        bytes.iter().map(|bytes| FileGroups { first: 0, bytes: bytes.clone() }).collect()
    }

    fn cut_to_text(bytes: &[Vec<u64>], wanted: Option<usize>, least: u64) -> Vec<String> {
        cut(&files(bytes), wanted, least)
            .iter()
            .map(|p| format!("{}:{}..{}", p.file, p.groups.start, p.groups.end))
            .collect()
    }

    #[test]
    fn pieces_are_as_large_as_they_should_be() {
        type Case<'a> = (&'a [Vec<u64>], Option<usize>, u64, &'a [&'a str]);
        let cases: [Case<'_>; 9] = [
            (&[vec![100, 100, 100]], None, 8, &["0:0..1", "0:1..2", "0:2..3"]),
            (&[vec![3, 3, 3, 3, 3, 3]], None, 8, &["0:0..2", "0:2..4", "0:4..6"]),
            (&[vec![10, 10, 1]], None, 8, &["0:0..1", "0:1..3"]),
            (&[vec![1], vec![1]], None, 8, &["0:0..1", "1:0..1"]),
            (&[vec![]], None, 8, &["0:0..0"]),
            (&[vec![5, 5, 5, 5]], Some(2), 8, &["0:0..2", "0:2..4"]),
            (&[vec![5, 5, 5, 5]], Some(100), 8, &["0:0..1", "0:1..2", "0:2..3", "0:3..4"]),
            (&[vec![5, 5], vec![5, 5]], Some(1), 8, &["0:0..2", "1:0..2"]),
            (&[vec![0, 0, 0]], Some(3), 8, &["0:0..1", "0:1..2", "0:2..3"]),
        ];
        for (bytes, wanted, least, expected) in cases {
            assert_eq!(cut_to_text(bytes, wanted, least), expected, "{bytes:?} {wanted:?}");
        }
    }

    #[test]
    fn a_plan_that_does_not_fit_is_refused() {
        let files = files(&[vec![1, 1, 1], vec![]]);
        let plan = |descriptors: &[&str]| {
            let partitions: Vec<_> = descriptors.iter().enumerate().map(|(i, d)| Partition::new(i, *d)).collect();
            recorded(&files, &partitions).map(|pieces| pieces.len())
        };
        assert_eq!(
            plan(&["file 0, row groups 0..2", "file 0, row groups 2..3", "file 1, row groups 0..0"]).unwrap(),
            3
        );
        for wrong in [
            &["file 0, row groups 0..3"][..],
            &["file 0, row groups 0..2", "file 1, row groups 0..0"],
            &["file 0, row groups 0..4", "file 1, row groups 0..0"],
            &["file 0, row groups 0..2", "file 0, row groups 1..3", "file 1, row groups 0..0"],
            &["file 0, row groups 0..3", "file 1, row groups 0..0", "file 2, row groups 0..0"],
            &["file 0, row groups 3..0", "file 1, row groups 0..0"],
            &["bytes 0..3"],
            &[],
        ] {
            assert_eq!(plan(wrong).unwrap_err().kind(), ErrorKind::SourceChanged, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn each_row_group_is_in_one_piece(
            bytes in prop::collection::vec(prop::collection::vec(0..20_u64, 0..12), 1..4),
            wanted in prop::option::of(0..30_usize),
            least in 0..40_u64,
        ) {
            let files = files(&bytes);
            let pieces = cut(&files, wanted, least);
            let expected: Vec<_> = (0..bytes.len()).flat_map(|f| (0..bytes[f].len()).map(move |g| (f, g))).collect();
            let covered: Vec<_> = pieces.iter().flat_map(|p| p.groups.clone().map(move |g| (p.file, g))).collect();
            prop_assert_eq!(covered, expected);
            let empty = pieces.iter().filter(|piece| piece.groups.is_empty()).count();
            prop_assert_eq!(empty, bytes.iter().filter(|bytes| bytes.is_empty()).count());
            if let Some(wanted) = wanted {
                prop_assert!(pieces.len() <= wanted.max(1) + bytes.len());
            }
            let partitions: Vec<_> = pieces.iter().enumerate().map(|(i, p)| Partition::new(i, p.descriptor())).collect();
            prop_assert_eq!(recorded(&files, &partitions).unwrap(), pieces);
        }
    }
}
