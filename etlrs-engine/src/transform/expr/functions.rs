//! The functions of the language, in one table.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Decimal256Type, Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef, Int64Array, LargeStringArray, StringArray, StringViewArray};
use arrow_schema::{ArrowError, DataType};

use super::coerce::{Class, class, widen};
use super::node::{Node, NodeKind, Value};
use crate::transform::exact::strict;

pub(super) struct Function {
    pub(super) name: &'static str,
    /// How it is called, for errors.
    pub(super) usage: &'static str,
    /// `None` if it does not take such arguments.
    pub(super) bind: fn(Vec<Node>, Range<usize>) -> Option<Node>,
}

pub(super) const FUNCTIONS: [Function; 7] = [
    Function { name: "abs", usage: "abs(number)", bind: abs },
    // Bound elsewhere, for it evaluates its arguments only where it needs them.
    Function { name: "coalesce", usage: "coalesce(first, second, …)", bind: |_, _| None },
    Function { name: "length", usage: "length(text), in characters", bind: length },
    Function {
        name: "lower",
        usage: "lower(text)",
        bind: |args, span| text(args, span, |text| text.to_lowercase().into()),
    },
    Function { name: "round", usage: "round(number) or round(number, digits), with digits from 0 to 38", bind: round },
    Function {
        name: "trim",
        usage: "trim(text), of white space on both sides",
        bind: |args, span| text(args, span, |text| text.trim().into()),
    },
    Function {
        name: "upper",
        usage: "upper(text)",
        bind: |args, span| text(args, span, |text| text.to_uppercase().into()),
    },
];

/// The texts of two columns joined; null where one is.
pub(super) fn concat_two(args: &[Value]) -> Result<ArrayRef, ArrowError> {
    let rows = args.iter().filter(|arg| !arg.is_scalar()).map(|arg| arg.array().len()).next().unwrap_or(1);
    let (left, right) = (args[0].clone().into_array(rows)?, args[1].clone().into_array(rows)?);
    arrow_string::concat_elements::concat_elements_dyn(&left, &right)
}

fn only<const N: usize>(args: Vec<Node>) -> Option<[Node; N]> {
    args.try_into().ok()
}

fn text(args: Vec<Node>, span: Range<usize>, change: fn(&str) -> Cow<'_, str>) -> Option<Node> {
    let [arg] = only(args)?;
    let arg = if arg.data_type == DataType::Null { widen(arg, &DataType::Utf8) } else { arg };
    (class(&arg.data_type) == Class::Text).then_some(())?;
    let to = arg.data_type.clone();
    let kernel = move |args: &[Value]| -> Result<ArrayRef, ArrowError> {
        let array = args[0].array();
        let change = |text: Option<&str>| text.map(|text| change(text).into_owned());
        Ok(match array.data_type() {
            DataType::LargeUtf8 => Arc::new(array.as_string::<i64>().iter().map(change).collect::<LargeStringArray>()),
            DataType::Utf8View => Arc::new(array.as_string_view().iter().map(change).collect::<StringViewArray>()),
            _ => Arc::new(array.as_string::<i32>().iter().map(change).collect::<StringArray>()),
        })
    };
    Some(Node::call(kernel, vec![arg], to, span))
}

fn length(args: Vec<Node>, span: Range<usize>) -> Option<Node> {
    let [arg] = only(args)?;
    let arg = if arg.data_type == DataType::Null { widen(arg, &DataType::Utf8) } else { arg };
    (class(&arg.data_type) == Class::Text).then_some(())?;
    let kernel = |args: &[Value]| -> Result<ArrayRef, ArrowError> {
        let array = args[0].array();
        let count = |text: Option<&str>| text.map(|text| i64::try_from(text.chars().count()).unwrap_or(i64::MAX));
        Ok(Arc::new(match array.data_type() {
            DataType::LargeUtf8 => array.as_string::<i64>().iter().map(count).collect::<Int64Array>(),
            DataType::Utf8View => array.as_string_view().iter().map(count).collect(),
            _ => array.as_string::<i32>().iter().map(count).collect(),
        }))
    };
    Some(Node::call(kernel, vec![arg], DataType::Int64, span))
}

