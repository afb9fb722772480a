//! What was set aside is loaded once more, with the program as a whole.

use std::fmt::Write as _;

use etlrs_tests::random::Random;

use super::*;

/// The rows of an NDJSON file, whatever their order.
fn lines(folder: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join(name)).unwrap_or_default();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The raw texts of a quarantine, whatever their order.
fn raws(folder: &Path, place: &str) -> Vec<Vec<u8>> {
    if !folder.join(place).exists() {
        return Vec::new();
    }
    let copy = tempfile::tempdir().unwrap();
    let database = copy.path().join("q.db");
    let ran = run(PROGRAM, folder, &["copy", place, &format!("sqlite:{}#q", database.display())]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let connection = Connection::open(database).unwrap();
    // Bytes, or the digits of bytes where only text is kept.
    let mut query = connection.prepare("SELECT CAST(raw AS blob) FROM q ORDER BY 1").unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A CSV file of records that all have no number in the first column, some of them broken.
fn write_random(random: &mut Random, path: &Path, delimiter: char, comment: Option<char>) -> String {
    let end = if random.below(3) == 0 { "\r\n" } else { "\n" };
    let mut text = format!("a{delimiter}\"b {delimiter} \"\"b\"{delimiter}c{end}");
    let characters: Vec<char> = "ab ,;\t\"\n'#\\é1".chars().collect();
    for record in 0..random.below(40) + 1 {
        if comment.is_some() && random.below(9) == 0 {
            write!(text, "# a comment{end}").unwrap();
        }
        let field = |random: &mut Random| {
            let field: String = (0..random.below(7)).map(|_| characters[random.below(characters.len())]).collect();
            let is_plain = !field.contains(['"', '\n', delimiter]) && !field.starts_with('#');
            // Not all of those that need quotes get them.
            if random.below(60) == 0 || is_plain && random.below(4) > 0 {
                field
            } else {
                format!("\"{}\"", field.replace('"', "\"\""))
            }
        };
        let (b, c) = (field(random), field(random));
        write!(text, "x{record}{delimiter}{b}{delimiter}{c}{end}").unwrap();
    }
    fs::write(path, &text).unwrap();
    text
}

/// Records are read by themselves as they are read in their file, and what is broken there is broken by itself.
#[test]
fn records_by_themselves_are_what_they_were() {
    let mut random = Random::new();
    let seed = random.seed;
    for case in 0..25 {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (name, delimiter) = [("comma", ','), ("semicolon", ';'), ("tab", '\t')][random.below(3)];
        let comment = (random.below(3) == 0).then_some('#');
        let text = write_random(&mut random, &folder.join("a.csv"), delimiter, comment);
        let what = format!("seed {seed}, case {case}, {name}, {comment:?}: {text:?}");
        let delimiter = if delimiter == '\t' { "tab".to_owned() } else { delimiter.to_string() };
        let comment = comment.map_or("none".to_owned(), String::from);
        let read = |types: &str| {
            format!(
                "--source-option delimiter={delimiter} --source-option quote=\" --source-option comment={comment} \
                     --source-option header=true --source-option infer=false --source-option types={types}"
            )
        };
        let ran = run_line(folder, &format!("copy a.csv plain.ndjson --quarantine plain.parquet {}", read("a:text")));
        assert!([0, 3].contains(&ran.code), "{what}: {ran:?}");
        let ran = run_line(folder, &format!("copy a.csv first.ndjson --quarantine q.parquet {}", read("a:int64")));
        assert!([0, 3].contains(&ran.code), "{what}: {ran:?}");
        let line = "replay q.parquet again.ndjson --of-target first.ndjson --source-option types=a:text";
        let ran = run_line(folder, line);
        assert!([0, 3].contains(&ran.code), "{what}: {ran:?}");
        // A record that begins behind an open quote may have nothing where the number should be.
        let mut found = [lines(folder, "first.ndjson"), lines(folder, "again.ndjson")].concat();
        found.sort();
        assert_eq!(found, lines(folder, "plain.ndjson"), "{what}");
        assert_eq!(raws(folder, "q.parquet"), raws(folder, "plain.parquet"), "{what}");
    }
}

#[test]
fn what_is_corrected_in_the_quarantine_is_loaded_in_place_of_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), SMALL).unwrap();
    let copy = format!("copy a.csv o.ndjson --quarantine sqlite:q.db#q {TYPES}");
    assert_eq!(json(folder, &copy, 3)["rows_rejected"], 4);
    let database = Connection::open(folder.join("q.db")).unwrap();
    database
        .execute_batch(
            "UPDATE q SET fixed = '2,2024-01-02,two' WHERE record = 2; UPDATE q SET fixed = '3,2024-01-03,a
4,2024-01-04,b' WHERE record = 3; UPDATE q SET fixed = '' WHERE record = 4;
             UPDATE q SET fixed = '5,2024-01-05,\"with, \"\"quotes\"\"
and lines\"' WHERE record = 5",
        )
        .unwrap();
    let ran = run_line(folder, "replay sqlite:q.db#q o.ndjson");
    assert_eq!((ran.code, ran.stderr.as_str()), (3, ""), "{ran:?}");
    assert!(ran.stdout.ends_with("2 rows replayed, 2 records failed again\n"), "{ran:?}");
    let expected = [
        r#"{"id":1,"day":"2024-01-01","note":"x"}"#,
        r#"{"id":2,"day":"2024-01-02","note":"two"}"#,
        r#"{"id":5,"day":"2024-01-05","note":"with, \"quotes\"\nand lines"}"#,
        r#"{"id":6,"day":"2024-01-06","note":"z"}"#,
    ];
    assert_eq!(lines(folder, "o.ndjson"), expected);
    let mut query = database.prepare("SELECT record, reason, fixed IS NULL, replay FROM q ORDER BY record").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    let rows: Vec<(i64, String, bool, Option<String>)> = rows.map(Result::unwrap).collect();
    // A text that says nothing is none, so the record is tried as it was.
    let [(3, several, false, None), (4, quote, false, None)] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(several, "the text is more than one record; each row of a quarantine is one record");
    assert!(quote.starts_with("the closing quote"), "{quote}");
    drop(query);
    database.execute_batch("UPDATE q SET fixed = record || ',2024-01-01,'").unwrap();
    let result = json(folder, "replay sqlite:q.db#q o.ndjson", 0);
    assert_eq!(result[0]["rows_written"], 2, "{result}");
    assert_eq!(database.query_row("SELECT count(*) FROM q", [], |row| row.get(0)), Ok(0));
    let ran = run_line(folder, "replay sqlite:q.db#q o.ndjson");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "nothing was replayed\n"));
    assert_eq!(json(folder, "replay sqlite:q.db#q o.ndjson", 0), Value::Array(Vec::new()));
}

