//! The program as its users meet it: what it says about wrong input, what it leaves behind, what it prints, how it ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod repaired;
mod resumed;
mod runs;
mod verified;
mod watched;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use etlrs_tests::{Ran, etlrs, flights, root, run};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");

/// Arguments as in a shell: apart at spaces, but for what is between backticks.
fn words(line: &str) -> Vec<&str> {
    let quoted = line.split('`').enumerate();
    quoted.flat_map(|(i, part)| if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }).collect()
}

fn run_line(folder: &Path, line: &str) -> Ran {
    run(PROGRAM, folder, &words(line))
}

fn works(folder: &Path, line: &str) -> Ran {
    let ran = run_line(folder, line);
    assert_eq!(ran.code, 0, "{line}: {ran:?}");
    assert_eq!(ran.stderr, "", "{line}");
    ran
}

/// Every file and folder below `folder`, the hidden ones too; files with what is in them.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut tree = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
                tree.insert(path, None);
            } else {
                let content = fs::read(&path).unwrap();
                tree.insert(path, Some(content));
            }
        }
    }
    tree
}

fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

/// A folder with `ok.csv`: two integer columns, two rows.
fn folder_with_csv() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("ok.csv", b"a,b\n1,2\n3,4\n")]);
    folder
}

/// What is wrong with how `line` was refused: it must end with `code`, say one sentence that holds all `needles`, and
/// leave the folder as it was.
fn faults(folder: &Path, case: &(&str, i32, &[&str])) -> Vec<String> {
    let before = tree(folder);
    let mut faults = faults_of_sentence(folder, case);
    if before != tree(folder) {
        faults.push(format!("{}\n    the folder is not as it was", case.0));
    }
    faults
}

fn faults_of_sentence(folder: &Path, (line, code, needles): &(&str, i32, &[&str])) -> Vec<String> {
    let ran = run_line(folder, line);
    let mut faults = Vec::new();
    let mut check = |good: bool, fault: &str| {
        if !good {
            faults.push(format!("{line}\n    {fault}\n    exit code {}, standard error {:?}", ran.code, ran.stderr));
        }
    };
    check(ran.code == *code, &format!("the exit code should be {code}"));
    check(ran.stdout.is_empty(), "there is something on standard output");
    let sentence = ran.stderr.strip_prefix("error: ").and_then(|rest| rest.strip_suffix('\n'));
    check(sentence.is_some_and(|sentence| !sentence.contains('\n')), "it is not one line that begins with `error: `");
    for needle in *needles {
        check(sentence.is_some_and(|sentence| sentence.contains(needle)), &format!("it lacks {needle:?}"));
    }
    for foreign in ["panicked", "RUST_BACKTRACE", "backtrace", "Some(", "Err(", "  "] {
        check(!ran.stderr.contains(foreign), &format!("it has {foreign:?}"));
    }
    faults
}

