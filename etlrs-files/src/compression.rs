//! Compression of whole files, as `gzip`, `zstd`, `bzip2` and `xz` do it.
//!
//! In each of the four formats a file is one *member* after another (gzip calls them so, zstd frames, the others streams),
//! and what it holds is what they hold, joined. So blocks can be compressed side by side and put into a file one after
//! another, and compressed data can be appended to. Readers have to go on after the first member; [`Decompressor`] does.
//!
//! Formats: RFC 1952 (gzip), RFC 8878 (zstd), <https://sourceware.org/bzip2/>, <https://tukaani.org/xz/xz-file-format.txt>.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;

use etlrs_core::{Error, ErrorKind, OptionArgument, OptionValue, Result, format_bytes, unknown_name};
use lzma_rust2::{XzOptions, XzReader, XzWriter, lzma2_get_memory_usage};

/// How a file is compressed.
///
/// ```
/// use etlrs_core::OptionValue;
/// use etlrs_files::Compression;
///
/// assert_eq!(Compression::of_path("sales.csv.zst".as_ref()), Compression::Zstd(3));
/// assert_eq!(Compression::parse("gzip(9)"), Ok(Compression::Gzip(9)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Bytes as they are.
    #[default]
    None,
    /// Read by everything; levels 0 to 9.
    Gzip(u8),
    /// As small as gzip and several times as fast; levels 1 to 22.
    Zstd(u8),
    /// Smaller than gzip, slow; levels 1 to 9.
    Bzip2(u8),
    /// The smallest, very slow; levels 0 to 9.
    Xz(u8),
}

const NAMES: [&str; 5] = ["none", "gzip", "zstd", "bzip2", "xz"];
const GZIP: Compression = Compression::Gzip(6);
const ZSTD: Compression = Compression::Zstd(3);
const BZIP2: Compression = Compression::Bzip2(9);
const XZ: Compression = Compression::Xz(6);

