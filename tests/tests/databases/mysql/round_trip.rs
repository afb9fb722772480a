//! Every type, with its extremes, out and in again.

use super::*;

/// Columns of every type, each with the type that a table made of the data has in its place where that is another one.
pub(crate) const COLUMNS: &[(&str, &str)] = &[
    ("tinyint(4)", ""),
    ("tinyint(1)", ""),
    ("tinyint(3) unsigned", ""),
    ("smallint(6)", ""),
    ("smallint(5) unsigned", ""),
    ("mediumint(9)", ""),
    ("mediumint(8) unsigned", ""),
    ("int(11)", ""),
    ("int(10) unsigned", ""),
    ("bigint(20)", ""),
    ("bigint(20) unsigned", ""),
    ("float", ""),
    ("double", ""),
    ("decimal(10,2)", ""),
    ("decimal(38,10)", ""),
    ("decimal(65,30)", ""),
    ("decimal(65,0)", ""),
    ("decimal(38,38)", ""),
    ("bit(1)", ""),
    ("bit(17)", ""),
    ("bit(64)", ""),
    ("year(4)", ""),
    ("date", ""),
    ("time", ""),
    ("time(6)", ""),
    ("datetime", ""),
    ("datetime(3)", ""),
    ("datetime(6)", ""),
    ("timestamp", ""),
    ("timestamp(6)", ""),
    ("char(5)", ""),
    ("varchar(12)", ""),
    ("tinytext", ""),
    ("text", ""),
    ("mediumtext", ""),
    ("longtext", ""),
    ("binary(4)", ""),
    ("varbinary(9)", ""),
    ("tinyblob", ""),
    ("blob", ""),
    ("mediumblob", ""),
    ("longblob", ""),
    ("enum('a','it''s','b\\\\c','')", ""),
    ("set('x','y','z')", ""),
    ("uuid", ""),
    ("inet6", ""),
    ("inet4", ""),
    ("geometry", ""),
    ("point", ""),
];

