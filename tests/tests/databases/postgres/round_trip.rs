//! Every type, with its extremes, out and in again.

use std::collections::HashMap;

use super::*;

/// Columns of every type, each with the type that a table made of the data has in its place where that is another one.
pub(crate) const COLUMNS: &[(&str, &str)] = &[
    ("boolean", ""),
    ("smallint", ""),
    ("integer", ""),
    ("bigint", ""),
    ("real", ""),
    ("double precision", ""),
    ("numeric", ""),
    ("numeric(1,0)", ""),
    ("numeric(38,10)", ""),
    ("numeric(76,76)", ""),
    ("numeric(76,0)", ""),
    // More digits than a decimal has, and scales that it cannot have, go as text.
    ("numeric(100,3)", ""),
    ("numeric(3,-2)", ""),
    ("text", ""),
    ("character varying(12)", "text"),
    ("character(5)", "text"),
    ("name", "text"),
    ("\"char\"", "text"),
    ("bytea", ""),
    ("date", ""),
    ("time without time zone", ""),
    ("time(2) without time zone", ""),
    ("timestamp(3) without time zone", ""),
    ("timestamp(0) with time zone", ""),
    ("timestamp without time zone", ""),
    ("timestamp with time zone", ""),
    ("time with time zone", ""),
    ("interval", ""),
    ("uuid", ""),
    ("json", ""),
    ("jsonb", ""),
    ("xml", ""),
    ("money", ""),
    ("bit(3)", ""),
    ("bit varying(7)", ""),
    ("inet", ""),
    ("cidr", ""),
    ("macaddr", ""),
    ("macaddr8", ""),
    ("point", ""),
    ("box", ""),
    ("polygon", ""),
    ("tsvector", ""),
    ("tsquery", ""),
    ("pg_lsn", ""),
    ("int4range", ""),
    ("numrange", ""),
    ("tstzrange", ""),
    ("datemultirange", ""),
    ("integer[]", ""),
    ("text[]", ""),
    ("double precision[]", ""),
    ("timestamp with time zone[]", ""),
    ("oid", "bigint"),
    ("mood", "text"),
    ("mood[]", "text"),
    ("pair", "text"),
    ("positive", "numeric(8,3)"),
    ("nested", "text"),
];

