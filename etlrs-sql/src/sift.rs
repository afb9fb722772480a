//! Which of the staged rows a table will not take.
//!
//! Design note. Most of what a table refuses it refuses only when rows are moved into it: for a unique key, a foreign key, a check, a
//! trigger, a cast. So rows are moved in one statement, as they would be in any case, and only if that fails in halves, and halves
//! of those that fail, each behind a savepoint, until the rows stand alone that are at fault. All others are moved then, in the
//! same transaction, which stays open until the quarantine is durable. The alternative, to ask for each constraint which rows
//! break it, would have to know all that a database can refuse a row for, and costs every load something; this costs a load
//! without bad rows one savepoint, and one with them about `2 log2(rows)` statements for each.
//!
//! Of rows that exclude each other the one is taken that was staged first. Rows that need others, for a foreign key of the table to
//! itself, are tried again when those are there.

use std::ops::Range;

use etlrs_core::{CancelToken, Error, ErrorKind, Refusals, Result, RunContext, Scan, async_trait, next_batch};

/// Rows of a staging table, by their numbers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    All,
    Within(Range<u64>),
    These(Vec<u64>),
}

impl Chosen {
    /// As a condition on the column `number`.
    pub(crate) fn condition(&self, number: &str) -> String {
        match self {
            Self::All => "true".to_owned(),
            Self::Within(range) => format!("{number} >= {} AND {number} < {}", range.start, range.end),
            Self::These(rows) if rows.is_empty() => "false".to_owned(),
            Self::These(rows) => {
                let rows: Vec<_> = rows.iter().map(u64::to_string).collect();
                format!("{number} IN ({})", rows.join(", "))
            }
        }
    }
}

/// What came of moving rows.
pub(crate) enum Moved {
    All,
    /// None was moved, because of one of them.
    Refused {
        error: Error,
        /// It may be taken when others are there.
        may_wait: bool,
    },
}

/// A transaction in which rows are moved.
#[async_trait]
pub(crate) trait Moving: Send {
    /// Moves rows, or none of them.
    ///
    /// # Errors
    /// What is no row's fault.
    async fn try_move(&mut self, rows: &Chosen) -> Result<Moved>;

    /// After all at once were refused: ranges in which the numbers of all rows are.
    async fn pieces(&mut self) -> Result<Vec<Range<u64>>>;

    /// Takes the numbers of rows that are not moved, in any order.
    async fn refuse(&mut self, rows: Vec<(u64, Error)>) -> Result<()>;
}

/// A row of partition `p` has the number `p << PARTITION_BITS`, and on, of its place in it.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const PARTITION_BITS: u32 = 40;

/// Where rows go that the table refuses.
pub(crate) struct Sifting<'a> {
    pub(crate) cx: &'a RunContext,
    refusals: &'a mut dyn Refusals,
    /// How many there were.
    pub(crate) refused: u64,
}

impl<'a> Sifting<'a> {
    pub(crate) fn new(cx: &'a RunContext, refusals: &'a mut dyn Refusals) -> Self {
        Self { cx, refusals, refused: 0 }
    }

    /// Takes all rows of `scan`, each with its error.
    pub(crate) async fn take(&mut self, scan: &dyn Scan, errors: Vec<Error>) -> Result<()> {
        self.refused += errors.len() as u64;
        hand_over(self.cx, scan, errors, self.refusals).await
    }
}

/// Rows that are refused, in the order of their numbers: the numbers, and the errors.
pub(crate) fn in_order(mut refused: Vec<(u64, Error)>) -> (Vec<u64>, Vec<Error>) {
    refused.sort_by_key(|(row, _)| *row);
    refused.into_iter().unzip()
}

