//! Making the outbound connection, with another endpoint where one cannot be reached.
//!
//! The client's bytes are not read before a connection stands, so that trying another endpoint repeats nothing. What
//! was refused on purpose (a policy, an identity) is never tried elsewhere.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::resolve::{
    HboneRoute, Outbound, OutboundQuery, PlainRoute, Refusal, Via, resolve_outbound,
};
use aquifer_core::service::Service;
use aquifer_core::workload::{Workload, WorkloadUid};
use aquifer_hbone::{ConnectError, PoolKey, Retry, TunnelRequest, TunnelStream};
use aquifer_telemetry::peer::{Reporter, Security, ServiceLabels};
use aquifer_telemetry::tcp::TcpFlag;
use http::StatusCode;
use tokio::net::TcpStream;

use super::headers;
use crate::network;
use crate::pod::PodProxy;
use crate::telemetry::{Facts, Failure, peer};

/// Endpoints tried for one connection.
const MAX_ATTEMPTS: usize = 3;
/// How long a client waits for an agent that has just started.
const SYNC_WAIT: Duration = Duration::from_secs(15);

#[expect(clippy::large_enum_variant, reason = "moved once, into the copy loop")]
pub(super) enum Upstream {
    Tunnel(TunnelStream),
    Plain(TcpStream),
}

/// A connection that stands.
pub(super) struct Made {
    pub(super) upstream: Upstream,
    pub(super) facts: Facts,
    pub(super) peer: SocketAddr,
}

/// A connection that was not made; the facts are those of the last endpoint tried.
pub(super) struct Failed {
    pub(super) facts: Facts,
    pub(super) failure: Failure,
}

/// How one endpoint failed.
struct Tried {
    failed: Failed,
    /// The endpoint to leave out next time; none if there must be no next time.
    retry_without: Option<WorkloadUid>,
}

pub(super) async fn connect(
    pod: &PodProxy,
    client: SocketAddr,
    destination: SocketAddr,
) -> Result<Made, Failed> {
    if let Err(error) = pod.shared.mesh.synced(SYNC_WAIT).await {
        let (source, _) = decide(pod, destination, &[]);
        let connection = Connection {
            pod,
            source,
            client,
            destination,
        };
        return Err(connection.failure(TcpFlag::Connect, &error));
    }
    let mut left_out: Vec<WorkloadUid> = Vec::new();
    let mut last = None;
    for _ in 0..MAX_ATTEMPTS {
        let (source, outbound) = decide(pod, destination, &left_out);
        let connection = Connection {
            pod,
            source,
            client,
            destination,
        };
        let tried = match outbound {
            Outbound::Hbone(route) => connection.tunnel(&route).await,
            Outbound::Plain(route) => connection.plain(&route).await,
            // After a failure the failure says more than that no other endpoint is left.
            Outbound::Refuse(refusal) => return Err(last.unwrap_or_else(|| connection.refused(&refusal))),
        };
        let Tried {
            failed,
            retry_without,
        } = match tried {
            Ok(made) => return Ok(made),
            Err(tried) => tried,
        };
        let Some(uid) = retry_without else {
            return Err(failed);
        };
        tracing::debug!(pod = %pod.pod.name, workload = %uid, error = %failed.failure.reason, "endpoint cannot be reached");
        left_out.push(uid);
        last = Some(failed);
    }
    Err(last.expect("the loop runs at least once and notes each failure"))
}

/// Decides from one snapshot.
fn decide(pod: &PodProxy, destination: SocketAddr, failed: &[WorkloadUid]) -> (Arc<Workload>, Outbound) {
    let mesh = pod.shared.mesh.load();
    let source = pod.as_source(&mesh);
    let query = OutboundQuery {
        source: &source,
        destination,
        failed,
    };
    let outbound = resolve_outbound(&mesh, &query, &mut rand::rng());
    (source, outbound)
}

/// One attempt.
struct Connection<'a> {
    pod: &'a PodProxy,
    source: Arc<Workload>,
    client: SocketAddr,
    destination: SocketAddr,
}

