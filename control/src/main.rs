//! The control plane's process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use aquifer_control::config::{Action, Config};
use aquifer_control::{app, removal};
use clap::Parser;

fn main() -> ExitCode {
    let config = Config::parse();
    let outcome = match config.action {
        Some(Action::Remove) => removal::main(&config),
        None => app::main(config),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The logger may be what failed.
            eprintln!("aquifer-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}
