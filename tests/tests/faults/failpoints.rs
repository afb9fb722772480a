//! The program is killed at every failpoint of a local target.

use etlrs_tests::failpoints::{Load, failpoints_of, kill_at_each};
use etlrs_tests::{KILL_AT, Ran, etlrs};

use super::{Bed, PROGRAM, ROWS, Target, faults};

struct LocalLoad {
    bed: Bed,
    mode: &'static str,
    /// Versions before the load, and after it.
    versions: [&'static [u64]; 2],
}

impl Load for LocalLoad {
    fn what(&self) -> String {
        format!("{} {:?}", self.mode, self.bed.target)
    }

    fn reset(&self) {
        self.bed.reset();
    }

    fn run(&self, kill_at: Option<&str>) -> Ran {
        let arguments = self.bed.arguments(self.mode, 2);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = etlrs(PROGRAM, &self.bed.place(), &arguments);
        command.envs(kill_at.map(|point| (KILL_AT, point)));
        Ran::of(&command.output().unwrap())
    }

    fn is_loaded(&self, what: &str) -> bool {
        let versions = self.bed.versions(what);
        assert!(self.versions.contains(&versions.as_slice()), "{what}: versions {versions:?}");
        versions == self.versions[1]
    }

    fn assert_done(&self, what: &str) {
        self.bed.assert_clean(self.versions[1], what);
    }
}

fn kill(target: Target) {
    // What is reached is the same with few rows.
    let bed = || Bed::with_rows(target, ROWS.map(|rows| rows / 10));
    let mut loads = vec![
        LocalLoad { bed: bed(), mode: "create", versions: [&[], &[2]] },
        LocalLoad { bed: bed().load("create"), mode: "append", versions: [&[1], &[1, 2]] },
        LocalLoad { bed: bed().load("create"), mode: "replace", versions: [&[1], &[2]] },
    ];
    let prefix = match target {
        Target::Database => {
            loads.push(LocalLoad { bed: bed(), mode: "merge", versions: [&[], &[2]] });
            loads.push(LocalLoad { bed: bed().load("merge"), mode: "merge", versions: [&[1], &[2]] });
            "sqlite-"
        }
        _ => "files-",
    };
    let mut points = failpoints_of(prefix);
    match target {
        // One file gets its place by a rename, and keeps no list.
        Target::File | Target::Text => points.retain(|name| !["files-exchanged", "files-linked"].contains(&&**name)),
        Target::Directory | Target::Database => {}
    }
    let loads: Vec<_> = loads.iter().map(|load| load as &dyn Load).collect();
    let done = kill_at_each(&loads, &points, faults(0) > 0);
    eprintln!("{target:?}: {} failpoints, {} kills, {} loads went on", points.len(), done.kills, done.went_on);
}

#[test]
fn file() {
    kill(Target::File);
}

#[test]
fn database() {
    kill(Target::Database);
}

#[test]
fn directory() {
    kill(Target::Directory);
}

#[test]
fn text() {
    kill(Target::Text);
}
