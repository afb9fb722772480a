//! The encodings that pack integers into few bits. Source: the Parquet format, `Encodings.md`.

/// Appends `value` as ULEB128.
pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` as zigzag ULEB128.
pub(crate) fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint((value << 1 ^ value >> 63).cast_unsigned(), out);
}

/// Bits that numbers up to `largest` need.
pub(crate) fn width(largest: u64) -> u32 {
    64 - largest.leading_zeros()
}

/// Appends each value, below 2^`width`, in `width` bits, the first value in the lowest ones; whole bytes, the last filled
/// with zeros.
fn pack<T: Copy + Into<u64>>(values: &[T], width: u32, out: &mut Vec<u8>) {
    let size = (values.len() * width as usize).div_ceil(8);
    let start = out.len();
    // A word more, for words are written whole.
    out.resize(start + size + 8, 0);
    let mut words = out[start..].as_chunks_mut::<8>().0.iter_mut();
    let (mut word, mut filled) = (0u64, 0);
    for &value in values {
        let value: u64 = value.into();
        word |= value << filled;
        filled += width;
        if filled >= 64 {
            if let Some(next) = words.next() {
                *next = word.to_le_bytes();
            }
            filled -= 64;
            word = value.unbounded_shr(width - filled);
        }
    }
    if let Some(last) = words.next() {
        *last = word.to_le_bytes();
    }
    out.truncate(start + size);
}

/// Runs of this length or longer are worth a run of their own.
const LONG_RUN: usize = 16;

/// Appends `values` in the hybrid of runs and packed bits, each value below 2^`width`.
pub(crate) fn hybrid(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let packed = |values: &[u32], out: &mut Vec<u8>| {
        if values.is_empty() {
            return;
        }
        let groups = values.len().div_ceil(8);
        varint((groups as u64) << 1 | 1, out);
        let end = out.len() + groups * width as usize;
        pack(values, width, out);
        // Eights of values take whole bytes; those that are missing are zeros.
        out.resize(end, 0);
    };
    // Packed runs hold eights of values, so a run can only begin at one.
    let (mut begun, mut at) = (0, 0);
    while at + LONG_RUN <= values.len() {
        let first = values[at];
        let block = &values[at..at + 8];
        if !block.iter().all(|&value| value == first) {
            at += 8;
            continue;
        }
        let length = values[at..].iter().take_while(|&&value| value == first).count();
        if length < LONG_RUN {
            at += 8;
            continue;
        }
        packed(&values[begun..at], out);
        varint((length as u64) << 1, out);
        out.extend_from_slice(&first.to_le_bytes()[..width.div_ceil(8) as usize]);
        at += length;
        begun = at;
    }
    packed(&values[begun..], out);
}

/// Integers that differences can be taken of.
pub(crate) trait Integer: Copy {
    fn widen(self) -> i64;
    /// `self - before`, wrapped around in the width of the type.
    fn difference(self, before: Self) -> i64;
    /// `difference - least`, likewise, as bits.
    fn above(difference: i64, least: i64) -> u64;
}

impl Integer for i32 {
    fn widen(self) -> i64 {
        self.into()
    }
    fn difference(self, before: Self) -> i64 {
        self.wrapping_sub(before).into()
    }
    fn above(difference: i64, least: i64) -> u64 {
        u64::from((difference as i32).wrapping_sub(least as i32).cast_unsigned())
    }
}

impl Integer for i64 {
    fn widen(self) -> i64 {
        self
    }
    fn difference(self, before: Self) -> i64 {
        self.wrapping_sub(before)
    }
    fn above(difference: i64, least: i64) -> u64 {
        difference.wrapping_sub(least).cast_unsigned()
    }
}

/// Appends `values` as `DELTA_BINARY_PACKED`: blocks of 128 differences in four parts, each part with its own width.
pub(crate) fn delta<T: Integer>(values: &[T], out: &mut Vec<u8>) {
    const BLOCK: usize = 128;
    const PARTS: usize = 4;
    varint(BLOCK as u64, out);
    varint(PARTS as u64, out);
    varint(values.len() as u64, out);
    zigzag(values.first().map_or(0, |value| value.widen()), out);
    let mut differences = [0; BLOCK];
    let mut before = values.first().copied();
    for block in values.get(1..).unwrap_or_default().chunks(BLOCK) {
        let differences = &mut differences[..block.len()];
        for (difference, &value) in differences.iter_mut().zip(block) {
            *difference = value.difference(before.unwrap_or(value));
            before = Some(value);
        }
        let least = differences.iter().copied().min().unwrap_or(0);
        zigzag(least, out);
        let widths = out.len();
        out.extend_from_slice(&[0; PARTS]);
        for (index, part) in differences.chunks(BLOCK / PARTS).enumerate() {
            // A part that is not full is filled with zeros.
            let mut above = [0; BLOCK / PARTS];
            for (above, &difference) in above.iter_mut().zip(part) {
                *above = T::above(difference, least);
            }
            let width = width(above.iter().fold(0, |all, bits| all | bits));
            out[widths + index] = width as u8;
            pack(&above, width, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    fn unpack(bytes: &[u8], width: u32, count: usize) -> Vec<u64> {
        let bit = |at: usize| u64::from(bytes[at / 8] >> (at % 8) & 1);
        let value = |index: usize| (0..width as usize).fold(0, |value, b| value | bit(index * width as usize + b) << b);
        (0..count).map(value).collect()
    }

    /// As the format tells a reader to do it, bit by bit.
    fn read_hybrid(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let header = read_varint(&mut bytes);
            let length = (header >> 1) as usize;
            if header & 1 == 1 {
                values.extend(unpack(bytes, width, length * 8).into_iter().map(|value| value as u32));
                bytes = &bytes[length * width as usize..];
            } else {
                let size = width.div_ceil(8) as usize;
                let value = unpack(bytes, size as u32 * 8, 1)[0] as u32;
                values.extend(std::iter::repeat_n(value, length));
                bytes = &bytes[size..];
            }
        }
        values.truncate(count);
        assert!(bytes.is_empty());
        values
    }

    fn read_delta(mut bytes: &[u8]) -> Vec<i64> {
        let bytes = &mut bytes;
        assert_eq!((read_varint(bytes), read_varint(bytes)), (128, 4));
        let count = read_varint(bytes) as usize;
        let signed = |bits: u64| (bits >> 1) as i64 ^ -((bits & 1) as i64);
        let mut values = vec![signed(read_varint(bytes))];
        while values.len() < count {
            let least = signed(read_varint(bytes));
            let widths = [bytes[0], bytes[1], bytes[2], bytes[3]];
            *bytes = &bytes[4..];
            for width in widths {
                if values.len() >= count {
                    break;
                }
                for above in unpack(bytes, width.into(), 32) {
                    values.push(values.last().unwrap().wrapping_add(least).wrapping_add(above as i64));
                }
                *bytes = &bytes[4 * width as usize..];
            }
        }
        assert!(bytes.is_empty());
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn hybrids_read_back(
            runs in prop::collection::vec((0u32..300, 1usize..40), 0..60), wider in 0u32..24,
        ) {
            let values: Vec<u32> = runs.iter().flat_map(|&(value, length)| std::iter::repeat_n(value, length)).collect();
            let width = 9 + wider;
            let mut bytes = Vec::new();
            hybrid(&values, width, &mut bytes);
            prop_assert_eq!(read_hybrid(&bytes, width, values.len()), values);
        }

        #[test]
        fn deltas_read_back(
            small in prop::collection::vec(-50i64..50, 1..400), large in prop::collection::vec(any::<i64>(), 1..300),
            narrow in prop::collection::vec(any::<i32>(), 1..300),
        ) {
            for values in [small, large] {
                let mut bytes = Vec::new();
                delta(&values, &mut bytes);
                prop_assert_eq!(read_delta(&bytes), values);
            }
            let mut bytes = Vec::new();
            delta(&narrow, &mut bytes);
            let read: Vec<i32> = read_delta(&bytes).into_iter().map(|value| value as i32).collect();
            prop_assert_eq!(read, narrow);
        }
    }
}
