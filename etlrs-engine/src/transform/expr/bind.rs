//! A tree with a schema into typed nodes.

use std::ops::Range;
use std::sync::Arc;

use arrow_arith::boolean::{is_not_null, is_null, not, or_kleene};
use arrow_arith::numeric;
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Decimal256Type, Int64Type};
use arrow_array::{
    ArrayRef, BooleanArray, Datum, Float64Array, Int64Array, NullArray, StringArray, UInt64Array, new_empty_array,
    new_null_array,
};
use arrow_ord::cmp;
use arrow_schema::{ArrowError, DataType, Schema, TimeUnit};
use etlrs_core::{Error, ErrorKind, Result, column_index, type_name, unknown_name};

use super::coerce::{Class, adapt_literal, class, common, decimal_literal, decimal_operands, literal, unify, widen};
use super::functions::{FUNCTIONS, concat_two};
use super::lex::wrong;
use super::node::{Node, NodeKind, Value};
use super::parse::{Ast, AstKind, BinaryOp, Literal};
use crate::transform::exact::{canonical, cast_exact, check_cast, decoded, strict};

pub(super) struct Binder<'a> {
    pub(super) source: &'a str,
    pub(super) schema: &'a Schema,
    /// Positions in the schema of the columns that are used.
    pub(super) used: Vec<usize>,
}

type CompareKernel = fn(&dyn Datum, &dyn Datum) -> Result<BooleanArray, ArrowError>;
type ArithmeticKernel = fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError>;

