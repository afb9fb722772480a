//! Options that name columns.

use arrow_schema::{DataType, Schema, SortOptions};
use etlrs_core::{Error, ErrorKind, OptionArgument, OptionValue, Result, type_name, unknown_name};
use parquet::basic::{LogicalType, Type as PhysicalType};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use crate::encode::SortKey;
use crate::types::contains;

/// Which columns get Bloom filters.
///
/// A column that holds others (a list, a struct) stands for all that are in it. Booleans get none, for a filter of two
/// values tells nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BloomFilters {
    /// None: they take space, and serve only searches for single values.
    #[default]
    None,
    /// All columns.
    All,
    /// The columns of these names.
    Columns(Vec<String>),
}

impl BloomFilters {
    /// Whether each leaf of a file gets one.
    pub(crate) fn leaves(&self, file: &SchemaDescriptor) -> Result<Vec<bool>> {
        // The format has none for the first, and the others are written by nobody or have no values.
        let possible = |leaf: &ColumnDescriptor| {
            !matches!(leaf.physical_type(), PhysicalType::BOOLEAN | PhysicalType::INT96)
                && leaf.logical_type_ref() != Some(&LogicalType::Unknown)
        };
        let names = match self {
            Self::None => return Ok(vec![false; file.num_columns()]),
            Self::All => return Ok(file.columns().iter().map(|leaf| possible(leaf)).collect()),
            Self::Columns(names) => names,
        };
        let mut chosen = vec![false; file.num_columns()];
        for name in names {
            let within =
                |leaf: &ColumnDescriptor| leaf.path().parts().first() == Some(name) || leaf.path().string() == *name;
            let mut found = file.columns().iter().enumerate().filter(|(_, leaf)| within(leaf)).peekable();
            if found.peek().is_none() {
                let all: Vec<_> = file.root_schema().get_fields().iter().map(|field| field.name()).collect();
                return Err(unknown_name("column", name, &all));
            }
            let mut any = false;
            for (index, _) in found.filter(|(_, leaf)| possible(leaf)) {
                chosen[index] = true;
                any = true;
            }
            if !any {
                let message = "a column of two values or none gets no Bloom filter, for it would tell nothing";
                return Err(Error::new(ErrorKind::InvalidConfig, message).at_column(name));
            }
        }
        Ok(chosen)
    }
}

