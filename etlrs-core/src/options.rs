//! Options that are defined once.
//!
//! [`options!`](crate::options) makes, from one list, a struct with defaults, its builder methods, and the specs from
//! which the command line, pipeline files, `etlrs connectors NAME` and the reference page are made.

use crate::{Error, ErrorKind, Result, Secret};

/// One option of a connector, as users see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionSpec {
    /// Name in `--source-option KEY=VALUE` and in pipeline files.
    pub key: &'static str,
    /// What a value looks like ("true or false", "size in bytes").
    pub kind: &'static str,
    /// The default as it would be written.
    pub default: String,
    /// What it does, in a line.
    pub doc: &'static str,
    /// Whether its value must never be shown.
    pub secret: bool,
}

impl OptionSpec {
    /// A spec whose values are shown.
    pub fn new(key: &'static str, kind: &'static str, default: String, doc: &'static str) -> Self {
        Self { key, kind, default, doc, secret: false }
    }
}

/// A struct of options made by [`options!`](crate::options).
pub trait OptionSet: Default {
    /// The specs, in the order of their definition.
    fn specs() -> Vec<OptionSpec>;

    /// Sets one option from text; `None` if there is no such key.
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), String>>;

    /// The options that differ from the defaults, as they would be written, without those that are secret.
    fn pairs(&self) -> Vec<(&'static str, String)>;

    /// The defaults changed by `pairs`.
    ///
    /// # Errors
    /// `InvalidConfig` for an unknown key, with the valid ones and the one that was probably meant, and for a value
    /// that is none.
    fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        Self::default().with_pairs(pairs)
    }

    /// These options changed by `pairs`.
    ///
    /// # Errors
    /// As [`from_pairs`](Self::from_pairs).
    fn with_pairs<'a>(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        for (key, value) in pairs {
            match self.set(key, value) {
                Some(Ok(())) => {}
                Some(Err(reason)) => {
                    let secret = Self::specs().iter().any(|spec| spec.key == key && spec.secret);
                    let shown = if secret { "***".to_owned() } else { format!("{value:?}") };
                    return Err(Error::new(
                        ErrorKind::InvalidConfig,
                        format!("option {key} cannot be {shown}: {reason}"),
                    ));
                }
                None => {
                    let keys: Vec<_> = Self::specs().iter().map(|spec| spec.key).collect();
                    return Err(unknown_name("option", key, &keys));
                }
            }
        }
        Ok(self)
    }
}

/// An `InvalidConfig` error for a name that is not among `valid`: lists them, and guesses the one meant.
pub fn unknown_name<S: AsRef<str>>(what: &str, name: &str, valid: &[S]) -> Error {
    let names: Vec<&str> = valid.iter().map(AsRef::as_ref).collect();
    let error = Error::new(ErrorKind::InvalidConfig, format!("there is no {what} {name:?}"));
    if names.is_empty() {
        return error.hint(format!("there is no {what} at all here"));
    }
    match similar(name, names.iter().copied()) {
        Some(guess) => error.hint(format!("did you mean {guess}? There is {}", names.join(", "))),
        None => error.hint(format!("there is {}", names.join(", "))),
    }
}

/// The one of `names` that was meant by `name`, if one is so similar.
pub(crate) fn similar<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, guess)| guess)
}

/// A type that an option can have.
pub trait OptionValue: Sized {
    /// What a value looks like, for help texts.
    const KIND: &'static str;
    /// Whether values must never be shown.
    const SECRET: bool = false;

    /// From text.
    ///
    /// # Errors
    /// A clause that says what a value must be.
    fn parse(text: &str) -> Result<Self, String>;

    /// As it would be written.
    fn show(&self) -> String;
}