impl Binder<'_> {
    /// The whole expression. A column by itself stays as it is, dictionary and all.
    pub(super) fn root(&mut self, ast: &Ast) -> Result<Node> {
        match &ast.kind {
            AstKind::Column(name) => self.column(name, ast.span.clone()),
            _ => self.bind(ast),
        }
    }

    fn bind(&mut self, ast: &Ast) -> Result<Node> {
        let span = ast.span.clone();
        match &ast.kind {
            AstKind::Column(name) => {
                let column = self.column(name, span)?;
                let values = decoded(&column.data_type).clone();
                // Nulls may be among the values of a dictionary, so the field is believed.
                Ok(widen(column, &values))
            }
            AstKind::Literal(literal) => self.literal(literal, span),
            AstKind::Negate(value) => {
                let value = self.bind(value)?;
                self.negate(value, span)
            }
            AstKind::Not(value) => Ok(negation(true, self.boolean(value, "not")?, span)),
            AstKind::And(terms) => self.logic(false, terms, span),
            AstKind::Or(terms) => self.logic(true, terms, span),
            AstKind::Binary(op, left, right) => {
                let (left, right) = (self.bind(left)?, self.bind(right)?);
                self.binary(*op, left, right, span)
            }
            AstKind::IsNull { negated, value } => {
                let kernel = if *negated { is_not_null } else { is_null };
                let mut node = Node::call(
                    move |args| Ok(Arc::new(kernel(args[0].array())?)),
                    vec![self.bind(value)?],
                    DataType::Boolean,
                    span,
                );
                node.nullable = false;
                Ok(node)
            }
            AstKind::In { negated, value, list } => {
                let node = self.is_in(value, list, span.clone())?;
                Ok(negation(*negated, node, span))
            }
            AstKind::Between { negated, value, low, high } => {
                let (value, low, high) = (self.bind(value)?, self.bind(low)?, self.bind(high)?);
                let terms = vec![
                    self.compare(BinaryOp::GtEq, value.clone(), low, span.clone())?,
                    self.compare(BinaryOp::LtEq, value, high, span.clone())?,
                ];
                Ok(negation(*negated, logic_node(false, terms, span.clone()), span))
            }
            AstKind::Like { negated, value, pattern } => {
                let (value, pattern) = (self.bind(value)?, self.bind(pattern)?);
                let (value, pattern) = self.texts("like", value, pattern, &span)?;
                let node = Node::call(
                    |args| Ok(Arc::new(arrow_string::like::like(&args[0], &args[1])?)),
                    vec![value, pattern],
                    DataType::Boolean,
                    span.clone(),
                );
                Ok(negation(*negated, node, span))
            }
            AstKind::Cast(value, to) => {
                let value = self.bind(value)?;
                self.cast(value, to, span)
            }
            AstKind::Call(name, args) => self.call(name, args, span),
            AstKind::Case { operand, branches, otherwise } => {
                self.case(operand.as_deref(), branches, otherwise.as_deref(), span)
            }
        }
    }

    fn column(&mut self, name: &str, span: Range<usize>) -> Result<Node> {
        let position = column_index(self.schema, name).map_err(|error| {
            let hint = error.hint_text().map(|hint| format!("{hint}; text is written in single quotes, as '{name}'"));
            hint.into_iter().fold(error, Error::hint)
        })?;
        let field = self.schema.field(position);
        let at = self.used.iter().position(|used| *used == position).unwrap_or_else(|| {
            self.used.push(position);
            self.used.len() - 1
        });
        let nullable = field.is_nullable() || *field.data_type() == DataType::Null;
        let data_type = field.data_type().clone();
        Ok(Node { kind: NodeKind::Column(at), data_type, nullable, fallible: false, span })
    }

    pub(super) fn literal(&self, written: &Literal, span: Range<usize>) -> Result<Node> {
        let time = |text: &str, to: DataType, example: &str| {
            cast_exact(&StringArray::from(vec![text]), &to)
                .map_err(|_| wrong(self.source, span.start, format!("'{text}' is not a {example}")))
        };
        let mut decimal = None;
        let value: ArrayRef = match written {
            Literal::Null => Arc::new(NullArray::new(1)),
            Literal::Boolean(value) => Arc::new(BooleanArray::from(vec![*value])),
            Literal::Integer(value) => {
                decimal = Some((*value, 0));
                match (i64::try_from(*value), u64::try_from(*value)) {
                    (Ok(value), _) => Arc::new(Int64Array::from(vec![value])),
                    (_, Ok(value)) => Arc::new(UInt64Array::from(vec![value])),
                    _ => decimal_literal(*value, 0)
                        .ok_or_else(|| wrong(self.source, span.start, "an integer has at most 38 digits"))?,
                }
            }
            Literal::Number { value, decimal: exact } => {
                decimal = *exact;
                Arc::new(Float64Array::from(vec![*value]))
            }
            Literal::Text(text) => Arc::new(StringArray::from(vec![text.as_str()])),
            Literal::Date(text) => time(text, DataType::Date32, "date such as '2013-01-31'")?,
            Literal::Timestamp(text) => {
                let zoned = text.ends_with(['Z', 'z']) || text.get(10..).is_some_and(|time| time.contains(['+', '-']));
                let zone = zoned.then(|| "UTC".into());
                let to = DataType::Timestamp(TimeUnit::Microsecond, zone);
                time(text, to, "timestamp such as '2013-01-31T12:00:00' or '2013-01-31T12:00:00Z'")?
            }
        };
        Ok(literal(value, decimal, span))
    }

    fn binary(&self, op: BinaryOp, left: Node, right: Node, span: Range<usize>) -> Result<Node> {
        match op {
            BinaryOp::Concat => {
                let (left, right) = self.texts("||", left, right, &span)?;
                let data_type = left.data_type.clone();
                Ok(Node::call(concat_two, vec![left, right], data_type, span)
                    .may_fail("the text does not fit into a batch", Some("make the batches smaller")))
            }
            BinaryOp::Add | BinaryOp::Subtract | BinaryOp::Multiply | BinaryOp::Divide | BinaryOp::Remainder => {
                self.arithmetic(op, left, right, span)
            }
            _ => self.compare(op, left, right, span),
        }
    }

    fn compare(&self, op: BinaryOp, left: Node, right: Node, span: Range<usize>) -> Result<Node> {
        let kernel: CompareKernel = match op {
            BinaryOp::Eq => cmp::eq,
            BinaryOp::NotEq => cmp::neq,
            BinaryOp::Lt => cmp::lt,
            BinaryOp::LtEq => cmp::lt_eq,
            BinaryOp::Gt => cmp::gt,
            _ => cmp::gt_eq,
        };
        let error = self.mismatch(op.symbol(), &left.data_type, &right.data_type, &span);
        let (left, right) = unify(left, right).ok_or(error)?;
        match class(&left.data_type) {
            Class::Other => Err(self.mismatch(op.symbol(), &left.data_type, &right.data_type, &span)),
            // Both sides are the word null.
            Class::Null => Ok(literal(new_null_array(&DataType::Boolean, 1), None, span)),
            Class::Float => {
                let kernel = move |args: &[Value]| -> Result<ArrayRef, ArrowError> {
                    Ok(Arc::new(kernel(&args[0].canonical(), &args[1].canonical())?))
                };
                Ok(Node::call(kernel, vec![left, right], DataType::Boolean, span))
            }
            _ => {
                let kernel =
                    move |args: &[Value]| -> Result<ArrayRef, ArrowError> { Ok(Arc::new(kernel(&args[0], &args[1])?)) };
                Ok(Node::call(kernel, vec![left, right], DataType::Boolean, span))
            }
        }
    }

    fn arithmetic(&self, op: BinaryOp, left: Node, right: Node, span: Range<usize>) -> Result<Node> {
        use Class::{Date, Decimal, Float, Integer, Null};
        let kernel: ArithmeticKernel = match op {
            BinaryOp::Add => numeric::add,
            BinaryOp::Subtract => numeric::sub,
            BinaryOp::Multiply => numeric::mul,
            BinaryOp::Divide => numeric::div,
            _ => numeric::rem,
        };
        let error = self.mismatch(op.symbol(), &left.data_type, &right.data_type, &span);
        let plain = move |args: &[Value]| kernel(&args[0], &args[1]);
        let both =
            |left, right, to: DataType| Node::call(plain, vec![widen(left, &to), widen(right, &to)], to, span.clone());
        let overflow = |to: &DataType| format!("the result does not fit into {}", type_name(to));
        match (class(&left.data_type), class(&right.data_type)) {
            (Null, Null) => Ok(literal(new_null_array(&DataType::Int64, 1), None, span)),
            (Null, Integer | Decimal | Float) => {
                let left = widen(left, &right.data_type);
                self.arithmetic(op, left, right, span)
            }
            (Integer | Decimal | Float, Null) => {
                let right = widen(right, &left.data_type);
                self.arithmetic(op, left, right, span)
            }
            (Date, Null) => self.arithmetic(op, left, widen(right, &DataType::Int64), span),
            (Null, Date) if op == BinaryOp::Add => self.arithmetic(op, widen(left, &DataType::Int64), right, span),
            (Float, Integer | Decimal | Float) | (Integer | Decimal, Float) => {
                let (adapted_left, adapted_right) =
                    (adapt_literal(left.clone(), &right.data_type), adapt_literal(right.clone(), &left.data_type));
                // A decimal times 1.1 is a decimal; a float column makes floats.
                if op != BinaryOp::Divide
                    && (class(&adapted_left.data_type), class(&adapted_right.data_type)) == (Decimal, Decimal)
                {
                    return self.arithmetic(op, adapted_left, adapted_right, span);
                }
                Ok(both(left, right, DataType::Float64))
            }
            (Integer | Decimal, Integer | Decimal) if op == BinaryOp::Divide => {
                Ok(both(left, right, DataType::Float64))
            }
            (Integer, Integer) => Ok(both(left, right, DataType::Int64).may_fail(overflow(&DataType::Int64), None)),
            (Decimal, Integer | Decimal) | (Integer, Decimal) => {
                let left = if class(&left.data_type) == Integer { adapt_literal(left, &right.data_type) } else { left };
                let right =
                    if class(&right.data_type) == Integer { adapt_literal(right, &left.data_type) } else { right };
                let (to_left, to_right) = decimal_operands(&left.data_type, &right.data_type).ok_or(error)?;
                let result =
                    plain(&[Value::Array(new_empty_array(&to_left)), Value::Array(new_empty_array(&to_right))])
                        .map_err(|_| {
                            self.mismatch(op.symbol(), &to_left, &to_right, &span).hint("cast a side to fewer digits")
                        })?;
                let args = vec![widen(left, &to_left), widen(right, &to_right)];
                let to = result.data_type().clone();
                let checked = move |args: &[Value]| plain(args).and_then(check_digits);
                Ok(Node::call(checked, args, to.clone(), span.clone()).may_fail(overflow(&to), None))
            }
            (Date, Date) if op == BinaryOp::Subtract => {
                let days = |args: &[Value]| numeric::sub(&days(&args[0])?, &days(&args[1])?);
                Ok(Node::call(days, vec![left, right], DataType::Int64, span.clone()))
            }
            (Date, Integer) if matches!(op, BinaryOp::Add | BinaryOp::Subtract) => {
                let args = vec![left, widen(right, &DataType::Int64)];
                let moved = move |args: &[Value]| to_date(&kernel(&days(&args[0])?, &args[1])?);
                Ok(Node::call(moved, args, DataType::Date32, span.clone()).may_fail(overflow(&DataType::Date32), None))
            }
            (Integer, Date) if op == BinaryOp::Add => self.arithmetic(op, right, left, span),
            _ => Err(error),
        }
    }

    fn negate(&self, value: Node, span: Range<usize>) -> Result<Node> {
        match class(&value.data_type) {
            Class::Null => Ok(value),
            Class::Integer => {
                let value = widen(value, &DataType::Int64);
                Ok(Node::call(|args| numeric::neg(args[0].array()), vec![value], DataType::Int64, span)
                    .may_fail("the result does not fit into int64", None))
            }
            Class::Float | Class::Decimal => {
                let data_type = value.data_type.clone();
                Ok(Node::call(|args| numeric::neg(args[0].array()), vec![value], data_type, span))
            }
            _ => Err(self.refuse(format!("operator - does not take {}", type_name(&value.data_type)), &span)),
        }
    }

    fn logic(&mut self, or: bool, terms: &[Ast], span: Range<usize>) -> Result<Node> {
        let name = if or { "or" } else { "and" };
        let terms = terms.iter().map(|term| self.boolean(term, name)).collect::<Result<Vec<_>>>()?;
        Ok(logic_node(or, terms, span))
    }

    fn boolean(&mut self, ast: &Ast, operator: &str) -> Result<Node> {
        let node = self.bind(ast)?;
        match class(&node.data_type) {
            Class::Boolean => Ok(node),
            Class::Null => Ok(widen(node, &DataType::Boolean)),
            _ => {
                let found = type_name(&node.data_type);
                let message = format!("operator {operator} takes boolean, not {found}");
                Err(self.refuse(message, &ast.span).hint("compare it with something"))
            }
        }
    }

    fn is_in(&mut self, value: &Ast, list: &[Ast], span: Range<usize>) -> Result<Node> {
        let value = self.bind(value)?;
        let mut args = vec![value];
        for ast in list {
            let item = self.bind(ast)?;
            if !item.is_literal() {
                return Err(wrong(self.source, ast.span.start, "a list after in holds literals only")
                    .hint("compare with = and or instead"));
            }
            let error = self.mismatch("in", &args[0].data_type, &item.data_type, &span);
            let item = adapt_literal(item, &args[0].data_type);
            let to = common(&args[0].data_type, &item.data_type).ok_or(error)?;
            args[0] = widen(args[0].clone(), &to);
            args.push(item);
        }
        let to = args[0].data_type.clone();
        if class(&to) == Class::Other {
            return Err(self.mismatch("in", &to, &to, &span));
        }
        if to == DataType::Null {
            return Ok(literal(new_null_array(&DataType::Boolean, 1), None, span));
        }
        let args: Vec<_> = args.into_iter().map(|arg| widen(arg, &to)).collect();
        let any = |args: &[Value]| -> Result<ArrayRef, ArrowError> {
            let value = args[0].canonical();
            let mut found: Option<BooleanArray> = None;
            for item in &args[1..] {
                let equal = cmp::eq(&value, &item.canonical())?;
                found = Some(match found {
                    Some(found) => or_kleene(&found, &equal)?,
                    None => equal,
                });
            }
            found.map(|found| Arc::new(found) as ArrayRef).ok_or_else(|| ArrowError::ComputeError("no items".into()))
        };
        Ok(Node::call(any, args, DataType::Boolean, span))
    }

    fn cast(&self, value: Node, to: &DataType, span: Range<usize>) -> Result<Node> {
        check_cast(&value.data_type, to).map_err(|error| self.refuse(error.to_string(), &span))?;
        if value.data_type == *to {
            return Ok(value);
        }
        let advice = match (class(&value.data_type), class(to)) {
            (Class::Float | Class::Decimal, Class::Integer | Class::Decimal) => {
                Some("round it first, with round(x) or round(x, digits)")
            }
            _ => None,
        };
        let target = to.clone();
        let kernel = move |args: &[Value]| cast_exact(args[0].array(), &target);
        Ok(Node::call(kernel, vec![value], to.clone(), span)
            .may_fail(format!("a value does not fit into {}", type_name(to)), advice))
    }

    fn call(&mut self, name: &str, args: &[Ast], span: Range<usize>) -> Result<Node> {
        let args = args.iter().map(|arg| self.bind(arg)).collect::<Result<Vec<_>>>()?;
        if name == "coalesce" && !args.is_empty() {
            let args = self.same_type("coalesce", args, &span)?;
            let (data_type, nullable) = (args[0].data_type.clone(), args.iter().all(|arg| arg.nullable));
            let fallible = args.iter().any(|arg| arg.fallible);
            return Ok(Node { kind: NodeKind::Coalesce(args), data_type, nullable, fallible, span });
        }
        let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) else {
            let names: Vec<_> = FUNCTIONS.iter().map(|function| function.name).collect();
            return Err(unknown_name("function", name, &names));
        };
        let given: Vec<_> = args.iter().map(|arg| type_name(&arg.data_type)).collect();
        (function.bind)(args, span.clone()).ok_or_else(|| {
            let given = if given.is_empty() { "nothing".to_owned() } else { given.join(", ") };
            self.refuse(format!("function {name} does not take {given}"), &span)
                .hint(format!("it is {}", function.usage))
        })
    }

    fn case(
        &mut self,
        operand: Option<&Ast>,
        branches: &[(Ast, Ast)],
        otherwise: Option<&Ast>,
        span: Range<usize>,
    ) -> Result<Node> {
        let operand = operand.map(|operand| self.bind(operand)).transpose()?;
        let mut conditions = Vec::with_capacity(branches.len());
        let mut values = Vec::with_capacity(branches.len() + 1);
        for (condition, value) in branches {
            conditions.push(match &operand {
                None => self.boolean(condition, "when")?,
                Some(operand) => {
                    let wanted = self.bind(condition)?;
                    let equal = self.compare(BinaryOp::Eq, operand.clone(), wanted, condition.span.clone())?;
                    widen(equal, &DataType::Boolean)
                }
            });
            values.push(self.bind(value)?);
        }
        values.push(match otherwise {
            Some(otherwise) => self.bind(otherwise)?,
            None => literal(Arc::new(NullArray::new(1)), None, span.clone()),
        });
        let mut values = self.same_type("case", values, &span)?;
        let fallible = conditions.iter().chain(&values).any(|node| node.fallible);
        let nullable = values.iter().any(|value| value.nullable);
        let data_type = values[0].data_type.clone();
        let Some(otherwise) = values.pop().map(Box::new) else {
            return Err(self.refuse("case has no branches".into(), &span));
        };
        let branches = conditions.into_iter().zip(values).collect();
        Ok(Node { kind: NodeKind::Choose { branches, otherwise }, data_type, nullable, fallible, span })
    }

    /// All nodes as the type that holds them all.
    fn same_type(&self, operator: &str, nodes: Vec<Node>, span: &Range<usize>) -> Result<Vec<Node>> {
        // Literals come last, so that they take the type of the columns and not the other way round.
        let mut to = DataType::Null;
        for literals in [false, true] {
            for node in nodes.iter().filter(|node| node.is_literal() == literals) {
                let adapted = adapt_literal(node.clone(), &to);
                to = common(&to, &adapted.data_type)
                    .ok_or_else(|| self.mismatch(operator, &to, &node.data_type, span))?;
            }
        }
        Ok(nodes.into_iter().map(|node| widen(adapt_literal(node, &to), &to)).collect())
    }

    fn texts(&self, operator: &str, left: Node, right: Node, span: &Range<usize>) -> Result<(Node, Node)> {
        let is_text = |node: &Node| matches!(class(&node.data_type), Class::Text | Class::Null);
        let error = self.mismatch(operator, &left.data_type, &right.data_type, span);
        if !is_text(&left) || !is_text(&right) {
            return Err(error);
        }
        let (left, right) = unify(left, right).ok_or(error)?;
        let to = if left.data_type == DataType::Null { DataType::Utf8 } else { left.data_type.clone() };
        Ok((widen(left, &to), widen(right, &to)))
    }

    fn mismatch(&self, operator: &str, left: &DataType, right: &DataType, span: &Range<usize>) -> Error {
        let (l, r) = (type_name(left), type_name(right));
        let hint = match (class(left), class(right)) {
            (Class::Text, _) if operator == "||" => "use cast(... as text) on the right side".to_owned(),
            (_, Class::Text) if operator == "||" => "use cast(... as text) on the left side".to_owned(),
            (Class::Text, Class::Timestamp { zoned: true }) | (Class::Timestamp { zoned: true }, Class::Text) => {
                "write it as timestamp '2013-01-31T12:00:00Z', or use cast(... as timestamptz)".to_owned()
            }
            (Class::Text, Class::Date) | (Class::Date, Class::Text) => {
                "write a date as date '2013-01-31', or use cast(... as date)".to_owned()
            }
            (Class::Text, Class::Timestamp { .. }) | (Class::Timestamp { .. }, Class::Text) => {
                "write a timestamp as timestamp '2013-01-31T12:00:00', or use cast(... as timestamp)".to_owned()
            }
            (Class::Timestamp { zoned: true }, _) | (_, Class::Timestamp { zoned: true }) => {
                "one side has a time zone; write Z at the end of a literal, or use cast(... as timestamptz)".to_owned()
            }
            (Class::Text, _) => format!("use cast(... as {r}) on the left side"),
            (_, Class::Text) => format!("use cast(... as {l}) on the right side"),
            _ => "use cast(... as type) on one side".to_owned(),
        };
        self.refuse(format!("operator {operator} does not take {l} and {r}"), span).hint(hint)
    }

    fn refuse(&self, message: String, span: &Range<usize>) -> Error {
        let snippet = super::snippet(self.source, span);
        Error::new(ErrorKind::InvalidConfig, format!("in {snippet}: {message}"))
    }
}

