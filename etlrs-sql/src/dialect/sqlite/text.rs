//! Dates, times, timestamps and decimals as the text that SQLite's own functions read.
//!
//! `YYYY-MM-DD`, `HH:MM:SS[.ffffff]`, `YYYY-MM-DD HH:MM:SS[.ffffff]`, with `+00:00` at the end for an instant. The
//! fraction is left out when it is zero. `+00:00` is written rather than `Z` because text then sorts by time:
//! `+` comes before `.`, which `Z` does not. Years beyond 0..=9999 get a sign (`+12013-01-01`), as in ISO 8601.

use std::fmt::Write;

use arrow_buffer::i256;

use super::types::Fraction;

const DAY: i64 = 86_400_000_000;

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // Both are within 1..=31 by their making.
    (year, month as u8, day as u8)
}

/// The inverse of [`civil`], for a month in 1..=12.
fn days(year: i64, month: u8, day: u8) -> i64 {
    let (month, day) = (i64::from(month), i64::from(day));
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn two(out: &mut String, n: u8) {
    out.push(char::from(b'0' + n / 10));
    out.push(char::from(b'0' + n % 10));
}

/// Appends the date of `day` days since 1970-01-01.
pub(super) fn write_date(out: &mut String, day: i64) {
    let (year, month, day) = civil(day);
    match u16::try_from(year) {
        Ok(year @ 0..=9999) => {
            // Both halves are below 100.
            two(out, (year / 100) as u8);
            two(out, (year % 100) as u8);
        }
        // Writing to a String cannot fail.
        _ => _ = write!(out, "{year:+05}"),
    }
    out.push('-');
    two(out, month);
    out.push('-');
    two(out, day);
}

/// Appends a time of day; `None` if it is not within a day.
pub(super) fn write_time(out: &mut String, microseconds: i64) -> Option<()> {
    if !(0..DAY).contains(&microseconds) {
        return None;
    }
    let (seconds, mut fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    // Each is below 60, for the time is within a day.
    two(out, (seconds / 3600) as u8);
    out.push(':');
    two(out, (seconds / 60 % 60) as u8);
    out.push(':');
    two(out, (seconds % 60) as u8);
    if fraction != 0 {
        let mut digits = [0; 6];
        for digit in digits.iter_mut().rev() {
            *digit = (fraction % 10) as u8;
            fraction /= 10;
        }
        out.push('.');
        out.extend(digits.map(|digit| char::from(b'0' + digit)));
    }
    Some(())
}

/// Appends a timestamp, marked as UTC if it is an instant.
pub(super) fn write_timestamp(out: &mut String, microseconds: i64, instant: bool) {
    write_date(out, microseconds.div_euclid(DAY));
    out.push(' ');
    // The remainder is within a day.
    _ = write_time(out, microseconds.rem_euclid(DAY));
    if instant {
        out.push_str("+00:00");
    }
}

/// Appends `digits / 10^scale`, where `digits` is a whole number in decimal.
pub(super) fn write_decimal(out: &mut String, digits: impl std::fmt::Display, scale: u8, fraction: Fraction) {
    let more = match fraction {
        Fraction::Padded(to) => to.saturating_sub(scale),
        Fraction::All | Fraction::Short => 0,
    };
    let scale = usize::from(scale + more);
    let start = out.len();
    _ = write!(out, "{digits}");
    out.extend(std::iter::repeat_n('0', more.into()));
    if scale == 0 {
        return;
    }
    let first = start + usize::from(out[start..].starts_with('-'));
    while out.len() - first <= scale {
        out.insert(first, '0');
    }
    out.insert(out.len() - scale, '.');
    if fraction == Fraction::Short {
        out.truncate(out.trim_end_matches('0').trim_end_matches('.').len());
    }
}

/// Reads from the front of a text.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn eat(&mut self, byte: u8) -> Option<()> {
        let (&first, rest) = self.0.split_first()?;
        if first != byte {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let mut value = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(digit - b'0');
        }
        self.0 = rest;
        Some(value)
    }

    fn two(&mut self) -> Option<u8> {
        u8::try_from(self.digits(2)?).ok()
    }

    fn date(&mut self) -> Option<i64> {
        let sign = self.0.first().filter(|byte| matches!(byte, b'+' | b'-')).copied();
        let year = match sign {
            Some(sign) => {
                self.eat(sign)?;
                let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
                if !(4..=7).contains(&length) {
                    return None;
                }
                let year = self.digits(length)?;
                if sign == b'-' { -year } else { year }
            }
            None => self.digits(4)?,
        };
        self.eat(b'-')?;
        let month = self.two().filter(|month| (1..=12).contains(month))?;
        self.eat(b'-')?;
        let day = self.two()?;
        let value = days(year, month, day);
        // February 30th comes back as another day.
        (civil(value) == (year, month, day)).then_some(value)
    }

    /// `HH:MM[:SS[.f…]]` as microseconds; a finer fraction must be zero.
    fn time(&mut self) -> Option<i64> {
        let hour = self.two().filter(|hour| *hour < 24)?;
        self.eat(b':')?;
        let minute = self.two().filter(|minute| *minute < 60)?;
        let mut microseconds = (i64::from(hour) * 60 + i64::from(minute)) * 60_000_000;
        if self.eat(b':').is_some() {
            microseconds += i64::from(self.two().filter(|second| *second < 60)?) * 1_000_000;
            if self.eat(b'.').is_some() {
                let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
                if length == 0 {
                    return None;
                }
                let kept = length.min(6);
                let mut fraction = self.digits(kept)?;
                (kept..6).for_each(|_| fraction *= 10);
                microseconds += fraction;
                let (finer, rest) = self.0.split_at_checked(length - kept)?;
                if finer.iter().any(|digit| *digit != b'0') {
                    return None;
                }
                self.0 = rest;
            }
        }
        Some(microseconds)
    }

    /// `Z`, `+HH:MM`, `+HHMM` or `+HH` as microseconds east of UTC.
    fn offset(&mut self) -> Option<i64> {
        if self.eat(b'Z').is_some() || self.eat(b'z').is_some() {
            return Some(0);
        }
        let sign = match self.eat(b'+') {
            Some(()) => 1,
            None => self.eat(b'-').map(|()| -1)?,
        };
        let hours = self.two().filter(|hours| *hours < 24)?;
        let minutes = if self.0.is_empty() {
            0
        } else {
            _ = self.eat(b':');
            self.two().filter(|minutes| *minutes < 60)?
        };
        Some(sign * (i64::from(hours) * 60 + i64::from(minutes)) * 60_000_000)
    }

    fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Days since 1970-01-01.
pub(super) fn parse_date(text: &[u8]) -> Option<i32> {
    let mut cursor = Cursor(text);
    let days = cursor.date()?;
    cursor.end()?;
    i32::try_from(days).ok()
}

/// Microseconds since midnight.
pub(super) fn parse_time(text: &[u8]) -> Option<i64> {
    let mut cursor = Cursor(text);
    let time = cursor.time()?;
    cursor.end()?;
    Some(time)
}

/// Microseconds since 1970-01-01 00:00. An instant without an offset is one of UTC, and a date is its midnight, as SQLite's
/// own functions have it; a time on a clock must have no offset.
pub(super) fn parse_timestamp(text: &[u8], instant: bool) -> Option<i64> {
    let mut cursor = Cursor(text);
    let days = cursor.date()?;
    let (mut time, mut offset) = (0, 0);
    if cursor.end().is_none() {
        if cursor.eat(b' ').is_none() {
            cursor.eat(b'T')?;
        }
        time = cursor.time()?;
        if instant && cursor.end().is_none() {
            offset = cursor.offset()?;
        }
    }
    cursor.end()?;
    // The first day of the range begins before its first microsecond, so the sum is made in more bits.
    let microseconds = i128::from(days) * i128::from(DAY) + i128::from(time) - i128::from(offset);
    i64::try_from(microseconds).ok()
}

/// The digits of a decimal at `scale`, if there are at most `precision` and none is lost.
fn decimal_digits(text: &[u8], precision: u8, scale: u8, out: &mut Vec<u8>) -> Option<()> {
    let (negative, text) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..point], text.get(point + 1..).unwrap_or_default());
    if whole.len() + fraction.len() == 0 || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let (kept, finer) = fraction.split_at(fraction.len().min(scale.into()));
    if finer.iter().any(|digit| *digit != b'0') {
        return None;
    }
    let whole = &whole[whole.iter().take_while(|digit| **digit == b'0').count()..];
    out.clear();
    if negative {
        out.push(b'-');
    }
    let sign = out.len();
    out.extend_from_slice(whole);
    out.extend_from_slice(kept);
    out.resize(out.len() + usize::from(scale) - kept.len(), b'0');
    let leading = if whole.is_empty() { out[sign..].iter().take_while(|digit| **digit == b'0').count() } else { 0 };
    if out.len() - sign - leading > precision.into() {
        return None;
    }
    if out.len() == sign {
        out.push(b'0');
    }
    Some(())
}

