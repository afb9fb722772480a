//! From the bytes of one field to a value, without a string in between.
//!
//! Each function gives `None` for bytes that are no value of its type. Where it matters there are two grades: `exact`
//! takes only the spellings that type inference takes, so that `007` or `+1`, which would lose something as a number,
//! never pass for one by accident; without it, because the user named the type, such spellings are values too.
//!
//! Numbers have two ways: a plain one that knows all spellings, and a shortcut for the usual ones that takes eight digits
//! at a time. The shortcut leaves to the plain way whatever it does not know; property tests compare them.

use std::ops::Range;

/// `true` and `false`, also in upper case or capitalised.
#[inline]
pub fn boolean(bytes: &[u8]) -> Option<bool> {
    // Four bytes, the last one and the length as one number, for which of the two comes next can often not be foretold.
    const fn word(text: &[u8]) -> Option<u64> {
        let (Some(start), &[.., last]) = (text.first_chunk::<4>(), text) else { return None };
        Some(u32::from_le_bytes(*start) as u64 | (last as u64) << 32 | (text.len() as u64) << 40)
    }
    const SMALL: u64 = 0x20_2020_2020;
    let found = word(bytes).filter(|_| bytes.len() <= 5)?;
    let capitals = !found & SMALL;
    let (small, spelled) = (Some(found | SMALL), capitals == 0 || capitals == 0x20 || capitals == SMALL);
    let (yes, no) = (small == const { word(b"true") }, small == const { word(b"false") });
    (spelled && (yes | no)).then_some(yes)
}

/// Microseconds.
const DAY: i64 = 86_400_000_000;

/// The same, and other words that databases write and take: `t`, `yes`, `on`, `1` and their opposites, in any case.
pub fn boolean_word(bytes: &[u8]) -> Option<bool> {
    const WORDS: [(&[u8], bool); 12] = [
        (b"true", true),
        (b"false", false),
        (b"t", true),
        (b"f", false),
        (b"yes", true),
        (b"no", false),
        (b"y", true),
        (b"n", false),
        (b"on", true),
        (b"off", false),
        (b"1", true),
        (b"0", false),
    ];
    WORDS.iter().find(|(word, _)| bytes.eq_ignore_ascii_case(word)).map(|&(_, value)| value)
}

/// A timestamp without a zone, or a date, which is its midnight.
pub fn clock(bytes: &[u8]) -> Option<i64> {
    match timestamp(bytes) {
        Some((micros, zoned)) => (!zoned).then_some(micros),
        None => i64::from(date(bytes)?).checked_mul(DAY),
    }
}

/// A date, or its midnight.
pub fn day(bytes: &[u8]) -> Option<i32> {
    date(bytes).or_else(|| {
        let micros = clock(bytes).filter(|micros| micros.rem_euclid(DAY) == 0)?;
        i32::try_from(micros.div_euclid(DAY)).ok()
    })
}

/// Eight zeros.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The last bytes of `digits`, one to eight, behind as many zeros as make eight; of each byte how it differs from a zero,
/// so that of a digit it is the number.
///
/// Without a branch for the length, for that of a column's numbers cannot be foretold. What stands before `digits` in
/// `bytes` is read and masked, so there must be eight bytes.
#[inline(always)]
fn last_eight(bytes: &[u8], digits: Range<usize>) -> Option<u64> {
    let word = bytes.get(digits.end.checked_sub(8)?..digits.end)?;
    let word = u64::from_le_bytes(word.try_into().ok()?);
    debug_assert!((1..=8).contains(&digits.len()));
    // Less than nothing, of which the shift takes the lowest six bits, as the processor does: 64 less the digits' bits.
    let other_bits = 0u32.wrapping_sub(8 * digits.len() as u32);
    Some((word ^ ZEROS) & u64::MAX.wrapping_shl(other_bits))
}

