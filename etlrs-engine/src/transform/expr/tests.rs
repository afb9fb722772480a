use arrow_array::cast::AsArray;
use arrow_array::types::Int8Type;
use arrow_array::*;
use arrow_cast::display::array_value_to_string;
use arrow_schema::DataType;
use etlrs_core::{record_batch, type_name};
use proptest::prelude::*;

use super::*;

/// Two rows, of which the second is null throughout, but for `n`, `z` and `m`.
fn batch() -> RecordBatch {
    let decimal = Decimal128Array::from(vec![Some(125), None]).with_precision_and_scale(12, 2).unwrap();
    let wide = Decimal128Array::from(vec![Some(10_i128.pow(37)), None]).with_precision_and_scale(38, 0).unwrap();
    let dictionary: DictionaryArray<Int8Type> = [Some("ab"), None].into_iter().collect();
    RecordBatch::try_from_iter_with_nullable([
        ("i", Arc::new(Int32Array::from(vec![Some(7), None])) as ArrayRef, true),
        ("u", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])), true),
        ("f", Arc::new(Float64Array::from(vec![Some(2.5), None])), true),
        ("s", Arc::new(StringViewArray::from(vec![Some("Ärger"), None])), true),
        ("d", Arc::new(Date32Array::from(vec![Some(15_706), None])), true),
        ("t", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_356_998_400_000_000), None])), true),
        ("tz", Arc::new(TimestampSecondArray::from(vec![Some(1_356_998_400), None]).with_timezone("UTC")), true),
        ("p", Arc::new(decimal), true),
        ("w", Arc::new(wide), true),
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None])), true),
        ("k", Arc::new(dictionary), true),
        ("n", Arc::new(Int64Array::from(vec![1, i64::MAX])), false),
        ("z", Arc::new(Int64Array::from(vec![0, 5])), false),
        ("m", Arc::new(Float64Array::from(vec![-0.0, f64::NAN])), false),
    ])
    .unwrap()
}

/// Type and values, with the promises of the plan checked, and that a slice gives the same.
fn eval(source: &str) -> Result<String> {
    let batch = batch();
    let bound = Expr::parse(source)?.bind(&batch.schema())?;
    let result = bound.evaluate(&batch)?;
    assert_eq!(result.data_type(), bound.data_type(), "{source}");
    assert_eq!(result.len(), 2, "{source}");
    assert!(bound.nullable() || result.logical_null_count() == 0, "{source}");
    let show = |array: &ArrayRef, row: usize| {
        if array.logical_nulls().is_some_and(|nulls| nulls.is_null(row)) {
            return "null".to_owned();
        }
        array_value_to_string(array, row).unwrap_or_else(|_| "?".into())
    };
    let second = bound.evaluate(&batch.slice(1, 1)).unwrap();
    assert_eq!(show(&second, 0), show(&result, 1), "{source}");
    assert_eq!(bound.evaluate(&batch.slice(1, 0)).unwrap().len(), 0);
    Ok(format!("{} {} {}", type_name(result.data_type()), show(&result, 0), show(&result, 1)))
}