impl OptionValue for bool {
    const KIND: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("it must be true or false".into()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl OptionValue for usize {
    const KIND: &'static str = "number, or size such as 64KB";

    fn parse(text: &str) -> Result<Self, String> {
        crate::parse_bytes(text).map_err(|_| "it must be a whole number, or a size such as 64KB".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl OptionValue for u32 {
    const KIND: &'static str = "number";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "it must be a whole number".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl OptionValue for f64 {
    const KIND: &'static str = "number, with decimals or not";

    fn parse(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number: &f64| number.is_finite());
        number.ok_or_else(|| "it must be a number".into())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl OptionValue for String {
    const KIND: &'static str = "text";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl OptionValue for Secret {
    const KIND: &'static str = "secret text";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Secret::new(text))
    }

    fn show(&self) -> String {
        String::new()
    }
}

impl OptionValue for Vec<String> {
    const KIND: &'static str = "list, separated by commas";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::to_owned).collect())
    }

    fn show(&self) -> String {
        self.join(",")
    }
}

impl<T: OptionValue> OptionValue for Option<T> {
    const KIND: &'static str = T::KIND;
    const SECRET: bool = T::SECRET;

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, OptionValue::show)
    }
}

/// What a builder method of an option takes for a value of type `T`: a `T`, or something that is plainly meant as one.
pub trait OptionArgument<T> {
    /// The value.
    fn into_option_value(self) -> T;
}

impl<T> OptionArgument<T> for T {
    fn into_option_value(self) -> T {
        self
    }
}

impl OptionArgument<String> for &str {
    fn into_option_value(self) -> String {
        self.to_owned()
    }
}

impl<const N: usize> OptionArgument<Vec<String>> for [&str; N] {
    fn into_option_value(self) -> Vec<String> {
        self.map(str::to_owned).into()
    }
}

/// Defines a struct of options: fields, defaults, builder methods and [`OptionSpec`]s from one list.
///
/// ```
/// use etlrs_core::OptionSet;
///
/// etlrs_core::options! {
///     /// How greetings are read.
///     pub struct GreetingOptions {
///         /// Whether the first line is a greeting too.
///         header, with_header: bool = true;
///         /// Who is greeted.
///         name, with_name: String = "world".to_owned();
///     }
/// }
///
/// let options = GreetingOptions::default().with_header(false);
/// assert_eq!(GreetingOptions::specs()[1].default, "world");
/// assert_eq!(options.pairs(), [("header", "false".to_owned())]);
/// let error = GreetingOptions::from_pairs([("headr", "true")]).unwrap_err();
/// assert!(error.to_string().contains("did you mean header?"));
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident, $setter:ident : $ty:ty = $default:expr; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name {
            $( $(#[doc = $doc])+ pub $key: $ty, )*
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )* }
            }
        }

        impl $crate::OptionSet for $name {
            fn specs() -> ::std::vec::Vec<$crate::OptionSpec> {
                let defaults = Self::default();
                ::std::vec![ $( {
                    let mut spec = $crate::OptionSpec::new(
                        stringify!($key),
                        <$ty as $crate::OptionValue>::KIND,
                        $crate::OptionValue::show(&defaults.$key),
                        concat!($($doc,)+).trim(),
                    );
                    spec.secret = <$ty as $crate::OptionValue>::SECRET;
                    spec
                }, )* ]
            }

            fn pairs(&self) -> ::std::vec::Vec<(&'static str, ::std::string::String)> {
                let defaults = Self::default();
                let all = [ $( (
                    stringify!($key),
                    <$ty as $crate::OptionValue>::SECRET,
                    $crate::OptionValue::show(&self.$key),
                    $crate::OptionValue::show(&defaults.$key),
                ), )* ];
                let given = all.into_iter().filter(|(_, secret, value, default)| !secret && value != default);
                given.map(|(key, _, value, _)| (key, value)).collect()
            }

            fn set(&mut self, key: &str, value: &str) -> ::core::option::Option<::core::result::Result<(), String>> {
                match key {
                    $( stringify!($key) => {
                        Some(<$ty as $crate::OptionValue>::parse(value).map(|value| self.$key = value))
                    } )*
                    _ => None,
                }
            }
        }

        impl $name {
            $(
                $(#[doc = $doc])+
                #[must_use]
                pub fn $setter(mut self, $key: impl $crate::OptionArgument<$ty>) -> Self {
                    self.$key = $key.into_option_value();
                    self
                }
            )*
        }
    };
}
