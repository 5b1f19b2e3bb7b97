//! `bookinfo PART`: plays one part of the bookinfo sample; without an argument the image's name in
//! `IMAGE` chooses it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use aquifer_tests::bookinfo::part::Part;
use aquifer_tests::bookinfo::{self, Environment};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Arguments after the part are ignored: the sample's images are given a port that we know.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bookinfo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut environment: Environment = std::env::vars().collect();
    // A container runtime names the host after the pod; not all of them export the name.
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        environment
            .entry("HOSTNAME".to_owned())
            .or_insert_with(|| name.trim().to_owned());
    }
    let part: Part = std::env::args()
        .nth(1)
        .or_else(|| environment.get("IMAGE").cloned())
        .context("which part? give one as the argument, or the image's name in IMAGE")?
        .parse()?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let running = bookinfo::start(&part, &environment)?;
    tracing::info!(address = %running.local_addr()?, "listening");
    let serving = running.serve(stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => return Ok(()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    serving.await;
    Ok(())
}
