//! Dictionaries of a column's values, and whether a column is worth one.

/// Values numbered in the order of their first appearance: an open-addressing table of the numbers.
pub(crate) struct Slots {
    /// Number of the value plus one; 0 is free. At most half are taken.
    table: Vec<u32>,
    taken: u32,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self { table: vec![0; 1024], taken: 0 }
    }

    pub(crate) fn memory(&self) -> usize {
        self.table.len() * 4
    }

    /// The number of a value with this hash, for which `same` tells whether it is the value of a number; the next number
    /// if there is none. `rehash` gives the hash of a number's value.
    ///
    /// The highest bits of the hash have to be good.
    #[inline]
    pub(crate) fn number(&mut self, hash: u64, same: impl Fn(u32) -> bool, rehash: impl Fn(u32) -> u64) -> (u32, bool) {
        let mut at = self.home(hash);
        loop {
            match self.table[at] {
                0 => break,
                number if same(number - 1) => return (number - 1, false),
                _ => at = (at + 1) & (self.table.len() - 1),
            }
        }
        if self.taken as usize * 2 >= self.table.len() {
            self.grow(rehash);
            at = self.home(hash);
            while self.table[at] != 0 {
                at = (at + 1) & (self.table.len() - 1);
            }
        }
        self.taken += 1;
        self.table[at] = self.taken;
        (self.taken - 1, true)
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        (hash >> (64 - self.table.len().trailing_zeros())) as usize
    }

    #[cold]
    fn grow(&mut self, rehash: impl Fn(u32) -> u64) {
        self.table = vec![0; self.table.len() * 2];
        for number in 0..self.taken {
            let mut at = self.home(rehash(number));
            while self.table[at] != 0 {
                at = (at + 1) & (self.table.len() - 1);
            }
            self.table[at] = number + 1;
        }
    }
}

/// Both halves of a product, so that each bit of `value` moves the highest ones.
#[inline]
pub(crate) fn hash_word(value: u64) -> u64 {
    let product = u128::from(value ^ 0xa076_1d64_78bd_642f) * 0xe703_7ed1_a0b4_28db;
    product as u64 ^ (product >> 64) as u64
}

#[inline]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    // Spread over all bits, or it would only undo what the lowest byte says.
    let length = (bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let half = |bytes: &[u8; 4]| u64::from(u32::from_le_bytes(*bytes));
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => {
            let middle = if bytes.len() > 16 { &bytes[8..bytes.len() - 8] } else { &[] };
            let state = middle.chunks(8).fold(hash_word(word(first) ^ length), |state, chunk| {
                let mut padded = [0; 8];
                padded[..chunk.len()].copy_from_slice(chunk);
                hash_word(state ^ word(&padded))
            });
            hash_word(state ^ word(last))
        }
        _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => hash_word((half(first) | half(last) << 32) ^ length),
            _ => {
                let at = |index: usize| u64::from(bytes.get(index).copied().unwrap_or(0));
                hash_word((at(0) | at(1) << 8 | at(2) << 16) ^ length)
            }
        },
    }
}

/// Values that are looked at to tell how many different ones a column has.
pub(crate) const SAMPLE: usize = 4096;

/// How many different values a column has, from `seen` values of which `distinct` differ.
///
/// If `all` values were equally frequent, a sample would have `all × (1 - e^(-seen/all))` different ones; this finds the
/// `all` for which that is so. Frequent and rare values make it too low, which `worth_keeping` finds out later.
pub(crate) fn estimate(seen: usize, distinct: usize) -> f64 {
    if distinct >= seen {
        return f64::INFINITY;
    }
    let (seen, distinct) = (seen as f64, distinct as f64);
    let (mut low, mut high) = (distinct, 1e9);
    for _ in 0..40 {
        let middle = f64::sqrt(low * high);
        if middle * -f64::exp_m1(-seen / middle) < distinct { low = middle } else { high = middle }
    }
    low
}

/// Bytes of a dictionary at the most, but for its last value. Readers keep it in memory, and their caches.
pub(crate) const LARGEST: usize = 1 << 20;

/// Whether a dictionary of `distinct` values, `bytes` in all, still makes the column of `values` values, `plain` bytes
/// in all, smaller.
pub(crate) fn worth_keeping(distinct: usize, bytes: usize, values: usize, plain: usize) -> bool {
    let numbers = values * super::bits::width(distinct as u64) as usize / 8;
    bytes <= LARGEST && (bytes + numbers) * 4 <= plain * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_in_their_order() {
        let mut values: Vec<u64> = Vec::new();
        let mut slots = Slots::new();
        for round in 0..3 {
            for value in (0..10_000u64).map(|value| value * 7) {
                let same = |number: u32| values[number as usize] == value;
                let (number, new) = slots.number(hash_word(value), same, |number| hash_word(values[number as usize]));
                assert_eq!((u64::from(number) * 7, new), (value, round == 0));
                if new {
                    values.push(value);
                }
            }
        }
        assert_eq!(values.len(), 10_000);
    }

    #[test]
    fn texts_of_all_lengths_have_different_hashes() {
        let texts = (0..100)
            .flat_map(|length| ["a".repeat(length), "a".repeat(length) + "b", "b".to_owned() + &"a".repeat(length)]);
        let hashes: std::collections::BTreeMap<u64, String> =
            texts.map(|text| (hash_bytes(text.as_bytes()), text)).collect();
        // "b" comes twice.
        assert_eq!(hashes.len(), 299);
        let tops: std::collections::BTreeSet<u64> = hashes.keys().map(|hash| hash >> 48).collect();
        assert!(tops.len() > 290);
    }

    #[test]
    fn a_sample_tells_how_many_there_are() {
        assert_eq!(estimate(4096, 4096), f64::INFINITY);
        assert!((estimate(4096, 50) - 50.0).abs() < 1.0);
        // 10 000 values drawn 4096 times: about 3361 differ.
        assert!((9_000.0..11_000.0).contains(&estimate(4096, 3361)));
    }
}
