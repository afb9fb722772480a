use etlrs_core::{ColumnTypes, OptionArgument, OptionValue, unknown_name};
use etlrs_files::Compression;
use etlrs_files::text::Sample;

use crate::auto::Auto;
use crate::format::Formats;
use crate::planned::Planned;
use etlrs_files::text::Encoding;

etlrs_core::options! {
    /// How CSV files are read.
    ///
    /// What is `auto` is found from the first 64 KiB of each file; `etlrs inspect` shows what was found and why. What is
    /// given is never overridden.
    ///
    /// ```
    /// use etlrs_csv::CsvOptions;
    ///
    /// let options = CsvOptions::default().with_delimiter(b';').with_null_values(["NA"]);
    /// # let _ = options;
    /// ```
    #[non_exhaustive]
    pub struct CsvOptions {
        /// Whether the first record holds the names of the columns.
        header, with_header: Auto<bool> = Auto::Auto;
        /// What stands between fields: one ASCII character, or `tab`.
        delimiter, with_delimiter: Auto<Delimiter> = Auto::Auto;
        /// What fields with delimiters or line ends are wrapped in: one ASCII character, or `none`.
        quote, with_quote: Auto<Quote> = Auto::Auto;
        /// What makes a delimiter, quote or line end behind it ordinary: one ASCII character, or `none`; doubled quotes need none.
        escape, with_escape: Auto<Escape> = Auto::Auto;
        /// What a line begins with that is left out, wherever it stands: one ASCII character, or `none`.
        comment, with_comment: Comment = Comment(None);
        /// Lines before the header.
        skip_lines, with_skip_lines: Auto<usize> = Auto::Auto;
        /// How characters are spelled; `auto` is UTF-8, or UTF-16 if a byte order mark says so.
        encoding, with_encoding: Auto<Encoding> = Auto::Auto;
        /// What is done with records that have another number of fields than the header: fail, or pad short ones with nulls.
        ragged, with_ragged: Ragged = Ragged::Fail;
        /// Spellings that mean null; an empty field that is not quoted always does.
        null_values, with_null_values: Vec<String> = Vec::new();
        /// Whether types are found from the data; otherwise every column is text.
        infer, with_infer: bool = true;
        /// Records of each file from which types are found, or `full` for all; later ones are checked against them.
        sample, with_sample: Sample = Sample::Records(10_000);
        /// Whether numbers with a point are read as decimals that keep every digit of the sample; otherwise as float64.
        decimals, with_decimals: bool = false;
        /// Spellings of dates besides ISO 8601, such as `%d.%m.%Y`; each column has one.
        date_formats, with_date_formats: Formats = Formats::default();
        /// Spellings of timestamps besides ISO 8601, such as `%m/%d/%Y %H:%M`; each column has one.
        timestamp_formats, with_timestamp_formats: Formats = Formats::default();
        /// Partitions that are read at once at the most; by default as many as the run has threads.
        parallel_readers, with_parallel_readers: Option<usize> = None;
        /// Bytes asked of a file at a time, over the io_buffer_size of the run.
        buffer_size, with_buffer_size: Option<usize> = None;
        /// Whether the file is mapped into memory instead of read, over the enable_memory_mapping of the run.
        memory_mapping, with_memory_mapping: Option<bool> = None;
        /// Types of single columns, over what is found from the data.
        types, with_types: ColumnTypes = ColumnTypes::default();
        /// How columns were read before, as a quarantine has it for each record: nothing is found from the data then.
        planned, with_planned: Planned = Planned::default();
    }
}

etlrs_core::options! {
    /// How CSV files are written.
    ///
    /// Null is written as `null_value` without quotes, and text that is empty or spelled like it with quotes, so that
    /// both are read as what they were.
    ///
    /// ```
    /// use etlrs_csv::{CsvWriteOptions, Quoting};
    ///
    /// let options = CsvWriteOptions::default().with_delimiter(b';').with_quoting(Quoting::Text);
    /// # let _ = options;
    /// ```
    #[non_exhaustive]
    pub struct CsvWriteOptions {
        /// Whether the first record holds the names of the columns.
        header, with_header: bool = true;
        /// What stands between fields: one ASCII character, or `tab`.
        delimiter, with_delimiter: Delimiter = Delimiter(b',');
        /// What fields with delimiters or line ends are wrapped in: one ASCII character, or `none`.
        quote, with_quote: Quote = Quote(Some(b'"'));
        /// Which values are quoted: those that have to be, all, all of text, or none, so that one that has to be is refused.
        quoting, with_quoting: Quoting = Quoting::Needed;
        /// How null is spelled.
        null_value, with_null_value: String = String::new();
        /// What ends a line.
        line_end, with_line_end: LineEnd = LineEnd::Lf;
        /// Compression of the whole file; by default what its extension says (.gz, .zst, .bz2, .xz).
        compression, with_compression: Option<Compression> = None;
        /// Whether text that a spreadsheet would take for a formula gets an apostrophe in front; it is read back with it.
        formula_guard, with_formula_guard: bool = false;
    }
}

