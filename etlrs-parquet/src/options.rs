use etlrs_core::{Error, ErrorKind, OptionValue, Result, unknown_name};
use parquet::basic::{BrotliLevel, Compression as Codec, GzipLevel, ZstdLevel};

use crate::{BloomFilters, SortOrder};

etlrs_core::options! {
    /// How a Parquet file is read.
    ///
    /// ```
    /// use etlrs_parquet::ParquetReadOptions;
    ///
    /// let options = ParquetReadOptions::default().with_arrow_schema(false);
    /// # let _ = options;
    /// ```
    pub struct ParquetReadOptions {
        /// Bytes of a partition at the least, unless a number of partitions is asked for; smaller row groups are joined.
        partition_size, with_partition_size: usize = 2 << 20;
        /// Whether the Arrow schema that a file may carry tells the types, rather than the Parquet schema alone.
        arrow_schema, with_arrow_schema: bool = true;
        /// Unit of INT96 timestamps: us reaches all years that writers use, ns only 1677 to 2262 but is finer.
        int96, with_int96: Int96Unit = Int96Unit::Microsecond;
    }
}

etlrs_core::options! {
    /// How Parquet files are written.
    ///
    /// ```
    /// use etlrs_parquet::{Compression, ParquetWriteOptions};
    ///
    /// let options = ParquetWriteOptions::default().with_compression(Compression::Zstd(3)).with_dictionary(false);
    /// # let _ = options;
    /// ```
    pub struct ParquetWriteOptions {
        /// Codec of the pages.
        compression, with_compression: Compression = Compression::Snappy;
        /// Rows of a row group at the most; a small memory budget makes them smaller.
        row_group_size, with_row_group_size: usize = 1_048_576;
        /// Whether columns are dictionary-encoded while that pays; without it writing is faster and files are larger.
        dictionary, with_dictionary: bool = true;
        /// What is told of the values: their bounds in each column chunk, and in each page too, by which readers skip.
        statistics, with_statistics: Statistics = Statistics::Page;
        /// Columns that get Bloom filters, by which readers skip row groups when they look for single values.
        bloom_filters, with_bloom_filters: BloomFilters = BloomFilters::None;
        /// Share of absent values that a Bloom filter takes for present; it costs 10 bits a distinct value at 0.01.
        bloom_fpp, with_bloom_fpp: f64 = 0.01;
        /// Order of the rows within each row group, as in a, b desc: they are sorted by it, which costs memory and time.
        sort_by, with_sort_by: SortOrder = SortOrder::default();
        /// Bytes of a page's values, before compression, at about the most.
        data_page_size, with_data_page_size: usize = 1 << 20;
        /// Rows of a page at the most: what a reader with a filter skips or reads.
        data_page_rows, with_data_page_rows: usize = 20_000;
    }
}

/// A page is compressed at once, and its size is a number of 32 bits in the format.
const LARGEST_PAGE: usize = 256 << 20;

impl ParquetWriteOptions {
    /// Refuses values that an option cannot have.
    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |reason: String| Err(Error::new(ErrorKind::InvalidConfig, reason));
        if let Err(reason) = self.compression.codec() {
            return wrong(reason);
        }
        if !(self.bloom_fpp > 0.0 && self.bloom_fpp < 1.0) {
            return wrong("bloom_fpp must be above 0 and below 1, as 0.01 is".into());
        }
        let counts = [
            ("row_group_size", self.row_group_size),
            ("data_page_size", self.data_page_size),
            ("data_page_rows", self.data_page_rows),
        ];
        if let Some((name, _)) = counts.into_iter().find(|&(_, count)| count == 0) {
            return wrong(format!("{name} must be at least 1"));
        }
        if self.data_page_size > LARGEST_PAGE {
            return wrong(format!("data_page_size is {LARGEST_PAGE} bytes at the most"));
        }
        Ok(())
    }
}

/// Codec of the pages of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Fast, and read by everything.
    #[default]
    Snappy,
    /// Smaller; levels 1 to 22.
    Zstd(u8),
    /// Smaller, slow; levels 0 to 9.
    Gzip(u8),
    /// As fast as Snappy; the `LZ4_RAW` of the format, not the `LZ4` that it deprecates.
    Lz4Raw,
    /// Small, slow; levels 0 to 11.
    Brotli(u8),
    /// Pages as they are.
    None,
}

const NAMES: [&str; 6] = ["snappy", "zstd", "gzip", "lz4_raw", "brotli", "none"];

