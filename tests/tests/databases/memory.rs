//! Memory does not depend on the number of rows.

use etlrs_tests::peak_memory;

use super::*;

const PROGRAM: &str = env!("CARGO_BIN_EXE_etlrs-under-test");
const MB: u64 = 1 << 20;

#[test]
fn memory_is_the_same_for_ten_times_the_rows() {
    let (postgres, mysql) = (Postgres::start(), MariaDb::start());
    let folder = tempfile::tempdir().unwrap();
    let measure = |rows: usize, pieces: &str| {
        postgres.sql(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT i::int8 AS id, i / 7.0::float8 AS price,
                repeat('x', i % 60) AS name, '2024-01-01'::timestamptz + i * interval '1 s' AS at FROM generate_series(1, {rows}) i;
             ALTER TABLE t ADD PRIMARY KEY (id); DROP TABLE IF EXISTS copied"
        ));
        mysql.sql("DROP TABLE IF EXISTS t");
        let (from, to) = (postgres.uri("t"), mysql.uri("t"));
        let copies: [(&str, &str); 6] = [
            (&from, "t.parquet"),
            ("t.parquet", &postgres.uri("copied")),
            (&from, &postgres.uri("copied")),
            (&from, &to),
            (&to, "back.parquet"),
            (&to, &mysql.uri("copied")),
        ];
        copies.map(|(source, target)| {
            let flags =
                ["--mode", "replace", "--memory", "32MB", "--threads", "2", "--partitions", pieces, "--no-progress"];
            let arguments = [&["copy", source, target][..], &flags].concat();
            let mut peaks = [0; 3].map(|_| peak_memory(PROGRAM, folder.path(), &arguments));
            peaks.sort_unstable();
            (format!("{} to {}", kind(source), kind(target)), peaks[1] / MB)
        })
    };
    let once = measure(60_000, "4");
    let tenfold = measure(600_000, "40");
    for ((copy, once), (_, tenfold)) in once.into_iter().zip(tenfold) {
        println!("{copy}: {once} MB, with ten times the rows {tenfold} MB");
        assert!(
            tenfold <= once + 10 && tenfold <= 96,
            "{copy} took {once} MB, and {tenfold} MB for ten times the rows"
        );
    }
}

fn kind(uri: &str) -> &str {
    uri.split_once("://").map_or(uri, |(scheme, _)| scheme)
}
