//! What a source is told of the rows that are wanted, so that it need not read those that are not.

use crate::Value;

/// A test of the values of one column.
///
/// Values are compared as the expressions of the engine compare them: a null passes no comparison; numbers by their value,
/// whatever their types, where NaN equals NaN and is above all other numbers, and both zeros are equal; text by the bytes
/// of its UTF-8; `false` before `true`; points in time as such. A date stands for its midnight where the column has
/// timestamps without a zone.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ColumnTest {
    /// Name of the column in the source.
    pub column: String,
    /// What its value must pass.
    pub test: Test,
}

impl ColumnTest {
    /// Of the column named `column`.
    pub fn new(column: impl Into<String>, test: Test) -> Self {
        Self { column: column.into(), test }
    }
}

/// What a value must pass.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Test {
    /// The value, compared with a constant on its right.
    Compare(Comparison, Value<'static>),
    /// The value equals one of these.
    In(Vec<Value<'static>>),
    /// There is no value.
    IsNull,
    /// There is a value.
    IsNotNull,
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Eq,
    /// `<>`
    NotEq,
    /// `<`
    Lt,
    /// `<=`
    LtEq,
    /// `>`
    Gt,
    /// `>=`
    GtEq,
}

impl Comparison {
    /// The same comparison with its sides exchanged.
    #[must_use]
    pub fn flipped(self) -> Self {
        match self {
            Self::Eq | Self::NotEq => self,
            Self::Lt => Self::Gt,
            Self::LtEq => Self::GtEq,
            Self::Gt => Self::Lt,
            Self::GtEq => Self::LtEq,
        }
    }
}
