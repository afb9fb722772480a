//! What formats of text share, whose files are one record behind another: CSV and JSON.
//!
//! Reading: [`Input`] is where text comes from, in UTF-8 whatever it is stored as, [`pieces`] cuts files, and [`value`] makes
//! values of text.
//! Writing: [`Output`] is what text is appended to, by the functions of [`number`] among others; a format that is an
//! [`Encode`] has its rows packed into blocks, and those written to one file ([`SharedFile`]) or a directory of files
//! ([`SharedDirectory`]) by the writers of many partitions of a load ([`TextSession`]).

mod block;
mod directory;
mod encode;
mod encoding;
mod input;
mod joined;
pub mod number;
mod old;
mod origin;
mod output;
mod piece;
mod sample;
mod session;
mod single;
pub mod value;

pub use directory::SharedDirectory;
pub use encode::{Encode, Encoded, Preceding};
pub use encoding::{Encoding, Transcoder};
pub use input::{Handle, Input, Once, Purpose, Raw, unpacking_memory};
pub use joined::JoinedScan;
pub use old::OldFile;
pub use origin::{Origin, Place};
pub use output::{Output, SLOT};
pub use piece::{Extent, Piece, pieces};
pub use sample::Sample;
pub use session::{Old, StagedText, TextSession, check_read_back};
pub use single::{Closed, SharedFile};
