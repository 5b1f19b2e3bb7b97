//! The control plane before a mesh of N pods: a real API server full of objects, made-up nodes, clients that speak for
//! agents.
//!
//! Nothing runs for these objects: the controllers that would delete pods of nodes that do not report are stopped. API
//! server, control plane and clients share the machine's processors, so delays hold the cost of all three.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aquifer_xds::channel::{AddressError, ConnectError, ControlPlane};
use thiserror::Error;

use crate::cluster::layout::{ClusterName, Member, NameError};
use crate::cluster::{Cluster, ClusterError, ClusterOptions, kubectl::KubectlError};

mod api;
mod fleet;
mod glance;
mod objects;
mod process;
mod report;
mod shares;

use api::Api;
use fleet::Fleet;
use process::ControlProcess;
use shares::Shares;

pub use report::Report;

/// A first picture of a large mesh for hundreds of clients on a small machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Every so often, one pod changes.
const CHANGE_EVERY: Duration = Duration::from_millis(100);
/// Where the chart keeps the definitions of Istio's kinds.
const DEFINITIONS: &str = "deploy/chart/files/crds";
/// Shown by agents, so a change of it must reach them all.
const CHANGED_LABEL: &str = "service.istio.io/canonical-name";

#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    /// Sizes of the mesh, smallest first.
    pub pods: Vec<u32>,
    pub clients: u32,
    /// Pods that change, ten a second.
    pub changes: u32,
    /// The root of the checkout.
    pub root: PathBuf,
}

#[derive(Debug, Error)]
pub enum ControlBenchError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    #[error("cannot use the cluster's kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("cannot make a request of the API server: {0}")]
    Request(#[from] http::Error),
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("aquifer-control ended ({0}); its log: {1}")]
    Ended(String, String),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("xDS: {0}")]
    Stream(#[from] tonic::Status),
    #[error("the API server gave a token that cannot be a header")]
    Token,
    #[error("a client lost its stream: {0}")]
    Client(String),
    #[error("{0} did not arrive everywhere within {1:?}")]
    Late(&'static str, Duration),
}

/// One size of the mesh.
#[derive(Clone, Debug)]
struct Row {
    pods: u32,
    /// From the start of the process until it serves.
    ready: Duration,
    /// From the first client's start until the last has everything.
    synced: Duration,
    first_bytes: u64,
    /// While pods change, and the most there ever was.
    resident_megabytes: f64,
    peak_megabytes: f64,
    /// Processors' worth of time while clients get their first pictures, and while pods change.
    syncing: Shares,
    changing: Shares,
    p50: Duration,
    p99: Duration,
    bytes_per_change: u64,
}

/// Brings up a cluster, measures, and takes it down, whatever happens.
pub fn run(options: &Options) -> Result<Report, ControlBenchError> {
    let name: ClusterName = options.name.parse()?;
    let mut wanted = ClusterOptions::new(name);
    wanted.nodes = 1;
    let cluster = Cluster::up(&wanted, &|step| say(format_args!("{step}")))?;
    let runtime = tokio::runtime::Runtime::new().map_err(|source| io("start", Path::new("tokio"), source))?;
    let rows = runtime.block_on(measure_all(&cluster, options));
    let down = cluster.down();
    let rows = rows?;
    down?;
    Ok(Report {
        clients: options.clients,
        changes: options.changes,
        rows,
    })
}

async fn measure_all(cluster: &Cluster, options: &Options) -> Result<Vec<Row>, ControlBenchError> {
    let definitions = options.root.join(DEFINITIONS).display().to_string();
    let kubectl = cluster.kubectl();
    kubectl.run(&["apply", "--server-side", "-R", "-f", &definitions])?;
    kubectl.run(&[
        "wait",
        "--for=condition=established",
        "crd",
        "--all",
        "--timeout=60s",
    ])?;
    for service in ["kube-controller-manager", "kube-scheduler"] {
        cluster.stop_service(Member::Control, service)?;
    }
    let api = Api::open(&cluster.kubeconfig()).await?;
    api.fill(objects::foundations().into_iter()).await?;
    api.fill((0..options.clients).flat_map(objects::node)).await?;
    api.fill((0..objects::SERVICES).map(objects::service)).await?;
    api.fill((0..objects::VIRTUAL_SERVICES).map(objects::virtual_service))
        .await?;
    let mut rows = Vec::new();
    let mut have = 0;
    for &pods in &options.pods {
        say(format_args!("filling the API server up to {pods} pods"));
        api.create((have..pods).map(|index| objects::pod(index, options.clients)))
            .await?;
        api.fill((0..objects::SERVICES).map(|index| objects::endpoint_slice(index, pods)))
            .await?;
        have = have.max(pods);
        rows.push(measure(cluster, &api, options, pods).await?);
    }
    Ok(rows)
}

async fn measure(
    cluster: &Cluster,
    api: &Api,
    options: &Options,
    pods: u32,
) -> Result<Row, ControlBenchError> {
    let agents: Vec<String> = (0..options.clients).map(objects::agent_name).collect();
    let tokens = api
        .tokens(objects::MESH_NAMESPACE, objects::AGENT_ACCOUNT, &agents)
        .await?;
    say(format_args!("starting the control plane before {pods} pods"));
    let started = Instant::now();
    let mut control = ControlProcess::start(&cluster.kubeconfig())?;
    control.ready(PATIENCE).await?;
    let ready = started.elapsed();
    let root = control.root_certificate(api).await?;
    let plane = ControlPlane::new(&control.grpc(), &root)?;

    say(format_args!("connecting {} clients", options.clients));
    let (connecting, before) = (Instant::now(), Shares::now(&control));
    let mut fleet = Fleet::start(&plane, tokens);
    fleet.synced(PATIENCE).await?;
    let synced = connecting.elapsed();
    let syncing = Shares::now(&control).since(&before, synced);
    let first_bytes = fleet.bytes();

    say(format_args!("{} pods change", options.changes));
    let (changed, before) = (Instant::now(), Shares::now(&control));
    change(api, &fleet, options, pods).await?;
    let mut delays = fleet.arrived(options.changes as usize, PATIENCE).await?;
    let changing = Shares::now(&control).since(&before, changed.elapsed());
    delays.sort();
    Ok(Row {
        pods,
        ready,
        synced,
        first_bytes,
        resident_megabytes: control.resident_megabytes(),
        peak_megabytes: control.peak_megabytes(),
        syncing,
        changing,
        p50: quantile(&delays, 0.5),
        p99: quantile(&delays, 0.99),
        bytes_per_change: (fleet.bytes() - first_bytes) / u64::from(options.changes.max(1)),
    })
}

/// Each change is of another pod, so that none hides another.
async fn change(api: &Api, fleet: &Fleet, options: &Options, pods: u32) -> Result<(), ControlBenchError> {
    let mut tick = tokio::time::interval(CHANGE_EVERY);
    // A value of its own for each size: an equal one would change nothing.
    let value = format!("changed-{pods}");
    for index in 0..options.changes.min(pods) {
        tick.tick().await;
        let (namespace, name) = (objects::namespace_of(index), objects::pod_name(index));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        fleet.expect(objects::workload_of(index), Instant::now());
        api.label(&path, CHANGED_LABEL, &value).await?;
    }
    Ok(())
}

/// Of sorted values; zero where there are none.
fn quantile(sorted: &[Duration], at: f64) -> Duration {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the length"
    )]
    let index = ((sorted.len() as f64 - 1.0).max(0.0) * at).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> ControlBenchError {
    ControlBenchError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn say(what: fmt::Arguments<'_>) {
    eprintln!("==> {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_values() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&values[..1], 0.99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
