//! The cluster's command line and the first process of its members.

use std::process::ExitCode;

fn main() -> ExitCode {
    aquifer_tests::cluster::cli::main()
}