/// Whether all of eight bytes are the numbers of digits.
#[inline(always)]
fn are_digits(word: u64) -> bool {
    // From 10 on the highest bit is set by the sum or was set before, and what is carried over comes from such a byte.
    (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080 == 0
}

/// The numbers of two digits each that eight digits are, in the bytes 0, 2, 4 and 6.
#[inline(always)]
fn pairs(digits: u64) -> u64 {
    digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff
}

/// The number that eight digits are, the first in the lowest byte.
///
/// Three multiplications, each of which joins neighbours: Johnny Lee, "Fast numeric string to int" (2016).
#[inline(always)]
fn eight_digits(digits: u64) -> Option<u64> {
    let fours = pairs(digits).wrapping_mul(100 << 16 | 1) >> 16;
    let eight = (fours & 0x0000_ffff_0000_ffff).wrapping_mul(10_000 << 32 | 1) >> 32;
    are_digits(digits).then_some(eight)
}

/// Up to 19 digits. `None` for anything else, and at the start of `bytes`.
fn quick_digits(bytes: &[u8], digits: Range<usize>) -> Option<u64> {
    match digits.len() {
        1..=8 => eight_digits(last_eight(bytes, digits)?),
        9..=16 => {
            let middle = digits.end - 8;
            let high = eight_digits(last_eight(bytes, digits.start..middle)?)?;
            Some(high * 100_000_000 + eight_digits(last_eight(bytes, middle..digits.end)?)?)
        }
        17..=19 => {
            let middle = digits.end - 16;
            let high = eight_digits(last_eight(bytes, digits.start..middle)?)?;
            let middle = eight_digits(last_eight(bytes, middle..digits.end - 8)?)?;
            let low = eight_digits(last_eight(bytes, digits.end - 8..digits.end)?)?;
            Some((high * 100_000_000 + middle) * 100_000_000 + low)
        }
        _ => None,
    }
}

/// [`integer`] of a part of `bytes`, by a shortcut for up to 19 digits.
#[inline]
pub fn integer_in(bytes: &[u8], field: Range<usize>, exact: bool) -> Option<i64> {
    let negative = bytes.get(field.start) == Some(&b'-');
    let digits = field.start + usize::from(negative)..field.end;
    let plain = !exact || bytes.get(digits.start) != Some(&b'0') || (digits.len() == 1 && !negative);
    let value = match digits.len() {
        1..=8 => last_eight(bytes, digits).and_then(eight_digits),
        _ => quick_digits(bytes, digits),
    };
    match value.map(u64::cast_signed) {
        Some(value @ 0..) if plain => Some(if negative { -value } else { value }),
        _ => integer(bytes.get(field)?, exact),
    }
}

/// A decimal integer.
pub fn integer(bytes: &[u8], exact: bool) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] if !exact => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || (exact && digits[0] == b'0' && (digits.len() > 1 || negative)) {
        return None;
    }
    let mut value: i64 = 0;
    if digits.len() <= 18 {
        for &byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + i64::from(digit);
        }
        return Some(if negative { -value } else { value });
    }
    // Counted downwards, for there is one more negative number.
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// Powers of ten that a float holds exactly, as far as 15 digits need them.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// A number of up to 15 digits with a point among or beside them, as an integer and the number of digits behind the point.
#[inline(always)]
fn quick_decimal(bytes: &[u8], number: Range<usize>) -> Option<(u64, usize)> {
    match number.len() {
        2..=8 => {
            let word = last_eight(bytes, number)?;
            let place = first_point(word)?;
            Some((eight_digits(without_byte(word, place, 0))?, 7 - place as usize))
        }
        9..=16 => longer_decimal(bytes, number),
        _ => None,
    }
}

