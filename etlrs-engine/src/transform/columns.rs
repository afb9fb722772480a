//! Which columns there are, in which order, under which names.

use std::sync::Arc;

use arrow_schema::{FieldRef, SchemaRef};
use etlrs_core::{BoundTransformer, Effect, Error, ErrorKind, Result, Transformer, column_index};

use super::{batch_of, row_wise, schema_of};

/// Keeps the named columns, in the order in which they are named.
#[derive(Clone, Debug)]
pub struct Select {
    columns: Vec<String>,
}

impl Select {
    /// Of columns, each once. None at all leaves rows without columns.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect() }
    }
}

impl Transformer for Select {
    fn name(&self) -> &str {
        "select"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let positions = self.columns.iter().map(|name| column_index(input, name)).collect::<Result<Vec<_>>>()?;
        keep(input, positions)
    }

    fn effect(&self) -> Effect {
        Effect::Selects(self.columns.clone())
    }
}

/// Removes the named columns.
#[derive(Clone, Debug)]
pub struct DropColumns {
    columns: Vec<String>,
}

impl DropColumns {
    /// Of columns, all of which must be there.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect() }
    }
}

impl Transformer for DropColumns {
    fn name(&self) -> &str {
        "drop"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let gone = self.columns.iter().map(|name| column_index(input, name)).collect::<Result<Vec<_>>>()?;
        keep(input, (0..input.fields().len()).filter(|position| !gone.contains(position)).collect())
    }

    fn effect(&self) -> Effect {
        Effect::Drops(self.columns.clone())
    }
}

fn keep(input: &SchemaRef, positions: Vec<usize>) -> Result<Arc<dyn BoundTransformer>> {
    let fields: Vec<FieldRef> = positions.iter().map(|position| input.fields()[*position].clone()).collect();
    let schema = schema_of(input, fields)?;
    Ok(row_wise("select", schema.clone(), move |batch| {
        let columns = positions.iter().map(|position| batch.column(*position).clone()).collect();
        batch_of(&schema, columns, batch.num_rows())
    }))
}

/// Gives columns other names; all at once, so that two can change places.
#[derive(Clone, Debug)]
pub struct Rename {
    names: Vec<(String, String)>,
}

impl Rename {
    /// Of pairs of the name that is and the name that shall be.
    pub fn new<A: Into<String>, B: Into<String>>(names: impl IntoIterator<Item = (A, B)>) -> Self {
        Self { names: names.into_iter().map(|(from, to)| (from.into(), to.into())).collect() }
    }
}

impl Transformer for Rename {
    fn name(&self) -> &str {
        "rename"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let mut fields = input.fields().to_vec();
        for (at, (from, to)) in self.names.iter().enumerate() {
            if self.names[..at].iter().any(|(earlier, _)| earlier == from) {
                return Err(Error::new(ErrorKind::InvalidConfig, format!("column {from:?} is renamed twice")));
            }
            let position = column_index(input, from)?;
            fields[position] = Arc::new(input.field(position).clone().with_name(to));
        }
        let schema = schema_of(input, fields)?;
        Ok(row_wise("rename", schema.clone(), move |batch| {
            batch_of(&schema, batch.columns().to_vec(), batch.num_rows())
        }))
    }

    fn effect(&self) -> Effect {
        Effect::Renames(self.names.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow_array::RecordBatch;
    use etlrs_core::{Schema, record_batch};

    use super::*;
    use crate::transform::testing::{refused, run_one};

    fn batch() -> RecordBatch {
        let batch = record_batch([("a", vec![Some(1), Some(2)]), ("b", vec![None, Some(3)]), ("c", vec![None, None])]);
        let metadata = HashMap::from([("origin".to_owned(), "test".to_owned())]);
        let schema = Schema::new_with_metadata(batch.schema().fields().clone(), metadata);
        batch_of(&Arc::new(schema), batch.columns().to_vec(), 2).unwrap()
    }

    fn names(transformer: &dyn Transformer) -> String {
        let output = run_one(transformer, batch().slice(1, 1)).unwrap();
        assert_eq!(output.num_rows(), 1);
        assert_eq!(output.schema().metadata()["origin"], "test");
        output.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn columns_are_kept_dropped_and_renamed() {
        assert_eq!(names(&Select::new(["c", "a"])), "c,a");
        assert_eq!(names(&Select::new::<&str>([])), "");
        assert_eq!(names(&DropColumns::new(["b"])), "a,c");
        assert_eq!(names(&DropColumns::new(["a", "b", "c"])), "");
        assert_eq!(names(&Rename::new([("a", "x")])), "x,b,c");
        assert_eq!(names(&Rename::new([("a", "b"), ("b", "a")])), "b,a,c");
    }

    #[test]
    fn values_follow_their_column() {
        let output = run_one(&Select::new(["b", "a"]), batch()).unwrap();
        assert_eq!(output.columns(), [batch().column(1).clone(), batch().column(0).clone()]);
    }

    #[test]
    fn names_that_are_missing_or_double_are_refused() {
        let transformers: [(&dyn Transformer, &str); 6] = [
            (&Select::new(["d"]), "there is no column \"d\""),
            (&Select::new(["a", "a"]), "there would be two columns \"a\""),
            (&DropColumns::new(["d"]), "there is no column \"d\""),
            (&Rename::new([("d", "e")]), "there is no column \"d\""),
            (&Rename::new([("a", "b")]), "there would be two columns \"b\""),
            (&Rename::new([("a", "x"), ("a", "y")]), "column \"a\" is renamed twice"),
        ];
        for (transformer, expected) in transformers {
            let error = refused(transformer, &batch());
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
