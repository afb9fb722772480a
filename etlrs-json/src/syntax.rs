//! The grammar of JSON (RFC 8259), strictly, over bytes that are known to be UTF-8.
//!
//! Functions take the bytes and a place and give the place behind what they found, so that nothing is built of what nobody
//! wants. What ends before it is complete is [`Fault::End`]: the caller may have more bytes.

use etlrs_core::{Error, ErrorKind, Result};

/// Objects and lists within one another. Deeper ones are refused, whatever the stack would bear.
pub(crate) const DEEPEST: usize = 128;
pub(crate) const DEEP: &str = "values are nested deeper than 128 levels";

/// Why bytes are no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They end too early.
    End,
    /// This was expected at the place.
    Expected(usize, &'static str),
    /// What is at the place may not be there.
    Wrong(usize, &'static str),
}

impl Fault {
    /// Where it is, if not at the end of the bytes.
    pub(crate) fn at(self) -> Option<usize> {
        match self {
            Self::End => None,
            Self::Expected(at, _) | Self::Wrong(at, _) => Some(at),
        }
    }

    /// In words.
    pub(crate) fn message(self) -> String {
        match self {
            Self::End => "the JSON ends too early".to_owned(),
            Self::Expected(_, what) => format!("the text is no JSON: {what} is expected here"),
            Self::Wrong(_, what) => format!("the text is no JSON: {what}"),
        }
    }
}

type Parsed<T> = std::result::Result<T, Fault>;

/// The byte at `at`, which is not the end.
#[inline(always)]
pub(crate) fn byte(bytes: &[u8], at: usize) -> Parsed<u8> {
    bytes.get(at).copied().ok_or(Fault::End)
}

/// The place of what is no white space.
#[inline(always)]
pub(crate) fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The text of a string between its quotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a> {
    pub(crate) raw: &'a [u8],
    pub(crate) escaped: bool,
}

/// A string whose first quote is at `at`, and the place behind its last one.
#[inline]
pub(crate) fn string(bytes: &[u8], at: usize) -> Parsed<(Text<'_>, usize)> {
    let start = at + 1;
    let end = plain(bytes, start);
    if bytes.get(end) == Some(&b'"') {
        return Ok((Text { raw: &bytes[start..end], escaped: false }, end + 1));
    }
    escaped_string(bytes, start, end)
}

/// The place of the first quote, backslash or control character from `at` on, or the end.
#[inline]
fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The lowest bit that is set is right, for what is carried over comes from a byte that was found.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(0x20 * ONES) & !word;
        let found = (zero(word ^ (0x22 * ONES)) | zero(word ^ (0x5c * ONES)) | control) & HIGH;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        at += 1;
    }
    at
}

#[cold]
fn escaped_string(bytes: &[u8], start: usize, mut at: usize) -> Parsed<(Text<'_>, usize)> {
    loop {
        match byte(bytes, at)? {
            b'"' => return Ok((Text { raw: &bytes[start..at], escaped: true }, at + 1)),
            b'\\' => at = escape(bytes, at)?.1,
            _ => return Err(Fault::Wrong(at, "a control character within a string has to be escaped")),
        }
        at = plain(bytes, at);
    }
}

/// The character of the escape whose backslash is at `at`, and the place behind it.
fn escape(bytes: &[u8], at: usize) -> Parsed<(char, usize)> {
    let character = match byte(bytes, at + 1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(bytes, at),
        _ => return Err(Fault::Wrong(at, "there is no such escape in a string")),
    };
    Ok((character, at + 2))
}

fn unicode(bytes: &[u8], at: usize) -> Parsed<(char, usize)> {
    let half = Fault::Wrong(at, "one half of a surrogate pair is no character");
    let first = hex(bytes, at + 2)?;
    if let Some(character) = char::from_u32(first) {
        return Ok((character, at + 6));
    }
    if first >= 0xdc00 {
        return Err(half);
    }
    for (place, expected) in [(at + 6, b'\\'), (at + 7, b'u')] {
        if byte(bytes, place)? != expected {
            return Err(half);
        }
    }
    let second = hex(bytes, at + 8)?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(half);
    }
    let character = char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00));
    character.map(|character| (character, at + 12)).ok_or(half)
}

fn hex(bytes: &[u8], at: usize) -> Parsed<u32> {
    let mut value = 0;
    for place in at..at + 4 {
        let digit = char::from(byte(bytes, place)?).to_digit(16);
        value = value << 4 | digit.ok_or(Fault::Expected(place, "a hexadecimal digit"))?;
    }
    Ok(value)
}

