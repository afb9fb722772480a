//! Columns whose values must not be seen at the target.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, new_null_array};
use arrow_schema::{DataType, Field, SchemaRef};
use etlrs_core::{BoundTransformer, Error, ErrorKind, Result, Secret, Transformer, column_index, type_name};
use sha2::{Digest, Sha256};

use super::exact::{check_cast, decoded, is_binary, is_text, strict};
use super::{batch_of, row_wise, schema_of};

/// Hides the values of columns. Nulls stay null.
///
/// ```
/// use etlrs_core::Secret;
/// use etlrs_engine::{Mask, Masking};
///
/// let mask = Mask::new([
///     ("email", Masking::Sha256 { salt: Secret::new("pepper") }),
///     ("phone", Masking::Partial { first: 0, last: 4, with: '*' }),
///     ("birthday", Masking::Null),
/// ]);
/// # let _ = mask;
/// ```
#[derive(Clone, Debug)]
pub struct Mask {
    columns: Vec<(String, Masking)>,
}

/// How a value is hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Masking {
    /// 64 hexadecimal digits, in small letters: the [SHA-256](https://doi.org/10.6028/NIST.FIPS.180-4) of the salt and the
    /// text of the value behind it; bytes are hashed as they are. Equal values stay equal, so that they can be joined.
    /// Whoever knows the salt can try values, so a salt has to be secret where there are few.
    Sha256 {
        /// What is hashed before each value.
        salt: Secret,
    },
    /// The text with all characters but the first and the last so many replaced; all of them in a text that has no more than
    /// these, for it would be shown whole.
    Partial {
        /// Characters that stay at the start.
        first: usize,
        /// Characters that stay at the end.
        last: usize,
        /// What stands in the place of each of the others.
        with: char,
    },
    /// Null.
    Null,
}

impl Mask {
    /// Of columns, each once.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Masking)>) -> Self {
        Self { columns: columns.into_iter().map(|(name, masking)| (name.into(), masking)).collect() }
    }
}

impl Transformer for Mask {
    fn name(&self) -> &str {
        "mask"
    }

    fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn BoundTransformer>> {
        let mut fields = input.fields().to_vec();
        let mut masks: Vec<(usize, Masking)> = Vec::new();
        for (name, masking) in &self.columns {
            let position = column_index(input, name)?;
            if masks.iter().any(|(earlier, _)| *earlier == position) {
                return Err(Error::new(ErrorKind::InvalidConfig, format!("column {name:?} is masked twice")));
            }
            let field = input.field(position);
            let data_type = masking.data_type(field.data_type()).map_err(|error| error.at_column(name))?;
            let nullable = field.is_nullable() || *masking == Masking::Null;
            // What it means beyond its type is hidden too.
            fields[position] = Arc::new(Field::new(name, data_type, nullable));
            masks.push((position, masking.clone()));
        }
        let schema = schema_of(input, fields)?;
        Ok(row_wise("mask", schema.clone(), move |batch| {
            let mut columns = batch.columns().to_vec();
            for (position, masking) in &masks {
                columns[*position] = masking.apply(&columns[*position])?;
            }
            batch_of(&schema, columns, batch.num_rows())
        }))
    }
}

impl Masking {
    /// The type of a column of `from` that is hidden.
    fn data_type(&self, from: &DataType) -> Result<DataType> {
        let value = decoded(from);
        match self {
            Self::Null => return Ok(from.clone()),
            _ if value.is_nested() => {
                let message = format!("{} can only be made null", type_name(value));
                return Err(Error::new(ErrorKind::SchemaMismatch, message).hint("cast it to text before"));
            }
            Self::Sha256 { .. } if is_binary(value) => return Ok(DataType::Utf8),
            Self::Partial { .. } if !is_text(value) => {
                let message = format!("only text can be masked in part, but this is {}", type_name(value));
                return Err(Error::new(ErrorKind::SchemaMismatch, message).hint("hash it, or make it null"));
            }
            Self::Sha256 { .. } | Self::Partial { .. } => {}
        }
        check_cast(from, &DataType::Utf8)?;
        Ok(DataType::Utf8)
    }

