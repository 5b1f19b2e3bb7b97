//! The control plane's process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use aquifer_control::app;
use aquifer_control::config::Config;
use clap::Parser;

fn main() -> ExitCode {
    match app::main(Config::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The logger may be what failed.
            eprintln!("aquifer-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}
