//! Kills a load at each failpoint that it gets to, and what goes on with it too.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Ran, root};

/// A load into one target in one mode, which can be done again and again.
pub trait Load {
    /// What it is, for messages.
    fn what(&self) -> String;

    /// Makes the target what it was before the load.
    fn reset(&self);

    /// Runs the load; it is killed at `kill_at`, if it gets there: [`KILL_AT`](crate::KILL_AT).
    fn run(&self, kill_at: Option<&str>) -> Ran;

    /// Whether the target has what the load brings, or else what it had before.
    ///
    /// # Panics
    /// When it has anything else.
    fn is_loaded(&self, what: &str) -> bool;

    /// # Panics
    /// When the target has not what the load brings, or when anything else is left.
    fn assert_done(&self, what: &str);
}

/// Failpoints of a load into a target whose own begin with `prefix`, as the source text of the crates has them.
pub fn failpoints_of(prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root()).unwrap() {
        let sources = entry.unwrap().path().join("src");
        if sources.is_dir() && !sources.starts_with(root().join("tests")) {
            search(&sources, &mut found);
        }
    }
    found.retain(|name| ["run-", "partition-", prefix].iter().any(|prefix| name.starts_with(prefix)));
    found
}

fn search(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path, found);
        } else {
            let text = std::fs::read_to_string(path).unwrap();
            let names = text.split("failpoint(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
            found.extend(names);
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Kills {
    /// Runs that were killed.
    pub kills: u32,
    /// Loads that found what an earlier run had staged, or had published.
    pub went_on: u32,
    /// Failpoints that some run got to.
    pub reached: BTreeSet<String>,
}

/// Kills each of `loads` at each of `points`, when it gets there the first time, and the second and the third; then kills what goes on with it at
/// another one; then lets one get through. The long form (`is_long`) does so for all of them, and the other one kills each load once
/// at each point, and goes on with two of three unharmed.
pub fn kill_at_each(loads: &[&dyn Load], points: &BTreeSet<String>, is_long: bool) -> Kills {
    let mut done = Kills::default();
    let points: Vec<&String> = points.iter().collect();
    for (index, load) in loads.iter().enumerate() {
        for (at, point) in points.iter().enumerate() {
            for time in 1..=3 {
                if time > 1 && !is_long {
                    continue;
                }
                // Of another load another one.
                let second =
                    (is_long || at % 3 == index % 3).then(|| points[(at * 7 + index * 3 + time) % points.len()]);
                kill_at(*load, &format!("{point}:{time}"), second, &mut done);
            }
        }
    }
    let missed: Vec<_> = points.into_iter().filter(|point| !done.reached.contains(*point)).collect();
    assert!(missed.is_empty(), "no load got to {missed:?}");
    assert!(done.went_on * 4 > done.kills, "nearly all began anew: {done:?}");
    done
}

/// Runs a command until it gets through, after it was killed at each of `points` and, often, at others too: `is_done` looks at
/// what came of it. In the long form also where it gets to a point for the second and the third time.
pub fn kill_and_repeat(
    points: &BTreeSet<String>,
    is_long: bool,
    reset: &dyn Fn(),
    run: &dyn Fn(Option<&str>) -> Ran,
    is_done: &dyn Fn(&str),
) -> Kills {
    let mut done = Kills::default();
    let points: Vec<&String> = points.iter().collect();
    for (at, point) in points.iter().enumerate() {
        for time in 1..=if is_long { 3 } else { 1 } {
            reset();
            let first = format!("{point}:{time}");
            // What one run leaves, the next one may put right before it is killed itself.
            let more = if is_long { [0, 1, 3][(at + time) % 3] } else { at % 2 };
            let seconds = points.iter().cycle().skip(at * 7 + time).take(more);
            let mut what = "killed".to_owned();
            for kill_at in std::iter::once(&first).chain(seconds.copied()) {
                what = format!("{what} at {kill_at}");
                let ran = run(Some(&if kill_at.contains(':') { kill_at.clone() } else { format!("{kill_at}:1") }));
                assert!([0, -9].contains(&ran.code), "{what}: {ran:?}");
                if ran.code == 0 {
                    break;
                }
                done.kills += 1;
                done.reached.extend(kill_at.split(':').next().map(str::to_owned));
            }
            let ran = run(None);
            assert_eq!(ran.code, 0, "{what}, and then on: {ran:?}");
            is_done(&format!("{what}, and then on: {ran:?}"));
        }
    }
    let missed: Vec<_> = points.into_iter().filter(|point| !done.reached.contains(*point)).collect();
    assert!(missed.is_empty(), "no run got to {missed:?}");
    done
}

/// A run told that it is done: nothing is to be done again, whatever came later.
fn is_told(ran: &Ran) -> bool {
    ran.stdout.contains("  written ") || ran.stdout.contains(" had published ")
}

fn kill_at(load: &dyn Load, first: &str, second: Option<&String>, done: &mut Kills) {
    load.reset();
    let what = format!("{} killed at {first}", load.what());
    let ran = load.run(Some(first));
    if ran.code == 0 {
        return load.assert_done(&format!("{what}, where it did not get: {ran:?}"));
    }
    assert_eq!(ran.code, -9, "{what}: {ran:?}");
    done.kills += 1;
    done.reached.extend(first.split_once(':').map(|(name, _)| name.to_owned()));
    let mut is_loaded = load.is_loaded(&what);
    assert!(is_loaded || !is_told(&ran), "{what}: it is not there: {ran:?}");
    if is_acknowledged(first) {
        return assert!(is_loaded, "{what}: it is not there: {ran:?}");
    }
    let mut what = what;
    if let Some(second) = second {
        what = format!("{what}, and then at {second}");
        let ran = load.run(Some(&format!("{second}:1")));
        assert!([0, -9].contains(&ran.code), "{what}: {ran:?}");
        let was_loaded = std::mem::replace(&mut is_loaded, load.is_loaded(&what));
        assert!(is_loaded || !was_loaded, "{what}: it is no longer there: {ran:?}");
        done.went_on += u32::from(ran.stdout.contains("  resumed "));
        if ran.code == 0 {
            return load.assert_done(&what);
        }
        done.kills += 1;
        done.reached.insert(second.clone());
        if is_acknowledged(second) {
            return assert!(is_loaded, "{what}: it is not there: {ran:?}");
        }
    }
    let ran = load.run(None);
    assert_eq!(ran.code, 0, "{what}, and then on: {ran:?}");
    assert!(!is_loaded || ran.stdout.contains(" had published "), "{what}: loaded twice? {ran:?}");
    done.went_on += u32::from(ran.stdout.contains("  resumed "));
    load.assert_done(&format!("{what}, and then on: {ran:?}"));
}

/// The mark of a run that got there is gone, so that the same command is another load.
fn is_acknowledged(point: &str) -> bool {
    let name = point.split_once(':').map_or(point, |(name, _)| name);
    name == "run-acknowledged" || name.ends_with("-forgotten")
}
