//! The program under test.

fn main() -> std::process::ExitCode {
    etlrs_cli::main()
}
