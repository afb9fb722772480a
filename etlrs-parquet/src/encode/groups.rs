//! Batches go in, row groups come out.

use std::sync::Arc;

use arrow_array::RecordBatch;
use parquet::errors::Result;

use super::sort::{Run, Sorter};
use super::{Encoder, Layout, RowGroup};

/// The row groups of one partition, in memory until they are taken.
///
/// With an order, rows are collected until they fill a row group or half of the memory, then sorted and encoded.
pub(crate) struct RowGroups {
    encoder: Encoder,
    sorter: Option<Sorter>,
    run: Option<Run>,
    /// Rows that came and were not looked at yet.
    came: Option<Rest>,
    /// Rows that are to be encoded next.
    next: Option<Rest>,
    ended: bool,
    /// The caller was told that rows are about to be encoded.
    told: bool,
    most_rows: usize,
    memory: usize,
}

/// What [`RowGroups::next`] came to.
pub(crate) enum Progress {
    /// A row group is complete.
    Complete(RowGroup),
    /// Rows are about to be encoded, for which [`RowGroups::memory`] reckons already: time to make room.
    Due,
    /// There is no more to do until more rows come.
    Idle,
}

struct Rest {
    batch: RecordBatch,
    /// Rows that were taken.
    offset: usize,
}

impl RowGroups {
    /// Of a writer that may hold `memory` bytes.
    pub(crate) fn new(layout: Arc<Layout>, memory: usize) -> Self {
        let most_rows = layout.row_group_rows;
        let sorter = (!layout.order.is_empty()).then(|| Sorter::new(&layout.order, most_rows));
        let encoder = Encoder::new(layout, memory);
        Self { encoder, sorter, run: None, came: None, next: None, ended: false, told: false, most_rows, memory }
    }

    /// Bytes held, and those that rows which are about to be encoded will take.
    pub(crate) fn memory(&self) -> usize {
        let (held, coming) = match (&self.run, &self.sorter) {
            (Some(run), _) => (run.memory(), run.encoded()),
            (None, Some(sorter)) if self.told => (sorter.memory(), sorter.encoded()),
            (None, Some(sorter)) => (sorter.memory(), 0),
            (None, None) => (0, 0),
        };
        held.saturating_add(self.encoder.memory().max(coming.min(self.memory / 2)))
    }

    /// Takes rows, of which [`Self::next`] makes row groups. It has been idle since the last were taken.
    pub(crate) fn push(&mut self, batch: RecordBatch) {
        self.came = Some(Rest { batch, offset: 0 });
    }

    /// Tells that no more rows come, so [`Self::next`] gives what is left.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Goes on until the caller has something to do. Asked again until it gives [`Progress::Idle`].
    pub(crate) fn next(&mut self) -> Result<Progress> {
        loop {
            if let Some(rest) = &mut self.next {
                if rest.offset == rest.batch.num_rows() {
                    self.next = None;
                    continue;
                }
                rest.offset += self.encoder.write(&rest.batch, rest.offset)?;
                if (self.encoder.rows() >= self.most_rows || self.encoder.memory() >= self.memory / 2)
                    && let Some(group) = self.take()?
                {
                    return Ok(Progress::Complete(group));
                }
            } else if let Some(run) = &mut self.run {
                if let Some(batch) = run.next()? {
                    self.next = Some(Rest { batch, offset: 0 });
                    continue;
                }
                // The next run begins anew, so its rows cannot go on in the row group.
                let group = self.take()?;
                self.run = None;
                if let Some(group) = group {
                    return Ok(Progress::Complete(group));
                }
            } else if let Some(sorter) = &mut self.sorter {
                if is_due(sorter, self.memory, self.ended && self.came.is_none()) {
                    if !std::mem::replace(&mut self.told, true) {
                        return Ok(Progress::Due);
                    }
                    self.told = false;
                    self.run = Some(sorter.sort());
                } else if let Some(rest) = &mut self.came {
                    rest.offset += sorter.push(&rest.batch, rest.offset)?;
                    if rest.offset == rest.batch.num_rows() {
                        self.came = None;
                    }
                } else {
                    return Ok(Progress::Idle);
                }
            } else if let Some(rest) = self.came.take() {
                self.next = Some(rest);
            } else if self.ended
                && let Some(group) = self.take()?
            {
                return Ok(Progress::Complete(group));
            } else {
                return Ok(Progress::Idle);
            }
        }
    }

    fn take(&mut self) -> Result<Option<RowGroup>> {
        let order = self.run.as_ref().map(|run| run.order.clone()).filter(|order| !order.is_empty());
        Ok(self.encoder.take()?.map(|group| RowGroup { order, ..group }))
    }
}

/// Whether the rows of `sorter` are sorted now.
fn is_due(sorter: &Sorter, memory: usize, ended: bool) -> bool {
    sorter.rows() > 0 && (ended || !sorter.has_room() || sorter.memory() >= memory / 2)
}

#[cfg(test)]
mod tests {
    use etlrs_core::record_batch;
    use parquet::arrow::ArrowSchemaConverter;
    use proptest::prelude::*;

    use super::*;
    use crate::{BloomFilters, ParquetWriteOptions, SortColumn};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn a_writer_that_appends_when_it_has_to_holds_no_more_than_its_memory_and_a_batch(
            memory in (256_usize << 10)..(2 << 20),
            rows in 100_usize..2_000,
            sorted in any::<bool>(),
            filters in any::<bool>(),
        ) {
            let noise = |seed: i64| {
                let next = |x: &i64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99));
                let words = || std::iter::successors(Some(seed), next).take(rows).map(Some).collect();
                record_batch([("a", words()), ("b", words()), ("c", words())])
            };
            let mut options = ParquetWriteOptions::default();
            if sorted {
                options = options.with_sort_by([SortColumn::asc("b")]);
            }
            if filters {
                options = options.with_bloom_filters(BloomFilters::All);
            }
            let schema = noise(0).schema();
            let root = ArrowSchemaConverter::new().convert(&schema).unwrap().root_schema_ptr();
            let layout = Arc::new(Layout::new(schema, root, &options, "t".as_ref()).unwrap());
            let mut groups = RowGroups::new(layout, memory);
            let (mut parked, mut most, mut written) = (Vec::new(), 0, 0);
            for seed in 0..=(8 << 20) / (24 * rows as i64) {
                groups.push(noise(seed));
                loop {
                    let progress = groups.next().unwrap();
                    let idle = matches!(progress, Progress::Idle);
                    if let Progress::Complete(group) = progress {
                        parked.push(group);
                    }
                    let held = |parked: &[RowGroup]| parked.iter().map(|group| group.bytes).sum::<usize>();
                    // What `RowGroups::memory` reckons for in advance is not there yet.
                    let now = groups.encoder.memory() + groups.run.as_ref().map_or(0, Run::memory)
                        + groups.sorter.as_ref().map_or(0, Sorter::memory);
                    most = most.max(now + held(&parked));
                    if groups.memory() + held(&parked) > memory {
                        written += parked.len();
                        parked.clear();
                    }
                    if idle {
                        break;
                    }
                }
            }
            // Pages in progress grow by doubling, as what is read of a batch does.
            let slack = 3 * (24 * rows.max(8192)) + memory / 4;
            prop_assert!(most <= memory + slack, "{most} of {memory}");
            prop_assert!(written > 0);
        }
    }
}