const PIPELINE: &str = "
[source]
uri = 'a.csv'
options = { types = 'id:int64,n:text,b:text' }
[[transform]]
type = 'derive'
columns = { twice = 'id * 2' }
[[transform]]
type = 'cast'
columns = { n = 'int64' }
[[transform]]
type = 'derive'
columns = { twice = 'twice + n' }
[target]
uri = 'sqlite:t.db#t'
mode = 'append'
[errors]
quarantine = 'q.parquet'
";

#[test]
fn a_record_goes_on_where_it_was_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), "id,n,b\n1,10,x\nno,20,x\n3,many,x\n4,400,x\n5,50,x\n").unwrap();
    fs::write(folder.join("p.toml"), PIPELINE).unwrap();
    let database = Connection::open(folder.join("t.db")).unwrap();
    let table = "CREATE TABLE t (id INTEGER, n INTEGER CHECK (n < 100), b TEXT, twice INTEGER)";
    database.execute_batch(table).unwrap();
    let result = json(folder, "run p.toml", 3);
    assert_eq!(result["rows_rejected"], 3, "{result}");
    // Without the transformers only what had been through them can be loaded.
    let ran = run_line(folder, "replay q.parquet sqlite:t.db#t");
    assert_eq!(ran.code, 3, "{ran:?}");
    let stay = |stage: &str| format!("1 records of the stage {stage} stay, for they have to go through transformers");
    assert!(ran.stderr.contains(&stay("source")) && ran.stderr.contains(&stay("cast")), "{ran:?}");
    assert!(ran.stdout.contains("0 rows replayed, 1 record failed again\n"), "{ran:?}");
    database
        .execute_batch("ALTER TABLE t RENAME TO o; CREATE TABLE t (id INTEGER, n INTEGER, b TEXT, twice INTEGER); INSERT INTO t SELECT * FROM o; DROP TABLE o")
        .unwrap();
    // The second kind of number is read by now, and so is the first.
    fs::write(folder.join("p.toml"), PIPELINE.replace("'int64' }", "'int64' }\npolicy = 'null'")).unwrap();
    let ran = run_line(folder, "replay q.parquet p.toml --source-option null_values=no");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stdout.ends_with("3 rows replayed, none failed again\n"), "{ran:?}");
    let mut query = database.prepare("SELECT id, n, twice FROM t ORDER BY n").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let rows: Vec<(Option<i64>, Option<i64>, Option<i64>)> = rows.map(Result::unwrap).collect();
    let all = |id, n| (Some(id), Some(n), Some(2 * id + n));
    assert_eq!(rows, [(Some(3), None, None), all(1, 10), (None, Some(20), None), all(5, 50), all(4, 400)]);
    assert!(raws(folder, "q.parquet").is_empty());
}

