//! The compact protocol of Thrift, as far as page headers and page indexes need it.
//!
//! The parquet crate keeps its own reader to itself, and what is read here is read to be distrusted: nothing is allocated
//! by a number that the bytes claim. See `thrift-compact-protocol.md` in Apache Thrift, and `parquet.thrift` in
//! apache/parquet-format.

/// Structs in structs that anybody means; page headers have two.
const MAX_DEPTH: usize = 16;

/// Why bytes cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// They end too early, so more of them may help.
    Short,
    /// They are not what they should be.
    Wrong,
}

type Result<T> = std::result::Result<T, Broken>;

/// The type of a field or of the elements of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    True,
    False,
    Byte,
    /// Of 16, 32 or 64 bits, which are written alike.
    Int,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

impl Kind {
    fn of(nibble: u8) -> Result<Self> {
        Ok(match nibble {
            1 => Self::True,
            2 => Self::False,
            3 => Self::Byte,
            4..=6 => Self::Int,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            _ => return Err(Broken::Wrong),
        })
    }
}

/// Bytes, and how far they are read.
#[derive(Clone, Debug)]
pub(crate) struct Compact<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl<'a> Compact<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, depth: 0 }
    }

    /// Bytes that are not read yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// What is not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Broken::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or(Broken::Short)
    }

    /// An integer of 64 bits in groups of seven, the lowest first.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken::Wrong)
    }

    /// The same as a number of bytes or elements.
    pub(crate) fn length(&mut self) -> Result<usize> {
        usize::try_from(self.varint()?).map_err(|_| Broken::Wrong)
    }

    /// An integer field or element.
    pub(crate) fn int(&mut self, kind: Kind) -> Result<i64> {
        if kind != Kind::Int {
            return Err(Broken::Wrong);
        }
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// The same of 32 bits.
    pub(crate) fn int32(&mut self, kind: Kind) -> Result<i32> {
        i32::try_from(self.int(kind)?).map_err(|_| Broken::Wrong)
    }

    /// Bytes or text.
    pub(crate) fn binary(&mut self, kind: Kind) -> Result<&'a [u8]> {
        if kind != Kind::Binary {
            return Err(Broken::Wrong);
        }
        let length = self.length()?;
        self.take(length)
    }

    /// An element of a list of booleans, which unlike a field has a byte of its own.
    pub(crate) fn boolean_element(&mut self, kind: Kind) -> Result<bool> {
        match kind {
            Kind::True | Kind::False => Ok(self.byte()? == 1),
            _ => Err(Broken::Wrong),
        }
    }

    /// The fields of a struct: `f` reads or skips each, told its number and type.
    pub(crate) fn fields(&mut self, mut f: impl FnMut(&mut Self, i64, Kind) -> Result<()>) -> Result<()> {
        self.deeper(|input| {
            let mut id = 0_i64;
            loop {
                let head = input.byte()?;
                if head == 0 {
                    return Ok(());
                }
                let kind = Kind::of(head & 0x0f)?;
                id = match head >> 4 {
                    0 => input.int(Kind::Int)?,
                    delta => id.checked_add(delta.into()).ok_or(Broken::Wrong)?,
                };
                f(input, id, kind)?;
            }
        })
    }

    /// The same of a struct that is a field or an element.
    pub(crate) fn structure(&mut self, kind: Kind, f: impl FnMut(&mut Self, i64, Kind) -> Result<()>) -> Result<()> {
        if kind == Kind::Struct { self.fields(f) } else { Err(Broken::Wrong) }
    }

    /// The elements of a list: `f` reads each, told its type.
    pub(crate) fn list(&mut self, kind: Kind, mut f: impl FnMut(&mut Self, Kind) -> Result<()>) -> Result<()> {
        if kind != Kind::List {
            return Err(Broken::Wrong);
        }
        self.deeper(|input| {
            let head = input.byte()?;
            let length = match head >> 4 {
                15 => input.length()?,
                length => length.into(),
            };
            // Each element takes a byte or more, so a list that claims too much ends with its bytes.
            (0..length).try_for_each(|_| f(input, Kind::of(head & 0x0f)?))
        })
    }

    /// Steps over a field.
    pub(crate) fn skip(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::True | Kind::False => Ok(()),
            Kind::Byte => self.byte().map(drop),
            Kind::Int => self.varint().map(drop),
            Kind::Double => self.take(8).map(drop),
            Kind::Binary => self.binary(kind).map(drop),
            Kind::Struct => self.fields(|input, _, kind| input.skip(kind)),
            Kind::List => self.list(kind, Self::skip_element),
            Kind::Map => self.deeper(|input| {
                let length = input.length()?;
                if length == 0 {
                    return Ok(());
                }
                let kinds = input.byte()?;
                let (key, value) = (Kind::of(kinds >> 4)?, Kind::of(kinds & 0x0f)?);
                (0..length).try_for_each(|_| {
                    input.skip_element(key)?;
                    input.skip_element(value)
                })
            }),
        }
    }

    fn skip_element(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::True | Kind::False => self.boolean_element(kind).map(drop),
            kind => self.skip(kind),
        }
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(Broken::Wrong);
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read_and_strangers_stepped_over() {
        // 1: int 300, 3: "ab", 4: true, 5: list of two ints, 7: a struct with a map, 40: int -1.
        let bytes = [
            0x15, 0xd8, 0x04, 0x28, 2, b'a', b'b', 0x11, 0x19, 0x25, 2, 4, 0x2c, 0x1b, 1, 0x58, 2, 1, b'x', 0, 0x05,
            80, 1, 0,
        ];
        let mut input = Compact::new(&bytes);
        let mut found = Vec::new();
        input
            .fields(|input, id, kind| {
                match id {
                    1 | 40 => found.push(input.int(kind)?),
                    5 => input.list(kind, |input, kind| input.int(kind).map(|value| found.push(value)))?,
                    _ => input.skip(kind)?,
                }
                Ok(())
            })
            .unwrap();
        assert_eq!((found, input.left()), (vec![300, 1, 2, -1], 0));
        for end in 0..bytes.len() {
            let mut input = Compact::new(&bytes[..end]);
            assert_eq!(input.fields(|input, _, kind| input.skip(kind)), Err(Broken::Short), "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut input = Compact::new(&bytes);
            let _ = input.fields(|input, _, kind| input.skip(kind));
        }

        #[test]
        fn deep_nesting_ends(byte in prop::sample::select(vec![0x1c_u8, 0x19, 0x99, 0xcc])) {
            let bytes = vec![byte; 100_000];
            let mut input = Compact::new(&bytes);
            prop_assert!(input.fields(|input, _, kind| input.skip(kind)).is_err());
        }
    }
}