fn abs(args: Vec<Node>, span: Range<usize>) -> Option<Node> {
    let [arg] = only(args)?;
    let to = match class(&arg.data_type) {
        Class::Integer | Class::Null => DataType::Int64,
        Class::Float => DataType::Float64,
        Class::Decimal => arg.data_type.clone(),
        _ => return None,
    };
    let fallible = to == DataType::Int64;
    let kernel = |args: &[Value]| -> Result<ArrayRef, ArrowError> {
        let array = args[0].array();
        Ok(match array.data_type() {
            DataType::Int64 => Arc::new(array.as_primitive::<Int64Type>().try_unary::<_, Int64Type, _>(|value| {
                value.checked_abs().ok_or_else(|| ArrowError::ArithmeticOverflow(String::new()))
            })?),
            DataType::Float64 => Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::abs)),
            // The least value of the bits has more digits than a decimal may have, so these never wrap.
            DataType::Decimal128(precision, scale) => Arc::new(
                array
                    .as_primitive::<Decimal128Type>()
                    .unary::<_, Decimal128Type>(i128::wrapping_abs)
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            DataType::Decimal256(precision, scale) => Arc::new(
                array
                    .as_primitive::<Decimal256Type>()
                    .unary::<_, Decimal256Type>(arrow_buffer::i256::wrapping_abs)
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            other => return Err(ArrowError::NotYetImplemented(other.to_string())),
        })
    };
    (!matches!(to, DataType::Decimal32(..) | DataType::Decimal64(..))).then_some(())?;
    let node = Node::call(kernel, vec![widen(arg, &to)], to, span);
    Some(if fallible { node.may_fail("the result does not fit into int64", None) } else { node })
}

/// Half away from zero, as in SQL.
fn round(mut args: Vec<Node>, span: Range<usize>) -> Option<Node> {
    let digits = match args.len() {
        1 => 0,
        2 => match args.pop()?.kind {
            NodeKind::Literal { decimal: Some((digits, 0)), .. } => {
                i8::try_from(digits).ok().filter(|digits| (0..=38).contains(digits))?
            }
            _ => return None,
        },
        _ => return None,
    };
    let [arg] = only(args)?;
    match (class(&arg.data_type), arg.data_type.clone()) {
        (Class::Integer, _) => Some(arg),
        (Class::Null, _) => Some(widen(arg, &DataType::Float64)),
        (Class::Float, _) => {
            let scale = 10_f64.powi(digits.into());
            let round = move |value: f64| {
                let scaled = value * scale;
                // Beyond 2^53 a float has no fraction, and the product may be infinite.
                if scaled.abs() < 9_007_199_254_740_992.0 { scaled.round() / scale } else { value }
            };
            let kernel = move |args: &[Value]| -> Result<ArrayRef, ArrowError> {
                Ok(Arc::new(args[0].array().as_primitive::<Float64Type>().unary::<_, Float64Type>(round)))
            };
            Some(Node::call(kernel, vec![widen(arg, &DataType::Float64)], DataType::Float64, span))
        }
        (_, DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale)) if scale <= digits => Some(arg),
        (_, DataType::Decimal128(precision, scale)) => {
            Some(round_decimal(arg, DataType::Decimal128(rounded(precision, scale, digits)?.min(38), digits), span))
        }
        (_, DataType::Decimal256(precision, scale)) => {
            Some(round_decimal(arg, DataType::Decimal256(rounded(precision, scale, digits)?.min(76), digits), span))
        }
        _ => None,
    }
}

/// Digits after rounding: 9.9 becomes 10.
fn rounded(precision: u8, scale: i8, digits: i8) -> Option<u8> {
    u8::try_from(i16::from(precision) - i16::from(scale) + i16::from(digits) + 1).ok()
}

fn round_decimal(arg: Node, to: DataType, span: Range<usize>) -> Node {
    let target = to.clone();
    Node::call(move |args| strict(args[0].array(), &target), vec![arg], to, span)
        .may_fail("the rounded value has too many digits", None)
}
