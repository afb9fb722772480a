use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;

use super::{ColumnRef, Value, value_at};
use crate::Result;

/// A row that stands by itself.
///
/// ```
/// use etlrs_core::{Record, Value, record_batch};
///
/// let batch = record_batch([("delay", vec![Some(7)])]);
/// let mut record = Record::new(&batch, 0).unwrap().to_owned();
/// record.set("delay", 8)?;
/// assert_eq!(record.get("delay")?, &Value::Int(8));
/// # Ok::<(), etlrs_core::Error>(())
/// ```
#[derive(Clone)]
pub struct OwnedRecord(Row);

#[derive(Clone)]
enum Row {
    Values {
        schema: SchemaRef,
        values: Vec<Value<'static>>,
    },
    /// A row of a batch with some values changed: most functions look at few columns and change fewer.
    Changed {
        batch: Arc<RecordBatch>,
        row: usize,
        changes: Changes,
        /// All values, once somebody asked for one.
        values: OnceLock<Box<[Value<'static>]>>,
    },
}

/// Values by their columns. One of them needs no memory of its own.
#[derive(Clone, Default)]
struct Changes {
    first: Option<(usize, Value<'static>)>,
    more: Vec<(usize, Value<'static>)>,
}

impl Changes {
    #[inline]
    fn get(&self, column: usize) -> Option<&Value<'static>> {
        let (at, value) = self.first.as_ref()?;
        if *at == column {
            return Some(value);
        }
        self.more.iter().find(|(at, _)| *at == column).map(|(_, value)| value)
    }

    fn set(&mut self, column: usize, value: Value<'static>) {
        match &mut self.first {
            None => self.first = Some((column, value)),
            Some((at, old)) if *at == column => *old = value,
            Some(_) => match self.more.iter_mut().find(|(at, _)| *at == column) {
                Some((_, old)) => *old = value,
                None => self.more.push((column, value)),
            },
        }
    }
}

impl OwnedRecord {
    /// A record whose values are all null.
    pub fn new(schema: SchemaRef) -> Self {
        let values = vec![Value::Null; schema.fields().len()];
        Self(Row::Values { schema, values })
    }

    pub(super) fn of_row(batch: &RecordBatch, row: usize) -> Self {
        let values = batch.columns().iter().map(|column| value_at(column, row).into_owned()).collect();
        Self(Row::Values { schema: batch.schema(), values })
    }

    #[inline]
    pub(super) fn of_shared_row(batch: Arc<RecordBatch>, row: usize) -> Self {
        Self(Row::Changed { batch, row, changes: Changes::default(), values: OnceLock::new() })
    }

    /// The schema that names the values.
    #[inline]
    pub fn schema(&self) -> &SchemaRef {
        match &self.0 {
            Row::Values { schema, .. } => schema,
            Row::Changed { batch, .. } => batch.schema_ref(),
        }
    }

    /// The value of a column.
    ///
    /// # Errors
    /// `InvalidConfig` if there is no such column.
    pub fn get(&self, column: impl ColumnRef) -> Result<&Value<'static>> {
        let position = column.position(self.schema())?;
        Ok(self.change(position).unwrap_or_else(|| &self.values()[position]))
    }

    /// Changes the value of a column; its type is checked when a batch is built.
    ///
    /// # Errors
    /// `InvalidConfig` if there is no such column.
    #[inline]
    pub fn set(&mut self, column: impl ColumnRef, value: impl Into<Value<'static>>) -> Result<()> {
        let position = column.position(self.schema())?;
        match &mut self.0 {
            Row::Values { values, .. } => values[position] = value.into(),
            Row::Changed { changes, .. } => changes.set(position, value.into()),
        }
        Ok(())
    }

    /// Makes all values null. What the record took for its values it keeps.
    pub fn clear(&mut self) {
        match &mut self.0 {
            Row::Values { values, .. } => values.fill(Value::Null),
            Row::Changed { batch, .. } => *self = Self::new(batch.schema()),
        }
    }