fn longer_decimal(bytes: &[u8], number: Range<usize>) -> Option<(u64, usize)> {
    let middle = number.end - 8;
    let high = last_eight(bytes, number.start..middle)?;
    let low = last_eight(bytes, middle..number.end)?;
    let (high, low, fraction) = match (first_point(low), first_point(high)) {
        (Some(place), _) => {
            let [.., carry] = high.to_le_bytes();
            (high << 8, without_byte(low, place, carry), 7 - place as usize)
        }
        (None, Some(place)) => (without_byte(high, place, 0), low, 15 - place as usize),
        _ => return None,
    };
    Some((eight_digits(high)? * 100_000_000 + eight_digits(low)?, fraction))
}

/// The place of the first point among eight bytes.
#[inline(always)]
fn first_point(word: u64) -> Option<u32> {
    const POINTS: u64 = ZEROS ^ 0x2e2e_2e2e_2e2e_2e2e;
    let zero_at_point = word ^ POINTS;
    // The lowest bit set is that of the first point; a byte behind it may be set too.
    let points = zero_at_point.wrapping_sub(0x0101_0101_0101_0101) & !zero_at_point & 0x8080_8080_8080_8080;
    (points != 0).then(|| points.trailing_zeros() / 8)
}

/// Takes out the byte at `place`, and lets those before it move up behind `first`.
#[inline(always)]
fn without_byte(word: u64, place: u32, first: u8) -> u64 {
    let behind = (u64::MAX << 8).wrapping_shl(8 * place);
    let before = !u64::MAX.wrapping_shl(8 * place);
    word & behind | (word & before) << 8 | u64::from(first)
}

/// [`float`] of a part of `bytes`, by a shortcut for up to 15 digits with a point.
///
/// Their integer and the power of ten are both floats without rounding, so the quotient is rounded once, as it must be:
/// William Clinger, "How to Read Floating Point Numbers Accurately" (1990).
#[inline]
pub fn float_in(bytes: &[u8], field: Range<usize>, exact: bool) -> Option<f64> {
    let negative = bytes.get(field.start) == Some(&b'-');
    let number = field.start + usize::from(negative)..field.end;
    // 007.5 is a number only for those who want it to be one.
    let leading_zero = exact && matches!(bytes.get(number.clone()), Some([b'0', b'0'..=b'9', ..]));
    match quick_decimal(bytes, number) {
        Some((digits, fraction)) if !leading_zero => {
            // Signed numbers take the processor one instruction.
            let value = digits.cast_signed() as f64 / POWERS[fraction & 15];
            Some(if negative { -value } else { value })
        }
        _ => float(bytes.get(field)?, exact),
    }
}

/// A floating point number, correctly rounded.
pub fn float(bytes: &[u8], exact: bool) -> Option<f64> {
    if exact && !plain_float(bytes) {
        return None;
    }
    let value: f64 = fast_float2::parse(bytes).ok()?;
    (!exact || keeps_digits(bytes, value)).then_some(value)
}

/// [`float`] with 32 bits, for which it is rounded once: through 64 bits it would be rounded twice.
pub fn float32(bytes: &[u8], exact: bool) -> Option<f32> {
    let value: f32 = fast_float2::parse(bytes).ok()?;
    // The number is the float itself, or that of the shortest digits that name it.
    let keeps_digits = || {
        let number = float(bytes, true);
        value.is_finite() && (number == Some(value.into()) || number == value.to_string().parse().ok())
    };
    (!exact || keeps_digits()).then_some(value)
}

/// Whether the digits of a number are those of its float: always so for 15 of them, and for more if they are the shortest
/// that name that float. An overflow and an underflow are not.
fn keeps_digits(bytes: &[u8], value: f64) -> bool {
    let mantissa = bytes.split(|byte| matches!(byte, b'e' | b'E')).next().unwrap_or_default();
    let digits = |text: &[u8]| {
        let digits: Vec<u8> =
            text.iter().copied().filter(u8::is_ascii_digit).skip_while(|&digit| digit == b'0').collect();
        let end = digits.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
        digits[..end].to_vec()
    };
    if !value.is_finite() || (value == 0.0 && mantissa.iter().any(|byte| matches!(byte, b'1'..=b'9'))) {
        return false;
    }
    // A sign and a point besides, and no subnormal number, which has fewer digits.
    if mantissa.len() <= 15 && (value == 0.0 || value.is_normal()) {
        return true;
    }
    // As they are written, for of two that are as near the one is even by one printer and the other by another.
    let mut shortest = zmij::Buffer::new();
    digits(mantissa) == digits(shortest.format_finite(value).split('e').next().unwrap_or_default().as_bytes())
}

