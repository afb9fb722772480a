//! Which rows of a file can pass the tests of a scan.
//!
//! Design note. First whole row groups go, by the statistics of their column chunks and by Bloom filters, then pages of
//! those that are left, by the page index. What says nothing for certain is kept: statistics that are missing, of the
//! deprecated kind, in an unknown order or with the lesser bound above the greater; any constant that the engine might
//! compare in another way ([`order`] has the types). Bounds may be cut short, as those of long texts are: they hold all
//! values all the same, and nothing here needs them to be values themselves. NaN is in no bounds, so a test that NaN passes
//! skips floats only where another test of the column excludes NaN.
//!
//! The engine filters whatever comes, so forgetting to skip costs time; skipping wrongly loses rows.

pub(crate) mod bloom;
mod index;
mod order;

use std::cmp::Ordering;
use std::ops::Range;

use etlrs_core::{ColumnTest, Comparison, Result, Test};
use parquet::basic::{ColumnOrder, Type as PhysicalType};
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};

use self::order::{Key, Order};
use crate::file::{ParquetFile, SourceFile};

/// Bytes of a page index or Bloom filter that are read at the most, for a scan has no share of the memory budget.
const LARGEST: usize = 8 << 20;

/// Ranges of rows that are kept of a file at the most; further row groups are read whole.
const MOST_RANGES: usize = 1 << 20;

/// The rows of each row group of `file` that may pass all `tests`, as ranges in ascending order; none of a row group that
/// can be skipped.
///
/// # Errors
/// I/O errors of opening the file, which only happens where it has indexes or filters that could help.
pub(crate) fn wanted_rows(file: &ParquetFile, tests: &[ColumnTest]) -> Result<Vec<Vec<Range<u64>>>> {
    let columns = tested_columns(file, tests);
    let mut source: Option<SourceFile> = None;
    let mut wanted = Vec::with_capacity(file.footer().num_row_groups());
    let mut ranges = 0;
    for group in file.footer().row_groups() {
        let all = 0..u64::try_from(group.num_rows()).unwrap_or(0);
        let mut rows = if all.is_empty() { Vec::new() } else { vec![all.clone()] };
        if !columns.iter().all(|column| column.may_pass_in(group)) {
            rows.clear();
        }
        let useful = |column: &&TestedColumn<'_>| column.has_index(group) || column.has_bloom_filter(group);
        for column in columns.iter().filter(useful) {
            if rows.is_empty() {
                break;
            }
            let opened = match &mut source {
                Some(source) => source,
                none => none.insert(file.source()?),
            };
            rows = column.narrow(opened, group, rows, all.end);
        }
        if ranges + rows.len() > MOST_RANGES && !rows.is_empty() {
            rows = vec![all];
        }
        ranges += rows.len();
        wanted.push(rows);
    }
    Ok(wanted)
}

/// A column with one value a row, and what it is tested for.
struct TestedColumn<'a> {
    leaf: usize,
    physical: PhysicalType,
    /// Without an order, only nulls are known.
    order: Option<Order>,
    nullable: bool,
    tests: Vec<&'a Test>,
    /// Whether some test excludes NaN, so that the others need not reckon with it.
    without_nan: bool,
}

fn tested_columns<'a>(file: &ParquetFile, tests: &'a [ColumnTest]) -> Vec<TestedColumn<'a>> {
    let (schema, parquet) = (file.metadata.schema(), file.metadata.parquet_schema());
    let orders = file.footer().file_metadata().column_orders();
    let mut columns: Vec<TestedColumn<'a>> = Vec::new();
    for test in tests {
        let leaves = parquet.columns().iter().enumerate();
        let mut leaves = leaves.filter(|(_, leaf)| leaf.path().parts().first() == Some(&test.column));
        let (Some((leaf, found)), None) = (leaves.next(), leaves.next()) else { continue };
        let Ok(field) = schema.field_with_name(&test.column) else { continue };
        if found.path().parts().len() != 1 || found.max_rep_level() != 0 {
            continue;
        }
        let column = match columns.iter_mut().find(|column| column.leaf == leaf) {
            Some(column) => column,
            None => {
                let defined = orders.and_then(|orders| orders.get(leaf));
                let defined = matches!(defined, Some(ColumnOrder::TYPE_DEFINED_ORDER(_)));
                columns.push(TestedColumn {
                    leaf,
                    physical: found.physical_type(),
                    order: Order::of(found, field.data_type()).filter(|_| defined),
                    nullable: found.max_def_level() > 0,
                    tests: Vec::new(),
                    without_nan: false,
                });
                let Some(column) = columns.last_mut() else { continue };
                column
            }
        };
        if column.understands(&test.test) {
            column.without_nan |= match &test.test {
                Test::Compare(comparison, _) => {
                    matches!(comparison, Comparison::Eq | Comparison::Lt | Comparison::LtEq)
                }
                Test::In(_) => true,
                _ => false,
            };
            column.tests.push(&test.test);
        }
    }
    columns
}

