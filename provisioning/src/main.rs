//! The program `chasqui-provision`.

use std::process::ExitCode;

fn main() -> ExitCode {
    provisioning::cli::main(std::env::args_os().collect())
}
