//! An order-free checksum of rows.
//!
//! Each row is hashed to 64 bits, column after column, and the checksum is the sum of the row hashes and the sum of a
//! second mix of them, both modulo 2^64. A sum does not depend on the order of the rows, on the batches or on the
//! partitions, and unlike exclusive or it does not cancel a row that comes twice.
//!
//! Values are hashed by what they mean, not by how they are laid out: all integer widths alike, plain, view and
//! dictionary strings alike, timestamps by the instant whatever their unit, `-0.0` as `0.0`, every NaN as one. Names
//! of columns are left out; [`SchemaHash`] is for those.
//!
//! The mixing is a folded 64×64→128 multiplication as in wyhash (public domain, Wang Yi); every result is the same on
//! every platform, for checksums are kept. A change to any of it needs a new version in [`Checksum::VERSION`].

use std::fmt;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType, PrimitiveArray, RecordBatch};
use arrow_buffer::{ArrowNativeType, NullBuffer, i256};
use arrow_schema::{DataType, IntervalUnit, Schema, TimeUnit};

use crate::{Error, ErrorKind, Result};

/// Checksum of a multiset of rows, with their number.
///
/// ```
/// # use etlrs_core::{Checksum, record_batch};
/// let ab = record_batch([("x", vec![Some(1), Some(2)])]);
/// let ba = record_batch([("x", vec![Some(2), Some(1)])]);
/// assert_eq!(Checksum::of_batch(&ab)?, Checksum::of_batch(&ba)?);
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Checksum {
    rows: u64,
    sums: [u64; 2],
}

impl Checksum {
    /// Version of the way rows are hashed.
    pub const VERSION: u32 = 1;

    /// Checksum of the rows of `batch`. Takes about a nanosecond a number and a few a string.
    ///
    /// # Errors
    /// `Unsupported` for union and run-end encoded columns.
    pub fn of_batch(batch: &RecordBatch) -> Result<Self> {
        let mut checksum = Self::default();
        row_hashes(batch)?.into_iter().for_each(|hash| checksum.add(hash));
        Ok(checksum)
    }

    /// Adds a row, by its [hash](row_hashes).
    #[inline]
    pub fn add(&mut self, hash: u64) {
        self.rows = self.rows.wrapping_add(1);
        self.sums[0] = self.sums[0].wrapping_add(hash);
        self.sums[1] = self.sums[1].wrapping_add(mix(hash ^ SEED[2], hash.rotate_left(32) ^ SEED[3]));
    }

    /// The checksum of `rows` rows that was [shown](fmt::Display) as `text`; `None` if that is none.
    pub fn restore(rows: u64, text: &str) -> Option<Self> {
        let sum = |part: Option<&str>| u64::from_str_radix(part?, 16).ok();
        let is_plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let sums = [sum(text.get(..16))?, sum(text.get(16..))?];
        is_plain.then_some(Self { rows, sums })
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds the rows of another multiset.
    pub fn merge(&mut self, other: &Self) {
        self.rows = self.rows.wrapping_add(other.rows);
        for (sum, other) in self.sums.iter_mut().zip(other.sums) {
            *sum = sum.wrapping_add(other);
        }
    }

    /// Takes out rows that are in it.
    pub fn remove(&mut self, other: &Self) {
        self.rows = self.rows.wrapping_sub(other.rows);
        for (sum, other) in self.sums.iter_mut().zip(other.sums) {
            *sum = sum.wrapping_sub(other);
        }
    }
}

impl FromIterator<Checksum> for Checksum {
    fn from_iter<I: IntoIterator<Item = Checksum>>(parts: I) -> Self {
        let mut all = Self::default();
        parts.into_iter().for_each(|part| all.merge(&part));
        all
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.sums[0], self.sums[1])
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self}, {} rows)", self.rows)
    }
}

/// The hash of each row of `batch`, of which a [`Checksum`] is made.
///
/// # Errors
/// `Unsupported` for union and run-end encoded columns.
pub fn row_hashes(batch: &RecordBatch) -> Result<Vec<u64>> {
    let mut rows = vec![0; batch.num_rows()];
    let mut column_hashes = Vec::new();
    for (column, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
        hash_array(column, &mut column_hashes).map_err(|error| error.at_column(field.name()))?;
        for (row, &hash) in rows.iter_mut().zip(&column_hashes) {
            *row = mix(*row ^ SEED[0], hash ^ SEED[1]);
        }
    }
    Ok(rows)
}

