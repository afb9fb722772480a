//! From other encodings into UTF-8, on the fly.
//!
//! The single bytes of Windows-1252 are those of <https://encoding.spec.whatwg.org/index-windows-1252.txt>, but the five
//! that it leaves undefined are refused.

use std::io::{self, Read};

use etlrs_core::{Error, ErrorKind, OptionValue, unknown_name};

/// How the characters of a file are spelled as bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// UTF-8, of which ASCII is a part.
    #[default]
    Utf8,
    /// UTF-16 with the lower byte first.
    Utf16Le,
    /// UTF-16 with the higher byte first.
    Utf16Be,
    /// ISO 8859-1: each byte is the character of its number.
    Latin1,
    /// What Windows wrote in western Europe: Latin-1 with typographic characters in place of control codes.
    Windows1252,
}

const NAMES: [(&str, Encoding); 5] = [
    ("utf-8", Encoding::Utf8),
    ("utf-16le", Encoding::Utf16Le),
    ("utf-16be", Encoding::Utf16Be),
    ("latin-1", Encoding::Latin1),
    ("windows-1252", Encoding::Windows1252),
];

impl Encoding {
    /// Its name, as the option `encoding` takes it.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, encoding)| *encoding == self).map_or("utf-8", |(name, _)| name)
    }

    /// What the byte order mark at the start of a file says.
    pub fn of_mark(start: &[u8]) -> Option<Self> {
        match start {
            [0xef, 0xbb, 0xbf, ..] => Some(Self::Utf8),
            [0xff, 0xfe, ..] => Some(Self::Utf16Le),
            [0xfe, 0xff, ..] => Some(Self::Utf16Be),
            _ => None,
        }
    }

    /// Appends the characters of `raw` and gives the number of bytes that they take: all, but for a character that is not
    /// all there yet. The error is the offset of what is no character; those before it are appended.
    fn decode(self, raw: &[u8], text: &mut Vec<u8>) -> Result<usize, usize> {
        let unit = |pair: &[u8; 2]| match self {
            Self::Utf16Be => u16::from_be_bytes(*pair),
            _ => u16::from_le_bytes(*pair),
        };
        let mut push = |c: char| match u8::try_from(c) {
            Ok(byte) if byte < 0x80 => text.push(byte),
            _ => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        };
        match self {
            Self::Utf8 => {
                text.extend_from_slice(raw);
                Ok(raw.len())
            }
            Self::Utf16Le | Self::Utf16Be => {
                let pairs = raw.as_chunks::<2>().0;
                let mut at = 0;
                while let Some(pair) = pairs.get(at) {
                    let first = unit(pair);
                    let (c, taken) = match char::from_u32(first.into()) {
                        Some(c) => (c, 1),
                        None => match pairs.get(at + 1) {
                            None if first < 0xdc00 => break,
                            None => return Err(2 * at),
                            Some(next) => match char::decode_utf16([first, unit(next)]).next() {
                                Some(Ok(c)) => (c, 2),
                                _ => return Err(2 * at),
                            },
                        },
                    };
                    push(c);
                    at += taken;
                }
                Ok(2 * at)
            }
            Self::Latin1 => {
                raw.iter().for_each(|&byte| push(char::from(byte)));
                Ok(raw.len())
            }
            Self::Windows1252 => {
                for (at, &byte) in raw.iter().enumerate() {
                    push(windows(byte).ok_or(at)?);
                }
                Ok(raw.len())
            }
        }
    }
}

fn windows(byte: u8) -> Option<char> {
    const SPECIAL: [char; 32] = [
        '€', '\0', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\0', 'Ž', '\0', '\0', '‘', '’', '“', '”',
        '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\0', 'ž', 'Ÿ',
    ];
    match byte.checked_sub(0x80).and_then(|place| SPECIAL.get(usize::from(place))) {
        Some('\0') => None,
        Some(&c) => Some(c),
        None => Some(char::from(byte)),
    }
}

impl OptionValue for Encoding {
    const KIND: &'static str = "utf-8, utf-16le, utf-16be, latin-1 or windows-1252";

    fn parse(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_lowercase();
        let name = match name.as_str() {
            "utf8" => "utf-8",
            "latin1" | "iso-8859-1" => "latin-1",
            "cp1252" => "windows-1252",
            other => other,
        };
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, encoding)| *encoding).ok_or_else(|| {
            let mut names = vec!["auto"];
            names.extend(NAMES.map(|(name, _)| name));
            unknown_name("encoding", text, &names).to_string()
        })
    }

    fn show(&self) -> String {
        self.name().to_owned()
    }
}

