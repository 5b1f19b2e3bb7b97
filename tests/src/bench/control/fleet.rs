//! Clients that speak for agents: they take everything, keep nothing, and say when a change has arrived.
//!
//! Not the product's own client, which holds what it applied: five hundred of those would measure themselves.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aquifer_xds::channel::ControlPlane;
use aquifer_xds::client::NodeId;
use aquifer_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use aquifer_xds::type_url::{ADDRESS, AUTHORIZATION};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::{Request, Status};

use super::glance::{Glance, Glances};
use super::objects::agent_name;
use super::{ControlBenchError, objects};

const TYPES: [&str; 2] = [ADDRESS, AUTHORIZATION];
/// A response may hold the whole mesh.
const MAX_RESPONSE: usize = 200 * 1024 * 1024;
const OUTGOING: usize = 16;
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The control plane lets a hundred connections of one address in.
const PER_ADDRESS: u32 = 90;

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
    clients: HashSet<u32>,
}

pub(super) struct Fleet {
    tally: Arc<Tally>,
    clients: JoinSet<String>,
    size: usize,
}

impl Fleet {
    /// Connects a client for each token.
    pub(super) fn start(plane: &ControlPlane, tokens: Vec<String>) -> Self {
        let tally = Arc::new(Tally::default());
        let size = tokens.len();
        let clients = (0..)
            .zip(tokens)
            .map(|(index, token)| {
                let (plane, tally) = (plane.clone(), tally.clone());
                async move {
                    match follow(&plane, index, &token, &tally).await {
                        Ok(()) => "the control plane closed the stream".to_owned(),
                        Err(error) => error.to_string(),
                    }
                }
            })
            .collect();
        Self { tally, clients, size }
    }

    /// Waits until each client has a first picture of every type.
    pub(super) async fn synced(&mut self, patience: Duration) -> Result<(), ControlBenchError> {
        let all = self.size * TYPES.len();
        let mut synced = self.tally.synced.subscribe();
        let waiting = tokio::time::timeout(patience, synced.wait_for(|count| *count >= all));
        tokio::select! {
            waited = waiting => match waited {
                Ok(_) => Ok(()),
                Err(_) => Err(ControlBenchError::Late("first pictures", patience)),
            },
            Some(lost) = self.clients.join_next() => Err(lost_client(lost)),
        }
    }

    /// From now on, the next update of this resource counts.
    pub(super) fn expect(&self, resource: String, now: Instant) {
        let awaited = Awaited {
            since: now,
            clients: (0..).take(self.size).collect(),
        };
        self.tally.awaited.lock().insert(resource, awaited);
    }

    /// Waits until that many changes have arrived everywhere.
    pub(super) async fn arrived(
        &mut self,
        changes: usize,
        patience: Duration,
    ) -> Result<Vec<Duration>, ControlBenchError> {
        let mut done = self.tally.done.subscribe();
        let waiting = tokio::time::timeout(patience, done.wait_for(|count| *count >= changes));
        tokio::select! {
            waited = waiting => match waited {
                Ok(_) => Ok(self.tally.delays.lock().clone()),
                Err(_) => Err(ControlBenchError::Late("changes", patience)),
            },
            Some(lost) = self.clients.join_next() => Err(lost_client(lost)),
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
    index: u32,
    token: &str,
    tally: &Tally,
) -> Result<(), ControlBenchError> {
    let channel = plane.from_address(address_of(index)).connect().await?;
    let (requests, outgoing) = mpsc::channel(OUTGOING);
    for first in first_requests(index) {
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
    let mut seen = [false; TYPES.len()];
    while let Some(response) = responses.message().await? {
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        if requests.send(acknowledgement).await.is_err() {
            return Ok(());
        }
        tally.note(index, &response, &mut seen);
    }
    Ok(())
}

/// Addresses of the loopback network: on one machine all clients would come from one.
fn address_of(client: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x7F00_0002 + client / PER_ADDRESS).into()
}

fn first_requests(index: u32) -> impl Iterator<Item = DeltaDiscoveryRequest> {
    TYPES.into_iter().enumerate().map(move |(position, url)| {
        let node = (position == 0).then(|| {
            NodeId {
                proxy_type: "ztunnel",
                ip: "10.255.0.0",
                pod: &agent_name(index),
                namespace: objects::MESH_NAMESPACE,
            }
            .into_node("Kubernetes", "")
        });
        DeltaDiscoveryRequest {
            node,
            type_url: url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    })
}

impl Tally {
    fn note(&self, client: u32, response: &Glance, seen: &mut [bool; TYPES.len()]) {
        self.bytes.fetch_add(response.bytes as u64, Ordering::Relaxed);
        let position = TYPES.iter().position(|url| *url == response.type_url);
        if let Some(first) = position.and_then(|at| seen.get_mut(at)).filter(|seen| !**seen) {
            *first = true;
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
