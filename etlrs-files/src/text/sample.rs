use etlrs_core::{OptionArgument, OptionValue};

/// From how many records types are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sample {
    /// The first so many of each file, or fewer if these are more than 64 MiB; of what can be read only once also if they are
    /// more than 1/32 of the memory budget, for they are kept.
    Records(usize),
    /// All: the files are read once more, so this is not for what can be read only once.
    Full,
}

impl OptionArgument<Sample> for usize {
    fn into_option_value(self) -> Sample {
        Sample::Records(self)
    }
}

impl OptionValue for Sample {
    const KIND: &'static str = "number of records, or full";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            _ => match usize::parse(text) {
                Ok(records @ 1..) => Ok(Self::Records(records)),
                _ => Err("it must be a whole number from 1 on, or full".into()),
            },
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Records(records) => records.to_string(),
            Self::Full => "full".into(),
        }
    }
}

impl Sample {
    /// How many records; `None`: all.
    pub fn records(self) -> Option<usize> {
        match self {
            Self::Records(records) => Some(records),
            Self::Full => None,
        }
    }
}
