//! The program `chasqui-agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::cli::main(std::env::args_os().collect())
}
