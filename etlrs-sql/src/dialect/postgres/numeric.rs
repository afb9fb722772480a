//! The binary form of `numeric`: `ndigits`, `weight`, `sign`, `dscale`, 16 bits each, and then as many digits to base 10 000
//! (`src/backend/utils/adt/numeric.c`, `numeric_send`). The first digit counts 10000^weight. `dscale` is the number of
//! decimal digits shown after the point; zeros at either end may be missing among the digits.

use arrow_buffer::i256;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const PLUS_INFINITY: u16 = 0xD000;
const MINUS_INFINITY: u16 = 0xF000;

/// Why a numeric is none of the decimals of its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    NaN,
    Infinity,
    /// More digits before the point, or after it, than the type has.
    Digits,
    /// These bytes are no numeric.
    Malformed,
}

/// A numeric as the server sends it.
struct Raw<'a> {
    weight: i32,
    sign: u16,
    display_scale: u16,
    digits: &'a [u8],
}

impl<'a> Raw<'a> {
    #[inline]
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (head, digits) = bytes.split_at_checked(8)?;
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        if digits.len() != usize::from(word(0)) * 2 {
            return None;
        }
        // The weight is signed.
        Some(Self { weight: i32::from(word(2) as i16), sign: word(4), display_scale: word(6), digits })
    }

    #[inline]
    fn digits(&self) -> impl ExactSizeIterator<Item = u16> + Clone + '_ {
        self.digits.chunks_exact(2).map(|digit| u16::from_be_bytes([digit[0], digit[1]]))
    }

    #[inline]
    fn finite(&self) -> Result<(), Misfit> {
        match self.sign {
            0 | NEGATIVE => Ok(()),
            NAN => Err(Misfit::NaN),
            PLUS_INFINITY | MINUS_INFINITY => Err(Misfit::Infinity),
            _ => Err(Misfit::Malformed),
        }
    }
}

/// What a decimal is counted in.
trait Integer: Copy {
    const ZERO: Self;
    /// `self * factor + addend`, unless that is too large.
    fn times_plus(self, factor: u16, addend: u16) -> Option<Self>;
    fn negated(self) -> Self;
}

impl Integer for i128 {
    const ZERO: Self = 0;

    #[inline]
    fn times_plus(self, factor: u16, addend: u16) -> Option<Self> {
        self.checked_mul(factor.into())?.checked_add(addend.into())
    }

    fn negated(self) -> Self {
        -self
    }
}

impl Integer for i256 {
    const ZERO: Self = i256::ZERO;

    fn times_plus(self, factor: u16, addend: u16) -> Option<Self> {
        self.checked_mul(i256::from_i128(factor.into()))?.checked_add(i256::from_i128(addend.into()))
    }

    fn negated(self) -> Self {
        self.wrapping_neg()
    }
}

/// The number as a count of `10^-scale`, exactly.
#[inline]
fn decode<T: Integer>(bytes: &[u8], scale: u8) -> Result<T, Misfit> {
    let raw = Raw::new(bytes).ok_or(Misfit::Malformed)?;
    raw.finite()?;
    let mut value = T::ZERO;
    // Decimal digits that follow the place of the digit before.
    let mut follow = (raw.weight + 1) * 4 + i32::from(scale);
    for digit in raw.digits() {
        match follow {
            4.. => value = value.times_plus(10_000, digit).ok_or(Misfit::Digits)?,
            1..=3 => {
                let power = 10_u16.pow(follow.unsigned_abs());
                let rest = 10_000 / power;
                if digit % rest != 0 {
                    return Err(Misfit::Digits);
                }
                value = value.times_plus(power, digit / rest).ok_or(Misfit::Digits)?;
            }
            _ if digit != 0 => return Err(Misfit::Digits),
            _ => {}
        }
        follow -= 4;
    }
    // Zeros that are not among the digits. More than the type can have end in an overflow, but for zero itself.
    if raw.digits().all(|digit| digit == 0) {
        return Ok(value);
    }
    while follow > 0 {
        let step = follow.min(4);
        value = value.times_plus(10_u16.pow(step.unsigned_abs()), 0).ok_or(Misfit::Digits)?;
        follow -= step;
    }
    Ok(if raw.sign == NEGATIVE { value.negated() } else { value })
}

/// As a decimal of up to 38 digits.
#[inline]
pub(super) fn to_decimal128(bytes: &[u8], precision: u8, scale: u8) -> Result<i128, Misfit> {
    let value: i128 = decode(bytes, scale)?;
    if value.unsigned_abs() >= 10_u128.pow(u32::from(precision).min(38)) {
        return Err(Misfit::Digits);
    }
    Ok(value)
}

/// As a decimal of up to 76 digits.
pub(super) fn to_decimal256(bytes: &[u8], precision: u8, scale: u8) -> Result<i256, Misfit> {
    let value: i256 = decode(bytes, scale)?;
    let limit = i256::from_i128(10).wrapping_pow(u32::from(precision).min(76));
    if value >= limit || value <= limit.wrapping_neg() {
        return Err(Misfit::Digits);
    }
    Ok(value)
}

