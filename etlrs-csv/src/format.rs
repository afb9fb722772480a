//! Dates and timestamps in other spellings than ISO 8601, by formats like those of `strptime` (POSIX).

use etlrs_core::{Error, ErrorKind, OptionArgument, OptionValue, Result};

use etlrs_files::text::value;

/// How a date or a timestamp is spelled.
///
/// `%Y` is a year of four digits, `%y` one of two (69 to 99 are 1969 to 1999), `%m` a month and `%d` a day of one or two
/// digits, `%b` an English month (`Jan` or `January`, in any case), `%H` hours, `%M` minutes, `%S` seconds, `%f` one to six
/// digits of a second, `%I` hours up to 12 with `%p` (`AM` or `PM`), `%F` is `%Y-%m-%d`, `%T` is `%H:%M:%S`, and `%%` a percent
/// sign. All else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub(crate) text: String,
    items: Vec<Item>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Literal(u8),
    Year,
    ShortYear,
    Month,
    MonthName,
    Day,
    Hour,
    Hour12,
    HalfDay,
    Minute,
    Second,
    Fraction,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// What a value says.
#[derive(Default)]
struct Parts {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    afternoon: Option<bool>,
}

impl Format {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                items.push(Item::Literal(byte));
                continue;
            }
            match bytes.next() {
                Some(b'Y') => items.push(Item::Year),
                Some(b'y') => items.push(Item::ShortYear),
                Some(b'm') => items.push(Item::Month),
                Some(b'b' | b'B' | b'h') => items.push(Item::MonthName),
                Some(b'd' | b'e') => items.push(Item::Day),
                Some(b'H') => items.push(Item::Hour),
                Some(b'I') => items.push(Item::Hour12),
                Some(b'p') => items.push(Item::HalfDay),
                Some(b'M') => items.push(Item::Minute),
                Some(b'S') => items.push(Item::Second),
                Some(b'f') => items.push(Item::Fraction),
                Some(b'F') => {
                    let dash = Item::Literal(b'-');
                    items.extend([Item::Year, dash, Item::Month, dash, Item::Day]);
                }
                Some(b'T') => {
                    let colon = Item::Literal(b':');
                    items.extend([Item::Hour, colon, Item::Minute, colon, Item::Second]);
                }
                Some(b'%') => items.push(Item::Literal(b'%')),
                _ => {
                    return Err(format!(
                        "{text:?} has a % that stands for nothing; there is %Y %y %m %b %d %H %I %p %M %S %f %F %T %%"
                    ));
                }
            }
        }
        let count = |wanted: &[Item]| items.iter().filter(|item| wanted.contains(item)).count();
        let day = [&[Item::Year, Item::ShortYear][..], &[Item::Month, Item::MonthName], &[Item::Day]];
        if day.iter().any(|wanted| count(wanted) != 1) {
            return Err(format!("{text:?} must have a year, a month and a day, each once"));
        }
        let clock =
            [&[Item::Hour, Item::Hour12][..], &[Item::Minute], &[Item::Second], &[Item::Fraction], &[Item::HalfDay]];
        let twice = clock.iter().any(|wanted| count(wanted) > 1);
        if twice || count(&[Item::Hour12]) != count(&[Item::HalfDay]) {
            return Err(format!("{text:?} must have each part of a time once, and %I with %p"));
        }
        Ok(Self { text: text.to_owned(), items })
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether any part of it is one of a time, which a date would lose.
    pub(crate) fn has_time(&self) -> bool {
        let is_of_day = |item: &Item| {
            matches!(item, Item::Literal(_) | Item::Year | Item::ShortYear | Item::Month | Item::MonthName | Item::Day)
        };
        !self.items.iter().all(is_of_day)
    }

    /// Days since 1970-01-01.
    pub(crate) fn date(&self, bytes: &[u8]) -> Option<i32> {
        days(&self.parts(bytes)?)
    }

    /// Microseconds since 1970-01-01 00:00.
    pub(crate) fn timestamp(&self, bytes: &[u8]) -> Option<i64> {
        let parts = self.parts(bytes)?;
        let hour = match parts.afternoon {
            None => parts.hour,
            Some(_) if !(1..=12).contains(&parts.hour) => return None,
            Some(afternoon) => parts.hour % 12 + if afternoon { 12 } else { 0 },
        };
        if hour > 23 || parts.minute > 59 || parts.second > 59 {
            return None;
        }
        let seconds = i64::from(days(&parts)?) * 86_400 + hour * 3600 + parts.minute * 60 + parts.second;
        Some(seconds * 1_000_000 + parts.micros)
    }

    fn parts(&self, bytes: &[u8]) -> Option<Parts> {
        let mut parts = Parts::default();
        let mut rest = bytes;
        for item in &self.items {
            let mut number = |least: usize, most: usize| {
                let digits = rest.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
                let (number, behind) = rest.split_at_checked(digits.max(least))?;
                rest = behind;
                let value = number.iter().try_fold(0, |value: i64, byte| {
                    byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
                })?;
                Some((value, number.len()))
            };
            match item {
                Item::Literal(byte) => rest = rest.strip_prefix(&[*byte])?,
                Item::Year => parts.year = number(4, 4)?.0,
                Item::ShortYear => {
                    let year = number(2, 2)?.0;
                    parts.year = year + if year < 69 { 2000 } else { 1900 };
                }
                Item::Month => parts.month = number(1, 2)?.0,
                Item::Day => parts.day = number(1, 2)?.0,
                Item::Hour | Item::Hour12 => parts.hour = number(1, 2)?.0,
                Item::Minute => parts.minute = number(2, 2)?.0,
                Item::Second => parts.second = number(2, 2)?.0,
                Item::Fraction => {
                    let (value, digits) = number(1, 6)?;
                    parts.micros = value * 10i64.pow(6 - u32::try_from(digits).ok()?);
                }
                Item::HalfDay => {
                    let (half, behind) = rest.split_at_checked(2)?;
                    rest = behind;
                    parts.afternoon = Some(match half.to_ascii_lowercase().as_slice() {
                        b"am" => false,
                        b"pm" => true,
                        _ => return None,
                    });
                }
                Item::MonthName => {
                    let letters = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
                    let (name, behind) = rest.split_at(letters);
                    rest = behind;
                    let name = name.to_ascii_lowercase();
                    let is_month = |month: &&str| month.as_bytes() == name || month.as_bytes().get(..3) == Some(&name);
                    parts.month = i64::try_from(MONTHS.iter().position(is_month)?).ok()? + 1;
                }
            }
        }
        rest.is_empty().then_some(parts)
    }
}

