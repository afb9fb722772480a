//! Bloom filters of column chunks in the making. See `BloomFilter.md` in apache/parquet-format.

use std::io::{self, Write};

use parquet::basic::{LogicalType, Type as PhysicalType};
use parquet::bloom_filter::Sbbf;
use parquet::schema::types::ColumnDescriptor;

/// Bytes of the smallest filter, a block.
const LEAST: usize = 32;
/// Share of absent values that a filter may take for present and still be worth its bytes.
const USELESS: f64 = 0.5;

/// How large filters are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FilterSize {
    /// Wanted share of absent values that are taken for present.
    pub(crate) fpp: f64,
    /// Values of a column at the most.
    pub(crate) values: usize,
    /// Bytes at the most.
    pub(crate) bytes: usize,
}

impl FilterSize {
    /// Different values for which a filter of at most `bytes` bytes still keeps to the wanted share.
    pub(crate) fn most_distinct(&self) -> u64 {
        // A filter has a power of two of bytes.
        let bytes = (self.bytes.max(LEAST) + 1).next_power_of_two() / 2;
        // The inverse of the formula by which the parquet crate sizes filters.
        let distinct = bytes as f64 * -f64::ln(1.0 - self.fpp.powf(1.0 / 8.0));
        (distinct as u64).clamp(1, self.values.max(1) as u64)
    }
}

/// The filter of one column of a row group.
pub(crate) struct Filter {
    size: FilterSize,
    bits: Option<Sbbf>,
}

impl Filter {
    pub(crate) fn new(size: FilterSize) -> Self {
        Self { size, bits: None }
    }

    pub(crate) fn memory(&self) -> usize {
        self.bits.as_ref().map_or(0, bytes)
    }

    /// For values of which it is not known how many differ: as many as there may be at the most. The filter becomes
    /// smaller at the end.
    pub(crate) fn of_values(&mut self) -> &mut Sbbf {
        let size = self.size;
        self.bits.get_or_insert_with(|| sized(size.most_distinct(), size.fpp))
    }

    /// For the values of a dictionary, of which there are `distinct`.
    pub(crate) fn of_dictionary(&mut self, distinct: usize) -> &mut Sbbf {
        let size = self.size;
        self.bits.get_or_insert_with(|| sized(size.most_distinct().min(distinct as u64), size.fpp))
    }

    /// The filter of `column`, no larger than the wanted share needs; `None` if it would tell next to nothing.
    pub(crate) fn finish(mut self, column: &ColumnDescriptor) -> Option<Sbbf> {
        // Without values too: it tells that there are none.
        self.of_dictionary(0);
        let mut bits = self.bits?;
        bits.fold_to_target_fpp(self.size.fpp);
        complete(bits, column)
    }
}

fn sized(distinct: u64, fpp: f64) -> Sbbf {
    // Refused only for shares that `ParquetWriteOptions::validate` refuses.
    Sbbf::new_with_ndv_fpp(distinct, fpp).unwrap_or_else(|_| Sbbf::new_with_num_of_bytes(LEAST))
}

/// Bytes of `filter`.
pub(crate) fn bytes(filter: &Sbbf) -> usize {
    filter.num_blocks() * LEAST
}

/// Adds what is equal to a value and has other bits: readers look for one zero and one NaN, and have both meant.
///
/// `None` for a filter that would tell next to nothing, for its memory was too small for its values.
pub(crate) fn complete(mut filter: Sbbf, column: &ColumnDescriptor) -> Option<Sbbf> {
    let mut set = Ones(0);
    filter.write_bitset(&mut set).ok()?;
    // A value sets eight bits in a block.
    let share = (set.0 as f64 / (bytes(&filter) as f64 * 8.0)).powi(8);
    if share > USELESS {
        return None;
    }
    let (zeros, nans): ([Vec<u8>; 2], [Vec<u8>; 2]) = match (column.physical_type(), column.logical_type_ref()) {
        (PhysicalType::FLOAT, _) => {
            let bytes = |value: f32| value.to_le_bytes().to_vec();
            ([0.0, -0.0].map(bytes), [f32::NAN, -f32::NAN].map(bytes))
        }
        (PhysicalType::DOUBLE, _) => {
            let bytes = |value: f64| value.to_le_bytes().to_vec();
            ([0.0, -0.0].map(bytes), [f64::NAN, -f64::NAN].map(bytes))
        }
        (_, Some(LogicalType::Float16)) => {
            let bytes = |value: u16| value.to_le_bytes().to_vec();
            ([0, 0x8000].map(bytes), [0x7e00, 0xfe00].map(bytes))
        }
        _ => return Some(filter),
    };
    if zeros.iter().any(|zero| filter.check(zero.as_slice())) {
        zeros.iter().for_each(|zero| filter.insert(zero.as_slice()));
    }
    // There are too many to tell whether one is there.
    nans.iter().for_each(|nan| filter.insert(nan.as_slice()));
    Some(filter)
}

/// Counts the bits that are set in what is written to it.
struct Ones(u64);

impl Write for Ones {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::schema::types::{ColumnPath, Type};

    use super::*;

    fn column(physical: PhysicalType) -> ColumnDescriptor {
        let node = Type::primitive_type_builder("c", physical).build().unwrap();
        ColumnDescriptor::new(Arc::new(node), 0, 0, ColumnPath::from("c"))
    }

    fn filled(mut filter: Filter, values: i64) -> Filter {
        let bits = filter.of_values();
        (0..values).for_each(|value| bits.insert(&value));
        filter
    }

    #[test]
    fn a_filter_is_as_large_as_its_values_need_and_its_memory_allows() {
        let size = FilterSize { fpp: 0.01, values: 1 << 20, bytes: 64 << 10 };
        let column = column(PhysicalType::INT64);
        for (values, expected) in [(0, 32), (20, 32), (1_000, 2 << 10), (20_000, 32 << 10), (60_000, 64 << 10)] {
            let filter = filled(Filter::new(size), values).finish(&column).unwrap();
            assert_eq!(bytes(&filter), expected, "{values}");
            assert!((0..values).all(|value| filter.check(&value)));
            let wrong = (values..values + 10_000).filter(|value| filter.check(value)).count();
            assert!(wrong < if values > 50_000 { 2_000 } else { 150 }, "{values}: {wrong} of 10000 are wrong");
        }
        assert!(filled(Filter::new(size), 1_000_000).finish(&column).is_none(), "all bits are set");
        for bytes_allowed in [0, 31, 32, 33, 100, 128, 5_000, 1 << 20] {
            let size = FilterSize { bytes: bytes_allowed, values: usize::MAX, ..size };
            let largest = bytes(filled(Filter::new(size), 0).of_values());
            assert!(largest <= bytes_allowed.max(LEAST) && largest * 4 > bytes_allowed, "{bytes_allowed}: {largest}");
        }
    }

    #[test]
    fn one_zero_stands_for_both_and_one_nan_for_all() {
        let size = FilterSize { fpp: 0.0001, values: 100, bytes: 1 << 10 };
        let mut filter = Filter::new(size);
        filter.of_dictionary(1).insert(&-0.0_f64);
        let filter = filter.finish(&column(PhysicalType::DOUBLE)).unwrap();
        assert!([0.0, -0.0, f64::NAN, -f64::NAN].iter().all(|value| filter.check(value)));
        let without = Filter::new(size).finish(&column(PhysicalType::DOUBLE)).unwrap();
        assert!(!without.check(&0.0_f64) && !without.check(&-0.0_f64));
    }
}
