//! The node agent's process: flags, logging, then [`aquifer_agent::run`]; under another name the CNI plugin's.

use std::process::ExitCode;

use aquifer_agent::cni::plugin;
use aquifer_agent::config::{Config, Flags};
use clap::Parser;

fn main() -> ExitCode {
    if plugin::is_called() {
        return plugin::main();
    }
    let config = match Flags::parse().resolve() {
        Ok(config) => config,
        Err(errors) => return fail(&errors.to_string()),
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn start(config: Config) -> anyhow::Result<()> {
    aquifer_telemetry::logging::init(&config.log_level, config.log_format)?;
    aquifer_telemetry::process::raise_descriptor_limit();
    aquifer_agent::run::run(config)
}

fn fail(message: &str) -> ExitCode {
    use std::io::Write;
    // Standard error may be closed; there is nobody left to tell then.
    let _ = writeln!(std::io::stderr(), "aquifer-agent: {message}");
    ExitCode::FAILURE
}