/// All of `cases` are refused as they should be: a command line, the exit code, what the sentence holds.
fn refused(folder: &Path, cases: &[(&str, i32, &[&str])]) {
    let faults: Vec<_> = cases.iter().flat_map(|case| faults(folder, case)).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn csv_that_cannot_be_read_is_refused_with_the_place() {
    let folder = folder_with_csv();
    let folder = folder.path();
    write(
        folder,
        &[
            ("empty.csv", b""),
            ("ragged.csv", b"a,b\n1,2\n3\n"),
            ("wide.csv", b"a,b\n\"1\n\",2\n3,4,5\n"),
            ("latin1.csv", b"a,b\nx,2\n3,caf\xe9\n"),
            ("quote.csv", b"a,b\n\"1,2\n3,4\n"),
        ],
    );
    fs::create_dir(folder.join("folder.csv")).unwrap();
    refused(
        folder,
        &[
            ("copy no.csv o.parquet", 1, &["no.csv", "no such file"]),
            ("copy empty.csv o.parquet", 1, &["empty.csv", "the file is empty", "header"]),
            (
                "copy ragged.csv o.parquet",
                1,
                &["ragged.csv, record 2, line 3, byte 8: ", "1 field", "the header has 2"],
            ),
            ("copy wide.csv o.parquet", 1, &["wide.csv, record 2, line 4, byte 11: ", "3 fields", "the header has 2"]),
            (
                "copy latin1.csv o.parquet",
                1,
                &["latin1.csv, record 2, line 3, byte 13, column \"b\": ", "not UTF-8", "encoding"],
            ),
            ("copy quote.csv o.parquet", 1, &["quote.csv, record 1, line 2, byte 4", "quote"]),
            ("copy folder.csv o.parquet", 1, &["folder.csv", "the directory has no file that ends in .csv or .tsv"]),
            ("copy ragged.csv sqlite:o.db#t", 1, &["ragged.csv, record 2"]),
            ("copy ragged.csv out.parquet/", 1, &["ragged.csv, record 2"]),
            ("inspect no.csv", 1, &["no.csv", "no such file"]),
            ("plan no.csv o.parquet", 1, &["no.csv", "no such file"]),
        ],
    );
}

#[test]
fn a_header_alone_is_a_table_without_rows() {
    let folder = folder_with_csv();
    let folder = folder.path();
    write(folder, &[("header.csv", b"a,b\n")]);
    for target in ["o.parquet", "sqlite:o.db#t", "out.parquet/", "o.csv"] {
        let copied = works(folder, &format!("copy header.csv {target} --output json")).json();
        assert_eq!(copied["rows_written"], 0, "{target}");
        let seen = works(folder, &format!("inspect {target} --output json")).json();
        assert_eq!(names(&seen), ["a", "b"], "{target}");
        assert_eq!(seen["first_rows"], serde_json::json!([]), "{target}");
    }
}

#[test]
fn csv_is_written_as_the_name_and_the_options_say() {
    let folder = folder_with_csv();
    let folder = folder.path();
    write(folder, &[("text.csv", "a,b\n\"x,\ty\",\n\"\",2013-01-31\n".as_bytes())]);
    works(folder, "copy text.csv text.parquet");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    works(folder, "copy text.parquet o.csv --verify full");
    assert_eq!(read("o.csv"), "a,b\n\"x,\ty\",\n\"\",2013-01-31\n");
    works(folder, "copy text.parquet o.tsv --target-option null_value=NA --verify full");
    assert_eq!(read("o.tsv"), "a\tb\n\"x,\ty\"\tNA\n\"\"\t2013-01-31\n");
    works(folder, "copy text.parquet o.tsv --mode append --target-option null_value=NA --verify full");
    assert_eq!(read("o.tsv").lines().count(), 5);
    works(folder, "copy text.parquet dir.csv/ --verify full");
    let part = fs::read_dir(folder.join("dir.csv")).unwrap().map(|entry| entry.unwrap().path());
    let part = part.filter(|path| path.extension().is_some_and(|extension| extension == "csv")).last().unwrap();
    assert_eq!(fs::read_to_string(part).unwrap(), read("o.csv"));
    refused(
        folder,
        &[
            ("copy text.parquet v.csv.gz --verify full", 1, &["v.csv.gz", "is compressed", "verify by receipts"]),
            ("plan text.parquet v.ndjson.gz --verify full", 1, &["v.ndjson.gz", "is compressed", "verify by receipts"]),
        ],
    );
    works(folder, "copy text.parquet o.csv.gz");
    works(folder, "copy text.parquet o.csv.gz --mode append");
    let packed = std::process::Command::new("gzip").arg("-dc").arg(folder.join("o.csv.gz")).output().unwrap();
    let records = read("o.csv").split_once('\n').unwrap().1.to_owned();
    assert_eq!(String::from_utf8(packed.stdout).unwrap(), format!("a,b\n{records}{records}"));
    let planned = works(folder, "plan text.parquet p.csv").stdout;
    assert!(planned.contains("YYYY-MM-DD"), "{planned}");
}

fn names(seen: &Value) -> Vec<&str> {
    seen["columns"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect()
}

#[test]
fn a_column_that_changes_its_type_late_is_refused_with_the_place_and_without_the_value() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let mut text = String::from("id,n\n");
    for id in 1..300_000 {
        text.push_str(&format!("{id},{}\n", id * 3));
    }
    let byte = text.len();
    text.push_str("300000,classified\n");
    for id in 300_001..310_000 {
        text.push_str(&format!("{id},0\n"));
    }
    write(folder, &[("late.csv", text.as_bytes())]);
    let byte = byte + "300000,".len();
    let place = format!("late.csv, record 300000, line 300001, byte {byte}, column \"n\": ");
    for line in
        ["copy late.csv o.parquet", "copy late.csv o.parquet --threads 1", "copy late.csv sqlite:o.db#t --partitions 9"]
    {
        refused(folder, &[(line, 1, &[&place, "int64", "types"])]);
        assert!(!run_line(folder, line).stderr.contains("classified"));
    }
    works(folder, "copy late.csv o.parquet --source-option types=n:text");
}

#[test]
fn damaged_parquet_is_refused_at_every_length() {
    let folder = folder_with_csv();
    let folder = folder.path();
    works(folder, "copy ok.csv whole.parquet");
    let whole = fs::read(folder.join("whole.parquet")).unwrap();
    let middle = whole.len() / 2;
    for length in
        [0, 1, 3, 4, 7, 8, 11, 12, 100, middle, whole.len() - 9, whole.len() - 8, whole.len() - 4, whole.len() - 1]
    {
        write(folder, &[("cut.parquet", &whole[..length])]);
        let what: &str = if length == 0 { "empty" } else { "damaged" };
        refused(folder, &[("copy cut.parquet o.parquet", 1, &["cut.parquet: ", what])]);
    }
    // A footer of any length that the last bytes may claim.
    for claimed in [0, 1, 0x7fff_ffff, u32::MAX] {
        let mut bytes = whole.clone();
        let at = bytes.len() - 8;
        bytes[at..at + 4].copy_from_slice(&claimed.to_le_bytes());
        write(folder, &[("claim.parquet", &bytes)]);
        refused(folder, &[("copy claim.parquet o.parquet", 1, &["claim.parquet: ", "damaged"])]);
    }
    fs::copy(folder.join("ok.csv"), folder.join("text.parquet")).unwrap();
    refused(folder, &[("copy text.parquet o.parquet", 1, &["text.parquet: "])]);
}

#[test]
fn parquet_with_one_byte_changed_never_panics() {
    let folder = folder_with_csv();
    let folder = folder.path();
    works(folder, "copy ok.csv whole.parquet");
    let whole = fs::read(folder.join("whole.parquet")).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        write(folder, &[("bent.parquet", &bytes)]);
        let ran = run_line(folder, "copy bent.parquet o.parquet --mode replace");
        assert!([0, 1].contains(&ran.code) && !ran.stderr.contains("panicked"), "byte {at}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), usize::from(ran.code == 1), "byte {at}: {ran:?}");
    }
}

/// Each in a process that the system ends if it takes more memory or time than it should.
#[test]
fn parquet_of_other_writers_takes_no_more_memory_than_it_may() {
    let suites = std::env::var_os("ETLRS_SUITES").map_or_else(|| root().join("../shared/suites"), Into::into);
    let mut files = Vec::new();
    for part in ["data", "bad_data"] {
        let Ok(entries) = fs::read_dir(suites.join("parquet-testing").join(part)) else {
            eprintln!("SKIPPED: the Parquet test files: suites not found at {}", suites.display());
            return;
        };
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let parquet = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    let folder = tempfile::tempdir().unwrap();
    for file in files.iter().filter(|path| parquet(path)) {
        let script = "ulimit -v 700000; ulimit -t 20; exec \"$@\"";
        let output = Command::new("sh")
            .args(["-c", script, "sh", PROGRAM, "copy"])
            .arg(file)
            .args(["o.parquet", "--mode", "replace", "--memory", "64MB", "--threads", "2"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let ran = Ran::of(&output);
        assert!([0, 1].contains(&ran.code) && !ran.stderr.contains("panicked"), "{}: {ran:?}", file.display());
    }
}

#[test]
fn targets_that_cannot_be_written_are_refused() {
    let folder = folder_with_csv();
    let folder = folder.path();
    works(folder, "copy ok.csv there.parquet");
    works(folder, "copy ok.csv sqlite:there.db#t");
    works(folder, "copy ok.csv many.parquet/");
    works(folder, "copy ok.csv there.csv");
    fs::create_dir(folder.join("kept.parquet")).unwrap();
    write(folder, &[("kept.parquet/notes.txt", b"mine"), ("text.db", b"no database, but a text that is long enough")]);
    refused(
        folder,
        &[
            ("copy ok.csv missing/o.parquet", 1, &["missing", "no such file or directory"]),
            ("copy ok.csv sqlite:missing/o.db#t", 1, &["missing", "no such file or directory"]),
            ("copy ok.csv ok.csv/o.parquet", 1, &["ok.csv/o.parquet", "directory"]),
            ("copy ok.csv there.parquet/ --mode replace", 1, &["there.parquet", "directory"]),
            ("copy ok.csv sqlite:ok.csv/o.db#t", 1, &["ok.csv/o.db"]),
            ("copy ok.csv sqlite:kept.parquet#t", 2, &["kept.parquet", "no database file"]),
            ("copy ok.csv /proc/o.parquet", 1, &["/proc"]),
            ("copy ok.csv there.parquet", 1, &["there.parquet", "exists", "replace", "append"]),
            ("copy ok.csv many.parquet/", 1, &["many.parquet", "exists", "replace", "append"]),
            ("copy ok.csv many.parquet", 1, &["many.parquet", "exists", "replace", "append"]),
            ("copy ok.csv sqlite:there.db#t", 1, &["there.db#t", "exists", "replace", "append"]),
            ("copy ok.csv kept.parquet --mode replace", 2, &["kept.parquet", "notes.txt", "move it away"]),
            ("copy ok.csv kept.parquet/ --mode append", 2, &["kept.parquet", "notes.txt"]),
            ("copy ok.csv there.csv", 1, &["there.csv", "exists", "replace", "append"]),
            (
                "copy ok.csv there.csv --mode append --columns b,a",
                1,
                &["there.csv", "column \"b\"", "from column 1 on"],
            ),
            ("copy ok.csv o.csv --target-option quotin=all", 2, &["\"quotin\"", "did you mean quoting?"]),
            ("copy ok.csv o.csv --compression lzma", 2, &["compression", "\"lzma\"", "none, gzip, zstd, bzip2, xz"]),
            ("copy ok.csv o.csv --compression zstd(99)", 2, &["compression", "1 to 22"]),
            ("copy ok.csv sqlite:text.db#t", 1, &["text.db", "not a SQLite database"]),
        ],
    );
}

#[test]
fn wrong_options_are_refused_with_the_right_guess() {
    let folder = folder_with_csv();
    refused(
        folder.path(),
        &[
            (
                "copy ok.csv o.parquet --source-option delimeter=;",
                2,
                &["\"delimeter\"", "did you mean delimiter?", "quote"],
            ),
            (
                "copy ok.csv o.parquet --target-option compresion=zstd",
                2,
                &["\"compresion\"", "did you mean compression?"],
            ),
            ("copy ok.csv sqlite:o.db#t --target-option busy=1", 2, &["\"busy\"", "busy_timeout"]),
            ("copy ok.csv sqlite:o.db#t --compression zstd", 2, &["\"compression\"", "busy_timeout"]),
            ("copy ok.csv o.parquet --compression lzma", 2, &["compression", "\"lzma\"", "snappy, zstd, gzip"]),
            ("copy ok.csv o.parquet --source-option delimiter=ab", 2, &["delimiter", "\"ab\"", "one ASCII character"]),
            ("copy ok.csv o.parquet --source-option types=a:integer128", 2, &["types", "\"integer128\"", "int64"]),
            ("copy ok.csv o.parquet --source-option types=c:text", 2, &["ok.csv", "\"c\"", "a, b"]),
            ("copy ok.csv o.parquet --columns a,bb", 2, &["\"bb\"", "did you mean b?"]),
            ("copy ok.csv o.parquet --columns a,a", 2, &["\"a\"", "twice"]),
            ("copy ok.csv o.parquet --columns aa --where `b > 1`", 2, &["\"aa\"", "did you mean a?"]),
            ("copy ok.csv o.parquet --where `bb > 1`", 2, &["\"bb\"", "did you mean b?"]),
            ("copy ok.csv o.parquet --where `a > > 1`", 2, &["--where", "character 5", "expected a value", "found >"]),
            ("copy ok.csv o.parquet --where ``", 2, &["--where", "expected a value"]),
            ("copy ok.csv o.parquet --key a", 2, &["key columns", "merge"]),
            ("copy ok.csv o.parquet --mode merge", 2, &["merge", "key columns"]),
            (
                "copy ok.csv o.parquet --mode merge --key a",
                1,
                &["o.parquet", "no mode merge", "create, append, replace"],
            ),
            ("copy ok.xlsx o.parquet", 2, &["ok.xlsx", ".xlsx", "csv", "parquet", "sqlite"]),
            ("copy ok.csv o.parqet", 2, &["o.parqet", ".parqet", "parquet"]),
            ("copy ok o.parquet", 2, &["ok: ", "no extension"]),
            (
                "copy oracle://h/db#t o.parquet",
                2,
                &["no connector serves oracle:", "the schemes are mysql, mariadb, postgres, postgresql, sqlite"],
            ),
            ("copy sqlite:o.db o.parquet", 2, &["sqlite:o.db", "no table", "sqlite:shop.db#orders"]),
            ("copy ok.csv sqlite:o.db", 2, &["sqlite:o.db", "no table"]),
            ("copy ok.csv o.parquet --threads 0", 2, &["--threads", "0 is not in 1..=4096"]),
            ("copy ok.csv o.parquet --partitions 0", 2, &["--partitions", "0 is not in 1.."]),
            (
                "copy ok.csv o.parquet --source-option header=true --source-option header=no",
                2,
                &["header is given twice"],
            ),
            ("copy ok.csv shop.db#t", 2, &["write sqlite:shop.db#t"]),
            ("copy ok.csv o.parquet --mdoe append", 2, &["'--mdoe'", "'--mode'", "--help tells more"]),
            ("copy ok.csv", 2, &["<TARGET>", "--help tells more"]),
            ("connectors csvv", 2, &["\"csvv\"", "did you mean csv?", "sqlite"]),
            ("inspect ok.csv --columns aa", 2, &["\"aa\"", "did you mean a?"]),
            ("run ok.csv", 2, &["ok.csv", "no pipeline file", ".toml"]),
            ("plan ok.csv", 2, &["ok.csv", "no pipeline file", "name a target"]),
        ],
    );
}

/// Both are mistakes in the command line, as a syntax error there is.
#[test]
fn a_filter_of_the_wrong_type_is_wrong_usage() {
    let folder = folder_with_csv();
    refused(
        folder.path(),
        &[
            ("copy ok.csv o.parquet --where `a + 1`", 2, &["a + 1", "int64", "boolean"]),
            ("copy ok.csv o.parquet --where `a > 'x'`", 2, &["a > 'x'", "int64 and text", "cast("]),
        ],
    );
}

/// What the parser of the command line refuses: several lines, the first of which says it.
#[test]
fn wrong_usage_ends_with_two() {
    let folder = folder_with_csv();
    for (line, needle) in [
        (
            "copy ok.csv o.parquet --mode crate",
            "there is no mode \"crate\"; did you mean create? There is create, append, replace, merge",
        ),
        ("copy ok o.parquet", "name the format before it, as in csv:ok or json:ok or parquet:ok"),
        ("copy ok.csv o.parquet --memory lots", "256MB"),
        ("copy ok.csv o.parquet --verify maybe", "full"),
        ("copy ok.csv o.parquet --source-option header", "KEY=VALUE"),
        ("copy ok.csv o.parquet --colums a", "--columns"),
        ("copy ok.csv", "<TARGET>"),
        ("cpoy ok.csv o.parquet", "copy"),
        ("plan ok.csv o.parquet --set a=b", "--set is for a pipeline file"),
        ("plan p.toml --mode replace --columns a", "--mode, --columns: only for a source and a target"),
    ] {
        let ran = run_line(folder.path(), line);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{line}: {ran:?}");
        assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains(needle), "{line}: {ran:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn sqlite_sources_that_cannot_be_read_are_refused() {
    let folder = folder_with_csv();
    let folder = folder.path();
    works(folder, "copy ok.csv sqlite:shop.db#orders");
    works(folder, "copy ok.csv sqlite:shop.db#customers");
    write(folder, &[("text.db", b"no database, but a text that is long enough"), ("empty.db", b"")]);
    refused(
        folder,
        &[
            ("copy sqlite:shop.db#oders o.parquet", 2, &["shop.db", "\"oders\"", "did you mean orders?", "customers"]),
            ("copy sqlite:no.db#t o.parquet", 1, &["no.db", "no such file"]),
            ("copy sqlite:text.db#t o.parquet", 1, &["text.db", "not a SQLite database"]),
            ("copy sqlite:empty.db#t o.parquet", 2, &["empty.db", "\"t\""]),
            ("copy sqlite:shop.db#orders sqlite:shop.db#copy", 2, &["shop.db", "same database file", "another file"]),
            ("copy sqlite:shop.db#orders sqlite:./shop.db#copy", 2, &["shop.db", "same database file"]),
        ],
    );
}

#[test]
fn a_locked_sqlite_file_is_refused_after_its_timeout() {
    let folder = folder_with_csv();
    let folder = folder.path();
    works(folder, "copy ok.csv sqlite:shop.db#orders");
    let before = tree(folder);
    let holder = Connection::open(folder.join("shop.db")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for line in [
        "copy sqlite:shop.db#orders o.parquet --source-option busy_timeout=0",
        "copy sqlite:shop.db#orders o.parquet --source-option busy_timeout=1",
        "copy ok.csv sqlite:shop.db#more --target-option busy_timeout=0",
        "copy ok.csv sqlite:shop.db#orders --mode replace --target-option busy_timeout=0",
    ] {
        // The tree is not read here: to close any handle of a file gives up the locks that this process has on it.
        let faults = faults_of_sentence(folder, &(line, 1, &["shop.db", "locked", "busy_timeout"]));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
    holder.execute_batch("ROLLBACK").unwrap();
    drop(holder);
    assert!(tree(folder) == before, "nothing is left of what was refused");
    works(folder, "copy sqlite:shop.db#orders o.parquet --source-option busy_timeout=0");
}

#[test]
fn mistakes_in_pipeline_files_are_named() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let file = |middle: &str| format!("[source]\nuri = \"ok.csv\"\n{middle}\n[target]\nuri = \"o.parquet\"\n");
    for (name, text) in [
        ("syntax.toml", "[source\n".to_owned()),
        ("syntax.yaml", "source: [\n".to_owned()),
        ("key.toml", format!("{}moed = \"replace\"\n", file(""))),
        ("mode.toml", format!("{}mode = \"repalce\"\n", file(""))),
        ("option.toml", file("options = { delimter = \";\" }")),
        ("variable.toml", file("").replace("ok.csv", "${NO_SUCH_VARIABLE}.csv")),
        ("typo.toml", file("[[transform]]\ntype = \"fliter\"")),
        ("expression.toml", file("[[transform]]\ntype = \"filter\"\nwhere = \"a > > 1\"")),
        ("column.toml", file("[[transform]]\ntype = \"filter\"\nwhere = \"bb > 1\"")),
        ("lookup.toml", file("[[transform]]\ntype = \"lookup\"\nsource = \"no.csv\"\non = { a = \"a\" }")),
        ("threads.toml", file("[performance]\nmax_threads = 0")),
        ("two.toml", file("").replace("[target]", "[[target]]")),
    ] {
        write(folder, &[(name, text.as_bytes())]);
    }
    refused(
        folder,
        &[
            ("run no.toml", 1, &["no.toml", "no such file"]),
            ("run syntax.toml", 2, &["syntax.toml, line 1: ", "no TOML"]),
            ("run syntax.yaml", 2, &["syntax.yaml", "no YAML"]),
            ("run key.toml", 2, &["key.toml", "[target]", "\"moed\"", "did you mean mode?"]),
            ("run mode.toml", 2, &["mode.toml", "\"repalce\"", "replace"]),
            ("run option.toml", 2, &["\"delimter\"", "did you mean delimiter?"]),
            ("run typo.toml", 2, &["transform 1", "\"fliter\"", "did you mean filter?"]),
            ("run column.toml", 2, &["\"bb\"", "did you mean b?"]),
            ("run lookup.toml", 1, &["no.csv", "no such file"]),
            ("run threads.toml", 2, &["max_threads", "0"]),
            (
                "run two.toml --set target.mode=replace",
                2,
                &["two.toml", "target.mode cannot be set", "--set NAME=VALUE"],
            ),
            ("run variable.toml", 2, &["NO_SUCH_VARIABLE", "--set NO_SUCH_VARIABLE="]),
            ("plan variable.toml", 2, &["NO_SUCH_VARIABLE"]),
        ],
    );
    works(folder, "run variable.toml --set NO_SUCH_VARIABLE=ok");
    works(folder, "run mode.toml --set target.mode=replace");
    works(folder, "run threads.toml --set performance.max_threads=1 --set target.mode=replace");
}

/// Options of CSV files are chosen so that YAML takes them for nothing else.
#[test]
fn yaml_options_need_no_quotes() {
    let folder = folder_with_csv();
    let file = "source:\n  uri: ok.csv\n  options:\n    null_values: 4\ntarget:\n  uri: o.parquet\n";
    write(folder.path(), &[("null.yaml", file.as_bytes())]);
    works(folder.path(), "run null.yaml");
    let seen = works(folder.path(), "inspect o.parquet --output json").json();
    assert_eq!(seen["first_rows"][1], serde_json::json!({ "a": "3", "b": null }));
}

/// One file of many may be run by cron: the sentence has to say which.
#[test]
fn mistakes_in_pipeline_files_name_the_file_and_the_place() {
    let folder = folder_with_csv();
    let folder = folder.path();
    for (name, uri, filter) in [
        ("variable.toml", "${NO_SUCH_VARIABLE}.csv", "a > 1"),
        ("expression.toml", "ok.csv", "a > > 1"),
        ("column.toml", "ok.csv", "bb > 1"),
        ("typo.toml", "ok.csv", "a > 1"),
    ] {
        let kind = if name == "typo.toml" { "fliter" } else { "filter" };
        let text = format!(
            "[source]\nuri = \"{uri}\"\n[[transform]]\ntype = \"{kind}\"\nwhere = \"{filter}\"\n[target]\nuri = \"o.parquet\"\n"
        );
        write(folder, &[(name, text.as_bytes())]);
    }
    refused(
        folder,
        &[
            ("run variable.toml", 2, &["variable.toml", "[source]", "NO_SUCH_VARIABLE"]),
            ("run expression.toml", 2, &["expression.toml", "transform 1 (filter)", "character 5"]),
            ("run column.toml", 2, &["column.toml", "transform 1 (filter)", "\"bb\""]),
            ("run typo.toml", 2, &["typo.toml", "transform 1", "\"fliter\""]),
        ],
    );
}

/// What a transform cannot do with a value is told with the transform, and with the row as far as it is known.
#[test]
fn faults_of_transforms_name_the_source_the_transform_and_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rows: String = (0..3000).map(|n| format!("{n},{}\n", if n == 2500 { "x" } else { "1" })).collect();
    let derive = "[[transform]]\ntype = 'derive'\ncolumns = { b = '1000 % (a - 1500)' }\n";
    let cast = "[[transform]]\ntype = 'cast'\ncolumns = { t = 'int64' }\n";
    let file = |source: &str, transforms: &str| {
        let target = "[target]\nuri = 'o.parquet'\n[performance]\nbatch_size = 1000\n";
        format!("[source]\nuri = 'a.csv'\n{source}{transforms}{target}")
    };
    write(
        folder,
        &[
            ("a.csv", format!("a,t\n{rows}").as_bytes()),
            ("both.toml", file("partitions = 1\n", &format!("{derive}{cast}")).as_bytes()),
            ("cast.toml", file("partitions = 1\n", cast).as_bytes()),
            ("cut.toml", file("partitions = 3\n", cast).as_bytes()),
            (
                "chunks.toml",
                file("partitions = 1\n", &format!("{cast}chunk_size = 300\n")).replace("o.p", "p.p").as_bytes(),
            ),
        ],
    );
    let misfit = "column \"t\": the value does not fit into int64";
    refused(
        folder,
        &[
            ("run both.toml", 1, &["a.csv, transform 1 (derive), row 1501: in 1000 % (a - 1500): division by zero"]),
            ("run cast.toml", 1, &["a.csv, transform 1 (cast), row 2501, ", misfit]),
            ("run cut.toml", 1, &["a.csv, piece 3 of 3, transform 1 (cast), row ", misfit]),
        ],
    );
    let ran = run_line(folder, "run cast.toml --on-error quarantine --quarantine bad.ndjson");
    assert_eq!(ran.code, 3, "{ran:?}");
    let bad: Value = serde_json::from_str(&fs::read_to_string(folder.join("bad.ndjson")).unwrap()).unwrap();
    assert_eq!((&bad["source"], &bad["stage"]), (&"a.csv".into(), &"cast".into()), "{bad}");
    let place = "a.csv, row 2501, column \"t\"";
    assert!(ran.stderr.contains(place) || ran.stdout.contains(place), "{ran:?}");
    // Chunks of a batch are counted on too.
    let chunks = "run chunks.toml --threads 2";
    refused(folder, &[(chunks, 1, &["a.csv, transform 1 (cast), row 2501, "])]);
    let ran = run_line(folder, &format!("{chunks} --on-error quarantine --quarantine chunks.ndjson"));
    assert!(ran.stderr.contains(place) || ran.stdout.contains(place), "{ran:?}");
}

#[test]
fn too_little_memory_is_refused_with_what_would_do_and_that_does() {
    let folder = folder_with_csv();
    let folder = folder.path();
    refused(folder, &[("copy ok.csv o.parquet --memory 1KB", 2, &["memory", "at least 1MB"])]);
    fs::copy(flights(), folder.join("flights.csv")).unwrap();
    works(folder, "copy flights.csv flights.parquet");
    works(folder, "copy flights.csv sqlite:flights.db#flights");
    for (copy, threads) in [
        ("copy flights.csv o.parquet", 1),
        ("copy flights.csv o.parquet", 8),
        ("copy flights.parquet o.parquet", 2),
        ("copy flights.parquet sqlite:o.db#t", 2),
        ("copy sqlite:flights.db#flights o.parquet/", 2),
    ] {
        let line = format!("{copy} --threads {threads}");
        refused(folder, &[(&format!("{line} --memory 1MB"), 1, &["memory", "1MB", " would do"])]);
        let refusal = run_line(folder, &format!("{line} --memory 1MB")).stderr;
        let enough = refusal.strip_suffix(" would do\n").and_then(|rest| rest.rsplit(' ').next()).unwrap();
        let copied =
            works(folder, &format!("{line} --memory {enough} --mode replace --verify full --output json")).json();
        assert_eq!(copied["rows_written"], 27_004, "{line} --memory {enough}");
        for name in ["o.parquet", "o.db"] {
            let path = folder.join(name);
            // Either kind may be there, or nothing.
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
}

#[test]
fn a_reader_of_the_output_that_goes_away_is_no_failure() {
    let folder = folder_with_csv();
    let folder = folder.path();
    for line in [
        "inspect ok.csv",
        "inspect ok.csv --output json",
        "plan ok.csv o.parquet",
        "copy ok.csv o.parquet",
        "connectors",
        "completions bash",
        "--help",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = etlrs(PROGRAM, folder, &words(line)).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let ran = Ran::of(&child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{line}");
    }
    assert!(folder.join("o.parquet").exists());
}

/// What was published before the failure was published, and the program has to say so.
#[test]
fn json_tells_of_the_targets_that_were_loaded_before_one_failed() {
    let folder = folder_with_csv();
    let folder = folder.path();
    // SQLite has no NaN, which shows when the value comes.
    let text = "[source]\nuri = \"nan.csv\"\noptions = { types = { a = \"float64\" } }\n\
        [[target]]\nuri = \"o.parquet\"\n[[target]]\nuri = \"sqlite:o.db#t\"\n";
    write(folder, &[("two.toml", text.as_bytes()), ("nan.csv", b"a\n1\nNaN\n")]);
    let ran = run_line(folder, "run two.toml --output json");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("NaN"), "{ran:?}");
    let [loaded, failed] = serde_json::from_str::<[Value; 2]>(&ran.stdout).unwrap();
    assert_eq!((&loaded["success"], &loaded["rows_written"]), (&true.into(), &2.into()), "{loaded:#}");
    assert_eq!((&failed["success"], &failed["target"]), (&false.into(), &"sqlite:o.db#t".into()), "{failed:#}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("NaN"), "{failed:#}");
    assert!(!folder.join("o.db").exists());
}

#[test]
fn json_tells_why_a_run_failed() {
    let folder = folder_with_csv();
    let folder = folder.path();
    write(folder, &[("bad.csv", b"a,b\n1,2\n3\n")]);
    for (line, code, kind, place) in [
        ("copy bad.csv o.parquet", 1, "InvalidData", Some(("bad.csv", 2))),
        ("copy no.csv o.parquet", 1, "NotFound", None),
        ("copy ok.csv o.parquet --where `c > 1`", 2, "InvalidConfig", None),
        ("run no.toml", 1, "NotFound", None),
    ] {
        let ran = run_line(folder, &format!("{line} --output json"));
        assert_eq!(ran.code, code, "{line}: {ran:?}");
        let told: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&told["success"], &told["error"]["kind"]), (&false.into(), &kind.into()), "{line}: {told:#}");
        let message = told["error"]["message"].as_str().unwrap();
        assert_eq!(ran.stderr.lines().last(), Some(format!("error: {message}").as_str()), "{line}");
        if let Some((source, record)) = place {
            assert_eq!(told["error"]["place"], source, "{told:#}");
            assert_eq!((&told["error"]["record"], &told["source"]), (&record.into(), &source.into()), "{told:#}");
        }
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn json_has_the_documented_fields() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let json = |line: &str| works(folder, &format!("{line} --output json")).json();

    let plan = json("plan ok.csv o.parquet");
    let fields = [
        "atomic",
        "columns",
        "ddl",
        "memory",
        "mode",
        "notes",
        "partitions",
        "quarantine",
        "source",
        "target",
        "threads",
        "transforms",
    ];
    assert_eq!(keys(&plan), fields);
    assert_eq!((&plan["source"], &plan["mode"], &plan["atomic"]), (&"ok.csv".into(), &"create".into(), &true.into()));
    assert_eq!(keys(&plan["columns"][0]), ["name", "nullable", "target_type", "type"]);
    assert_eq!(plan["partitions"][0]["bytes"], 8);
    assert!(!folder.join("o.parquet").exists(), "a plan touches nothing");

    let copy = json("copy ok.csv o.parquet --where `a > 1` --verify full");
    assert_eq!(
        keys(&copy),
        [
            "adjustments",
            "alerts",
            "bytes_read",
            "bytes_written",
            "cursor",
            "cursor_after",
            "cursor_saved",
            "first_rejected",
            "limit",
            "memory",
            "notes",
            "partitions",
            "quarantine",
            "resumed",
            "retries",
            "rows_dropped",
            "rows_read",
            "rows_rejected",
            "rows_written",
            "run",
            "seconds",
            "source",
            "source_checksum",
            "stages",
            "success",
            "target",
            "target_checksum",
            "threads",
            "verify"
        ]
    );
    let uses = copy["memory"]["uses"].as_array().unwrap().iter().map(|part| part["bytes"].as_u64().unwrap());
    assert!(uses.sum::<u64>() <= copy["memory"]["budget"].as_u64().unwrap(), "{:#}", copy["memory"]);
    let [live, peak] = ["allocated", "allocated_peak"].map(|key| copy["memory"][key].as_u64().unwrap());
    assert!(live < peak && peak > 10_000, "{:#}", copy["memory"]);
    let stages: Vec<_> =
        copy["stages"].as_array().unwrap().iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(stages, ["source", "--where", "checksum", "turn", "target"]);
    assert_eq!(
        keys(&copy["stages"][0]),
        ["batches", "blocked_seconds", "busy_seconds", "kind", "name", "rows", "waiting_seconds"]
    );
    assert_eq!((&copy["stages"][0]["rows"], &copy["stages"][4]["rows"]), (&2.into(), &1.into()));
    assert_eq!(
        keys(&copy["limit"]),
        ["advice", "cpu_bound", "io_bound", "memory_bound", "network_bound", "share", "stage", "verdict", "what"]
    );
    let rows = ["rows_read", "rows_dropped", "rows_written"].map(|key| copy[key].as_u64().unwrap());
    assert_eq!(rows, [2, 1, 1]);
    assert_eq!((&copy["success"], &copy["verify"], &copy["retries"]), (&true.into(), &"full".into(), &0.into()));
    assert_eq!(copy["source_checksum"], copy["target_checksum"]);
    assert_eq!(copy["source_checksum"].as_str().unwrap().len(), 32);
    assert!(copy["seconds"].as_f64().unwrap() > 0.0);

    let inspect = json("inspect ok.csv --rows 1");
    assert_eq!(
        keys(&inspect),
        ["bytes", "columns", "connector", "first_rows", "found", "notes", "partitions", "rows", "source"]
    );
    assert_eq!(inspect["first_rows"], serde_json::json!([{ "a": "1", "b": "2" }]));
    assert_eq!(inspect["connector"], "csv");
    assert_eq!(keys(&inspect["found"][0]), ["item", "reason", "value"]);

    let connectors = json("connectors");
    let names: Vec<_> = connectors.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["csv", "json", "parquet", "mysql", "postgres", "sqlite"]);
    let parquet = json("connectors parquet");
    assert_eq!(parquet, connectors[2]);
    assert_eq!(
        keys(&parquet),
        ["example", "extensions", "name", "schemes", "source_options", "summary", "target_options"]
    );
    assert_eq!(keys(&parquet["target_options"][0]), ["default", "doc", "key", "kind", "secret"]);

    let failed = run_line(folder, "copy no.csv o.parquet --output json");
    let failed: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(keys(&failed), ["error", "source", "success", "target"]);
    assert_eq!(keys(&failed["error"]), ["byte", "column", "kind", "line", "message", "place", "record", "row"]);
}

/// Nested records through all that takes them apart; what cannot be cast is set aside with the row as it was.
#[test]
fn nested_records_become_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let record = |id: u32, zip: &str, items: &str| {
        format!("{{\"id\":{id},\"mail\":\"m{id}@x.org\",\"at\":{{\"zip\":\"{zip}\"}},\"items\":[{items}]}}\n")
    };
    let item = |sku: &str| format!("{{\"sku\":\"{sku}\",\"n\":2}}");
    let two = [item("a"), item("b")].join(",");
    let text = [record(1, "100", &two), record(2, "x", &item("c")), record(1, "9", ""), record(3, "7", "")].concat();
    let pipeline = r#"
        [source]
        uri = "o.ndjson"
        [[transform]]
        type = "deduplicate"
        keys = ["id"]
        [[transform]]
        type = "unnest"
        column = "items"
        position = "line"
        [[transform]]
        type = "flatten"
        chunk_size = 2
        [[transform]]
        type = "mask"
        columns = { mail = "partial(2,4)" }
        [[transform]]
        type = "cast"
        columns = { at_zip = "int64" }
        [[transform]]
        type = "metadata"
        columns = { run = "run_id", loaded = "load_time", file = "source_file" }
        [target]
        uri = "o.csv"
        [errors]
        on_error = "quarantine"
    "#;
    write(folder, &[("o.ndjson", text.as_bytes()), ("p.toml", pipeline.as_bytes())]);
    let ran = run_line(folder, "run p.toml --output json");
    assert_eq!(ran.code, 3, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let run = report["run"].as_str().unwrap();
    let table = std::fs::read_to_string(folder.join("o.csv")).unwrap();
    let mut rows: Vec<_> = table.lines().map(|line| line.split(',').collect::<Vec<_>>()).collect();
    assert!(rows[1..].iter().all(|row| row[6] == run && row[8] == "o.ndjson"), "{table}");
    rows.iter_mut().for_each(|row| row.truncate(6));
    let expected = [
        ["id", "mail", "at_zip", "items_sku", "items_n", "line"],
        ["1", "m1**.org", "100", "a", "2", "1"],
        ["1", "m1**.org", "100", "b", "2", "2"],
        ["3", "m3**.org", "7", "", "", ""],
    ];
    assert_eq!(rows, expected);
    let rejected = works(folder, "inspect o.csv.rejected.parquet --output json").json();
    let first = &rejected["first_rows"][0];
    assert_eq!((&first["stage"], &first["column"]), (&"cast".into(), &"at_zip".into()), "{first}");
}

#[test]
fn settings_come_from_the_environment_the_file_and_flags_each_over_the_last() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let file = |settings: &str| format!("[source]\nuri='ok.csv'\n[target]\nuri='o.parquet'\n[performance]\n{settings}");
    write(folder, &[("p.toml", file("max_memory_usage = '48MB'").as_bytes()), ("q.toml", file("").as_bytes())]);
    let memory = |line: &str, variable: Option<&str>| {
        let arguments: Vec<_> = line.split(' ').chain(["--output", "json"]).collect();
        let mut command = etlrs_tests::etlrs(PROGRAM, folder, &arguments);
        if let Some(value) = variable {
            command.env("ETLRS_MAX_MEMORY_USAGE", value);
        }
        etlrs_tests::Ran::of(&command.output().unwrap()).json()["memory"].as_u64().unwrap() >> 20
    };
    assert_eq!(memory("plan q.toml", Some("32MB")), 32);
    assert_eq!(memory("plan ok.csv o.parquet", Some("32MB")), 32);
    assert_eq!(memory("plan p.toml", Some("32MB")), 48);
    assert_eq!(memory("plan p.toml --performance max_memory_usage=24MB", Some("32MB")), 24);
    assert_eq!(memory("plan p.toml --performance max_memory_usage=24MB --memory 20MB", None), 20);
    let wrong = run_line(folder, "plan p.toml --performance batchsize=1");
    assert!(wrong.code != 0 && wrong.stderr.contains("did you mean batch_size?"), "{wrong:?}");
}

/// Values of every type that a CSV file may have can be shown.
#[test]
fn inspect_shows_rows_of_every_type() {
    let folder = folder_with_csv();
    let folder = folder.path();
    etlrs_tests::write_csv(&folder.join("all.csv"), 50, 1);
    works(folder, "copy all.csv all.parquet");
    works(folder, "copy all.csv sqlite:all.db#t");
    let mut shown = Vec::new();
    for source in ["all.csv", "all.parquet", "sqlite:all.db#t"] {
        works(folder, &format!("inspect {source}"));
        let seen = works(folder, &format!("inspect {source} --rows 3 --output json")).json();
        assert_eq!(names(&seen), ["id", "version", "amount", "day", "at", "flag", "name", "note"]);
        shown.push(seen["first_rows"].clone());
    }
    assert_eq!(shown[0][0]["amount"], Value::Null);
    assert_eq!(shown[0][0]["note"], "two\nlines, and a \"quote\"");
    assert_eq!(shown[0][1]["id"], "1");
    assert!(shown[1] == shown[0] && shown[2] == shown[0], "{shown:?}");
}

/// Formatting has a limit to the width of a column, and a terminal obeys what a name might hold.
#[test]
fn a_name_of_any_length_and_of_any_characters_is_shown_in_a_line() {
    let folder = folder_with_csv();
    let text = format!("{},b\x1b[31m\n1,2\n", "n".repeat(70_000));
    write(folder.path(), &[("long.csv", text.as_bytes())]);
    for line in ["inspect long.csv", "plan long.csv o.csv"] {
        let ran = works(folder.path(), line);
        assert!(ran.stdout.lines().all(|line| line.chars().count() < 300), "{line}: {}", ran.stdout);
        assert!(!ran.stdout.contains('\x1b'), "{line}: {}", ran.stdout);
    }
}

/// No stream may ever have it.
fn keeps_the_password(folder: &Path, lines: &[&str]) {
    let lines: Vec<_> = lines
        .iter()
        .filter_map(|line| {
            let ran = run_line(folder, line);
            assert!([1, 2].contains(&ran.code), "{line}: {ran:?}");
            (ran.stdout + &ran.stderr).contains("hunter2").then(|| format!("{line}: {}", ran.stderr))
        })
        .collect();
    assert!(lines.is_empty(), "the password is shown by\n{}", lines.join("\n"));
}

#[test]
fn passwords_are_never_shown() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let file = |uri: &str| format!("[source]\nuri = {uri}\n[target]\nuri = \"o.parquet\"\n");
    write(
        folder,
        &[
            ("p.toml", file("\"postgres://u:hunter2@h/db#t\"").as_bytes()),
            ("v.toml", file("\"${URL}\"").as_bytes()),
            ("open.toml", file("\"postgres://u:hunter2@h/db#t").as_bytes()),
        ],
    );
    keeps_the_password(
        folder,
        &[
            "copy postgres://u:hunter2@h/db#t o.parquet",
            "copy ok.csv postgres://u:hunter2@h/db#t",
            "copy ok.csv mysql://u:hunter2@h:3306/db",
            "copy ok.csv postgres://u:hunter2@h/o.parquet",
            "copy ok.csv postgres://u:hunter2@h/db#t --mode replace --output json",
            "plan ok.csv postgres://u:hunter2@h/db#t",
            "inspect postgres://u:hunter2@h/db#t",
            "run p.toml",
            "plan p.toml",
            "run open.toml",
            "run v.toml --set URL=postgres://u:hunter2@h/db#t",
        ],
    );
}

/// A source alone, which somebody forgot to give a target, is taken for the name of a pipeline file.
#[test]
fn passwords_are_not_shown_where_a_pipeline_file_is_expected() {
    let folder = folder_with_csv();
    keeps_the_password(
        folder.path(),
        &["plan postgres://u:hunter2@h/db#t", "run postgres://u:hunter2@h/db#t", "run postgres://u:hunter2@h/db.toml"],
    );
}

/// The parser of the command line quotes what it cannot take.
#[test]
fn passwords_are_not_shown_by_a_mistyped_command_line() {
    let folder = folder_with_csv();
    keeps_the_password(
        folder.path(),
        &[
            "postgres://u:hunter2@h/db o.csv",
            "copy ok.csv o.parquet postgres://u:hunter2@h/db#t",
            "copy ok.csv o.parquet --mode postgres://u:hunter2@h/db#t",
            "copy ok.csv o.parquet --mode=postgres://u:hunter2@h/db#t",
            "copy ok.csv o.parquet --target-option password:hunter2",
            "run p.toml --set postgres://u:hunter2@h/db#t",
        ],
    );
}

/// libpq takes it as a parameter too.
#[test]
fn passwords_in_the_parameters_of_a_uri_are_not_shown() {
    let folder = folder_with_csv();
    keeps_the_password(
        folder.path(),
        &[
            "copy az://c/x.csv?sv=1&sig=hunter2 o.parquet",
            "copy ok.csv az://c/x.csv?sv=1&sig=hunter2",
            "copy ok.csv postgres://u@h/db?password=hunter2#t",
            "copy ok.csv postgres://h/db?user=u&password=hunter2#t",
        ],
    );
}

#[test]
fn help_and_completions_are_there() {
    let folder = folder_with_csv();
    for (line, needles) in [
        ("--help", &["copy", "inspect", "Exit codes", "etlrs copy sales.csv"] as &[_]),
        ("copy --help", &["--where", "--mode", "--memory", "replace"]),
        ("run --help", &["--set", "--threads"]),
        ("--version", &["etlrs 0."]),
        ("completions bash", &["complete -F", "etlrs", "--where"]),
        ("completions zsh", &["#compdef etlrs", "--where"]),
        ("completions fish", &["complete -c etlrs", "where"]),
        ("connectors csv", &["delimiter", "--source-option", "--target-option", "formula_guard"]),
    ] {
        let ran = works(folder.path(), line);
        for needle in needles {
            assert!(ran.stdout.contains(needle), "{line} lacks {needle}: {}", ran.stdout);
        }
    }
}

#[test]
fn a_result_for_people_says_what_was_done() {
    let folder = folder_with_csv();
    let ran = works(folder.path(), "copy ok.csv o.parquet --where `a > 1` --verify full");
    for needle in ["ok.csv → o.parquet", "2 rows", "1 rows", "source = target", "1 piece on 1 thread"] {
        assert!(ran.stdout.contains(needle), "no {needle}: {}", ran.stdout);
    }
}

/// A copy of the example as a fresh clone of the repository has it: git keeps no empty folders, and no output.
fn example() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("out")).unwrap();
    for name in ["flights.toml", "flights.csv", "airlines.csv", "out/.gitignore"] {
        fs::copy(root().join("examples/flights").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn the_flights_example_runs_in_a_fresh_clone() {
    let folder = example();
    works(folder.path(), "run flights.toml");
    // What it writes is not shown by git as new.
    let ignored = fs::read_to_string(folder.path().join("out/.gitignore")).unwrap();
    assert!(ignored.lines().any(|line| line == "*"));
}

/// The records of a CSV file without quotes, each a map of its fields.
fn records(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).unwrap();
    assert!(!text.contains('"'));
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().unwrap().split(',').collect();
    let fields =
        |line: &str| header.iter().map(|&name| name.to_owned()).zip(line.split(',').map(str::to_owned)).collect();
    lines.map(fields).collect()
}

#[test]
fn the_flights_example_joins_filters_and_derives() {
    let folder = example();
    let folder = folder.path();
    let all = records(&folder.join("flights.csv"));
    let airlines: BTreeMap<_, _> =
        records(&folder.join("airlines.csv")).into_iter().map(|r| (r["carrier"].clone(), r["name"].clone())).collect();
    let flown: Vec<_> = all.iter().filter(|record| record["dep_time"] != "NA").collect();

    let first = works(folder, "run flights.toml --output json").json();
    let checksum = first[0]["source_checksum"].clone();
    assert_eq!(first.as_array().unwrap().len(), 2);
    for target in first.as_array().unwrap() {
        let rows = ["rows_read", "rows_dropped", "rows_written"].map(|key| target[key].as_u64().unwrap());
        assert_eq!(rows, [all.len(), all.len() - flown.len(), flown.len()].map(|n| n as u64));
        assert_eq!((&target["source_checksum"], &target["target_checksum"]), (&checksum, &checksum));
    }

    // Every row of the database is one of the file, with its airline and what is derived.
    let number = |text: &str| (text != "NA").then(|| text.parse::<i64>().unwrap());
    type Row = (String, i64, String, i64, String, Option<i64>, Option<bool>, Option<u64>);
    let mph = |distance: i64, minutes: i64| ((distance as f64 / (minutes as f64 / 60.0)) * 1e6).round() as u64;
    let mut expected: Vec<Row> = flown
        .iter()
        .map(|r| {
            let (departed, arrived) = (number(&r["dep_delay"]), number(&r["arr_delay"]));
            (
                r["carrier"].clone(),
                r["flight"].parse().unwrap(),
                r["time_hour"].replace('T', " ").replace('Z', "+00:00"),
                r["dep_time"].parse().unwrap(),
                airlines[&r["carrier"]].clone(),
                departed.zip(arrived).map(|(departed, arrived)| departed - arrived),
                arrived.or(departed).map(|delay| delay > 15),
                number(&r["air_time"]).map(|minutes| mph(r["distance"].parse().unwrap(), minutes)),
            )
        })
        .collect();
    expected.sort();
    let database = Connection::open(folder.join("out/flights.db")).unwrap();
    let columns = "carrier, flight, time_hour, dep_time, airline, made_up, late, mph";
    let mut query = database.prepare(&format!("SELECT {columns} FROM flights")).unwrap();
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Row> {
        let mph: Option<f64> = row.get(7)?;
        let mph = mph.map(|mph| (mph * 1e6).round() as u64);
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, mph))
    };
    let mut found: Vec<Row> = query.query_map([], row).unwrap().map(Result::unwrap).collect();
    found.sort();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    drop(query);
    drop(database);

    // Again, from elsewhere, and said in YAML.
    let elsewhere = tempfile::tempdir().unwrap();
    let path = folder.join("flights.toml");
    let again = works(elsewhere.path(), &format!("run {} --output json", path.display())).json();
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "paths are relative to the pipeline file");
    let yaml = "
source: { uri: flights.csv, options: { null_values: NA } }
transform:
  - { type: filter, where: dep_time is not null }
  - { type: lookup, source: airlines.csv, on: { carrier: carrier }, take: { name: airline } }
  - type: derive
    columns:
      made_up: dep_delay - arr_delay
      late: coalesce(arr_delay, dep_delay) > 15
      mph: distance / (air_time / 60)
  - { type: drop, columns: [year, month, day, hour, minute] }
target: { uri: yaml.parquet, verify: full }
";
    write(folder, &[("flights.yaml", yaml.as_bytes())]);
    let yaml = works(folder, "run flights.yaml --output json").json();
    for result in again.as_array().unwrap().iter().chain([&yaml]) {
        assert_eq!(result["target_checksum"], checksum);
    }
    let mut left: Vec<_> = fs::read_dir(folder.join("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".gitignore", "flights.db", "flights.parquet"]);
}

fn with_input(folder: &Path, line: &str, input: &[u8]) -> std::process::Output {
    let mut child = etlrs(PROGRAM, folder, &words(line))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A program that refuses its input closes it.
    let _ = std::io::Write::write_all(&mut stdin, input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

#[test]
fn standard_input_is_a_source() {
    let folder = folder_with_csv();
    let folder = folder.path();
    let rows: String = (0..50_000).map(|n| format!("{n};x\n")).collect();
    let input = format!("id;note\n{rows}");
    for (line, target) in [("copy - a.csv --no-progress", "a.csv"), ("copy csv:- b.csv --no-progress", "b.csv")] {
        let ran = with_input(folder, line, input.as_bytes());
        assert!(ran.status.success(), "{line}: {ran:?}");
        assert_eq!(fs::read_to_string(folder.join(target)).unwrap(), input.replace(';', ","));
    }
    let seen = with_input(folder, "inspect - --output json", input.as_bytes());
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    let delimiter = &seen["found"][0];
    assert_eq!((&delimiter["item"], &delimiter["value"]), (&"delimiter".into(), &";".into()), "{seen}");
    let refused = with_input(folder, "copy ok.csv -", b"");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("standard output is not served yet"), "{refused:?}");
    let text = with_input(folder, "inspect -", input.as_bytes());
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("delimiter ; (2 fields in each of"), "{text}");
    let plan = with_input(folder, "plan - c.csv", input.as_bytes());
    assert!(String::from_utf8_lossy(&plan.stdout).contains("note: delimiter is ; (2 fields"), "{plan:?}");
}

#[test]
fn a_pattern_is_a_source() {
    let folder = folder_with_csv();
    let folder = folder.path();
    write(folder, &[("p-1.csv", b"a,b\n1,2\n"), ("p-2.csv", b"b;a\n4;3\n")]);
    works(folder, "copy p-*.csv out.csv --no-progress");
    assert_eq!(fs::read_to_string(folder.join("out.csv")).unwrap(), "a,b\n1,2\n3,4\n");
}

#[test]
fn what_would_double_rows_is_refused() {
    let folder = folder_with_csv();
    let rows = fs::read_to_string(folder.path().join("ok.csv")).unwrap();
    let ran = run_line(folder.path(), "copy ok.csv ./ok.csv --mode append");
    assert!(ran.code == 2 && ran.stderr.contains("the source is the target"), "{ran:?}");
    assert_eq!(fs::read_to_string(folder.path().join("ok.csv")).unwrap(), rows);
    works(folder.path(), "copy ok.csv sqlite:s.db#t");
    for line in ["plan sqlite:s.db#t o.csv --mode append", "copy sqlite:s.db#t o.csv --mode append"] {
        let ran = run_line(folder.path(), &format!("{line} --source-option cursor=a --source-option cursor_lag=1"));
        assert!(ran.code == 2 && ran.stderr.contains("a cursor with a lag reads rows again"), "{ran:?}");
    }
}