/// Values of each column; rows take one after another.
fn values(data_type: &str) -> &'static [&'static str] {
    match data_type {
        "boolean" => &["true", "false"],
        "smallint" => &["-32768", "32767", "0"],
        "integer" => &["-2147483648", "2147483647"],
        "bigint" => &["-9223372036854775808", "9223372036854775807"],
        "real" => &["3.4028235e38", "-1e-45", "NaN", "Infinity", "-Infinity", "0.1", "-0"],
        "double precision" => &["1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-Infinity", "0.1", "-0"],
        "numeric" => &["NaN", "Infinity", "-Infinity", "1.10", "-0.00000000000000000001", "1e100", "100", "0", "0.000"],
        "numeric(1,0)" => &["9", "-9", "0"],
        "numeric(38,10)" => &["9999999999999999999999999999.9999999999", "-0.0000000001", "1", "10000", "0.0001"],
        "numeric(76,76)" => &["0.1", "-0.0000000000000000000000000000000000000000000000000000000000000000000000000001"],
        "numeric(76,0)" => &["9999999999999999999999999999999999999999999999999999999999999999999999999999", "-1"],
        "numeric(100,3)" => {
            &["1234567890123456789012345678901234567890123456789012345678901234567890123456789.125", "NaN"]
        }
        "numeric(3,-2)" => &["12300", "-99900"],
        "text" => &["", " ", "a", "naïve 名 🦀", "line\nend\r\n\ttab", "\\N", "\\", "'", "\"", "NULL"],
        "character varying(12)" => &["", "trailing   ", "twelve chars"],
        "character(5)" => &["", "ab", "abcde"],
        "name" => &["a_name"],
        "\"char\"" => &["x", ""],
        "bytea" => &["\\x", "\\x00", "\\xff00ff", "\\x5c4e"],
        "date" => &["4713-01-01 BC", "0001-01-01", "1970-01-01", "2000-02-29", "5874897-12-31", "0044-03-15 BC"],
        "timestamp(3) without time zone" => &["2024-06-01 12:00:00.001", "1969-12-31 23:59:59.999"],
        "timestamp(0) with time zone" => &["2024-06-01 12:00:01+00"],
        "time without time zone" => &["00:00:00", "23:59:59.999999", "12:00:00.5"],
        "time(2) without time zone" => &["00:00:00.01", "23:59:59.99"],
        "timestamp without time zone" => {
            &["4713-01-01 00:00:00 BC", "0001-01-01 00:00:00", "1969-12-31 23:59:59.999999", "294246-12-31 23:59:59"]
        }
        "timestamp with time zone" => &["4713-01-02 00:00:00+00 BC", "2024-06-01 12:00:00.000001+05:30", "1970-01-01Z"],
        "time with time zone" => &["12:00:00+15:59", "24:00:00-15:59"],
        "interval" => {
            &["1 year 2 mons -3 days 04:05:06.789", "-178000000 years", "0", "1 mon -1 day", "00:00:00.000001"]
        }
        "uuid" => &[
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ],
        "json" => &["{\"a\" :  1, \"a\": [2.50, null]}", "\"text\"", "1e5"],
        "jsonb" => &["{\"b\": 1.50, \"a\": [true, null, \"\\u00e9\"]}", "null", "[]"],
        "xml" => &["<a b=\"c\">d</a>", "text"],
        "money" => &["92233720368547758.07", "-92233720368547758.08"],
        "bit(3)" => &["101", "000"],
        "bit varying(7)" => &["", "1", "1010101"],
        "inet" => &["10.0.0.1/8", "::1", "fe80::/10", "192.168.0.1"],
        "cidr" => &["10.0.0.0/8", "2001:db8::/32"],
        "macaddr" => &["08:00:2b:01:02:03"],
        "macaddr8" => &["08:00:2b:01:02:03:04:05"],
        "point" => &["(1.5,-2)", "(1e300,0.1)"],
        "box" => &["(3,4),(1,2)"],
        "polygon" => &["((0,0),(1,1),(2,0))"],
        "tsvector" => &["'a':1A 'b':2,3", ""],
        "tsquery" => &["'a' & !'b'"],
        "pg_lsn" => &["16/B374D848", "0/0"],
        "int4range" => &["[1,10)", "empty", "(,5)", "(,)"],
        "numrange" => &["[1.10,2.2]", "(,0.00)"],
        "tstzrange" => &["[2024-01-01 00:00:00+00,infinity)", "[,2024-01-01)"],
        "datemultirange" => &["{[2024-01-01,2024-02-01),[2025-01-01,2025-02-01)}", "{}"],
        "integer[]" => &["{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={5,6}"],
        "text[]" => &["{}", "{a,\"b,c\",NULL,\"NULL\",\"\"}", "{\"q\\\"uote\",\"back\\\\slash\"}"],
        "double precision[]" => &["{0.1,NaN,-Infinity,5e-324}"],
        "timestamp with time zone[]" => &["{infinity,\"2024-06-01 12:00:00.000001+00\"}"],
        "oid" => &["0", "4294967295"],
        "mood" => &["sad", "it's, \"ok\"", ""],
        "mood[]" => &["{sad,\"\"}"],
        "pair" => &["(1,\"a, b\")", "(,)"],
        "positive" => &["0.001", "99999.999"],
        "nested" => &["12"],
        other => panic!("{other} has no values"),
    }
}

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'it''s, \"ok\"', '');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN positive AS numeric(8,3) CHECK (VALUE > 0);
    CREATE DOMAIN inner_domain AS varchar(5); CREATE DOMAIN nested AS inner_domain;";

/// A table with a row of nulls and rows of all values.
pub(crate) fn every_type(server: &Postgres) {
    server.sql(TYPES);
    let columns: Vec<_> = COLUMNS.iter().map(|(name, _)| format!("{} {name}", column(name))).collect();
    let mut sql = format!("CREATE TABLE every (id int NOT NULL, {});\n", columns.join(", "));
    let most = COLUMNS.iter().map(|(name, _)| values(name).len()).max().unwrap();
    sql.push_str("INSERT INTO every (id) VALUES (-1);\n");
    for row in 0..most {
        let fields: Vec<_> = COLUMNS
            .iter()
            .map(|(name, _)| {
                let all = values(name);
                format!("'{}'::{name}", all[row % all.len()].replace('\'', "''"))
            })
            .collect();
        sql.push_str(&format!("INSERT INTO every VALUES ({row}, {});\n", fields.join(", ")));
    }
    server.sql(&sql);
}

pub(crate) fn column(data_type: &str) -> String {
    let name: String = data_type.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("c_{name}")
}