impl Compression {
    /// The codec of the parquet crate; a level out of range is an error in words.
    pub(crate) fn codec(self) -> Result<Codec, String> {
        Ok(match self {
            Self::Snappy => Codec::SNAPPY,
            Self::Zstd(level) => {
                Codec::ZSTD(ZstdLevel::try_new(level.into()).map_err(|_| "the levels of zstd are 1 to 22")?)
            }
            Self::Gzip(level) => {
                Codec::GZIP(GzipLevel::try_new(level.into()).map_err(|_| "the levels of gzip are 0 to 9")?)
            }
            Self::Lz4Raw => Codec::LZ4_RAW,
            Self::Brotli(level) => {
                Codec::BROTLI(BrotliLevel::try_new(level.into()).map_err(|_| "the levels of brotli are 0 to 11")?)
            }
            Self::None => Codec::UNCOMPRESSED,
        })
    }
}

impl OptionValue for Compression {
    const KIND: &'static str = "snappy, zstd, zstd(LEVEL), gzip, lz4_raw, brotli or none";

    fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim().to_ascii_lowercase();
        let (name, level) = match name.split_once('(') {
            Some((name, level)) => {
                let level = level.strip_suffix(')').and_then(|level| level.trim().parse::<u8>().ok());
                (name, Some(level.ok_or("the level must be a whole number in parentheses, as in zstd(3)")?))
            }
            None => (name.as_str(), None),
        };
        let compression = match (name, level) {
            ("snappy", None) => Self::Snappy,
            ("zstd", level) => Self::Zstd(level.unwrap_or(3)),
            ("gzip", level) => Self::Gzip(level.unwrap_or(6)),
            ("lz4_raw", None) => Self::Lz4Raw,
            ("brotli", level) => Self::Brotli(level.unwrap_or(1)),
            ("none" | "uncompressed", None) => Self::None,
            (name, Some(_)) if NAMES.contains(&name) => return Err(format!("{name} has no levels")),
            (name, _) => return Err(unknown_name("codec", name, &NAMES).to_string()),
        };
        compression.codec().map(|_| compression)
    }

    fn show(&self) -> String {
        match self {
            Self::Snappy => "snappy".into(),
            Self::Zstd(level) => format!("zstd({level})"),
            Self::Gzip(level) => format!("gzip({level})"),
            Self::Lz4Raw => "lz4_raw".into(),
            Self::Brotli(level) => format!("brotli({level})"),
            Self::None => "none".into(),
        }
    }
}

/// What a file tells of the values of its columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statistics {
    /// Nothing.
    None,
    /// Least and greatest value and the number of nulls in each column chunk.
    Chunk,
    /// That, and the same of each page in the column index.
    #[default]
    Page,
}

impl OptionValue for Statistics {
    const KIND: &'static str = "none, chunk or page";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "chunk" => Ok(Self::Chunk),
            "page" => Ok(Self::Page),
            _ => Err("it must be none, chunk or page".into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::None => "none".into(),
            Self::Chunk => "chunk".into(),
            Self::Page => "page".into(),
        }
    }
}

/// Unit of the timestamps that are read from INT96 columns, a type that the format has deprecated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Int96Unit {
    /// Any date that Spark, Hive or Impala writes; digits beyond the microsecond are cut off.
    #[default]
    Microsecond,
    /// All digits; dates before 1677 or after 2262 come out wrong, for 64 bits cannot hold them.
    Nanosecond,
}

impl OptionValue for Int96Unit {
    const KIND: &'static str = "us or ns";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "us" => Ok(Self::Microsecond),
            "ns" => Ok(Self::Nanosecond),
            _ => Err("it must be us or ns".into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Microsecond => "us".into(),
            Self::Nanosecond => "ns".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_is_shown_as_it_is_parsed() {
        for (text, shown) in [
            ("snappy", "snappy"),
            ("ZSTD", "zstd(3)"),
            ("zstd(19)", "zstd(19)"),
            ("gzip", "gzip(6)"),
            ("lz4_raw", "lz4_raw"),
            ("brotli(11)", "brotli(11)"),
            ("uncompressed", "none"),
        ] {
            let parsed = Compression::parse(text).unwrap();
            assert_eq!(parsed.show(), shown);
            assert_eq!(Compression::parse(shown).unwrap(), parsed);
        }
        for (text, reason) in [
            ("snapy", "did you mean snappy"),
            ("zstd(23)", "1 to 22"),
            ("gzip(10)", "0 to 9"),
            ("brotli(12)", "0 to 11"),
            ("zstd(3", "parentheses"),
            ("snappy(1)", "no levels"),
            ("", "there is no codec"),
        ] {
            let error = Compression::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
