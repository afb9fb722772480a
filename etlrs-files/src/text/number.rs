//! Numbers, dates and times as text, without the formatting machinery of the standard library.
//!
//! Each function writes at the start of a slot and gives the length. The forms are those that `value.rs` reads.

use arrow_buffer::i256;

use super::output::{Output, SLOT};

type Slot = [u8; SLOT];

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut n = 1;
    while n < 20 {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// Writes the two digits of `n`, which is below 100.
#[inline(always)]
fn pair(slot: &mut Slot, at: usize, n: u64) {
    slot[at..at + 2].copy_from_slice(&PAIRS[(n % 100) as usize]);
}

#[inline(always)]
fn digit_count(value: u64) -> usize {
    let value = value | 1;
    // 1233 / 4096 is the logarithm of 2, near enough for 64 bits.
    let about = (((64 - value.leading_zeros()) * 1233) >> 12) as usize;
    about + usize::from(value >= POWERS[about])
}

/// Writes the last `count` digits of `value` to `slot[at..at + count]`.
#[inline(always)]
fn digits(slot: &mut Slot, at: usize, count: usize, mut value: u64) {
    let mut end = at + count;
    while end >= at + 2 {
        end -= 2;
        pair(slot, end, value % 100);
        value /= 100;
    }
    if end > at {
        slot[at] = b'0' + (value % 10) as u8;
    }
}

/// All digits.
#[inline(always)]
pub fn unsigned(slot: &mut Slot, value: u64) -> usize {
    let count = digit_count(value);
    digits(slot, 0, count, value);
    count
}

/// All digits.
#[inline(always)]
pub fn integer(slot: &mut Slot, value: i64) -> usize {
    let sign = usize::from(value < 0);
    slot[0] = b'-';
    let count = digit_count(value.unsigned_abs());
    digits(slot, sign, count, value.unsigned_abs());
    sign + count
}

/// `value / 10^scale`, with `scale` digits after the point.
#[inline(always)]
pub fn decimal(out: &mut Output, value: i128, scale: i8) {
    match (u64::try_from(value.unsigned_abs()), usize::try_from(scale)) {
        (Ok(magnitude), Ok(scale)) if scale < POWERS.len() => out.slot(|slot| {
            // Divisions by constants are multiplications.
            let (whole, fraction) = match scale {
                0 => (magnitude, 0),
                1 => (magnitude / 10, magnitude % 10),
                2 => (magnitude / 100, magnitude % 100),
                3 => (magnitude / 1000, magnitude % 1000),
                4 => (magnitude / 10_000, magnitude % 10_000),
                _ => (magnitude / POWERS[scale], magnitude % POWERS[scale]),
            };
            let sign = usize::from(value < 0);
            slot[0] = b'-';
            let count = digit_count(whole);
            digits(slot, sign, count, whole);
            let point = sign + count;
            if scale == 0 {
                return point;
            }
            slot[point] = b'.';
            digits(slot, point + 1, scale, fraction);
            point + 1 + scale
        }),
        _ => long_decimal(out, value < 0, &value.unsigned_abs().to_string(), scale),
    }
}

/// As [`decimal`].
pub fn wide_decimal(out: &mut Output, value: i256, scale: i8) {
    match value.to_i128() {
        Some(value) => decimal(out, value, scale),
        None => {
            let text = value.to_string();
            long_decimal(out, text.starts_with('-'), text.trim_start_matches('-'), scale);
        }
    }
}

#[cold]
fn long_decimal(out: &mut Output, negative: bool, digits: &str, scale: i8) {
    if negative {
        out.push(b'-');
    }
    let after = usize::from(scale.unsigned_abs());
    if scale <= 0 {
        out.extend(digits.as_bytes());
        // Zero stays one digit.
        (0..if digits == "0" { 0 } else { after }).for_each(|_| out.push(b'0'));
        return;
    }
    let zeros = (after + 1).saturating_sub(digits.len());
    let padded = [&"0".repeat(zeros), digits].concat();
    let (whole, fraction) = padded.split_at(padded.len() - after);
    out.extend(whole.as_bytes());
    out.push(b'.');
    out.extend(fraction.as_bytes());
}

/// The shortest text that reads back as the same bits: `1.0`, `0.1`, `1e+300`, `-0.0`, `NaN`, `inf`, `-inf`.
#[inline(always)]
pub fn float(out: &mut Output, value: f64) {
    // Money, rates and measurements mostly have no more than four digits after the point. With fifteen digits in all,
    // every decimal number has a float of its own, so one that is found to stand for this one is the shortest.
    const LARGEST: f64 = 1e11;
    let magnitude = value.abs();
    if magnitude < LARGEST {
        // Below 2^53, and not negative.
        let scaled = (magnitude * 1e4 + 0.5) as u64;
        if scaled as f64 / 1e4 == magnitude {
            return out.slot(|slot| {
                let sign = usize::from(value.is_sign_negative());
                slot[0] = b'-';
                let (whole, fraction) = (scaled / 10_000, scaled % 10_000);
                let point = sign + digit_count(whole);
                digits(slot, sign, point - sign, whole);
                slot[point] = b'.';
                pair(slot, point + 1, fraction / 100);
                pair(slot, point + 3, fraction % 100);
                let kept = match (fraction % 100, fraction % 10, fraction / 100 % 10) {
                    (0, _, 0) => 1,
                    (0, _, _) => 2,
                    (_, 0, _) => 3,
                    _ => 4,
                };
                point + 1 + kept
            });
        }
    }
    long_float(out, value);
}

/// As [`float`], of any that `zmij` takes.
#[inline(never)]
pub fn long_float<F: zmij::Float>(out: &mut Output, value: F) {
    out.extend(zmij::Buffer::new().format(value).as_bytes());
}

/// Days since 1970-01-01 of the years 0000 to 9999.
const DAYS: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;
/// From 0000-03-01 minus the 400 years of an era to 1970-01-01, so that no day in [`DAYS`] is negative.
const SHIFT: i64 = 719_468 + 146_097;

/// `YYYY-MM-DD`; `None` for a year beyond four digits.
#[inline(always)]
pub fn date(slot: &mut Slot, days: i64) -> Option<usize> {
    if !DAYS.contains(&days) {
        return None;
    }
    // Cassio Neri and Lorenz Schneider, "Euclidean affine functions and their application to calendar algorithms" (2022),
    // figure 12. The sum is below 2^22.
    let four = 4 * (days + SHIFT) as u32 + 3;
    let (century, of_century) = (four / 146_097, (four % 146_097) | 3);
    let product = 2_939_745 * u64::from(of_century);
    let (year_of_century, day_of_year) = ((product >> 32) as u32, (product as u32) / 2_939_745 / 4);
    let (months, next_year) = (2141 * day_of_year + 197_913, day_of_year >= 306);
    let year = 100 * century + year_of_century + u32::from(next_year) - 400;
    let month = (months >> 16) - if next_year { 12 } else { 0 };
    let day = (months & 0xffff) / 2141 + 1;
    pair(slot, 0, u64::from(year / 100));
    pair(slot, 2, u64::from(year));
    slot[4] = b'-';
    pair(slot, 5, u64::from(month));
    slot[7] = b'-';
    pair(slot, 8, u64::from(day));
    Some(10)
}

/// Parts of a second that a count of time is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticks {
    per_second: i64,
    digits: usize,
}