/// Rows of one table that are not in the other, both as text.
fn differences(server: &Postgres, one: &str, other: &str) -> String {
    server.sql(&format!(
        "SET timezone = 'UTC'; SET extra_float_digits = 3;
         (SELECT '< ' || t::text FROM {one} t EXCEPT ALL SELECT '< ' || t::text FROM {other} t) UNION ALL
         (SELECT '> ' || t::text FROM {other} t EXCEPT ALL SELECT '> ' || t::text FROM {one} t)"
    ))
}

fn types_of(server: &Postgres, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
         WHERE attrelid = '{table}'::regclass AND attnum > 1 ORDER BY attnum"
    );
    server.sql(&sql).lines().map(str::to_owned).collect()
}

#[test]
fn every_type_goes_through_parquet_and_back() {
    let server = Postgres::start();
    every_type(&server);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("every.parquet");
    let file = file.to_str().unwrap();
    let rows = copy(&server.uri("every"), file, LoadMode::Create).unwrap().load.records_loaded;
    assert_eq!(rows.to_string(), server.sql("SELECT count(*) FROM every"));

    // A table that is made of the file has the types, where they are not the user's own.
    copy(file, &server.uri("made"), LoadMode::Create).unwrap();
    let expected: Vec<_> = COLUMNS.iter().map(|(name, made)| if made.is_empty() { *name } else { *made }).collect();
    assert_eq!(types_of(&server, "made"), expected);
    assert_eq!(differences(&server, "every", "made"), "");

    // A table that is there keeps its own.
    server.sql("CREATE TABLE same (LIKE every)");
    copy(file, &server.uri("same"), LoadMode::Append).unwrap();
    assert_eq!(differences(&server, "every", "same"), "");
    copy(file, &server.uri("same"), LoadMode::Replace).unwrap();
    assert_eq!(differences(&server, "every", "same"), "");
    assert_eq!(types_of(&server, "same"), types_of(&server, "every"));
    assert_eq!(server.left_over(), "");
}

#[test]
fn every_type_goes_from_database_to_database() {
    let (from, to) = (Postgres::start(), Postgres::start());
    every_type(&from);
    copy(&from.uri("every"), &to.uri("every"), LoadMode::Create).unwrap();
    let rows = "SET timezone = 'UTC'; SET extra_float_digits = 3; SELECT t::text FROM every t ORDER BY id";
    assert_eq!(from.sql(rows), to.sql(rows));
}

