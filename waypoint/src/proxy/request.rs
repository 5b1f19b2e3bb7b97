//! One request from its arrival to its answer.

use std::sync::Arc;

use aquifer_core::http::cors::CorsDecision;
use aquifer_core::http::decision::{Decision, Outcome, https_location, route};
use aquifer_core::http::request::Source;
use aquifer_core::http::table::RouteTable;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::failure::Failure;
use super::forward::Forwarding;
use super::head::Head;
use super::headers::{prepare, trusted_client, wants_websocket};
use super::record::{Record, RequestFacts};
use super::response::ResponseBody;
use super::upgrade::Offer;
use super::upload::{Keep, Upload};
use super::{ConnectionInfo, Proxy, local};

/// A connection that requests come in on, and the proxy that answers them.
#[derive(Clone)]
pub(crate) struct Downstream {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) connection: Arc<ConnectionInfo>,
}

impl Downstream {
    pub(crate) async fn handle(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let mut record = Record::new(self.proxy.clone(), self.connection.clone());
        let (mut parts, body) = request.into_parts();
        let offer = parts.extensions.remove::<OnUpgrade>();
        let offer = offer.map(|connection| Offer::new(connection, &self.proxy.tasks));
        let websocket = offer.filter(|_| wants_websocket(&parts.headers));
        let mut head = match Head::parse(parts, self.connection.http.path) {
            Ok(head) => head,
            Err(failure) => return local::failure(&failure, record, false),
        };
        let client = trusted_client(
            &head.headers,
            &self.connection.http,
            self.connection.client.address,
        );
        prepare(
            &mut head,
            &self.connection.http,
            self.connection.client.address,
            self.connection.tls.as_ref(),
            request_id,
        );
        record.request = Some(RequestFacts::of(&head, client));
        let state = self.proxy.shared.proxy();
        let routes = match &self.connection.pod {
            Some(pod) => Some(pod.routes()),
            None => state
                .routes
                .get(&self.connection.http.routes)
                .map(|table| &**table),
        };
        match routes {
            Some(table) => self.route(table, head, body, websocket, record).await,
            None => local::failure(&Failure::NotFound, record, false),
        }
    }

    async fn route(
        &self,
        table: &RouteTable,
        head: Head,
        body: Incoming,
        websocket: Option<Offer>,
        mut record: Record,
    ) -> Response<ResponseBody> {
        // Before anything is decided: the server that its name belongs to may ask more of a client, such as a certificate.
        if self.connection.is_misdirected(&head.host) {
            return local::failure(&Failure::Misdirected, record, false);
        }
        let decision = route(table, &head.view(self.connection.client.source()), rand::random());
        record.route = decision.route.map_or_else(|| "".into(), |r| r.name.clone());
        let cors = cors(&decision, &head);
        if let CorsDecision::AnswerPreflight(headers) = cors {
            return local::preflight(headers, record);
        }
        if let Err(abort) = inject(&decision, &mut record).await {
            return local::failure(&abort, record, false);
        }
        match decision.outcome {
            Outcome::NotFound => local::failure(&Failure::NotFound, record, false),
            Outcome::ToHttps => {
                let location = https_location(&head.view(Source::default()));
                local::redirect(301, &location, &decision, record)
            }
            Outcome::Redirect(redirect) => {
                let location = location(&decision, &head);
                local::redirect(redirect.status, &location, &decision, record)
            }
            Outcome::Direct(direct) => local::direct(direct, &decision, record),
            Outcome::Forward { forward, destination } => {
                let keep = if forward.retry.is_some() {
                    Keep::Yes
                } else {
                    Keep::No
                };
                let upload = Upload::new(body, keep);
                record.upload = Some(upload.counter());
                record.cluster = destination.cluster.clone();
                let forwarding = Forwarding {
                    downstream: self,
                    decision,
                    forward,
                    destination,
                    upload,
                };
                forwarding.run(head, websocket, &cors, record).await
            }
        }
    }
}

fn cors(decision: &Decision<'_>, head: &Head) -> CorsDecision {
    match decision.route.and_then(|r| r.cors.as_ref()) {
        Some(cors) => cors.decide(&head.method, &head.headers),
        None => CorsDecision::Pass,
    }
}

/// Injected faults: a wait, and an abort.
async fn inject(decision: &Decision<'_>, record: &mut Record) -> Result<(), Failure> {
    let Some(fault) = decision.route.and_then(|r| r.fault) else {
        return Ok(());
    };
    let (first, second) = (rand::random(), rand::random());
    if let Some(delay) = fault.delay(first) {
        record.flags = "DI";
        tokio::time::sleep(delay).await;
    }
    fault
        .abort(second)
        .map_or(Ok(()), |abort| Err(Failure::Fault(abort)))
}

fn location(decision: &Decision<'_>, head: &Head) -> String {
    let view = head.view(Default::default());
    match (decision.outcome, decision.route) {
        (Outcome::Redirect(redirect), Some(route)) => redirect.location(&route.matches.path, &view),
        _ => String::new(),
    }
}

/// A random UUID (RFC 9562 version 4).
fn request_id() -> String {
    let bits: u128 = rand::random();
    let bits = bits & !(0xf << 76) | 4 << 76;
    let bits = bits & !(0x3 << 62) | 2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_version_4_uuids() {
        for _ in 0..50 {
            let id = request_id();
            assert_eq!(id.len(), 36);
            assert_eq!(&id[14..15], "4");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
    }
}