impl Compression {
    /// The extensions that stand for a compression, each after that of the format: `.csv.gz`.
    pub const EXTENSIONS: &'static [&'static str] = &["gz", "zst", "bz2", "xz"];

    /// What the last extension of `path` says, at the usual level; `None` for one that says nothing.
    pub fn of_path(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "gz" => GZIP,
            "zst" => ZSTD,
            "bz2" => BZIP2,
            "xz" => XZ,
            _ => Self::None,
        }
    }

    /// What the first bytes of a file, six at the least unless it is shorter, say; at the usual level.
    pub fn of_start(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => GZIP,
            // A frame, or one that readers skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => ZSTD,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => BZIP2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => XZ,
            _ => Self::None,
        }
    }

    /// Its name without a level.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
            Self::Bzip2(_) => "bzip2",
            Self::Xz(_) => "xz",
        }
    }

    /// # Errors
    /// `InvalidConfig` for a level that the format does not have.
    pub fn check(self) -> Result<()> {
        let levels = match self {
            Self::Gzip(10..) => "0 to 9",
            Self::Zstd(0 | 23..) => "1 to 22",
            Self::Bzip2(0 | 10..) => "1 to 9",
            Self::Xz(10..) => "0 to 9",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::InvalidConfig, format!("the levels of {} are {levels}", self.name())))
    }

    /// About as many bytes as a [`Compressor`] holds for blocks of up to a megabyte.
    pub fn memory(self) -> usize {
        match self {
            Self::None => 0,
            Self::Gzip(_) => 512 << 10,
            // Its tables are chosen by the size of the block, above level 15 larger.
            Self::Zstd(level) => {
                if level > 15 {
                    16 << 20
                } else {
                    4 << 20
                }
            }
            Self::Bzip2(_) => 8 << 20,
            Self::Xz(_) => 16 << 20,
        }
    }

    /// About as many bytes as decompressing a file takes that begins as `start` does: what its first member asks for,
    /// and at the least what files of the usual levels take. Later members may ask for more.
    ///
    /// # Errors
    /// Those of reading `start`. One that is damaged is left to [`decompress`](Self::decompress).
    pub fn unpacking_memory(self, start: impl Read) -> io::Result<usize> {
        Ok(match self {
            Self::None => 0,
            Self::Gzip(_) => 64 << 10,
            Self::Zstd(_) => {
                let window = known(zstd_window(start))?.unwrap_or(0).clamp(USUAL_ZSTD_WINDOW, LARGEST_ZSTD_WINDOW);
                usize::try_from(window.next_power_of_two()).unwrap_or(usize::MAX).saturating_add(ZSTD_BUFFERS)
            }
            Self::Bzip2(_) => 4 << 20,
            Self::Xz(_) => {
                let dictionary = known(xz_dictionary(start))?.unwrap_or(0).max(USUAL_XZ_DICTIONARY);
                usize::try_from(u64::from(lzma2_get_memory_usage(dictionary)) << 10).unwrap_or(usize::MAX)
            }
        })
    }

    /// What compresses blocks; it keeps its tables from one to the next.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn compressor(self) -> Result<Compressor> {
        self.check()?;
        Ok(Compressor(match self {
            Self::None => Packing::None,
            Self::Gzip(level) => {
                Packing::Gzip(flate2::Compress::new_gzip(flate2::Compression::new(level.into()), GZIP_WINDOW))
            }
            Self::Zstd(level) => {
                let mut zstd = zstd::bulk::Compressor::new(level.into()).map_err(failed)?;
                zstd.include_checksum(true).map_err(failed)?;
                Packing::Zstd(zstd)
            }
            Self::Bzip2(level) => Packing::Bzip2(bzip2::Compression::new(level.into())),
            Self::Xz(level) => Packing::Xz(level),
        }))
    }

    /// What `input` holds, decompressed: all members of it, to its end. A member that takes more than `memory`, which
    /// [`unpacking_memory`](Self::unpacking_memory) tells, is refused.
    ///
    /// # Errors
    /// Those of reading the start of `input`, and as [`Decompressor`] for one that is empty.
    pub fn decompress<R: BufRead>(self, mut input: R, memory: usize) -> io::Result<Decompressor<R>> {
        // Which an empty file has to be in no format but a sequence of frames, and that may have lost all of them.
        if self != Self::None && input.fill_buf()?.is_empty() {
            return Err(cut_off(self));
        }
        let unpacking = match self {
            Self::None => Unpacking::None(input),
            Self::Gzip(_) => Unpacking::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Self::Zstd(_) => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                let window = memory.saturating_sub(ZSTD_BUFFERS).max(SMALLEST_ZSTD_WINDOW);
                decoder.window_log_max(window.ilog2().min(LARGEST_ZSTD_WINDOW.ilog2()))?;
                Unpacking::Zstd(decoder)
            }
            Self::Bzip2(_) => Unpacking::Bzip2(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Xz(_) => {
                let limit = u32::try_from(memory >> 10).unwrap_or(u32::MAX);
                Unpacking::Xz(Box::new(XzReader::new_mem_limit(input, true, limit)))
            }
        };
        Ok(Decompressor { compression: self, memory, unpacking, failed: false })
    }
}

fn known<T>(found: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        found => found,
    }
}

fn bytes<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map(|()| bytes)
}

/// The window of the first frame (RFC 8878, section 3.1.1.1), if there is one.
fn zstd_window(mut start: impl Read) -> io::Result<Option<u64>> {
    loop {
        match u32::from_le_bytes(bytes(&mut start)?) {
            0xfd2f_b528 => break,
            0x184d_2a50..=0x184d_2a5f => {
                let length = u32::from_le_bytes(bytes(&mut start)?);
                io::copy(&mut start.by_ref().take(length.into()), &mut io::sink())?;
            }
            _ => return Ok(None),
        }
    }
    let [descriptor] = bytes(&mut start)?;
    if descriptor & 0x20 == 0 {
        let [window] = bytes(&mut start)?;
        let base = 1_u64 << (10 + (window >> 3));
        return Ok(Some(base + base / 8 * u64::from(window & 7)));
    }
    // A single segment: its content is the window.
    let dictionary_id = [0, 1, 2, 4].get(usize::from(descriptor & 3)).copied().unwrap_or(0);
    io::copy(&mut start.by_ref().take(dictionary_id), &mut io::sink())?;
    Ok(Some(match descriptor >> 6 {
        0 => u8::from_le_bytes(bytes(&mut start)?).into(),
        1 => u64::from(u16::from_le_bytes(bytes(&mut start)?)) + 256,
        2 => u32::from_le_bytes(bytes(&mut start)?).into(),
        _ => u64::from_le_bytes(bytes(&mut start)?),
    }))
}