/// What is known of some rows of a column.
struct Bounds<'a> {
    rows: u64,
    nulls: Option<u64>,
    least: Option<Key<'a>>,
    greatest: Option<Key<'a>>,
}

impl TestedColumn<'_> {
    fn understands(&self, test: &Test) -> bool {
        let known = |value| self.order.is_some_and(|order| order.constant(value).is_some());
        match test {
            Test::Compare(_, value) => known(value),
            Test::In(values) => values.iter().all(known),
            Test::IsNull | Test::IsNotNull => true,
            _ => false,
        }
    }

    fn chunk<'b>(&self, group: &'b RowGroupMetaData) -> Option<&'b ColumnChunkMetaData> {
        group.columns().get(self.leaf)
    }

    fn has_index(&self, group: &RowGroupMetaData) -> bool {
        let has = |chunk: &ColumnChunkMetaData| chunk.column_index_offset().and(chunk.offset_index_offset()).is_some();
        !self.tests.is_empty() && self.chunk(group).is_some_and(has)
    }

    fn has_bloom_filter(&self, group: &RowGroupMetaData) -> bool {
        let equal = |test: &&Test| matches!(test, Test::Compare(Comparison::Eq, _) | Test::In(_));
        self.tests.iter().any(equal) && self.chunk(group).is_some_and(|chunk| chunk.bloom_filter_offset().is_some())
    }

    /// By the statistics of the column chunk.
    fn may_pass_in(&self, group: &RowGroupMetaData) -> bool {
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        let mut bounds = Bounds { rows, nulls: (!self.nullable).then_some(0), least: None, greatest: None };
        if let Some(found) = self.chunk(group).and_then(ColumnChunkMetaData::statistics) {
            let bounded = found.min_bytes_opt().or(found.max_bytes_opt()).is_some();
            // Writers of the deprecated kind disagreed on the order. Statistics without bounds are called deprecated too.
            if !(bounded && found.is_min_max_deprecated()) {
                bounds.nulls = bounds.nulls.or(found.null_count_opt());
                bounds.least = found.min_bytes_opt().and_then(|bytes| self.order?.bound(self.physical, bytes));
                bounds.greatest = found.max_bytes_opt().and_then(|bytes| self.order?.bound(self.physical, bytes));
            }
        }
        self.may_pass(&bounds)
    }

    /// By the Bloom filter and the page index, of a row group of which `rows` of `all` are wanted so far.
    fn narrow(&self, file: &SourceFile, group: &RowGroupMetaData, rows: Vec<Range<u64>>, all: u64) -> Vec<Range<u64>> {
        let Some(chunk) = self.chunk(group) else { return rows };
        if self.has_bloom_filter(group)
            && let Some(filter) = bloom::read(file, chunk, LARGEST)
            && !self.tests.iter().all(|test| self.may_hold(&filter, test))
        {
            return Vec::new();
        }
        if !self.has_index(group) {
            return rows;
        }
        let Some(index) = index::read(file, chunk, all) else { return rows };
        let passing = index.pages.iter().filter(|page| {
            let bound = |bytes| self.order.and_then(|order| order.bound(self.physical, bytes));
            let (least, greatest) = match &page.bounds {
                Some((least, greatest)) => (bound(least), bound(greatest)),
                None => (None, None),
            };
            let nulls = if self.nullable { page.nulls } else { Some(0) };
            self.may_pass(&Bounds { rows: page.rows.end - page.rows.start, nulls, least, greatest })
        });
        let passing: Vec<_> = passing.map(|page| page.rows.clone()).collect();
        intersection(&rows, &passing)
    }

    fn may_hold(&self, filter: &Sbbf, test: &Test) -> bool {
        let holds = |value| {
            let Some(order) = self.order else { return true };
            let bytes = order.constant(value).and_then(|key| order.stored(self.physical, &key));
            bytes.is_none_or(|bytes| filter.check(bytes.as_slice()))
        };
        match test {
            Test::Compare(Comparison::Eq, value) => holds(value),
            Test::In(values) => values.iter().any(holds),
            _ => true,
        }
    }

    /// Whether a row within `bounds` may pass all tests.
    fn may_pass(&self, bounds: &Bounds<'_>) -> bool {
        self.tests.iter().all(|test| self.may_pass_one(test, bounds))
    }

    fn may_pass_one(&self, test: &Test, bounds: &Bounds<'_>) -> bool {
        let Bounds { rows, nulls, least, greatest } = bounds;
        match test {
            Test::IsNull => *nulls != Some(0),
            _ if *nulls == Some(*rows) => false,
            Test::Compare(comparison, value) => {
                let Some(value) = self.order.and_then(|order| order.constant(value)) else { return true };
                self.may_compare(*comparison, &value, least.as_ref(), greatest.as_ref())
            }
            Test::In(values) => values.iter().any(|value| {
                let Some(value) = self.order.and_then(|order| order.constant(value)) else { return true };
                self.may_compare(Comparison::Eq, &value, least.as_ref(), greatest.as_ref())
            }),
            _ => true,
        }
    }

    fn may_compare(
        &self,
        comparison: Comparison,
        value: &Key<'_>,
        least: Option<&Key<'_>>,
        greatest: Option<&Key<'_>>,
    ) -> bool {
        if let (Some(least), Some(greatest)) = (least, greatest)
            && least.compare(greatest) == Some(Ordering::Greater)
        {
            return true;
        }
        let least = least.and_then(|least| least.compare(value));
        let greatest = greatest.and_then(|greatest| greatest.compare(value));
        let nan = self.order == Some(Order::Float) && !self.without_nan;
        match comparison {
            Comparison::Eq => least != Some(Ordering::Greater) && greatest != Some(Ordering::Less),
            Comparison::NotEq => nan || least != Some(Ordering::Equal) || greatest != Some(Ordering::Equal),
            Comparison::Lt => !matches!(least, Some(Ordering::Greater | Ordering::Equal)),
            Comparison::LtEq => least != Some(Ordering::Greater),
            Comparison::Gt => nan || !matches!(greatest, Some(Ordering::Less | Ordering::Equal)),
            Comparison::GtEq => nan || greatest != Some(Ordering::Less),
        }
    }
}

