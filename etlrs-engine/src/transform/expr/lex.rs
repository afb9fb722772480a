//! Text into tokens.

use etlrs_core::{Error, ErrorKind, Result};

/// A token and its bytes in the source.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// A bare identifier or keyword, as written.
    Word(String),
    /// A column name in double quotes.
    Quoted(String),
    Text(String),
    /// Digits only.
    Integer,
    /// Digits with a point or an exponent.
    Number,
    Symbol(&'static str),
    End,
}

/// Longest first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 16] = ["||", "==", "!=", "<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")"];

pub(super) fn tokens(source: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(first) = source[start..].chars().next() {
        if first.is_whitespace() {
            start += first.len_utf8();
            continue;
        }
        let rest = &source[start..];
        if rest.starts_with("--") {
            // A comment of SQL. A number that is negated twice is written - -5.
            start += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let (kind, length) = match first {
            '\'' => {
                let (text, length) = quoted(rest, '\'')
                    .ok_or_else(|| wrong(source, start, "the text that starts here has no closing '"))?;
                (TokenKind::Text(text), length)
            }
            '"' => {
                let (name, length) = quoted(rest, '"')
                    .ok_or_else(|| wrong(source, start, "the column name that starts here has no closing \""))?;
                (TokenKind::Quoted(name), length)
            }
            '0'..='9' => number(rest),
            '.' if rest[1..].starts_with(|next: char| next.is_ascii_digit()) => number(rest),
            ',' => (TokenKind::Symbol(","), 1),
            first if first.is_alphabetic() || first == '_' => {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                (TokenKind::Word(rest[..length].to_owned()), length)
            }
            other => match SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
                Some(symbol) => (TokenKind::Symbol(symbol), symbol.len()),
                None => return Err(wrong(source, start, format!("{other:?} has no meaning here"))),
            },
        };
        let end = start + length;
        if matches!(kind, TokenKind::Integer | TokenKind::Number)
            && source[end..].starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == '.')
        {
            return Err(wrong(source, start, "a number ends in letters or a second point")
                .hint("write a column name that starts with a digit in double quotes"));
        }
        tokens.push(Token { kind, start, end });
        start = end;
    }
    tokens.push(Token { kind: TokenKind::End, start, end: start });
    Ok(tokens)
}

/// An `InvalidConfig` error at byte `at` of `source`, told as a character position from 1.
pub(super) fn wrong(source: &str, at: usize, message: impl std::fmt::Display) -> Error {
    let character = source.get(..at).unwrap_or(source).chars().count() + 1;
    Error::new(ErrorKind::InvalidConfig, format!("in the expression at character {character}: {message}"))
}

/// The content and the length of what starts with `quote`, which is doubled inside.
fn quoted(rest: &str, quote: char) -> Option<(String, usize)> {
    let mut content = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            content.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            content.push(quote);
        } else {
            return Some((content, at + quote.len_utf8()));
        }
    }
    None
}

fn number(rest: &str) -> (TokenKind, usize) {
    let digits =
        |from: usize| rest[from..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |length| from + length);
    let mut end = digits(0);
    let mut kind = TokenKind::Integer;
    if rest[end..].starts_with('.') {
        end = digits(end + 1);
        kind = TokenKind::Number;
    }
    if rest[end..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
            kind = TokenKind::Number;
        }
    }
    (kind, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_told_apart() {
        let kinds = |source: &str| tokens(source).unwrap().into_iter().map(|token| token.kind).collect::<Vec<_>>();
        let word = |text: &str| TokenKind::Word(text.into());
        for (source, expected) in [
            ("a<=b", vec![word("a"), TokenKind::Symbol("<="), word("b"), TokenKind::End]),
            ("'it''s'", vec![TokenKind::Text("it's".into()), TokenKind::End]),
            ("\"a \"\"b\"", vec![TokenKind::Quoted("a \"b".into()), TokenKind::End]),
            ("1 2.5 .5 1e3 1.", {
                use TokenKind::*;
                vec![Integer, Number, Number, Number, Number, End]
            }),
            (" é_1 ", vec![word("é_1"), TokenKind::End]),
        ] {
            assert_eq!(kinds(source), expected, "{source}");
        }
    }

    #[test]
    fn errors_count_characters_not_bytes() {
        let error = tokens("é = 'x").unwrap_err();
        assert_eq!(error.to_string(), "in the expression at character 5: the text that starts here has no closing '");
        for source in ["a ? b", "1a", "1.2.3", "\"x", "1e5.1"] {
            assert_eq!(tokens(source).unwrap_err().kind(), ErrorKind::InvalidConfig, "{source}");
        }
    }
}
