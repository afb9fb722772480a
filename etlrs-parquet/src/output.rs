//! A file in the making.

use std::io::{self, Write};

use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{
    ParquetMetaData, ParquetMetaDataWriter, RowGroupMetaData, RowGroupMetaDataPtr, SortingColumn,
};
use parquet::file::reader::ChunkReader;
use parquet::file::writer::SerializedFileWriter;

use crate::encode::{Layout, RowGroup};

/// Writes row groups to `sink`, and their footer.
///
/// Design note. The file writer of the parquet crate gives all row groups one order, for its properties are those of the
/// file. Here each has what is true of its own rows: those of a file that is appended to keep theirs, and one with NaN may
/// have none. So what the crate writes at the end is held back, page indexes and footer, and the footer written anew.
pub(crate) struct FileWriter<W: Write + Send> {
    file: SerializedFileWriter<Gate<W>>,
    /// The order of each row group.
    orders: Vec<Option<Vec<SortingColumn>>>,
    /// Whether row groups may have page indexes. The parquet crate wants offset indexes of all or of none.
    indexes: bool,
}

impl<W: Write + Send> FileWriter<W> {
    pub(crate) fn new(sink: W, layout: &Layout) -> Result<Self> {
        let sink = Gate { sink: Some(sink), held: None };
        let file = SerializedFileWriter::new(sink, layout.root.clone(), layout.properties.clone())?;
        Ok(Self { file, orders: Vec::new(), indexes: true })
    }

    /// Appends an encoded row group.
    pub(crate) fn append(&mut self, group: RowGroup) -> Result<RowGroupMetaDataPtr> {
        self.orders.push(group.order.clone());
        group.append_to(&mut self.file, self.indexes)
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
        self.orders.push(group.sorting_columns().cloned());
        let mut row_group = self.file.next_row_group()?;
        for mut column in columns {
            if !self.indexes {
                (column.column_index, column.offset_index) = (None, None);
            }
            row_group.append_column(source, column)?;
        }
        row_group.close().map(|_| ())
    }

    /// Writes the footer, and gives the sink and what the footer tells.
    pub(crate) fn finish(mut self) -> Result<(W, ParquetMetaData)> {
        let gone = || ParquetError::General("a file was finished twice".to_owned());
        if self.orders.iter().all(Option::is_none) {
            let footer = self.file.finish()?;
            return Ok((self.file.inner_mut().sink.take().ok_or_else(gone)?, footer));
        }
        self.file.flush()?;
        self.file.inner_mut().held = Some(Vec::new());
        let footer = self.file.finish()?;
        let gate = self.file.inner_mut();
        let held = gate.held.take().unwrap_or_default();
        let mut sink = gate.sink.take().ok_or_else(gone)?;
        let indexes = before_footer(&held).ok_or_else(|| ParquetError::General("a footer was cut short".to_owned()))?;
        sink.write_all(indexes)?;
        let groups = footer.row_groups().iter().zip(std::mem::take(&mut self.orders));
        let groups = groups.map(|(group, order)| group.clone().into_builder().set_sorting_columns(order).build());
        let groups = groups.collect::<Result<_>>()?;
        let footer = footer
            .into_builder()
            .set_row_groups(groups)
            // They are written, and the row groups tell where.
            .set_column_index(None)
            .set_offset_index(None)
            .build();
        ParquetMetaDataWriter::new(&mut sink, &footer).finish()?;
        sink.flush()?;
        Ok((sink, footer))
    }
}

/// What is before the footer that `bytes` end in.
fn before_footer(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, magic) = bytes.split_last_chunk::<4>()?;
    let (rest, length) = rest.split_last_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (magic == b"PAR1").then_some(rest)?.get(..rest.len().checked_sub(length)?)
}

/// Passes on what is written to it, or holds it.
struct Gate<W> {
    /// There until the file is finished.
    sink: Option<W>,
    held: Option<Vec<u8>>,
}

impl<W: Write> Write for Gate<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.held {
            Some(held) => held.write(bytes),
            None => self.sink.as_mut().map_or(Err(io::ErrorKind::BrokenPipe.into()), |sink| sink.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match (&self.held, &mut self.sink) {
            (None, Some(sink)) => sink.flush(),
            _ => Ok(()),
        }
    }
}