/// `-12.5`, `.5`, `1e-9`; nothing that stands for another notion than the number itself (`007`, `+1`, `nan`), and no
/// integer that a float cannot hold.
fn plain_float(bytes: &[u8]) -> bool {
    let unsigned = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let whole = unsigned.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(unsigned.len());
    if whole == unsigned.len() {
        const LARGEST: u64 = 1 << 53;
        return integer(bytes, true).is_some_and(|value| value.unsigned_abs() <= LARGEST);
    }
    let leading_zero = whole > 1 && unsigned[0] == b'0';
    !leading_zero && (unsigned[0].is_ascii_digit() || unsigned[0] == b'.')
}

/// `number × 10^scale` for a decimal number with at most `scale` digits after the point that are not zero.
pub fn decimal(bytes: &[u8], scale: u32) -> Option<i128> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let point = digits.iter().position(|&byte| byte == b'.').unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let scale = scale as usize;
    let (kept, rest) = fraction.split_at(fraction.len().min(scale));
    if rest.iter().any(|&byte| byte != b'0') {
        return None;
    }
    let zeros = std::iter::repeat_n(&b'0', scale - kept.len());
    let mut value: i128 = 0;
    for &byte in whole.iter().chain(kept).chain(zeros) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    Some(if negative { -value } else { value })
}

/// Digits before the point and behind it of a number such as `-12.50`, which is plainly one: no `007.5`, `+1` or `1e5`.
pub fn decimal_digits(bytes: &[u8]) -> Option<(usize, usize)> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let point = memchr::memchr(b'.', digits).unwrap_or(digits.len());
    let (whole, fraction) = (digits.get(..point)?, digits.get(point + 1..).unwrap_or_default());
    let numeric = !whole.is_empty() && whole.iter().chain(fraction).all(u8::is_ascii_digit);
    let plain =
        numeric && !(whole.len() > 1 && whole.starts_with(b"0")) && (fraction.is_empty() == (point == digits.len()));
    plain.then_some((if whole == b"0" { 0 } else { whole.len() }, fraction.len()))
}

/// [`decimal`] of a part of `bytes`, by a shortcut for up to 15 digits with a point, or 19 without.
#[inline]
pub fn decimal_in(bytes: &[u8], field: Range<usize>, scale: u32, exact: bool) -> Option<i128> {
    let negative = bytes.get(field.start) == Some(&b'-');
    let number = field.start + usize::from(negative)..field.end;
    let quick = quick_decimal(bytes, number.clone()).or_else(|| Some((quick_digits(bytes, number.clone())?, 0)));
    // With digits and perhaps a point this is all that inference looks at.
    let plain =
        !exact || !matches!(bytes.get(number).unwrap_or_default(), [b'.', ..] | [.., b'.'] | [b'0', b'0'..=b'9', ..]);
    let power = |fraction: usize| WHOLE_POWERS.get((scale as usize).checked_sub(fraction)?);
    match quick.and_then(|(digits, fraction)| Some((digits, power(fraction)?))) {
        Some((digits, &power)) if plain => {
            // Less than 10^19 each.
            let value = i128::from(digits) * i128::from(power);
            Some(if negative { -value } else { value })
        }
        _ => {
            let field = bytes.get(field)?;
            let plain = !exact || decimal_digits(field).is_some();
            if plain { decimal(field, scale) } else { None }
        }
    }
}

/// Powers of ten that 64 bits hold.
const WHOLE_POWERS: [u64; 19] = {
    let mut powers = [1; 19];
    let mut place = 1;
    while place < powers.len() {
        powers[place] = powers[place - 1] * 10;
        place += 1;
    }
    powers
};