impl Connection<'_> {
    async fn tunnel(&self, route: &HboneRoute) -> Result<Made, Tried> {
        let facts = self.hbone_facts(route);
        let tried = |facts, failure, retry: bool| Tried {
            failed: Failed { facts, failure },
            retry_without: retry.then(|| route.workload.uid.clone()),
        };
        let certificate = self.pod.shared.certificates.certificate(&self.pod.identity).await;
        let source = match certificate {
            Ok(certificate) => certificate,
            Err(error) => return Err(tried(facts, Failure::new(TcpFlag::IdentityError, &error), false)),
        };
        let host = route.service.as_ref().map(|s| &s.hostname);
        let request = TunnelRequest {
            authority: route.authority.clone(),
            headers: headers::request(&self.source, self.client, host, &mut rand::rng()),
        };
        let key = PoolKey {
            source,
            peer: route.peer,
            expected: route.expected.clone(),
            local: route.local,
        };
        let dial = || network::dial(&*self.pod.network, route.peer, Some(route.local));
        match self.pod.pool.connect(key, request, dial).await {
            Ok((stream, _response)) => Ok(Made {
                upstream: Upstream::Tunnel(stream),
                facts,
                peer: route.peer,
            }),
            Err(error) => {
                // Its application does not answer; nothing of the client's was sent.
                let unavailable = route.via == Via::Endpoint
                    && matches!(error, ConnectError::Refused { status, .. } if status == StatusCode::SERVICE_UNAVAILABLE);
                let retry = unavailable || error.retry() != Retry::Never;
                Err(tried(facts, Failure::new(flag(&error), &error), retry))
            }
        }
    }

    async fn plain(&self, route: &PlainRoute) -> Result<Made, Tried> {
        let facts = self.plain_facts(route);
        match network::dial(&*self.pod.network, route.peer, None).await {
            Ok(stream) => Ok(Made {
                upstream: Upstream::Plain(stream),
                facts,
                peer: route.peer,
            }),
            Err(error) => Err(Tried {
                failed: Failed {
                    facts,
                    failure: Failure::new(
                        TcpFlag::Connect,
                        &format!("cannot connect to {}: {error}", route.peer),
                    ),
                },
                retry_without: route.workload.as_ref().map(|w| w.uid.clone()),
            }),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Failed {
        self.failure(TcpFlag::Connect, refusal)
    }

    fn failure(&self, flag: TcpFlag, reason: &impl Display) -> Failed {
        let route = PlainRoute {
            peer: self.destination,
            workload: None,
            service: None,
        };
        Failed {
            facts: self.plain_facts(&route),
            failure: Failure::new(flag, reason),
        }
    }

    fn hbone_facts(&self, route: &HboneRoute) -> Facts {
        let expected = route.expected.first();
        Facts {
            reporter: Reporter::Source,
            source: peer(self.client, Some(&self.source), Some(&self.pod.identity)),
            destination: peer(route.peer, Some(&route.workload), expected),
            service: self.service(route.service.as_deref(), true),
            security: Security::MutualTls,
            hbone_target: Some(route.authority.to_string().into()),
        }
    }

    fn plain_facts(&self, route: &PlainRoute) -> Facts {
        let known = route.workload.is_some();
        Facts {
            reporter: Reporter::Source,
            source: peer(self.client, Some(&self.source), None),
            destination: peer(route.peer, route.workload.as_deref(), None),
            service: self.service(route.service.as_deref(), known),
            security: Security::Unknown,
            hbone_target: None,
        }
    }

    /// The service's labels; what the mesh does not know at all is passthrough.
    fn service(&self, service: Option<&Service>, known: bool) -> ServiceLabels {
        match service {
            Some(service) => ServiceLabels::of(service),
            None if known => ServiceLabels::unknown(),
            None => ServiceLabels::passthrough(&self.destination.ip().to_string()),
        }
    }
}

fn flag(error: &ConnectError) -> TcpFlag {
    match error {
        ConnectError::Tls { .. } | ConnectError::Rejected { .. } | ConnectError::Alpn { .. } => {
            TcpFlag::TlsFailure
        }
        _ => TcpFlag::Connect,
    }
}
