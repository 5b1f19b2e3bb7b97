//! Clients that speak for agents and waypoints: they take everything, keep nothing, and say when a change has arrived.
//!
//! Not the product's own client, which holds what it applied: five hundred of those would measure themselves.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aquifer_xds::channel::ControlPlane;
use aquifer_xds::client::NodeId;
use aquifer_xds::pb::envoy::config::core::v3::Node;
use aquifer_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use aquifer_xds::type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINTS, LISTENER, ROUTES};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Request, Status};

use super::ControlBenchError;
use super::glance::{Glance, Glances};
use super::objects::{MESH_NAMESPACE, NAMESPACES, WAYPOINT_POD, agent_name, namespace_of};

const OF_AGENTS: &[&str] = &[ADDRESS, AUTHORIZATION];
const OF_WAYPOINTS: &[&str] = &[ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINTS, LISTENER, ROUTES];
/// A response may hold the whole mesh.
const MAX_RESPONSE: usize = 200 * 1024 * 1024;
const OUTGOING: usize = 16;
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The control plane lets a hundred connections of one address in.
const PER_ADDRESS: u32 = 90;
/// All clients have settled when nothing came for this long.
const QUIET: Duration = Duration::from_secs(2);

/// Whom a client speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Client {
    /// The agent of a node.
    Agent(u32),
    /// The waypoint of a namespace.
    Waypoint(u32),
}

impl Client {
    /// Its pod: namespace and name.
    pub(super) fn pod(self) -> (String, String) {
        match self {
            Self::Agent(node) => (MESH_NAMESPACE.to_owned(), agent_name(node)),
            Self::Waypoint(namespace) => (namespace_of(namespace), WAYPOINT_POD.to_owned()),
        }
    }

    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Agent(_) => OF_AGENTS,
            Self::Waypoint(_) => OF_WAYPOINTS,
        }
    }

    /// Addresses of the loopback network: on one machine all clients would come from one.
    fn address(self) -> IpAddr {
        let bits = match self {
            Self::Agent(node) => 0x7F00_0002 + node / PER_ADDRESS,
            Self::Waypoint(namespace) => 0x7F01_0002 + namespace / PER_ADDRESS,
        };
        Ipv4Addr::from_bits(bits).into()
    }

    fn node(self) -> Node {
        let (namespace, pod) = self.pod();
        let (proxy_type, ip) = match self {
            Self::Agent(_) => ("ztunnel", "10.255.0.0"),
            Self::Waypoint(_) => ("waypoint", "10.254.0.0"),
        };
        NodeId {
            proxy_type,
            ip,
            pod: &pod,
            namespace: &namespace,
        }
        .into_node("Kubernetes", "")
    }
}

/// All that there are, the waypoints of the namespaces first.
pub(super) fn all_clients(agents: u32) -> impl Iterator<Item = Client> {
    let waypoints = (0..NAMESPACES).map(Client::Waypoint);
    waypoints.chain((0..agents).map(Client::Agent))
}

/// What all clients report to.
#[derive(Default)]
struct Tally {
    bytes: AtomicU64,
    /// Types that arrived for the first time, over all clients.
    synced: watch::Sender<usize>,
    /// Changes under way, by the name of the resource that shows them.
    awaited: Mutex<HashMap<String, Awaited>>,
    delays: Mutex<Vec<Duration>>,
    done: watch::Sender<usize>,
}

struct Awaited {
    since: Instant,
    /// Clients that it has not reached.
    clients: HashSet<Client>,
}

pub(super) struct Fleet {
    tally: Arc<Tally>,
    tasks: JoinSet<String>,
    clients: Vec<Client>,
    /// Changes that were to arrive so far.
    expected: usize,
}

impl Fleet {
    /// Connects each client with its token.
    pub(super) fn start(plane: &ControlPlane, clients: Vec<(Client, String)>) -> Self {
        let tally = Arc::new(Tally::default());
        let known = clients.iter().map(|(client, _)| *client).collect();
        let follow = |(client, token): (Client, String)| {
            let (plane, tally) = (plane.clone(), tally.clone());
            async move {
                match follow(&plane, client, &token, &tally).await {
                    Ok(()) => "the control plane closed the stream".to_owned(),
                    Err(error) => error.to_string(),
                }
            }
        };
        let tasks = clients.into_iter().map(follow).collect();
        Self {
            tally,
            tasks,
            clients: known,
            expected: 0,
        }
    }

