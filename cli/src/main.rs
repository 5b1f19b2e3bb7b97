//! `aquifer`: what an operator types to install the mesh, to judge manifests, and to see what the mesh does.
//!
//! A cluster is reached with the user's own kubectl, and changed by helm where it is there. What the mesh itself knows
//! is read from the debug pages of the control plane and the admin pages of the proxies.
#![forbid(unsafe_code)]

mod analyze;
mod ca;
mod chart;
mod check;
mod config;
mod fetch;
mod install;
mod kubectl;
mod reach;
mod status;
mod table;
mod uninstall;
mod waypoint;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::check::Ways;
use crate::config::Section;
use crate::install::Verb;
use crate::kubectl::{Access, Kubectl};
use crate::reach::Reach;
use crate::table::{Output, say};

/// Install the mesh, judge manifests, and see what the mesh does.
#[derive(Parser)]
#[command(name = "aquifer", version)]
struct Cli {
    /// The control plane's monitoring address, where it can be reached directly (such as 127.0.0.1:15014).
    #[arg(long, global = true, env = "AQUIFER_CONTROL")]
    control: Option<String>,
    /// A command that runs another one inside a pod, called as COMMAND NAMESPACE/POD -- ARGUMENTS;
    /// with it every page is read from inside the pod that serves it. In a cluster it is not needed.
    #[arg(long, global = true, env = "AQUIFER_EXEC")]
    exec: Option<String>,
    #[command(flatten)]
    access: Access,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// Where the mesh is.
#[derive(clap::Args)]
struct Place {
    /// Namespace of the control plane.
    #[arg(short, long, global = true, default_value = install::NAMESPACE)]
    namespace: String,
}

#[derive(Subcommand)]
enum Command {
    /// Install the mesh into the cluster, and wait until it is ready.
    Install(install::Options),
    /// Bring the mesh to this program's version, or to other values.
    Upgrade(install::Options),
    /// Take the mesh out of the cluster; pods talk plainly afterwards, without a restart.
    Uninstall(uninstall::Options),
    /// What stands in the way of the mesh, before and after its installation; exit status 1 where a line fails.
    Check(check::Options),
    /// What the control plane says about manifests or about the cluster's objects.
    ///
    /// Exit status 0: nothing of level error; 1: something; 2: a file or the cluster cannot be read.
    Analyze(analyze::Options),
    /// Waypoints: layer 7 for a namespace, a service or a workload.
    #[command(subcommand)]
    Waypoint(waypoint::Action),
    /// The certificate authority: who signs, what is trusted, how far a change has got.
    Ca {
        #[command(subcommand)]
        action: ca::Action,
        #[command(flatten)]
        place: Place,
    },
    /// Every proxy and whether it is in sync; every pod and whether it is enrolled, or why not.
    Status(Place),
    /// What a proxy has been told: PROXY is POD or POD.NAMESPACE.
    Config {
        proxy: String,
        #[arg(value_enum)]
        section: Section,
        #[command(flatten)]
        place: Place,
    },
    /// Prints the page at a URL; `--exec` runs this inside pods.
    #[command(hide = true)]
    Fetch { url: String },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("aquifer: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let kubectl = Kubectl::new(&cli.access);
    let output = cli.output;
    let reach = |place: &Place| {
        Reach::new(
            cli.control.clone(),
            cli.exec.as_deref(),
            &cli.access,
            &place.namespace,
        )
    };
    match &cli.command {
        Command::Install(options) => return install::run(options, &kubectl, Verb::Install),
        Command::Upgrade(options) => return install::run(options, &kubectl, Verb::Upgrade),
        Command::Uninstall(options) => return uninstall::run(options, &kubectl),
        Command::Check(options) => {
            let ways = Ways {
                control: cli.control.clone(),
                exec: cli.exec.as_deref(),
                access: &cli.access,
            };
            return check::run(options, &kubectl, ways, output);
        }
        Command::Analyze(options) => return Ok(analyze::run(options, &kubectl, output)),
        Command::Waypoint(action) => return waypoint::run(action, &kubectl, output),
        Command::Ca { action, place } => {
            return ca::run(action, &reach(place)?, &kubectl, &place.namespace, output);
        }
        Command::Status(place) => status::run(&reach(place)?, output)?,
        Command::Config {
            proxy,
            section,
            place,
        } => config::run(&reach(place)?, proxy, *section, output)?,
        Command::Fetch { url } => say(fetch::get(url, fetch::DUMP)?.trim_end_matches('\n')),
    }
    Ok(ExitCode::SUCCESS)
}
