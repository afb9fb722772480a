//! Directories of files of which some are no longer what was loaded.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use etlrs::{CompareOptions, ErrorKind, OptionMap, Pipeline, ScanRequest, Unexpected, Uri, pipeline, registry};
use etlrs_tests::failpoints::{failpoints_of, kill_and_repeat};
use etlrs_tests::random::Random;
use etlrs_tests::{KILL_AT, Ran, etlrs, run, write_csv};

use super::PROGRAM;

/// The files of a directory, in the order of its manifest.
fn files(directory: &Path) -> Vec<PathBuf> {
    let manifest = fs::read_to_string(directory.join("_etlrs_manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let names = manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap());
    names.map(|name| directory.join(name)).collect()
}

fn inodes(files: &[PathBuf]) -> Vec<u64> {
    files.iter().map(|file| fs::metadata(file).unwrap().ino()).collect()
}

#[test]
fn only_the_files_that_differ_are_loaded_again_and_in_their_place() {
    for target in ["t.parquet/", "t.csv/", "t.ndjson/"] {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
        write_csv(&folder.path().join("s.csv"), 6_000, 1);
        let ran = run(&["copy", "s.csv", target, "--partitions", "6", "--no-progress"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let ran = run(&["copy", target, "before.csv", "--no-progress"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let directory = folder.path().join(target);
        let before = files(&directory);
        let inodes_before = inodes(&before);
        fs::copy(&before[4], &before[2]).unwrap();

        let ran = run(&["verify", "s.csv", target, "--partitions", "6"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        let plan = "--repair --remove-unexpected loads 1 piece again, in place of 1 of 6 files, and ";
        assert!(ran.stderr.contains(plan), "{target}: {ran:?}");
        let ran = run(&["verify", "s.csv", target, "--partitions", "6", "--repair"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("rows that only the target has would go with files that are replaced"), "{ran:?}");
        assert_eq!(inodes(&files(&directory)), inodes_before);
        let ran = run(&["verify", "s.csv", target, "--partitions", "6", "--repair", "--remove-unexpected"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains("  note      5 of 6 files of the target stay as they are\n"), "{ran:?}");
        assert!(ran.stdout.contains(", 1 piece on 1 thread\n") && !ran.stdout.ends_with("[]\n"), "{ran:?}");

        let after = files(&directory);
        for at in 0..6 {
            assert_eq!(after[at] == before[at], at != 2, "{at}: {after:?}");
            assert_eq!(inodes(&after)[at] == inodes_before[at], at != 2);
        }
        let left = fs::read_dir(&directory).unwrap().count();
        assert_eq!(left, 7, "the old file is gone");
        // In the order that they had.
        let ran = run(&["copy", target, "after.csv", "--no-progress"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(text("after.csv") == text("before.csv"));
        let ran = run(&["verify", "s.csv", target, "--repair"]);
        assert!(ran.code == 0 && !ran.stdout.contains("written"), "{ran:?}");
    }
}

/// A source of many short pieces, and a directory of them.
fn of_pieces(folder: &Path, rows: usize) -> PathBuf {
    let mut text = "id,note\n".to_owned();
    // Some rows are equal.
    (0..rows).for_each(|row| writeln!(text, "{},n{}", row / 2, row % 5 / 2).unwrap());
    fs::write(folder.join("s.csv"), text).unwrap();
    let ran = run(PROGRAM, folder, &["copy", "s.csv", "t.csv/", "--partitions", "8", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    folder.join("t.csv")
}

fn rows(paths: &[PathBuf]) -> BTreeMap<String, usize> {
    let mut rows = BTreeMap::new();
    for path in paths {
        let text = fs::read_to_string(path).unwrap();
        text.lines().skip(1).for_each(|row| *rows.entry(row.to_owned()).or_insert(0) += 1);
    }
    rows
}

#[test]
fn whatever_happened_to_files_they_have_the_rows_again() {
    let folder = tempfile::tempdir().unwrap();
    let directory = of_pieces(folder.path(), 400);
    let expected = rows(&[folder.path().join("s.csv")]);
    let mut random = Random::new();
    let mut kept = 0;
    for round in 0..40 {
        let mut what = format!("seed {}, round {round}:", random.seed);
        let all = files(&directory);
        for _ in 0..=random.below(3) {
            let [one, other] = [&all[random.below(all.len())], &all[random.below(all.len())]];
            let read = |path: &PathBuf| {
                let text = fs::read_to_string(path).unwrap();
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            };
            let write = |path: &PathBuf, lines: &[String]| fs::write(path, lines.join("\n") + "\n").unwrap();
            let mut lines = read(one);
            let at = if lines.len() > 1 { 1 + random.below(lines.len() - 1) } else { 1 };
            let change = random.below(7);
            what = format!("{what} {change} of {}", one.display());
            match change {
                0 if at < lines.len() => _ = lines.remove(at),
                1 if at < lines.len() => lines.push(lines[at].clone()),
                2 if at < lines.len() => lines[at].push('x'),
                3 => lines.truncate(1),
                4 => lines.push("7777,new".to_owned()),
                5 if one != other && at < lines.len() => {
                    // Moved: the same rows, and two files that are no pieces.
                    let moved = lines.remove(at);
                    let mut others = read(other);
                    others.push(moved);
                    write(other, &others);
                }
                _ => {
                    lines = read(other);
                }
            }
            write(one, &lines);
        }
        let is_equal = rows(&files(&directory)) == expected;
        let arguments = ["verify", "s.csv", "t.csv/", "--partitions", "8"];
        let ran = run(PROGRAM, folder.path(), &arguments);
        assert_eq!(ran.code == 0, is_equal, "{what}: {ran:?}");
        let ran = run(PROGRAM, folder.path(), &[&arguments[..], &["--repair", "--remove-unexpected"]].concat());
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
        assert_eq!(rows(&files(&directory)), expected, "{what}");
        kept += files(&directory).iter().filter(|file| all.contains(file)).count();
    }
    assert!(kept > 100, "of 320 files {kept} stayed");
}

#[test]
fn a_source_that_is_cut_in_another_way_is_loaded_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let directory = of_pieces(folder.path(), 400);
    let before = files(&directory);
    let all = rows(&before);
    fs::copy(&before[3], &before[2]).unwrap();
    let repair = ["verify", "s.csv", "t.csv/", "--partitions", "3", "--repair", "--remove-unexpected"];
    let ran = run(PROGRAM, folder.path(), &repair);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("  note      0 of 8 files of the target stay as they are\n"), "{ran:?}");
    assert_eq!((files(&directory).len(), rows(&files(&directory))), (3, all));
    // Nothing is left of the source: then one file without rows.
    fs::write(folder.path().join("s.csv"), "id,note\n").unwrap();
    let ran = run(PROGRAM, folder.path(), &["verify", "s.csv", "t.csv/", "--repair", "--remove-unexpected"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(files(&directory).len() == 1 && rows(&files(&directory)).is_empty());
}

#[test]
fn files_too_many_go_without_reading_anything() {
    let folder = tempfile::tempdir().unwrap();
    let directory = of_pieces(folder.path(), 400);
    let before = rows(&files(&directory));
    fs::write(folder.path().join("more.csv"), "id,note\n7777,x\n").unwrap();
    let ran = run(PROGRAM, folder.path(), &["copy", "more.csv", "t.csv/", "--mode", "append", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(files(&directory).len(), 9);
    let repair = ["verify", "s.csv", "t.csv/", "--partitions", "8", "--repair", "--remove-unexpected"];
    // Without, another's rows stay.
    let ran = run(PROGRAM, folder.path(), &repair[..6]);
    assert!(ran.code == 1 && files(&directory).len() == 9, "{ran:?}");
    let ran = run(PROGRAM, folder.path(), &repair);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("  note      8 of 9 files of the target stay as they are\n"), "{ran:?}");
    assert_eq!(rows(&files(&directory)), before);
}

#[test]
fn rows_that_changed_are_repaired_by_their_key_and_nothing_else_goes() {
    for target in ["t.parquet/", "t.csv/", "t.ndjson/"] {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
        write_csv(&folder.path().join("s.csv"), 6_000, 1);
        let all = fs::read_to_string(folder.path().join("s.csv")).unwrap();
        // With one row that is another, and one that is missing.
        let mut lines: Vec<_> = all.lines().map(str::to_owned).collect();
        let id = lines[3_000].split(',').next().unwrap().to_owned();
        lines[3_000] = lines[3_000].replacen(&format!("{id},"), &format!("{id},1"), 1);
        fs::write(folder.path().join("s.csv"), lines.join("\n") + "\n").unwrap();
        let ran = run(&["copy", "s.csv", target, "--partitions", "6", "--no-progress"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        fs::write(folder.path().join("s.csv"), &all).unwrap();

        let ran = run(&["verify", "s.csv", target, "--partitions", "6", "--key", "id"]);
        assert!(ran.code == 1 && ran.stdout.contains("  differ    1 row changed\n"), "{ran:?}");
        assert!(ran.stderr.contains("; --repair loads "), "{ran:?}");
        let ran = run(&["verify", "s.csv", target, "--partitions", "6", "--key", "id", "--repair"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.stdout.contains(" of 6 files of the target stay as they are\n"), "{ran:?}");
    }
}

#[test]
fn columns_that_were_not_compared_are_not_lost() {
    for target in ["t.parquet/", "t.csv/", "t.ndjson/"] {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
        write_csv(&folder.path().join("s.csv"), 600, 1);
        let ran = run(&["copy", "s.csv", target, "--no-progress"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        write_csv(&folder.path().join("s.csv"), 700, 1);
        let before = files(&folder.path().join(target));
        let ran = run(&["verify", "s.csv", target, "--columns", "id", "--repair", "--remove-unexpected"]);
        assert!(ran.code == 1 && ran.stderr.contains("the target has columns that were not compared ("), "{ran:?}");
        assert_eq!(files(&folder.path().join(target)), before);
    }
}

#[test]
fn a_directory_that_keeps_positions_is_not_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    let insert = |rows: std::ops::Range<i64>| {
        let connection = rusqlite::Connection::open(folder.path().join("s.db")).unwrap();
        connection.execute_batch("CREATE TABLE IF NOT EXISTS s (id INTEGER PRIMARY KEY, v TEXT NOT NULL)").unwrap();
        rows.for_each(|row| _ = connection.execute("INSERT INTO s VALUES (?, 'x')", [row]).unwrap());
    };
    insert(0..100);
    let ran = run(&["copy", "sqlite:s.db#s", "t.csv/", "--source-option", "cursor=id", "--mode", "append"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    insert(100..150);
    for more in [&[][..], &["--source-option", "cursor=id"]] {
        let repair = ["verify", "sqlite:s.db#s", "t.csv/", "--repair", "--remove-unexpected"];
        let ran = run(&[&repair[..], more].concat());
        assert!(ran.code == 1 && ran.stderr.contains("the directory keeps how far its sources were read"), "{ran:?}");
    }
    let ran = run(&["copy", "sqlite:s.db#s", "t.csv/", "--source-option", "cursor=id", "--mode", "append"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(run(&["verify", "sqlite:s.db#s", "t.csv/"]).code, 0);
}

#[test]
fn files_of_another_form_are_not_mixed_with() {
    let folder = tempfile::tempdir().unwrap();
    let directory = of_pieces(folder.path(), 400);
    let before = files(&directory);
    fs::copy(&before[4], &before[2]).unwrap();
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
    let damaged: Vec<_> = before.iter().map(read).collect();
    let repair = [
        "verify",
        "s.csv",
        "t.csv/",
        "--partitions",
        "8",
        "--repair",
        "--remove-unexpected",
        "--target-option",
        "delimiter=;",
    ];
    let ran = run(PROGRAM, folder.path(), &repair);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(files(&directory).iter().map(read).collect::<Vec<_>>(), damaged, "{ran:?}");
}

#[test]
fn pieces_that_depend_on_each_other_are_not_loaded_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    let directory = of_pieces(folder.path(), 400);
    let text = "[source]\nuri = \"s.csv\"\n[[transform]]\ntype = \"deduplicate\"\nkeys = [\"id\"]\n
        [target]\nuri = \"t.csv/\"\nmode = \"replace\"\n";
    fs::write(folder.path().join("p.toml"), text).unwrap();
    let ran = run(&["run", "p.toml", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let first = files(&directory).remove(0);
    fs::write(&first, "id,note\n").unwrap();
    let ran = run(&["verify", "p.toml", "--repair"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let why = "a transform looks at several pieces, so single pieces cannot be loaded again";
    assert!(ran.stderr.contains(why), "{ran:?}");
    assert_eq!(fs::read_to_string(first).unwrap(), "id,note\n");
}

/// Does `change` between the comparison and the repair.
fn repaired_after(folder: &Path, change: impl Fn()) -> etlrs::Result<()> {
    let registry = registry();
    let path = |name: &str| Uri::from(format!("{}/{name}", folder.display()).as_str());
    let (source, target, none) = (path("s.csv"), path("t.csv/"), OptionMap::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let pipeline: Pipeline = pipeline(&registry, (&source, &none), (&target, &none))?
            .request(ScanRequest::all().partitions(8))
            .build()?;
        let target = registry.find(&target)?.extractor(&target, &none)?;
        let found = pipeline.compare(target, &CompareOptions::default()).await?;
        assert!(!found.is_equal());
        change();
        pipeline.repair(&found, Unexpected::Remove).await.map(drop)
    })
}

#[test]
fn what_changed_since_it_was_compared_is_not_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let directory = of_pieces(folder.path(), 400);
    let all = files(&directory);
    fs::copy(&all[4], &all[2]).unwrap();
    for changed in [&all[0], &folder.path().join("s.csv")] {
        let before = fs::read_to_string(changed).unwrap();
        let now = format!("{before}8888,y\n");
        let error = repaired_after(folder.path(), || fs::write(changed, &now).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SourceChanged, "{error}");
        assert!(error.to_string().contains("compare again"), "{error}");
        assert_eq!(files(&directory), all);
        assert_eq!(fs::read_to_string(changed).unwrap(), now);
        fs::write(changed, before).unwrap();
    }
    repaired_after(folder.path(), || {}).unwrap();
    assert_eq!(rows(&files(&directory)), rows(&[folder.path().join("s.csv")]));
}

#[test]
fn a_repair_that_is_killed_is_done_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let directory = of_pieces(folder.path(), 400);
    let expected = rows(&files(&directory));
    let reset = || {
        let all = files(&directory);
        fs::copy(&all[4], &all[2]).unwrap();
        fs::write(&all[6], "id,note\n").unwrap();
    };
    let repair = |kill_at: Option<&str>| {
        let arguments = ["verify", "s.csv", "t.csv/", "--partitions", "8", "--repair", "--remove-unexpected"];
        let mut command = etlrs(PROGRAM, folder.path(), &arguments);
        command.envs(kill_at.map(|point| (KILL_AT, point)));
        Ran::of(&command.output().unwrap())
    };
    let mut points = failpoints_of("files-");
    // Nothing is kept to go on with, so moments of that do not come.
    let of_ledger = ["ledger-written", "part-written", "taken-over", "publishing", "forgetting"];
    let is_told = |point: &str| ["run-told", "run-acknowledged"].contains(&point);
    points.retain(|point| !is_told(point) && !of_ledger.iter().any(|of| point.strip_prefix("files-") == Some(of)));
    let done = |what: &str| assert_eq!(rows(&files(&directory)), expected, "{what}");
    let kills = kill_and_repeat(&points, std::env::var_os("ETLRS_FAULTS").is_some(), &reset, &repair, &done);
    eprintln!("repairs: {} kills", kills.kills);
    // What is left is removed by the next one.
    reset();
    assert_eq!(repair(None).code, 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
