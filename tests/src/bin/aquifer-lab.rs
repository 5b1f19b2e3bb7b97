//! The lab's command line, its daemon, its node helpers and the first step of its containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    aquifer_tests::lab::cli::main()
}
