//! The xDS client: one stream to the control plane, for as long as the process lives.
//!
//! A thin skin around [`DeltaState`]: it connects, moves messages and waits between attempts. It never gives up, and
//! what was applied stays in effect while there is no control plane.

mod status;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Streaming};

use crate::backoff::Backoff;
use crate::channel::{ConnectError, ControlPlane};
use crate::delta::{Batch, DeltaState, ProtocolError};
use crate::handler::ResourceHandler;
use crate::pb::envoy::config::core::v3::Node;
use crate::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::token::{TokenError, TokenFile};
use crate::type_url::short_name;

pub use status::{AdsStatus, TypeStatus};

/// A response may hold the whole mesh.
const MAX_RESPONSE: usize = 200 * 1024 * 1024;
/// Requests waiting to be sent: one acknowledgement per response, and the next response is read after it.
const OUTGOING: usize = 16;

/// What a stream needs to begin.
#[derive(Clone, Debug)]
pub struct AdsConfig {
    pub control_plane: ControlPlane,
    pub token: TokenFile,
    /// Sent as the `clusterid` header, by which a control plane of several clusters picks the verifier of the token.
    pub cluster: String,
    pub node: Node,
}

/// The parts of a node id, `TYPE~IP~POD.NAMESPACE~DOMAIN`.
#[derive(Clone, Copy, Debug)]
pub struct NodeId<'a> {
    /// `ztunnel`, `waypoint` or `router`.
    pub proxy_type: &'a str,
    pub ip: &'a str,
    pub pod: &'a str,
    pub namespace: &'a str,
}