impl Ticks {
    /// Of a unit.
    pub fn of(unit: arrow_schema::TimeUnit) -> Self {
        use arrow_schema::TimeUnit::*;
        let (per_second, digits) = match unit {
            Second => (1, 0),
            Millisecond => (1000, 3),
            Microsecond => (1_000_000, 6),
            Nanosecond => (1_000_000_000, 9),
        };
        Self { per_second, digits }
    }

    /// Whether `value` has digits beyond the microsecond.
    pub fn is_beyond_micros(self, value: i64) -> bool {
        self.digits > 6 && value % 1000 != 0
    }
}

/// `HH:MM:SS`, and as many digits of the second as are not zero; `None` for what is no time of a day.
#[inline(always)]
pub fn time(slot: &mut Slot, at: usize, value: i64, ticks: Ticks) -> Option<usize> {
    if !(0..86_400 * ticks.per_second).contains(&value) {
        return None;
    }
    // Not negative, by the check.
    let (value, per_second) = (value as u64, ticks.per_second as u64);
    let (seconds, fraction) = (value / per_second, value % per_second);
    pair(slot, at, seconds / 3600);
    slot[at + 2] = b':';
    pair(slot, at + 3, seconds / 60 % 60);
    slot[at + 5] = b':';
    pair(slot, at + 6, seconds % 60);
    let mut end = at + 8;
    if fraction != 0 {
        slot[end] = b'.';
        digits(slot, end + 1, ticks.digits, fraction);
        end += ticks.digits + 1;
        while slot[end - 1] == b'0' {
            end -= 1;
        }
    }
    Some(end)
}

