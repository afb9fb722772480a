//! Targets that are no longer what was loaded, and sources that never were.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use etlrs::{CompareOptions, OptionMap, Result, Uri, Verification, pipeline, registry};
use etlrs_tests::corruption::{self, Corruption, Dialect};
use etlrs_tests::random::Random;
use etlrs_tests::{run, write_csv};

use super::{PROGRAM, run_line, works};

fn compare(source: &Path, target: &str, keys: &[&str]) -> Result<Verification> {
    let registry = registry();
    let (source, target, none) = (Uri::from(source.to_str().unwrap()), Uri::from(target), OptionMap::new());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let pipeline = pipeline(&registry, (&source, &none), (&target, &none))?.build()?;
        let mut options = CompareOptions::default();
        options.keys = keys.iter().map(|key| (*key).to_owned()).collect();
        pipeline.compare(registry.find(&target)?.extractor(&target, &none)?, &options).await
    })
}

/// With those of the servers a thousand.
const CORRUPTIONS: usize = 250;

/// Every one of many single corruptions is found, and told as what it is. `corrupt` makes it of the target, or mends it.
fn find_all(target: &str, corrupt: impl Fn(&Path, &corruption::Rows, Option<&Corruption>)) {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new();
    let rows = corruption::rows(&mut random, 300);
    let source = folder.path().join("s.csv");
    corruption::write(&source, &rows);
    let ran = run(PROGRAM, folder.path(), &["copy", "s.csv", target, "--partitions", "3", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let place = folder.path().join(target.strip_prefix("sqlite:").unwrap_or(target));
    let target =
        if target.starts_with("sqlite:") { format!("sqlite:{}", place.display()) } else { place.display().to_string() };
    for keys in [&["id"][..], &[]] {
        let found = compare(&source, &target, keys).unwrap();
        assert!(found.is_equal() && found.source.checksum.rows() == 300, "{found:?}");
    }
    for index in 0..CORRUPTIONS {
        let wrong = Corruption::new(&mut random, &rows);
        let what = format!("{target} {index}, seed {}: {wrong:?}", random.seed);
        corrupt(&place, &rows, Some(&wrong));
        let [missing, changed, unexpected] = wrong.expected();
        let found = compare(&source, &target, &["id"]).unwrap();
        assert!(!found.is_equal(), "{what}");
        assert_eq!([found.missing, found.changed, found.unexpected], wrong.expected(), "{what}");
        assert!(found.is_whole && !found.examples.is_empty(), "{what}");
        // Without a key a row that changed is one that is missing, and another one.
        let found = compare(&source, &target, &[]).unwrap();
        assert!(!found.is_equal(), "{what}");
        let expected = [missing + changed, 0, unexpected + changed];
        assert_eq!([found.missing, found.changed, found.unexpected], expected, "{what}");
        let pieces = |side: &etlrs::Side| side.differing.iter().map(|(_, rows)| rows).sum::<u64>();
        assert_eq!([pieces(&found.source), pieces(&found.target)], [expected[0], expected[2]], "{what}");
        corrupt(&place, &rows, None);
    }
    assert!(compare(&source, &target, &["id"]).unwrap().is_equal());
}

#[test]
fn each_corruption_of_a_csv_file_is_found() {
    find_all("t.csv", |place, rows, wrong| {
        corruption::write(place, &wrong.map_or_else(|| rows.clone(), |wrong| wrong.of(rows)));
    });
}

#[test]
fn each_corruption_of_a_sqlite_table_is_found() {
    find_all("sqlite:t.db#t", |place, rows, wrong| {
        let path = place.to_str().unwrap().strip_suffix("#t").unwrap();
        let database = rusqlite::Connection::open(path).unwrap();
        database.execute_batch("CREATE TABLE IF NOT EXISTS saved AS SELECT * FROM t").unwrap();
        database
            .execute_batch(&wrong.map_or_else(
                || "DELETE FROM t; INSERT INTO t SELECT * FROM saved".to_owned(),
                |wrong| wrong.sql(rows, Dialect::Sqlite),
            ))
            .unwrap();
    });
}

#[test]
fn each_corruption_of_a_directory_of_parquet_files_is_found() {
    use etlrs::RecordBatch;
    use etlrs::arrow_array::StringArray;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    // Written by another program, in files of 100 rows.
    find_all("t.parquet/", |place, rows, wrong| {
        let rows = wrong.map_or_else(|| rows.clone(), |wrong| wrong.of(rows));
        let files = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "parquet")).collect();
        files.sort();
        let mut parts = rows.chunks(rows.len().div_ceil(files.len()));
        for path in files {
            let file = fs::File::open(&path).unwrap();
            let schema = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().schema().clone();
            let part = parts.next().unwrap();
            let column = |(at, field): (usize, &Arc<etlrs::Field>)| {
                let texts: StringArray = part.iter().map(|row| row[at].as_deref()).collect();
                arrow_cast::cast(&texts, field.data_type()).unwrap()
            };
            let columns = schema.fields().iter().enumerate().map(column).collect();
            let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), schema.clone(), None).unwrap();
            writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
            writer.close().unwrap();
        }
    });
}

