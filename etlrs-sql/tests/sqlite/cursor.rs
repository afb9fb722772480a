use etlrs_core::*;
use proptest::prelude::*;

use crate::*;

/// The rows that a cursor gives, by their first column, and how far it came.
fn what_is_new(database: &Database, options: &[(&str, &str)]) -> Result<(Vec<i64>, Option<String>)> {
    let options = SqliteSourceOptions::from_pairs(options.iter().copied())?;
    let extractor = SqliteExtractor::new(database.path(), "t").with_options(options);
    let cx = context(3);
    run(async {
        let scan = extractor.scan(&cx, &ScanRequest::all().partitions(2)).await?;
        let rows = DatasetSnapshot::collect(&cx, &*scan).await?;
        Ok((ints(&rows, 0), scan.cursor().map(str::to_owned)))
    })
}

/// A moment in microseconds as one of the texts that are read as a `TIMESTAMP`, or with an offset as a `TIMESTAMPTZ`.
fn written(moment: i64, form: u8, offset: Option<i64>) -> String {
    let local = moment + offset.unwrap_or(0) * 60_000_000;
    let (day, time) = (local.div_euclid(86_400_000_000), local.rem_euclid(86_400_000_000));
    let date = date_of(day);
    let (minutes, micros) = (time / 60_000_000, time % 60_000_000);
    let separator = if form & 1 == 0 { ' ' } else { 'T' };
    let mut text = format!("{date}{separator}{:02}:{:02}", minutes / 60, minutes % 60);
    if form & 2 != 0 || micros != 0 {
        text += &format!(":{:02}", micros / 1_000_000);
        if form & 4 != 0 || micros % 1_000_000 != 0 {
            text += &format!(".{:06}", micros % 1_000_000);
        }
    }
    match offset {
        None => {}
        Some(0) if form & 8 != 0 => text.push('Z'),
        Some(offset) => {
            let sign = if offset < 0 { '-' } else { '+' };
            text += &format!("{sign}{:02}:{:02}", offset.abs() / 60, offset.abs() % 60);
        }
    }
    text
}

