//! The command line `aquifer-lab`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::enter::{Entry, Start};
use super::layout::LabName;
use super::network::Families;
use super::protocol::{Request, Response};
use super::{Lab, LabOptions, Mesh, client, daemon, node, take_down};

/// A small cluster on this machine, made of network namespaces and cgroups.
#[derive(Debug, Parser)]
#[command(name = "aquifer-lab", version)]
struct Cli {
    /// Several labs live side by side under different names.
    #[arg(long, global = true, env = "AQUIFER_LAB_NAME", default_value = "aquifer")]
    name: LabName,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build a lab; returns when everything in it is ready, or says what is not.
    Up(Up),
    /// Apply manifests: a file, a folder of them, or - for standard input.
    Apply(Change),
    /// Delete the objects that manifests name, and wait until their pods are gone.
    Delete(Change),
    /// Run a command inside a pod: its network, its cgroup, its resolver.
    Exec {
        /// NAMESPACE/POD or NAMESPACE/WORKLOAD; without a namespace in `default`.
        target: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command on a node, or outside the cluster on the node `world`.
    Node {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Show nodes, pods, Services and gateways.
    Status {
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Show what a pod, a workload's pods, a node's helper or the `daemon` wrote.
    Logs {
        /// NAMESPACE/POD, NAMESPACE/WORKLOAD, a node, or `daemon`.
        target: String,
        /// As much of the end of each log, in bytes.
        #[arg(long, default_value_t = 1 << 20)]
        bytes: u64,
    },
    /// Wait until everything is ready.
    Wait {
        #[arg(long, value_name = "SECONDS", default_value_t = 90)]
        timeout: u64,
    },
    /// Signal a pod's containers; with --hold they stay down until `release`.
    Kill {
        target: String,
        #[arg(long, default_value_t = 9)]
        signal: i32,
        #[arg(long)]
        hold: bool,
    },
    /// Start what `kill --hold` keeps down.
    Release { target: String },
    /// Take the lab down, running or dead, and leave nothing behind.
    Down,
    #[command(hide = true)]
    Serve,
    #[command(hide = true)]
    NodeAgent { node: String },
    #[command(hide = true)]
    Container { start: PathBuf },
}

#[derive(Debug, Args)]
struct Up {
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Apply these files or folders; may be repeated.
    #[arg(long, value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Which command stands for an image, first match wins; may be repeated.
    #[arg(long, value_name = "GLOB=COMMAND")]
    image: Vec<String>,
    /// Neither control plane nor agents nor gateway.
    #[arg(long)]
    without_mesh: bool,
    #[arg(long, value_enum, default_value = "ipv4")]
    ip_families: Families,
    /// How long to wait for everything to be ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    timeout: u64,
}

#[derive(Debug, Args)]
struct Change {
    /// For objects that name no namespace.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[arg(short, long = "filename", value_name = "PATH", required = true)]
    file: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs the program; its exit status is that of the command it ran inside the lab, if any.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(&cli.command);
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {}", told(&error)));
            ExitCode::FAILURE
        }
    }
}

/// An error with those of its causes that its text does not name already.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |text, cause| match text {
            text if text.is_empty() => cause,
            text if text.contains(&cause) => text,
            text => format!("{text}: {cause}"),
        })
}

/// The daemon and its helpers tell more than the clients.
fn start_log(command: &Action) {
    let level = match command {
        Action::Serve | Action::NodeAgent { .. } => "info",
        _ => "warn",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("AQUIFER_LAB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let name = cli.name;
    match cli.command {
        Action::Up(up) => bring_up(&name, up)?,
        Action::Apply(change) => print_all(&change, |path| {
            Ok(Lab::attach(name.as_str())?.apply_path(&change.namespace, path)?)
        })?,
        Action::Delete(change) => print_all(&change, |path| {
            Ok(Lab::attach(name.as_str())?.delete_path(&change.namespace, path)?)
        })?,
        Action::Exec { target, command } => return enter(&name, &Request::Exec { target }, &command),
        Action::Node { node, command } => return enter(&name, &Request::Node { node }, &command),
        Action::Status { output } => print_status(&name, output)?,
        Action::Logs { target, bytes } => print(&client::logs(&name, &target, bytes)?)?,
        Action::Wait { timeout } => {
            Lab::attach(name.as_str())?.wait_ready(Duration::from_secs(timeout))?;
        }
        Action::Kill { target, signal, hold } => Lab::attach(name.as_str())?.kill(&target, signal, hold)?,
        Action::Release { target } => Lab::attach(name.as_str())?.release(&target)?,
        Action::Down => take_down(&name)?,
        Action::Serve => serve()?,
        Action::NodeAgent { node } => node::run(&name, &node)?,
        Action::Container { start } => return start_container(&start),
    }
    Ok(ExitCode::SUCCESS)
}

fn bring_up(name: &LabName, up: Up) -> anyhow::Result<()> {
    let options = LabOptions {
        name: name.to_string(),
        nodes: up.nodes,
        families: up.ip_families,
        mesh: if up.without_mesh {
            Mesh::Absent
        } else {
            Mesh::Installed
        },
        images: up.image,
        manifests: up.manifests,
        timeout: Duration::from_secs(up.timeout),
    };
    let mut lab = Lab::start(&options)?;
    // From here on the lab stays, also when something in it is not ready: one wants to look why.
    lab.keep();
    lab.fill(&options).with_context(|| {
        format!("lab {name} is left running: look with `status` and `logs`, remove it with `down`")
    })?;
    print(&format!("lab {name} is ready\n"))
}

fn print_all(
    change: &Change,
    act: impl Fn(&std::path::Path) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<()> {
    for path in &change.file {
        for line in act(path)? {
            print(&format!("{line}\n"))?;
        }
    }
    Ok(())
}

fn print_status(name: &LabName, output: Format) -> anyhow::Result<()> {
    let status = client::status(name, &Request::Status)?;
    match output {
        Format::Text => print(&status.to_string()),
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&status)?)),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// Becomes the command: returns only when that fails.
fn enter(name: &LabName, request: &Request, command: &[String]) -> anyhow::Result<ExitCode> {
    let entry = match client::call(name, request)? {
        Response::Entry { entry } => entry,
        other => bail!(other.unexpected()),
    };
    become_command(&entry, command)
}

fn start_container(path: &std::path::Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Start { entry, argv } = serde_json::from_slice(&text)?;
    become_command(&entry, &argv)
}

fn become_command(entry: &Entry, command: &[String]) -> anyhow::Result<ExitCode> {
    let error = entry.run(command);
    writeln!(std::io::stderr(), "error: {error}")?;
    Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(125)))
}

fn serve() -> anyhow::Result<()> {
    let config = serde_json::from_reader(std::io::stdin()).context("cannot read the lab's configuration")?;
    daemon::serve(config)
}
