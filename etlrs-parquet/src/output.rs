//! A file in the making.

use std::io::Write;

use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{RowGroupMetaData, RowGroupMetaDataPtr, SortingColumn};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::reader::ChunkReader;
use parquet::file::writer::{SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::SchemaDescPtr;

use crate::encode::{Layout, RowGroup};
use crate::footer::{Footer, Indexes, MAGIC};

/// With what the text of a part begins if row groups have no page indexes.
const WITHOUT_INDEXES: &str = "-";

/// Writes row groups to `sink`, and their footer.
///
/// Design note. The file writer of the parquet crate gives all row groups one order, for its properties are those of the
/// file, and keeps what takes too much memory. Here each has what is true of its own rows: those of a file that is appended
/// to keep theirs, and one with NaN may have none.
pub(crate) struct FileWriter<W: Write + Send> {
    sink: TrackedWrite<W>,
    schema: SchemaDescPtr,
    properties: WriterPropertiesPtr,
    footer: Footer,
    /// Whether row groups may have page indexes. Readers want offset indexes of all or of none.
    indexes: bool,
}

impl<W: Write + Send> FileWriter<W> {
    pub(crate) fn new(sink: W, layout: &Layout) -> Result<Self> {
        let mut sink = TrackedWrite::new(sink);
        sink.write_all(MAGIC)?;
        let (schema, properties) = (layout.leaves.clone(), layout.properties.clone());
        let footer = Footer::new(schema.clone(), &properties);
        Ok(Self { sink, schema, properties, footer, indexes: true })
    }

    /// Goes on with a file that is written up to here, and of which the [`flushed`](Self::flushed) texts of all parts are known: what
    /// `sink` is given first is there already.
    pub(crate) fn continued<'a>(
        sink: W,
        layout: &Layout,
        length: u64,
        parts: impl Iterator<Item = &'a str>,
    ) -> Result<Self> {
        let mut file = Self::new(sink, layout)?;
        for part in parts {
            file.indexes &= !part.starts_with(WITHOUT_INDEXES);
            file.footer.take_over(part.trim_start_matches(WITHOUT_INDEXES))?;
        }
        let nothing = [0; 1 << 16];
        let mut left = usize::try_from(length)?.saturating_sub(file.sink.bytes_written());
        while left > 0 {
            let skipped = left.min(nothing.len());
            file.sink.write_all(nothing.get(..skipped).unwrap_or_default())?;
            left -= skipped;
        }
        file.sink.flush()?;
        Ok(file)
    }

    /// The sink, which has all of it, and what the footer will say of the row groups since this was last called.
    pub(crate) fn flushed(&mut self) -> Result<(&mut W, String)> {
        self.sink.flush()?;
        let indexes = if self.indexes { "" } else { WITHOUT_INDEXES };
        let groups = format!("{indexes}{}", self.footer.hand_over());
        Ok((self.sink.inner_mut(), groups))
    }

    /// Appends an encoded row group.
    pub(crate) fn append(&mut self, mut group: RowGroup) -> Result<RowGroupMetaDataPtr> {
        let order = group.order.take();
        self.row_group(order, |row_group| group.append_to(row_group))
    }

    /// Leaves the page indexes of all row groups out.
    pub(crate) fn without_indexes(&mut self) {
        self.indexes = false;
    }

    /// Copies the row group `group` from `source`; `columns` has the page indexes and Bloom filters of its columns.
    pub(crate) fn copy(
        &mut self,
        source: &impl ChunkReader,
        group: &RowGroupMetaData,
        columns: impl IntoIterator<Item = ColumnCloseResult>,
    ) -> Result<()> {
        let order = group.sorting_columns().cloned();
        let copied = self.row_group(order, |row_group| {
            columns.into_iter().try_for_each(|column| row_group.append_column(source, column))
        });
        copied.map(|_| ())
    }

    /// Appends a row group, whose columns `fill` appends.
    fn row_group(
        &mut self,
        order: Option<Vec<SortingColumn>>,
        fill: impl FnOnce(&mut SerializedRowGroupWriter<'_, W>) -> Result<()>,
    ) -> Result<RowGroupMetaDataPtr> {
        let ordinal = i16::try_from(self.footer.len()).map_err(|_| {
            let message = "a file can have 32768 row groups, and this one would need more; larger row groups take more \
                           memory, and a directory has a file for each part";
            ParquetError::General(message.to_owned())
        })?;
        let (footer, has_indexes) = (&mut self.footer, self.indexes);
        let on_close = move |sink: &mut TrackedWrite<W>, mut group: RowGroupMetaData, filters, column, offset| {
            write_filters(sink, &mut group, filters)?;
            let group = group.into_builder().set_sorting_columns(order).build()?;
            footer.push(group, has_indexes.then_some(Indexes { column, offset }))
        };
        let (schema, properties) = (self.schema.clone(), self.properties.clone());
        let mut row_group =
            SerializedRowGroupWriter::new(schema, properties, &mut self.sink, ordinal, Some(Box::new(on_close)));
        fill(&mut row_group)?;
        row_group.close()
    }

    /// Writes page indexes and footer, and gives the sink and the rows of the file.
    pub(crate) fn finish(mut self) -> Result<(W, u64)> {
        let rows = self.footer.write(&mut self.sink)?;
        // So that an error of it is told as it is.
        self.sink.flush()?;
        Ok((self.sink.into_inner()?, rows))
    }
}

/// Writes the Bloom filters of the columns of `group` and notes in it where they are.
fn write_filters<W: Write>(
    sink: &mut TrackedWrite<W>,
    group: &mut RowGroupMetaData,
    filters: Vec<Option<Sbbf>>,
) -> Result<()> {
    for (column, filter) in group.columns_mut().iter_mut().zip(filters) {
        let Some(filter) = filter else { continue };
        let start = sink.bytes_written();
        filter.write(&mut *sink)?;
        let length = i32::try_from(sink.bytes_written() - start)?;
        let noted = column.clone().into_builder();
        let noted = noted.set_bloom_filter_offset(Some(i64::try_from(start)?)).set_bloom_filter_length(Some(length));
        *column = noted.build()?;
    }
    Ok(())
}