fn logic_node(or: bool, terms: Vec<Node>, span: Range<usize>) -> Node {
    let nullable = terms.iter().any(|term| term.nullable);
    let fallible = terms.iter().any(|term| term.fallible);
    Node { kind: NodeKind::Logic { or, terms }, data_type: DataType::Boolean, nullable, fallible, span }
}

fn negation(negated: bool, node: Node, span: Range<usize>) -> Node {
    if !negated {
        return node;
    }
    let kernel = |args: &[Value]| -> Result<ArrayRef, ArrowError> { Ok(Arc::new(not(args[0].array().as_boolean())?)) };
    Node::call(kernel, vec![node], DataType::Boolean, span)
}

/// Dates as days since 1970.
fn days(date: &Value) -> Result<Value, ArrowError> {
    let days = strict(&strict(&strict(date.array(), &DataType::Date32)?, &DataType::Int32)?, &DataType::Int64)?;
    Ok(if date.is_scalar() { Value::Scalar(days) } else { Value::Array(days) })
}

fn to_date(days: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    strict(&strict(days.as_primitive::<Int64Type>(), &DataType::Int32)?, &DataType::Date32)
}

/// Arrow checks that a decimal fits into its bits, not that it fits into its digits.
fn check_digits(array: ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Decimal128(precision, _) => {
            array.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)?;
        }
        DataType::Decimal256(precision, _) => {
            array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision)?;
        }
        _ => {}
    }
    Ok(array)
}

impl Value {
    fn canonical(&self) -> Self {
        match self {
            Self::Array(array) => Self::Array(canonical(array.clone())),
            Self::Scalar(value) => Self::Scalar(canonical(value.clone())),
        }
    }
}
