//! Tokens into a tree, by precedence climbing.

use std::ops::Range;

use arrow_schema::DataType;
use etlrs_core::{Error, Result, parse_type};

use super::lex::{Token, TokenKind, tokens, wrong};

/// The deepest tree. Binding, evaluating and dropping recurse, and worker threads have small stacks.
const MAX_DEPTH: usize = 100;

/// An expression and its bytes in the source.
#[derive(Clone, Debug)]
pub(super) struct Ast {
    pub(super) kind: AstKind,
    pub(super) span: Range<usize>,
    depth: usize,
}

#[derive(Clone, Debug)]
pub(super) enum AstKind {
    Column(String),
    Literal(Literal),
    Negate(Box<Ast>),
    Not(Box<Ast>),
    Binary(BinaryOp, Box<Ast>, Box<Ast>),
    /// Flat, so that a chain of a thousand terms is not a thousand levels deep.
    And(Vec<Ast>),
    Or(Vec<Ast>),
    IsNull {
        negated: bool,
        value: Box<Ast>,
    },
    In {
        negated: bool,
        value: Box<Ast>,
        list: Vec<Ast>,
    },
    Between {
        negated: bool,
        value: Box<Ast>,
        low: Box<Ast>,
        high: Box<Ast>,
    },
    Like {
        negated: bool,
        value: Box<Ast>,
        pattern: Box<Ast>,
    },
    Cast(Box<Ast>, DataType),
    Call(String, Vec<Ast>),
    Case {
        operand: Option<Box<Ast>>,
        branches: Vec<(Ast, Ast)>,
        otherwise: Option<Box<Ast>>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Literal {
    Null,
    Boolean(bool),
    Integer(i128),
    /// Digits and their scale where they are exact in decimal.
    Number {
        value: f64,
        decimal: Option<(i128, i8)>,
    },
    Text(String),
    Date(String),
    Timestamp(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BinaryOp {
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
    Concat,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl BinaryOp {
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::NotEq => "<>",
            Self::Lt => "<",
            Self::LtEq => "<=",
            Self::Gt => ">",
            Self::GtEq => ">=",
            Self::Concat => "||",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }

    fn of(symbol: &str) -> Option<(Self, u8)> {
        Some(match symbol {
            "=" | "==" => (Self::Eq, COMPARISON),
            "!=" | "<>" => (Self::NotEq, COMPARISON),
            "<" => (Self::Lt, COMPARISON),
            "<=" => (Self::LtEq, COMPARISON),
            ">" => (Self::Gt, COMPARISON),
            ">=" => (Self::GtEq, COMPARISON),
            "||" => (Self::Concat, CONCAT),
            "+" => (Self::Add, SUM),
            "-" => (Self::Subtract, SUM),
            "*" => (Self::Multiply, PRODUCT),
            "/" => (Self::Divide, PRODUCT),
            "%" => (Self::Remainder, PRODUCT),
            _ => return None,
        })
    }
}

// How tightly operators bind, as in PostgreSQL.
const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARISON: u8 = 4;
const CONCAT: u8 = 5;
const SUM: u8 = 6;
const PRODUCT: u8 = 7;
const UNARY: u8 = 8;

/// Words that are no column name unless they are in double quotes.
const RESERVED: [&str; 16] = [
    "and", "or", "not", "is", "null", "in", "between", "like", "true", "false", "cast", "case", "when", "then", "else",
    "end",
];

pub(super) fn parse(source: &str) -> Result<Ast> {
    let mut parser = Parser { source, tokens: tokens(source)?, at: 0, depth: 0 };
    let ast = parser.expression(0)?;
    match parser.peek() {
        TokenKind::End => Ok(ast),
        _ => Err(parser.expected("an operator or the end")),
    }
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    /// An expression whose operators all bind tighter than `above`.
    fn expression(&mut self, above: u8) -> Result<Ast> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.too_deep());
        }
        let mut left = self.prefix()?;
        while let Some(next) = self.infix(&mut left, above)? {
            left = next;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn prefix(&mut self) -> Result<Ast> {
        let start = self.token().start;
        if self.symbol("-") {
            return self.negation(start);
        }
        if self.symbol("+") {
            return self.expression(UNARY - 1);
        }
        if self.word("not") {
            let value = Box::new(self.expression(NOT - 1)?);
            return self.node(AstKind::Not(value), start);
        }
        if self.symbol("(") {
            let inner = self.expression(0)?;
            self.expect_symbol(")")?;
            return Ok(inner);
        }
        self.operand(start)
    }

    /// Folds the minus into a literal, for the least int64 has no positive counterpart.
    fn negation(&mut self, start: usize) -> Result<Ast> {
        let value = self.expression(UNARY - 1)?;
        let kind = match value.kind {
            AstKind::Literal(Literal::Integer(value)) => AstKind::Literal(Literal::Integer(-value)),
            AstKind::Literal(Literal::Number { value, decimal }) => AstKind::Literal(Literal::Number {
                value: -value,
                decimal: decimal.map(|(digits, scale)| (-digits, scale)),
            }),
            _ => AstKind::Negate(Box::new(value)),
        };
        self.node(kind, start)
    }

    fn operand(&mut self, start: usize) -> Result<Ast> {
        let token = self.token().clone();
        let kind = match token.kind {
            TokenKind::Integer | TokenKind::Number => {
                self.at += 1;
                AstKind::Literal(self.number(&token)?)
            }
            TokenKind::Text(text) => {
                self.at += 1;
                AstKind::Literal(Literal::Text(text))
            }
            TokenKind::Quoted(name) => {
                self.at += 1;
                AstKind::Column(name)
            }
            TokenKind::Word(word) => {
                let lower = word.to_lowercase();
                let next = self.tokens.get(self.at + 1).map(|token| token.kind.clone());
                match (lower.as_str(), next) {
                    ("null", _) => self.literal(Literal::Null),
                    ("true", _) => self.literal(Literal::Boolean(true)),
                    ("false", _) => self.literal(Literal::Boolean(false)),
                    ("date", Some(TokenKind::Text(text))) => {
                        self.at += 1;
                        self.literal(Literal::Date(text))
                    }
                    ("timestamp", Some(TokenKind::Text(text))) => {
                        self.at += 1;
                        self.literal(Literal::Timestamp(text))
                    }
                    ("cast", _) => self.cast()?,
                    ("case", _) => self.case()?,
                    (reserved, _) if RESERVED.contains(&reserved) => {
                        return Err(self
                            .expected("a value")
                            .hint(format!("write \"{word}\" in double quotes if it is a column")));
                    }
                    (_, Some(TokenKind::Symbol("("))) => {
                        self.at += 2;
                        AstKind::Call(lower, self.list(true)?)
                    }
                    _ => {
                        self.at += 1;
                        AstKind::Column(word)
                    }
                }
            }
            TokenKind::Symbol(_) | TokenKind::End => return Err(self.expected("a value")),
        };
        self.node(kind, start)
    }

    fn literal(&mut self, literal: Literal) -> AstKind {
        self.at += 1;
        AstKind::Literal(literal)
    }

    fn number(&self, token: &Token) -> Result<Literal> {
        let text = &self.source[token.start..token.end];
        if token.kind == TokenKind::Integer {
            return text
                .parse::<i128>()
                .ok()
                .filter(|value| *value < 10_i128.pow(38))
                .map(Literal::Integer)
                .ok_or_else(|| wrong(self.source, token.start, "an integer has at most 38 digits"));
        }
        let value = text.parse().map_err(|_| wrong(self.source, token.start, "a number was expected"))?;
        // Exact where it is digits with a point, which is how a decimal is written.
        let decimal = text.split_once('.').and_then(|(whole, fraction)| {
            let scale = i8::try_from(fraction.len()).ok().filter(|scale| *scale <= 38)?;
            let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
            (digits < 10_i128.pow(38)).then_some((digits, scale))
        });
        Ok(Literal::Number { value, decimal })
    }

    /// What follows `cast`.
    fn cast(&mut self) -> Result<AstKind> {
        self.at += 1;
        self.expect_symbol("(")?;
        let value = Box::new(self.expression(0)?);
        self.expect_word("as")?;
        let start = self.token().start;
        if !matches!(self.peek(), TokenKind::Word(_)) {
            return Err(self.expected("the name of a type"));
        }
        let mut end = self.token().end;
        self.at += 1;
        if self.symbol("(") {
            while matches!(self.peek(), TokenKind::Integer | TokenKind::Symbol(",")) {
                self.at += 1;
            }
            end = self.token().end;
            self.expect_symbol(")")?;
        }
        let data_type = parse_type(&self.source[start..end])?;
        self.expect_symbol(")")?;
        Ok(AstKind::Cast(value, data_type))
    }

    /// What follows `case`.
    fn case(&mut self) -> Result<AstKind> {
        self.at += 1;
        let operand = if self.is_word("when") { None } else { Some(Box::new(self.expression(0)?)) };
        let mut branches = Vec::new();
        self.expect_word("when")?;
        loop {
            let condition = self.expression(0)?;
            self.expect_word("then")?;
            branches.push((condition, self.expression(0)?));
            if !self.word("when") {
                break;
            }
        }
        let otherwise = if self.word("else") { Some(Box::new(self.expression(0)?)) } else { None };
        if !self.word("end") {
            return Err(self.expected("when, else or end"));
        }
        Ok(AstKind::Case { operand, branches, otherwise })
    }

    /// Expressions up to the closing parenthesis, which is consumed.
    fn list(&mut self, may_be_empty: bool) -> Result<Vec<Ast>> {
        let mut list = Vec::new();
        if may_be_empty && self.symbol(")") {
            return Ok(list);
        }
        loop {
            list.push(self.expression(0)?);
            if self.symbol(")") {
                return Ok(list);
            }
            if !self.symbol(",") {
                return Err(self.expected("a comma or )"));
            }
        }
    }

    /// One more operator after `left`, which is taken if there is one that binds tighter than `above`.
    fn infix(&mut self, left: &mut Ast, above: u8) -> Result<Option<Ast>> {
        let start = left.span.start;
        let mut take = || {
            let empty = Ast { kind: AstKind::Literal(Literal::Null), span: 0..0, depth: 0 };
            Box::new(std::mem::replace(left, empty))
        };
        if let TokenKind::Symbol(symbol) = self.peek() {
            let Some((op, power)) = BinaryOp::of(symbol).filter(|(_, power)| *power > above) else { return Ok(None) };
            self.at += 1;
            let right = Box::new(self.expression(power)?);
            return self.node(AstKind::Binary(op, take(), right), start).map(Some);
        }
        for (word, power) in [("or", OR), ("and", AND)] {
            if power > above && self.is_word(word) {
                let mut terms = vec![*take()];
                while self.word(word) {
                    terms.push(self.expression(power)?);
                }
                let kind = if power == OR { AstKind::Or(terms) } else { AstKind::And(terms) };
                return self.node(kind, start).map(Some);
            }
        }
        if above >= COMPARISON {
            return Ok(None);
        }
        if self.word("is") {
            let negated = self.word("not");
            self.expect_word("null")?;
            return self.node(AstKind::IsNull { negated, value: take() }, start).map(Some);
        }
        let negated = self.word("not");
        let kind = if self.word("in") {
            self.expect_symbol("(")?;
            AstKind::In { negated, value: take(), list: self.list(false)? }
        } else if self.word("between") {
            let low = Box::new(self.expression(COMPARISON)?);
            self.expect_word("and")?;
            AstKind::Between { negated, value: take(), low, high: Box::new(self.expression(COMPARISON)?) }
        } else if self.word("like") {
            AstKind::Like { negated, value: take(), pattern: Box::new(self.expression(COMPARISON)?) }
        } else if negated {
            return Err(self.expected("in, between or like"));
        } else {
            return Ok(None);
        };
        self.node(kind, start).map(Some)
    }

    fn node(&self, kind: AstKind, start: usize) -> Result<Ast> {
        let depth = 1 + kind.children().iter().map(|child| child.depth).max().unwrap_or(0);
        if depth > MAX_DEPTH {
            return Err(self.too_deep());
        }
        let end = self.at.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or(start, |token| token.end);
        Ok(Ast { kind, span: start..end, depth })
    }

    fn token(&self) -> &Token {
        // The last token is `End`, and nothing steps over it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &TokenKind {
        &self.token().kind
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), TokenKind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn symbol(&mut self, symbol: &'static str) -> bool {
        let found = *self.peek() == TokenKind::Symbol(symbol);
        self.at += usize::from(found);
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.word(word) { Ok(()) } else { Err(self.expected(word)) }
    }

    fn expect_symbol(&mut self, symbol: &'static str) -> Result<()> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.expected(symbol)) }
    }

    fn expected(&self, what: &str) -> Error {
        let token = self.token();
        let found = match &self.source[token.start..token.end] {
            "" => "the end".to_owned(),
            found => found.to_owned(),
        };
        wrong(self.source, token.start, format!("expected {what}, found {found}"))
    }

    fn too_deep(&self) -> Error {
        wrong(self.source, self.token().start, format!("it is nested more than {MAX_DEPTH} levels deep"))
    }
}

impl AstKind {
    pub(super) fn children(&self) -> Vec<&Ast> {
        match self {
            Self::Column(_) | Self::Literal(_) => Vec::new(),
            Self::Negate(value) | Self::Not(value) | Self::IsNull { value, .. } | Self::Cast(value, _) => vec![value],
            Self::Binary(_, left, right) => vec![left, right],
            Self::Like { value, pattern, .. } => vec![value, pattern],
            Self::Between { value, low, high, .. } => vec![value, low, high],
            Self::And(terms) | Self::Or(terms) | Self::Call(_, terms) => terms.iter().collect(),
            Self::In { value, list, .. } => std::iter::once(&**value).chain(list).collect(),
            Self::Case { operand, branches, otherwise } => operand
                .iter()
                .chain(otherwise)
                .map(|child| &**child)
                .chain(branches.iter().flat_map(|(condition, value)| [condition, value]))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With every operation in parentheses.
    fn show(ast: &Ast) -> String {
        let join = |terms: &[Ast], by: &str| terms.iter().map(show).collect::<Vec<_>>().join(by);
        match &ast.kind {
            AstKind::Column(name) => name.clone(),
            AstKind::Literal(Literal::Integer(value)) => value.to_string(),
            AstKind::Literal(literal) => format!("{literal:?}"),
            AstKind::Negate(value) => format!("(-{})", show(value)),
            AstKind::Not(value) => format!("(not {})", show(value)),
            AstKind::Binary(op, left, right) => format!("({} {} {})", show(left), op.symbol(), show(right)),
            AstKind::And(terms) => format!("({})", join(terms, " and ")),
            AstKind::Or(terms) => format!("({})", join(terms, " or ")),
            AstKind::IsNull { negated, value } => format!("({} null {negated})", show(value)),
            AstKind::In { negated, value, list } => format!("({} in [{}] {negated})", show(value), join(list, ",")),
            AstKind::Between { negated, value, low, high } => {
                format!("({} between {} {} {negated})", show(value), show(low), show(high))
            }
            AstKind::Like { negated, value, pattern } => format!("({} like {} {negated})", show(value), show(pattern)),
            AstKind::Cast(value, data_type) => format!("cast({} {data_type})", show(value)),
            AstKind::Call(name, args) => format!("{name}({})", join(args, ",")),
            AstKind::Case { branches, .. } => format!("case{}", branches.len()),
        }
    }

    #[test]
    fn precedence_is_that_of_sql() {
        for (source, expected) in [
            ("a + b * c", "(a + (b * c))"),
            ("a - b - c", "((a - b) - c)"),
            ("-a * b", "((-a) * b)"),
            ("a % 2 = 0 and b or c", "((((a % 2) = 0) and b) or c)"),
            ("a or b and c or d", "(a or (b and c) or d)"),
            ("not a = b and c", "((not (a = b)) and c)"),
            ("NOT a IS NOT NULL", "(not (a null true))"),
            ("a between 1 and b + 2 and c", "((a between 1 (b + 2) false) and c)"),
            ("a not in (1, -2)", "(a in [1,-2] true)"),
            ("a || b = c || d", "((a || b) = (c || d))"),
            ("a || b + c", "(a || (b + c))"),
            ("\"a b\" not like c", "(a b like c true)"),
            ("cast(a as decimal(10, 2)) > -9223372036854775808", "(cast(a Decimal128(10, 2)) > -9223372036854775808)"),
            ("Lower(a)", "lower(a)"),
            ("date + time", "(date + time)"),
            ("case a when 1 then 2 when 3 then 4 else 5 end", "case2"),
            ("- - 1", "1"),
        ] {
            assert_eq!(show(&parse(source).unwrap()), expected, "{source}");
        }
    }

    #[test]
    fn errors_tell_the_character_and_what_was_expected() {
        for (source, expected) in [
            ("", "at character 1: expected a value, found the end"),
            ("a +", "at character 4: expected a value, found the end"),
            ("a b", "at character 3: expected an operator or the end, found b"),
            ("(a", "at character 3: expected ), found the end"),
            ("a is 3", "at character 6: expected null, found 3"),
            ("a not b", "at character 7: expected in, between or like, found b"),
            ("a in ()", "at character 7: expected a value, found )"),
            ("f(a b)", "at character 5: expected a comma or ), found b"),
            ("a = and", "at character 5: expected a value, found and; write \"and\" in double quotes"),
            ("case when a then b", "at character 19: expected when, else or end, found the end"),
            ("cast(a as 3)", "at character 11: expected the name of a type, found 3"),
            ("cast(a as intt)", "there is no type \"intt\""),
            ("123456789012345678901234567890123456789", "at character 1: an integer has at most 38 digits"),
        ] {
            let error = parse(source).unwrap_err();
            assert_eq!(error.kind(), etlrs_core::ErrorKind::InvalidConfig, "{source}");
            assert!(error.to_string().contains(expected), "{source}: {error}");
        }
    }

    #[test]
    fn depth_is_bounded_but_chains_of_terms_are_long() {
        for deep in
            ["(".repeat(100_000), "- ".repeat(100_000), "not ".repeat(100_000), "a".to_owned() + &"+a".repeat(100_000)]
        {
            assert!(parse(&deep).unwrap_err().to_string().contains("levels deep"));
        }
        assert!(parse(&format!("a{}", " or a = 1".repeat(10_000))).is_ok());
        assert!(parse(&format!("{}a{}", "(".repeat(90), ")".repeat(90))).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(source in "[a-c0-9'\"()+*<=>|,. é-]{0,24}|(and|or|not|case|when|end|cast|in|is|null| |a|1|\\(){0,12}") {
            let _ = parse(&source);
        }
    }
}
