//! Columns of texts and binary strings.

use arrow_buffer::NullBuffer;
use parquet::basic::Encoding;
use parquet::data_type::ByteArray;
use parquet::errors::Result;
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescPtr;

use super::ColumnLayout;
use super::chunk::{Bounds, Chunk, EncodedChunk, Levels};
use super::codec::Compressor;
use super::dictionary::{LARGEST, SAMPLE, Slots, estimate, hash_bytes, hash_word, worth_keeping};
use super::filter::Filter;
use super::fixed::numbered;

/// Bytes of a value that statistics keep; for longer ones they have something below or above.
const STATISTICS_LENGTH: usize = 64;

#[derive(Clone)]
pub(crate) struct BytesBounds {
    least: Vec<u8>,
    greatest: Vec<u8>,
    /// Whether values are UTF-8, so that what is cut has to stay so.
    text: bool,
}

impl BytesBounds {
    fn shortened(&self) -> (Vec<u8>, Vec<u8>) {
        (below(&self.least, self.text), above(&self.greatest, self.text))
    }
}

/// The start of `value`, which is not above it.
fn below(value: &[u8], text: bool) -> Vec<u8> {
    let mut end = value.len().min(STATISTICS_LENGTH);
    if text && end < value.len() {
        while end > 0 && value[end] & 0xc0 == 0x80 {
            end -= 1;
        }
    }
    value[..end].to_vec()
}

/// Something short that is not below `value`: its start with the last character moved up; the value itself if there is
/// none.
fn above(value: &[u8], text: bool) -> Vec<u8> {
    if value.len() <= STATISTICS_LENGTH {
        return value.to_vec();
    }
    let mut start = below(value, text);
    if !text {
        while let Some(last) = start.pop() {
            if let Some(next) = last.checked_add(1) {
                start.push(next);
                return start;
            }
        }
        return value.to_vec();
    }
    let Ok(mut start) = String::from_utf8(start) else { return value.to_vec() };
    while let Some(last) = start.pop() {
        // The order of UTF-8 is that of the code points.
        if let Some(next) = u32::from(last).checked_add(1).and_then(char::from_u32) {
            start.push(next);
            return start.into_bytes();
        }
    }
    value.to_vec()
}

impl Bounds for BytesBounds {
    fn is_not_above(&self, next: &Self) -> bool {
        self.least <= next.least && self.greatest <= next.greatest
    }

    fn for_index(&self) -> Self {
        let (least, greatest) = self.shortened();
        Self { least, greatest, text: self.text }
    }

    fn index_bytes(&self) -> (Vec<u8>, Vec<u8>) {
        (self.least.clone(), self.greatest.clone())
    }

    fn memory(&self) -> usize {
        self.least.capacity() + self.greatest.capacity()
    }

    fn extend(&mut self, other: &Self) {
        if other.least < self.least {
            self.least.clone_from(&other.least);
        }
        if other.greatest > self.greatest {
            self.greatest.clone_from(&other.greatest);
        }
    }

    fn statistics(bounds: Option<&Self>, nulls: u64) -> Statistics {
        let (least, greatest) = bounds.map(Self::shortened).unzip();
        let exact = |value: fn(&Self) -> &Vec<u8>| bounds.is_none_or(|bounds| value(bounds).len() <= STATISTICS_LENGTH);
        let (least_exact, greatest_exact) = (exact(|bounds| &bounds.least), exact(|bounds| &bounds.greatest));
        ValueStatistics::new(least.map(ByteArray::from), greatest.map(ByteArray::from), None, Some(nulls), false)
            .with_min_is_exact(least_exact)
            .with_max_is_exact(greatest_exact)
            .into()
    }
}

/// The least and the greatest of a page, with their first bytes as numbers, which settle most comparisons.
#[derive(Default)]
struct Extremes {
    bounds: Option<(Vec<u8>, Vec<u8>)>,
    least_start: u64,
    greatest_start: u64,
}

impl Extremes {
    #[inline]
    fn add(&mut self, value: &[u8]) {
        let start = first_bytes(value);
        let Some((least, greatest)) = &mut self.bounds else {
            self.bounds = Some((value.to_vec(), value.to_vec()));
            (self.least_start, self.greatest_start) = (start, start);
            return;
        };
        if start < self.least_start || (start == self.least_start && value < least.as_slice()) {
            least.clear();
            least.extend_from_slice(value);
            self.least_start = start;
        }
        if start > self.greatest_start || (start == self.greatest_start && value > greatest.as_slice()) {
            greatest.clear();
            greatest.extend_from_slice(value);
            self.greatest_start = start;
        }
    }

    fn memory(&self) -> usize {
        self.bounds.as_ref().map_or(0, |(least, greatest)| least.capacity() + greatest.capacity())
    }

    fn take(&mut self, text: bool) -> Option<BytesBounds> {
        std::mem::take(self).bounds.map(|(least, greatest)| BytesBounds { least, greatest, text })
    }
}

