//! Changes of protocol that a client asks for; of WebSockets, once both sides have agreed, bytes in both directions.

use aquifer_hbone::{ByteCounters, Plain, copy_bidirectional};
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio_util::task::TaskTracker;

use super::attempt::Answer;
use super::forward::Forwarding;
use super::headers::{ask_for_websocket, strip_hop_by_hop};
use super::local;
use super::record::Record;
use super::request::Downstream;
use super::response::ResponseBody;
use crate::policy;

/// A client's connection, which it wants to use for another protocol.
///
/// From the request on it is no longer hyper's to end. Offered and not taken, it is ended in order here; dropped, it
/// would be reset in a tunnel, and the reset could overtake the answer.
pub(crate) struct Offer {
    connection: Option<OnUpgrade>,
    tasks: TaskTracker,
}

impl Offer {
    pub(crate) fn new(connection: OnUpgrade, tasks: &TaskTracker) -> Self {
        Self {
            connection: Some(connection),
            tasks: tasks.clone(),
        }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.tasks.spawn(async move {
                // An error means that the connection has ended already, or goes on with other requests.
                if let Ok(connection) = connection.await {
                    let _ = TokioIo::new(connection).shutdown().await;
                }
            });
        }
    }
}

/// Passes the 101 on; a task of the proxy's copies from then on, and reports at the end.
pub(crate) fn respond(
    forwarding: &Forwarding<'_>,
    mut answer: Answer,
    mut offer: Offer,
    mut record: Record,
) -> Response<ResponseBody> {
    let client = offer.connection.take();
    let service = hyper::upgrade::on(&mut answer.response);
    let (mut parts, _) = answer.response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    ask_for_websocket(&mut parts.headers);
    local::mutate(&forwarding.decision, &mut parts.headers);
    let downstream = forwarding.downstream.clone();
    let tasks = downstream.proxy.tasks.clone();
    tasks.spawn(async move {
        if let Some(client) = client {
            carry(&downstream, client, service, &mut record).await;
        }
        drop(answer.active);
    });
    Response::from_parts(parts, ResponseBody::unreported())
}

/// Copies until the end, or until policies that came later deny the client what it has.
async fn carry(downstream: &Downstream, client: OnUpgrade, service: OnUpgrade, record: &mut Record) {
    let Some(endpoint) = record.upstream.as_ref().map(|upstream| upstream.endpoint.clone()) else {
        return;
    };
    let denied = policy::denied(&downstream.proxy.shared, &downstream.connection.client, &endpoint);
    tokio::select! {
        () = copy(client, service, record) => {}
        denied = denied => record.upstream_failure = denied.to_string(),
    }
}

async fn copy(client: OnUpgrade, service: OnUpgrade, record: &mut Record) {
    record.complete = true;
    let upgraded = tokio::try_join!(client, service);
    let (client, service) = match upgraded {
        Ok(both) => both,
        Err(error) => {
            record.upstream_failure = error.to_string();
            return;
        }
    };
    let counters = ByteCounters::default();
    let client = Plain(TokioIo::new(client));
    let service = Plain(TokioIo::new(service));
    if let Err(error) = copy_bidirectional(client, service, &counters).await {
        tracing::debug!(%error, "websocket ended");
    }
    record.bytes_received = counters.a_to_b();
    record.bytes_sent = counters.b_to_a();
}
