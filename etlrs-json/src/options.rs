use etlrs_core::{ColumnTypes, OptionArgument, OptionValue, unknown_name};
use etlrs_files::Compression;
use etlrs_files::text::{Encoding, Sample};

use crate::planned::Planned;

etlrs_core::options! {
    /// How JSON files are read.
    ///
    /// ```
    /// use etlrs_core::DataType;
    /// use etlrs_json::{JsonLayout, JsonOptions};
    ///
    /// let options = JsonOptions::default().with_layout(JsonLayout::Lines).with_types([("address", DataType::Utf8)]);
    /// # let _ = options;
    /// ```
    #[non_exhaustive]
    pub struct JsonOptions {
        /// What records stand in: `lines`, `array`, or `values` behind one another; `auto` is what the start of a file looks like.
        layout, with_layout: JsonLayout = JsonLayout::Auto;
        /// How characters are spelled; by default UTF-8, or UTF-16 if a byte order mark says so.
        encoding, with_encoding: Option<Encoding> = None;
        /// Records of each file from which columns and types are found, or `full` for all; later ones are checked against them.
        sample, with_sample: Sample = Sample::Records(10_000);
        /// Whether numbers with a point are read as decimals that keep every digit of the sample; otherwise as float64.
        decimals, with_decimals: bool = false;
        /// Whether strings that all are dates or timestamps in ISO 8601 are read as these; otherwise as text.
        times, with_times: bool = true;
        /// What is done with keys that no record of the sample has: fail, or ignore them.
        unknown_keys, with_unknown_keys: UnknownKeys = UnknownKeys::Fail;
        /// Partitions that are read at once at the most; by default as many as the run has threads.
        parallel_readers, with_parallel_readers: Option<usize> = None;
        /// Bytes asked of a file at a time, over the io_buffer_size of the run.
        buffer_size, with_buffer_size: Option<usize> = None;
        /// Whether the file is mapped into memory instead of read, over the enable_memory_mapping of the run.
        memory_mapping, with_memory_mapping: Option<bool> = None;
        /// Types of single columns, over what is found from the data; objects and lists as text are JSON.
        types, with_types: ColumnTypes = ColumnTypes::default();
        /// How columns were read before, as a quarantine has it for each record: nothing is found from the data then.
        planned, with_planned: Planned = Planned::default();
    }
}

etlrs_core::options! {
    /// How JSON files are written.
    ///
    /// ```
    /// use etlrs_json::{JsonWriteLayout, JsonWriteOptions};
    ///
    /// let options = JsonWriteOptions::default().with_layout(JsonWriteLayout::Array);
    /// # let _ = options;
    /// ```
    #[non_exhaustive]
    pub struct JsonWriteOptions {
        /// What records stand in: `lines` or `array`; by default an array in files that end in .json, and lines in all others.
        layout, with_layout: Option<JsonWriteLayout> = None;
        /// Whether members that are null are left out.
        omit_nulls, with_omit_nulls: bool = false;
        /// What is done with NaN and infinite numbers, which JSON has not: fail, or write null, or text such as `NaN`.
        non_finite, with_non_finite: NonFinite = NonFinite::Fail;
        /// Compression of the whole file; by default what its extension says (.gz, .zst, .bz2, .xz).
        compression, with_compression: Option<Compression> = None;
    }
}

macro_rules! words {
    ($type:ident, $kind:literal: $($word:literal $variant:ident)*) => {
        impl OptionValue for $type {
            const KIND: &'static str = $kind;

            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $( $word => Ok(Self::$variant), )*
                    _ => Err(unknown_name("value", text, &[$($word),*]).to_string()),
                }
            }

            fn show(&self) -> String {
                match self {
                    $( Self::$variant => $word.to_owned(), )*
                }
            }
        }
    };
}

/// What the records of a file that is read stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonLayout {
    /// It is found from the start of the file.
    #[default]
    Auto,
    /// Each on a line of its own (NDJSON, JSON Lines), so that a file can be read by several readers.
    Lines,
    /// In one list, which is read front to back and never held as a whole.
    Array,
    /// One behind the other, on as many lines as they take.
    Values,
}

words!(JsonLayout, "auto, lines, array or values": "auto" Auto "lines" Lines "array" Array "values" Values);

/// What the records of a file that is written stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonWriteLayout {
    /// Each on a line of its own (NDJSON, JSON Lines).
    Lines,
    /// In one list, each on a line of its own.
    Array,
}

words!(JsonWriteLayout, "lines or array": "lines" Lines "array" Array);

impl OptionArgument<Option<Self>> for JsonWriteLayout {
    fn into_option_value(self) -> Option<Self> {
        Some(self)
    }
}

/// What is done with keys that are in no column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownKeys {
    /// They are an error: what they hold would be lost.
    #[default]
    Fail,
    /// They are left out.
    Ignore,
}

words!(UnknownKeys, "fail or ignore": "fail" Fail "ignore" Ignore);

/// What is done with numbers that JSON has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NonFinite {
    /// They are an error.
    #[default]
    Fail,
    /// They are null.
    Null,
    /// They are strings: `"NaN"`, `"inf"`, `"-inf"`.
    Text,
}

words!(NonFinite, "fail, null or text": "fail" Fail "null" Null "text" Text);