impl Text<'_> {
    /// Appends the characters.
    #[inline]
    pub(crate) fn append(self, out: &mut Vec<u8>) {
        if self.escaped { self.append_escaped(out) } else { out.extend_from_slice(self.raw) }
    }

    #[cold]
    fn append_escaped(self, out: &mut Vec<u8>) {
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest) {
            out.extend_from_slice(&rest[..at]);
            // It was looked at when the string was found.
            let Ok((character, next)) = escape(rest, at) else { break };
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[next..];
        }
        out.extend_from_slice(rest);
    }
}

/// The place behind the number that begins at `at`.
#[inline]
pub(crate) fn number(bytes: &[u8], at: usize) -> Parsed<usize> {
    let digits = |mut at: usize| {
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        match bytes.get(start) {
            None => Err(Fault::End),
            Some(_) if at == start => Err(Fault::Expected(at, "a digit")),
            Some(_) => Ok(at),
        }
    };
    let start = at + usize::from(bytes.get(at) == Some(&b'-'));
    let mut end = digits(start)?;
    if bytes.get(start) == Some(&b'0') && end > start + 1 {
        return Err(Fault::Wrong(start, "a number begins with a zero"));
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits(end + 1 + sign)?;
    }
    Ok(end)
}

/// The place behind `word`, whose first byte is at `at`.
#[inline]
pub(crate) fn word(bytes: &[u8], at: usize, word: &'static str) -> Parsed<usize> {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.starts_with(word.as_bytes()) {
        true => Ok(at + word.len()),
        false if word.as_bytes().starts_with(rest) => Err(Fault::End),
        false => Err(Fault::Expected(at, "a value")),
    }
}

/// The place behind a string, a number or a word that begins at `at`.
#[inline]
fn scalar(bytes: &[u8], at: usize) -> Parsed<usize> {
    match byte(bytes, at)? {
        b'"' => Ok(string(bytes, at)?.1),
        b'-' | b'0'..=b'9' => number(bytes, at),
        b't' => word(bytes, at, "true"),
        b'f' => word(bytes, at, "false"),
        b'n' => word(bytes, at, "null"),
        _ => Err(Fault::Expected(at, "a value")),
    }
}

/// The place behind `expected`, before which may be white space.
#[inline(always)]
pub(crate) fn token(bytes: &[u8], at: usize, expected: u8, name: &'static str) -> Parsed<usize> {
    let at = space(bytes, at);
    if byte(bytes, at)? == expected { Ok(at + 1) } else { Err(Fault::Expected(at, name)) }
}

/// The place behind the value that begins at `at`, without white space before it. `depth`: objects and lists around it.
pub(crate) fn value(bytes: &[u8], mut at: usize, depth: usize) -> Parsed<usize> {
    // For each level that is open a bit: whether it is an object.
    let (mut objects, mut level) = (0u128, 0);
    loop {
        // A value begins at `at`.
        match byte(bytes, at)? {
            open @ (b'{' | b'[') => {
                if depth + level == DEEPEST {
                    return Err(Fault::Wrong(at, DEEP));
                }
                let object = open == b'{';
                at = space(bytes, at + 1);
                if byte(bytes, at)? == (if object { b'}' } else { b']' }) {
                    at += 1;
                } else {
                    (objects, level) = (objects << 1 | u128::from(object), level + 1);
                    if object {
                        at = key_and_colon(bytes, at)?;
                    }
                    continue;
                }
            }
            _ => at = scalar(bytes, at)?,
        }
        // A value ended before `at`.
        loop {
            if level == 0 {
                return Ok(at);
            }
            let object = objects & 1 == 1;
            at = space(bytes, at);
            match (byte(bytes, at)?, object) {
                (b',', true) => {
                    at = key_and_colon(bytes, space(bytes, at + 1))?;
                    break;
                }
                (b',', false) => {
                    at = space(bytes, at + 1);
                    break;
                }
                (b'}', true) | (b']', false) => {
                    (objects, level) = (objects >> 1, level - 1);
                    at += 1;
                }
                (_, true) => return Err(Fault::Expected(at, "a comma or }")),
                (_, false) => return Err(Fault::Expected(at, "a comma or ]")),
            }
        }
    }
}

/// The place of the value of a member whose key begins at `at`.
fn key_and_colon(bytes: &[u8], at: usize) -> Parsed<usize> {
    if byte(bytes, at)? != b'"' {
        return Err(Fault::Expected(at, "a key in quotes"));
    }
    let (_, at) = string(bytes, at)?;
    Ok(space(bytes, token(bytes, at, b':', "a colon")?))
}