/// Hash of the names, types and nullability of columns, in order; metadata is left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SchemaHash(u64);

impl SchemaHash {
    /// Of `schema`.
    pub fn of(schema: &Schema) -> Self {
        let mut hash = schema.fields().len() as u64;
        for field in schema.fields() {
            let text = format!("{}\0{:?}\0{}", field.name(), field.data_type(), field.is_nullable());
            hash = mix(hash ^ SEED[0], hash_bytes(text.as_bytes()) ^ SEED[1]);
        }
        Self(hash)
    }
}

impl fmt::Display for SchemaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SchemaHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaHash({self})")
    }
}

/// wyhash's default secret: odd, and balanced in every byte.
const SEED: [u64; 4] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];
const NULL: u64 = 0x1d8e_4e27_c47d_124f;
const EMPTY_LIST: u64 = 0xeb44_acca_b455_d165;

#[inline(always)]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[inline(always)]
fn hash_int(value: i64) -> u64 {
    value as u64
}

fn hash_wide(value: i128) -> u64 {
    match i64::try_from(value) {
        Ok(value) => hash_int(value),
        Err(_) => mix(value as u64 ^ SEED[2], (value >> 64) as u64 ^ SEED[3]),
    }
}

fn hash_widest(value: i256) -> u64 {
    match value.to_i128() {
        Some(value) => hash_wide(value),
        None => hash_bytes(&value.to_le_bytes()),
    }
}

#[inline(always)]
fn hash_float(value: f64) -> u64 {
    // Adding zero turns -0.0 into 0.0 and leaves every other number as it is.
    let bits = if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() };
    bits ^ SEED[3]
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline]
fn hash_bytes(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    let (a, b, state) = match length {
        0 => (0, 0, 0),
        1..=3 => {
            let a = u64::from(bytes[0]) << 16 | u64::from(bytes[length / 2]) << 8 | u64::from(bytes[length - 1]);
            (a, 0, 0)
        }
        4..=8 => {
            let four = |at: usize| {
                let mut word = [0; 4];
                word.copy_from_slice(&bytes[at..at + 4]);
                u64::from(u32::from_le_bytes(word))
            };
            (four(0), four(length - 4), 0)
        }
        9..=16 => (word(bytes, 0), word(bytes, length - 8), 0),
        _ => {
            let mut state = SEED[0];
            let mut at = 0;
            while length - at > 16 {
                state = mix(word(bytes, at) ^ SEED[1], word(bytes, at + 8) ^ state);
                at += 16;
            }
            (word(bytes, length - 16), word(bytes, length - 8), state)
        }
    };
    mix(SEED[1] ^ length as u64, mix(a ^ SEED[2], b ^ state ^ SEED[3]))
}