/// The dictionary of the first block of the first stream (the .xz file format, sections 3.1 and 5.3.1), if there is
/// one.
fn xz_dictionary(mut start: impl Read) -> io::Result<Option<u32>> {
    const LZMA2: u64 = 0x21;
    let _stream_header: [u8; 12] = bytes(&mut start)?;
    let [size] = bytes(&mut start)?;
    if size == 0 {
        return Ok(None);
    }
    let mut header = Vec::new();
    start.take(u64::from(size) * 4 + 3).read_to_end(&mut header)?;
    let mut header = header.as_slice();
    let [flags] = bytes(&mut header)?;
    for _size in [0x40, 0x80].iter().filter(|&&bit| flags & bit != 0) {
        xz_number(&mut header)?;
    }
    for _ in 0..=(flags & 3) {
        let (filter, length) = (xz_number(&mut header)?, xz_number(&mut header)?);
        let properties = usize::try_from(length).ok().and_then(|length| header.split_at_checked(length));
        let Some((properties, rest)) = properties else { return Ok(None) };
        if let (LZMA2, &[bits]) = (filter, properties) {
            return Ok(match bits {
                0..40 => Some(u32::from(2 | bits & 1) << (bits / 2 + 11)),
                40 => Some(u32::MAX),
                _ => None,
            });
        }
        header = rest;
    }
    Ok(None)
}

/// Seven bits a byte, the lowest first; the last byte has no eighth bit (section 1.2).
fn xz_number(input: &mut impl Read) -> io::Result<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let [byte] = bytes(input)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(number)
}

/// Bits of the window of deflate, the most that there are.
const GZIP_WINDOW: u8 = 15;
/// What level 3 of zstd and level 6 of xz ask for.
const USUAL_ZSTD_WINDOW: u64 = 2 << 20;
const USUAL_XZ_DICTIONARY: u32 = 8 << 20;
/// The library knows none that is larger.
const LARGEST_ZSTD_WINDOW: u64 = 1 << 31;
const SMALLEST_ZSTD_WINDOW: usize = 1 << 10;
/// What a zstd decoder holds beside its window: its tables and a few blocks of 128 KiB.
const ZSTD_BUFFERS: usize = 640 << 10;
/// How the library names what its limit of the window refuses, for which it has no code that reaches us.
const ZSTD_WINDOW_TOO_LARGE: &str = "Frame requires too much memory for decoding";

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, format!("the block cannot be compressed: {error}")).caused_by(error)
}

/// Compresses blocks, each into a member of its own.
pub struct Compressor(Packing);

