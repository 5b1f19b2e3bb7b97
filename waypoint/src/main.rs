//! `aquifer-waypoint`: reads the configuration and runs until it is told to stop.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use aquifer_waypoint::config::Config;
use aquifer_waypoint::run::run;
use clap::Parser;

fn main() -> ExitCode {
    let config = Config::parse();
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aquifer-waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}
