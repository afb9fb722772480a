//! Encoding of batches into row groups in memory, which needs no file: partitions do it side by side.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::TypePtr;

use crate::ParquetWriteOptions;

/// What all files of a load have in common.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: SchemaRef,
    pub(crate) root: TypePtr,
    pub(crate) properties: WriterPropertiesPtr,
    row_group_rows: usize,
    factory: ArrowRowGroupWriterFactory,
}

impl Layout {
    /// Of files with `schema`, stored as `root`.
    pub(crate) fn new(schema: SchemaRef, root: TypePtr, options: &ParquetWriteOptions) -> Result<Self> {
        // Metadata of the source, such as the index that pandas keeps, would be wrong for other rows.
        let schema = Arc::new(Schema::new(schema.fields().clone()));
        let properties = WriterProperties::builder()
            .set_compression(options.compression.codec().map_err(ParquetError::General)?)
            .set_dictionary_enabled(options.dictionary)
            // The form that readers parse: those of parquet-mr distrust the statistics of a writer without a version.
            .set_created_by(format!("etlrs version {}", env!("CARGO_PKG_VERSION")))
            .set_key_value_metadata(Some(vec![KeyValue::new(
                ARROW_SCHEMA_META_KEY.to_owned(),
                encode_arrow_schema(&schema),
            )]))
            .build();
        let properties = Arc::new(properties);
        // A factory is made of a file writer, of which it takes nothing but schema and properties.
        let no_file = SerializedFileWriter::new(std::io::sink(), root.clone(), properties.clone())?;
        let factory = ArrowRowGroupWriterFactory::new(&no_file, schema.clone());
        Ok(Self { schema, root, properties, row_group_rows: options.row_group_size.max(1), factory })
    }

    pub(crate) fn leaves(&self) -> usize {
        parquet::schema::types::SchemaDescriptor::new(self.root.clone()).num_columns()
    }
}

/// An encoded row group.
pub(crate) struct RowGroup {
    pub(crate) columns: Vec<ArrowColumnChunk>,
    pub(crate) bytes: usize,
}

/// The row group in progress.
pub(crate) struct Encoder {
    layout: Arc<Layout>,
    columns: Vec<ArrowColumnWriter>,
    rows: usize,
}

impl Encoder {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, columns: Vec::new(), rows: 0 }
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.columns.iter().map(ArrowColumnWriter::memory_size).sum()
    }

    /// Encodes as many rows of `batch`, from `offset` on, as the row group takes, and gives their number.
    pub(crate) fn write(&mut self, batch: &RecordBatch, offset: usize) -> Result<usize> {
        if self.columns.is_empty() {
            self.columns = self.layout.factory.create_column_writers(0)?;
        }
        let room = self.layout.row_group_rows.saturating_sub(self.rows);
        let part = batch.slice(offset, room.min(batch.num_rows().saturating_sub(offset)));
        let other_columns = || ParquetError::General("a batch has other columns than the plan".to_owned());
        if part.num_columns() != self.layout.schema.fields().len() {
            return Err(other_columns());
        }
        let mut columns = self.columns.iter_mut();
        for (field, values) in self.layout.schema.fields().iter().zip(part.columns()) {
            for leaf in compute_leaves(field, values)? {
                columns.next().ok_or_else(other_columns)?.write(&leaf)?;
            }
        }
        self.rows += part.num_rows();
        Ok(part.num_rows())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.layout.row_group_rows
    }

    /// Closes the row group, if it has rows.
    pub(crate) fn take(&mut self) -> Result<Option<RowGroup>> {
        let columns = std::mem::take(&mut self.columns);
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(None);
        }
        let columns = columns.into_iter().map(ArrowColumnWriter::close).collect::<Result<Vec<_>>>()?;
        let bytes = columns.iter().map(|column| usize::try_from(column.close().bytes_written).unwrap_or(usize::MAX));
        let bytes = bytes.fold(0, usize::saturating_add);
        Ok(Some(RowGroup { columns, bytes }))
    }
}
