//! Files in memory.
//!
//! Design note. Reading a mapped page that the file no longer has, because somebody cut it off, is no error of a call but
//! the signal `SIGBUS`, which ends a process without a word. So whoever maps a file here has a handler: it finds the mapping
//! that the address belongs to, puts zeros in place of the rest of it, and notes that it did. The reader goes on, over
//! zeros, and has to ask [`Mapping::check_whole`] before it believes what it read. (A file that is cut off within its last page
//! reads as zeros there without a fault; that the file changed is seen when the run asks for its fingerprint.) A fault elsewhere is none of ours: the action
//! that was there before is put back, and gets the fault when the instruction is tried again.
//!
//! The handler does only what a signal handler may: atomics, `mmap`, `sigaction`. Ranges are therefore in a table of fixed
//! size; without room in it a file is not mapped.
//!
//! This is the one module with unsafe code. Its reason is the option `memory_mapping`; the figures for and against are in
//! ARCHITECTURE.md.
#![allow(unsafe_code, reason = "mapping files and handling a signal is what it is for")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use etlrs_core::Result;
use memmap2::{Mmap, MmapOptions};

use crate::shortened;

/// Files that can be mapped at a time.
const SLOTS: usize = 1024;
/// A slot that is taken and has no range yet.
const TAKEN: usize = 1;

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// A range of addresses in which a fault is ours.
struct Slot {
    /// 0: free.
    start: AtomicUsize,
    end: AtomicUsize,
    /// There was a fault.
    broken: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self { start: AtomicUsize::new(0), end: AtomicUsize::new(0), broken: AtomicBool::new(false) }
    }
}

/// The part of a file that was mapped.
#[derive(Debug)]
pub struct Mapping {
    // Before the map, so that a range is given up while nothing else can be there.
    watch: Watch,
    map: Mmap,
}

impl Mapping {
    /// Of `range` in `file`; `None` if it cannot be mapped, and so has to be read.
    pub(crate) fn new(file: &File, range: Range<u64>) -> Option<Self> {
        let length = usize::try_from(range.end.checked_sub(range.start)?).ok().filter(|&length| length > 0)?;
        handle_faults().ok()?;
        // SAFETY: The bytes may change while they are read, as those of any file may; they are only looked at as bytes. That
        // pages may be gone is what the handler is for.
        let map = unsafe { MmapOptions::new().offset(range.start).len(length).map(file) }.ok()?;
        // Worth something only if it is read in order, which is what readers do.
        let _ = map.advise(memmap2::Advice::Sequential);
        let watch = Watch::over(map.as_ptr() as usize, map.len())?;
        Some(Self { watch, map })
    }

    /// What is mapped. Zeros where the file has become shorter.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Whether all that was read was there.
    pub fn is_whole(&self) -> bool {
        !self.watch.0.broken.load(Ordering::Acquire)
    }

    /// Refuses what was read of a file that became shorter meanwhile.
    ///
    /// # Errors
    /// `SourceChanged`.
    pub fn check_whole(&self) -> Result<()> {
        if self.is_whole() { Ok(()) } else { Err(shortened()) }
    }
}

/// A range in the table, for as long as this is.
#[derive(Debug)]
struct Watch(&'static Slot);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({})", self.broken.load(Ordering::Relaxed))
    }
}

impl Watch {
    fn over(start: usize, length: usize) -> Option<Self> {
        let free = |slot: &&Slot| slot.start.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let slot = TABLE.iter().find(free)?;
        slot.broken.store(false, Ordering::Relaxed);
        slot.end.store(start + length, Ordering::Release);
        slot.start.store(start, Ordering::Release);
        Some(Self(slot))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Release);
    }
}

/// What was done about `SIGBUS` before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Sets the handler, once.
fn handle_faults() -> io::Result<()> {
    static DONE: OnceLock<i32> = OnceLock::new();
    let code = *DONE.get_or_init(|| {
        // SAFETY: The structures are those of this platform's libc, all zeros are valid values of them, and the handler
        // has the signature that SA_SIGINFO asks for. The action before is kept before ours can be called.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 {
                return io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
            }
            let _ = BEFORE.set(before);
            let mut ours: libc::sigaction = std::mem::zeroed();
            ours.sa_sigaction = on_fault as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut ours.sa_mask);
            if libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) != 0 {
                return io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
            }
        }
        0
    });
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

extern "C" fn on_fault(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: With SA_SIGINFO the system passes a valid structure.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &TABLE {
        let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
        // The slot may be given up and taken by others meanwhile; the range of the mapping that is being read stays.
        let is_one_range = slot.start.load(Ordering::Acquire) == start;
        if start > TAKEN && is_one_range && (start..end).contains(&address) {
            // Before anybody can see the zeros.
            slot.broken.store(true, Ordering::Release);
            if put_zeros(address, end) {
                return;
            }
        }
    }
    if let Some(before) = BEFORE.get() {
        // SAFETY: It is the action that the system gave us.
        unsafe { libc::sigaction(libc::SIGBUS, before, std::ptr::null_mut()) };
    }
}

/// Puts zeros in place of the pages from that of `address` to `end`.
fn put_zeros(address: usize, end: usize) -> bool {
    // SAFETY: The pages are those of a mapping of ours, which is there as long as its slot has a range; nothing but the
    // mapping is in them, for mappings are of whole pages. They are unmapped with it.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
        let start = address - address % page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        libc::mmap(start as *mut _, end - start, libc::PROT_READ, flags, -1, 0) != libc::MAP_FAILED
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn file(length: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&(0..length).map(|n| n as u8 | 1).collect::<Vec<_>>()).unwrap();
        file
    }

    #[test]
    fn a_part_of_a_file_is_what_reading_gives() {
        let file = file(100_000);
        for range in [0..100_000, 1..2, 4095..4097, 5000..99_999] {
            let mapping = Mapping::new(&file, range.clone()).unwrap();
            let expected: Vec<u8> = range.map(|n| n as u8 | 1).collect();
            assert_eq!(mapping.bytes(), expected);
            assert!(mapping.is_whole());
        }
        assert!(Mapping::new(&file, 5..5).is_none());
    }

    #[test]
    fn what_is_cut_off_is_zeros_and_told() {
        let file = file(100_000);
        let (mapping, other) = (Mapping::new(&file, 10..90_000).unwrap(), Mapping::new(&file, 0..8192).unwrap());
        file.set_len(8192).unwrap();
        let bytes = mapping.bytes();
        assert!(bytes[..8182].iter().all(|&byte| byte != 0) && mapping.is_whole());
        assert!(bytes[8182..].iter().all(|&byte| byte == 0));
        assert!(!mapping.is_whole());
        assert!(other.bytes().iter().all(|&byte| byte != 0) && other.is_whole());
        // The slot is as new for the next.
        drop(mapping);
        assert!(Mapping::new(&file, 0..8192).unwrap().is_whole());
    }

    #[test]
    fn a_fault_elsewhere_still_ends_the_process() {
        const CHILD: &str = "ETLRS_TEST_FAULT";
        if std::env::var_os(CHILD).is_some() {
            drop(Mapping::new(&file(10), 0..10).unwrap());
            let cut = file(10_000);
            // SAFETY: A mapping that nobody watches, read where its file ends: it is the fault that is wanted.
            let map = unsafe { Mmap::map(&cut) }.unwrap();
            cut.set_len(0).unwrap();
            std::process::exit(i32::from(map[5000]));
        }
        let name = "mapping::tests::a_fault_elsewhere_still_ends_the_process";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let status = child.args(["--exact", name]).env(CHILD, "1").output().unwrap().status;
        assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
    }
}
