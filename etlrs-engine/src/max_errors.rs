use std::fmt;
use std::str::FromStr;

use etlrs_core::{Error, ErrorKind, Result};

/// How many records a run may set aside.
///
/// Read and written as `100`, or `1.5%` of all records that come out of the source.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum MaxErrors {
    /// One more ends the run at once.
    Records(u64),
    /// Of all records, from 0 to 100. They are known at the end, so that is when it is judged: a run that begins with bad records
    /// is not ended by that.
    Percent(f64),
}

impl MaxErrors {
    /// What to say if `rejected` records are too many; of the rows `read`, if those are all.
    pub(crate) fn exceeded(self, rejected: u64, read: Option<u64>) -> Option<String> {
        match (self, read) {
            (Self::Records(most), _) if rejected > most => Some(match most {
                0 => "a record was rejected, and max_errors allows none".to_owned(),
                1 => "more than the one record that max_errors allows was rejected".to_owned(),
                most => format!("more than the {most} records that max_errors allows were rejected"),
            }),
            (Self::Percent(most), Some(read)) if rejected as f64 * 100.0 > most * read as f64 => {
                let rate = rejected as f64 * 100.0 / read.max(1) as f64;
                Some(format!(
                    "{rejected} of {read} records were rejected, {rate:.3}%, and max_errors allows {most}% of them"
                ))
            }
            _ => None,
        }
    }
}

impl From<u64> for MaxErrors {
    fn from(records: u64) -> Self {
        Self::Records(records)
    }
}

impl FromStr for MaxErrors {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.trim_end().parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
                percent.map(Self::Percent)
            }
            None => text.parse().ok().map(Self::Records),
        };
        found.ok_or_else(|| {
            Error::new(ErrorKind::InvalidConfig, format!("{text:?} is no number of records, and no part of them"))
                .hint("say how many, such as 100, or which part of all records, such as 0.5%")
        })
    }
}

impl fmt::Display for MaxErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(records) => records.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_or_a_part() {
        for text in ["0", "100", "0%", "0.5%", "100%"] {
            assert_eq!(text.parse::<MaxErrors>().unwrap().to_string(), text);
        }
        assert_eq!("5 %".parse::<MaxErrors>().unwrap(), MaxErrors::Percent(5.0));
        for text in ["", "%", "-1", "1.5", "101%", "-1%", "nan%", "inf%", "5%%", "many"] {
            assert!(text.parse::<MaxErrors>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_number_is_judged_at_once_and_a_part_at_the_end() {
        let exceeded = |text: &str, rejected, read| text.parse::<MaxErrors>().unwrap().exceeded(rejected, read);
        assert!(exceeded("3", 3, None).is_none() && exceeded("3", 4, None).is_some());
        assert!(exceeded("1%", 50, None).is_none() && exceeded("1%", 1, Some(100)).is_none());
        let message = exceeded("1%", 2, Some(150)).unwrap();
        assert_eq!(message, "2 of 150 records were rejected, 1.333%, and max_errors allows 1% of them");
        assert!(exceeded("0%", 0, Some(0)).is_none() && exceeded("0%", 1, Some(1_000_000)).is_some());
        assert!(exceeded("100%", 5, Some(5)).is_none());
    }
}
