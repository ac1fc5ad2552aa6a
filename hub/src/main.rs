//! `chasqui-hub`: the central reading hub.

fn main() -> std::process::ExitCode {
    hub::cli::main(std::env::args_os().collect())
}