/// Hashes of the elements of `array`, one each, into `out`.
fn hash_array(array: &dyn Array, out: &mut Vec<u64>) -> Result<()> {
    out.clear();
    out.reserve(array.len());
    match array.data_type() {
        DataType::Null => out.resize(array.len(), NULL),
        DataType::Boolean => {
            let values = array.as_boolean();
            out.extend((0..values.len()).map(|row| u64::from(values.value(row))));
            mask(array.nulls(), out);
        }
        DataType::Int8 => ints::<Int8Type>(array, out),
        DataType::Int16 => ints::<Int16Type>(array, out),
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) | DataType::Interval(IntervalUnit::YearMonth) => {
            match array.data_type() {
                DataType::Int32 => ints::<Int32Type>(array, out),
                DataType::Date32 => ints::<Date32Type>(array, out),
                DataType::Time32(TimeUnit::Second) => instants::<Time32SecondType>(array, 1_000_000_000, out),
                DataType::Time32(_) => instants::<Time32MillisecondType>(array, 1_000_000, out),
                _ => ints::<IntervalYearMonthType>(array, out),
            }
        }
        DataType::Int64 => ints::<Int64Type>(array, out),
        DataType::UInt8 => ints::<UInt8Type>(array, out),
        DataType::UInt16 => ints::<UInt16Type>(array, out),
        DataType::UInt32 => ints::<UInt32Type>(array, out),
        DataType::UInt64 => primitives::<UInt64Type>(array, out, |value| hash_wide(i128::from(value))),
        DataType::Float16 => primitives::<Float16Type>(array, out, |value| hash_float(f64::from(value))),
        DataType::Float32 => primitives::<Float32Type>(array, out, |value| hash_float(f64::from(value))),
        DataType::Float64 => primitives::<Float64Type>(array, out, hash_float),
        DataType::Decimal32(..) => ints::<Decimal32Type>(array, out),
        DataType::Decimal64(..) => ints::<Decimal64Type>(array, out),
        DataType::Decimal128(..) => primitives::<Decimal128Type>(array, out, hash_wide),
        DataType::Decimal256(..) => primitives::<Decimal256Type>(array, out, hash_widest),
        DataType::Date64 => instants::<Date64Type>(array, 1_000_000, out),
        DataType::Time64(TimeUnit::Microsecond) => instants::<Time64MicrosecondType>(array, 1000, out),
        DataType::Time64(_) => instants::<Time64NanosecondType>(array, 1, out),
        DataType::Timestamp(TimeUnit::Second, _) => instants::<TimestampSecondType>(array, 1_000_000_000, out),
        DataType::Timestamp(TimeUnit::Millisecond, _) => instants::<TimestampMillisecondType>(array, 1_000_000, out),
        DataType::Timestamp(TimeUnit::Microsecond, _) => instants::<TimestampMicrosecondType>(array, 1000, out),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => instants::<TimestampNanosecondType>(array, 1, out),
        DataType::Duration(TimeUnit::Second) => instants::<DurationSecondType>(array, 1_000_000_000, out),
        DataType::Duration(TimeUnit::Millisecond) => instants::<DurationMillisecondType>(array, 1_000_000, out),
        DataType::Duration(TimeUnit::Microsecond) => instants::<DurationMicrosecondType>(array, 1000, out),
        DataType::Duration(TimeUnit::Nanosecond) => instants::<DurationNanosecondType>(array, 1, out),
        DataType::Interval(IntervalUnit::DayTime) => primitives::<IntervalDayTimeType>(array, out, |value| {
            mix(value.days as u64 ^ SEED[0], value.milliseconds as u64 ^ SEED[1])
        }),
        DataType::Interval(IntervalUnit::MonthDayNano) => primitives::<IntervalMonthDayNanoType>(array, out, |value| {
            let days = mix(value.months as u64 ^ SEED[0], value.days as u64 ^ SEED[1]);
            mix(days ^ SEED[2], value.nanoseconds as u64 ^ SEED[3])
        }),
        DataType::Utf8 => byte_strings(array.as_string::<i32>().iter(), out),
        DataType::LargeUtf8 => byte_strings(array.as_string::<i64>().iter(), out),
        DataType::Utf8View => byte_strings(array.as_string_view().iter(), out),
        DataType::Binary => byte_strings(array.as_binary::<i32>().iter(), out),
        DataType::LargeBinary => byte_strings(array.as_binary::<i64>().iter(), out),
        DataType::BinaryView => byte_strings(array.as_binary_view().iter(), out),
        DataType::FixedSizeBinary(_) => byte_strings(array.as_fixed_size_binary().iter(), out),
        DataType::Struct(_) => {
            let array = array.as_struct();
            out.resize(array.len(), SEED[2]);
            let mut child = Vec::new();
            for column in array.columns() {
                hash_array(column, &mut child)?;
                for (row, &hash) in out.iter_mut().zip(&child) {
                    *row = mix(*row ^ SEED[0], hash ^ SEED[1]);
                }
            }
            mask(array.nulls(), out);
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            elements(list.values(), list.offsets().windows(2).map(|w| w[0].as_usize()..w[1].as_usize()), out)?;
            mask(array.nulls(), out);
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            elements(list.values(), list.offsets().windows(2).map(|w| w[0].as_usize()..w[1].as_usize()), out)?;
            mask(array.nulls(), out);
        }
        DataType::FixedSizeList(_, size) => {
            let size = size.as_usize();
            let list = array.as_fixed_size_list();
            elements(list.values(), (0..list.len()).map(|row| row * size..(row + 1) * size), out)?;
            mask(array.nulls(), out);
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: &dyn Array = map.entries();
            elements(entries, map.offsets().windows(2).map(|w| w[0].as_usize()..w[1].as_usize()), out)?;
            mask(array.nulls(), out);
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            if dictionary.values().is_empty() {
                // Then all keys are null, and Arrow has nothing to normalise them to.
                out.resize(array.len(), NULL);
                return Ok(());
            }
            let mut values = Vec::new();
            hash_array(dictionary.values(), &mut values)?;
            // A null key may stand for anything, so it is clamped before it is masked.
            out.extend(dictionary.normalized_keys().into_iter().map(|key| values.get(key).copied().unwrap_or(NULL)));
            mask(array.nulls(), out);
        }
        other => {
            return Err(Error::new(ErrorKind::Unsupported, format!("no checksum is defined for type {other}")));
        }
    }
    Ok(())
}

