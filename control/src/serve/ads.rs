//! The aggregated discovery service: one delta stream per proxy.
//!
//! A thin skin around [`super::stream`]: it authenticates, waits for requests and snapshots, and keeps the registry
//! and the metrics. Nothing is spawned: a stream is polled by its connection and ends with it.

mod service;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_telemetry::registry::Registry;
use aquifer_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use aquifer_xds::type_url::{TRUST, short_name};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use super::metrics::ServeMetrics;
use super::registry::{Entry, ProxyRegistry};
use super::stream::{Answer, Answered, Outgoing, StreamState, Violation};
use super::trust::{self, Trust};
use super::turns::{Turn, Turns};
use super::{ClientIdentity, ResourceSnapshot, ResourceSnapshots};
use crate::auth::node::{NodeError, identify};
use crate::auth::{Authenticated, Authenticator};
use crate::authority::Active;
use service::AdsServer;

/// For the first request of a stream.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Streams are ended at about this age, so that proxies spread over replicas and present a fresh token.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// One, and another while it reconnects; two to spare.
const MAX_STREAMS_PER_POD: usize = 4;
const MAX_STREAMS: usize = 10_000;

/// Serves resources to proxies.
#[derive(Clone)]
pub struct AdsService {
    snapshots: Arc<dyn ResourceSnapshots>,
    authenticator: Authenticator,
    registry: ProxyRegistry,
    metrics: ServeMetrics,
    turns: Turns,
    /// Ends every stream, so that proxies reconnect elsewhere before this process is gone.
    cancel: CancellationToken,
    trust: Option<Trust>,
}

impl AdsService {
    pub fn new(
        snapshots: Arc<dyn ResourceSnapshots>,
        authenticator: Authenticator,
        registry: ProxyRegistry,
        metrics: &Registry,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            snapshots,
            authenticator,
            registry,
            metrics: ServeMetrics::new(metrics),
            turns: Turns::default(),
            cancel,
            trust: None,
        }
    }

    /// Tells every proxy which roots the authority trusts, besides its resources.
    #[must_use]
    pub fn announcing(self, authority: Active) -> Self {
        let trust = Some(Trust::new(authority));
        Self { trust, ..self }
    }

    pub(super) fn into_server(self) -> AdsServer {
        AdsServer(self)
    }

    /// From a call to its stream.
    async fn begin(&self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Result<AdsStream, Status> {
        let caller = self.authenticate(&request).await?;
        let mut inbound = request.into_inner();
        let first = timeout(FIRST_REQUEST, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no request within 10s of opening the stream"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its first request"))?;
        let client = self.identify(&caller, &first)?;
        let mut stream = self.open(&client, inbound)?;
        stream.request(first)?;
        Ok(stream)
    }

    async fn authenticate(
        &self,
        request: &Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Authenticated, Status> {
        let caller = self
            .authenticator
            .authenticate(request.metadata(), SystemTime::now())
            .await;
        caller.map_err(|error| {
            self.metrics.refused("unauthenticated");
            tracing::warn!(%error, "xds call refused");
            error.into()
        })
    }

    fn identify(
        &self,
        caller: &Authenticated,
        first: &DeltaDiscoveryRequest,
    ) -> Result<ClientIdentity, Status> {
        let id = first
            .node
            .as_ref()
            .map(|node| node.id.as_str())
            .unwrap_or_default();
        identify(caller, id, self.authenticator.trusted()).map_err(|error| {
            self.metrics.refused("identity");
            tracing::warn!(caller = %caller.caller, %error, "xds call refused");
            match error {
                NodeError::Missing | NodeError::Form(_) => Status::invalid_argument(error.to_string()),
                _ => Status::permission_denied(error.to_string()),
            }
        })
    }

    fn admit(&self, client: &ClientIdentity) -> Result<(), Status> {
        let full = self.registry.len() >= MAX_STREAMS;
        if full || self.registry.streams_of(client) >= MAX_STREAMS_PER_POD {
            self.metrics.refused("limit");
            let whose = if full { "of all proxies" } else { "of this pod" };
            return Err(Status::resource_exhausted(format!(
                "too many xDS streams {whose}; try again later"
            )));
        }
        Ok(())
    }

    fn open(
        &self,
        client: &ClientIdentity,
        inbound: Streaming<DeltaDiscoveryRequest>,
    ) -> Result<AdsStream, Status> {
        self.admit(client)?;
        let mut snapshots = self.snapshots.subscribe(client).map_err(|denied| {
            self.metrics.refused("denied");
            tracing::warn!(client = %client.node_id, reason = %denied, "xds call refused");
            Status::permission_denied(denied.to_string())
        })?;
        let mut trust = self.trust.clone();
        let snapshot = trust::with(snapshots.borrow_and_update().clone(), trust.as_mut());
        let entry = self.registry.enter(client, snapshot.clone(), SystemTime::now());
        self.metrics.connected(self.registry.len());
        tracing::info!(client = %client.node_id, "proxy connected");
        let age = MAX_AGE.mul_f64(rand::rng().random_range(0.8..1.2));
        Ok(AdsStream {
            state: StreamState::new(snapshot),
            inbound,
            snapshots,
            trust,
            log: StreamLog {
                entry,
                metrics: self.metrics.clone(),
                registry: self.registry.clone(),
                client: client.node_id.clone(),
            },
            end: tokio::time::Instant::now() + age,
            turns: self.turns.clone(),
            cancel: self.cancel.clone(),
            converging: None,
            pushed: false,
            in_effect: None,
        })
    }
}

