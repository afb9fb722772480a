//! Columns of numbers.

use arrow_buffer::{ArrowNativeType, NullBuffer, ToByteSlice};
use parquet::basic::Encoding;
use parquet::errors::Result;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use super::ColumnLayout;
use super::bits;
use super::chunk::{Bounds, Chunk, EncodedChunk, Levels};
use super::codec::Compressor;
use super::dictionary::{SAMPLE, Slots, estimate, hash_word, worth_keeping};

/// A number of the format.
pub(crate) trait Number: ArrowNativeType {
    /// All its bits, by which a dictionary tells numbers apart.
    fn word(self) -> u64;
    /// Neither a number nor infinite; it has no place in the order.
    fn is_nan(self) -> bool {
        false
    }
    fn is_below(self, other: Self) -> bool;
    /// How a zero is written as the least and as the greatest value: the two zeros of floats are equal.
    fn as_bounds(least: Self, greatest: Self) -> (Self, Self) {
        (least, greatest)
    }
    fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics;
    /// How values are written that have no dictionary.
    const ENCODING: Encoding;
    /// Appends them so.
    fn encode(values: &[Self], out: &mut Vec<u8>);
}

macro_rules! integer {
    ($type:ty) => {
        impl Number for $type {
            fn word(self) -> u64 {
                i64::from(self).cast_unsigned()
            }
            fn is_below(self, other: Self) -> bool {
                self < other
            }
            fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics {
                let (least, greatest) = bounds.unzip();
                // Signed: old readers, which know only the deprecated fields, order them rightly too.
                ValueStatistics::new(least, greatest, None, Some(nulls), false)
                    .with_backwards_compatible_min_max(true)
                    .into()
            }
            const ENCODING: Encoding = Encoding::DELTA_BINARY_PACKED;
            fn encode(values: &[Self], out: &mut Vec<u8>) {
                bits::delta(values, out);
            }
        }
    };
}

macro_rules! float {
    ($type:ty) => {
        impl Number for $type {
            fn word(self) -> u64 {
                self.to_bits().into()
            }
            fn is_nan(self) -> bool {
                <$type>::is_nan(self)
            }
            fn is_below(self, other: Self) -> bool {
                self < other
            }
            fn as_bounds(least: Self, greatest: Self) -> (Self, Self) {
                (if least == 0.0 { -0.0 } else { least }, if greatest == 0.0 { 0.0 } else { greatest })
            }
            fn statistics(bounds: Option<(Self, Self)>, nulls: u64) -> Statistics {
                let (least, greatest) = bounds.unzip();
                // Signed: old readers, which know only the deprecated fields, order them rightly too.
                ValueStatistics::new(least, greatest, None, Some(nulls), false)
                    .with_backwards_compatible_min_max(true)
                    .into()
            }
            const ENCODING: Encoding = Encoding::PLAIN;
            fn encode(values: &[Self], out: &mut Vec<u8>) {
                out.extend_from_slice(values.to_byte_slice());
            }
        }
    };
}

integer!(i32);
integer!(i64);
float!(f32);
float!(f64);

#[derive(Clone, Copy)]
pub(crate) struct NumberBounds<T> {
    least: T,
    greatest: T,
}

impl<T: Number> NumberBounds<T> {
    fn of(values: &[T]) -> Option<Self> {
        let first = values.iter().copied().find(|value| !value.is_nan())?;
        let (mut least, mut greatest) = (first, first);
        for &value in values {
            // Comparisons with what is no number are false.
            least = if value.is_below(least) { value } else { least };
            greatest = if greatest.is_below(value) { value } else { greatest };
        }
        Some(Self { least, greatest })
    }
}

impl<T: Number> Bounds for NumberBounds<T> {
    fn is_not_above(&self, next: &Self) -> bool {
        !next.least.is_below(self.least) && !next.greatest.is_below(self.greatest)
    }

    fn for_index(&self) -> Self {
        *self
    }