/// A folder with a CSV file of 5 000 records.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_csv(&folder.path().join("s.csv"), 5000, 1);
    folder
}

#[test]
fn all_that_is_copied_is_equal_whatever_its_format() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    let targets = ["a.csv", "a.csv.gz", "a.ndjson", "a.json", "a.parquet", "b.parquet/", "b.csv/", "sqlite:a.db#a"];
    for target in targets {
        let ran = run(&["copy", "s.csv", target, "--no-progress"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let ran = run(&["verify", "s.csv", target]);
        assert_eq!(ran.code, 0, "{target}: {ran:?}");
        assert!(ran.stdout.starts_with(&format!("s.csv = {target}\n  rows      5,000\n")), "{ran:?}");
    }
    for source in targets {
        for target in targets {
            let ran = run(&["verify", source, target, "--key", "id"]);
            assert_eq!(ran.code, 0, "{source} and {target}: {ran:?}");
        }
    }
}

#[test]
fn what_was_copied_in_part_is_compared_in_part() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    let copy = ["s.csv", "t.parquet", "--columns", "name,id", "--where", "id < 1000"];
    let ran = run(&[&["copy"], &copy[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = run(&[&["verify"], &copy[..]].concat());
    assert!(ran.code == 0 && ran.stdout.contains("  rows      1,000\n"), "{ran:?}");
    let ran = run(&["verify", "s.csv", "t.parquet", "--columns", "name,id"]);
    assert!(ran.code == 1 && ran.stdout.contains("  differ    4,000 rows missing\n"), "{ran:?}");
    let ran = run(&["verify", "s.csv", "t.parquet"]);
    assert!(ran.code == 1 && ran.stderr.contains("the target has no such column; it has name, id"), "{ran:?}");
    // The other way round there are columns that are not compared.
    let ran = run(&["verify", "t.parquet", "s.csv"]);
    assert!(ran.stdout.contains("the target has columns that are not compared: version, amount"), "{ran:?}");
    assert!(ran.stdout.contains("  differ    4,000 rows unexpected\n"), "{ran:?}");
}

#[test]
fn rows_are_named_on_request_and_repaired() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    let ran = run(&["copy", "s.csv", "sqlite:t.db#t", "--mode", "merge", "--key", "id", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let database = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    database.execute_batch("UPDATE t SET name = 'hunter2' WHERE id = 17; DELETE FROM t WHERE id IN (3, 4)").unwrap();

    // The key is that of the table. Values are data, and are not shown without being asked for.
    let ran = run(&["verify", "s.csv", "sqlite:t.db#t"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.contains("  differ    2 rows missing, 1 row changed\n  key       id\n"), "{ran:?}");
    assert!(ran.stdout.contains("  source    s.csv, bytes "), "{ran:?}");
    assert!(!ran.stdout.contains("hunter2") && ran.stderr.contains("--repair loads those again"), "{ran:?}");
    let ran = run(&["verify", "s.csv", "sqlite:t.db#t", "--show", "9"]);
    assert!(ran.stdout.contains("  changed   id 17: name name") && ran.stdout.contains(" became hunter2\n"), "{ran:?}");
    assert!(ran.stdout.contains("  missing   id 3, version 1, "), "{ran:?}");
    let found = run(&["verify", "s.csv", "sqlite:t.db#t", "--show", "9", "--output", "json"]).stdout;
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!((&found["equal"], &found["missing"], &found["changed"]), (&false.into(), &2.into(), &1.into()));
    assert_eq!(found["examples"][2]["target"]["values"]["name"], "hunter2");

    let ran = run(&["verify", "s.csv", "sqlite:t.db#t", "--repair"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("  written ") && ran.stdout.contains("\ns.csv = sqlite:t.db#t\n"), "{ran:?}");
    assert_eq!(run(&["verify", "s.csv", "sqlite:t.db#t"]).code, 0);

    // A row too many stays, and is told.
    database.execute_batch("INSERT INTO t (id, name) VALUES (-1, 'x'); DELETE FROM t WHERE id = 9").unwrap();
    let ran = run(&["verify", "s.csv", "sqlite:t.db#t", "--repair"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.stderr.contains("the target differs: 1 row unexpected; rows that only the target has are to be removed"),
        "{ran:?}"
    );

    // What has no key, or no mode merge, is loaded as a whole.
    let ran = run(&["copy", "s.csv", "t.csv", "--where", "id > 5", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = run(&["verify", "s.csv", "t.csv", "--repair", "--key", "id"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("this target has no mode merge, so single rows cannot be loaded again"), "{ran:?}");
}

#[test]
fn more_that_differs_than_memory_holds_is_told_as_that() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    write_csv(&folder.path().join("big.csv"), 60_000, 1);
    write_csv(&folder.path().join("other.csv"), 60_000, 2);
    let ran = run(&["verify", "big.csv", "other.csv", "--memory", "3MB", "--key", "id"]);
    assert!(ran.code == 1 && ran.stdout.contains("  differ    at least "), "{ran:?}");
    let ran = run(&["verify", "big.csv", "other.csv", "--key", "id"]);
    assert!(ran.code == 1 && ran.stdout.contains("  differ    60,000 rows changed\n"), "{ran:?}");
}

#[test]
fn a_pipeline_is_compared_with_what_it_loaded() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    let pipeline = "[source]\nuri = \"s.csv\"\n[[transform]]\ntype = \"filter\"\nwhere = \"flag\"\n
        [target]\nuri = \"t.csv\"\n[target.options]\ndelimiter = \";\"\n";
    fs::write(folder.path().join("p.toml"), pipeline).unwrap();
    let ran = run(&["run", "p.toml", "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = run(&["verify", "p.toml"]);
    assert!(ran.code == 0 && ran.stdout.starts_with("s.csv = t.csv\n"), "{ran:?}");
    let text = fs::read_to_string(folder.path().join("t.csv")).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    fs::write(folder.path().join("t.csv"), format!("{header}\n{}", rows.replacen("name", "Name", 1))).unwrap();
    let ran = run(&["verify", "p.toml", "--key", "id"]);
    assert!(ran.code == 1 && ran.stdout.contains("  differ    1 row changed\n"), "{ran:?}");
}

#[test]
fn a_repair_runs_no_sql_of_the_load_and_sets_nothing_aside_again() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    let database = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    database.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); CREATE TABLE log (n INTEGER)").unwrap();
    fs::write(
        folder.path().join("p.toml"),
        "[source]\nuri = \"a.csv\"\n[source.options]\ntypes = \"id:int64\"\n
        [target]\nuri = \"sqlite:t.db#t\"\nmode = \"append\"\n[target.options]\npre_sql = \"DELETE FROM t\"\n
        post_sql = \"INSERT INTO log VALUES (1)\"\n[errors]\non_error = \"quarantine\"\nquarantine = \"q.csv\"\n",
    )
    .unwrap();
    fs::write(folder.path().join("a.csv"), "id,x\n1,a\n2,b\nthree,c\n4,d\n").unwrap();
    assert_eq!(run(&["run", "p.toml", "--no-progress"]).code, 3);
    let quarantine = fs::read(folder.path().join("q.csv")).unwrap();
    let ran = run(&["verify", "p.toml"]);
    assert!(ran.code == 0 && ran.stdout.contains("  rejected  1 record of the source"), "{ran:?}");
    database.execute_batch("UPDATE t SET x = 'z' WHERE id = 2; INSERT INTO t VALUES (9, 'y')").unwrap();
    let ran = run(&["verify", "p.toml", "--key", "id", "--repair"]);
    assert!(ran.code == 1 && ran.stderr.contains("1 row unexpected; rows that only the target has"), "{ran:?}");
    let left: String = database.query_row("SELECT group_concat(id || x, ' ') FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(left, "1a 2b 4d 9y");
    let runs: i64 = database.query_row("SELECT count(*) FROM log", [], |row| row.get(0)).unwrap();
    assert_eq!(runs, 1);
    assert_eq!(fs::read(folder.path().join("q.csv")).unwrap(), quarantine);
}

#[test]
fn a_value_that_is_of_no_type_is_one_that_changed() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    fs::write(folder.path().join("a.csv"), "id,n,x\n1,5,a\n2,6,b\n").unwrap();
    for (target, text) in [("b.csv", "id,n,x\n1,5,a\n2,six,b\n"), ("c.csv", "id,n,x\n1,5,a\n2,6.5,b\n")] {
        fs::write(folder.path().join(target), text).unwrap();
        let ran = run(&["verify", "a.csv", target, "--key", "id", "--show", "2"]);
        assert!(ran.code == 1 && ran.stdout.contains("  differ    1 row changed\n"), "{ran:?}");
        assert!(ran.stdout.contains("  changed   id 2: n 6 became "), "{ran:?}");
    }
    // What is less exact at its source is not asked more exactly of its target.
    let types = "types=amount:float32";
    let ran = run(&["copy", "s.csv", "f.parquet", "--source-option", types, "--no-progress"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(run(&["copy", "f.parquet", "f.csv", "--no-progress"]).code, 0);
    let ran = run(&["verify", "f.parquet", "f.csv"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn memory_does_not_grow_with_the_pieces() {
    let folder = folder();
    fs::create_dir(folder.path().join("many")).unwrap();
    for n in 0..600 {
        fs::write(folder.path().join(format!("many/{n:04}.csv")), format!("id,x\n{n},{n}\n")).unwrap();
    }
    assert_eq!(run(PROGRAM, folder.path(), &["copy", "many/*.csv", "many.parquet", "--no-progress"]).code, 0);
    let arguments = ["verify", "many/*.csv", "many.parquet", "--memory", "16MB"];
    let peak = etlrs_tests::peak_memory(PROGRAM, folder.path(), &arguments);
    assert!(peak < 80 << 20, "{peak}");
}

#[test]
fn of_several_tables_each_is_compared() {
    let folder = folder();
    let run = |arguments: &[&str]| run(PROGRAM, folder.path(), arguments);
    for (name, tables) in [("a.db", "abc"), ("b.db", "ac")] {
        let database = rusqlite::Connection::open(folder.path().join(name)).unwrap();
        for table in tables.chars() {
            database
                .execute_batch(&format!("CREATE TABLE {table} (x); INSERT INTO {table} VALUES ('{table}')"))
                .unwrap();
        }
    }
    let ran = run(&["verify", "sqlite:a.db#*", "sqlite:b.db#*"]);
    assert!(ran.code == 1 && ran.stdout.contains("sqlite:a.db#c = sqlite:b.db#c\n"), "{ran:?}");
    assert!(ran.stderr.contains("no table \"b\"") || ran.stderr.contains("#b"), "{ran:?}");
    assert!(ran.stderr.ends_with("error: not all targets are as they should be\n"), "{ran:?}");
    let ran = run(&["verify", "sqlite:a.db#*", "sqlite:b.db#*", "--output", "json"]);
    let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let equal: Vec<_> = found.as_array().unwrap().iter().map(|one| one["equal"].as_bool()).collect();
    assert_eq!(equal, [Some(true), None, Some(true)], "{ran:?}");
}

#[test]
fn a_text_is_no_number_and_a_time_no_date() {
    let folder = folder();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("zip7.csv", "id,zip\n1,7\n2,8\n");
    write("zip007.csv", "id,zip\n1,007\n2,8\n");
    write("day.csv", "id,v\n1,2024-01-02\n2,2024-01-03\n");
    write("time.csv", "id,v\n1,2024-01-02T12:34:56\n2,2024-01-03\n");
    for (one, other) in [("zip7.csv", "zip007.csv"), ("day.csv", "time.csv")] {
        for (source, target) in [(one, other), (other, one)] {
            let ran = run(PROGRAM, folder.path(), &["verify", source, target, "--key", "id"]);
            assert!(ran.code == 1 && ran.stdout.contains("  differ    1 row changed\n"), "{source} {target}: {ran:?}");
        }
    }
}

#[test]
fn a_key_that_comes_twice_is_not_repaired() {
    let folder = folder();
    fs::write(folder.path().join("a.csv"), "id,v\n1,a\n1,b\n2,c\n").unwrap();
    let database = rusqlite::Connection::open(folder.path().join("t.db")).unwrap();
    database
        .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'c')")
        .unwrap();
    let ran = run(PROGRAM, folder.path(), &["verify", "a.csv", "sqlite:t.db#t", "--repair"]);
    assert!(ran.code == 1 && ran.stderr.contains("the source has a key twice among the rows that differ"), "{ran:?}");
    let left: String = database.query_row("SELECT group_concat(id || v) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(left, "1a,2c");
}

#[test]
fn only_what_changed_is_shown_as_changed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("s.csv"), "id,at,dest\n1,2013-01-01T10:00:00Z,MIA\n").unwrap();
    works(folder, "copy s.csv s.parquet --source-option types=at:timestamptz");
    std::fs::write(folder.join("t.csv"), "id,at,dest\n1,2013-01-01 10:00:00,X\n").unwrap();
    let ran = run_line(folder, "verify s.parquet t.csv --target-option types=at:timestamp --key id --show 1");
    assert!(ran.code == 1 && ran.stdout.contains("  changed   id 1: dest MIA became X\n"), "{ran:?}");
}
