//! The program `etlrs`.

fn main() -> std::process::ExitCode {
    etlrs_cli::main()
}
