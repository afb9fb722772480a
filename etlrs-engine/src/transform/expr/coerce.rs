//! Which types go together, and as what.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Decimal128Array};
use arrow_schema::{DataType, TimeUnit};

use super::node::{Node, NodeKind};
use crate::transform::exact::strict;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transform) enum Class {
    Null,
    Boolean,
    Integer,
    Decimal,
    Float,
    Text,
    Binary,
    Date,
    Time,
    Timestamp { zoned: bool },
    Other,
}

pub(in crate::transform) fn class(data_type: &DataType) -> Class {
    match data_type {
        DataType::Null => Class::Null,
        DataType::Boolean => Class::Boolean,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Class::Text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Class::Binary,
        DataType::Date32 | DataType::Date64 => Class::Date,
        DataType::Time32(_) | DataType::Time64(_) => Class::Time,
        DataType::Timestamp(_, zone) => Class::Timestamp { zoned: zone.is_some() },
        other if other.is_integer() => Class::Integer,
        other if other.is_floating() => Class::Float,
        other if other.is_decimal() => Class::Decimal,
        _ => Class::Other,
    }
}

/// The type in which values of both types are compared, or become one column. Exact, but for integers above 2^53 and
/// decimals next to floats.
pub(in crate::transform) fn common(left: &DataType, right: &DataType) -> Option<DataType> {
    use Class::*;
    let numeric = |class| matches!(class, Integer | Decimal | Float);
    Some(match (class(left), class(right)) {
        _ if left == right => left.clone(),
        (Null, _) => right.clone(),
        (_, Null) => left.clone(),
        (Integer, Integer) if *left != DataType::UInt64 && *right != DataType::UInt64 => DataType::Int64,
        (Integer | Decimal, Integer | Decimal) => {
            let ((p1, s1), (p2, s2)) = (digits(left)?, digits(right)?);
            let scale = s1.max(s2);
            decimal((p1 - s1).max(p2 - s2) + scale, scale)?
        }
        (l, r) if numeric(l) && numeric(r) => DataType::Float64,
        (Text, Text) if *left == DataType::LargeUtf8 || *right == DataType::LargeUtf8 => DataType::LargeUtf8,
        (Text, Text) => DataType::Utf8View,
        (Binary, Binary) => DataType::LargeBinary,
        (Date, Date) => DataType::Date64,
        (Time, Time) => DataType::Time64(TimeUnit::Nanosecond),
        (Timestamp { zoned: l }, Timestamp { zoned: r }) if l == r => {
            let (DataType::Timestamp(l, zone), DataType::Timestamp(r, _)) = (left, right) else { return None };
            DataType::Timestamp(*l.max(r), zone.clone())
        }
        (Date, Timestamp { zoned: false }) => right.clone(),
        (Timestamp { zoned: false }, Date) => left.clone(),
        _ => return None,
    })
}

/// Both nodes as one type.
pub(super) fn unify(left: Node, right: Node) -> Option<(Node, Node)> {
    let (left, right) = (adapt_literal(left.clone(), &right.data_type), adapt_literal(right, &left.data_type));
    let to = common(&left.data_type, &right.data_type)?;
    Some((widen(left, &to), widen(right, &to)))
}

/// A number as it is written, in the type of what it stands next to, if it is exact there. Saves a cast of the column,
/// and `price = 0.1` means the decimal, not the float nearest to it.
pub(super) fn adapt_literal(node: Node, other: &DataType) -> Node {
    let NodeKind::Literal { decimal: Some((value, scale)), .. } = node.kind else { return node };
    let adapted = match class(other) {
        Class::Decimal => decimal_literal(value, scale),
        Class::Integer if scale == 0 => decimal_literal(value, 0).and_then(|literal| strict(&literal, other).ok()),
        _ => None,
    };
    match adapted {
        Some(value) => literal(value, node.decimal(), node.span),
        None => node,
    }
}

pub(super) fn literal(value: ArrayRef, decimal: Option<(i128, i8)>, span: std::ops::Range<usize>) -> Node {
    let data_type = value.data_type().clone();
    let nullable = value.logical_null_count() > 0;
    Node { kind: NodeKind::Literal { value, decimal }, data_type, nullable, fallible: false, span }
}