    fn memory(&self) -> usize {
        0
    }

    fn index_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        let (least, greatest) = T::as_bounds(self.least, self.greatest);
        (least.to_byte_slice().to_vec(), greatest.to_byte_slice().to_vec())
    }

    fn extend(&mut self, other: &Self) {
        if other.least.is_below(self.least) {
            self.least = other.least;
        }
        if self.greatest.is_below(other.greatest) {
            self.greatest = other.greatest;
        }
    }

    fn statistics(bounds: Option<&Self>, nulls: u64) -> Statistics {
        T::statistics(bounds.map(|bounds| T::as_bounds(bounds.least, bounds.greatest)), nulls)
    }
}

/// One column of numbers of a row group.
pub(crate) struct NumberColumn<T> {
    chunk: Chunk<NumberBounds<T>>,
    levels: Levels,
    /// Of a page, at the most.
    page_rows: usize,
    /// Values of the page that are not null; with a dictionary, `numbers` holds theirs instead.
    values: Vec<T>,
    numbers: Vec<u32>,
    bounds: Option<NumberBounds<T>>,
    dictionary: Dictionary<T>,
    may_use_dictionary: bool,
}

enum Dictionary<T> {
    /// Nothing has been seen yet.
    Undecided,
    Open(Interner<T>),
    /// It did not pay any more; pages before use it.
    Closed(Interner<T>),
    None,
}

struct Interner<T> {
    slots: Slots,
    values: Vec<T>,
    /// Values of all pages so far.
    seen: usize,
}

impl<T: Number> Interner<T> {
    fn new() -> Self {
        Self { slots: Slots::new(), values: Vec::new(), seen: 0 }
    }

    #[inline]
    fn number(&mut self, value: T) -> u32 {
        let word = value.word();
        let values = &self.values;
        let same = |number: u32| values[number as usize].word() == word;
        let (number, new) =
            self.slots.number(hash_word(word), same, |number| hash_word(values[number as usize].word()));
        if new {
            self.values.push(value);
        }
        number
    }
}

impl<T: Number> NumberColumn<T> {
    pub(crate) fn new(descriptor: ColumnDescPtr, layout: ColumnLayout) -> Self {
        Self {
            levels: Levels::new(descriptor.max_def_level() > 0),
            chunk: Chunk::new(descriptor, &layout),
            page_rows: layout.page_rows.min(layout.page_bytes / size_of::<T>()).max(1),
            values: Vec::new(),
            numbers: Vec::new(),
            bounds: None,
            dictionary: Dictionary::Undecided,
            may_use_dictionary: layout.dictionary,
        }
    }

    pub(crate) fn memory(&self) -> usize {
        let dictionary = match &self.dictionary {
            Dictionary::Open(interner) | Dictionary::Closed(interner) => {
                interner.slots.memory() + size_of_val(interner.values.as_slice())
            }
            _ => 0,
        };
        self.chunk.memory() + self.values.capacity() * size_of::<T>() + self.numbers.capacity() * 4 + dictionary
    }

    /// Adds rows; `values` has one for each, of any value where `nulls` tells that it is null.
    pub(crate) fn write(
        &mut self,
        compressor: &mut Compressor,
        mut values: &[T],
        nulls: Option<&NullBuffer>,
    ) -> Result<()> {
        let mut from = 0;
        while !values.is_empty() {
            let (part, rest) = values.split_at(values.len().min(self.page_rows - self.levels.rows()));
            let nulls = nulls.map(|nulls| nulls.slice(from, part.len())).filter(|nulls| nulls.null_count() > 0);
            self.levels.append(part.len(), nulls.as_ref())?;
            match nulls {
                None => self.add(part),
                Some(nulls) => {
                    let valid: Vec<T> = nulls.valid_indices().map(|index| part[index]).collect();
                    self.add(&valid);
                }
            }
            if self.levels.rows() == self.page_rows {
                self.end_page(compressor)?;
            }
            from += part.len();
            values = rest;
        }
        Ok(())
    }

