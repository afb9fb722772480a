#![no_main]

mod run;

libfuzzer_sys::fuzz_target!(init: run::quietly(), |input: &[u8]| run::check(etlrs_fuzz::json_reader, input));