#[test]
fn a_quarantine_of_several_targets_is_replayed_into_each() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (source, target) in [("a", "x"), ("b", "y")] {
        fs::write(folder.join(format!("{source}.csv")), format!("id\n1\n{source}\n")).unwrap();
        let line = format!("copy {source}.csv {target}.ndjson --quarantine q.ndjson --source-option types=id:int64");
        assert_eq!(json(folder, &line, 3)["rows_rejected"], 1);
    }
    let line = "replay q.ndjson ./x.ndjson --source-option null_values=a,b";
    let ran = run_line(folder, line);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.contains("1 row replayed, none failed again\n"), "{ran:?}");
    assert_eq!(ran.stderr, "1 records that were to go to y.ndjson stay\n");
    assert_eq!(lines(folder, "x.ndjson"), [r#"{"id":1}"#, r#"{"id":null}"#]);
    assert_eq!(lines(folder, "y.ndjson"), [r#"{"id":1}"#]);
    assert_eq!(raws(folder, "q.ndjson").len(), 1);
    let ran = run_line(folder, "replay q.ndjson y.ndjson --source-option null_values=a,b");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(lines(folder, "y.ndjson"), [r#"{"id":1}"#, r#"{"id":null}"#]);
}

/// Killed when all is loaded and nothing is taken out of the quarantine.
#[test]
fn what_was_loaded_is_not_loaded_again_whatever_came_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let load = |id: u32| {
        fs::write(folder.join("a.csv"), format!("id,n\n{id},1\n{},no\n{},never\n", id + 1, id + 2)).unwrap();
        let line = "copy a.csv o.ndjson --mode append --quarantine q.parquet --source-option types=id:int64,n:int64";
        assert_eq!(json(folder, line, 3)["rows_rejected"], 2);
    };
    load(0);
    let line = "replay q.parquet o.ndjson --source-option null_values=no";
    let arguments: Vec<_> = line.split_whitespace().collect();
    let killed = Ran::of(&etlrs(PROGRAM, folder, &arguments).env(KILL_AT, "replay-loaded:1").output().unwrap());
    assert_eq!(killed.code, -9, "{killed:?}");
    assert_eq!(raws(folder, "q.parquet").len(), 3);
    // Of another target, so that the mark stays.
    fs::write(folder.join("b.csv"), "id,n\n10,no\n11,never\n").unwrap();
    let other = "copy b.csv other.ndjson --quarantine q.parquet --source-option types=id:int64,n:int64";
    assert_eq!(json(folder, other, 3)["rows_rejected"], 2);
    // With other options, of which the first attempt knew nothing.
    // And with a choice that leaves out what it had taken.
    for (line, code) in [
        ("replay q.parquet o.ndjson --only-run 00000000000000000000000000", 3),
        ("replay q.parquet o.ndjson --source-option null_values=no,never", 0),
    ] {
        let ran = run_line(folder, line);
        assert_eq!(ran.code, code, "{ran:?}");
        assert_eq!(ran.stderr.contains("had loaded its records before it was stopped"), code == 3, "{ran:?}");
    }
    assert_eq!(lines(folder, "o.ndjson"), [r#"{"id":0,"n":1}"#, r#"{"id":1,"n":null}"#, r#"{"id":2,"n":null}"#]);
    assert_eq!(raws(folder, "q.parquet").len(), 2);
}

/// Whoever resumes a run wants that one, and no other instead.
#[test]
fn a_replay_is_resumed_and_never_begun_anew() {
    // The first load is that of the records into a place where they can be looked at.
    for kill_at in ["run-staged:2", "replay-loaded:1", "replay-completed:1"] {
        for is_overtaken in [false, true] {
            let what = format!("{kill_at}, overtaken: {is_overtaken}");
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            fs::write(folder.join("a.csv"), "id,n\n0,1\n1,no\n2,never\n").unwrap();
            let line =
                "copy a.csv o.ndjson --mode append --quarantine q.parquet --source-option types=id:int64,n:int64";
            assert_eq!(json(folder, line, 3)["rows_rejected"], 2);
            let replay = ["replay", "q.parquet", "o.ndjson", "--source-option", "null_values=no"];
            let killed = Ran::of(&etlrs(PROGRAM, folder, &replay).env(KILL_AT, kill_at).output().unwrap());
            assert_eq!(killed.code, -9, "{what}: {killed:?}");
            let mut names =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let run =
                names.find_map(|name| Some(name.strip_prefix(".o.ndjson.etlrs-")?.strip_suffix(".ledger")?.to_owned()));
            let run = run.unwrap_or_else(|| panic!("{what}: no ledger"));
            let is_loaded = kill_at != "run-staged:2";
            let mut expected = vec![r#"{"id":0,"n":1}"#.to_owned()];
            if is_overtaken {
                if is_loaded {
                    expected.push(r#"{"id":1,"n":null}"#.to_owned());
                }
                // It removes what the replay left.
                fs::write(folder.join("b.csv"), "id,n\n7,7\n").unwrap();
                assert_eq!(run_line(folder, "copy b.csv o.ndjson --mode append").code, 0);
                expected.push(r#"{"id":7,"n":7}"#.to_owned());
                let ran = run_line(folder, &format!("resume {run}"));
                assert_eq!(ran.code, 1, "{what}: {ran:?}");
                assert!(ran.stderr.contains(&format!("the run {run} cannot go on: nothing is left of it")), "{ran:?}");
            } else {
                let ran = run_line(folder, &format!("resume {run}"));
                assert!([0, 3].contains(&ran.code), "{what}: {ran:?}");
                expected.push(r#"{"id":1,"n":null}"#.to_owned());
                assert_eq!(raws(folder, "q.parquet").len(), 1, "{what}: {ran:?}");
                let ran = run_line(folder, &format!("resume {run}"));
                assert_ne!(ran.code, 0, "{what}: {ran:?}");
            }
            assert_eq!(lines(folder, "o.ndjson"), expected, "{what}");
        }
    }
}

/// Bytes are digits in JSON, and come back as bytes.
#[test]
fn rows_that_a_table_refused_have_the_types_that_they_had() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let source = Connection::open(folder.join("a.db")).unwrap();
    source
        .execute_batch(
            "CREATE TABLE t (id INTEGER, data BLOB, day DATE, price DECIMAL(10, 3), note TEXT);
             INSERT INTO t VALUES (1, x'00ff31', '2024-02-29', '0.100', '007'), (2, NULL, NULL, NULL, '')",
        )
        .unwrap();
    let target = Connection::open(folder.join("b.db")).unwrap();
    let table = "(id INTEGER CHECK (id > 5), data BLOB, day DATE, price DECIMAL(10, 3), note TEXT)";
    target.execute_batch(&format!("CREATE TABLE t {table}")).unwrap();
    let line = "copy sqlite:a.db#t sqlite:b.db#t --mode append --quarantine q.csv";
    assert_eq!(json(folder, line, 3)["rows_rejected"], 2);
    target.execute_batch(&format!("DROP TABLE t; CREATE TABLE t {}", table.replace("> 5", "> 0"))).unwrap();
    let ran = run_line(folder, "replay q.csv sqlite:b.db#t --verify full");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let rows = |database: &Connection| -> Vec<String> {
        let sql = "SELECT quote(id) || quote(data) || quote(day) || quote(price) || quote(note) FROM t ORDER BY id";
        database.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(rows(&target), rows(&source));
    assert_eq!(run_line(folder, "verify sqlite:a.db#t sqlite:b.db#t").code, 0);
}

#[test]
fn what_cannot_be_replayed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), SMALL).unwrap();
    assert_eq!(run_line(folder, &format!("copy a.csv o.csv --quarantine q.csv {TYPES}")).code, 3);
    fs::write(folder.join("p.csv"), "a,b\n1,2\n").unwrap();
    let before = fs::read(folder.join("q.csv")).unwrap();
    for (line, code, told) in [
        ("replay no.parquet o.csv", 1, "no.parquet"),
        ("replay p.csv o.csv", 2, "there is no column \"run\""),
        ("replay q.csv q.csv", 2, "in the same place as the target"),
        ("replay q.csv o.csv --mode replace", 2, "its mode cannot be replace"),
        ("replay q.csv o.csv --source-option header=false", 2, "the option header is for files"),
        ("replay q.csv o.csv --set a=b", 2, "--set is for a pipeline file"),
        ("replay q.csv o.csv --only-run 1", 2, "no id of a run"),
        ("replay q.csv o.csv --source-option delimeter=;", 2, "did you mean delimiter"),
        ("replay q.csv o.csv --max-errors 2", 1, "more than the 2 records"),
        ("replay q.csv sqlite:t.db#t --of-target o.csv --max-errors 0", 1, "max_errors allows none"),
    ] {
        let error = refused(folder, line, code);
        assert!(error.contains(told) && error.lines().count() == 1, "{line}: {error}");
    }
    assert_eq!(fs::read(folder.join("q.csv")).unwrap(), before);
    let ran = run_line(folder, "replay q.csv other.csv");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "nothing was replayed\n"));
    assert_eq!(ran.stderr, "4 records that were to go to o.csv stay\n");
}

/// What was set aside because a sample had found a type is set aside again, though another reader would take it.
#[test]
fn a_record_is_read_as_strictly_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good: String = (0..20_000).map(|id| format!("{id},{}\n", 10_000 + id)).collect();
    fs::write(folder.join("a.csv"), format!("id,zip\n{good}20000,01234\n20001,+1\n")).unwrap();
    assert_eq!(json(folder, "copy a.csv o.csv --quarantine q.parquet", 3)["rows_rejected"], 2);
    let good: String = (0..20_000).map(|id| format!("{{\"id\":{id},\"note\":\"x\"}}\n")).collect();
    let bad = [
        "{\"id\":\"20000\",\"note\":\"x\"}",
        "{\"id\":20001,\"note\":7}",
        "{\"id\":20002,\"note\":\"x\",\"more\":1}",
        "{\"id\":20003,\"note\":\"a\rb\"}",
        "42",
        "{\"id\":20005,",
    ];
    fs::write(folder.join("a.ndjson"), good + &bad.join("\n")).unwrap();
    assert_eq!(json(folder, "copy a.ndjson o.ndjson --quarantine j.parquet", 3)["rows_rejected"], 6);
    for (line, failed) in [("replay q.parquet o.csv", 2), ("replay j.parquet o.ndjson", 6)] {
        let result = json(folder, line, 3);
        let rows = (&result[0]["rows_written"], &result[0]["rows_rejected"]);
        assert_eq!(rows, (&0.into(), &failed.into()), "{line}: {result}");
    }
    let result = json(folder, "replay j.parquet o.ndjson --source-option unknown_keys=ignore", 3);
    assert_eq!(result[0]["rows_written"], 1, "{result}");
    assert!(lines(folder, "o.ndjson").contains(&"{\"id\":20002,\"note\":\"x\"}".to_owned()));
}

/// In the format that the column had, though the record by itself fits another one.
#[test]
fn dates_are_read_in_the_format_that_they_had() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), "id,day,other\n1,2024-31-12,31.12.2024\nx,2024-05-06,05.06.2024\n").unwrap();
    let copy = "copy a.csv o.csv --quarantine q.parquet --source-option types=id:int64,day:date,other:date";
    let copy = format!("{copy} --source-option date_formats=%Y-%d-%m,%d.%m.%Y");
    assert_eq!(json(folder, &copy, 3)["rows_rejected"], 1);
    let ran = run_line(folder, "replay q.parquet o.csv --source-option null_values=x");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        fs::read_to_string(folder.join("o.csv")).unwrap(),
        "id,day,other\n1,2024-12-31,2024-12-31\n,2024-06-05,2024-06-05\n"
    );
}

