//! The list of runs, going on with one of them, and forgetting it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etlrs_tests::paused::Paused;
use etlrs_tests::{KILL_AT, Ran, etlrs, write_csv};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PROGRAM;

/// A folder to work in, and a list of its own.
struct Bed(tempfile::TempDir);

impl Bed {
    fn new() -> Self {
        let bed = Self(tempfile::tempdir().unwrap());
        fs::create_dir(bed.place()).unwrap();
        write_csv(&bed.place().join("a.csv"), 20_000, 1);
        bed
    }

    fn place(&self) -> PathBuf {
        self.0.path().join("place")
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state/etlrs/runs")
    }

    fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = etlrs(PROGRAM, folder, arguments);
        command.env("XDG_STATE_HOME", self.0.path().join("state"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(&self.place(), arguments).output().unwrap())
    }

    /// A load of eight pieces that is killed when three are staged.
    fn killed(&self, arguments: &[&str]) {
        // One at a time, so that none more is.
        let arguments = [arguments, &["--threads", "1"]].concat();
        let mut command = self.command(&self.place(), &arguments);
        let ran = Ran::of(&command.env(KILL_AT, "partition-staged:3").output().unwrap());
        assert_eq!(ran.code, -9, "{ran:?}");
    }

    fn runs(&self) -> Vec<Value> {
        self.run(&["runs", "--output", "json"]).json().as_array().unwrap().clone()
    }

    /// The only run, which is in this state.
    fn only(&self, state: &str) -> String {
        let runs = self.runs();
        assert!(runs.len() == 1 && runs[0]["state"] == state, "{runs:?}");
        runs[0]["run"].as_str().unwrap().to_owned()
    }