    /// Waits until each client has a first picture of every type.
    pub(super) async fn synced(&mut self, patience: Duration) -> Result<(), ControlBenchError> {
        let all = self.clients.iter().map(|client| client.types().len()).sum();
        let mut synced = self.tally.synced.subscribe();
        let waiting = tokio::time::timeout(patience, synced.wait_for(|count| *count >= all));
        tokio::select! {
            waited = waiting => match waited {
                Ok(_) => Ok(()),
                Err(_) => Err(ControlBenchError::Late("first pictures", patience)),
            },
            Some(lost) = self.tasks.join_next() => Err(lost_client(lost)),
        }
    }

    /// Waits until nothing is sent any more: what waypoints have acknowledged concerns all agents.
    pub(super) async fn quiet(&mut self, patience: Duration) -> Result<(), ControlBenchError> {
        let end = Instant::now() + patience;
        let mut before = None;
        while before != Some(self.bytes()) {
            if Instant::now() > end {
                return Err(ControlBenchError::Late("quiet", patience));
            }
            before = Some(self.bytes());
            tokio::select! {
                () = tokio::time::sleep(QUIET) => {}
                Some(lost) = self.tasks.join_next() => return Err(lost_client(lost)),
            }
        }
        Ok(())
    }

    /// From now on, the next update of this resource counts, at the clients that are concerned.
    pub(super) fn expect(&mut self, resource: String, concerned: impl Fn(Client) -> bool) {
        let clients = self.clients.iter().copied().filter(|client| concerned(*client));
        let awaited = Awaited {
            since: Instant::now(),
            clients: clients.collect(),
        };
        self.expected += 1;
        self.tally.awaited.lock().insert(resource, awaited);
    }

    /// Waits until all that was expected has arrived everywhere; how long each change took.
    pub(super) async fn arrived(&mut self, patience: Duration) -> Result<Vec<Duration>, ControlBenchError> {
        let expected = self.expected;
        let mut done = self.tally.done.subscribe();
        let waiting = tokio::time::timeout(patience, done.wait_for(|count| *count >= expected));
        tokio::select! {
            waited = waiting => match waited {
                Ok(_) => Ok(std::mem::take(&mut *self.tally.delays.lock())),
                Err(_) => Err(ControlBenchError::Late("changes", patience)),
            },
            Some(lost) = self.tasks.join_next() => Err(lost_client(lost)),
        }
    }

    /// Sent by the control plane so far, as messages before TLS and HTTP/2.
    pub(super) fn bytes(&self) -> u64 {
        self.tally.bytes.load(Ordering::Relaxed)
    }
}

fn lost_client(ended: Result<String, tokio::task::JoinError>) -> ControlBenchError {
    ControlBenchError::Client(ended.unwrap_or_else(|error| error.to_string()))
}

async fn follow(
    plane: &ControlPlane,
    whom: Client,
    token: &str,
    tally: &Tally,
) -> Result<(), ControlBenchError> {
    let channel = plane.from_address(whom.address()).connect().await?;
    let (requests, outgoing) = mpsc::channel(OUTGOING);
    for first in first_requests(whom) {
        // There is room for all.
        drop(requests.try_send(first));
    }
    let mut call = Request::new(ReceiverStream::new(outgoing));
    let bearer = format!("Bearer {token}").parse();
    call.metadata_mut()
        .insert("authorization", bearer.map_err(|_| ControlBenchError::Token)?);
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(DELTA);
    let mut responses = client.streaming(call, path, Glances).await?.into_inner();
    let mut seen = HashSet::new();
    while let Some(response) = responses.message().await? {
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        if requests.send(acknowledgement).await.is_err() {
            return Ok(());
        }
        tally.note(whom, response, &mut seen);
    }
    Ok(())
}

fn first_requests(whom: Client) -> impl Iterator<Item = DeltaDiscoveryRequest> {
    let urls = whom.types().iter().enumerate();
    urls.map(move |(position, url)| DeltaDiscoveryRequest {
        node: (position == 0).then(|| whom.node()),
        type_url: (*url).to_owned(),
        ..DeltaDiscoveryRequest::default()
    })
}

impl Tally {
    fn note(&self, client: Client, response: Glance, seen: &mut HashSet<String>) {
        self.bytes.fetch_add(response.bytes as u64, Ordering::Relaxed);
        if !seen.contains(&response.type_url) {
            seen.insert(response.type_url);
            self.synced.send_modify(|count| *count += 1);
            return;
        }
        let mut awaited = self.awaited.lock();
        for name in &response.names {
            let Some(change) = awaited.get_mut(name) else {
                continue;
            };
            change.clients.remove(&client);
            if change.clients.is_empty() {
                self.delays.lock().push(change.since.elapsed());
                awaited.remove(name);
                self.done.send_modify(|count| *count += 1);
            }
        }
    }
}