enum Packing {
    None,
    Gzip(flate2::Compress),
    Zstd(zstd::bulk::Compressor<'static>),
    // The libraries of these two keep nothing that could be used again.
    Bzip2(bzip2::Compression),
    Xz(u8),
}

impl Compressor {
    /// Appends `block`, compressed, to `out`: a whole member with its checksum. A block of a megabyte compresses about as
    /// well as a whole file does; an empty one is a member too.
    ///
    /// # Errors
    /// `Internal`, after which the compressor is only good for dropping.
    pub fn append_member(&mut self, block: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match &mut self.0 {
            Packing::None => out.extend_from_slice(block),
            Packing::Gzip(deflate) => {
                deflate.reset();
                // A good guess; more room is made where it does not do.
                out.reserve(block.len() / 3 + 64);
                loop {
                    let taken = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
                    let rest = block.get(taken..).unwrap_or_default();
                    match deflate.compress_vec(rest, out, flate2::FlushCompress::Finish).map_err(failed)? {
                        flate2::Status::StreamEnd => break,
                        flate2::Status::Ok | flate2::Status::BufError => out.reserve(rest.len() / 3 + 4096),
                    }
                }
            }
            Packing::Zstd(zstd) => {
                let start = out.len();
                out.resize(start + zstd::zstd_safe::compress_bound(block.len()), 0);
                let length =
                    zstd.compress_to_buffer(block, out.get_mut(start..).unwrap_or_default()).map_err(failed)?;
                out.truncate(start + length);
            }
            Packing::Bzip2(level) => {
                let mut encoder = bzip2::write::BzEncoder::new(out, *level);
                encoder.write_all(block).and_then(|()| encoder.finish().map(drop)).map_err(failed)?;
            }
            Packing::Xz(level) => {
                let mut options = XzOptions::with_preset((*level).into());
                // The tables are ten times as large as the dictionary, which is of no use beyond the block.
                let useful = u32::try_from(block.len()).unwrap_or(u32::MAX).max(SMALLEST_XZ_DICTIONARY);
                options.lzma_options.dict_size = options.lzma_options.dict_size.min(useful);
                let mut encoder = XzWriter::new(out, options).map_err(failed)?;
                encoder.write_all(block).and_then(|()| encoder.finish().map(drop)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

const SMALLEST_XZ_DICTIONARY: u32 = 64 << 10;

/// Decompresses what it reads, member after member.
///
/// Its end is the end of the input: data that is cut off, damaged, or followed by something else is an error. That
/// members are missing cannot be seen, for nothing tells how many there were.
///
/// Errors of its own are [`Error`]s within the [`io::Error`]; [`reading`] takes them out.
pub struct Decompressor<R: BufRead> {
    compression: Compression,
    /// What a member may take.
    memory: usize,
    unpacking: Unpacking<R>,
    failed: bool,
}

enum Unpacking<R: BufRead> {
    None(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<R>>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
    Bzip2(bzip2::bufread::MultiBzDecoder<R>),
    Xz(Box<XzReader<R>>),
}

impl<R: BufRead> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Some decoders say that they are at the end after they have failed.
        if self.failed {
            return Err(damaged(self.compression, "it was found before that it cannot be decompressed"));
        }
        let read = match &mut self.unpacking {
            Unpacking::None(input) => return input.read(buffer),
            Unpacking::Gzip(decoder) => decoder.read(buffer),
            Unpacking::Zstd(decoder) => decoder.read(buffer),
            Unpacking::Bzip2(decoder) => decoder.read(buffer),
            Unpacking::Xz(decoder) => decoder.read(buffer),
        };
        read.map_err(|error| {
            let ours = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).is_some();
            if ours || error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            self.failed = true;
            let reason = error.to_string();
            match error.kind() {
                io::ErrorKind::UnexpectedEof => cut_off(self.compression),
                io::ErrorKind::OutOfMemory => too_large(self.compression, self.memory),
                _ if reason == ZSTD_WINDOW_TOO_LARGE => too_large(self.compression, self.memory),
                _ => damaged(self.compression, &reason),
            }
        })
    }
}

fn too_large(compression: Compression, memory: usize) -> io::Error {
    let memory = format_bytes(memory);
    let message = format!("the {} data has a part that takes more than {memory} to decompress", compression.name());
    let hint = "decompress the file first, for only what its start asks for is planned with";
    io::Error::other(Error::new(ErrorKind::MemoryExceeded, message).hint(hint))
}

fn cut_off(compression: Compression) -> io::Error {
    let message = format!("the {} data ends in the middle", compression.name());
    let hint = "the file was cut off, or something else stands behind the data: get it again";
    io::Error::new(io::ErrorKind::UnexpectedEof, Error::new(ErrorKind::InvalidData, message).hint(hint))
}

fn damaged(compression: Compression, reason: &str) -> io::Error {
    let message = format!("the {} data is damaged: {reason}", compression.name());
    io::Error::new(io::ErrorKind::InvalidData, Error::new(ErrorKind::InvalidData, message))
}

/// The error of reading `path`, perhaps through a [`Decompressor`]: an [`Error`] that was wrapped comes back out.
pub fn reading(path: &Path, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error.in_source(path.display()),
        Err(error) => Error::io("read", path, error),
    }
}

/// The error of a file that ends before it did.
pub fn shortened() -> Error {
    Error::new(ErrorKind::SourceChanged, "the file became shorter while it was read")
        .hint("run again when nobody writes to it")
}

impl OptionValue for Compression {
    const KIND: &'static str = "none, gzip, zstd, bzip2 or xz, perhaps with a level as in zstd(3)";

    fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim().to_ascii_lowercase();
        let (name, level) = match name.split_once('(') {
            Some((name, level)) => {
                let level = level.strip_suffix(')').and_then(|level| level.trim().parse::<u8>().ok());
                (name, Some(level.ok_or("the level must be a whole number in parentheses, as in zstd(3)")?))
            }
            None => (name.as_str(), None),
        };
        let compression = match (name, level) {
            ("none" | "uncompressed", None) => Self::None,
            ("gzip", level) => level.map_or(GZIP, Self::Gzip),
            ("zstd", level) => level.map_or(ZSTD, Self::Zstd),
            ("bzip2", level) => level.map_or(BZIP2, Self::Bzip2),
            ("xz", level) => level.map_or(XZ, Self::Xz),
            ("none" | "uncompressed", Some(_)) => return Err(format!("{name} has no levels")),
            _ => return Err(unknown_name("compression", name, &NAMES).to_string()),
        };
        compression.check().map_err(|error| error.to_string())?;
        Ok(compression)
    }

    fn show(&self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Gzip(level) | Self::Zstd(level) | Self::Bzip2(level) | Self::Xz(level) => {
                format!("{}({level})", self.name())
            }
        }
    }
}

/// For options that have a default of their own.
impl OptionArgument<Option<Compression>> for Compression {
    fn into_option_value(self) -> Option<Compression> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 5] = [Compression::None, GZIP, ZSTD, BZIP2, XZ];

