//! What must hold for any bytes (`fuzz/src`), for those that fuzzing once found and for some random ones. `scripts/fuzz`
//! looks for others for as long as it is told to.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../fuzz/src/lib.rs"]
mod checks;

use std::path::Path;

use checks::{CHECKS, CHOICES, Check};
use proptest::prelude::*;

/// Inputs of a target that made its check fail when they were found, with their names.
fn regressions(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions").join(target);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn what_fuzzing_found_holds() {
    let mut failed = Vec::new();
    for (target, check) in CHECKS {
        for (name, input) in regressions(target) {
            if std::panic::catch_unwind(|| check(&input)).is_err() {
                failed.push(format!("fuzz/regressions/{target}/{name}"));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

fn check(target: &str) -> Check {
    CHECKS.into_iter().find(|(name, _)| *name == target).unwrap().1
}

/// Options, and a file of bytes that structure CSV.
fn csv() -> impl Strategy<Value = Vec<u8>> {
    // Half of the choices are the usual ones.
    let choice = prop_oneof![Just(0), 0u8..12];
    let text =
        prop::collection::vec(prop::sample::select(b"aab01-.:/,,,;\t| \"\"\"'\\#\n\n\n\r\xc3\xbc".to_vec()), 0..300);
    (prop::collection::vec(choice, CHOICES), text).prop_map(|(choices, text)| [choices, text].concat())
}

/// Options, and a file of what JSON is made of, some of it broken.
fn json() -> impl Strategy<Value = Vec<u8>> {
    // Most of the choices are the usual ones.
    let choice = prop_oneof![8 => Just(0), 1 => 0u8..12];
    let scalar = prop::sample::select(vec!["1", "-7", "2.50", "1e3", "18446744073709551615", "null"]);
    let text = prop::sample::select(vec!["\"\"", "\"x\"", "\"2024-02-29\"", "\"\\u00fc\"", "\"1.0\"", "true", "null"]);
    let value = prop_oneof![scalar, text].prop_map(str::to_owned).prop_recursive(2, 12, 3, |value| {
        prop_oneof![
            prop::collection::vec(value.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            object(&["a", "b"], value),
        ]
    });
    let record = object(&["a", "b", "c", "a\\u0062"], value);
    let kinds =
        [("", "\n", "\n"), ("", "\n", ""), ("[", ",", "]"), ("", "", ""), ("[\n", ",\n", "\n]\n"), (" ", "\r\n\n", "")];
    let broken = (any::<prop::sample::Index>(), prop::sample::select(b"{}[],:\"\\ax1\n\xff".to_vec()));
    (
        prop::collection::vec(choice, CHOICES),
        prop::collection::vec(record, 0..12),
        prop::sample::select(kinds.to_vec()),
        prop::option::weighted(0.2, broken),
    )
        .prop_map(|(choices, records, (before, between, behind), broken)| {
            let mut text = format!("{before}{}{behind}", records.join(between)).into_bytes();
            if let Some((place, byte)) = broken.filter(|_| !text.is_empty()) {
                let place = place.index(text.len());
                text[place] = byte;
            }
            [choices, text].concat()
        })
}

/// Some of `keys` with values.
fn object(keys: &[&'static str], value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let keys = prop::sample::subsequence(keys.to_vec(), 0..=keys.len());
    let values = prop::collection::vec(value, 4);
    (keys, values).prop_map(|(keys, values)| {
        let members = keys.iter().zip(values).map(|(key, value)| format!("\"{key}\": {value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_partitioning_of_a_csv_file_is_the_same_rows(input in csv()) {
        check("csv_reader")(&input);
    }

    #[test]
    fn a_dialect_that_was_found_can_be_given(input in csv()) {
        check("csv_dialect")(&input);
    }

    #[test]
    fn packed_csv_comes_back_or_is_refused(input in csv(), place in any::<[u8; 5]>()) {
        let input = [&place, &input[place.len()..]].concat();
        check("csv_gz")(&input);
        check("csv_zst")(&input);
    }

    #[test]
    fn any_reading_of_a_json_file_is_the_same_rows(input in json()) {
        check("json_reader")(&input);
    }

    #[test]
    fn what_was_read_of_json_is_written_and_read_back(input in json()) {
        check("json_writer")(&input);
    }

    /// Bytes that are a Parquet file but for some of them.
    #[test]
    fn damaged_parquet_is_rows_or_an_error(
        footer_first in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut file = PARQUET.to_vec();
        let footer = file.len() * 2 / 3;
        for (place, byte) in changes {
            let place = if footer_first { footer + place.index(file.len() - footer) } else { place.index(file.len()) };
            file[place] = byte;
        }
        check("parquet_open")(&file);
    }
}

/// A few rows of each type that CSV has, as this workspace writes them.
const PARQUET: &[u8] = include_bytes!("../../fuzz/seeds/parquet_open/mixed.parquet");