/// Values of each column; rows take one after another.
fn values(data_type: &str) -> &'static [&'static str] {
    match data_type {
        "tinyint(4)" => &["-128", "127", "0"],
        "tinyint(1)" => &["0", "1", "-128", "2"],
        "tinyint(3) unsigned" => &["0", "255"],
        "smallint(6)" => &["-32768", "32767"],
        "smallint(5) unsigned" => &["65535", "0"],
        "mediumint(9)" => &["-8388608", "8388607"],
        "mediumint(8) unsigned" => &["16777215", "0"],
        "int(11)" => &["-2147483648", "2147483647"],
        "int(10) unsigned" => &["4294967295", "0"],
        "bigint(20)" => &["-9223372036854775808", "9223372036854775807"],
        "bigint(20) unsigned" => &["18446744073709551615", "0"],
        "float" => &["3.4028234e38", "-3.4028234e38", "0.1", "-1.1754944e-38", "16777217", "-0.0", "1e-45"],
        "double" => &["1.7976931348623157e308", "5e-324", "0.1", "-0.0", "0.30000000000000004"],
        "decimal(10,2)" => &["99999999.99", "-99999999.99", "0.01", "0"],
        "decimal(38,10)" => &["9999999999999999999999999999.9999999999", "-0.0000000001", "1"],
        "decimal(65,30)" => &["99999999999999999999999999999999999.999999999999999999999999999999", "-1"],
        "decimal(65,0)" => &["99999999999999999999999999999999999999999999999999999999999999999", "-1"],
        "decimal(38,38)" => &["0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"],
        "bit(1)" => &["b'0'", "b'1'"],
        "bit(17)" => &["b'10000000000000001'", "b'0'"],
        "bit(64)" => &["18446744073709551615", "0"],
        "year(4)" => &["1901", "2155", "0"],
        "date" => &["'0001-01-01'", "'9999-12-31'", "'1970-01-01'", "'2000-02-29'"],
        "time" => &["'00:00:00'", "'23:59:59'"],
        "time(6)" => &["'23:59:59.999999'", "'00:00:00.000001'"],
        "datetime" => &["'1000-01-01 00:00:00'", "'9999-12-31 23:59:59'"],
        "datetime(3)" => &["'2024-06-01 12:00:00.001'", "'1969-12-31 23:59:59.999'"],
        "datetime(6)" => &["'1000-01-01 00:00:00.000001'", "'9999-12-31 23:59:59.999999'", "'1970-01-01 00:00:00'"],
        "timestamp" => &["'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'"],
        "timestamp(6)" => &["'2038-01-19 03:14:07.999999'", "'1970-01-01 00:00:01'"],
        "char(5)" => &["''", "'ab'", "'名🦀'", "'abcde'"],
        "varchar(12)" => &["''", "'trailing   '", "'twelve chars'", "'naïve 名 🦀'"],
        "tinytext" | "text" | "mediumtext" | "longtext" => &[
            "''",
            "' '",
            "'naïve 名 🦀'",
            "'line\\nend\\r\\n\\ttab'",
            "'\\\\N'",
            "'\\\\'",
            "'\\''",
            "'\"'",
            "'NULL'",
            "'a\\0b'",
        ],
        "binary(4)" => &["X'00000000'", "X'FF00FF5C'"],
        "varbinary(9)" => &["''", "X'00'", "X'FF090A5C00'"],
        "tinyblob" | "blob" | "mediumblob" | "longblob" => &["''", "X'00'", "X'FF00FF'", "X'5C4E'", "X'090A0D5C27E9'"],
        "enum('a','it''s','b\\\\c','')" => &["'a'", "'it''s'", "'b\\\\c'", "''"],
        "set('x','y','z')" => &["''", "'x'", "'x,z'"],
        "uuid" => &["'00000000-0000-0000-0000-000000000000'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
        "inet6" => &["'::1'", "'2001:db8::ff00:42:8329'"],
        "inet4" => &["'10.0.0.1'", "'255.255.255.255'"],
        "geometry" => &["ST_GeomFromText('LINESTRING(0 0,1 1.5)')", "ST_GeomFromText('POINT(1 2)', 4326)"],
        "point" => &["ST_GeomFromText('POINT(1e300 -0.1)')"],
        other => panic!("{other} has no values"),
    }
}

/// A table with a row of nulls and rows of all values.
pub(crate) fn every_type(server: &MariaDb) {
    let null = |name: &str| if name.starts_with("timestamp") { " NULL DEFAULT NULL" } else { "" };
    let columns: Vec<_> =
        COLUMNS.iter().enumerate().map(|(index, (name, _))| format!("c{index} {name}{}", null(name))).collect();
    let mut sql =
        format!("CREATE TABLE every (id int NOT NULL PRIMARY KEY, {}) CHARACTER SET utf8mb4;\n", columns.join(", "));
    let most = COLUMNS.iter().map(|(name, _)| values(name).len()).max().unwrap();
    sql.push_str("INSERT INTO every (id) VALUES (-1);\n");
    for row in 0..most {
        let fields: Vec<_> = COLUMNS
            .iter()
            .map(|(name, _)| {
                let all = values(name);
                all[row % all.len()].to_owned()
            })
            .collect();
        sql.push_str(&format!("INSERT INTO every VALUES ({row}, {});\n", fields.join(", ")));
    }
    server.sql(&sql);
}

/// What tells the value of a column exactly.
pub(crate) fn exact(index: usize, data_type: &str) -> String {
    match data_type {
        "float" => format!("CAST(c{index} AS DOUBLE)"),
        _ if data_type.starts_with("bit") => format!("c{index} + 0"),
        _ => format!("hex(c{index})"),
    }
}

/// Rows of a table with all their bytes, by their ids.
fn rows(server: &MariaDb, table: &str) -> String {
    let columns: Vec<_> = COLUMNS.iter().enumerate().map(|(index, (name, _))| exact(index, name)).collect();
    server.sql(&format!("SELECT id, {} FROM {table} ORDER BY id", columns.join(", ")))
}

fn types_of(server: &MariaDb, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT COLUMN_TYPE FROM information_schema.COLUMNS
         WHERE TABLE_SCHEMA = 'test' AND TABLE_NAME = '{table}' AND COLUMN_NAME <> 'id' ORDER BY ORDINAL_POSITION"
    );
    server.sql(&sql).lines().map(|line| line.replace("\\\\", "\\")).collect()
}

