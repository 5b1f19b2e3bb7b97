//! `cargo xtask demo`: bookinfo's canary through the mesh, with a report of what was proved.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aquifer_tests::demo::{self, Options, Report};
use aquifer_tests::lab;
use aquifer_tests::lab::layout::LabName;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

/// Brings up two nodes, runs bookinfo's canary through the mesh, and reports what was proved.
#[derive(Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// Leave the lab running and print how to look around
    #[arg(long)]
    keep: bool,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name of the lab
    #[arg(long, default_value = "demo")]
    name: String,
    /// Requests for /productpage through the mesh
    #[arg(long, default_value_t = 400)]
    requests: usize,
}

/// Set once a signal is being answered: then only the watcher ends the process.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            wait_if_interrupted();
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let name: LabName = arguments.name.parse()?;
    watch_signals(name)?;
    let report = demo::run(&options(arguments)?)?;
    wait_if_interrupted();
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    print(&report.to_string());
    if arguments.keep {
        print(&hints(&arguments.name));
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

fn options(arguments: &Arguments) -> Result<Options> {
    let program = std::env::current_exe().context("cannot find this program's folder")?;
    Ok(Options {
        name: arguments.name.clone(),
        keep: arguments.keep,
        requests: arguments.requests,
        load: Duration::from_secs(3),
        samples: Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples"),
        bookinfo: program.with_file_name("bookinfo"),
    })
}

/// On Ctrl-C or SIGTERM takes the lab down, whatever the main thread is doing, and ends the process.
///
/// The signals are blocked here, before any other thread starts, so that only the watcher sees them.
fn watch_signals(name: LabName) -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let Ok(signal) = signals.wait() else { return };
            INTERRUPTED.store(true, Ordering::SeqCst);
            eprintln!("\ndemo: {signal}, taking the lab down");
            if let Err(error) = lab::take_down(&name) {
                eprintln!("demo: {error}");
            }
            std::process::exit(130);
        })?;
    Ok(())
}

/// The watcher ends the process; what the main thread would say now is a consequence of that.
fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park_timeout(Duration::from_secs(1));
    }
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