#[test]
fn expressions_have_their_values() {
    for (source, expected) in [
        // Arithmetic.
        ("i + 1", "int64 8 null"),
        ("i / 2", "float64 3.5 null"),
        ("i % 4", "int64 3 null"),
        ("-i * 2 - 1", "int64 -15 null"),
        ("i * f", "float64 17.5 null"),
        ("z / 0", "float64 NaN inf"),
        ("f % 0", "float64 NaN null"),
        ("-9223372036854775808 + 0", "int64 -9223372036854775808 -9223372036854775808"),
        ("p + 1", "decimal(13,2) 2.25 null"),
        ("p * 1.1", "decimal(15,3) 1.375 null"),
        ("p / 2", "float64 0.625 null"),
        ("p * f", "float64 3.125 null"),
        ("d - date '2013-01-01'", "int64 0 null"),
        ("d + 31", "date 2013-02-01 null"),
        ("d - 1", "date 2012-12-31 null"),
        ("1 + null", "int64 null null"),
        // Comparison.
        ("i = 7", "bool true null"),
        ("i <> 7", "bool false null"),
        ("i > 6.5", "bool true null"),
        ("u > i", "bool true null"),
        ("u = 18446744073709551615", "bool true null"),
        ("u > -1", "bool true null"),
        ("p = 1.25", "bool true null"),
        ("p = 1.250", "bool true null"),
        ("p > 1", "bool true null"),
        ("w < i", "bool false null"),
        ("m = 0", "bool true false"),
        ("m = m", "bool true true"),
        ("m > 1e300", "bool false true"),
        ("s = 'Ärger'", "bool true null"),
        ("k || s = 'abÄrger'", "bool true null"),
        ("d >= date '2013-01-01'", "bool true null"),
        ("t = timestamp '2013-01-01T00:00:00'", "bool true null"),
        ("t = d", "bool true null"),
        ("tz < timestamp '2013-01-01T00:00:00.5Z'", "bool true null"),
        ("tz = timestamp '2013-01-01 01:00:00+01:00'", "bool true null"),
        ("null = null", "bool null null"),
        // Three values.
        ("b and false", "bool false false"),
        ("b or true", "bool true true"),
        ("b and null", "bool null null"),
        ("not b", "bool false null"),
        ("i is null", "bool false true"),
        ("k is not null", "bool true false"),
        ("null is null", "bool true true"),
        ("i in (1, 7)", "bool true null"),
        ("i in (1, null)", "bool null null"),
        ("i not in (1, 7.5)", "bool true null"),
        ("n not in (1, null)", "bool false null"),
        ("p in (1.25)", "bool true null"),
        ("n between 1 and 2", "bool true false"),
        ("n not between 0 and i", "bool false null"),
        ("s like 'Ä_g%'", "bool true null"),
        ("s not like '%x%'", "bool true null"),
        ("'a.c' like 'a_c' and 'abc' not like 'a.c'", "bool true true"),
        ("'a%c' like 'a\\%c' and 'abc' not like 'a\\%c'", "bool true true"),
        // Functions.
        ("upper(s) || '!'", "text ÄRGER! null"),
        ("lower(k)", "text ab null"),
        ("length(s)", "int64 5 null"),
        ("trim('  x ')", "text x x"),
        ("abs(-i)", "int64 7 null"),
        ("abs(-p)", "decimal(12,2) 1.25 null"),
        ("round(f)", "float64 3.0 null"),
        ("round(f / 2, 1)", "float64 1.3 null"),
        ("round(p, 1)", "decimal(12,1) 1.3 null"),
        ("round(i)", "int32 7 null"),
        ("coalesce(i, 0)", "int32 7 0"),
        ("coalesce(i, n)", "int64 7 9223372036854775807"),
        ("coalesce(null, s, 'none')", "text Ärger none"),
        ("case when b then 'yes' else 'no' end", "text yes no"),
        ("case i when 7 then 1.5 end", "float64 1.5 null"),
        ("case when i is null then n when n = 1 then z end", "int64 0 9223372036854775807"),
        // Casts.
        ("cast(i as text)", "text 7 null"),
        ("cast('12' as int) + 1", "int64 13 13"),
        ("cast(round(f) as bigint)", "int64 3 null"),
        ("cast(t as date)", "date 2013-01-01 null"),
        ("cast(tz as timestamp)", "timestamp 2013-01-01T00:00:00 null"),
        ("cast(null as date)", "date null null"),
        ("i", "int32 7 null"),
        ("1", "int64 1 1"),
    ] {
        assert_eq!(eval(source).unwrap_or_else(|error| panic!("{source}: {error}")), expected, "{source}");
    }
}

#[test]
fn what_may_fail_is_evaluated_only_where_it_counts() {
    for (source, expected) in [
        ("z <> 0 and 10 % z = 0", "bool false true"),
        ("z = 0 or 10 % z = 0", "bool true true"),
        ("case when z <> 0 then 10 % z end", "int64 null 0"),
        ("case when n = 1 then n + 1 else 0 end", "int64 2 0"),
        ("coalesce(i, 10 % z)", "int64 7 0"),
        ("false and 1 % 0 = 1", "bool false false"),
    ] {
        assert_eq!(eval(source).unwrap_or_else(|error| panic!("{source}: {error}")), expected, "{source}");
    }
}

