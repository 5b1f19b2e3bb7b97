//! `aquifer`: what an operator types to see what the mesh does.
//!
//! It reads the debug pages of the control plane and the admin pages of the proxies; it changes nothing.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command line tool prints its answer")]

mod config;
mod fetch;
mod reach;
mod status;
mod table;

use clap::{Parser, Subcommand};

use crate::config::Section;
use crate::reach::Reach;
use crate::table::Output;

/// See what the mesh does: proxies, pods, and the configuration in effect.
#[derive(Parser)]
#[command(name = "aquifer", version)]
struct Cli {
    /// The control plane's monitoring address, where it can be reached directly.
    #[arg(
        long,
        global = true,
        env = "AQUIFER_CONTROL",
        default_value = "127.0.0.1:15014"
    )]
    control: String,
    /// A command that runs another one inside a pod, called as COMMAND NAMESPACE/POD -- ARGUMENTS;
    /// with it every page is read from inside the pod that serves it.
    #[arg(long, global = true, env = "AQUIFER_EXEC")]
    exec: Option<String>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every proxy and whether it is in sync; every pod and whether it is enrolled, or why not.
    Status,
    /// What a proxy has been told: PROXY is POD or POD.NAMESPACE.
    Config {
        proxy: String,
        #[arg(value_enum)]
        section: Section,
    },
    /// Prints the page at a URL; `config` and `status` run this inside pods.
    #[command(hide = true)]
    Fetch { url: String },
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("aquifer: {e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let reach = Reach::new(cli.control, cli.exec.as_deref())?;
    match cli.command {
        Command::Status => status::run(&reach, cli.output),
        Command::Config { proxy, section } => config::run(&reach, &proxy, section, cli.output),
        Command::Fetch { url } => {
            print!("{}", fetch::get(&url)?);
            Ok(())
        }
    }
}
