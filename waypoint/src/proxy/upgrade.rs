//! WebSockets: once both sides have agreed, bytes in both directions.

use aquifer_hbone::{ByteCounters, Plain, copy_bidirectional};
use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::attempt::Answer;
use super::forward::Forwarding;
use super::headers::{ask_for_websocket, strip_hop_by_hop};
use super::local;
use super::record::Record;
use super::response::ResponseBody;

/// Passes the 101 on; a task of the proxy's copies from then on, and reports at the end.
pub(crate) fn respond(
    forwarding: &Forwarding<'_>,
    mut answer: Answer,
    client: OnUpgrade,
    mut record: Record,
) -> Response<ResponseBody> {
    let service = hyper::upgrade::on(&mut answer.response);
    let (mut parts, _) = answer.response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    ask_for_websocket(&mut parts.headers);
    local::mutate(&forwarding.decision, &mut parts.headers);
    let proxy = forwarding.downstream.proxy.clone();
    proxy.tasks.spawn(async move {
        copy(client, service, &mut record).await;
        drop(answer.active);
    });
    Response::from_parts(parts, ResponseBody::unreported())
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
