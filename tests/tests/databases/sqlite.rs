//! SQLite, where others look on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;

#[test]
fn readers_of_a_replaced_table_see_the_old_rows_or_the_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = |rows: usize| {
        let path = folder.path().join(format!("{rows}.csv"));
        let lines: String = (0..rows).map(|id| format!("{id},{rows}\n")).collect();
        std::fs::write(&path, format!("id,version\n{lines}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = [file(3000), file(5000)];
    for journal in ["delete", "wal"] {
        let database = folder.path().join(format!("{journal}.db"));
        let target = format!("sqlite:{}#t", database.display());
        copy(&files[0], &target, LoadMode::Create).unwrap();
        rusqlite::Connection::open(&database).unwrap().pragma_update(None, "journal_mode", journal).unwrap();
        let done = AtomicBool::new(false);
        let polls = std::thread::scope(|scope| {
            let poller = scope.spawn(|| {
                let connection = rusqlite::Connection::open(&database).unwrap();
                connection.busy_timeout(Duration::from_secs(30)).unwrap();
                let mut polls = 0;
                while !done.load(Ordering::Relaxed) {
                    let found: (i64, i64, i64) = connection
                        .query_row("SELECT count(*), min(version), max(version) FROM t", [], |row| {
                            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                        })
                        .unwrap();
                    assert!([(3000, 3000, 3000), (5000, 5000, 5000)].contains(&found), "a reader saw {found:?}");
                    polls += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                polls
            });
            let over = Done(&done);
            let options = [("busy_timeout", "30")];
            for round in 1..=20 {
                let replace = Copy { mode: LoadMode::Replace, target_options: &options, ..Copy::default() };
                replace.run(&files[round % 2], &target).unwrap();
            }
            drop(over);
            poller.join().unwrap()
        });
        assert!(polls >= 50, "{journal}: {polls}");
    }
}