impl OptionValue for BloomFilters {
    const KIND: &'static str = "none, all, or columns separated by commas";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        match text.trim() {
            "" | "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let columns = terms(text)?.into_iter().map(|term| match term.rest.is_empty() {
            true => Ok(term.name),
            false => Err(format!("{:?} follows a name; a name with blanks is put into double quotes", term.rest)),
        });
        columns.collect::<std::result::Result<_, _>>().map(Self::Columns)
    }

    fn show(&self) -> String {
        match self {
            Self::None => "none".into(),
            Self::All => "all".into(),
            Self::Columns(columns) => {
                columns.iter().map(|name| quoted(name, &["none", "all"])).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

impl<const N: usize> OptionArgument<BloomFilters> for [&str; N] {
    fn into_option_value(self) -> BloomFilters {
        BloomFilters::Columns(self.map(str::to_owned).into())
    }
}

/// A column by which rows are sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SortColumn {
    /// Its name.
    pub column: String,
    /// Whether the greatest value comes first.
    pub descending: bool,
    /// Whether nulls come before all values; otherwise they come after them, descending or not.
    pub nulls_first: bool,
}

impl SortColumn {
    /// The least value first, nulls last.
    pub fn asc(column: impl Into<String>) -> Self {
        Self { column: column.into(), descending: false, nulls_first: false }
    }

    /// The greatest value first, nulls last.
    pub fn desc(column: impl Into<String>) -> Self {
        Self { descending: true, ..Self::asc(column) }
    }

    /// With nulls before all values.
    #[must_use]
    pub fn nulls_first(mut self) -> Self {
        self.nulls_first = true;
        self
    }

    fn key(&self, schema: &Schema, file: &SchemaDescriptor) -> Result<SortKey> {
        let Some((column, field)) = schema.column_with_name(&self.column) else {
            let all: Vec<_> = schema.fields().iter().map(|field| field.name()).collect();
            return Err(unknown_name("column", &self.column, &all));
        };
        let leaf = (0..file.num_columns()).find(|&leaf| file.get_column_root_idx(leaf) == column);
        let leaf = leaf.filter(|&leaf| file.column(leaf).path().parts().len() == 1 && has_order(field.data_type()));
        let leaf = leaf.and_then(|leaf| i32::try_from(leaf).ok()).ok_or_else(|| {
            let message = format!("rows cannot be sorted by the type {}", type_name(field.data_type()));
            Error::new(ErrorKind::InvalidConfig, message).at_column(&self.column)
        })?;
        let options = SortOptions { descending: self.descending, nulls_first: self.nulls_first };
        Ok(SortKey { column, leaf, options })
    }
}

/// The order of the rows within each row group: by the first column, among equal values by the second, and so on; rows
/// that are equal in all of them stay as they come.
///
/// ```
/// use etlrs_core::OptionValue;
/// use etlrs_parquet::{SortColumn, SortOrder};
///
/// let order = SortOrder::parse("shop, amount desc nulls first").unwrap();
/// assert_eq!(order, SortOrder::new([SortColumn::asc("shop"), SortColumn::desc("amount").nulls_first()]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SortOrder(Vec<SortColumn>);

impl SortOrder {
    /// By these columns.
    pub fn new(columns: impl IntoIterator<Item = SortColumn>) -> Self {
        Self(columns.into_iter().collect())
    }

    /// The columns, the one that decides first.
    pub fn columns(&self) -> &[SortColumn] {
        &self.0
    }

    /// The columns in a table of `schema` that is stored as `file`.
    pub(crate) fn keys(&self, schema: &Schema, file: &SchemaDescriptor) -> Result<Vec<SortKey>> {
        if !self.0.is_empty() {
            let mixed = |data_type: &DataType| {
                !matches!(data_type, DataType::Dictionary(..))
                    && contains(data_type, &|inner| matches!(inner, DataType::Dictionary(..)))
            };
            // The values of many batches can be more than one dictionary may have.
            if let Some(field) = schema.fields().iter().find(|field| mixed(field.data_type())) {
                let message = "rows with a dictionary within another column cannot be sorted";
                return Err(Error::new(ErrorKind::InvalidConfig, message)
                    .hint(format!("cast {} to the type of the values, or leave sort_by out", field.name()))
                    .at_column(field.name()));
            }
        }
        self.0.iter().map(|column| column.key(schema, file)).collect()
    }
}

impl<const N: usize> OptionArgument<SortOrder> for [SortColumn; N] {
    fn into_option_value(self) -> SortOrder {
        SortOrder(self.into())
    }
}

impl OptionValue for SortOrder {
    const KIND: &'static str = "columns, each with asc or desc, nulls first or nulls last, separated by commas";

    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let columns = terms(text)?.into_iter().map(|term| {
            let mut column = SortColumn::asc(term.name);
            let rest = term.rest.to_ascii_lowercase();
            let mut words: &[&str] = &rest.split_whitespace().collect::<Vec<_>>();
            if let [direction @ ("asc" | "desc"), others @ ..] = words {
                column.descending = *direction == "desc";
                words = others;
            }
            match words {
                [] | ["nulls", "last"] => Ok(column),
                ["nulls", "first"] => Ok(column.nulls_first()),
                _ => Err(format!(
                    "{:?} follows a name where asc, desc, nulls first or nulls last may; a name with blanks is put into \
                     double quotes",
                    term.rest
                )),
            }
        });
        let columns: Vec<_> = columns.collect::<std::result::Result<_, _>>()?;
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].iter().any(|before| before.column == column.column) {
                return Err(format!("column {:?} is there twice", column.column));
            }
        }
        Ok(Self(columns))
    }

    fn show(&self) -> String {
        let column = |column: &SortColumn| {
            let direction = if column.descending { " desc" } else { "" };
            let nulls = if column.nulls_first { " nulls first" } else { "" };
            format!("{}{direction}{nulls}", quoted(&column.column, &[]))
        };
        self.0.iter().map(column).collect::<Vec<_>>().join(", ")
    }
}