impl NodeId<'_> {
    /// The node message with this id and the metadata that Istio's tools read.
    pub fn into_node(self, cluster: &str, node_name: &str) -> Node {
        let id = format!(
            "{}~{}~{}.{}~{}.svc.cluster.local",
            self.proxy_type, self.ip, self.pod, self.namespace, self.namespace
        );
        let text = |value: &str| prost_types::Value::from(value.to_owned());
        let fields = [
            ("NAME", text(self.pod)),
            ("NAMESPACE", text(self.namespace)),
            ("INSTANCE_IPS", text(self.ip)),
            ("NODE_NAME", text(node_name)),
            ("CLUSTER_ID", text(cluster)),
        ];
        Node {
            id,
            cluster: cluster.to_owned(),
            metadata: Some(prost_types::Struct {
                fields: fields
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect(),
            }),
            user_agent_name: "aquifer".to_owned(),
            user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Node::default()
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("control plane ended the xDS stream: {}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("control plane closed the xDS stream")]
    Closed,
}

/// The client; its state is seen through the [`watch`] that [`AdsClient::new`] returns.
pub struct AdsClient {
    config: AdsConfig,
    status: watch::Sender<AdsStatus>,
}

impl AdsClient {
    pub fn new(config: AdsConfig) -> (Self, watch::Receiver<AdsStatus>) {
        let (status, seen) = watch::channel(AdsStatus::default());
        (Self { config, status }, seen)
    }

    /// Runs until cancelled; the handlers' types are what is subscribed to, in their order.
    pub async fn run(self, handlers: Vec<Box<dyn ResourceHandler>>, cancel: CancellationToken) {
        let state = DeltaState::new(self.config.node.clone(), handlers.iter().map(|h| h.type_url()));
        self.status.send_modify(|status| status.expect(&state));
        let mut session = Session {
            client: self,
            state,
            handlers,
        };
        // Cancelling between messages only: a handler is synchronous and always finishes.
        cancel.run_until_cancelled(session.run()).await;
    }
}

/// Everything that outlives a stream.
struct Session {
    client: AdsClient,
    state: DeltaState,
    handlers: Vec<Box<dyn ResourceHandler>>,
}

impl Session {
    async fn run(&mut self) {
        let mut backoff = Backoff::default();
        let mut rng = SmallRng::from_rng(&mut rand::rng());
        loop {
            let started = Instant::now();
            let Err(error) = self.stream().await;
            let connected = self.client.status.borrow().connected;
            let lived = if connected {
                started.elapsed()
            } else {
                Duration::ZERO
            };
            let wait = backoff.after(lived, &mut rng);
            self.report_lost(&error, wait);
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream, from the connection to its end; it has no good one.
    async fn stream(&mut self) -> Result<Infallible, StreamError> {
        let (requests, mut responses) = self.open().await?;
        self.client.status.send_modify(AdsStatus::set_connected);
        tracing::info!(
            address = self.client.config.control_plane.address(),
            "xds stream established"
        );
        while let Some(response) = responses.message().await? {
            let request = self.handle(response)?;
            if requests.send(request).await.is_err() {
                break;
            }
        }
        Err(StreamError::Closed)
    }

    async fn open(
        &mut self,
    ) -> Result<
        (
            mpsc::Sender<DeltaDiscoveryRequest>,
            Streaming<DeltaDiscoveryResponse>,
        ),
        StreamError,
    > {
        let config = &self.client.config;
        let bearer = config.token.bearer().await?;
        let channel = config.control_plane.connect().await?;
        let first = self.state.connected();
        let (requests, outgoing) = mpsc::channel(OUTGOING.max(first.len()));
        for request in first {
            // Cannot fail: the channel has room for all and its receiver is alive.
            requests.try_send(request).map_err(|_| StreamError::Closed)?;
        }
        let call = request(ReceiverStream::new(outgoing), bearer, &config.cluster);
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        let responses = client.delta_aggregated_resources(call).await?.into_inner();
        Ok((requests, responses))
    }

    fn handle(&mut self, response: DeltaDiscoveryResponse) -> Result<DeltaDiscoveryRequest, StreamError> {
        let bytes = response.encoded_len() as u64;
        let batch = self.state.received(response)?;
        let type_url = batch.type_url;
        tracing::debug!(
            r#type = short_name(type_url),
            updates = batch.updates.len(),
            removals = batch.removals.len(),
            bytes,
            "xds response"
        );
        let request = apply(&mut self.state, &mut self.handlers, batch);
        if let Some(detail) = &request.error_detail {
            tracing::warn!(r#type = short_name(type_url), error = %detail.message, "xds resources rejected");
        }
        self.client
            .status
            .send_modify(|status| status.update(type_url, &self.state, bytes));
        Ok(request)
    }

    fn report_lost(&self, error: &StreamError, wait: Duration) {
        let text = error.to_string();
        // One line per change of cause: a control plane that is away for an hour is not news each 15 seconds.
        let news = self.client.status.borrow().last_error.as_deref() != Some(text.as_str());
        if news {
            tracing::warn!(error = %text, retry_in = ?wait, "xds stream lost");
        } else {
            tracing::debug!(error = %text, retry_in = ?wait, "xds stream lost");
        }
        self.client.status.send_modify(|status| status.set_lost(text));
    }
}

fn apply(
    state: &mut DeltaState,
    handlers: &mut [Box<dyn ResourceHandler>],
    mut batch: Batch,
) -> DeltaDiscoveryRequest {
    let updates = std::mem::take(&mut batch.updates);
    let removals = std::mem::take(&mut batch.removals);
    let handler = handlers
        .iter_mut()
        .find(|handler| handler.type_url() == batch.type_url);
    let outcome = match handler {
        // An empty response still counts: it says that there is nothing.
        Some(handler) => handler.apply(updates, removals),
        None => Ok(()),
    };
    state.applied(batch, outcome)
}

fn request<T>(body: T, bearer: MetadataValue<Ascii>, cluster: &str) -> Request<T> {
    let mut request = Request::new(body);
    request.metadata_mut().insert("authorization", bearer);
    if let Ok(cluster) = cluster.parse() {
        request.metadata_mut().insert("clusterid", cluster);
    }
    request
}

/// The client was cancelled before it was synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the xDS client has stopped")]
pub struct Stopped;

/// Resolves once each type was acknowledged at least once.
///
/// Cancel safe.
pub async fn synced(status: &mut watch::Receiver<AdsStatus>) -> Result<(), Stopped> {
    status
        .wait_for(AdsStatus::synced)
        .await
        .map(|_| ())
        .map_err(|_| Stopped)
}
