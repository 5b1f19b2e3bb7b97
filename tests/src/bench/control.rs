//! The control plane before a mesh of N pods: a real API server full of objects, made-up nodes, clients that speak for
//! agents and waypoints.
//!
//! Nothing runs for these objects: the controllers that would delete pods of nodes that do not report are stopped. API
//! server, control plane and clients share the machine's processors, so delays hold the cost of all three.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
use fleet::{Client, Fleet, all_clients};
use objects::Patch;
use process::ControlProcess;
use shares::Shares;

pub use report::Report;

/// A first picture of a large mesh for hundreds of clients on a small machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Every so often, something changes.
const CHANGE_EVERY: Duration = Duration::from_millis(100);
/// Where the chart keeps the definitions of Istio's kinds.
const DEFINITIONS: &str = "deploy/chart/files/crds";

#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    /// Sizes of the mesh, smallest first.
    pub pods: Vec<u32>,
    /// Agents that are played.
    pub clients: u32,
    /// Changes of each kind, ten a second.
    pub changes: u32,
    /// All of it is given up after this long.
    pub patience: Duration,
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
    #[error("not done within {0:?}; a smaller mesh, fewer clients or more minutes are to be tried")]
    TooLong(Duration),
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
    /// Processor time until it is ready, until all clients have their first pictures, and while pods change.
    starting: Shares,
    syncing: Shares,
    changing: Shares,
    of_pods: Delays,
    of_services: Delays,
    of_rules: Delays,
    bytes_per_change: u64,
}

/// From a request to change something until the last client that is concerned has acknowledged it.
#[derive(Clone, Copy, Debug)]
struct Delays {
    p50: Duration,
    p99: Duration,
}

impl Delays {
    fn of(mut delays: Vec<Duration>) -> Self {
        delays.sort();
        Self {
            p50: quantile(&delays, 0.5),
            p99: quantile(&delays, 0.99),
        }
    }
}

/// Brings up a cluster, measures, and takes it down, whatever happens.
pub fn run(options: &Options) -> Result<Report, ControlBenchError> {
    let name: ClusterName = options.name.parse()?;
    let mut wanted = ClusterOptions::new(name);
    wanted.nodes = 1;
    let cluster = Cluster::up(&wanted, &|step| say(format_args!("{step}")))?;
    let runtime = tokio::runtime::Runtime::new().map_err(|source| io("start", Path::new("tokio"), source))?;
    let of_runtime = runtime.enter();
    let measuring = tokio::time::timeout(options.patience, measure_all(&cluster, options));
    let rows = runtime.block_on(measuring);
    drop(of_runtime);
    let down = cluster.down();
    let rows = rows.map_err(|_| ControlBenchError::TooLong(options.patience))??;
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
    api.fill((0..objects::NAMESPACES).map(objects::waypoint)).await?;
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
    let clients = api.tokens(all_clients(options.clients)).await?;
    say(format_args!("starting the control plane before {pods} pods"));
    let before = Shares::before();
    let mut control = ControlProcess::start(&cluster.kubeconfig())?;
    control.ready(PATIENCE).await?;
    let (starting, ready) = Shares::now(&control).since(&before);
    let root = control.root_certificate(api).await?;
    let plane = ControlPlane::new(&control.grpc(), &root)?;

    say(format_args!("connecting {} clients", clients.len()));
    let before = Shares::now(&control);
    let mut fleet = Fleet::start(&plane, clients);
    fleet.synced(PATIENCE).await?;
    let (syncing, synced) = Shares::now(&control).since(&before);
    let first_bytes = fleet.bytes();
    // Waypoints have acknowledged what they serve: agents are told of that, and statuses are written.
    fleet.quiet(PATIENCE).await?;

    let count = options.changes;
    say(format_args!(
        "{count} pods change, then {count} Services, then {count} VirtualServices"
    ));
    let (settled, before) = (fleet.bytes(), Shares::now(&control));
    let of_pods = change(api, &mut fleet, (0..count.min(pods)).map(|n| pod_change(n, pods))).await?;
    let (changing, _) = Shares::now(&control).since(&before);
    let bytes_per_change = (fleet.bytes() - settled) / u64::from(count.max(1));
    let of_services = change(api, &mut fleet, (0..count).map(|n| service_change(n, pods))).await?;
    let of_rules = change(api, &mut fleet, (0..count).map(|n| rule_change(n, pods))).await?;
    Ok(Row {
        pods,
        ready,
        synced,
        first_bytes,
        resident_megabytes: control.resident_megabytes(),
        peak_megabytes: control.peak_megabytes(),
        starting,
        syncing,
        changing,
        of_pods,
        of_services,
        of_rules,
        bytes_per_change,
    })
}

/// Something that is changed, the resource that shows it, and whom that must reach.
struct Change {
    patch: Patch,
    shown_by: String,
    concerned: fn(Client, u32) -> bool,
    index: u32,
}

/// A value of its own for each size of the mesh: an equal one would change nothing.
fn pod_change(index: u32, pods: u32) -> Change {
    Change {
        patch: objects::pod_labelled(index, &format!("changed-{pods}")),
        shown_by: objects::workload_of(index),
        concerned: |_, _| true,
        index,
    }
}

/// Of Services without rules: agents and waypoints alike are told of their addresses.
fn service_change(index: u32, pods: u32) -> Change {
    let service = objects::VIRTUAL_SERVICES + index;
    #[allow(clippy::cast_possible_truncation, reason = "below 65536 by the remainder")]
    let port = 9000 + (pods % 50_000) as u16;
    Change {
        patch: objects::service_leading_to(service, port),
        shown_by: objects::address_name_of(service),
        concerned: |_, _| true,
        index: service,
    }
}

fn rule_change(index: u32, pods: u32) -> Change {
    let rule = index % objects::VIRTUAL_SERVICES;
    Change {
        patch: objects::rule_with_timeout(rule, pods),
        shown_by: objects::routes_of(rule),
        concerned: |client, rule| client == Client::Waypoint(rule % objects::NAMESPACES),
        index: rule,
    }
}

/// Each change is of another object, so that none hides another.
async fn change(
    api: &Api,
    fleet: &mut Fleet,
    changes: impl Iterator<Item = Change>,
) -> Result<Delays, ControlBenchError> {
    let mut tick = tokio::time::interval(CHANGE_EVERY);
    for change in changes {
        tick.tick().await;
        fleet.expect(change.shown_by, |client| (change.concerned)(client, change.index));
        api.patch(&change.patch).await?;
    }
    Ok(Delays::of(fleet.arrived(PATIENCE).await?))
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