/// Days since 1970-01-01 of `YYYY-MM-DD` (ISO 8601, proleptic Gregorian calendar).
#[inline]
pub fn date(bytes: &[u8]) -> Option<i32> {
    let (start, &[d1, d2]) = bytes.split_first_chunk::<8>()? else { return None };
    let word = u64::from_le_bytes(*start);
    const DASHES: u64 = 0xff00_00ff_0000_0000;
    if word & DASHES != 0x2d2d_2d2d_2d2d_2d2d & DASHES {
        return None;
    }
    let day = u64::from(u16::from_le_bytes([d1, d2])) << 48;
    let digits = (word & 0xffff_ffff | word >> 8 & 0xffff_0000_0000 | day) ^ ZEROS;
    if !are_digits(digits) {
        return None;
    }
    let [century, _, year_of_century, _, month, _, day, _] = pairs(digits).to_le_bytes().map(u32::from);
    let year = 100 * century + year_of_century;
    const BEFORE: [u32; 13] = [0, 0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    const LENGTH: [u32; 13] = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = if year_of_century == 0 { century % 4 == 0 } else { year_of_century % 4 == 0 };
    let length = LENGTH.get(month as usize)? + u32::from(leap && month == 2);
    if day < 1 || day > length {
        return None;
    }
    // Leap years before this one from the year -400 on, where the calendar repeats; that one is the 1.
    let past = year + 399;
    let leaps = 1 + past / 4 - past / 100 + past / 400;
    let day_of_year = BEFORE[month as usize] + u32::from(leap && month > 2) + day - 1;
    const EPOCH: i32 = 719_528 + 146_097;
    Some(((year + 400) * 365 + leaps + day_of_year).cast_signed() - EPOCH)
}

fn two(tens: u8, ones: u8) -> Option<i32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i32::from(tens) * 10 + i32::from(ones))
}

/// Microseconds since midnight of `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff`.
pub fn time(bytes: &[u8]) -> Option<i64> {
    let (hours_minutes, rest) = bytes.split_at_checked(5)?;
    let &[h1, h2, b':', m1, m2] = hours_minutes else { return None };
    let (hour, minute) = (two(h1, h2)?, two(m1, m2)?);
    let (second, micros) = match rest {
        [] => (0, 0),
        &[b':', s1, s2] => (two(s1, s2)?, 0),
        [b':', s1, s2, b'.', fraction @ ..] => (two(*s1, *s2)?, fraction_micros(fraction)?),
        _ => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second)) * 1_000_000 + micros)
}