#[test]
fn every_type_goes_through_parquet_and_back() {
    let server = MariaDb::start();
    every_type(&server);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("every.parquet");
    let file = file.to_str().unwrap();
    let count = copy(&server.uri("every"), file, LoadMode::Create).unwrap().load.records_loaded;
    assert_eq!(count.to_string(), server.sql("SELECT count(*) FROM every"));

    // A table that is made of the file has the types.
    copy(file, &server.uri("made"), LoadMode::Create).unwrap();
    let expected: Vec<_> = COLUMNS.iter().map(|(name, made)| if made.is_empty() { *name } else { *made }).collect();
    assert_eq!(types_of(&server, "made"), expected);
    assert_eq!(rows(&server, "every"), rows(&server, "made"));

    // A table that is there keeps its own.
    server.sql("CREATE TABLE same LIKE every");
    copy(file, &server.uri("same"), LoadMode::Append).unwrap();
    assert_eq!(rows(&server, "every"), rows(&server, "same"));
    copy(file, &server.uri("same"), LoadMode::Replace).unwrap();
    assert_eq!(rows(&server, "every"), rows(&server, "same"));
    let merge = Copy { mode: LoadMode::Merge, keys: &["id"], ..Copy::default() };
    merge.run(file, &server.uri("same")).unwrap();
    assert_eq!(rows(&server, "every"), rows(&server, "same"));
    merge.run(file, &server.uri("merged")).unwrap();
    assert_eq!(rows(&server, "every"), rows(&server, "merged"));
    assert_eq!(types_of(&server, "same"), types_of(&server, "every"));
    assert_eq!(server.left_over(), "");
}

#[test]
fn every_type_goes_from_database_to_database_with_and_without_local_files() {
    let from = MariaDb::start();
    every_type(&from);
    for settings in [&["--local-infile=1"], &["--local-infile=0"]] {
        let to = MariaDb::start_with(settings);
        copy(&from.uri("every"), &to.uri("every"), LoadMode::Create).unwrap();
        assert_eq!(rows(&from, "every"), rows(&to, "every"), "{settings:?}");
        copy(&from.uri("every"), &to.uri("every"), LoadMode::Replace).unwrap();
        assert_eq!(rows(&from, "every"), rows(&to, "every"), "{settings:?}");
    }
}

#[test]
fn what_a_type_of_arrow_cannot_hold_is_refused_by_its_column() {
    let server = MariaDb::start();
    let folder = tempfile::tempdir().unwrap();
    for (data_type, value, said) in [
        ("date", "0000-00-00", "0000-00-00"),
        ("date", "2024-00-10", "no day of a month"),
        ("datetime", "0000-00-00 00:00:00", "0000-00-00"),
        ("timestamp", "0000-00-00 00:00:00", "0000-00-00"),
        ("time", "-01:00:00", "outside of a day"),
        ("time", "838:59:59", "outside of a day"),
        ("time(3)", "24:00:00.001", "outside of a day"),
    ] {
        server.sql(&format!(
            "SET sql_mode = ''; DROP TABLE IF EXISTS t; CREATE TABLE t (id int, odd {data_type} NOT NULL);
             INSERT INTO t VALUES (1, '{value}')"
        ));
        let file = folder.path().join("t.parquet");
        let file = file.to_str().unwrap();
        let text = copy(&server.uri("t"), file, LoadMode::Replace).unwrap_err().to_string();
        assert!(text.contains("column \"odd\"") && text.contains(said) && text.contains("types=odd:text"), "{text}");
        let as_text = Copy { mode: LoadMode::Replace, source_options: &[("types", "odd:text")], ..Copy::default() };
        as_text.run(&server.uri("t"), file).unwrap();
        copy(file, &server.uri("back"), LoadMode::Replace).unwrap();
        assert_eq!(server.sql("SELECT odd FROM back"), server.sql("SELECT odd FROM t"), "{data_type}");
        server.sql("DROP TABLE back");
    }
}