/// The order decides which row of a key counts, and SQL of the load is not run for a replay.
#[test]
fn rows_come_in_their_order_and_sql_of_the_load_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), "id,n,note\n1,none,\"old, quoted\"\n1,none,new\n2,none,x\n2,none,\"y\"\n").unwrap();
    let database = Connection::open(folder.join("t.db")).unwrap();
    database.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, note TEXT); CREATE TABLE runs (x); INSERT INTO t VALUES (7, 7, 'stays')").unwrap();
    fs::write(
        folder.join("p.toml"),
        "[source]\nuri='a.csv'\noptions={types='id:int64,n:int64,note:text'}\n[target]\nuri='sqlite:t.db#t'\nmode='merge'\nkeys=['id']\n\
         options={pre_sql='DELETE FROM t WHERE id = 7', post_sql='INSERT INTO runs VALUES (1)'}\n[errors]\nquarantine='q.parquet'\n",
    )
    .unwrap();
    assert_eq!(json(folder, "run p.toml", 3)["rows_rejected"], 4);
    database.execute_batch("INSERT INTO t VALUES (7, 7, 'stays')").unwrap();
    let ran = run_line(folder, "replay q.parquet p.toml --source-option null_values=none");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let mut query = database.prepare("SELECT id || note FROM t ORDER BY id").unwrap();
    let rows: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows, ["1new", "2y", "7stays"]);
    assert_eq!(database.query_row("SELECT count(*) FROM runs", [], |row| row.get(0)), Ok(1));
}

