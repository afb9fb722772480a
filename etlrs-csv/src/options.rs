use etlrs_core::{ColumnTypes, OptionArgument, OptionValue};

etlrs_core::options! {
    /// How a CSV file is read.
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
        header, with_header: bool = true;
        /// What stands between fields: one ASCII character, or `tab`.
        delimiter, with_delimiter: Delimiter = Delimiter(b',');
        /// What fields with delimiters or line ends are wrapped in: one ASCII character, or `none`.
        quote, with_quote: Quote = Quote(Some(b'"'));
        /// Spellings that mean null; an empty field that is not quoted always does.
        null_values, with_null_values: Vec<String> = Vec::new();
        /// Whether types are found from the data; otherwise every column is text.
        infer, with_infer: bool = true;
        /// Records from which types are found; later ones are checked against them.
        sample, with_sample: usize = 10_000;
        /// Types of single columns, over what is found from the data.
        types, with_types: ColumnTypes = ColumnTypes::default();
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
    const KIND: &'static str = "character, or tab";

    fn parse(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"tab" | b"\\t" => Ok(Self(b'\t')),
            &[byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | b'"') => Ok(Self(byte)),
            _ => Err("it must be one ASCII character other than a quote or a line end, or tab".into()),
        }
    }

    fn show(&self) -> String {
        if self.0 == b'\t' { "tab".into() } else { char::from(self.0).to_string() }
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

impl OptionValue for Quote {
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