/// Whether all of `bytes` is one JSON value with nothing but white space around it.
///
/// # Errors
/// `InvalidData` at the byte where it is none.
pub fn document(bytes: &[u8]) -> Result<()> {
    let bad = |at: usize, message: String| Error::new(ErrorKind::InvalidData, message).at_byte(at as u64);
    std::str::from_utf8(bytes).map_err(|error| bad(error.valid_up_to(), "the text is not UTF-8".to_owned()))?;
    let start = space(bytes, 0);
    let end = match value(bytes, start, 0) {
        Ok(end) => space(bytes, end),
        Err(fault) => return Err(bad(fault.at().unwrap_or(bytes.len()), fault.message())),
    };
    if end == bytes.len() { Ok(()) } else { Err(bad(end, "there is something behind the value".to_owned())) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_are_judged_as_the_suite_judges_them() {
        let folder = etlrs_suites().join("jsontestsuite/test_parsing");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!("SKIPPED: {} is not there; set ETLRS_SUITES to where the suites are", folder.display());
            return;
        };
        let mut judged = [0, 0, 0];
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let found = document(&std::fs::read(&path).unwrap());
            match &name[..2] {
                "y_" => assert!(found.is_ok(), "{name}: {found:?}"),
                "n_" => assert!(found.is_err(), "{name}"),
                _ => {}
            }
            judged[usize::from(name.starts_with("n_")) + 2 * usize::from(name.starts_with("i_"))] += 1;
        }
        assert!(judged[0] > 90 && judged[1] > 180 && judged[2] > 30, "{judged:?}");
    }

    fn etlrs_suites() -> std::path::PathBuf {
        std::env::var_os("ETLRS_SUITES")
            .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/suites").into(), Into::into)
    }

    #[test]
    fn nesting_has_a_limit() {
        for (depth, fits) in [(DEEPEST, true), (DEEPEST + 1, false)] {
            let text = ["[".repeat(depth), "]".repeat(depth)].concat();
            assert_eq!(document(text.as_bytes()).is_ok(), fits);
        }
        assert!(document(&b"{\"a\":".repeat(100_000)).is_err());
    }

    #[test]
    fn surrogates_come_in_pairs() {
        for (text, expected) in [
            (r#""\ud83d\ude00""#, Some("😀")),
            (r#""\u0000a\/\"""#, Some("\0a/\"")),
            (r#""\ud83d""#, None),
            (r#""\ude00""#, None),
            (r#""\ud83dx""#, None),
            (r#""\ud83d\u0041""#, None),
        ] {
            let found = string(text.as_bytes(), 0).ok().map(|(text, _)| {
                let mut out = Vec::new();
                text.append(&mut out);
                String::from_utf8(out).unwrap()
            });
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    /// JSON, mostly.
    fn nearly_json() -> impl Strategy<Value = String> {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"\\n\"",
            "\"",
            "\\",
            "1",
            "-",
            "0",
            ".5",
            "e3",
            "true",
            "null",
            " ",
            "\n",
            "\u{1}",
            "é",
            "\\u00e9",
            "{\"a\":1}",
            "[1,2]",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_json_is_what_serde_takes_for_it(text in nearly_json()) {
            let expected = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert_eq!(document(text.as_bytes()).is_ok(), expected, "{:?}", text);
        }

        #[test]
        fn strings_are_what_serde_reads(text in any::<String>(), ascii in any::<bool>()) {
            let quoted = serde_json::to_string(&text).unwrap();
            let escaped = |c: char| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            let quoted = match ascii {
                true => format!("\"{}\"", text.chars().map(escaped).collect::<String>()),
                false => quoted,
            };
            let (found, end) = string(quoted.as_bytes(), 0).unwrap();
            let mut out = Vec::new();
            found.append(&mut out);
            prop_assert_eq!((out, end), (text.into_bytes(), quoted.len()));
        }

        /// What is not all there is never taken for an error, nor the start of it for the whole.
        #[test]
        fn the_start_of_json_is_incomplete(text in nearly_json(), cut in 0usize..60) {
            let text = format!("[{text}]");
            if document(text.as_bytes()).is_ok() {
                let cut = cut % text.len();
                prop_assert_eq!(value(&text.as_bytes()[..cut], 0, 0), Err(Fault::End));
            }
        }
    }
}