    /// A run that waits for its standard input, and is listed.
    fn waiting(&self) -> Child {
        let mut command = self.command(&self.place(), &["copy", "-", "out.csv", "--no-progress"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // More than is looked at to find out what it is.
        let mut rows = String::from("id,x\n");
        (0..400_000).for_each(|id| rows.push_str(&format!("{id},{id}\n")));
        child.stdin.as_mut().unwrap().write_all(rows.as_bytes()).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while self.runs().is_empty() {
            assert!(Instant::now() < end, "it is not listed");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }
}

const COPY: [&str; 6] = ["copy", "a.csv", "out.parquet", "--partitions", "8", "--no-progress"];

#[test]
fn a_killed_run_is_listed_and_gone_on_with_from_anywhere() {
    let bed = Bed::new();
    assert_eq!(bed.run(&["runs"]).stdout, "no runs yet\n");
    bed.killed(&COPY);
    let run = bed.only("killed");
    let shown = bed.run(&["runs"]).stdout;
    assert!(shown.contains(&run) && shown.contains("a.csv → out.parquet"), "{shown}");
    assert!(shown.contains("`etlrs resume RUN` goes on"), "{shown}");

    // The end of its id is enough, and the folder is that of the command.
    let resume = ["resume", &run[18..], "--no-progress", "--threads", "1", "--output", "json"];
    let told = Ran::of(&bed.command(bed.0.path(), &resume).output().unwrap()).json();
    assert_eq!((&told["run"], &told["resumed"]["partitions"]), (&Value::from(run.as_str()), &Value::from(3)));
    assert_eq!(told["rows_written"], 20_000);
    assert_eq!(bed.only("done"), run);
    let one = bed.run(&["runs", &run, "--output", "json"]).json();
    assert_eq!(one["command"], "etlrs copy a.csv out.parquet --partitions 8 --no-progress --threads 1");
    assert_eq!((&one["pieces"], &one["pieces_staged"], &one["rows_written"]), (&8.into(), &8.into(), &20_000.into()));

    let ran = bed.run(&["resume", &run]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("is done since"), "{ran:?}");
    assert!(ran.stderr.contains("to load once more: etlrs copy a.csv out.parquet"), "{ran:?}");
}

#[test]
fn what_a_run_keeps_is_removed_when_it_is_forgotten() {
    let bed = Bed::new();
    for (target, left) in [("out.parquet", 1), ("out.parquet/", 1), ("sqlite:t.db#t", 1), ("out.csv", 1)] {
        bed.killed(&["copy", "a.csv", target, "--partitions", "8", "--no-progress"]);
        let run = bed.only("killed");
        let ran = bed.run(&["forget", &run]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let told = format!("removed what the run {run} had staged for {target}: 3 pieces with ");
        assert!(ran.stdout.starts_with(&told), "{ran:?}");
        assert!(bed.runs().is_empty());
        assert_eq!(fs::read_dir(bed.place()).unwrap().count(), left, "{target}");
    }
    // Of one that is not known, and of one of which nothing is left.
    let ran = bed.run(&["forget", "zzzz"]);
    assert!(ran.code == 1 && ran.stderr.contains("knows of no run \"zzzz\""), "{ran:?}");
    assert_eq!(bed.run(&["forget", "z"]).code, 2);
    bed.killed(&COPY);
    let run = bed.only("killed");
    for entry in fs::read_dir(bed.place()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "a.csv" {
            fs::remove_file(path).unwrap();
        }
    }
    let ran = bed.run(&["resume", &run]);
    assert!(ran.code == 1 && ran.stderr.contains("nothing of it is left at the target"), "{ran:?}");
    let ran = bed.run(&["forget", &run]);
    assert!(ran.code == 0 && ran.stdout.contains("nothing was left of the run"), "{ran:?}");
}

#[test]
fn a_run_at_work_is_neither_gone_on_with_nor_forgotten() {
    let bed = Bed::new();
    let mut child = bed.waiting();
    let run = bed.only("running");
    for command in ["resume", "forget"] {
        let ran = bed.run(&[command, &run]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains(&format!("is at work, as process {}", child.id())), "{ran:?}");
    }
    drop(child.stdin.take());
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    bed.only("done");
}

#[test]
fn runs_that_were_stopped_or_failed_say_why() {
    let bed = Bed::new();
    let arguments = [&COPY[..], &["--threads", "1"]].concat();
    let mut paused = Paused::at(&mut bed.command(&bed.place(), &arguments), "partition-staged:3");
    paused.signal(Signal::TERM);
    let ran = paused.go_on();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(ran.stderr.contains("3 of 8 pieces are kept; run the same again"), "{ran:?}");
    let run = bed.only("stopped");
    bed.run(&["forget", &run]);

    // A record that is no number, behind what is looked at to find out what it is.
    let mut rows = String::from("id,x\n");
    (0..400_000).for_each(|id| rows.push_str(&format!("{id},{id}\n")));
    fs::write(bed.place().join("b.csv"), rows.clone() + "seven,7\n").unwrap();
    let ran = bed.run(&[
        "copy",
        "b.csv",
        "b.parquet",
        "--no-progress",
        "--partitions",
        "4",
        "--source-option",
        "types=id:int64",
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    bed.only("failed");
    let shown = bed.run(&["runs"]).stdout;
    assert!(shown.contains(" failed: b.csv, ") && shown.contains("record 400001"), "{shown}");

    let run = bed.only("failed");
    let ran = bed.run(&["resume", &run, "--no-progress"]);
    assert!(ran.code == 1 && ran.stderr.contains("nothing of it is left at the target"), "{ran:?}");
    assert!(!shown.contains("etlrs resume"), "{shown}");
}

/// Its input is a pipe to which nobody writes, and which nobody closes.
#[test]
fn a_run_that_waits_for_what_never_comes_can_be_stopped() {
    let bed = Bed::new();
    let mut child = bed.waiting();
    let _input = child.stdin.take();
    let asked = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ran = Ran::of(&child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(ran.stderr.contains("interrupted, while something did not answer"), "{ran:?}");
    assert!(!bed.place().join("out.csv").exists());
    let ran = bed.run(&["copy", "a.csv", "out.csv", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(fs::read_dir(bed.place()).unwrap().count(), 2);
}

#[test]
fn a_run_is_not_gone_on_with_when_its_source_is_another() {
    let bed = Bed::new();
    bed.killed(&COPY);
    let run = bed.only("killed");
    write_csv(&bed.place().join("a.csv"), 20_001, 2);
    let ran = bed.run(&["resume", &run, "--no-progress"]);
    assert!(ran.code == 1 && ran.stderr.contains("cannot go on: the source has changed since"), "{ran:?}");
    assert!(ran.stderr.contains("to begin anew: etlrs copy a.csv out.parquet"), "{ran:?}");
    // The list promises no more what cannot be.
    let shown = bed.run(&["runs", &run]).stdout;
    assert!(shown.contains("  cause     the run ") && !shown.contains("  next "), "{shown}");
    // Nothing was touched, so that it can be put back.
    write_csv(&bed.place().join("a.csv"), 20_000, 1);
    let ran = bed.run(&["resume", &run, "--no-progress"]);
    assert!(ran.code == 1, "{ran:?}");
    let ran = bed.run(&["forget", &run]);
    assert!(ran.stdout.starts_with("removed what the run"), "{ran:?}");
}

#[test]
fn variables_are_not_kept_and_are_given_again() {
    let bed = Bed::new();
    let pipeline = "[source]\nuri = \"${NAME}.csv\"\npartitions = 8\n[target]\nuri = \"out.parquet\"\n";
    fs::write(bed.place().join("p.toml"), pipeline).unwrap();
    fs::rename(bed.place().join("a.csv"), bed.place().join("hunter2.csv")).unwrap();
    bed.killed(&["run", "p.toml", "--set", "NAME=hunter2", "--no-progress"]);
    let run = bed.only("killed");
    let ran = bed.run(&["resume", &run]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("the value of the variable NAME is not kept"), "{ran:?}");
    assert!(ran.stderr.contains("--set NAME=…"), "{ran:?}");
    // As the list shows it.
    let ran = bed.run(&["run", "p.toml", "--set", "NAME=***"]);
    assert!(ran.code == 2 && ran.stderr.contains("*** stands for a value that is not shown"), "{ran:?}");
    let ran = bed.run(&["resume", &run, "--set", "NAME=hunter2", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("which had staged 3 pieces"), "{ran:?}");
}

#[test]
fn the_list_is_bounded_and_its_loss_costs_no_run() {
    let bed = Bed::new();
    fs::create_dir_all(bed.state()).unwrap();
    for n in 0..205 {
        fs::write(bed.state().join(format!("{n:026}.jsonl")), "{").unwrap();
    }
    assert_eq!(bed.run(&COPY).code, 0);
    assert_eq!(fs::read_dir(bed.state()).unwrap().count(), 200);
    bed.only("done");

    let mut command = etlrs(PROGRAM, &bed.place(), &["copy", "a.csv", "b.parquet", "--no-progress"]);
    let ran = Ran::of(&command.env("XDG_STATE_HOME", "/dev/null").output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.starts_with("warning: `etlrs runs` will not list this run: "), "{ran:?}");
}

#[test]
fn one_of_several_loads_is_gone_on_with_alone() {
    let bed = Bed::new();
    let database = |name: &str| rusqlite::Connection::open(bed.place().join(name)).unwrap();
    let source = database("src.db");
    for table in ["a", "b"] {
        source
            .execute_batch(&format!(
                "CREATE TABLE {table} (id INTEGER); WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 9000)
                 INSERT INTO {table} SELECT x FROM n"
            ))
            .unwrap();
    }
    let copy = ["copy", "sqlite:src.db#*", "sqlite:dst.db#*", "--mode", "append", "--partitions", "4", "--no-progress"];
    // Killed within the second, by the count of pieces; and begun anew, which it is not when it goes on.
    let arguments = [&copy[..], &["--restart", "--threads", "1"]].concat();
    let mut command = bed.command(&bed.place(), &arguments);
    let ran = Ran::of(&command.env(KILL_AT, "partition-staged:6").output().unwrap());
    assert_eq!(ran.code, -9, "{ran:?}");
    let killed = bed.runs().into_iter().find(|run| run["state"] == "killed").unwrap();
    assert_eq!(killed["source"], "sqlite:src.db#b");
    let count = |table: &str| -> i64 {
        database("dst.db").query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    let ran = bed.run(&["resume", killed["run"].as_str().unwrap(), "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("which had staged 2 pieces"), "{ran:?}");
    assert!(ran.stderr.contains("this was one of 2 loads of its command; given once more"), "{ran:?}");
    assert_eq!((count("a"), count("b")), (9000, 9000));
    // Given once more, it finds both of them done.
    let ran = bed.run(&copy);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.stdout.matches("had published 9,000 rows, and nothing was left to do").count(), 2, "{ran:?}");
    assert_eq!((count("a"), count("b")), (9000, 9000));
}

#[test]
fn a_run_that_died_after_its_commit_is_listed_as_done_when_that_is_found() {
    let bed = Bed::new();
    let copy = ["copy", "a.csv", "sqlite:t.db#t", "--mode", "append", "--no-progress"];
    let killed = |moment: &str| {
        let ran = Ran::of(&bed.command(&bed.place(), &copy).env(KILL_AT, moment).output().unwrap());
        assert_eq!(ran.code, -9, "{ran:?}");
    };
    killed("run-published:1");
    let run = bed.only("killed");
    let ran = bed.run(&["resume", &run, "--no-progress"]);
    assert!(ran.code == 0 && ran.stdout.contains("had published 20,000 rows"), "{ran:?}");
    assert_eq!(bed.only("done"), run);
    bed.run(&["forget", &run]);

    // One that had told it is done, and could not take its mark away.
    killed("run-told:1");
    let run = bed.only("done");
    let ran = bed.run(&["forget", &run]);
    assert!(ran.stdout.starts_with(&format!("the run {run} had published 20,000 rows at sqlite:t.db#t")), "{ran:?}");
    let ran = bed.run(&copy);
    assert!(ran.code == 0 && !ran.stdout.contains("had published"), "{ran:?}");
}

#[test]
fn what_else_resume_and_runs_are_told_is_heeded() {
    let bed = Bed::new();
    bed.killed(&COPY);
    let run = bed.only("killed");
    let ran = bed.run(&["resume", &run, "--set", "target.mode=append"]);
    assert!(ran.code == 2 && ran.stderr.contains("is not one that the command left out"), "{ran:?}");
    let elsewhere = bed.0.path();
    let mut command = bed.command(elsewhere, &["resume", &run, "--report", "here.html", "--no-progress"]);
    let ran = Ran::of(&command.output().unwrap());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(elsewhere.join("here.html").exists());
    assert_eq!(bed.run(&["copy", "a.csv", "b.csv", "--no-progress"]).code, 0);
    assert_eq!(bed.run(&["runs", "--last", "1", "--output", "json"]).json().as_array().unwrap().len(), 1);
    assert_eq!(bed.runs().len(), 2);
}
