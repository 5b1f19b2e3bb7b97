//! The one entry point of the repository: `cargo xtask help` lists what it does.
//!
//! Kept light on purpose, so that it starts within seconds of a fresh clone: it installs, builds and
//! spawns. Whatever needs tokio or the lab lives in the binaries of `tests/`.
#![forbid(unsafe_code)]

mod cluster;
mod ebpf;
mod homes;
mod image;
mod leftovers;
mod own_cluster;
mod process;
mod setup;
mod suites;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::own_cluster::OwnCluster;
use crate::setup::Needs;
use crate::workspace::Workspace;

/// Builds, runs and checks Aquifer.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing: compilers, iproute2, load generators
    Setup,
    /// Build the kernel programs
    Ebpf,
    /// Make OCI images of everything that a cluster runs, without a container engine
    Image(image::Options),
    /// Generate the protobuf code and the CRDs (checked in)
    Codegen {
        /// Write nothing; fail when the checked-in code is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// A cluster on this machine: `lab up`, `lab status`, `lab exec`, `lab down`, ...
    #[command(disable_help_flag = true)]
    Lab {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// A Kubernetes cluster of real parts: `cluster up`, `load IMAGE.tar`, `kubeconfig`, `status`, `down`, ...
    #[command(disable_help_flag = true)]
    Cluster {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Bookinfo's canary through the mesh, with a report of what happened
    #[command(disable_help_flag = true)]
    Demo {
        /// `--kubernetes`, `--keep`, `--json FILE`; on one's own cluster `--load-with COMMAND` or `--registry HOST/PATH`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// No mesh against Aquifer: `bench l4`, `bench l7`; by themselves: `bench control`, `bench enrol`
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Formatting, lints, dependency rules, generated code, then every suite; or only the named ones
    Test {
        /// Suites to run (default: all); `--list` names them
        suites: Vec<String>,
        /// Print the names of the suites
        #[arg(long)]
        list: bool,
        #[command(flatten)]
        own: OwnCluster,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup => setup::install(Needs::Everything),
        Task::Ebpf => {
            setup::install(Needs::Build)?;
            ebpf::build()?;
            Ok(())
        }
        Task::Image(options) => image::run(&workspace, &options),
        Task::Codegen { check } => workspace.codegen(check),
        Task::Lab { arguments } => spawn_tool(&workspace, "aquifer-lab", &arguments, Needs::Lab),
        Task::Cluster { arguments } => {
            cluster::install()?;
            spawn_tool(&workspace, "aquifer-cluster", &arguments, Needs::Lab)
        }
        Task::Demo { arguments } => demo(&workspace, &arguments),
        Task::Bench { arguments } => {
            if arguments.first().is_some_and(|layer| layer == "control") {
                cluster::install()?;
            }
            spawn_tool(&workspace, "aquifer-bench", &arguments, Needs::Everything)
        }
        Task::Test { list: true, .. } => suites::list(&workspace),
        Task::Test {
            suites,
            list: false,
            own,
        } => suites::run(&workspace, &suites, &own),
    }
}

fn demo(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    let on_kubernetes = arguments.iter().any(|argument| argument == "--kubernetes");
    if own_cluster::is_meant_by(arguments) {
        return demo_on_own_cluster(workspace, arguments);
    }
    if on_kubernetes {
        cluster::install()?;
    }
    spawn_tool(workspace, "aquifer-demo", arguments, Needs::Lab)
}

fn demo_on_own_cluster(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    let images = own_cluster::prepare(workspace, own_cluster::pushes(arguments))?;
    process::become_program(
        &workspace.binary("aquifer-demo"),
        arguments,
        &[(image::FOLDER_VARIABLE, images.into())],
    )
}

/// Builds everything a lab runs, then becomes `binary`: signals reach it directly, so that it cleans up.
fn spawn_tool(workspace: &Workspace, binary: &str, arguments: &[OsString], needs: Needs) -> Result<()> {
    setup::install(needs)?;
    ebpf::build()?;
    workspace.build_binaries()?;
    process::become_program(&workspace.binary(binary), arguments, &[])
}