/// One open stream.
struct AdsStream {
    state: StreamState,
    inbound: Streaming<DeltaDiscoveryRequest>,
    snapshots: watch::Receiver<Arc<ResourceSnapshot>>,
    trust: Option<Trust>,
    log: StreamLog,
    end: tokio::time::Instant,
    turns: Turns,
    cancel: CancellationToken,
    /// When the oldest change came in that is not yet in effect.
    converging: Option<Instant>,
    /// Something was sent since everything was last in effect.
    pushed: bool,
    in_effect: Option<u64>,
}

impl AdsStream {
    /// The next response; none at the stream's orderly end.
    async fn next(&mut self) -> Result<Option<Outgoing>, Status> {
        loop {
            if let Some(outgoing) = self.state.next() {
                self.pushed = true;
                self.log.sent(&outgoing);
                return Ok(Some(outgoing));
            }
            self.settle();
            tokio::select! {
                request = self.inbound.message() => match request? {
                    Some(request) => self.request(request)?,
                    None => return Ok(None),
                },
                changed = self.snapshots.changed() => {
                    changed.map_err(|_| Status::unavailable("the control plane is shutting down"))?;
                    let snapshot = self.replace();
                    self.converging.get_or_insert(snapshot.changed_at);
                }
                () = trust::changed(self.trust.as_mut()) => drop(self.replace()),
                () = tokio::time::sleep_until(self.end) => return Ok(None),
                () = self.cancel.cancelled() => return Ok(None),
            }
        }
    }

    /// Takes the newest snapshot and the newest roots.
    fn replace(&mut self) -> Arc<ResourceSnapshot> {
        let snapshot = self.snapshots.borrow_and_update().clone();
        let snapshot = trust::with(snapshot, self.trust.as_mut());
        self.log.entry.snapshot(&snapshot);
        self.state.replace(snapshot.clone());
        snapshot
    }

    /// A turn to send a large response; none where the stream ends anyway.
    async fn turn(&self) -> Option<Turn> {
        self.cancel.run_until_cancelled(self.turns.wait()).await
    }

    fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        match self.state.request(request) {
            Ok(Some(answered)) => {
                self.log.answered(&answered);
                if *answered.type_url == *TRUST && answered.answer == Answer::Acknowledged {
                    self.log
                        .entry
                        .trusts(self.state.held(TRUST, aquifer_xds::trust::NAME));
                }
            }
            Ok(None) => {}
            Err(violation) => return Err(self.log.violated(&violation)),
        }
        Ok(())
    }

    /// Notes when the newest snapshot is wholly in effect.
    fn settle(&mut self) {
        let generation = self.state.snapshot().generation;
        if self.in_effect == Some(generation) || !self.state.settled() {
            return;
        }
        self.in_effect = Some(generation);
        self.log.entry.in_effect(generation);
        // A change that concerned other proxies only, and a first picture, are no measure.
        let pushed = std::mem::take(&mut self.pushed);
        if let Some(since) = self.converging.take().filter(|_| pushed) {
            self.log.metrics.converged(since.elapsed());
        }
    }
}

/// What others see of a stream.
struct StreamLog {
    entry: Entry,
    metrics: ServeMetrics,
    registry: ProxyRegistry,
    client: Arc<str>,
}

impl StreamLog {
    fn sent(&self, outgoing: &Outgoing) {
        let response = &outgoing.response;
        self.entry.sent(outgoing);
        self.metrics.pushed(&response.type_url);
        tracing::debug!(
            client = %self.client,
            r#type = short_name(&response.type_url),
            resources = outgoing.added.len(),
            removed = response.removed_resources.len(),
            version = %response.system_version_info,
            "xds push"
        );
    }

    fn answered(&self, answered: &Answered) {
        self.entry.answered(answered);
        if let Answer::Rejected { message } = &answered.answer {
            self.metrics.rejected(&answered.type_url);
            tracing::warn!(client = %self.client, r#type = short_name(&answered.type_url), error = %message, "proxy rejected configuration");
        }
    }

    fn violated(&self, violation: &Violation) -> Status {
        tracing::warn!(client = %self.client, error = %violation, "xds stream ended: bad request");
        match violation {
            Violation::TypeUrl(_) => Status::invalid_argument(violation.to_string()),
            Violation::Types | Violation::Names => Status::resource_exhausted(violation.to_string()),
        }
    }
}

impl Drop for StreamLog {
    fn drop(&mut self) {
        tracing::info!(client = %self.client, "proxy disconnected");
        // The entry leaves the registry after this.
        self.metrics.connected(self.registry.len().saturating_sub(1));
    }
}
