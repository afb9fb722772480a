//! A measurement, not a test: `cargo nextest run --release -p etlrs-sql --run-ignored all speed --no-capture`.

use std::time::Instant;

use etlrs_core::arrow_array::*;
use etlrs_core::*;

use crate::*;

/// Rows like those of TPC-H orders: nine columns.
fn orders(first: i64, rows: i64) -> RecordBatch {
    let keys = || first..first + rows;
    let text = |f: &dyn Fn(i64) -> String| array(keys().map(|k| Some(f(k))).collect::<StringArray>());
    let prices = Decimal128Array::from_iter_values(keys().map(|k| i128::from(k % 50_000_000)));
    batch(vec![
        ("o_orderkey", array(Int64Array::from_iter_values(keys().map(|k| k * 4)))),
        ("o_custkey", array(Int64Array::from_iter_values(keys().map(|k| k * 7919 % 150_000)))),
        ("o_orderstatus", text(&|k| ["O", "F", "P"][(k % 3) as usize].into())),
        ("o_totalprice", array(prices.with_precision_and_scale(12, 2).unwrap())),
        ("o_orderdate", array(Date32Array::from_iter_values(keys().map(|k| 8000 + (k % 2400) as i32)))),
        ("o_orderpriority", text(&|k| ["1-URGENT", "5-LOW", "3-MEDIUM"][(k % 3) as usize].into())),
        ("o_clerk", text(&|k| format!("Clerk#{:09}", k % 1000))),
        ("o_shippriority", array(Int32Array::from_iter_values(keys().map(|_| 0)))),
        ("o_comment", text(&|k| format!("carefully final requests about the theodolites {k} sleep"))),
    ])
}

#[test]
#[ignore = "a measurement"]
fn a_million_and_a_half_rows_of_nine_columns() {
    let batches: Vec<_> = (0..150).map(|i| orders(i * 10_000, 10_000)).collect();
    for pragma in ["", "PRAGMA journal_mode = WAL"] {
        let database = Database::new(&format!("{pragma}; CREATE TABLE other (x)"));
        let loader = database.loader("orders");
        let cx = context(10_000);
        let start = Instant::now();
        run(async {
            // Eight partitions, as the engine would make.
            let parts: Vec<_> = batches.chunks(19).collect();
            let partitions: Vec<_> = (0..parts.len()).map(|index| Partition::new(index, "p")).collect();
            let plan = LoadPlan::new(batches[0].schema(), LoadMode::Create, partitions.clone());
            let session = loader.begin(&cx, plan).await.unwrap();
            let mut receipts = Vec::new();
            for (partition, part) in partitions.iter().zip(parts) {
                let mut writer = session.writer(&cx, partition, 1).await.unwrap();
                for batch in part {
                    writer.write(batch.clone()).await.unwrap();
                }
                receipts.push(writer.finish().await.unwrap());
            }
            println!("{pragma:?} staged after {:?}", start.elapsed());
            session.commit(receipts).await.unwrap();
        });
        println!("{pragma:?} in: {:?}", start.elapsed());

        // What rusqlite alone takes for the same, on this machine at this time.
        let (start, plain) = (Instant::now(), database.connect());
        let mut statement = plain.prepare("SELECT * FROM orders").unwrap();
        let (mut rows, mut bytes) = (statement.query(()).unwrap(), 0);
        while let Some(row) = rows.next().unwrap() {
            for index in 0..9 {
                bytes += row.get_ref(index).unwrap().as_bytes().map_or(8, <[u8]>::len);
            }
        }
        println!("{pragma:?} plain rusqlite out: {:?}, {bytes} bytes", start.elapsed());
        let copy = Connection::open(database.folder.path().join("copy.db")).unwrap();
        copy.execute_batch("CREATE TABLE t (a, b, c, d TEXT, e TEXT, f TEXT, g TEXT, h, i TEXT); BEGIN").unwrap();
        let mut insert = copy.prepare("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)").unwrap();
        let start = Instant::now();
        for key in 0..1_500_000i64 {
            let comment = "carefully final requests about the theodolites 1234567 sleep";
            insert
                .execute((key * 4, key, "O", "123456.78", "1996-01-02", "1-URGENT", "Clerk#000000951", 0, comment))
                .unwrap();
        }
        copy.execute_batch("COMMIT").unwrap();
        println!("{pragma:?} plain rusqlite in: {:?}", start.elapsed());

        database.execute("CREATE VIEW v AS SELECT * FROM orders");
        for (table, types) in [("orders", ""), ("orders", "o_totalprice:text,o_orderdate:text"), ("v", "")] {
            let mut options = SqliteSourceOptions::default();
            if !types.is_empty() {
                options = SqliteSourceOptions::from_pairs([("types", types)]).unwrap();
            }
            let extractor = SqliteExtractor::new(database.path(), table).with_options(options);
            for threads in [1, 2] {
                let start = Instant::now();
                let scan = run(extractor.scan(&cx, &ScanRequest::all())).unwrap();
                let next = std::sync::atomic::AtomicUsize::new(0);
                let rows = std::sync::atomic::AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            loop {
                                let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                                let Some(partition) = scan.partitions().get(index) else { break };
                                let mut stream = scan.read(&cx, partition).unwrap();
                                while let Some(batch) = run(next_batch(&mut stream)) {
                                    rows.fetch_add(batch.unwrap().num_rows(), std::sync::atomic::Ordering::Relaxed);
                                }
                            }
                        });
                    }
                });
                println!("{pragma:?} out of {table} {types:?} on {threads} threads: {:?}", start.elapsed());
                assert_eq!(rows.into_inner(), 1_500_000);
            }
        }
    }
}