    /// The values, in the order of the schema.
    pub fn into_values(self) -> Vec<Value<'static>> {
        match self.0 {
            Row::Values { values, .. } => values,
            Row::Changed { batch, row, changes, .. } => {
                let mut all: Vec<_> = batch.columns().iter().map(|column| value_at(column, row).into_owned()).collect();
                for (position, value) in changes.first.into_iter().chain(changes.more) {
                    all[position] = value;
                }
                all
            }
        }
    }

    /// The values without the changes.
    fn values(&self) -> &[Value<'static>] {
        match &self.0 {
            Row::Values { values, .. } => values,
            Row::Changed { batch, row, values, .. } => values
                .get_or_init(|| batch.columns().iter().map(|column| value_at(column, *row).into_owned()).collect()),
        }
    }

    /// The value of a column that was changed since the row was taken from its batch; without a batch every one is.
    #[inline]
    pub(super) fn change(&self, column: usize) -> Option<&Value<'static>> {
        match &self.0 {
            Row::Values { values, .. } => values.get(column),
            Row::Changed { changes, .. } => changes.get(column),
        }
    }

    /// The batch that the row is of, and its place there.
    #[inline]
    pub(super) fn origin(&self) -> Option<(&Arc<RecordBatch>, usize)> {
        match &self.0 {
            Row::Values { .. } => None,
            Row::Changed { batch, row, .. } => Some((batch, *row)),
        }
    }
}

impl PartialEq for OwnedRecord {
    fn eq(&self, other: &Self) -> bool {
        let value = |record: &Self, column: usize| record.get(column).ok().cloned();
        self.schema() == other.schema()
            && (0..self.schema().fields().len()).all(|column| value(self, column) == value(other, column))
    }
}

impl fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.schema().fields().iter().enumerate();
        f.debug_map().entries(fields.map(|(column, field)| (field.name(), self.get(column).ok()))).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Record, RecordBatchBuilder, record_batch};

    type Changed = Vec<(usize, usize, Option<i64>)>;
    type Values = (Option<i64>, Option<i64>, Option<i64>);

    proptest! {
        /// Rows that share their batch are what rows with values of their own are, in any order and changed anyhow.
        #[test]
        fn shared_rows_are_rows(
            values in prop::collection::vec((any::<Option<i64>>(), any::<Option<i64>>(), any::<Option<i64>>()), 1..12),
            order in prop::collection::vec(0usize..12, 0..20),
            straight: bool,
            changed in prop::collection::vec((0usize..20, 0usize..3, any::<Option<i64>>()), 0..12),
        ) {
            let column = |pick: fn(&Values) -> Option<i64>| values.iter().map(pick).collect();
            let batch = Arc::new(record_batch([("a", column(|v| v.0)), ("b", column(|v| v.1)), ("c", column(|v| v.2))]));
            let order: Vec<_> = match straight {
                true => (0..values.len()).collect(),
                false => order.into_iter().map(|row| row % values.len()).collect(),
            };
            let changed: Changed = changed;
            let built = |shared: bool| {
                let mut builder = RecordBatchBuilder::new(batch.schema()).unwrap();
                let mut records = Vec::new();
                for (at, row) in order.iter().enumerate() {
                    let mut record = match shared {
                        true => Record::all_shared(&batch).nth(*row).unwrap().to_owned(),
                        false => Record::new(&batch, *row).unwrap().to_owned(),
                    };
                    for (_, column, value) in changed.iter().filter(|(place, ..)| *place == at) {
                        record.set(*column, *value).unwrap();
                        assert_eq!(record.get(*column).unwrap(), &Value::from(*value));
                    }
                    builder.push(&record).unwrap();
                    records.push(record);
                }
                (builder.finish().unwrap(), records)
            };
            let (one, other) = (built(true), built(false));
            prop_assert_eq!(&one, &other);
            let values = |records: Vec<OwnedRecord>| records.into_iter().map(OwnedRecord::into_values).collect::<Vec<_>>();
            prop_assert_eq!(values(one.1), values(other.1));
        }
    }
}
