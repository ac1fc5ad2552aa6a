//! Every program of the system in one binary, chosen by the first argument, so that the tests and
//! the demo start agent, hub and provisioning as processes of their own after a single build.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    kit::process::multi_call(std::env::args_os().collect())
}