#[test]
fn a_pipeline_with_several_targets_is_replayed_into_all_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), "id\n1\nnone\n").unwrap();
    let target = |name: &str| format!("[[target]]\nuri='{name}.ndjson'\nmode='append'\n");
    let file = "[source]\nuri='a.csv'\noptions={types='id:int64'}\n[errors]\nquarantine='q.parquet'\n".to_owned();
    fs::write(folder.join("p.toml"), file + &target("x") + &target("y")).unwrap();
    assert_eq!(run_line(folder, "run p.toml").code, 3);
    let ran = run_line(folder, "replay q.parquet p.toml --source-option null_values=none");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(ran.stdout.ends_with("2 rows replayed, none failed again\n"), "{ran:?}");
    for name in ["x.ndjson", "y.ndjson"] {
        assert_eq!(lines(folder, name), [r#"{"id":1}"#, r#"{"id":null}"#]);
    }
    assert!(raws(folder, "q.parquet").is_empty());
}

/// Its records are set aside and its rows are not there: whoever loads them now would see them come again.
#[test]
fn a_run_that_is_not_completed_is_completed_first() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), "id\n1\nnone\n").unwrap();
    let copy = "copy a.csv o.ndjson --mode append --quarantine q.parquet --source-option types=id:int64";
    let arguments: Vec<_> = copy.split_whitespace().collect();
    let killed = Ran::of(&etlrs(PROGRAM, folder, &arguments).env(KILL_AT, "quarantine-published:1").output().unwrap());
    assert_eq!(killed.code, -9, "{killed:?}");
    let replay = "replay q.parquet o.ndjson --source-option null_values=none";
    let error = refused(folder, replay, 1);
    assert!(error.contains("which has set records aside, is not completed; go on with it"), "{error}");
    assert_eq!(run_line(folder, copy).code, 3);
    assert_eq!(run_line(folder, replay).code, 0);
    assert_eq!(lines(folder, "o.ndjson"), [r#"{"id":1}"#, r#"{"id":null}"#]);
}

/// Of several files, of which one lacks a column; and with formats of dates that are given now.
#[test]
fn what_a_file_lacks_is_null_and_formats_can_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::create_dir(folder.join("d")).unwrap();
    fs::write(folder.join("d/a.csv"), "id,day\n1,2024-01-01\nnone,31.12.2024\n").unwrap();
    fs::write(folder.join("d/b.csv"), "id,day,note\n3,2024-01-03,x\nnone,31.12.2024,y\n").unwrap();
    fs::write(
        folder.join("p.toml"),
        "[source]\nuri='d/*.csv'\noptions={types='id:int64,day:date'}\n[[transform]]\ntype='filter'\nwhere=\"note is null or note <> 'z'\"\n\
         [target]\nuri='o.ndjson'\nmode='append'\n[errors]\nquarantine='q.parquet'\n",
    )
    .unwrap();
    assert_eq!(json(folder, "run p.toml", 3)["rows_rejected"], 2);
    let line = "replay q.parquet p.toml --source-option null_values=none --source-option date_formats=%d.%m.%Y";
    let ran = run_line(folder, line);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let expected = [
        r#"{"id":1,"day":"2024-01-01","note":null}"#,
        r#"{"id":3,"day":"2024-01-03","note":"x"}"#,
        r#"{"id":null,"day":"2024-12-31","note":"y"}"#,
        r#"{"id":null,"day":"2024-12-31","note":null}"#,
    ];
    assert_eq!(lines(folder, "o.ndjson"), expected);
}