/// `YYYY-MM-DD HH:MM:SS`, and as many digits of the second as are not zero, with a `Z` for an instant; `None` for a year
/// beyond four digits.
#[inline(always)]
pub fn timestamp(slot: &mut Slot, value: i64, ticks: Ticks, instant: bool) -> Option<usize> {
    let per_day = 86_400 * ticks.per_second;
    let space = date(slot, value.div_euclid(per_day))?;
    slot[space] = b' ';
    let end = time(slot, space + 1, value.rem_euclid(per_day), ticks)?;
    slot[end] = b'Z';
    Some(end + usize::from(instant))
}

#[cfg(test)]
mod tests {
    use arrow_schema::TimeUnit;
    use proptest::prelude::*;

    use super::*;
    use crate::text::value;

    fn text(write: impl FnOnce(&mut Output)) -> String {
        let mut out = Output::default();
        write(&mut out);
        String::from_utf8(out.as_bytes().to_owned()).unwrap()
    }

    fn in_slot(write: impl FnOnce(&mut Slot) -> Option<usize>) -> Option<String> {
        let mut slot = [0; SLOT];
        write(&mut slot).map(|length| String::from_utf8(slot[..length].to_owned()).unwrap())
    }

    proptest! {
        #[test]
        fn integers_are_those_of_the_standard_library(value in any::<i64>(), shift in 0..64) {
            let value = value >> shift;
            prop_assert_eq!(text(|out| out.slot(|slot| integer(slot, value))), value.to_string());
            let value = value as u64;
            prop_assert_eq!(text(|out| out.slot(|slot| unsigned(slot, value))), value.to_string());
        }

        #[test]
        fn floats_come_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let read = value::float(text(|out| float(out, value)).as_bytes(), false).unwrap();
            prop_assert!(read.to_bits() == bits || read.is_nan() && value.is_nan());
        }

        /// The way for few digits gives what the way for all gives.
        #[test]
        fn floats_of_few_digits_are_as_all_others(
            scaled in any::<i64>(), shift in 0..64, decimals in 0i32..6, ulps in 0u64..2,
        ) {
            let value = (scaled >> shift) as f64 / 10f64.powi(decimals);
            let value = f64::from_bits(value.to_bits() + ulps);
            prop_assert_eq!(text(|out| float(out, value)), text(|out| long_float(out, value)));
        }

        #[test]
        fn short_floats_come_back(number in any::<f32>()) {
            let read: f32 = fast_float2::parse(text(|out| long_float(out, number))).unwrap();
            prop_assert!(read.to_bits() == number.to_bits() || read.is_nan() && number.is_nan());
        }