pub(super) fn decimal_literal(value: i128, scale: i8) -> Option<ArrayRef> {
    let precision = value.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
    let precision = u8::try_from(precision).ok()?.max(u8::try_from(scale).ok()?);
    let array = Decimal128Array::from(vec![value]).with_precision_and_scale(precision, scale).ok()?;
    Some(Arc::new(array))
}

/// `node` as a type that [`common`] chose.
pub(super) fn widen(node: Node, to: &DataType) -> Node {
    if node.data_type == *to {
        return node;
    }
    if let NodeKind::Literal { value, decimal } = &node.kind
        && let Ok(value) = strict(value, to)
    {
        return literal(value, *decimal, node.span);
    }
    // All others hold each value of the narrower type.
    let may_fail = matches!(to, DataType::Timestamp(..) | DataType::Time64(_))
        || (node.data_type == DataType::UInt64 && *to == DataType::Int64);
    let (span, target) = (node.span.clone(), to.clone());
    let call = Node::call(move |args| strict(args[0].array(), &target), vec![node], to.clone(), span);
    if may_fail {
        call.may_fail(format!("a value does not fit into {}", etlrs_core::type_name(to)), None)
    } else {
        call
    }
}

/// Precision and scale of the decimal that holds each value of an integer or decimal type.
fn digits(data_type: &DataType) -> Option<(i16, i16)> {
    let (precision, scale) = match data_type {
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::UInt64 => (20, 0),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => (*precision, *scale),
        _ => return None,
    };
    Some((precision.into(), scale.into()))
}

fn decimal(precision: i16, scale: i16) -> Option<DataType> {
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    match precision {
        0..=38 => Some(DataType::Decimal128(precision, scale)),
        39..=76 => Some(DataType::Decimal256(precision, scale)),
        _ => None,
    }
}

/// The decimal types in which both sides are calculated with: scales are kept, only the layout becomes the same.
pub(super) fn decimal_operands(left: &DataType, right: &DataType) -> Option<(DataType, DataType)> {
    let wide = matches!(left, DataType::Decimal256(..)) || matches!(right, DataType::Decimal256(..));
    let of = |data_type: &DataType| {
        let (precision, scale) = digits(data_type)?;
        let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
        Some(if wide { DataType::Decimal256(precision, scale) } else { DataType::Decimal128(precision, scale) })
    };
    Some((of(left)?, of(right)?))
}

impl Node {
    fn decimal(&self) -> Option<(i128, i8)> {
        match &self.kind {
            NodeKind::Literal { decimal, .. } => *decimal,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_types_hold_both_sides() {
        use DataType::*;
        let utc = |unit| Timestamp(unit, Some("UTC".into()));
        for (left, right, expected) in [
            (Int8, Int32, Some(Int64)),
            (Int64, UInt64, Some(Decimal128(20, 0))),
            (UInt64, UInt64, Some(UInt64)),
            (Int32, Float32, Some(Float64)),
            (Decimal128(5, 2), Decimal128(5, 4), Some(Decimal128(7, 4))),
            (Decimal128(38, 2), Decimal128(38, 4), Some(Decimal256(40, 4))),
            (Decimal256(76, 0), Decimal128(38, 4), None),
            (Decimal128(5, 2), Int64, Some(Decimal128(21, 2))),
            (Decimal128(5, 2), Float64, Some(Float64)),
            (Utf8, Utf8View, Some(Utf8View)),
            (Utf8View, LargeUtf8, Some(LargeUtf8)),
            (Utf8, Int64, None),
            (Null, Date32, Some(Date32)),
            (utc(TimeUnit::Second), utc(TimeUnit::Microsecond), Some(utc(TimeUnit::Microsecond))),
            (utc(TimeUnit::Second), Timestamp(TimeUnit::Second, None), None),
            (Date32, Timestamp(TimeUnit::Second, None), Some(Timestamp(TimeUnit::Second, None))),
            (Boolean, Int8, None),
        ] {
            assert_eq!(common(&left, &right), expected, "{left} with {right}");
            if expected.as_ref().is_none_or(|expected| !matches!(expected, Timestamp(..))) {
                assert_eq!(common(&right, &left), expected, "{right} with {left}");
            }
        }
    }
}