/// Corrected between a replay that was killed and the next one: it was loaded as it was, and is not loaded again.
#[test]
fn what_is_corrected_too_late_is_in_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("a.csv"), b"id,note\n1,x\nnone,y\nno,\xe9\n").unwrap();
    let copy = "copy a.csv o.ndjson --quarantine sqlite:q.db#q --source-option types=id:int64,note:text";
    assert_eq!(json(folder, copy, 3)["rows_rejected"], 2);
    let line = "replay sqlite:q.db#q o.ndjson --source-option null_values=none";
    let arguments: Vec<_> = line.split_whitespace().collect();
    let killed = Ran::of(&etlrs(PROGRAM, folder, &arguments).env(KILL_AT, "replay-loaded:1").output().unwrap());
    assert_eq!(killed.code, -9, "{killed:?}");
    let database = Connection::open(folder.join("q.db")).unwrap();
    // One that was loaded, and one that was not.
    database.execute_batch("UPDATE q SET fixed = '7,late' WHERE replay IS NULL").unwrap();
    let ran = run_line(folder, line);
    assert_eq!(ran.code, 0, "{ran:?}");
    let expected = [r#"{"id":1,"note":"x"}"#, r#"{"id":7,"note":"late"}"#, r#"{"id":null,"note":"y"}"#];
    assert_eq!(lines(folder, "o.ndjson"), expected);
    assert_eq!(database.query_row("SELECT count(*) FROM q", [], |row| row.get(0)), Ok(0));
}
