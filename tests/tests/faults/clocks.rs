//! The clock of the machine is set while the program runs, and between a run that is killed and the one that goes on: nothing may hang
//! on it. Timeouts go by a clock that nobody sets, and which run is the newest at a target counts only where there are several.

use std::path::{Path, PathBuf};

use super::*;

/// What changes the time that a process is told.
fn library() -> PathBuf {
    let folders =
        fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"));
    let there = folders.chain([PathBuf::from("/usr/lib/faketime/libfaketime.so.1")]).find(|path| path.exists());
    there.expect("install the package libfaketime, as ./scripts/test does")
}

/// The clock is off by this.
fn set(clock: &Path, offset: &str) {
    let anew = clock.with_extension("anew");
    fs::write(&anew, offset).unwrap();
    fs::rename(anew, clock).unwrap();
}

fn jump(target: Target) {
    let mut random = Random::new();
    let seed = random.seed;
    let bed = Bed::loaded(target);
    let duration = bed.duration("append", 2);
    let clock = bed.folder.path().join("clock");
    let library = library();
    let command = || {
        let arguments = bed.arguments("append", 2);
        let mut command = etlrs(PROGRAM, &bed.place(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
        // Files keep their times, and so does the clock that nobody sets.
        command.env("NO_FAKE_STAT", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    };
    let offsets = ["+0d", "-1h", "+1h", "-400d", "+3650d", "-20000d"];
    let count = faults(6);
    let mut went_on = 0;
    for index in 0..count {
        bed.reset();
        let what = format!("{target:?}, seed {seed}, jump {index}");
        let mut before = "+0d";
        // One that is killed when the clock was set, and one that goes on while it is.
        let mut runs = Vec::new();
        for is_killed in [true, false] {
            set(&clock, before);
            let running = Running::start(&mut command());
            let at = moment(&mut random, index, count, duration);
            std::thread::sleep(at / 2);
            before = offsets[random.below(offsets.len())];
            set(&clock, before);
            if is_killed {
                std::thread::sleep(at / 2);
                running.signal(Signal::KILL);
            }
            let ran = running.end(&what);
            let is_told = ran.stdout.contains("  written ");
            runs.push(ran);
            if is_killed && is_told {
                break;
            }
        }
        let last = &runs[runs.len() - 1];
        assert!(last.code == 0 || last.stdout.contains("  written "), "{what}: {runs:?}");
        went_on += u32::from(last.stdout.contains("  resumed "));
        assert_eq!(bed.versions(&what), [1, 2], "{what}: {runs:?}");
    }
    eprintln!("{target:?}: {count} jumps of the clock, {went_on} runs went on");
}

each_target!(a_clock_that_is_set_changes_nothing, jump);