    fn add(&mut self, values: &[T]) {
        if let (Dictionary::Undecided, false) = (&self.dictionary, values.is_empty()) {
            let wanted = self.may_use_dictionary && wants_dictionary(&values[..values.len().min(SAMPLE)]);
            self.dictionary = if wanted { Dictionary::Open(Interner::new()) } else { Dictionary::None };
        }
        let bounds = if self.chunk.tells_bounds() { NumberBounds::of(values) } else { None };
        match (&mut self.bounds, bounds) {
            (Some(all), Some(bounds)) => all.extend(&bounds),
            (all @ None, bounds) => *all = bounds,
            (_, None) => {}
        }
        match &mut self.dictionary {
            Dictionary::Open(interner) => self.numbers.extend(values.iter().map(|&value| interner.number(value))),
            _ => {
                if let Some(filter) = &mut self.chunk.filter {
                    let filter = filter.of_values();
                    values.iter().for_each(|value| filter.insert(value.to_byte_slice()));
                }
                self.values.extend_from_slice(values);
            }
        }
    }

    fn end_page(&mut self, compressor: &mut Compressor) -> Result<()> {
        let bounds = self.bounds.take();
        if let Dictionary::Open(interner) = &mut self.dictionary {
            interner.seen += self.numbers.len();
            let (distinct, seen) = (interner.values.len(), interner.seen);
            let numbers = &self.numbers;
            self.chunk.page(compressor, &mut self.levels, Encoding::RLE_DICTIONARY, bounds, |out| {
                numbered(numbers, distinct, out);
            })?;
            self.numbers.clear();
            if !worth_keeping(distinct, distinct * size_of::<T>(), seen, seen * size_of::<T>()) {
                let closed = std::mem::replace(&mut self.dictionary, Dictionary::None);
                if let Dictionary::Open(interner) = closed {
                    self.dictionary = Dictionary::Closed(interner);
                }
            }
            return Ok(());
        }
        let values = &self.values;
        self.chunk.page(compressor, &mut self.levels, T::ENCODING, bounds, |out| T::encode(values, out))?;
        self.values.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self, compressor: &mut Compressor) -> Result<EncodedChunk> {
        if self.levels.rows() > 0 {
            self.end_page(compressor)?;
        }
        match self.dictionary {
            Dictionary::Open(interner) | Dictionary::Closed(interner) => {
                let values = &interner.values;
                if let Some(filter) = &mut self.chunk.filter {
                    let filter = filter.of_dictionary(values.len());
                    values.iter().for_each(|value| filter.insert(value.to_byte_slice()));
                }
                self.chunk.finish(compressor, Some((values.as_slice().to_byte_slice(), values.len())))
            }
            _ => self.chunk.finish(compressor, None),
        }
    }
}

/// Appends a page of numbers of dictionary values, of which there are `distinct` so far.
pub(crate) fn numbered(numbers: &[u32], distinct: usize, out: &mut Vec<u8>) {
    // A width of 0 is allowed for a single value, but not understood by all readers.
    let width = bits::width(distinct.saturating_sub(1) as u64).max(1);
    out.push(width as u8);
    bits::hybrid(numbers, width, out);
}

/// Whether a column that begins with `sample` is better off with a dictionary.
fn wants_dictionary<T: Number>(sample: &[T]) -> bool {
    let mut interner = Interner::new();
    for &value in sample {
        interner.number(value);
    }
    let distinct = estimate(sample.len(), interner.values.len());
    if T::ENCODING == Encoding::PLAIN {
        return distinct < 50_000.0;
    }
    // Differences of integers are about as small as the numbers of many values, and those of sorted ones smaller; they
    // take a third of the time.
    let sorted = sample.windows(2).all(|pair| !pair[1].is_below(pair[0]));
    distinct < 4_000.0 && !(sorted && interner.values.len() > 64)
}