/// Bytes that are turned at a time.
const BLOCK: usize = 32 << 10;

/// Reads `input` as UTF-8.
///
/// What is no character is an error behind all characters before it: an [`Error`] within the [`io::Error`].
pub struct Transcoder<R> {
    input: R,
    encoding: Encoding,
    raw: Vec<u8>,
    /// Bytes of the input before `raw`.
    at: u64,
    text: Vec<u8>,
    /// Bytes of `text` that were handed out.
    given: usize,
    failed: Option<u64>,
}

impl<R: Read> Transcoder<R> {
    /// Of what `raw` gives, spelled in `encoding`.
    pub fn new(input: R, encoding: Encoding) -> Self {
        Self { input, encoding, raw: Vec::new(), at: 0, text: Vec::new(), given: 0, failed: None }
    }

    fn refused(&self, byte: u64) -> io::Error {
        let message = format!("there are bytes that are no character in {}", self.encoding.name());
        let error = Error::new(ErrorKind::InvalidData, message)
            .hint(format!("byte {byte} of the file before it is turned into UTF-8; set the option encoding"));
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

impl<R: Read> Read for Transcoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.text.len() {
            if let Some(byte) = self.failed {
                return Err(self.refused(byte));
            }
            let kept = self.raw.len();
            self.raw.resize(kept + BLOCK, 0);
            let read = self.input.read(&mut self.raw[kept..]);
            self.raw.truncate(kept + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                if kept > 0 {
                    self.failed = Some(self.at);
                    continue;
                }
                return Ok(0);
            }
            self.text.clear();
            self.given = 0;
            match self.encoding.decode(&self.raw, &mut self.text) {
                Ok(taken) => {
                    self.raw.drain(..taken);
                    self.at += taken as u64;
                }
                Err(offset) => self.failed = Some(self.at + offset as u64),
            }
        }
        let rest = &self.text[self.given..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.given += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `piece` bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = buffer.len().min(self.1);
            self.0.read(&mut buffer[..most])
        }
    }

    fn utf8(raw: &[u8], encoding: Encoding, piece: usize) -> io::Result<String> {
        let mut text = String::new();
        Transcoder::new(Slowly(raw, piece), encoding).read_to_string(&mut text)?;
        Ok(text)
    }

    proptest! {
        #[test]
        fn utf_16_comes_back(text in "\\PC{0,40}[\u{10000}-\u{10ffff}]?\\PC{0,9}", piece in 1usize..9) {
            let units = || text.encode_utf16();
            let little: Vec<u8> = units().flat_map(u16::to_le_bytes).collect();
            let big: Vec<u8> = units().flat_map(u16::to_be_bytes).collect();
            prop_assert_eq!(&utf8(&little, Encoding::Utf16Le, piece).unwrap(), &text);
            prop_assert_eq!(&utf8(&big, Encoding::Utf16Be, piece).unwrap(), &text);
        }

        #[test]
        fn no_bytes_panic(raw in prop::collection::vec(any::<u8>(), 0..60), piece in 1usize..9) {
            for (_, encoding) in NAMES {
                let _ = utf8(&raw, encoding, piece);
            }
        }
    }

    #[test]
    fn single_bytes() {
        assert_eq!(utf8(b"gr\xf6\xdfe \x93\x80\x94", Encoding::Windows1252, 3).unwrap(), "größe “€”");
        assert_eq!(utf8(b"gr\xf6\xdfe\x80", Encoding::Latin1, 3).unwrap(), "größe\u{80}");
    }

    #[test]
    fn what_is_no_character_is_refused_where_it_stands() {
        for (raw, encoding, byte) in [
            (&b"ab\x81c"[..], Encoding::Windows1252, "byte 2"),
            (b"a\0b", Encoding::Utf16Le, "byte 2"),
            (b"a\0\0\xdcb\0", Encoding::Utf16Le, "byte 2"),
            (b"a\0\0\xd8b\0", Encoding::Utf16Le, "byte 2"),
            (b"\0a\xd8\0", Encoding::Utf16Be, "byte 2"),
        ] {
            let error = utf8(raw, encoding, 1).unwrap_err().to_string();
            assert!(error.contains(byte) && error.contains(encoding.name()), "{raw:?}: {error}");
        }
    }
}