/// Appends the number as PostgreSQL writes it, with all digits of its scale.
pub(super) fn write_text(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
    let raw = Raw::new(bytes).ok_or(Misfit::Malformed)?;
    match raw.sign {
        0 => {}
        NEGATIVE => out.push(b'-'),
        special => {
            let text: &[u8] = match special {
                NAN => b"NaN",
                PLUS_INFINITY => b"Infinity",
                MINUS_INFINITY => b"-Infinity",
                _ => return Err(Misfit::Malformed),
            };
            out.extend_from_slice(text);
            return Ok(());
        }
    }
    let group = |place: i32| {
        let index = usize::try_from(raw.weight - place).ok();
        index.and_then(|index| raw.digits().nth(index)).unwrap_or(0)
    };
    let decimal = |digit: u16| {
        let at = |power: u16| b'0' + (digit / power % 10) as u8;
        [at(1000), at(100), at(10), at(1)]
    };
    let start = out.len();
    for place in (0..=raw.weight).rev() {
        out.extend(decimal(group(place)));
    }
    let zeros = out[start..].iter().take_while(|&&byte| byte == b'0').count();
    out.drain(start..start + zeros);
    if out.len() == start {
        out.push(b'0');
    }
    let scale = usize::from(raw.display_scale);
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + scale;
        let mut place = -1;
        while out.len() < end {
            out.extend(decimal(group(place)));
            place -= 1;
        }
        out.truncate(end);
    }
    Ok(())
}

/// Appends a field, its length included: `magnitude / 10^scale`.
#[inline]
pub(super) fn write_u64(out: &mut Vec<u8>, negative: bool, magnitude: u64, scale: u8) {
    // The fraction in whole groups: 10^scale times what fills the last one, while both are within 64 bits.
    if scale > 16 {
        return write_digits(out, negative, magnitude.to_string().as_bytes(), scale.into());
    }
    let unit = 10_u64.pow(scale.into());
    let (mut whole, fraction) = (magnitude / unit, magnitude % unit);
    let groups = usize::from(scale.div_ceil(4));
    let mut fraction = fraction * 10_u64.pow(groups as u32 * 4 - u32::from(scale));
    // Up to five groups before the point and four after it, from the last to the first.
    let mut digits = [0_u16; 9];
    let mut first = digits.len();
    for _ in 0..groups {
        first -= 1;
        digits[first] = (fraction % 10_000) as u16;
        fraction /= 10_000;
    }
    let mut weight = -1;
    while whole > 0 {
        first -= 1;
        digits[first] = (whole % 10_000) as u16;
        whole /= 10_000;
        weight += 1;
    }
    write_groups(out, negative, weight, scale.into(), &digits[first..]);
}