/// One column of texts or binary strings of a row group.
pub(crate) struct BytesColumn {
    chunk: Chunk<BytesBounds>,
    levels: Levels,
    /// Of a page, at the most.
    page_rows: usize,
    /// Of a page's values, which end it early.
    page_bytes: usize,
    text: bool,
    /// Values of the page, each behind its length; with a dictionary, `numbers` holds theirs instead.
    plain: Vec<u8>,
    numbers: Vec<u32>,
    /// Bytes of all values of the page.
    bytes: u64,
    extremes: Extremes,
    dictionary: Dictionary,
    may_use_dictionary: bool,
}

enum Dictionary {
    /// Nothing has been seen yet.
    Undecided,
    Open(Interner),
    /// It did not pay any more; pages before use it.
    Closed(Interner),
    None,
}

struct Interner {
    slots: Slots,
    /// The values, each behind its length, as the dictionary page has them.
    plain: Vec<u8>,
    places: Vec<Place>,
    /// For each value, the last page that had it.
    pages: Vec<u32>,
    page: u32,
    /// Values of all pages so far.
    seen: usize,
}

impl Interner {
    fn new() -> Self {
        Self { slots: Slots::new(), plain: Vec::new(), places: Vec::new(), pages: Vec::new(), page: 1, seen: 0 }
    }

    #[inline]
    fn number(&mut self, value: &[u8]) -> u32 {
        let start = first_bytes(value);
        let hash = if value.len() <= 8 { hash_word(start ^ value.len() as u64) } else { hash_bytes(value) };
        let (plain, places) = (&self.plain, &self.places);
        let same = |number: u32| {
            let place = &places[number as usize];
            place.hash == hash
                && place.start == start
                && (place.end - place.begin) as usize == value.len()
                && (value.len() <= 8 || &plain[place.begin as usize..place.end as usize] == value)
        };
        let (number, new) = self.slots.number(hash, same, |number| places[number as usize].hash);
        if new {
            append(value, &mut self.plain);
            // A dictionary has less than 4 GiB: it is closed when it is not worth keeping any more.
            let narrow = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
            let (begin, end) = (narrow(self.plain.len() - value.len()), narrow(self.plain.len()));
            self.places.push(Place { begin, end, start, hash });
            self.pages.push(0);
        }
        number
    }

    fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| &self.plain[place.begin as usize..place.end as usize])
    }
}

/// Where in a dictionary a value is, and what tells it from others fast.
struct Place {
    begin: u32,
    end: u32,
    /// Its first bytes.
    start: u64,
    hash: u64,
}

/// The first eight bytes as a number that orders as they do; shorter values have zeros behind.
#[inline]
fn first_bytes(value: &[u8]) -> u64 {
    match value.first_chunk::<8>() {
        Some(start) => u64::from_be_bytes(*start),
        None => {
            let half = |bytes: &[u8; 4]| u64::from(u32::from_be_bytes(*bytes));
            match (value.first_chunk::<4>(), value.last_chunk::<4>()) {
                // They overlap, so the last bytes are moved to where they belong.
                (Some(first), Some(last)) => half(first) << 32 | half(last) << (64 - 8 * value.len()),
                _ => value.iter().enumerate().fold(0, |start, (at, &byte)| start | u64::from(byte) << (56 - 8 * at)),
            }
        }
    }
}

/// Appends a value behind its length.
#[inline]
fn append(value: &[u8], out: &mut Vec<u8>) {
    // Arrow's offsets bound it for texts of 32 bits; a longer one could not be written by anybody.
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(value);
}

impl BytesColumn {
    pub(crate) fn new(descriptor: ColumnDescPtr, text: bool, layout: ColumnLayout) -> Self {
        Self {
            levels: Levels::new(descriptor.max_def_level() > 0),
            chunk: Chunk::new(descriptor, &layout),
            // The length of a value takes four bytes, and its number in a dictionary no more.
            page_rows: layout.page_rows.min(layout.page_bytes / 4).max(1),
            page_bytes: layout.page_bytes,
            text,
            plain: Vec::new(),
            numbers: Vec::new(),
            bytes: 0,
            extremes: Extremes::default(),
            dictionary: Dictionary::Undecided,
            may_use_dictionary: layout.dictionary,
        }
    }

    pub(crate) fn memory(&self) -> usize {
        let dictionary = match &self.dictionary {
            Dictionary::Open(interner) | Dictionary::Closed(interner) => {
                interner.slots.memory()
                    + interner.plain.capacity()
                    + interner.places.capacity() * (size_of::<Place>() + 4)
            }
            _ => 0,
        };
        let values = self.plain.capacity() + self.numbers.capacity() * 4 + self.extremes.memory();
        self.chunk.memory() + values + dictionary
    }

