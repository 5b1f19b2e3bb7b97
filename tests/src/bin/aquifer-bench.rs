//! `cargo xtask bench`: no mesh against Aquifer.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aquifer_tests::bench::{self, Layer, Options};
use aquifer_tests::cluster::layout::ClusterName;
use aquifer_tests::lab::layout::LabName;
use aquifer_tests::{cluster, interrupt};
use clap::{Args, Parser, Subcommand};

/// Measures no mesh against Aquifer, interleaved in one run.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Node agents: throughput, latency, requests and new connections per second
    L4(Run),
    /// The same through a waypoint that splits by weight
    L7(Run),
    /// The control plane before an API server full of objects, with clients that speak for agents
    Control(ControlRun),
    /// Agents that start on nodes full of pods
    Enrol(EnrolRun),
    /// The server that is measured (run by the benchmark itself)
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        port: u16,
    },
}

#[derive(Args)]
struct Run {
    /// Length of each measurement in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Turns per side and measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name of the lab
    #[arg(long, default_value = "bench")]
    name: String,
}

#[derive(Args)]
struct ControlRun {
    /// Sizes of the mesh in pods, smallest first
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000", value_parser = clap::value_parser!(u32).range(200..=200_000))]
    pods: Vec<u32>,
    /// Clients that speak for agents, each of a node of its own
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5000))]
    clients: u32,
    /// Changes of pods, then of Services, then of VirtualServices, ten a second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
    changes: u32,
    /// Give up after so many minutes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=300))]
    minutes: u32,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, default_value = "bench")]
    name: String,
}

#[derive(Args)]
struct EnrolRun {
    /// Running pods, over all nodes
    #[arg(long, default_value_t = 1000)]
    pods: u32,
    /// Nodes of the lab
    #[arg(long, default_value_t = 5)]
    nodes: u8,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name of the lab
    #[arg(long, default_value = "bench")]
    name: String,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::L4(run) => measure(Layer::L4, run),
        Command::L7(run) => measure(Layer::L7, run),
        Command::Control(run) => measure_control(run),
        Command::Enrol(run) => measure_enrolment(run),
        Command::Serve { port } => serve(port),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            interrupt::wait_if_interrupted();
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(bench::serve::run(port))
        .with_context(|| format!("cannot serve on port {port}"))
}

#[allow(clippy::print_stdout, reason = "the report is this program's output")]
fn measure_control(run: ControlRun) -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let name: ClusterName = run.name.parse()?;
    interrupt::on_signal(move || cluster::take_down(&name).map_err(|error| error.to_string()))
        .context("cannot watch for signals")?;
    let report = bench::control::run(&bench::control::Options {
        name: run.name,
        pods: run.pods,
        clients: run.clients,
        changes: run.changes,
        patience: Duration::from_secs(u64::from(run.minutes) * 60),
        root,
    })?;
    println!("\n{report}");
    write(run.json.as_deref(), &report.to_json())
}

#[allow(clippy::print_stdout, reason = "the report is this program's output")]
fn measure_enrolment(run: EnrolRun) -> Result<()> {
    let most = u32::from(run.nodes) * bench::enrol::PODS_PER_NODE;
    if run.pods > most {
        bail!(
            "{} nodes of the lab hold {most} pods, not {}; give --nodes more",
            run.nodes,
            run.pods
        );
    }
    let name: LabName = run.name.parse()?;
    interrupt::take_down_on_signal(name).context("cannot watch for signals")?;
    let report = bench::enrol::run(&bench::enrol::Options {
        name: run.name,
        nodes: run.nodes,
        pods: run.pods,
    })?;
    println!("\n{report}");
    write(run.json.as_deref(), &report.to_json())
}

fn write(path: Option<&Path>, figures: &serde_json::Value) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, format!("{figures:#}\n")).with_context(|| format!("cannot write {}", path.display()))
}

#[allow(clippy::print_stdout, reason = "the report is this program's output")]
fn measure(layer: Layer, run: Run) -> Result<()> {
    let name: LabName = run.name.parse()?;
    interrupt::take_down_on_signal(name).context("cannot watch for signals")?;
    let report = bench::run(&Options {
        name: run.name,
        layer,
        seconds: run.seconds,
        rounds: run.rounds,
        program: std::env::current_exe().context("cannot find this program")?,
    })?;
    println!("\n{report}");
    write(run.json.as_deref(), &report.to_json())?;
    let spoilt = report.spoilt();
    if !spoilt.is_empty() {
        bail!("figures beside failures say nothing: {}", spoilt.join("; "));
    }
    Ok(())
}
