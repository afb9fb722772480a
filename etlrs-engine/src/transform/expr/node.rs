//! A type-checked expression: what binding makes and evaluation walks.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Datum, UInt64Array};
use arrow_schema::{ArrowError, DataType};

#[derive(Clone)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
    /// Whether a value of a row can make it fail; then it is evaluated only on the rows that need it.
    pub(super) fallible: bool,
    /// Its bytes in the source, for errors.
    pub(super) span: Range<usize>,
}

#[derive(Clone)]
pub(super) enum NodeKind {
    /// By position among the columns that the expression uses.
    Column(usize),
    /// One value; `decimal` are its digits and scale if it is a number that is exact in decimal.
    Literal { value: ArrayRef, decimal: Option<(i128, i8)> },
    /// A kernel over all rows of its arguments; `failure` tells what an error of it means.
    Call { kernel: Kernel, failure: Failure, args: Vec<Node> },
    /// `and` or `or`, of two terms or more.
    Logic { or: bool, terms: Vec<Node> },
    /// `case`: the value of the first branch whose condition is true.
    Choose { branches: Vec<(Node, Node)>, otherwise: Box<Node> },
    /// The first that is not null.
    Coalesce(Vec<Node>),
}

pub(super) type Kernel = Arc<dyn Fn(&[Value]) -> Result<ArrayRef, ArrowError> + Send + Sync>;

/// Arrow's messages hold values of rows, which are private, so a kernel comes with words of our own.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

/// What a node evaluates to: a value per row, or one value for all rows.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Array(ArrayRef),
    Scalar(ArrayRef),
}

impl Node {
    pub(super) fn is_literal(&self) -> bool {
        matches!(self.kind, NodeKind::Literal { .. })
    }

    /// A call whose result is null exactly where an argument is.
    pub(super) fn call(
        kernel: impl Fn(&[Value]) -> Result<ArrayRef, ArrowError> + Send + Sync + 'static,
        args: Vec<Node>,
        data_type: DataType,
        span: Range<usize>,
    ) -> Self {
        let nullable = args.iter().any(|arg| arg.nullable);
        let fallible = args.iter().any(|arg| arg.fallible);
        let failure = Failure { message: "the operation failed".into(), hint: None };
        Self { kind: NodeKind::Call { kernel: Arc::new(kernel), failure, args }, data_type, nullable, fallible, span }
    }

    /// The same, but values of rows may make the kernel fail.
    pub(super) fn may_fail(mut self, told: impl Into<String>, advice: Option<&'static str>) -> Self {
        self.fallible = true;
        if let NodeKind::Call { failure, .. } = &mut self.kind {
            *failure = Failure { message: told.into(), hint: advice };
        }
        self
    }
}

impl Value {
    pub(super) fn array(&self) -> &ArrayRef {
        match self {
            Self::Array(array) | Self::Scalar(array) => array,
        }
    }

    pub(super) fn is_scalar(&self) -> bool {
        matches!(self, Self::Scalar(_))
    }

    /// A value for each of `rows` rows.
    pub(super) fn into_array(self, rows: usize) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Array(array) => Ok(array),
            Self::Scalar(value) if rows == 1 => Ok(value),
            Self::Scalar(value) => arrow_select::take::take(&value, &UInt64Array::from_value(0, rows), None),
        }
    }

    /// The first `rows` rows.
    pub(super) fn head(&self, rows: usize) -> Self {
        match self {
            Self::Array(array) => Self::Array(array.slice(0, rows.min(array.len()))),
            Self::Scalar(value) => Self::Scalar(value.clone()),
        }
    }
}

impl Datum for Value {
    fn get(&self) -> (&dyn Array, bool) {
        (self.array().as_ref(), self.is_scalar())
    }
}
