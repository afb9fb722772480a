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
//! pages, statistics and indexes together, `filter.rs` has Bloom filters, `sort.rs` the order of rows, and `groups.rs`
//! makes row groups of what comes.

mod bits;
mod bytes;
mod chunk;
mod codec;
mod column;
mod dictionary;
mod filter;
mod fixed;
mod groups;
mod sort;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use etlrs_core::Error;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{BloomFilterProperties, EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnDescPtr, ColumnPath, SchemaDescPtr, SchemaDescriptor, TypePtr};

pub(crate) use self::bits::{varint, zigzag};
use self::codec::Compressor;
use self::column::{Column, EncodedColumn};
use self::filter::FilterSize;
pub(crate) use self::groups::{Progress, RowGroups};
pub(crate) use self::sort::SortKey;
use crate::error::writing;
use crate::{ParquetWriteOptions, Statistics};

/// What all files of a load have in common.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: SchemaRef,
    pub(crate) root: TypePtr,
    pub(crate) leaves: SchemaDescPtr,
    pub(crate) properties: WriterPropertiesPtr,
    row_group_rows: usize,
    column: ColumnLayout,
    /// Whether each leaf gets a Bloom filter.
    filters: Vec<bool>,
    bloom_fpp: f64,
    order: Vec<SortKey>,
}

/// What all columns have in common.
#[derive(Clone, Copy, Debug)]
struct ColumnLayout {
    dictionary: bool,
    statistics: Statistics,
    /// Rows of a page at the most. Pages are what a reader with a filter can skip.
    page_rows: usize,
    /// Bytes of a page's values that end it early.
    page_bytes: usize,
    /// Of the column's Bloom filter, if it gets one.
    filter: Option<FilterSize>,
}

impl Layout {
    /// Of files with `schema`, stored as `root`. Errors name `target`.
    pub(crate) fn new(
        schema: SchemaRef,
        root: TypePtr,
        options: &ParquetWriteOptions,
        target: &Path,
    ) -> etlrs_core::Result<Self> {
        options.validate()?;
        // Metadata of the source, such as the index that pandas keeps, would be wrong for other rows.
        let schema = Arc::new(Schema::new(schema.fields().clone()));
        let leaves = Arc::new(SchemaDescriptor::new(root.clone()));
        let named = |error: Error| error.in_source(target.display());
        let filters = options.bloom_filters.leaves(&leaves).map_err(named)?;
        let order = options.sort_by.keys(&schema, &leaves).map_err(named)?;
        let row_group_rows = options.row_group_size;
        let column = ColumnLayout {
            dictionary: options.dictionary,
            statistics: options.statistics,
            page_rows: options.data_page_rows.min(row_group_rows),
            page_bytes: options.data_page_size,
            filter: None,
        };
        let compression = options.compression.codec().map_err(ParquetError::General);
        let properties = WriterProperties::builder()
            .set_compression(compression.map_err(|error| writing(target, error))?)
            .set_dictionary_enabled(column.dictionary)
            .set_statistics_enabled(match column.statistics {
                Statistics::None => EnabledStatistics::None,
                Statistics::Chunk => EnabledStatistics::Chunk,
                Statistics::Page => EnabledStatistics::Page,
            })
            // Of columns without nulls, the parquet crate looks at the bytes of a page only after so many rows.
            .set_data_page_row_count_limit(column.page_rows.min(column.page_bytes / 8).max(1))
            .set_write_batch_size(column.page_rows.min(1024))
            .set_data_page_size_limit(column.page_bytes)
            // The form that readers parse: those of parquet-mr distrust the statistics of a writer without a version.
            .set_created_by(format!("etlrs version {}", env!("CARGO_PKG_VERSION")))
            .set_key_value_metadata(Some(vec![KeyValue::new(
                ARROW_SCHEMA_META_KEY.to_owned(),
                encode_arrow_schema(&schema),
            )]))
            .build();
        let properties = Arc::new(properties);
        let bloom_fpp = options.bloom_fpp;
        Ok(Self { schema, root, leaves, properties, row_group_rows, column, filters, bloom_fpp, order })
    }

    pub(crate) fn leaves(&self) -> usize {
        self.leaves.num_columns()
    }

    /// How a leaf is laid out by a writer that may hold `memory` bytes.
    fn column(&self, leaf: usize, memory: usize) -> ColumnLayout {
        let filters = self.filters.iter().filter(|filter| **filter).count();
        let filter = self.filters.get(leaf).is_some_and(|filter| *filter).then(|| FilterSize {
            fpp: self.bloom_fpp,
            values: self.row_group_rows,
            // All filters together leave most of the half that a row group in progress may take to its pages.
            bytes: memory / 8 / filters.max(1),
        });
        ColumnLayout { filter, ..self.column }
    }