async fn hand_over(cx: &RunContext, scan: &dyn Scan, errors: Vec<Error>, refusals: &mut dyn Refusals) -> Result<()> {
    let mut errors = errors.into_iter();
    let missing = || Error::new(ErrorKind::Internal, "rows that were refused are not those that are staged");
    for partition in scan.partitions() {
        let mut stream = scan.read(cx, partition)?;
        while let Some(batch) = next_batch(&mut stream).await {
            let batch = batch?;
            let errors: Vec<_> = errors.by_ref().take(batch.num_rows()).collect();
            if errors.len() != batch.num_rows() {
                return Err(missing());
            }
            refusals.put(&batch, errors).await?;
        }
    }
    if errors.next().is_some() { Err(missing()) } else { Ok(()) }
}

/// Rows that are refused at a time.
pub(crate) const CHUNK: usize = 1000;

/// Moves all rows but those that the table refuses.
pub(crate) async fn sift(moving: &mut dyn Moving, cancel: &CancelToken) -> Result<()> {
    if let Moved::All = moving.try_move(&Chosen::All).await? {
        return Ok(());
    }
    let (mut refused, mut waiting) = (Vec::new(), Vec::new());
    // Those in front come last.
    let mut open = moving.pieces().await?;
    open.reverse();
    while let Some(rows) = open.pop() {
        cancel.check()?;
        if rows.is_empty() {
            continue;
        }
        match moving.try_move(&Chosen::Within(rows.clone())).await? {
            Moved::All => {}
            Moved::Refused { .. } if rows.end - rows.start > 1 => {
                let middle = rows.start + (rows.end - rows.start) / 2;
                open.push(middle..rows.end);
                open.push(rows.start..middle);
            }
            Moved::Refused { error, may_wait: true } => waiting.push((rows.start, error)),
            Moved::Refused { error, may_wait: false } => refused.push((rows.start, error)),
        }
        if refused.len() >= CHUNK {
            moving.refuse(std::mem::take(&mut refused)).await?;
        }
    }
    refused.extend(without_others(moving, waiting, cancel).await?);
    let mut refused = refused.into_iter();
    loop {
        let chunk: Vec<_> = refused.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        moving.refuse(chunk).await?;
    }
}