        #[test]
        fn decimals_come_back(value in any::<i128>(), shift in 0..127, scale in 0i8..38) {
            let value = (value >> shift) / 2_i128;
            let written = text(|out| decimal(out, value, scale));
            prop_assert_eq!(&text(|out| wide_decimal(out, i256::from_i128(value), scale)), &written);
            let digits = written.split_once('.').map_or(0, |(_, digits)| digits.len());
            prop_assert_eq!(digits, usize::from(scale.unsigned_abs()));
            prop_assert_eq!(value::decimal(written.as_bytes(), u32::from(scale.unsigned_abs())), Some(value));
        }

        #[test]
        fn timestamps_come_back(seconds in -62_167_219_200i64..253_402_300_800, micros in 0i64..1_000_000, zero in 0u32..7) {
            let micros = seconds * 1_000_000 + micros / 10_i64.pow(zero) * 10_i64.pow(zero);
            for instant in [false, true] {
                for (unit, factor) in [(TimeUnit::Microsecond, 1), (TimeUnit::Nanosecond, 1000)] {
                    let Some(value) = micros.checked_mul(factor) else { continue };
                    let written = in_slot(|slot| timestamp(slot, value, Ticks::of(unit), instant)).unwrap();
                    prop_assert_eq!(value::timestamp(written.as_bytes()), Some((micros, instant)));
                }
            }
        }
    }

    #[test]
    fn every_day_comes_back() {
        for day in DAYS {
            let mut slot = [0; SLOT];
            assert_eq!(date(&mut slot, day), Some(10));
            assert_eq!(value::date(&slot[..10]).map(i64::from), Some(day), "{day}");
        }
        for day in [DAYS.start() - 1, DAYS.end() + 1, i64::MIN, i64::MAX, i64::from(i32::MAX)] {
            assert_eq!(date(&mut [0; SLOT], day), None);
        }
    }

    #[test]
    fn forms_are_as_documented() {
        for (value, scale, expected) in [
            (0, 0, "0"),
            (-5, 2, "-0.05"),
            (123_456, 2, "1234.56"),
            (-7, 19, "-0.0000000000000000007"),
            (7, 25, "0.0000000000000000000000007"),
            (12, -3, "12000"),
            (0, -3, "0"),
            (i128::MIN, 0, "-170141183460469231731687303715884105728"),
        ] {
            assert_eq!(text(|out| decimal(out, value, scale)), expected);
        }
        let widest = text(|out| wide_decimal(out, i256::MIN, 2));
        assert_eq!(widest.len(), 79);
        assert!(widest.starts_with("-578") && widest.ends_with(".68"), "{widest}");
        for (value, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1234.56, "1234.56"),
            (-20.25, "-20.25"),
            (0.0001, "0.0001"),
            (99_999_999_999.999_9, "99999999999.9999"),
            (1e11, "100000000000.0"),
            (1e16, "1e+16"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(text(|out| float(out, value)), expected);
        }
        let at = |value, unit, zone| in_slot(|slot| timestamp(slot, value, Ticks::of(unit), zone));
        for (value, unit, zone, expected) in [
            (0, TimeUnit::Second, false, Some("1970-01-01 00:00:00")),
            (-1, TimeUnit::Millisecond, true, Some("1969-12-31 23:59:59.999Z")),
            (1_500_000, TimeUnit::Microsecond, false, Some("1970-01-01 00:00:01.5")),
            (1, TimeUnit::Nanosecond, false, Some("1970-01-01 00:00:00.000000001")),
            (i64::MIN, TimeUnit::Nanosecond, false, Some("1677-09-21 00:12:43.145224192")),
            (253_402_300_800, TimeUnit::Second, false, None),
            (i64::MIN, TimeUnit::Second, true, None),
        ] {
            assert_eq!(at(value, unit, zone).as_deref(), expected);
        }
        let clock = |value| in_slot(|slot| time(slot, 0, value, Ticks::of(TimeUnit::Millisecond)));
        assert_eq!(clock(86_399_990).as_deref(), Some("23:59:59.99"));
        assert_eq!((clock(86_400_000), clock(-1)), (None, None));
    }
}