    /// What makes the columns that the parquet crate encodes.
    fn factory(&self, memory: usize) -> Result<ArrowRowGroupWriterFactory> {
        let mut properties = self.properties.as_ref().clone().into_builder();
        for (index, leaf) in self.leaves.columns().iter().enumerate() {
            if let Some(size) = self.column(index, memory).filter {
                let filter = BloomFilterProperties::builder()
                    .with_fpp(size.fpp)
                    .with_max_ndv(size.most_distinct())
                    .try_build()?;
                properties = properties.set_column_bloom_filter_properties(leaf.path().clone(), filter);
            }
        }
        // A factory is made of a file writer, of which it takes nothing but schema and properties.
        let no_file = SerializedFileWriter::new(std::io::sink(), self.root.clone(), Arc::new(properties.build()))?;
        Ok(ArrowRowGroupWriterFactory::new(&no_file, self.schema.clone()))
    }
}

/// An encoded row group.
pub(crate) struct RowGroup {
    columns: Vec<EncodedColumn>,
    pub(crate) bytes: usize,
    /// In which its rows are, as far as that may be told.
    pub(crate) order: Option<Vec<SortingColumn>>,
}

impl RowGroup {
    /// Appends its columns to `row_group`, which is empty.
    pub(crate) fn append_to<W: Write + Send>(self, row_group: &mut SerializedRowGroupWriter<'_, W>) -> Result<()> {
        self.columns.into_iter().try_for_each(|column| match column {
            EncodedColumn::Quick(chunk) => row_group.append_column(&chunk.bytes, chunk.close),
            EncodedColumn::Crate(chunk) => chunk.append_to_row_group(row_group),
        })
    }
}

/// The row group in progress.
struct Encoder {
    layout: Arc<Layout>,
    /// Bytes that the writer may hold.
    memory: usize,
    factory: Option<ArrowRowGroupWriterFactory>,
    compressor: Option<Compressor>,
    /// One for each leaf.
    columns: Vec<Column>,
    rows: usize,
}

impl Encoder {
    fn new(layout: Arc<Layout>, memory: usize) -> Self {
        Self { layout, memory, factory: None, compressor: None, columns: Vec::new(), rows: 0 }
    }

    fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    fn memory(&self) -> usize {
        let compressor = self.compressor.as_ref().map_or(0, Compressor::memory);
        self.columns.iter().map(Column::memory).fold(compressor, usize::saturating_add)
    }

    /// Encodes as many rows of `batch`, from `offset` on, as the row group takes, and gives their number.
    fn write(&mut self, batch: &RecordBatch, offset: usize) -> Result<usize> {
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
        let quick = |(index, column): (usize, &ColumnDescPtr)| {
            self.compressor.as_ref()?;
            // Only a column that is a leaf itself has the name of a field as its whole path.
            let [name] = column.path().parts() else { return None };
            let data_type = schema.field_with_name(name).ok()?.data_type();
            Column::quick(data_type, column, self.layout.column(index, self.memory))
        };
        let mut columns: Vec<_> = leaves.columns().iter().enumerate().map(quick).collect();
        if columns.iter().any(Option::is_none) {
            let factory = match &mut self.factory {
                Some(factory) => factory,
                none => none.insert(self.layout.factory(self.memory)?),
            };
            let others = factory.create_column_writers(0)?;
            for (column, other) in columns.iter_mut().zip(others) {
                column.get_or_insert(Column::Crate(Box::new(other)));
            }
        }
        self.columns = columns.into_iter().flatten().collect();
        Ok(())
    }

    /// Closes the row group, if it has rows.
    fn take(&mut self) -> Result<Option<RowGroup>> {
        let columns = std::mem::take(&mut self.columns);
        if std::mem::take(&mut self.rows) == 0 {
            return Ok(None);
        }
        let finish = |column: Column| column.finish(self.compressor.as_mut());
        let columns = columns.into_iter().map(finish).collect::<Result<Vec<_>>>()?;
        // One large value would otherwise be reckoned with in all row groups that follow.
        if let Some(compressor) = &mut self.compressor {
            compressor.shrink((self.memory / 16).min(self.layout.column.page_bytes));
        }
        let bytes = columns.iter().map(EncodedColumn::bytes).fold(0, usize::saturating_add);
        Ok(Some(RowGroup { columns, bytes, order: None }))
    }
}
