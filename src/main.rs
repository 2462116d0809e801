//! The `chasi` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    chasi::cli::main()
}
