//! Too few file handles, too little memory, and no room for the list of runs.

use std::fs;
use std::process::Command;

use etlrs_tests::{Ran, etlrs, state_home};

use super::{Bed, PROGRAM, SmallDisk, Target, faults};

/// Runs `arguments` under a limit of the shell's `ulimit`.
fn limited(bed: &Bed, limit: &str, arguments: &[String]) -> Ran {
    let mut command = Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$@\"");
    command.args(["-c", &script, "sh", PROGRAM]).args(arguments).current_dir(bed.place());
    Ran::of(&command.env("XDG_STATE_HOME", state_home()).env_remove("RUST_BACKTRACE").output().unwrap())
}

/// Loads under each of `limits`, of which some are too low: whatever comes of them, the old rows are there or the new ones, and the
/// next load goes on.
fn limit(target: Target, limits: impl IntoIterator<Item = String>, more: &[&str], codes: &[i32]) {
    let bed = Bed::with_rows(target, [6000, 9000, 100]).load("create");
    let mut arguments = bed.arguments("replace", 2);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    let (mut through, mut failed) = (0, 0);
    for limit in limits {
        let what = format!("{target:?} under ulimit {limit}");
        let ran = limited(&bed, &limit, &arguments);
        assert!(codes.contains(&ran.code), "{what}: {ran:?}");
        let versions = bed.versions(&what);
        assert_eq!(versions, if ran.code == 0 { [2] } else { [1] }, "{what}: {ran:?}");
        assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");
        if ran.code == 1 {
            assert!(ran.stderr.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{what}: {ran:?}");
        }
        *(if ran.code == 0 { &mut through } else { &mut failed }) += 1;
        let ran = bed.run("replace", 2);
        assert_eq!(ran.code, 0, "{what}: then {ran:?}");
        bed.assert_clean(&[2], &what);
        bed.reset();
    }
    eprintln!("{target:?}: {through} got through, {failed} did not");
}

/// From so few that the program cannot even start its runtime to the 32 with which it has to do its work.
#[test]
fn few_file_handles_end_a_run_cleanly() {
    let count = if faults(0) > 0 { 20 } else { 4 };
    for target in [Target::File, Target::Directory, Target::Database, Target::Text] {
        let limits = (0..count).map(|index| format!("-n {}", 32 - index * 24 / count));
        limit(target, limits, &[], &[0, 1]);
        limit(target, ["-n 32".to_owned()], &[], &[0]);
    }
}

/// What is too little for an allocation ends the process as a signal does.
#[test]
fn little_memory_ends_a_run_and_costs_no_rows() {
    let count = if faults(0) > 0 { 20 } else { 4 };
    for target in [Target::File, Target::Directory, Target::Database, Target::Text] {
        let limits = (0..count).map(|index| format!("-v {}", 60_000 + index * 140_000 / count));
        // 127 is what the loader of programs says that has no room for this one.
        limit(target, limits, &["--memory", "8MB"], &[0, 1, -6, 127]);
    }
}

#[test]
fn a_full_disk_for_the_list_of_runs_costs_no_run() {
    let bed = Bed::with_rows(Target::Text, [6000, 9000, 100]).load("create");
    let state = bed.folder.path().join("state");
    fs::create_dir(&state).unwrap();
    for pages in [1, 2, 4] {
        let Some(disk) = SmallDisk::mount(&state, pages * 4096) else { return };
        let seen = disk.seen();
        _ = fs::write(seen.join("full"), vec![0; 8 * 4096]);
        let arguments = bed.arguments("replace", 2);
        let mut command = etlrs(PROGRAM, &bed.place(), &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let ran = Ran::of(&command.env("XDG_STATE_HOME", &seen).output().unwrap());
        assert_eq!(ran.code, 0, "{pages} pages: {ran:?}");
        bed.assert_clean(&[2], "with a full disk for the list of runs");
        bed.reset();
    }
}