/// Appends a field, its length included, of decimal digits (`0` to `9`), `scale` of them after the point.
pub(super) fn write_digits(out: &mut Vec<u8>, negative: bool, decimal: &[u8], scale: u16) {
    let after = decimal.len().min(scale.into());
    let (whole, fraction) = decimal.split_at(decimal.len() - after);
    // Zeros between the point and the first digit that is given.
    let missing = usize::from(scale) - after;
    let mut groups = Vec::with_capacity(whole.len() / 4 + usize::from(scale) / 4 + 2);
    let number =
        |digits: &mut dyn Iterator<Item = u8>| digits.fold(0_u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let head = whole.len() % 4;
    if head > 0 {
        groups.push(number(&mut whole[..head].iter().copied()));
    }
    for group in whole[head..].chunks(4) {
        groups.push(number(&mut group.iter().copied()));
    }
    // A number of digits has at most some thousands of groups.
    let weight = groups.len() as i32 - 1;
    let padded: Vec<u8> = std::iter::repeat_n(b'0', missing).chain(fraction.iter().copied()).collect();
    for group in padded.chunks(4) {
        groups.push(number(&mut group.iter().copied().chain(std::iter::repeat(b'0')).take(4)));
    }
    write_groups(out, negative, weight, scale, &groups);
}

fn write_groups(out: &mut Vec<u8>, negative: bool, mut weight: i32, scale: u16, mut groups: &[u16]) {
    while let [0, rest @ ..] = groups {
        groups = rest;
        weight -= 1;
    }
    while let [rest @ .., 0] = groups {
        groups = rest;
    }
    let (weight, sign) = match groups {
        [] => (0, 0),
        _ => (weight, if negative { NEGATIVE } else { 0 }),
    };
    // A field has at most some thousands of groups, see `write_parsed` and the types of Arrow.
    out.extend((groups.len() as u32 * 2 + 8).to_be_bytes());
    out.extend((groups.len() as u16).to_be_bytes());
    out.extend((weight as i16).to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(scale.to_be_bytes());
    for group in groups {
        out.extend(group.to_be_bytes());
    }
}

/// Appends a field for a number in text (`-12.50`, `NaN`, `Infinity`), keeping its scale; `None` if it is none.
pub(super) fn write_parsed(out: &mut Vec<u8>, text: &str) -> Option<()> {
    /// Digits that a numeric has at the most before the point, and after it.
    const MOST: (usize, usize) = (131_072, 16_383);

    let special = |out: &mut Vec<u8>, sign: u16| {
        out.extend(8_u32.to_be_bytes());
        out.extend([0; 4]);
        out.extend(sign.to_be_bytes());
        out.extend([0; 2]);
        Some(())
    };
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if text.eq_ignore_ascii_case("nan") {
        return special(out, NAN);
    }
    if digits.eq_ignore_ascii_case(b"infinity") {
        return special(out, if negative { MINUS_INFINITY } else { PLUS_INFINITY });
    }
    let point = digits.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &digits[digits.len()..]),
    };
    let decimal = [whole, fraction].concat();
    if decimal.is_empty() || !decimal.iter().all(u8::is_ascii_digit) || whole.len() > MOST.0 || fraction.len() > MOST.1
    {
        return None;
    }
    write_digits(out, negative, &decimal, u16::try_from(fraction.len()).ok()?);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        let length = u32::from_be_bytes(out[..4].try_into().unwrap());
        assert_eq!(length as usize, out.len() - 4);
        out.split_off(4)
    }

    fn text(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        write_text(bytes, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn parsed(text: &str) -> Vec<u8> {
        field(|out| write_parsed(out, text).unwrap())
    }

    #[test]
    fn numbers_as_the_server_sends_them() {
        // select numeric_send('-12345.67'), of PostgreSQL 15.
        let sent = [0, 3, 0, 1, 0x40, 0, 0, 2, 0, 1, 0x09, 0x29, 0x1a, 0x2c];
        assert_eq!(text(&sent), "-12345.67");
        assert_eq!(parsed("-12345.67"), sent);
        assert_eq!(to_decimal128(&sent, 7, 2), Ok(-1_234_567));
        assert_eq!(to_decimal128(&sent, 6, 2), Err(Misfit::Digits));
        assert_eq!(to_decimal128(&sent, 9, 1), Err(Misfit::Digits));
        assert_eq!(to_decimal128(&sent, 9, 4), Ok(-123_456_700));
        for (text, misfit) in [("NaN", Misfit::NaN), ("Infinity", Misfit::Infinity), ("-Infinity", Misfit::Infinity)] {
            assert_eq!(to_decimal128(&parsed(text), 38, 0), Err(misfit));
            assert_eq!(self::text(&parsed(text)), text);
        }
        assert_eq!(to_decimal128(&[0, 1, 0, 0], 38, 0), Err(Misfit::Malformed));
        for text in
            ["", "-", ".", "1e5", "1.2.3", "x", "- 1", &"1".repeat(131_073), &format!("0.{}", "1".repeat(16_384))]
        {
            assert!(write_parsed(&mut Vec::new(), text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(negative: bool, whole in "0|[1-9][0-9]{0,40}", fraction in "[0-9]{0,40}") {
            let point = if fraction.is_empty() { "" } else { "." };
            let zero = whole == "0" && fraction.bytes().all(|byte| byte == b'0');
            let sign = if negative && !zero { "-" } else { "" };
            let number = format!("{sign}{whole}{point}{fraction}");
            prop_assert_eq!(text(&parsed(&number)), number);
        }

        #[test]
        fn decimals_come_back(value in -(10_i128.pow(38) - 1)..10_i128.pow(38), shift in 0..120_u32, scale in 0..=38_u8) {
            let value = value >> shift;
            let digits = value.unsigned_abs().to_string();
            let plain = field(|out| write_digits(out, value < 0, digits.as_bytes(), scale.into()));
            prop_assert_eq!(to_decimal128(&plain, 38, scale), Ok(value));
            prop_assert_eq!(to_decimal256(&plain, 76, scale), Ok(i256::from_i128(value)));
            if let Ok(small) = u64::try_from(value.unsigned_abs()) {
                prop_assert_eq!(field(|out| write_u64(out, value < 0, small, scale)), plain);
            }
        }

        #[test]
        fn wide_decimals_come_back(high: i128, low: u128, scale in 0..=76_u8) {
            let value = i256::from_parts(low, high);
            let text = value.to_string();
            let digits = text.trim_start_matches('-');
            let bytes = field(|out| write_digits(out, high < 0, digits.as_bytes(), scale.into()));
            let expected = if digits.len() > 76 { Err(Misfit::Digits) } else { Ok(value) };
            prop_assert_eq!(to_decimal256(&bytes, 76, scale), expected);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..24), scale in 0..=76_u8) {
            _ = to_decimal128(&bytes, 38, scale.min(38));
            _ = to_decimal256(&bytes, 76, scale);
            _ = write_text(&bytes, &mut Vec::new());
        }
    }
}