/// Those of the `waiting` rows that are refused whatever else is there.
async fn without_others(
    moving: &mut dyn Moving,
    mut waiting: Vec<(u64, Error)>,
    cancel: &CancelToken,
) -> Result<Vec<(u64, Error)>> {
    loop {
        cancel.check()?;
        // They may need each other in a circle.
        let these = Chosen::These(waiting.iter().map(|(row, _)| *row).collect());
        if waiting.len() <= CHUNK && matches!(moving.try_move(&these).await?, Moved::All) {
            return Ok(Vec::new());
        }
        let before = waiting.len();
        let mut still = Vec::new();
        // Those that need one behind them, and then those that need one in front, or the other way around.
        waiting.reverse();
        for (row, _) in waiting {
            cancel.check()?;
            match moving.try_move(&Chosen::Within(row..row + 1)).await? {
                Moved::All => {}
                Moved::Refused { error, .. } => still.push((row, error)),
            }
        }
        if still.is_empty() || still.len() == before {
            return Ok(still);
        }
        waiting = still;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    /// Rows of which some are bad, some have a key that another has, and some need another row.
    #[derive(Debug, Default)]
    struct Table {
        rows: Vec<(u64, Row)>,
        taken: BTreeSet<u64>,
        refused: Vec<u64>,
        statements: usize,
    }

    #[derive(Clone, Copy, Debug)]
    enum Row {
        Good,
        Bad,
        Key(u8),
        Needs(u64),
    }

    impl Table {
        fn take(&self, rows: &[u64]) -> Option<bool> {
            let mut taken = self.taken.clone();
            taken.extend(rows);
            let row = |number: u64| self.rows.iter().find(|(other, _)| *other == number).map(|(_, row)| *row);
            let keys: Vec<_> = taken
                .iter()
                .filter_map(|number| if let Some(Row::Key(key)) = row(*number) { Some(key) } else { None })
                .collect();
            let unique: BTreeSet<_> = keys.iter().collect();
            if rows.iter().any(|number| matches!(row(*number), Some(Row::Bad))) || unique.len() < keys.len() {
                return Some(false);
            }
            let needs =
                |number: &u64| if let Some(Row::Needs(other)) = row(*number) { !taken.contains(&other) } else { false };
            rows.iter().any(needs).then_some(true)
        }
    }

    #[async_trait]
    impl Moving for Table {
        async fn try_move(&mut self, rows: &Chosen) -> Result<Moved> {
            self.statements += 1;
            let numbers: Vec<u64> = self.rows.iter().map(|(number, _)| *number).collect();
            let numbers: Vec<u64> = match rows {
                Chosen::All => numbers,
                Chosen::Within(range) => numbers.into_iter().filter(|number| range.contains(number)).collect(),
                Chosen::These(these) => numbers.into_iter().filter(|number| these.contains(number)).collect(),
            };
            match self.take(&numbers) {
                Some(may_wait) => Ok(Moved::Refused { error: Error::new(ErrorKind::InvalidData, "no"), may_wait }),
                None => {
                    self.taken.extend(numbers);
                    Ok(Moved::All)
                }
            }
        }

        async fn pieces(&mut self) -> Result<Vec<Range<u64>>> {
            let last = self.rows.iter().map(|(number, _)| *number).max().unwrap_or(0);
            Ok(vec![0..last / 2, last / 2..last + 1])
        }

        async fn refuse(&mut self, rows: Vec<(u64, Error)>) -> Result<()> {
            self.refused.extend(rows.into_iter().map(|(number, _)| number));
            Ok(())
        }
    }

    fn sifted(rows: Vec<(u64, Row)>) -> Table {
        let mut table = Table { rows, ..Table::default() };
        sift(&mut table, &CancelToken::new()).now_or_never().unwrap().unwrap();
        // Those that waited come in any order.
        table.refused.sort_unstable();
        table
    }

    #[test]
    fn a_few_bad_rows_are_found_with_few_statements() {
        let rows =
            (0..4096).map(|n| (n * 3, if [0, 1000, 4095].contains(&n) { Row::Bad } else { Row::Good })).collect();
        let table = sifted(rows);
        assert_eq!(table.refused, [0, 3000, 12_285]);
        assert_eq!(table.taken.len(), 4093);
        assert!(table.statements < 100, "{}", table.statements);
        assert_eq!(sifted((0..100).map(|n| (n, Row::Good)).collect()).statements, 1);
    }

    #[test]
    fn rows_that_need_others_wait_for_them() {
        let bad = (0, Row::Bad);
        // A chain against the order, a circle, and one whose other is never there.
        let chain = [(1, Row::Needs(2)), (2, Row::Needs(3)), (3, Row::Needs(4)), (4, Row::Good)];
        assert_eq!(sifted([bad].into_iter().chain(chain).collect()).refused, [0]);
        let circle = [(1, Row::Needs(9)), (9, Row::Needs(1))];
        assert_eq!(sifted([bad].into_iter().chain(circle).collect()).refused, [0]);
        assert_eq!(sifted(vec![(1, Row::Needs(7)), (2, Row::Good), (3, Row::Needs(1))]).refused, [1, 3]);
    }

    proptest! {
        #[test]
        fn whatever_is_there_each_row_is_taken_or_refused(
            kinds in prop::collection::vec((0..8u8, 0..5u8), 0..60),
            gap in 1..4u64,
        ) {
            let row = |kind, key| match kind {
                0 => Row::Bad,
                1 | 2 => Row::Key(key),
                _ => Row::Good,
            };
            let rows: Vec<_> = (0..).zip(kinds).map(|(n, (kind, key))| (n * gap, row(kind, key))).collect();
            let table = sifted(rows.clone());
            // One after another is the plain way.
            let mut plain = Table { rows, ..Table::default() };
            let numbers: Vec<_> = plain.rows.iter().map(|(number, _)| *number).collect();
            for number in numbers {
                if plain.take(&[number]).is_none() { _ = plain.taken.insert(number) } else { plain.refused.push(number) }
            }
            prop_assert_eq!(table.taken, plain.taken);
            prop_assert_eq!(table.refused, plain.refused);
        }
    }
}