    /// Adds `rows` rows; `value` gives the value of those that are not null.
    pub(crate) fn write<'a>(
        &mut self,
        compressor: &mut Compressor,
        rows: usize,
        nulls: Option<&NullBuffer>,
        value: impl Fn(usize) -> &'a [u8],
    ) -> Result<()> {
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        let mut from = 0;
        while from < rows {
            let most = (rows - from).min(self.page_rows - self.levels.rows());
            let added = match nulls {
                None => self.add((from..from + most).map(|row| (row, Some(value(row))))),
                Some(nulls) => self.add((from..from + most).map(|row| (row, nulls.is_valid(row).then(|| value(row))))),
            };
            let next = added.map_or(from + most, |last| last + 1);
            self.levels.append(next - from, nulls.map(|nulls| nulls.slice(from, next - from)).as_ref())?;
            let is_large = matches!(&self.dictionary, Dictionary::Open(interner) if interner.plain.len() > LARGEST);
            if is_large || self.levels.rows() == self.page_rows || self.plain.len() >= self.page_bytes {
                self.end_page(compressor)?;
            }
            from = next;
        }
        Ok(())
    }

    /// Adds values until the page is full; if it is before the end, gives the row at which that was.
    fn add<'a>(&mut self, mut values: impl Iterator<Item = (usize, Option<&'a [u8]>)> + Clone) -> Option<usize> {
        if matches!(self.dictionary, Dictionary::Undecided) {
            let sample = values.clone().filter_map(|(_, value)| value).take(SAMPLE);
            if sample.clone().next().is_some() {
                let wanted = self.may_use_dictionary && wants_dictionary(sample);
                self.dictionary = if wanted { Dictionary::Open(Interner::new()) } else { Dictionary::None };
            }
        }
        if let Dictionary::Open(interner) = &mut self.dictionary {
            for (row, value) in values.filter_map(|(row, value)| Some((row, value?))) {
                self.bytes += value.len() as u64;
                let number = interner.number(value);
                self.numbers.push(number);
                let page = &mut interner.pages[number as usize];
                if *page != interner.page {
                    *page = interner.page;
                    if self.chunk.tells_bounds() {
                        self.extremes.add(value);
                    }
                    if interner.plain.len() > LARGEST {
                        return Some(row);
                    }
                }
            }
            return None;
        }
        let tells_bounds = self.chunk.tells_bounds();
        let mut filter = self.chunk.filter.as_mut().map(Filter::of_values);
        values.find_map(|(row, value)| {
            if let Some(value) = value {
                self.bytes += value.len() as u64;
                append(value, &mut self.plain);
                if tells_bounds {
                    self.extremes.add(value);
                }
                if let Some(filter) = &mut filter {
                    filter.insert(value);
                }
            }
            (self.plain.len() >= self.page_bytes).then_some(row)
        })
    }

    fn end_page(&mut self, compressor: &mut Compressor) -> Result<()> {
        let bounds = self.extremes.take(self.text);
        self.chunk.count_bytes(std::mem::take(&mut self.bytes));
        if let Dictionary::Open(interner) = &mut self.dictionary {
            interner.seen += self.numbers.len();
            interner.page += 1;
            let numbers = &self.numbers;
            let distinct = interner.places.len();
            self.chunk.page(compressor, &mut self.levels, Encoding::RLE_DICTIONARY, bounds, |out| {
                numbered(numbers, distinct, out);
            })?;
            self.numbers.clear();
            let plain = usize::try_from(self.chunk.counted_bytes()).unwrap_or(usize::MAX) + 4 * interner.seen;
            if !worth_keeping(distinct, interner.plain.len(), interner.seen, plain) {
                let closed = std::mem::replace(&mut self.dictionary, Dictionary::None);
                if let Dictionary::Open(interner) = closed {
                    self.dictionary = Dictionary::Closed(interner);
                }
            }
            return Ok(());
        }
        let plain = &self.plain;
        self.chunk.page(compressor, &mut self.levels, Encoding::PLAIN, bounds, |out| out.extend_from_slice(plain))?;
        self.plain.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self, compressor: &mut Compressor) -> Result<EncodedChunk> {
        if self.levels.rows() > 0 {
            self.end_page(compressor)?;
        }
        match self.dictionary {
            Dictionary::Open(interner) | Dictionary::Closed(interner) => {
                if let Some(filter) = &mut self.chunk.filter {
                    let filter = filter.of_dictionary(interner.places.len());
                    interner.values().for_each(|value| filter.insert(value));
                }
                self.chunk.finish(compressor, Some((&interner.plain, interner.places.len())))
            }
            _ => self.chunk.finish(compressor, None),
        }
    }
}

/// Whether a column that begins with `sample` is better off with a dictionary.
fn wants_dictionary<'a>(sample: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut interner = Interner::new();
    let seen = sample.map(|value| interner.number(value)).count();
    let distinct = estimate(seen, interner.places.len());
    let bytes = interner.plain.len() as f64 / interner.places.len().max(1) as f64;
    // What a dictionary may hold, and no more values than would repeat often enough within a row group.
    distinct < 50_000.0 && distinct * bytes < 512.0 * 1024.0
}