/// Which values are quoted. Nulls never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quoting {
    /// Those that would be read as something else without quotes.
    #[default]
    Needed,
    /// All.
    All,
    /// All of text columns, and names of columns.
    Text,
    /// None; a value that needs quotes is an error.
    None,
}

impl OptionValue for Quoting {
    const KIND: &'static str = "needed, all, text or none";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "needed" => Ok(Self::Needed),
            "all" => Ok(Self::All),
            "text" => Ok(Self::Text),
            "none" => Ok(Self::None),
            _ => Err(unknown_name("quoting", text, &["needed", "all", "text", "none"]).to_string()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Needed => "needed".into(),
            Self::All => "all".into(),
            Self::Text => "text".into(),
            Self::None => "none".into(),
        }
    }
}

/// What ends a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineEnd {
    /// A line feed.
    #[default]
    Lf,
    /// A carriage return and a line feed, as RFC 4180 has it.
    Crlf,
}

impl LineEnd {
    pub(crate) fn bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::Crlf => b"\r\n",
        }
    }
}

impl OptionValue for LineEnd {
    const KIND: &'static str = "lf or crlf";

    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "lf" => Ok(Self::Lf),
            "crlf" => Ok(Self::Crlf),
            _ => Err("it must be lf or crlf".into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Lf => "lf".into(),
            Self::Crlf => "crlf".into(),
        }
    }
}

/// The byte between fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimiter(pub u8);

impl OptionArgument<Delimiter> for u8 {
    fn into_option_value(self) -> Delimiter {
        Delimiter(self)
    }
}

impl OptionValue for Delimiter {
    const KIND: &'static str = "character, tab or space";

    fn parse(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"tab" | b"\\t" => Ok(Self(b'\t')),
            b"space" => Ok(Self(b' ')),
            &[byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | b'"') => Ok(Self(byte)),
            _ => Err("it must be one ASCII character other than a quote or a line end, or tab".into()),
        }
    }

    fn show(&self) -> String {
        match self.0 {
            b'\t' => "tab".into(),
            b' ' => "space".into(),
            byte => char::from(byte).to_string(),
        }
    }
}

/// The byte around fields, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote(pub Option<u8>);

impl OptionArgument<Quote> for u8 {
    fn into_option_value(self) -> Quote {
        Quote(Some(self))
    }
}

/// The byte that makes the one behind it ordinary, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape(pub Option<u8>);

/// The byte that a comment begins with, if there are comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comment(pub Option<u8>);

impl OptionArgument<Comment> for u8 {
    fn into_option_value(self) -> Comment {
        Comment(Some(self))
    }
}

macro_rules! character_or_none {
    ($($type:ident)*) => {
        $(
            impl OptionValue for $type {
                const KIND: &'static str = "character, or none";

                fn parse(text: &str) -> Result<Self, String> {
                    match text.as_bytes() {
                        b"none" | b"" => Ok(Self(None)),
                        &[byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(Self(Some(byte))),
                        _ => Err("it must be one ASCII character, or none".into()),
                    }
                }

                fn show(&self) -> String {
                    self.0.map_or("none".into(), |byte| char::from(byte).to_string())
                }
            }
        )*
    };
}

character_or_none! { Quote Escape Comment }

/// What is done with records that have another number of fields than the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ragged {
    /// They are an error.
    #[default]
    Fail,
    /// Fields that are missing are null, and empty ones too many are left out; other fields too many are an error.
    Pad,
}

impl OptionValue for Ragged {
    const KIND: &'static str = "fail or pad";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self::Fail),
            "pad" => Ok(Self::Pad),
            _ => Err("it must be fail or pad".into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Fail => "fail".into(),
            Self::Pad => "pad".into(),
        }
    }
}