    fn packed(compression: Compression, blocks: &[&[u8]]) -> Vec<u8> {
        let (mut compressor, mut out) = (compression.compressor().unwrap(), Vec::new());
        blocks.iter().for_each(|block| compressor.append_member(block, &mut out).unwrap());
        out
    }

    fn unpacked(compression: Compression, packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        // Small reads, so that members end within them and between them.
        let input = io::BufReader::with_capacity(7, packed);
        let memory = compression.unpacking_memory(packed)?;
        compression.decompress(input, memory)?.read_to_end(&mut out).map(|_| out)
    }

    /// A frame of one raw block; it holds "text", and asks for a window of `1 << log` bytes and `eighths` of that.
    fn frame(log: u8, eighths: u8) -> Vec<u8> {
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3 | eighths];
        [&header[..], &[1 | 4 << 3, 0, 0], b"text"].concat()
    }

    /// A stream that says that its dictionary has the size that `bits` stand for.
    fn stream(bits: u8) -> Vec<u8> {
        let mut stream = packed(XZ, &[b"text"]);
        let size = usize::from(stream[12]) * 4;
        assert_eq!(stream[13] & 0xc3, 0, "one filter and no sizes");
        stream[16] = bits;
        let mut crc = flate2::Crc::new();
        crc.update(&stream[12..12 + size]);
        stream[12 + size..16 + size].copy_from_slice(&crc.sum().to_le_bytes());
        stream
    }

    #[test]
    fn the_start_tells_what_decompressing_takes() {
        let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any", &frame(25, 0)].concat();
        let single = |descriptor: u8, rest: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd, descriptor][..], rest].concat();
        for (compression, start, expected) in [
            (ZSTD, frame(27, 0), 128 << 20),
            (ZSTD, frame(31, 0), 2 << 30),
            (ZSTD, frame(24, 1), 32 << 20),
            (ZSTD, frame(10, 0), 2 << 20),
            (ZSTD, skipped, 32 << 20),
            (ZSTD, single(0x20, &[200]), 2 << 20),
            (ZSTD, single(0x60, &[0, 0]), 2 << 20),
            (ZSTD, single(0xa0, &[0, 0, 0, 1]), 16 << 20),
            (ZSTD, single(0xa3, &[9, 9, 9, 9, 0, 0, 0, 1]), 16 << 20),
            (ZSTD, single(0xe0, &[0, 0, 0, 0, 1, 0, 0, 0]), 2 << 30),
            (ZSTD, frame(27, 0)[..5].to_vec(), 2 << 20),
            (ZSTD, b"no such thing".to_vec(), 2 << 20),
            (XZ, stream(18), 8 << 20),
            (XZ, stream(28), 64 << 20),
            (XZ, stream(29), 96 << 20),
            (XZ, stream(40), 4 << 30),
            (XZ, stream(0), 8 << 20),
            (XZ, stream(28)[..14].to_vec(), 8 << 20),
        ] {
            let memory = compression.unpacking_memory(&start[..]).unwrap();
            assert!((expected..expected + (1 << 20)).contains(&memory), "{memory} for {start:x?}");
        }
    }

    #[test]
    fn large_windows_and_dictionaries_are_read_if_the_start_tells_them_and_never_damaged() {
        for (compression, small, large) in [(ZSTD, frame(21, 0), frame(28, 1)), (XZ, stream(18), stream(30))] {
            assert_eq!(unpacked(compression, &large).unwrap(), b"text");
            assert_eq!(unpacked(compression, &[&large[..], &small, &large].concat()).unwrap(), b"texttexttext");
            let refused = unpacked(compression, &[small, large].concat()).unwrap_err();
            let error = reading("f".as_ref(), refused);
            assert_eq!(error.kind(), ErrorKind::MemoryExceeded, "{error}");
            assert!(error.to_string().contains("to decompress; decompress the file first"), "{error}");
        }
    }

    #[test]
    fn a_window_that_zstd_makes_for_long_distances_is_read() {
        let text = "one line after another\n".repeat(1000).into_bytes();
        let run = || {
            let mut zstd = std::process::Command::new("zstd");
            zstd.args(["--long=28", "-c"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut child = zstd.spawn().ok()?;
            child.stdin.take()?.write_all(&text).ok()?;
            child.wait_with_output().ok()
        };
        match run() {
            Some(packed) if packed.status.success() => assert_eq!(unpacked(ZSTD, &packed.stdout).unwrap(), text),
            _ => println!("skipped: there is no program zstd, or no memory for it"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn blocks_that_are_joined_are_read_as_one(
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 1..5),
        ) {
            let blocks: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
            for compression in ALL {
                let packed = packed(compression, &blocks);
                prop_assert_eq!(unpacked(compression, &packed).unwrap(), blocks.concat());
            }
        }
    }

    #[test]
    fn the_tools_of_the_formats_understand_it_and_are_understood() {
        let text = "one line after another\n".repeat(20_000).into_bytes();
        for (compression, tool) in [(GZIP, "gzip"), (ZSTD, "zstd"), (BZIP2, "bzip2"), (XZ, "xz")] {
            let run = |argument: &str, input: &[u8]| {
                let (folder, name) = (tempfile::tempdir().unwrap(), "in");
                std::fs::write(folder.path().join(name), input).unwrap();
                let file = std::fs::File::open(folder.path().join(name)).unwrap();
                std::process::Command::new(tool).arg(argument).stdin(file).output().ok()
            };
            let Some(theirs) = run("-c", &text) else {
                println!("skipped: there is no program {tool}");
                continue;
            };
            assert_eq!(Compression::of_start(&theirs.stdout), compression);
            assert_eq!(unpacked(compression, &theirs.stdout).unwrap(), text);
            let ours = packed(compression, &[&text, b"", b"end"]);
            assert!(ours.len() < text.len() / 20);
            assert_eq!(run("-dc", &ours).unwrap().stdout, [&text[..], b"end"].concat(), "{tool}");
        }
    }

    /// Cut between members it is a shorter file, and right; anywhere else it is an error.
    #[test]
    fn what_is_cut_off_is_an_error() {
        for compression in [GZIP, ZSTD, BZIP2, XZ] {
            let first = packed(compression, &[b"some text of one member"]);
            let both = [first.clone(), packed(compression, &[b"and of another"])].concat();
            for end in 0..both.len() {
                let read = unpacked(compression, &both[..end]);
                if end == first.len() {
                    assert_eq!(read.unwrap(), b"some text of one member", "{compression:?}");
                    continue;
                }
                let error = reading("f".as_ref(), read.err().unwrap_or_else(|| panic!("{compression:?} cut at {end}")));
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{compression:?} cut at {end}: {error}");
            }
        }
    }

    #[test]
    fn what_follows_and_what_is_changed_is_an_error() {
        for compression in [GZIP, ZSTD, BZIP2, XZ] {
            let text = "the quick brown fox jumps over the lazy dog, again and again and again";
            let whole = packed(compression, &[text.as_bytes(), text.as_bytes()]);
            let twice = text.repeat(2);
            for garbage in [&b"x"[..], b"\0", b"garbage that is longer than any header", &whole[..5]] {
                let error = reading("f".as_ref(), unpacked(compression, &[&whole, garbage].concat()).unwrap_err());
                assert!(error.to_string().starts_with(&format!("f: the {} data ", compression.name())), "{error}");
            }
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut bent = whole.clone();
                    bent[at] ^= 1 << bit;
                    // A few bits mean nothing (times, flags of gzip); what is read is right then.
                    if let Ok(read) = unpacked(compression, &bent) {
                        assert_eq!(read, twice.as_bytes(), "{compression:?}, bit {bit} of byte {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn it_stays_damaged() {
        let mut bent = packed(GZIP, &[b"text"]);
        *bent.last_mut().unwrap() ^= 1;
        let mut reader = GZIP.decompress(&bent[..], 0).unwrap();
        let mut out = Vec::new();
        assert!(reader.read_to_end(&mut out).is_err());
        assert!(reader.read(&mut [0; 9]).is_err());
    }

    #[test]
    fn extensions_and_first_bytes_tell_it() {
        for (extension, compression) in Compression::EXTENSIONS.iter().zip([GZIP, ZSTD, BZIP2, XZ]) {
            assert_eq!(Compression::of_path(format!("a.csv.{extension}").as_ref()), compression);
            assert_eq!(Compression::of_start(&packed(compression, &[b"a"])), compression);
        }
        assert_eq!(Compression::of_path("gz".as_ref()), Compression::None);
        assert_eq!(Compression::of_path("A.CSV.GZ".as_ref()), GZIP);
        for text in [&b""[..], b"a,b\n1,2", b"BZh\n", b"\xfd7z"] {
            assert_eq!(Compression::of_start(text), Compression::None);
        }
    }

    #[test]
    fn it_is_shown_as_it_is_parsed() {
        for (text, shown) in [
            ("none", "none"),
            ("GZIP", "gzip(6)"),
            ("zstd(19)", "zstd(19)"),
            ("bzip2", "bzip2(9)"),
            ("xz( 0 )", "xz(0)"),
        ] {
            let parsed = Compression::parse(text).unwrap();
            assert_eq!(parsed.show(), shown);
            assert_eq!(Compression::parse(shown).unwrap(), parsed);
        }
        for (text, reason) in [
            ("gzp", "did you mean gzip"),
            ("zstd(23)", "1 to 22"),
            ("bzip2(0)", "1 to 9"),
            ("gzip(6", "parentheses"),
            ("none(1)", "no levels"),
            ("", "there is no compression"),
        ] {
            let error = Compression::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!(Compression::Xz(10).compressor().err().unwrap().kind(), ErrorKind::InvalidConfig);
    }
}