/// JSON of a table is JSON in a file, and not text about it.
#[test]
fn json_of_a_table_is_json_in_a_file() {
    let server = Postgres::start();
    let rows = "(1, '{\"a\" : [1.50, null]}', '{\"c\": \"x\"}'), (2, NULL, '[7]')";
    server.sql(&format!("CREATE TABLE t (n int, j json, b jsonb); INSERT INTO t VALUES {rows}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.ndjson");
    let (source, target) = (Uri::new(server.uri("t")), Uri::new(path.to_str().unwrap()));
    let none = OptionMap::new();
    let builder = pipeline(&registry(), (&source, &none), (&target, &none)).unwrap();
    let builder = builder.request(ScanRequest::all().partitions(1));
    block_on(async { builder.build().unwrap().execute().await }).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let expected = "{\"n\":1,\"j\":{\"a\":[1.50,null]},\"b\":{\"c\":\"x\"}}\n{\"n\":2,\"j\":null,\"b\":[7]}\n";
    assert_eq!(text, expected);
}

/// Strings that look like something else, which a text without its quotes would become.
#[test]
fn json_of_a_file_stays_what_it_is_in_a_table_of_json() {
    let server = Postgres::start();
    let rows = r#"(1, '"123"', '"true"'), (2, '"null"', '"[1]"'), (3, '"plain"', '{"a":[1.50]}'), (4, '7', NULL)"#;
    server.sql(&format!("CREATE TABLE s (n int, j json, b jsonb); INSERT INTO s VALUES {rows}"));
    server.sql("CREATE TABLE t (LIKE s)");
    let folder = tempfile::tempdir().unwrap();
    let path = Uri::new(folder.path().join("s.ndjson").to_str().unwrap());
    let none = OptionMap::new();
    for (source, target) in [(&Uri::new(server.uri("s")), &path), (&path, &Uri::new(server.uri("t")))] {
        let mode = if target == &path { LoadMode::Create } else { LoadMode::Append };
        let builder = pipeline(&registry(), (source, &none), (target, &none)).unwrap().mode(mode);
        block_on(async { builder.build().unwrap().execute().await }).unwrap();
    }
    let content = |table: &str| server.sql(&format!("SELECT n, j, b FROM {table} ORDER BY n"));
    assert_eq!(content("t"), content("s"));
}

/// `json` takes more than a file of JSON may hold.
#[test]
fn json_that_a_file_cannot_hold_is_written_as_text_if_that_is_asked_for() {
    let server = Postgres::start();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    server.sql(&format!("CREATE TABLE s (j json); INSERT INTO s VALUES ('{deep}')"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.ndjson");
    let (source, target) = (Uri::new(server.uri("s")), Uri::new(path.to_str().unwrap()));
    let none = OptionMap::new();
    let load = |options: &OptionMap, cast: bool| {
        let mut builder = pipeline(&registry(), (&source, options), (&target, &none)).unwrap().mode(LoadMode::Replace);
        if cast {
            builder = builder.transform(Cast::new([("j", DataType::Utf8)]));
        }
        block_on(async { builder.build().unwrap().execute().await })
    };
    let error = load(&none, false).unwrap_err().to_string();
    assert!(error.contains("nested deeper than 128 levels") && error.contains("cast the column to text"), "{error}");
    let text = OptionMap::from([("types".to_owned(), "j:text".to_owned())]);
    for (options, cast) in [(&none, true), (&text, false)] {
        load(options, cast).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{{\"j\":\"{deep}\"}}\n"));
    }
}

#[test]
fn what_a_type_of_arrow_cannot_hold_is_refused_by_its_column() {
    let server = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    for (data_type, value, said) in [
        ("date", "infinity", "infinity"),
        ("timestamp", "-infinity", "infinity"),
        ("timestamptz", "infinity", "infinity"),
        ("timestamp", "294276-12-31 23:59:59.999999", "after the year 294246"),
        ("time", "24:00:00", "24:00:00"),
        ("numeric(10,2)", "NaN", "NaN"),
    ] {
        server.sql(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id int, odd {data_type}); INSERT INTO t VALUES (1, '{value}')"
        ));
        let file = folder.path().join("t.parquet");
        let file = file.to_str().unwrap();
        let error = copy(&server.uri("t"), file, LoadMode::Replace).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("column \"odd\"") && text.contains(said) && text.contains("types=odd:text"), "{text}");
        let as_text = Copy { mode: LoadMode::Replace, source_options: &[("types", "odd:text")], ..Copy::default() };
        as_text.run(&server.uri("t"), file).unwrap();
        copy(file, &server.uri("back"), LoadMode::Replace).unwrap();
        assert_eq!(server.sql("SELECT odd FROM back"), server.sql("SELECT odd FROM t"), "{data_type}");
        server.sql("DROP TABLE back");
    }
}

#[test]
fn a_column_is_read_as_the_user_says_if_that_is_exact() {
    let server = Postgres::start();
    server.sql("CREATE TABLE t (n numeric, i int, t text); INSERT INTO t VALUES (1.50, 7, 'a'), (NULL, NULL, NULL), (-2, 8, '')");
    let folder = tempfile::tempdir().unwrap();
    let read = |types: &str| {
        let file = folder.path().join("t.parquet");
        let options = [("types", types)];
        let copy = Copy { mode: LoadMode::Replace, source_options: &options, ..Copy::default() };
        copy.run(&server.uri("t"), file.to_str().unwrap())?;
        server.sql("DROP TABLE IF EXISTS back");
        super::copy(file.to_str().unwrap(), &server.uri("back"), LoadMode::Create)?;
        Ok::<_, Error>(server.sql("SELECT pg_typeof(n), n FROM back"))
    };
    assert_eq!(read("n:decimal(10,3)").unwrap(), "numeric|1.500\nnumeric|\nnumeric|-2.000");
    assert_eq!(
        read("n:float64,i:decimal(20,2)").unwrap(),
        "double precision|1.5\ndouble precision|\ndouble precision|-2"
    );
    let error = read("n:decimal(10,0)").unwrap_err().to_string();
    assert!(error.contains("column \"n\"") && error.contains("more digits"), "{error}");
    for types in ["n:int64", "t:int32", "x:text", "i:date"] {
        assert_eq!(read(types).unwrap_err().kind(), ErrorKind::InvalidConfig, "{types}");
    }
}