/// The rows that are in both; each side is in ascending order.
fn intersection(left: &[Range<u64>], right: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut both: Vec<Range<u64>> = Vec::new();
    let (mut lefts, mut rights) = (left.iter().peekable(), right.iter().peekable());
    while let (Some(l), Some(r)) = (lefts.peek(), rights.peek()) {
        let (start, end) = (l.start.max(r.start), l.end.min(r.end));
        if start < end {
            match both.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => both.push(start..end),
            }
        }
        if l.end <= r.end {
            lefts.next()
        } else {
            rights.next()
        };
    }
    both
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(bits: &[bool]) -> Vec<Range<u64>> {
        (0..).zip(bits).filter(|(_, bit)| **bit).map(|(row, _)| row..row + 1).collect()
    }

    proptest! {
        #[test]
        fn rows_in_both_are_kept(pairs in prop::collection::vec(any::<(bool, bool)>(), 0..60)) {
            let (left, right): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let both: Vec<_> = pairs.iter().map(|(left, right)| *left && *right).collect();
            let found = intersection(&intersection(&ranges(&left), &ranges(&[true; 60])), &ranges(&right));
            let rows: Vec<_> = found.iter().cloned().flatten().collect();
            prop_assert_eq!(rows, ranges(&both).into_iter().flatten().collect::<Vec<_>>());
            prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