#[test]
fn values_that_fail_are_told_by_row_but_not_shown() {
    for (source, expected) in [
        ("n + 1", "row 2: in n + 1: the result does not fit into int64"),
        ("10 % z", "row 1: in 10 % z: division by zero"),
        ("-n - 2 > 0", "row 2: in -n - 2: the result does not fit into int64"),
        ("n = 1 or n * 3 > 0", "row 2: in n * 3: the result does not fit into int64"),
        ("case when n = 1 then 0 else n + n end", "row 2: in n + n: the result does not fit into int64"),
        ("cast(n as int)", "row 2: in cast(n as int): a value does not fit into int32"),
        ("cast(f as int)", "row 1: in cast(f as int): a value does not fit into int32; round it first"),
        ("cast('x' as int)", "in cast('x' as int): a value does not fit into int32"),
        ("u + 1", "row 1: in u: a value does not fit into int64"),
        ("w * 100", "row 1: in w * 100: the result does not fit into decimal(38,0)"),
        ("date '2013-01-01' + n", "row 2: in date '2013-01-01' + n: the result does not fit into date"),
        ("1 % 0 = 1", "in 1 % 0: division by zero"),
    ] {
        let error = eval(source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{source}");
        assert!(error.to_string().starts_with(expected), "{source}: {error}");
        assert!(!format!("{error:?}").contains("92233"), "{error:?}");
    }
}

#[test]
fn types_are_checked_when_bound() {
    for (source, expected) in [
        ("s > 5", "in s > 5: operator > does not take text and int64; use cast(... as int64) on the left side"),
        ("s || 5", "in s || 5: operator || does not take text and int64; use cast(... as text) on the right side"),
        ("5 = s", "in 5 = s: operator = does not take int64 and text; use cast(... as int64) on the right side"),
        ("d = '2013-01-01'", "in d = '2013-01-01': operator = does not take date and text; write a date as date '"),
        (
            "t < timestamp '2013-01-01T00:00:00Z'",
            "in t < timestamp '2013-01-01T00:00:00Z': operator < does not take timestamp and timestamptz; one side has",
        ),
        ("s + 1", "in s + 1: operator + does not take text and int64"),
        ("d * 2", "in d * 2: operator * does not take date and int64"),
        ("-s", "in -s: operator - does not take text"),
        ("i and b", "in i: operator and takes boolean, not int32; compare it with something"),
        ("i || s", "in i || s: operator || does not take int32 and text"),
        ("i in ('a')", "in i in ('a'): operator in does not take int32 and text"),
        ("coalesce(i, s)", "in coalesce(i, s): operator coalesce does not take"),
        ("lower(i)", "in lower(i): function lower does not take int32; it is lower(text)"),
        ("round(f, i)", "in round(f, i): function round does not take float64, int32; it is round(number) or"),
        ("abs()", "in abs(): function abs does not take nothing; it is abs(number)"),
        ("cast(d as int)", "in cast(d as int): date cannot be cast to int32"),
    ] {
        let error = eval(source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{source}");
        let shown = error.to_string();
        assert!(shown.starts_with(expected), "{source}: {shown}");
    }
    for (source, expected) in [
        ("x = 1", "there is no column \"x\""),
        ("uper(s)", "there is no function \"uper\"; did you mean upper? There is abs, coalesce, length"),
        ("date '2013-02-30' = d", "in the expression at character 1: '2013-02-30' is not a date"),
        ("i in (n)", "in the expression at character 7: a list after in holds literals only"),
    ] {
        let error = eval(source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{source}");
        assert!(error.to_string().starts_with(expected), "{source}: {error}");
    }
}

#[test]
fn the_columns_used_are_known() {
    let expr = Expr::parse("z > 1 and (n = z or \"i\" is null)").unwrap();
    assert_eq!(expr.columns(), ["z", "n", "i"]);
    assert_eq!(expr.bind(&batch().schema()).unwrap().columns(), [12, 11, 0]);
    assert_eq!(expr.to_string(), "z > 1 and (n = z or \"i\" is null)");
}

#[test]
fn a_column_alone_is_passed_on_as_it_is() {
    let bound = Expr::parse("k").unwrap().bind(&batch().schema()).unwrap();
    assert!(matches!(bound.data_type(), DataType::Dictionary(..)));
    let batch = batch();
    assert!(Arc::ptr_eq(&bound.evaluate(&batch).unwrap(), batch.column(10)));
}

#[test]
fn a_batch_of_another_schema_is_refused() {
    // One is missing, one has another type.
    for column in ["n", "i"] {
        let bound = Expr::parse(&format!("{column} = 1")).unwrap().bind(&batch().schema()).unwrap();
        let error = bound.evaluate(&record_batch([("n", vec![Some(1)])])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SchemaMismatch, "{column}");
    }
}

#[test]
fn long_chains_do_not_exhaust_the_stack() {
    let source = format!("n = 1{}", " or n = 2".repeat(2_000));
    assert_eq!(eval(&source).unwrap(), "bool true false");
}

/// A tree whose meaning is plain: one row at a time, errors as `Err`.
#[derive(Clone, Debug)]
enum Model {
    Column(usize),
    Literal(Option<i64>),
    Add(Box<Model>, Box<Model>),
    Multiply(Box<Model>, Box<Model>),
    Remainder(Box<Model>, Box<Model>),
    Less(Box<Model>, Box<Model>),
    Equal(Box<Model>, Box<Model>),
    And(Box<Model>, Box<Model>),
    Or(Box<Model>, Box<Model>),
    Not(Box<Model>),
    IsNull(Box<Model>),
    In(Box<Model>, Vec<Option<i64>>),
    Case(Box<Model>, Box<Model>, Box<Model>),
    Coalesce(Box<Model>, Box<Model>),
}

impl Model {
    fn source(&self) -> String {
        let constant = |value: &Option<i64>| value.map_or("null".to_owned(), |value| value.to_string());
        match self {
            Self::Column(at) => ["a", "b"][*at].into(),
            Self::Literal(value) => constant(value),
            Self::Add(l, r) => format!("({} + {})", l.source(), r.source()),
            Self::Multiply(l, r) => format!("({} * {})", l.source(), r.source()),
            Self::Remainder(l, r) => format!("({} % {})", l.source(), r.source()),
            Self::Less(l, r) => format!("({} < {})", l.source(), r.source()),
            Self::Equal(l, r) => format!("({} = {})", l.source(), r.source()),
            Self::And(l, r) => format!("({} and {})", l.source(), r.source()),
            Self::Or(l, r) => format!("({} or {})", l.source(), r.source()),
            Self::Not(value) => format!("(not {})", value.source()),
            Self::IsNull(value) => format!("({} is null)", value.source()),
            Self::In(value, list) => {
                let list: Vec<_> = list.iter().map(constant).collect();
                format!("({} in ({}))", value.source(), list.join(", "))
            }
            Self::Case(c, t, e) => format!("case when {} then {} else {} end", c.source(), t.source(), e.source()),
            Self::Coalesce(l, r) => format!("coalesce({}, {})", l.source(), r.source()),
        }
    }

    /// Booleans are 0 and 1.
    fn eval(&self, row: [Option<i64>; 2]) -> Result<Option<i64>, ()> {
        let both = |l: &Model, r: &Model, f: &dyn Fn(i64, i64) -> Option<i64>| match (l.eval(row)?, r.eval(row)?) {
            (Some(l), Some(r)) => f(l, r).map(Some).ok_or(()),
            _ => Ok(None),
        };
        let logic = |l: &Model, r: &Model, decisive: i64| match l.eval(row)? {
            Some(l) if l == decisive => Ok(Some(l)),
            l => Ok(match r.eval(row)? {
                Some(r) if r == decisive => Some(r),
                r => l.and(r),
            }),
        };
        match self {
            Self::Column(at) => Ok(row[*at]),
            Self::Literal(value) => Ok(*value),
            Self::Add(l, r) => both(l, r, &|l, r| l.checked_add(r)),
            Self::Multiply(l, r) => both(l, r, &|l, r| l.checked_mul(r)),
            Self::Remainder(l, r) => both(l, r, &|l, r| (r != 0).then(|| l.wrapping_rem(r))),
            Self::Less(l, r) => both(l, r, &|l, r| Some((l < r).into())),
            Self::Equal(l, r) => both(l, r, &|l, r| Some((l == r).into())),
            Self::And(l, r) => logic(l, r, 0),
            Self::Or(l, r) => logic(l, r, 1),
            Self::Not(value) => Ok(value.eval(row)?.map(|value| 1 - value)),
            Self::IsNull(value) => Ok(Some(value.eval(row)?.is_none().into())),
            Self::In(value, list) => Ok(match value.eval(row)? {
                None => None,
                found if list.contains(&found) => Some(1),
                _ if list.contains(&None) => None,
                _ => Some(0),
            }),
            Self::Case(c, t, e) => {
                if c.eval(row)? == Some(1) {
                    t.eval(row)
                } else {
                    e.eval(row)
                }
            }
            Self::Coalesce(l, r) => match l.eval(row)? {
                None => r.eval(row),
                found => Ok(found),
            },
        }
    }
}

fn constant() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![4 => (-3_i64..4).prop_map(Some), 1 => Just(None), 1 => Just(Some(i64::MAX)), 1 => Just(Some(i64::MIN))]
}

fn number(depth: u32) -> BoxedStrategy<Model> {
    let leaf = prop_oneof![(0_usize..2).prop_map(Model::Column), constant().prop_map(Model::Literal)].boxed();
    if depth == 0 {
        return leaf;
    }
    let two = || (number(depth - 1).prop_map(Box::new), number(depth - 1).prop_map(Box::new));
    prop_oneof![
        2 => leaf,
        1 => two().prop_map(|(l, r)| Model::Add(l, r)),
        1 => two().prop_map(|(l, r)| Model::Multiply(l, r)),
        1 => two().prop_map(|(l, r)| Model::Remainder(l, r)),
        1 => two().prop_map(|(l, r)| Model::Coalesce(l, r)),
        1 => (truth(depth - 1).prop_map(Box::new), two()).prop_map(|(c, (t, e))| Model::Case(c, t, e)),
    ]
    .boxed()
}

fn truth(depth: u32) -> BoxedStrategy<Model> {
    let numbers = || (number(depth / 2).prop_map(Box::new), number(depth / 2).prop_map(Box::new));
    let compare = prop_oneof![
        numbers().prop_map(|(l, r)| Model::Less(l, r)),
        numbers().prop_map(|(l, r)| Model::Equal(l, r)),
        number(depth / 2).prop_map(|value| Model::IsNull(Box::new(value))),
        (number(depth / 2), prop::collection::vec(constant(), 1..4))
            .prop_map(|(value, list)| Model::In(Box::new(value), list)),
    ]
    .boxed();
    if depth == 0 {
        return compare;
    }
    let two = || (truth(depth - 1).prop_map(Box::new), truth(depth - 1).prop_map(Box::new));
    prop_oneof![
        2 => compare,
        1 => two().prop_map(|(l, r)| Model::And(l, r)),
        1 => two().prop_map(|(l, r)| Model::Or(l, r)),
        1 => truth(depth - 1).prop_map(|value| Model::Not(Box::new(value))),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn columns_at_once_are_rows_one_by_one(
        model in truth(3),
        rows in prop::collection::vec((constant(), constant()), 1..8),
        skip in 0_usize..3,
    ) {
        let batch = record_batch([
            ("a", rows.iter().map(|(a, _)| *a).collect()),
            ("b", rows.iter().map(|(_, b)| *b).collect()),
        ]);
        let skip = skip.min(rows.len() - 1);
        let bound = Expr::parse(&model.source()).unwrap().bind(&batch.schema()).unwrap();
        let expected: Vec<_> = rows[skip..].iter().map(|(a, b)| model.eval([*a, *b])).collect();
        match bound.evaluate(&batch.slice(skip, rows.len() - skip)) {
            Ok(array) => {
                let values: Vec<_> = array.as_boolean().iter().map(|value| Ok(value.map(i64::from))).collect();
                prop_assert_eq!(values, expected);
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::InvalidData);
                // A constant part may fail although no row needs it.
                let failing: Vec<_> = (1..).zip(&expected).filter(|(_, row)| row.is_err()).map(|(at, _)| at).collect();
                let told = error.message().split(" at row ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
                if let Some(told) = told {
                    prop_assert!(failing.contains(&told), "{} in {:?}", error, failing);
                }
            }
        }
    }
}

#[test]
fn a_comment_is_no_minus() {
    let batch = etlrs_core::record_batch([("n", vec![Some(7)])]);
    for (source, expected) in [("n - 2 -- 5", 5), ("n -- 5\n - 1", 6), ("n - -5", 12)] {
        let expr = Expr::parse(source).unwrap().bind(batch.schema_ref()).unwrap();
        let result = expr.evaluate(&batch).unwrap();
        let value = arrow_array::cast::AsArray::as_primitive::<arrow_array::types::Int64Type>(&result).value(0);
        assert_eq!(value, expected, "{source:?}");
    }
}
