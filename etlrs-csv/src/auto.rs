//! Options whose values are found from the data unless they are given.

use etlrs_core::{OptionArgument, OptionValue};

use crate::options::{Delimiter, Escape, Quote};
use etlrs_files::text::Encoding;

/// A value, or that it is to be found from the start of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auto<T> {
    /// It is found from the data.
    #[default]
    Auto,
    /// It is this, whatever the data look like.
    Given(T),
}

impl<T> Auto<T> {
    /// The value, if it was given.
    pub fn given(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Given(value) => Some(value),
        }
    }
}

/// A type whose values can be found from the data.
pub trait Detectable: OptionValue {
    /// What a value looks like, for help texts.
    const KIND_OR_AUTO: &'static str;
}

impl<T: Detectable> OptionValue for Auto<T> {
    const KIND: &'static str = T::KIND_OR_AUTO;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => T::parse(text).map(Self::Given).map_err(|reason| match reason.contains("auto") {
                true => reason,
                false => format!("{reason}, or auto"),
            }),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => "auto".to_owned(),
            Self::Given(value) => value.show(),
        }
    }
}

macro_rules! detectable {
    ($( $type:ty, $kind:literal; )*) => {
        $(
            impl Detectable for $type {
                const KIND_OR_AUTO: &'static str = $kind;
            }

            impl OptionArgument<Auto<$type>> for $type {
                fn into_option_value(self) -> Auto<$type> {
                    Auto::Given(self)
                }
            }
        )*
    };
}

detectable! {
    bool, "true, false or auto";
    usize, "number, or auto";
    Delimiter, "character, tab, space or auto";
    Quote, "character, none or auto";
    Escape, "character, none or auto";
    Encoding, "auto, utf-8, utf-16le, utf-16be, latin-1 or windows-1252";
}

impl OptionArgument<Auto<Delimiter>> for u8 {
    fn into_option_value(self) -> Auto<Delimiter> {
        Auto::Given(Delimiter(self))
    }
}

impl OptionArgument<Auto<Quote>> for u8 {
    fn into_option_value(self) -> Auto<Quote> {
        Auto::Given(Quote(Some(self)))
    }
}

impl OptionArgument<Auto<Escape>> for u8 {
    fn into_option_value(self) -> Auto<Escape> {
        Auto::Given(Escape(Some(self)))
    }
}
