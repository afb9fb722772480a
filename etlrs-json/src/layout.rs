//! What the records of a file stand in.

use std::path::Path;

use etlrs_files::Compression;
use memchr::memchr;

use crate::syntax::{self, Fault};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Each on a line of its own.
    Lines,
    /// In one list.
    Array,
    /// Nothing: each comes behind the other.
    Values,
}

/// What the name of a file ends in before how it is compressed, in small letters.
pub(crate) fn extension(path: &Path) -> String {
    let bare = if Compression::of_path(path) == Compression::None { path.to_owned() } else { path.with_extension("") };
    bare.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase()
}

impl Layout {
    /// By the start of a text, and why. `whole`: it is all there is.
    ///
    /// What is there counts, and the name only where that may be both: a list alone on the only line.
    pub(crate) fn of(text: &[u8], whole: bool, path: &Path) -> (Self, &'static str) {
        let by_name = matches!(extension(path).as_str(), "ndjson" | "jsonl");
        let start = syntax::space(text, 0);
        let line_end = memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at);
        let next = syntax::space(text, line_end);
        let is_list = text.get(start) == Some(&b'[');
        let has_objects = text.get(syntax::space(text, start + 1)) == Some(&b'{');
        let one_line = (Self::Lines, "its first line is a value");
        let list = (Self::Array, "it begins with a list");
        let named = (Self::Lines, "by its name");
        let spread = (Self::Values, "its first value is not just a line");
        let first = syntax::value(text, start, 0);
        if first.is_ok_and(|end| end <= line_end && text[end..line_end].trim_ascii().is_empty()) {
            return match text.get(next) {
                _ if !is_list => one_line,
                Some(b'[') => one_line,
                Some(_) => list,
                None if by_name && !has_objects => named,
                None => list,
            };
        }
        let is_broken = match first {
            Ok(_) => false,
            Err(Fault::End) => whole,
            Err(_) => true,
        };
        if is_list {
            // One line that is cut or broken, or the list of all.
            let lists_follow = is_broken && has_line(&text[line_end..], b'[');
            let is_cut = !is_broken && line_end == text.len() && !has_objects;
            return if by_name && (lists_follow || is_cut) { named } else { list };
        }
        // Whoever reads a broken line sets it aside.
        if is_broken && has_line(text, b'{') {
            return (Self::Lines, "a line of it is a value");
        }
        match first {
            _ if is_broken && by_name => named,
            Err(Fault::End) if line_end == text.len() => one_line,
            Ok(end) if by_name && end <= line_end => named,
            _ => spread,
        }
    }
}

/// Whether some line is a value that begins with `first`, in its first column: within a value that stands on many lines, others do.
fn has_line(text: &[u8], first: u8) -> bool {
    text.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii_end)
        .any(|line| line.first() == Some(&first) && syntax::value(line, 0, 0) == Ok(line.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_file_tells_what_its_records_stand_in() {
        use Layout::*;
        for (text, in_lines, in_other) in [
            ("{\"a\":1}\n{\"a\":2}\n", Lines, Lines),
            ("{\"a\":1}", Lines, Lines),
            (" \n\n{\"a\":1}\r\n", Lines, Lines),
            ("{\n\"a\":1}\n", Values, Values),
            ("{\n \"a\": NaN,\n \"b\": [\n  {\"c\":1},\n  {\"c\":2}\n ]\n}\n", Lines, Values),
            ("{\"a\":1}{\"a\":2}\n", Lines, Values),
            ("[{\"a\":1}]", Array, Array),
            ("[\n{\"a\":1}\n]\n", Array, Array),
            ("[1,2]\n", Lines, Array),
            ("[1,2]\n[3]\n", Lines, Lines),
            ("[1,2]\n}\n", Array, Array),
            ("[1,2\n[3]\n", Lines, Array),
            ("[{\"a\":1},\n{\"a\":2\n", Array, Array),
            ("{\"a\":1\n{\"a\":2}\n", Lines, Lines),
            ("x\n{\"a\":2}\n", Lines, Lines),
            ("{\n\"a\":1,\n\"b\":x\n}", Lines, Values),
            ("5\n6\n", Lines, Lines),
        ] {
            assert_eq!(Layout::of(text.as_bytes(), true, Path::new("a.ndjson.gz")).0, in_lines, "{text:?}");
            assert_eq!(Layout::of(text.as_bytes(), true, Path::new("a.json")).0, in_other, "{text:?}");
        }
    }

    #[test]
    fn what_goes_on_behind_the_window_is_not_broken() {
        use Layout::*;
        for (text, in_lines, in_other) in [
            ("{\"a\":\"xxx", Lines, Lines),
            ("{\"a\":[1,\n2,", Values, Values),
            ("[{\"a\":1},{", Array, Array),
            ("[1,2,3", Lines, Array),
            ("[1,\n2", Array, Array),
        ] {
            assert_eq!(Layout::of(text.as_bytes(), false, Path::new("a.jsonl")).0, in_lines, "{text:?}");
            assert_eq!(Layout::of(text.as_bytes(), false, Path::new("a")).0, in_other, "{text:?}");
        }
    }

    #[test]
    fn the_last_extension_before_the_compression_counts() {
        for (name, expected) in
            [("a.json.ndjson", "ndjson"), ("a.NDJSON.gz", "ndjson"), ("json", ""), ("a.b/c.json", "json")]
        {
            assert_eq!(extension(Path::new(name)), expected);
        }
    }
}