fn mask(nulls: Option<&NullBuffer>, out: &mut [u64]) {
    if let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) {
        for (hash, valid) in out.iter_mut().zip(nulls) {
            if !valid {
                *hash = NULL;
            }
        }
    }
}

fn primitives<T: ArrowPrimitiveType>(array: &dyn Array, out: &mut Vec<u64>, hash: impl Fn(T::Native) -> u64) {
    let array: &PrimitiveArray<T> = array.as_primitive();
    out.extend(array.values().iter().map(|&value| hash(value)));
    mask(array.nulls(), out);
}

fn ints<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array, out: &mut Vec<u64>) {
    primitives::<T>(array, out, |value| hash_int(value.into()));
}

/// Counts of a unit of time, hashed as nanoseconds.
fn instants<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array, nanoseconds: i64, out: &mut Vec<u64>) {
    primitives::<T>(array, out, |value| {
        let value: i64 = value.into();
        match value.checked_mul(nanoseconds) {
            Some(nanoseconds) => hash_int(nanoseconds),
            None => hash_wide(i128::from(value) * i128::from(nanoseconds)),
        }
    });
}

fn byte_strings<T: AsRef<[u8]>>(values: impl Iterator<Item = Option<T>>, out: &mut Vec<u64>) {
    out.extend(values.map(|value| value.map_or(NULL, |value| hash_bytes(value.as_ref()))));
}