/// The date of so many days since 1970, by counting.
fn date_of(mut day: i64) -> String {
    let mut year = 1970;
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while day < 0 {
        year -= 1;
        day += if leap(year) { 366 } else { 365 };
    }
    while day >= if leap(year) { 366 } else { 365 } {
        day -= if leap(year) { 366 } else { 365 };
        year += 1;
    }
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    format!("{year:04}-{:02}-{:02}", month + 1, day + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn times_are_compared_as_moments_however_they_are_written(
        rows in proptest::collection::vec((-3_000_000..3_000_000i64, any::<u8>(), -720..720i64, any::<bool>()), 0..30),
        after in -3_000_000..3_000_000i64,
        after_form in any::<u8>(),
        lag in prop_oneof![Just(0u32), 1..200_000u32],
        instant in any::<bool>(),
    ) {
        let offset = |minutes| instant.then_some(minutes);
        let declared = if instant { "TIMESTAMPTZ" } else { "TIMESTAMP" };
        let database = Database::new(&format!("CREATE TABLE t (n INTEGER, at {declared})"));
        let connection = database.connect();
        for (n, (seconds, form, minutes, null)) in rows.iter().enumerate() {
            let text = (!null).then(|| written(seconds * 1_000_000, *form, offset(*minutes)));
            connection.execute("INSERT INTO t VALUES (?1, ?2)", (n as i64, text)).unwrap();
        }
        let after_text = written(after * 1_000_000, after_form, offset(60));
        let (found, reached) = what_is_new(&database, &[
            ("cursor", "at"), ("cursor_after", &after_text), ("cursor_lag", &lag.to_string()),
        ]).unwrap();
        let is_new = |seconds: i64| match lag {
            0 => seconds > after,
            lag => seconds >= after - i64::from(lag),
        };
        let new: Vec<_> = rows.iter().enumerate().filter(|(_, row)| !row.3 && is_new(row.0)).collect();
        prop_assert_eq!(found, new.iter().map(|(n, _)| *n as i64).collect::<Vec<_>>());
        // What was reached leads on from there.
        let greatest = new.iter().map(|(_, row)| row.0).max();
        if greatest.is_none() {
            prop_assert_eq!(reached.as_deref(), Some(after_text.as_str()));
        }
        let later = greatest.unwrap_or(after).max(after) + 1;
        connection.execute("INSERT INTO t VALUES (99, ?1)", [written(later * 1_000_000, 3, offset(-300))]).unwrap();
        let (found, _) = what_is_new(&database, &[("cursor", "at"), ("cursor_after", &reached.unwrap())]).unwrap();
        if greatest.is_none_or(|greatest| greatest >= after) {
            prop_assert_eq!(found, [99]);
        }
    }
}

#[test]
fn dates_and_bare_dates_are_cursors() {
    let database = Database::new(
        "CREATE TABLE t (n INTEGER, d DATE, at TIMESTAMPTZ); INSERT INTO t VALUES
         (1, '2024-01-31', '2024-01-31T23:59:59Z'), (2, '2024-02-01', '2024-02-01 00:30:00+01:00'),
         (3, '-0001-02-01', '2024-02-01 00:00:00.5Z')",
    );
    let new = |options: &[(&str, &str)]| what_is_new(&database, options).unwrap();
    assert_eq!(new(&[("cursor", "d")]), (vec![1, 2, 3], Some("2024-02-01".into())));
    assert_eq!(new(&[("cursor", "d"), ("cursor_after", "2024-01-31")]), (vec![2], Some("2024-02-01".into())));
    assert_eq!(new(&[("cursor", "d"), ("cursor_after", "2024-02-01"), ("cursor_lag", "86400")]).0, [1, 2]);
    let by_moment = new(&[("cursor", "at"), ("cursor_after", "2024-02-01")]);
    assert_eq!(by_moment, (vec![3], Some("2024-02-01 00:00:00.500000+00:00".into())));
    assert_eq!(new(&[("cursor", "at"), ("cursor_after", "2024-01-31 23:59:58")]).0, [1, 3]);
}

#[test]
fn cursors_compare_values_as_they_are_read() {
    let database = Database::new(
        "CREATE TABLE t (n INTEGER, words TEXT, loose, mixed THING); INSERT INTO t VALUES
         (1, '9', 9, 9), (2, '10', 10, 'x'), (3, '11', 11, '1x')",
    );
    let new = |options: &[(&str, &str)]| what_is_new(&database, options);
    // By their values numbers, and no more so where some are text.
    assert_eq!(new(&[("cursor", "loose"), ("cursor_after", "9")]).unwrap(), (vec![2, 3], Some("11".into())));
    assert_eq!(new(&[("cursor", "mixed"), ("cursor_after", "9")]).unwrap(), (vec![2], Some("x".into())));
    assert_eq!(new(&[("cursor", "words"), ("cursor_after", "10")]).unwrap(), (vec![1, 3], Some("9".into())));
    // Whether or not it is read itself.
    let options = SqliteSourceOptions::from_pairs([("cursor", "loose"), ("cursor_after", "9")]).unwrap();
    let extractor = SqliteExtractor::new(database.path(), "t").with_options(options);
    let rows = read(&extractor, &ScanRequest::all().columns(["n"]), 7).unwrap();
    assert_eq!(ints(&rows, 0), [2, 3]);
    let as_numbers = [("cursor", "words"), ("cursor_after", "9"), ("types", "words:int64")];
    refused(new(&as_numbers), ErrorKind::InvalidConfig, &["cannot be a cursor", "words"]);
}

#[test]
fn what_is_no_time_is_refused() {
    let database =
        Database::new("CREATE TABLE t (n INTEGER, at TIMESTAMP); INSERT INTO t VALUES (1, '2024-01-31 10:00')");
    for after in ["yesterday", "2024-13-01", "2024-01-31 10:00:00 ", "", "1706695200"] {
        let options = [("cursor", "at"), ("cursor_after", after)];
        match after {
            "" => assert_eq!(what_is_new(&database, &options).unwrap().0, [1]),
            _ => {
                let said = ["cursor_after is no value of type", "2024-01-31 23:59:59.5", "\"at\""];
                _ = refused(what_is_new(&database, &options), ErrorKind::InvalidConfig, &said);
            }
        }
    }
    for (value, said) in [("'soon'", "a text is no timestamp"), ("1706695200", "a number or a blob is no timestamp")] {
        let database =
            Database::new(&format!("CREATE TABLE t (n INTEGER, at TIMESTAMP); INSERT INTO t VALUES (1, {value})"));
        let found = what_is_new(&database, &[("cursor", "at")]);
        let error = refused(found, ErrorKind::InvalidData, &[said, "column \"at\"", "--query"]);
        assert!(!format!("{error} {error:?}").contains("soon"), "values are private");
    }
}
