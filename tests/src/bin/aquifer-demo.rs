//! `cargo xtask demo`: bookinfo's canary through the mesh, with a report of what was proved.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aquifer_tests::cluster;
use aquifer_tests::cluster::foreign::{Access, Terms};
use aquifer_tests::cluster::layout::ClusterName;
use aquifer_tests::demo::{self, Options, Report, Stage};
use aquifer_tests::interrupt;
use aquifer_tests::lab::layout::LabName;
use clap::Parser;

/// Brings up two nodes, runs bookinfo's canary through the mesh, and reports what was proved.
#[derive(Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// On a Kubernetes cluster of real parts, with the mesh installed by helm, instead of the lab
    #[arg(long)]
    kubernetes: bool,
    #[command(flatten)]
    own: Terms,
    /// Leave everything running and print how to look around
    #[arg(long)]
    keep: bool,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name of the lab or cluster
    #[arg(long, default_value = "demo")]
    name: String,
    /// Requests for /productpage through the mesh
    #[arg(long, default_value_t = 400)]
    requests: usize,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            interrupt::wait_if_interrupted();
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = options(arguments)?;
    watch_for_signals(&options)?;
    let report = demo::run(&options)?;
    interrupt::wait_if_interrupted();
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    print(&report.to_string());
    if arguments.keep {
        print(&match options.stage {
            Stage::Lab => hints(&arguments.name),
            Stage::Kubernetes => cluster_hints(&arguments.name),
            Stage::Foreign(..) => FOREIGN_HINTS.to_owned(),
        });
    }
    let problems = report.problems();
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("\nNot proved:");
    for problem in problems {
        eprintln!("  {problem}");
    }
    Ok(ExitCode::FAILURE)
}

fn watch_for_signals(options: &Options) -> Result<()> {
    let watched = match &options.stage {
        Stage::Lab => interrupt::take_down_on_signal(options.name.parse::<LabName>()?),
        Stage::Kubernetes => cluster::take_down_on_signal(options.name.parse::<ClusterName>()?),
        Stage::Foreign(_, access) => access.clear_on_signal(),
    };
    watched.context("cannot watch for signals")
}

fn options(arguments: &Arguments) -> Result<Options> {
    let program = std::env::current_exe().context("cannot find this program's folder")?;
    let programs = program.parent().unwrap_or_else(|| Path::new("."));
    Ok(Options {
        name: arguments.name.clone(),
        stage: stage(arguments, programs)?,
        keep: arguments.keep,
        requests: arguments.requests,
        load: Duration::from_secs(3),
        samples: Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples"),
        bookinfo: programs.join("bookinfo"),
    })
}

fn stage(arguments: &Arguments, programs: &Path) -> Result<Stage> {
    Ok(match (arguments.own.clone().given()?, arguments.kubernetes) {
        (Some(terms), true) => Stage::Foreign(terms, Access::take(programs)?),
        (Some(_), false) => bail!("--load-with and --registry are for --kubernetes"),
        (None, true) => Stage::Kubernetes,
        (None, false) => Stage::Lab,
    })
}

fn write_json(path: &Path, report: &Report) -> Result<()> {
    let mut text = serde_json::to_string_pretty(&report.to_json())?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[allow(clippy::print_stdout, reason = "the report is this program's output")]
fn print(text: &str) {
    println!("\n{text}");
}

const FOREIGN_HINTS: &str = "The mesh and bookinfo are still on the cluster. To look around:
  kubectl get pods -A -o wide
  kubectl -n istio-system logs -l app=istiod     what the control plane did
  kubectl -n bookinfo logs -l gateway.networking.k8s.io/gateway-name=waypoint
  kubectl -n istio-system port-forward service/istio-ingressgateway 8080:80
The next demo or suite on this cluster removes them first when it is told --clear; so do
  kubectl delete namespace bookinfo; aquifer uninstall --purge; kubectl delete namespace istio-system";

fn cluster_hints(name: &str) -> String {
    let cluster = format!("cargo xtask cluster --name {name}");
    format!(
        "The cluster is still running. To look around:\n\
         \x20 export KUBECONFIG=$({cluster} kubeconfig)\n\
         \x20 kubectl get pods -A -o wide\n\
         \x20 kubectl -n istio-system logs -l app=istiod     what the control plane did\n\
         \x20 kubectl -n bookinfo logs -l gateway.networking.k8s.io/gateway-name=waypoint\n\
         \x20 {cluster} exec world -- curl -s http://172.30.0.11:30080/productpage\n\
         \x20 {cluster} down                                  take everything down"
    )
}

fn hints(name: &str) -> String {
    let lab = format!("cargo xtask lab --name {name}");
    format!(
        "The lab is still running. To look around:\n\
         \x20 {lab} status                              nodes, pods, Services, addresses\n\
         \x20 {lab} logs istio-system/istiod            what the control plane did\n\
         \x20 {lab} logs bookinfo/waypoint              access log of the waypoint\n\
         \x20 {lab} exec bookinfo/reviews-v3 -- ip addr a command inside a pod\n\
         \x20 {lab} node world -- curl -s http://172.31.0.1/productpage\n\
         \x20 {lab} apply -n bookinfo -f FILE           change the canary\n\
         \x20 {lab} down                                take everything down"
    )
}
