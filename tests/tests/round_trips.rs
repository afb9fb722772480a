//! Stub.

#[test]
fn stub() {
    let _ = env!("CARGO_BIN_EXE_etlrs-under-test");
}