/// A decimal of up to 38 digits.
pub(super) fn parse_decimal128(text: &[u8], precision: u8, scale: u8, scratch: &mut Vec<u8>) -> Option<i128> {
    decimal_digits(text, precision, scale, scratch)?;
    std::str::from_utf8(scratch).ok()?.parse().ok()
}

/// A decimal of up to 76 digits.
pub(super) fn parse_decimal256(text: &[u8], precision: u8, scale: u8, scratch: &mut Vec<u8>) -> Option<i256> {
    decimal_digits(text, precision, scale, scratch)?;
    i256::from_string(std::str::from_utf8(scratch).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            day in any::<i32>(), time in 0..DAY, at in any::<i64>(), value in any::<i128>(), scale in 0..=38u8,
            zeros in 0..38u32,
        ) {
            let written = |write: &dyn Fn(&mut String)| {
                let mut out = String::new();
                write(&mut out);
                out.into_bytes()
            };
            prop_assert_eq!(parse_date(&written(&|out| write_date(out, day.into()))), Some(day));
            prop_assert_eq!(parse_time(&written(&|out| write_time(out, time).unwrap())), Some(time));
            for instant in [false, true] {
                let text = written(&|out| write_timestamp(out, at, instant));
                prop_assert_eq!(parse_timestamp(&text, instant), Some(at));
                prop_assert_eq!(parse_timestamp(&text, !instant), if instant { None } else { Some(at) });
            }
            let mut scratch = Vec::new();
            let value = value / 10i128.pow(zeros) * 10i128.pow(zeros);
            let fits = value.unsigned_abs() < 10u128.pow(38);
            for fraction in [Fraction::All, Fraction::Short, Fraction::Padded(20)] {
                let text = written(&|out| write_decimal(out, value, scale, fraction));
                prop_assert_eq!(parse_decimal128(&text, 38, scale, &mut scratch), fits.then_some(value));
                prop_assert_eq!(parse_decimal256(&text, 76, scale, &mut scratch), Some(i256::from_i128(value)));
                let behind = text.iter().rev().position(|byte| *byte == b'.').unwrap_or(0);
                let short = text.ends_with(b"0") && behind > 0;
                let holds = match fraction {
                    Fraction::All => behind == usize::from(scale),
                    Fraction::Short => !short && !text.ends_with(b"."),
                    Fraction::Padded(to) => behind == usize::from(scale.max(to)),
                };
                prop_assert!(holds, "{:?}", fraction);
            }
        }

        #[test]
        fn instants_sort_as_their_text(a in 0i64..4_000_000_000_000_000, step in prop_oneof![Just(1i64), 0..2_000_000i64]) {
            let (mut first, mut second) = (String::new(), String::new());
            write_timestamp(&mut first, a, true);
            write_timestamp(&mut second, a + step, true);
            prop_assert_eq!(a.cmp(&(a + step)), first.cmp(&second));
        }
    }

    #[test]
    fn extremes() {
        for at in [i64::MIN, i64::MAX, 0, -1] {
            let mut out = String::new();
            write_timestamp(&mut out, at, false);
            assert_eq!(parse_timestamp(out.as_bytes(), false), Some(at), "{out}");
        }
        for day in [i32::MIN, i32::MAX, -719_529, -719_528, 2_932_896, 2_932_897] {
            let mut out = String::new();
            write_date(&mut out, day.into());
            assert_eq!(parse_date(out.as_bytes()), Some(day), "{out}");
        }
    }

    #[test]
    fn dates_and_times_of_other_forms() {
        let at = Some(1_357_016_405_500_000);
        for (text, instant, expected) in [
            ("2013-01-01 05:00:05.5", false, at),
            ("2013-01-01T05:00:05.500000000", false, at),
            ("2013-01-01T05:00:05.5Z", true, at),
            ("2013-01-01T06:30:05.5+01:30", true, at),
            ("2013-01-01T06:30:05.5+0130", true, at),
            ("2013-01-01T03:00:05.5-02", true, at),
            ("2013-01-01 05:00", false, Some(1_357_016_400_000_000)),
            ("2013-01-01 05:00:05.5000001", false, None),
            ("2013-01-01 05:00:05.", false, None),
            ("2013-02-29 05:00:05", false, None),
            ("2013-13-01 05:00:05", false, None),
            ("2013-00-01 05:00:05", false, None),
            ("2013-01-01 24:00:00", false, None),
            ("2013-01-01", false, Some(1_356_998_400_000_000)),
            ("2013-01-01", true, Some(1_356_998_400_000_000)),
            ("2013-01-01 05:00:05.5", true, at),
            ("2013-01-01T", false, None),
            ("2013-01-01 05:00:05Z", false, None),
            ("+294248-01-01 00:00:00", false, None),
            ("2013-01-01 05:00:05 UTC", true, None),
            ("", true, None),
        ] {
            assert_eq!(parse_timestamp(text.as_bytes(), instant), expected, "{text}");
        }
    }

    #[test]
    fn decimals_of_other_forms() {
        for (text, expected) in [
            ("1", Some(100)),
            ("+1.5", Some(150)),
            (".5", Some(50)),
            ("5.", Some(500)),
            ("-0.01", Some(-1)),
            ("0001.2500", Some(125)),
            ("999.99", Some(99_999)),
            ("0", Some(0)),
            ("1000", None),
            ("1.255", None),
            ("1e2", None),
            ("-", None),
            (".", None),
            ("", None),
            (" 1", None),
            ("1.2.3", None),
            ("--1", None),
        ] {
            assert_eq!(parse_decimal128(text.as_bytes(), 5, 2, &mut Vec::new()), expected, "{text}");
        }
    }
}