fn elements(
    values: &dyn Array,
    ranges: impl Iterator<Item = std::ops::Range<usize>>,
    out: &mut Vec<u64>,
) -> Result<()> {
    let mut hashes = Vec::new();
    hash_array(values, &mut hashes)?;
    for range in ranges {
        let length = range.len() as u64;
        let list = hashes[range].iter().fold(EMPTY_LIST ^ length, |list, &hash| mix(list ^ SEED[0], hash ^ SEED[1]));
        out.push(list);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::*;
    use proptest::prelude::*;

    use super::*;

    fn checksum(array: impl Array + 'static) -> Checksum {
        Checksum::of_batch(&RecordBatch::try_from_iter([("x", Arc::new(array) as ArrayRef)]).unwrap()).unwrap()
    }

    type Row = (Option<i64>, Option<String>, bool);

    fn batch(rows: &[Row]) -> RecordBatch {
        let ints: Int64Array = rows.iter().map(|row| row.0).collect();
        let texts: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
        let flags: BooleanArray = rows.iter().map(|row| Some(row.2)).collect();
        RecordBatch::try_from_iter([
            ("i", Arc::new(ints) as ArrayRef),
            ("t", Arc::new(texts) as ArrayRef),
            ("b", Arc::new(flags) as ArrayRef),
        ])
        .unwrap()
    }

    proptest! {
        #[test]
        fn order_and_batches_do_not_matter(
            rows in prop::collection::vec(any::<Row>(), 0..60), cut in 0usize..60, seed in any::<u64>(),
        ) {
            let whole = Checksum::of_batch(&batch(&rows)).unwrap();
            let mut shuffled = rows.clone();
            shuffled.sort_by_key(|row| hash_bytes(format!("{row:?}{seed}").as_bytes()));
            let (a, b) = shuffled.split_at(cut.min(rows.len()));
            let parts: Checksum =
                [Checksum::of_batch(&batch(a)).unwrap(), Checksum::of_batch(&batch(b)).unwrap()].into_iter().collect();
            prop_assert_eq!(whole, parts);
            let sliced = batch(&rows).slice(cut.min(rows.len()), 0);
            prop_assert_eq!(Checksum::of_batch(&sliced).unwrap(), Checksum::default());
        }

        #[test]
        fn a_lost_doubled_or_altered_row_shows(
            rows in prop::collection::vec(any::<Row>(), 1..40), at in any::<prop::sample::Index>(), other in any::<Row>(),
        ) {
            let whole = Checksum::of_batch(&batch(&rows)).unwrap();
            let at = at.index(rows.len());
            let mut lost = rows.clone();
            let row = lost.remove(at);
            prop_assert_ne!(Checksum::of_batch(&batch(&lost)).unwrap(), whole);
            let mut doubled = rows.clone();
            doubled.push(row.clone());
            prop_assert_ne!(Checksum::of_batch(&batch(&doubled)).unwrap(), whole);
            if other != row {
                let mut altered = rows.clone();
                altered[at] = other;
                prop_assert_ne!(Checksum::of_batch(&batch(&altered)).unwrap(), whole);
            }
        }
    }

    #[test]
    fn layout_does_not_matter() {
        let texts = vec![Some("a"), None, Some("a rather long text of 29 bytes"), Some("")];
        let plain = checksum(StringArray::from(texts.clone()));
        assert_eq!(plain, checksum(LargeStringArray::from(texts.clone())));
        assert_eq!(plain, checksum(StringViewArray::from(texts.clone())));
        assert_eq!(plain, checksum(texts.into_iter().collect::<DictionaryArray<Int8Type>>()));
        let no_values = || [None::<&str>, None].into_iter().collect::<DictionaryArray<Int8Type>>();
        assert_eq!(checksum(no_values()), checksum(StringArray::new_null(2)));
        assert_eq!(checksum(no_values().slice(0, 0)), Checksum::default());
        assert_eq!(checksum(Int8Array::from(vec![-1, 5])), checksum(Int64Array::from(vec![-1, 5])));
        assert_eq!(
            checksum(TimestampSecondArray::from(vec![7])),
            checksum(TimestampMicrosecondArray::from(vec![7_000_000]))
        );
        assert_eq!(checksum(Float32Array::from(vec![-0.0])), checksum(Float64Array::from(vec![0.0])));
    }

    #[test]
    fn a_value_moved_to_its_neighbour_shows() {
        let two = |a: [Option<i64>; 2]| {
            let columns = a.map(|value| Arc::new(Int64Array::from(vec![value])) as ArrayRef);
            Checksum::of_batch(&RecordBatch::try_from_iter(["a", "b"].into_iter().zip(columns)).unwrap()).unwrap()
        };
        assert_ne!(two([Some(1), None]), two([None, Some(1)]));
        assert_ne!(two([Some(1), Some(2)]), two([Some(2), Some(1)]));
        assert_ne!(two([Some(0), Some(0)]), two([None, Some(0)]));
    }

    #[test]
    fn null_lists_and_empty_lists_differ() {
        let list = |row: Option<Vec<Option<i32>>>| checksum(ListArray::from_iter_primitive::<Int32Type, _, _>([row]));
        assert_ne!(list(None), list(Some(vec![])));
        assert_ne!(list(Some(vec![None])), list(Some(vec![])));
    }

    /// Kept receipts are compared with new ones, so the function may not drift.
    #[test]
    fn known_rows_keep_their_checksum() {
        let rows = [(Some(1), Some("one".to_owned()), true), (None, Some("a text of 20 bytes..".to_owned()), false)];
        assert_eq!(Checksum::of_batch(&batch(&rows)).unwrap().to_string(), KNOWN);
    }
    const KNOWN: &str = "be9971618cccfd081d13fa49e163631d";
}
