//! Encoding of batches into row groups in memory, which needs no file: partitions do it side by side.
//!
//! Design note. The usual columns (numbers, dates, texts that are no part of a list or a struct) are encoded here, for
//! that is what writing Parquet costs; all others, and the slow codecs, by the parquet crate. Both end as column chunks
//! that the crate's file writer appends, so footer, schema and the encoding of metadata are the crate's in any case. What
//! makes it faster: a dictionary is tried on a sample of the column and dropped where it would not pay, so columns of
//! many values are not hashed at all; dictionaries are plain open addressing; and a row group's columns share one
//! compressor with its buffers.
//!
//! `column.rs` chooses, `fixed.rs` and `bytes.rs` turn values into pages, `bits.rs` has the encodings, `chunk.rs` puts
//! pages, statistics and indexes together.

mod bits;
mod bytes;
mod chunk;
mod codec;
mod column;
mod dictionary;
mod fixed;

use std::io::Write;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{KeyValue, RowGroupMetaDataPtr};
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescPtr, ColumnPath, SchemaDescriptor, TypePtr};

use self::codec::Compressor;
use self::column::{Column, EncodedColumn};
use crate::ParquetWriteOptions;

/// What all files of a load have in common.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: SchemaRef,
    pub(crate) root: TypePtr,
    leaves: SchemaDescriptor,
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
        let leaves = SchemaDescriptor::new(root.clone());
        Ok(Self { schema, root, leaves, properties, row_group_rows: options.row_group_size.max(1), factory })
    }

    pub(crate) fn leaves(&self) -> usize {
        self.leaves.num_columns()
    }
}

/// An encoded row group.
pub(crate) struct RowGroup {
    columns: Vec<EncodedColumn>,
    pub(crate) bytes: usize,
}

impl RowGroup {
    /// Appends it to `file`.
    pub(crate) fn append_to<W: Write + Send>(self, file: &mut SerializedFileWriter<W>) -> Result<RowGroupMetaDataPtr> {
        let mut row_group = file.next_row_group()?;
        for column in self.columns {
            match column {
                EncodedColumn::Quick(chunk) => row_group.append_column(&chunk.bytes, chunk.close)?,
                EncodedColumn::Crate(chunk) => chunk.append_to_row_group(&mut row_group)?,
            }
        }
        row_group.close()
    }
}

/// The row group in progress.
pub(crate) struct Encoder {
    layout: Arc<Layout>,
    compressor: Option<Compressor>,
    /// One for each leaf.
    columns: Vec<Column>,
    rows: usize,
}

impl Encoder {
    pub(crate) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, compressor: None, columns: Vec::new(), rows: 0 }
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        let compressor = self.compressor.as_ref().map_or(0, Compressor::memory);
        self.columns.iter().map(Column::memory).fold(compressor, usize::saturating_add)
    }

    /// Encodes as many rows of `batch`, from `offset` on, as the row group takes, and gives their number.
    pub(crate) fn write(&mut self, batch: &RecordBatch, offset: usize) -> Result<usize> {
        if self.columns.is_empty() {
            self.begin()?;
        }
        let room = self.layout.row_group_rows.saturating_sub(self.rows);
        let part = batch.slice(offset, room.min(batch.num_rows().saturating_sub(offset)));
        let other_columns = || ParquetError::General("a batch has other columns than the plan".to_owned());
        if part.num_columns() != self.layout.schema.fields().len() {
            return Err(other_columns());
        }
        let mut columns = self.columns.iter_mut();
        for (field, values) in self.layout.schema.fields().iter().zip(part.columns()) {
            let mut leaf = columns.next().ok_or_else(other_columns)?;
            if let Some(compressor) = &mut self.compressor
                && leaf.write(compressor, values)?
            {
                continue;
            }
            let mut leaves = compute_leaves(field, values)?.into_iter().peekable();
            while let Some(values) = leaves.next() {
                leaf.write_leaf(&values)?;
                if leaves.peek().is_some() {
                    leaf = columns.next().ok_or_else(other_columns)?;
                }
            }
        }
        self.rows += part.num_rows();
        Ok(part.num_rows())
    }

    fn begin(&mut self) -> Result<()> {
        let Layout { schema, leaves, properties, .. } = self.layout.as_ref();
        if self.compressor.is_none() {
            self.compressor = Compressor::new(properties.compression(&ColumnPath::from(Vec::<String>::new())))?;
        }
        let quick = |column: &ColumnDescPtr| {
            self.compressor.as_ref()?;
            // Only a column that is a leaf itself has the name of a field as its whole path.
            let [name] = column.path().parts() else { return None };
            let dictionary = properties.dictionary_enabled(column.path());
            Column::quick(schema.field_with_name(name).ok()?.data_type(), column, dictionary)
        };
        let mut columns: Vec<_> = leaves.columns().iter().map(quick).collect();
        if columns.iter().any(Option::is_none) {
            let others = self.layout.factory.create_column_writers(0)?;
            for (column, other) in columns.iter_mut().zip(others) {
                column.get_or_insert(Column::Crate(Box::new(other)));
            }
        }
        self.columns = columns.into_iter().flatten().collect();
        Ok(())
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
        let finish = |column: Column| column.finish(self.compressor.as_mut());
        let columns = columns.into_iter().map(finish).collect::<Result<Vec<_>>>()?;
        let bytes = columns.iter().map(EncodedColumn::bytes).fold(0, usize::saturating_add);
        Ok(Some(RowGroup { columns, bytes }))
    }
}