    fn apply(&self, column: &ArrayRef) -> Result<ArrayRef> {
        let value = decoded(column.data_type()).clone();
        match self {
            Self::Null => Ok(new_null_array(column.data_type(), column.len())),
            Self::Sha256 { salt } => {
                let salted = Sha256::new_with_prefix(salt.expose());
                let to = if is_binary(&value) { DataType::LargeBinary } else { DataType::LargeUtf8 };
                let column = strict(&strict(column, &value)?, &to)?;
                let bytes: Box<dyn Iterator<Item = Option<&[u8]>>> = match column.as_string_opt::<i64>() {
                    Some(texts) => Box::new(texts.iter().map(|text| text.map(str::as_bytes))),
                    None => Box::new(column.as_binary::<i64>().iter()),
                };
                let mut hashes = StringBuilder::with_capacity(column.len(), column.len() * 64);
                for value in bytes {
                    let Some(value) = value else {
                        hashes.append_null();
                        continue;
                    };
                    let digest = salted.clone().chain_update(value).finalize();
                    let mut digits = [0; 64];
                    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(digest) {
                        const DIGITS: &[u8; 16] = b"0123456789abcdef";
                        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
                    }
                    hashes.append_value(std::str::from_utf8(&digits).unwrap_or_default());
                }
                Ok(Arc::new(hashes.finish()))
            }
            Self::Partial { first, last, with } => {
                let column = strict(&strict(column, &value)?, &DataType::LargeUtf8)?;
                let mut masked = StringBuilder::new();
                let mut text = String::new();
                for value in column.as_string::<i64>() {
                    text.clear();
                    if let Some(value) = value {
                        let length = value.chars().count();
                        let is_longer = first.checked_add(*last).is_some_and(|shown| shown < length);
                        let stays = |at: usize| is_longer && (at < *first || at >= length - last);
                        text.extend(value.chars().enumerate().map(|(at, c)| if stays(at) { c } else { *with }));
                    }
                    masked.append_option(value.map(|_| &text));
                }
                Ok(Arc::new(masked.finish()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{BinaryArray, DictionaryArray, Int64Array, RecordBatch, StringArray, types::Int8Type};

    use super::*;
    use crate::transform::testing::{refused, run_one};

    fn masked(column: impl Array + 'static, masking: Masking) -> Vec<Option<String>> {
        let batch = RecordBatch::try_from_iter_with_nullable([("x", Arc::new(column) as ArrayRef, true)]).unwrap();
        let output = run_one(&Mask::new([("x", masking)]), batch).unwrap();
        output.column(0).as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
    }

    #[test]
    fn hashes_are_those_of_the_salt_and_the_value() {
        let sha = |salt: &str| Masking::Sha256 { salt: Secret::new(salt) };
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expected = vec![Some(abc.to_owned()), None];
        assert_eq!(masked(StringArray::from(vec![Some("abc"), None]), sha("")), expected);
        assert_eq!(masked(StringArray::from(vec![Some("bc"), None]), sha("a")), expected);
        assert_eq!(masked(BinaryArray::from(vec![Some(&b"c"[..]), None]), sha("ab")), expected);
        let dictionary: DictionaryArray<Int8Type> = [Some("abc"), None].into_iter().collect();
        assert_eq!(masked(dictionary, sha("")), expected);
        // As `sha256(12)`.
        let twelve = "6b51d431df5d7f141cbececcf79edf3dd861c3b4069f0b11661a3eefacbba918";
        assert_eq!(masked(Int64Array::from(vec![12]), sha("")), [Some(twelve.to_owned())]);
    }

    #[test]
    fn parts_stay_only_of_what_is_longer() {
        let partial = |first, last| Masking::Partial { first, last, with: '*' };
        let texts = StringArray::from(vec![Some("+49123456"), Some("1234"), Some("äöü"), Some(""), None]);
        let shown = |masking| masked(texts.clone(), masking).into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(shown(partial(0, 4)), ["*****3456", "****", "***", ""]);
        assert_eq!(shown(partial(1, 1)), ["+*******6", "1**4", "ä*ü", ""]);
        assert_eq!(shown(partial(usize::MAX, 1)), ["*********", "****", "***", ""]);
    }

    #[test]
    fn values_become_null_in_columns_that_had_none() {
        let batch = RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
        let output = run_one(&Mask::new([("x", Masking::Null)]), batch).unwrap();
        assert_eq!((output.column(0).null_count(), output.column(0).data_type()), (2, &DataType::Int64));
    }

    #[test]
    fn what_cannot_be_masked_is_refused_and_the_salt_is_not_shown() {
        let list = DataType::new_list(DataType::Int64, true);
        let schema = Arc::new(arrow_schema::Schema::new(vec![
            Field::new("l", list, true),
            Field::new("n", DataType::Int64, true),
        ]));
        let batch = RecordBatch::new_empty(schema);
        let sha = Masking::Sha256 { salt: Secret::new("pepper") };
        assert!(!format!("{:?}", Mask::new([("l", sha.clone())])).contains("pepper"));
        let partial = Masking::Partial { first: 1, last: 1, with: '*' };
        for (mask, expected) in [
            (Mask::new([("l", sha.clone())]), "column \"l\""),
            (Mask::new([("n", partial)]), "only text can be masked in part"),
            (Mask::new([("z", sha.clone())]), "there is no column \"z\""),
            (Mask::new([("n", sha.clone()), ("n", Masking::Null)]), "masked twice"),
        ] {
            let error = refused(&mask, &batch).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
