//! `cargo xtask demo`: bookinfo's canary through the mesh, with a report of what was proved.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use aquifer_tests::cluster;
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
    watch_for_signals(arguments)?;
    let report = demo::run(&options(arguments)?)?;
    interrupt::wait_if_interrupted();
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    print(&report.to_string());
    if arguments.keep {
        print(&if arguments.kubernetes {
            cluster_hints(&arguments.name)
        } else {
            hints(&arguments.name)
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

fn watch_for_signals(arguments: &Arguments) -> Result<()> {
    let watched = if arguments.kubernetes {
        let name: ClusterName = arguments.name.parse()?;
        interrupt::on_signal(move || cluster::take_down(&name).map_err(|error| error.to_string()))
    } else {
        let name: LabName = arguments.name.parse()?;
        interrupt::take_down_on_signal(name)
    };
    watched.context("cannot watch for signals")
}

fn options(arguments: &Arguments) -> Result<Options> {
    let program = std::env::current_exe().context("cannot find this program's folder")?;
    Ok(Options {
        name: arguments.name.clone(),
        stage: if arguments.kubernetes {
            Stage::Kubernetes
        } else {
            Stage::Lab
        },
        keep: arguments.keep,
        requests: arguments.requests,
        load: Duration::from_secs(3),
        samples: Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples"),
        bookinfo: program.with_file_name("bookinfo"),
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
