//! The texts of records, as files that the connector of their format reads.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::Array;
use etlrs_core::{Checksum, Error, Result};

use super::rows::{Chosen, Rows};
use super::source::{Texts, is_alone};
use crate::read_as::SourceFormat;

/// Files of texts, as they are written.
pub(super) struct Files {
    folder: PathBuf,
    extension: &'static str,
    header: Vec<u8>,
    /// The one that has more than one text, as it is written.
    open: Option<BufWriter<File>>,
    pub(super) texts: Vec<Texts>,
    files: u64,
    /// Records.
    pub(super) count: u64,
    pub(super) checksum: Checksum,
    /// Where all of them are from: nobody knows, or several are.
    pub(super) from: Option<Option<Arc<str>>>,
}

impl Files {
    pub(super) fn new(folder: &Path, extension: &'static str, format: &SourceFormat) -> Self {
        let header = format.header.as_ref().map(|header| format!("{header}\n").into_bytes()).unwrap_or_default();
        Self {
            folder: folder.to_owned(),
            extension,
            header,
            open: None,
            texts: Vec::new(),
            files: 0,
            count: 0,
            checksum: Checksum::default(),
            from: None,
        }
    }

    /// Counts those that are chosen, and gives them.
    pub(super) fn count(&mut self, rows: &Rows, among: &Chosen) -> Result<Vec<usize>> {
        let chosen: Vec<usize> = (0..rows.len()).filter(|&row| among.has(rows, row)).collect();
        for &row in &chosen {
            let from = rows.source.is_valid(row).then(|| rows.source.value(row));
            match &self.from {
                Some(known) if known.as_deref() == from => {}
                Some(_) => self.from = Some(None),
                None => self.from = Some(from.map(Arc::from)),
            }
        }
        self.count += chosen.len() as u64;
        self.checksum.merge(&Chosen::checksum(rows, &chosen)?);
        Ok(chosen)
    }

    pub(super) fn add(&mut self, rows: &Rows, among: &Chosen, format: &SourceFormat) -> Result<()> {
        for row in self.count(rows, among)? {
            let text = rows.text(row).unwrap_or_default();
            if text.trim_ascii().is_empty() {
                self.close()?;
                self.texts.push(Texts::Blank);
            } else if is_alone(text, format) {
                self.close()?;
                self.write(text)?;
                self.close()?;
            } else {
                self.write(text)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, text: &[u8]) -> Result<()> {
        let failed = |error| Error::io("write", &self.folder, error);
        let file = match (&mut self.open, self.texts.last_mut()) {
            (Some(file), Some(Texts::File(texts))) => {
                *texts += 1;
                file
            }
            (open, _) => {
                let name = self.folder.join(format!("{:012}.{}", self.files, self.extension));
                let mut file = BufWriter::new(File::create(name).map_err(failed)?);
                file.write_all(&self.header).map_err(failed)?;
                self.files += 1;
                self.texts.push(Texts::File(1));
                open.insert(file)
            }
        };
        // Where line ends are spaces a tab is one too, but not within a string, where neither may be.
        let is_folded = self.header.is_empty();
        let byte = |byte: &u8| if is_folded && matches!(byte, b'\n' | b'\r') { b'\t' } else { *byte };
        let text: Vec<u8> = text.iter().map(byte).chain([b'\n']).collect();
        file.write_all(&text).map_err(failed)
    }

    fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some(mut file) => file.flush().map_err(|error| Error::io("write", &self.folder, error)),
            None => Ok(()),
        }
    }

    /// All of them.
    pub(super) fn finish(mut self) -> Result<Self> {
        self.close()?;
        Ok(self)
    }
}