#[test]
fn every_type_of_arrow_arrives_and_is_verified() {
    use std::sync::Arc;

    use arrow_array::types::*;
    use arrow_array::*;

    let server = Postgres::start();
    let uuid = HashMap::from([("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())]);
    let json = HashMap::from([("ARROW:extension:name".to_owned(), "arrow.json".to_owned())]);
    let bytes: FixedSizeBinaryArray = FixedSizeBinaryArray::try_from_iter([[7_u8; 16], [255; 16]].into_iter()).unwrap();
    let dictionary: DictionaryArray<Int8Type> = vec![Some("a"), None].into_iter().collect();
    let decimal = Decimal128Array::from(vec![12345, -1]).with_precision_and_scale(10, 2).unwrap();
    let columns: Vec<(&str, ArrayRef, HashMap<String, String>, &str)> = vec![
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None])), HashMap::new(), "true|"),
        ("int8", Arc::new(Int8Array::from(vec![-128, 127])), HashMap::new(), "-128|127"),
        ("uint64", Arc::new(UInt64Array::from(vec![u64::MAX, 0])), HashMap::new(), "18446744073709551615|0"),
        ("uint32", Arc::new(UInt32Array::from(vec![u32::MAX, 0])), HashMap::new(), "4294967295|0"),
        ("float16", Arc::new(Float32Array::from(vec![1.5, f32::NAN])), HashMap::new(), "1.5|NaN"),
        ("large", Arc::new(LargeStringArray::from(vec!["a", ""])), HashMap::new(), "a|"),
        (
            "view",
            Arc::new(StringViewArray::from(vec!["a long text, longer than a view", ""])),
            HashMap::new(),
            "a long text, longer than a view|",
        ),
        ("binary", Arc::new(BinaryViewArray::from(vec![&b"\0\xff"[..], b""])), HashMap::new(), "\\x00ff|\\x"),
        ("dictionary", Arc::new(dictionary), HashMap::new(), "a|"),
        ("null", Arc::new(NullArray::new(2)), HashMap::new(), "|"),
        ("time32", Arc::new(Time32SecondArray::from(vec![0, 86399])), HashMap::new(), "00:00:00|23:59:59"),
        ("time64", Arc::new(Time64NanosecondArray::from(vec![1000, 0])), HashMap::new(), "00:00:00.000001|00:00:00"),
        (
            "seconds",
            Arc::new(TimestampSecondArray::from(vec![-1, 0])),
            HashMap::new(),
            "1969-12-31 23:59:59|1970-01-01 00:00:00",
        ),
        (
            "nanos",
            Arc::new(TimestampNanosecondArray::from(vec![1000, 0]).with_timezone("+02:00")),
            HashMap::new(),
            "1970-01-01 00:00:00.000001+00|1970-01-01 00:00:00+00",
        ),
        ("decimal", Arc::new(decimal), HashMap::new(), "123.45|-0.01"),
        (
            "uuid",
            Arc::new(bytes.clone()),
            uuid,
            "07070707-0707-0707-0707-070707070707|ffffffff-ffff-ffff-ffff-ffffffffffff",
        ),
        (
            "fixed",
            Arc::new(bytes),
            HashMap::new(),
            "\\x07070707070707070707070707070707|\\xffffffffffffffffffffffffffffffff",
        ),
        ("json", Arc::new(StringArray::from(vec!["{\"a\":  1}", "[]"])), json, "{\"a\":  1}|[]"),
    ];
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, array, metadata, _)| {
            Field::new(*name, array.data_type().clone(), true).with_metadata(metadata.clone())
        })
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let batch =
        RecordBatch::try_new(schema.clone(), columns.iter().map(|(_, array, ..)| array.clone()).collect()).unwrap();
    for mode in [LoadMode::Create, LoadMode::Append, LoadMode::Replace] {
        let pool = PostgresPool::connect_lazy(&server.uri("")).unwrap();
        let report = block_on(async {
            let source = MemoryExtractor::new(schema.clone(), vec![batch.clone()]);
            let pipeline = PipelineBuilder::new().extract(source).load(PostgresLoader::new(pool, "t")?);
            pipeline.mode(mode).verify(Verify::Full).build()?.execute().await
        });
        assert_eq!(report.unwrap().load.records_loaded, 2, "{mode}");
    }
    for (name, _, _, expected) in &columns {
        let sql = format!("SET timezone = 'UTC'; SELECT string_agg(coalesce(\"{name}\"::text, ''), '|') FROM t");
        assert_eq!(server.sql(&sql), *expected, "{name}");
    }
    assert_eq!(types_of(&server, "t")[14..], ["uuid", "bytea", "json"]);
}