fn days(parts: &Parts) -> Option<i32> {
    value::date(format!("{:04}-{:02}-{:02}", parts.year, parts.month, parts.day).as_bytes())
}

/// Formats that are tried in this order, beside ISO 8601.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Formats(pub(crate) Vec<Format>);

/// As many as are told apart while types are found.
pub(crate) const MOST_FORMATS: usize = 8;

impl OptionValue for Formats {
    const KIND: &'static str = "list such as %d.%m.%Y,%b %d, %Y; a comma before a space is part of a format";

    fn parse(text: &str) -> Result<Self, String> {
        let mut formats: Vec<String> = Vec::new();
        for part in text.split(',') {
            match formats.last_mut() {
                Some(last) if part.starts_with(' ') => {
                    last.push(',');
                    last.push_str(part);
                }
                _ => formats.push(part.to_owned()),
            }
        }
        if formats.len() > MOST_FORMATS {
            return Err(format!("there can be {MOST_FORMATS} formats"));
        }
        formats.iter().map(|format| Format::parse(format)).collect::<Result<_, _>>().map(Self)
    }

    fn show(&self) -> String {
        self.0.iter().map(|format| format.text.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// Those that are no format are left out when they are given in code; [`OptionValue::parse`] refuses them.
impl<const N: usize> OptionArgument<Formats> for [&str; N] {
    fn into_option_value(self) -> Formats {
        Formats(self.iter().filter_map(|format| Format::parse(format).ok()).take(MOST_FORMATS).collect())
    }
}

/// What dates and timestamps may look like besides ISO 8601.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spellings {
    pub(crate) dates: Vec<Format>,
    pub(crate) timestamps: Vec<Format>,
}

impl Spellings {
    /// Timestamps in a format without a time are at midnight.
    ///
    /// # Errors
    /// `InvalidConfig` if one of `dates` has a time.
    pub(crate) fn new(dates: &Formats, timestamps: &Formats) -> Result<Self> {
        if let Some(format) = dates.0.iter().find(|format| format.has_time()) {
            let message = format!("{:?} is no format of dates, for it has a time", format.text);
            return Err(Error::new(ErrorKind::InvalidConfig, message).hint("give it in the option timestamp_formats"));
        }
        Ok(Self { dates: dates.0.clone(), timestamps: timestamps.0.clone() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dates.is_empty() && self.timestamps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_read_by_their_format() {
        for (format, value, expected) in [
            ("%d.%m.%Y", "1.2.1970", Some("1970-02-01T00:00:00")),
            ("%d.%m.%Y", "31.02.1970", None),
            ("%m/%d/%y", "12/31/69", Some("1969-12-31T00:00:00")),
            ("%m/%d/%Y %H:%M", "12/31/2024 09:05", Some("2024-12-31T09:05:00")),
            ("%b %d, %Y %I:%M %p", "Jan 5, 2024 12:30 am", Some("2024-01-05T00:30:00")),
            ("%d %B %Y %T.%f", "05 JANUARY 2024 23:59:01.5", Some("2024-01-05T23:59:01.5")),
            ("%F", "2024-01-05x", None),
            ("%F", "2024-01-0", None),
            ("%d%m%Y %I%p", "01022024 13PM", None),
        ] {
            let found = Format::parse(format).unwrap().timestamp(value.as_bytes());
            let expected = expected.map(|iso| value::timestamp(iso.as_bytes()).unwrap().0);
            assert_eq!(found, expected, "{value:?} as {format:?}");
        }
    }

    #[test]
    fn a_format_of_dates_has_no_part_of_a_time() {
        for (format, taken) in [
            ("%d.%m.%Y", true),
            ("%b %e, %y", true),
            ("%F %T", false),
            ("%F %H", false),
            ("%F %I %p", false),
            ("%F :%M", false),
            ("%F %S", false),
            ("%F.%f", false),
        ] {
            let found = Spellings::new(&Formats::parse(format).unwrap(), &Formats::default());
            assert_eq!(found.is_ok(), taken, "{format}");
            if let Err(error) = found {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig);
                assert!(
                    error.to_string().contains(format) && error.to_string().contains("timestamp_formats"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn formats_that_mean_nothing_are_refused() {
        for wrong in ["%d.%m", "%Y-%m-%d %Q", "%Y-%m-%d %I", "%Y%y%m%d", "100%"] {
            assert!(Formats::parse(wrong).is_err(), "{wrong}");
        }
        let list = "%d.%m.%Y,%b %d, %Y";
        let formats = Formats::parse(list).unwrap();
        assert_eq!((formats.0.len(), formats.show().as_str()), (2, list));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..30), text in "[0-9./ :APM]{0,20}") {
            for format in ["%d.%m.%Y", "%b %d, %y %I:%M:%S.%f %p"] {
                let format = Format::parse(format).unwrap();
                let _ = (format.date(&bytes), format.timestamp(text.as_bytes()));
            }
        }
    }
}