#[test]
fn dates_that_are_all_zeros_are_null_if_the_user_says_so() {
    let server = MariaDb::start();
    server.sql(
        "SET sql_mode = ''; CREATE TABLE t (id int, d date NOT NULL, t datetime(3) NOT NULL, s timestamp NOT NULL, h time NOT NULL);
         INSERT INTO t VALUES (1, '0000-00-00', '0000-00-00', '0000-00-00', '00:00:00'),
             (2, '2024-02-29', '2024-02-29 01:02:03.5', '2024-02-29 01:02:03', '01:02:03'), (3, '0000-00-00', '2024-01-01', '2024-01-01', '0:0:1');
         CREATE TABLE back (id int, d date, t datetime(3), s timestamp NULL, h time)",
    );
    let copy = Copy { mode: LoadMode::Append, source_options: &[("zero_dates", "null")], ..Copy::default() };
    copy.run(&server.uri("t"), &server.uri("back")).unwrap();
    assert_eq!(
        server.sql("SELECT * FROM back ORDER BY id").replace('\t', " "),
        "1 NULL NULL NULL 00:00:00\n2 2024-02-29 2024-02-29 01:02:03.500 2024-02-29 01:02:03 01:02:03\n\
         3 NULL 2024-01-01 00:00:00.000 2024-01-01 00:00:00 00:00:01"
    );
    // They are null to filters and cursors too.
    for (condition, expected) in [("d is null", 2), ("d is not null", 1), ("d < date '2030-01-01'", 1)] {
        let options = [("zero_dates".to_owned(), "null".to_owned())].into();
        let (source, target) = (Uri::new(server.uri("t")), Uri::new(server.uri(&format!("f{expected}"))));
        let copied = block_on(async {
            let builder = pipeline(&registry(), (&source, &options), (&target, &OptionMap::new()))?;
            let filter = Filter::new(Expr::parse(condition)?);
            builder.transform(filter).mode(LoadMode::Replace).build()?.execute().await
        });
        assert_eq!(copied.unwrap().load.records_loaded, expected, "{condition}");
    }
    let options = [("zero_dates", "null"), ("cursor", "d")];
    let cursor = Copy { mode: LoadMode::Replace, source_options: &options, ..Copy::default() };
    assert_eq!(cursor.run(&server.uri("t"), &server.uri("f1")).unwrap().rows_read, 1);
    // A month or a day that is missing is not nothing.
    server.sql("SET sql_mode = ''; UPDATE t SET d = '2024-00-00'");
    let error = copy.run(&server.uri("t"), &server.uri("back")).unwrap_err();
    assert!(error.to_string().contains("no day of a month"), "{error}");
}

#[test]
fn a_column_is_read_as_the_user_says_if_that_is_exact() {
    let server = MariaDb::start();
    server.sql(
        "CREATE TABLE t (n decimal(10,2), i int, t text, b tinyint(1), u int unsigned, f float);
         INSERT INTO t VALUES (1.50, 7, 'a', 1, 4000000000, 0.1), (NULL, NULL, NULL, NULL, NULL, NULL), (-2, 8, '', 0, 1, 2)",
    );
    let folder = tempfile::tempdir().unwrap();
    let read = |types: &str, column: &str| {
        let file = folder.path().join("t.parquet");
        let options = [("types", types)];
        let copy = Copy { mode: LoadMode::Replace, source_options: &options, ..Copy::default() };
        copy.run(&server.uri("t"), file.to_str().unwrap())?;
        server.sql("DROP TABLE IF EXISTS back");
        super::copy(file.to_str().unwrap(), &server.uri("back"), LoadMode::Create)?;
        let made = server.sql(&format!(
            "SELECT COLUMN_TYPE FROM information_schema.COLUMNS WHERE TABLE_NAME = 'back' AND COLUMN_NAME = '{column}'"
        ));
        Ok::<_, Error>(format!("{made}: {}", server.sql(&format!("SELECT {column} FROM back")).replace('\n', " ")))
    };
    assert_eq!(read("n:decimal(12,3)", "n").unwrap(), "decimal(12,3): 1.500 NULL -2.000");
    assert_eq!(read("i:decimal(20,2)", "i").unwrap(), "decimal(20,2): 7.00 NULL 8.00");
    assert_eq!(read("i:int64", "i").unwrap(), "bigint(20): 7 NULL 8");
    assert_eq!(read("i:float64", "i").unwrap(), "double: 7 NULL 8");
    assert_eq!(read("u:uint64", "u").unwrap(), "bigint(20) unsigned: 4000000000 NULL 1");
    assert_eq!(read("b:bool", "b").unwrap(), "tinyint(1): 1 NULL 0");
    assert_eq!(read("n:text", "n").unwrap(), "longtext: 1.50 NULL -2.00");
    assert_eq!(read("f:text", "f").unwrap(), "longtext: 0.10000000149011612 NULL 2");
    for types in ["n:int64", "n:decimal(10,0)", "t:int32", "x:text", "i:date", "f:decimal(10,2)"] {
        assert_eq!(read(types, "n").unwrap_err().kind(), ErrorKind::InvalidConfig, "{types}");
    }
}