/// Digits after the point as microseconds; digits that microseconds cannot hold have to be zeros.
fn fraction_micros(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() {
        return None;
    }
    let (kept, rest) = digits.split_at(digits.len().min(6));
    if rest.iter().any(|&byte| byte != b'0') {
        return None;
    }
    let mut micros = 0;
    for place in 0..6 {
        let digit = kept.get(place).map_or(0, |byte| byte.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        micros = micros * 10 + i64::from(digit);
    }
    Some(micros)
}

/// Microseconds since 1970-01-01 of a date and a time with `T` or a space between them, and whether a zone was given
/// (`Z`, `+HH:MM`, `+HHMM`, `+HH`): if so, the result is in UTC. A date alone is no timestamp.
pub fn timestamp(bytes: &[u8]) -> Option<(i64, bool)> {
    quick_timestamp(bytes).or_else(|| any_timestamp(bytes))
}

/// The usual spellings: `YYYY-MM-DDTHH:MM:SS` and the same with `Z`.
#[inline]
fn quick_timestamp(bytes: &[u8]) -> Option<(i64, bool)> {
    let (day, rest) = bytes.split_first_chunk::<10>()?;
    let ([b'T' | b' '], rest) = rest.split_first_chunk::<1>()? else { return None };
    let (clock, zone) = rest.split_first_chunk::<8>()?;
    let zoned = match zone {
        [] => false,
        [b'Z'] => true,
        _ => return None,
    };
    const COLONS: u64 = 0x0000_ff00_00ff_0000;
    let word = u64::from_le_bytes(*clock);
    if word & COLONS != 0x3a3a_3a3a_3a3a_3a3a & COLONS {
        return None;
    }
    let digits = (word & 0xffff | word >> 8 & 0xffff_0000 | word >> 16 & 0xffff_0000_0000) ^ ZEROS >> 16;
    if !are_digits(digits) {
        return None;
    }
    let [hour, _, minute, _, second, ..] = pairs(digits).to_le_bytes().map(u64::from);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = (hour * 3600 + minute * 60 + second).cast_signed();
    Some((i64::from(date(day)?) * 86_400_000_000 + seconds * 1_000_000, zoned))
}

fn any_timestamp(bytes: &[u8]) -> Option<(i64, bool)> {
    let (day, rest) = bytes.split_at_checked(10)?;
    let [b'T' | b' ', clock @ ..] = rest else { return None };
    let (clock, offset_minutes) = match clock {
        [clock @ .., b'Z'] => (clock, Some(0)),
        _ => match clock.iter().rposition(|byte| matches!(byte, b'+' | b'-')) {
            Some(at) => {
                let hours = |tens, ones| two(tens, ones).filter(|&hours| hours <= 23);
                let minutes = match clock[at + 1..] {
                    [h1, h2] => hours(h1, h2)? * 60,
                    [h1, h2, m1, m2] | [h1, h2, b':', m1, m2] => {
                        let minutes = two(m1, m2)?;
                        if minutes > 59 {
                            return None;
                        }
                        hours(h1, h2)? * 60 + minutes
                    }
                    _ => return None,
                };
                let sign = if clock[at] == b'-' { -1 } else { 1 };
                (&clock[..at], Some(sign * minutes))
            }
            None => (clock, None),
        },
    };
    let local = i64::from(date(day)?) * 86_400_000_000 + time(clock)?;
    let utc = local - i64::from(offset_minutes.unwrap_or(0)) * 60_000_000;
    Some((utc, offset_minutes.is_some()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_come_back(value in any::<i64>()) {
            prop_assert_eq!(integer(value.to_string().as_bytes(), true), Some(value));
        }

        #[test]
        fn floats_come_back(value in any::<f64>()) {
            let text = format!("{value:?}");
            prop_assert_eq!(float(text.as_bytes(), false).map(f64::to_bits), Some(value.to_bits()));
        }

        #[test]
        fn floats_of_32_bits_come_back(value in any::<f32>()) {
            let text = format!("{value:?}");
            prop_assert_eq!(float32(text.as_bytes(), false).map(f32::to_bits), Some(value.to_bits()));
            let expected = value.is_finite().then_some(value);
            prop_assert_eq!(float32(text.as_bytes(), true).map(f32::to_bits), expected.map(f32::to_bits));
        }

        /// The shortcuts against the plain way, wherever in a text a number stands.
        #[test]
        fn shortcuts_give_what_the_plain_way_gives(
            before in "[0-9,]{0,20}",
            number in prop_oneof![
                "[0-9.+-]{0,20}", "-?[0-9]{1,20}", "-?9[0-9]{18}", "-?[0-9]{0,10}[.][0-9]{0,10}", "-?0[.][0-9]{1,15}"
            ],
            exact in any::<bool>(), scale in 0u32..25,
        ) {
            let text = format!("{before}{number}");
            let (bytes, field) = (text.as_bytes(), before.len()..text.len());
            prop_assert_eq!(integer_in(bytes, field.clone(), exact), integer(number.as_bytes(), exact));
            let bits = |value: Option<f64>| value.map(f64::to_bits);
            prop_assert_eq!(bits(float_in(bytes, field.clone(), exact)), bits(float(number.as_bytes(), exact)));
            let plainly = decimal(number.as_bytes(), scale)
                .filter(|_| !exact || decimal_digits(number.as_bytes()).is_some());
            prop_assert_eq!(decimal_in(bytes, field, scale, exact), plainly);
        }

        /// The shortcut for usual timestamps against the plain way.
        #[test]
        fn usual_timestamps_are_as_all(
            text in prop_oneof![
                "2024-0[0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]Z?",
                "2024-02-29[T ][0-2][0-9:][:0][0-6/][0-9:][:0][0-6][0-9][Z+]?",
            ],
        ) {
            let quick = quick_timestamp(text.as_bytes());
            prop_assert!(quick.is_none() || quick == any_timestamp(text.as_bytes()), "{}", text);
        }

        /// Against the calendar of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
        #[test]
        fn dates_follow_the_calendar(year in 0i32..10_000, month in 1i32..13, day in 1i32..29) {
            let march_year = if month <= 2 { year - 1 } else { year };
            let (era, year_of_era) = (march_year.div_euclid(400), march_year.rem_euclid(400));
            let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
            let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
            prop_assert_eq!(date(format!("{year:04}-{month:02}-{day:02}").as_bytes()), Some(days));
        }

        /// All digits at once against one after another, with any byte anywhere.
        #[test]
        fn no_other_text_is_a_date(
            text in "[0-9]{4}-[0-3][0-9]-[0-3][0-9]", place in 0usize..10, byte in any::<u8>(), changed in any::<bool>(),
        ) {
            let mut bytes = text.into_bytes();
            if changed {
                bytes[place] = byte;
            }
            let number = |range: Range<usize>| {
                let digits = bytes.get(range).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
                integer(digits, false)
            };
            let is_date = match (number(0..4), bytes[4], number(5..7), bytes[7], number(8..10)) {
                (Some(year), b'-', Some(month), b'-', Some(day)) => {
                    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
                    let days = match month {
                        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
                        4 | 6 | 9 | 11 => 30,
                        2 => 28 + i64::from(leap),
                        _ => 0,
                    };
                    (1..=days).contains(&day)
                }
                _ => false,
            };
            prop_assert_eq!(date(&bytes).is_some(), is_date, "{:?}", String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop::sample::select(b"0123456789+-.:eTZ ".to_vec()), 0..32)) {
            let _ = (integer(&bytes, true), float(&bytes, true), decimal(&bytes, 4), timestamp(&bytes), time(&bytes));
        }
    }

    #[test]
    fn only_digits_are_digits() {
        for (place, byte) in (0..8).flat_map(|place| (0..=255).map(move |byte| (place, byte))) {
            for others in [*b"00000000", *b"99999999"] {
                let mut bytes = others;
                bytes[place] = byte;
                let digits = u64::from_le_bytes(bytes) ^ ZEROS;
                assert_eq!(are_digits(digits), byte.is_ascii_digit(), "{bytes:?}");
            }
        }
    }

    #[test]
    fn booleans() {
        // Each of them, and each with one byte changed, added or taken away.
        for text in ["true", "True", "TRUE", "false", "False", "FALSE"] {
            for (place, byte) in (0..text.len()).flat_map(|place| (0..=255).map(move |byte| (place, byte))) {
                let mut bytes = text.as_bytes().to_vec();
                bytes[place] = byte;
                let plainly = match bytes.as_slice() {
                    b"true" | b"True" | b"TRUE" => Some(true),
                    b"false" | b"False" | b"FALSE" => Some(false),
                    _ => None,
                };
                assert_eq!(boolean(&bytes), plainly, "{bytes:?}");
                bytes.push(byte);
                assert_eq!(boolean(&bytes), None, "{bytes:?}");
            }
            assert_eq!(boolean(&text.as_bytes()[1..]), None);
            assert_eq!(boolean(&text.as_bytes()[..text.len() - 1]), None);
        }
        assert_eq!(boolean(b""), None);
    }

    #[test]
    fn integers() {
        for (text, exact, loose) in [
            ("0", Some(0), Some(0)),
            ("-9223372036854775808", Some(i64::MIN), Some(i64::MIN)),
            ("9223372036854775808", None, None),
            ("007", None, Some(7)),
            ("+1", None, Some(1)),
            ("-0", None, Some(0)),
            ("", None, None),
            ("-", None, None),
            ("1.0", None, None),
            ("1 ", None, None),
        ] {
            assert_eq!((integer(text.as_bytes(), true), integer(text.as_bytes(), false)), (exact, loose), "{text:?}");
        }
    }

    #[test]
    fn floats_of_32_bits_keep_the_digits() {
        for (text, exact) in [
            ("0.1", Some(0.1)),
            ("-1.50e3", Some(-1500.0)),
            ("16777216", Some(16_777_216.0)),
            ("0.10000000149011612", Some(0.1)),
            ("16777217", None),
            ("0.123456789", None),
            ("1e60", None),
            ("1e-60", None),
            ("nan", None),
            ("inf", None),
        ] {
            assert_eq!(float32(text.as_bytes(), true), exact, "{text}");
            assert!(float32(text.as_bytes(), false).is_some(), "{text}");
        }
        assert_eq!(float32(b"x", false), None);
    }

    #[test]
    fn floats() {
        for (text, exact) in [
            ("1.5", Some(1.5)),
            ("-.5", Some(-0.5)),
            ("5.", Some(5.0)),
            ("0.25", Some(0.25)),
            ("1e3", Some(1000.0)),
            ("12", Some(12.0)),
            ("9007199254740993", None),
            ("10.357019999999999", Some(10.357019999999999)),
            ("0.1000000000000000000", Some(0.1)),
            ("12345678901234567.89", None),
            ("9007199254740993.0", None),
            ("0.12345678901234567890", None),
            ("1e400", None),
            ("1e-400", None),
            ("0e-400", Some(0.0)),
            ("5e-324", Some(5e-324)),
            ("4.9e-324", None),
            ("00.5", None),
            ("+1.5", None),
            ("nan", None),
            ("inf", None),
            ("1.5x", None),
            (".", None),
        ] {
            assert_eq!(float(text.as_bytes(), true), exact, "{text:?}");
        }
        assert!(float(b"NaN", false).is_some_and(f64::is_nan));
    }

    #[test]
    fn decimals() {
        for (text, expected) in [
            ("1.25", Some(1250)),
            ("-1.2500", Some(-1250)),
            (".5", Some(500)),
            ("7", Some(7000)),
            ("1.2345", None),
            ("1e3", None),
            (".", None),
            ("", None),
            ("1.2.3", None),
        ] {
            assert_eq!(decimal(text.as_bytes(), 3), expected, "{text:?}");
        }
    }

    #[test]
    fn dates_and_times() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("1969-12-31", Some(-1)),
            ("2000-02-29", Some(11_016)),
            ("0001-01-01", Some(-719_162)),
            ("9999-12-31", Some(2_932_896)),
            ("1900-02-29", None),
            ("2013-13-01", None),
            ("2013-00-10", None),
            ("2013-1-1", None),
        ] {
            assert_eq!(date(text.as_bytes()), expected, "{text:?}");
        }
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some((0, true))),
            ("1970-01-01 00:00", Some((0, false))),
            ("1970-01-01 01:00:00+01:00", Some((0, true))),
            ("1969-12-31T23:30:00.5-0030", Some((500_000, true))),
            ("1970-01-01 00:00:01.1234560", Some((1_123_456, false))),
            ("1970-01-01 00:00:01.1234567", None),
            ("1970-01-01", None),
            ("1970-01-01T24:00:00", None),
            ("1970-01-01T00:00:00+99:00", None),
            ("1970-01-01T00:00:60", None),
        ] {
            assert_eq!(timestamp(text.as_bytes()), expected, "{text:?}");
        }
    }
}