/// Whether the order that Arrow gives to values is that which the format gives to them.
fn has_order(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_order(values),
        DataType::Null | DataType::Interval(_) => false,
        other => !other.is_nested(),
    }
}

/// A name, and what is behind it up to the next comma.
struct Term {
    name: String,
    rest: String,
}

/// The terms of a list. A name is in double quotes, which are doubled within it, or ends at the first blank.
fn terms(text: &str) -> std::result::Result<Vec<Term>, String> {
    let mut terms = Vec::new();
    let mut left = text;
    loop {
        left = left.trim_start();
        let name = if let Some(quoted) = left.strip_prefix('"') {
            let (name, after) = until_quote(quoted).ok_or("a double quote is not closed")?;
            left = after;
            name
        } else {
            let end = left.find(|letter: char| letter == ',' || letter.is_whitespace()).unwrap_or(left.len());
            let (name, after) = left.split_at(end);
            left = after;
            name.to_owned()
        };
        if name.is_empty() {
            return Err("a name is missing".into());
        }
        let (rest, others) = match left.split_once(',') {
            Some((rest, others)) => (rest, Some(others)),
            None => (left, None),
        };
        terms.push(Term { name, rest: rest.trim().to_owned() });
        match others {
            Some(others) => left = others,
            None => return Ok(terms),
        }
    }
}

/// What is before the closing quote, and what is behind it.
fn until_quote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut left = text;
    loop {
        let (part, after) = left.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                left = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// A name as it would be written in a list in which the words `taken` mean something else.
fn quoted(name: &str, taken: &[&str]) -> String {
    let plain =
        !name.is_empty() && !name.contains(|letter: char| letter == ',' || letter == '"' || letter.is_whitespace());
    if plain && !taken.contains(&name) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_that_are_none_are_refused() {
        for (text, reason) in [
            ("a,,b", "a name is missing"),
            ("a,", "a name is missing"),
            ("\"a", "not closed"),
            ("a down", "\"down\" follows a name"),
            ("a nulls", "follows a name"),
            ("a desc asc", "follows a name"),
            ("a, b, a desc", "\"a\" is there twice"),
        ] {
            let error = SortOrder::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(BloomFilters::parse("a b").unwrap_err().contains("double quotes"));
        let order = SortOrder::parse(" a DESC , \"b,\"\" c\"nulls first,d asc nulls last").unwrap();
        let expected = [SortColumn::desc("a"), SortColumn::asc("b,\" c").nulls_first(), SortColumn::asc("d")];
        assert_eq!(order.columns(), expected);
    }

    proptest! {
        #[test]
        fn lists_are_shown_as_they_are_parsed(
            columns in prop::collection::btree_map("[a-c\" ,]{1,3}|all|none|desc", any::<(bool, bool)>(), 0..4),
        ) {
            let sorted = SortOrder::new(columns.iter().map(|(name, &(descending, nulls_first))| {
                SortColumn { column: name.clone(), descending, nulls_first }
            }));
            prop_assert_eq!(SortOrder::parse(&sorted.show()).unwrap(), sorted);
            let filters = match columns.is_empty() {
                true => BloomFilters::None,
                false => BloomFilters::Columns(columns.into_keys().collect()),
            };
            prop_assert_eq!(BloomFilters::parse(&filters.show()).unwrap(), filters);
            prop_assert_eq!(BloomFilters::parse("all").unwrap(), BloomFilters::All);
        }
    }
}
