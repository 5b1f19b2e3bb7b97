//! The outcome as our own routing decides it.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_core::http::cors::CorsDecision;
use aquifer_core::http::decision::{Decision, Outcome as Decided, https_location, route};
use aquifer_core::http::request::{RequestView, Source};
use aquifer_core::http::table::RouteTable;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::envoy::grants;
use crate::generate::CHANGED;
use crate::{CrossOrigin, Outcome, Sent};

pub(crate) fn outcome(table: &RouteTable, sent: &Sent) -> Outcome {
    let labels: BTreeMap<Arc<str>, Arc<str>> = sent
        .labels
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    let mut headers = HeaderMap::new();
    for (name, value) in &sent.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let (path, query) = match sent.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (sent.target.as_str(), None),
    };
    let method = Method::from_bytes(sent.method.as_bytes()).unwrap();
    let view = RequestView {
        method: &method,
        scheme: "http",
        host: &sent.host,
        path,
        query,
        headers: &headers,
        source: Source {
            labels: Some(&labels),
            namespace: sent.namespace,
        },
    };
    let decision = route(table, &view, 0);
    let mut outcome = decided(&decision, &view);
    outcome.route = decision.route_name().to_owned();
    outcome
}

fn decided(decision: &Decision<'_>, view: &RequestView<'_>) -> Outcome {
    let local = |status| Outcome {
        status,
        ..Outcome::default()
    };
    match decision.outcome {
        Decided::NotFound => local(404),
        Decided::Redirect(redirect) => Outcome {
            location: redirect.location(&decision.route.unwrap().matches.path, view),
            ..local(redirect.status)
        },
        Decided::ToHttps => Outcome {
            location: https_location(view),
            ..local(301)
        },
        Decided::Direct(direct) => Outcome {
            body: String::from_utf8_lossy(&direct.body).into_owned(),
            ..local(direct.status)
        },
        Decided::Forward { destination, .. } if &*destination.cluster == "missing" => local(503),
        Decided::Forward { .. } => forwarded(decision, view),
    }
}

fn forwarded(decision: &Decision<'_>, view: &RequestView<'_>) -> Outcome {
    let Decided::Forward { forward, destination } = decision.outcome else {
        return Outcome::default();
    };
    let rewritten = forward.path_rewrite.as_ref();
    let path = rewritten.and_then(|r| r.apply(&decision.route.unwrap().matches.path, view.path));
    let path = path.unwrap_or_else(|| view.path.to_owned());
    let host = destination
        .host_rewrite
        .as_ref()
        .or(forward.host_rewrite.as_ref());
    let mut headers = view.headers.clone();
    for mutations in decision.request_mutations() {
        mutations.apply(&mut headers);
    }
    Outcome {
        status: 200,
        cluster: destination.cluster.to_string(),
        target: view.query.map_or_else(|| path.clone(), |q| format!("{path}?{q}")),
        host: host
            .and_then(|h| h.apply(&headers))
            .unwrap_or_else(|| view.host.to_owned()),
        headers: changed(|name| headers.get_all(name).iter().map(text).collect()),
        ..Outcome::default()
    }
}

fn text(value: &HeaderValue) -> String {
    value.to_str().unwrap().to_owned()
}

/// The headers that routes change, with all their values.
pub(crate) fn changed(values: impl Fn(&'static str) -> Vec<String>) -> Vec<(String, String)> {
    let all = CHANGED
        .iter()
        .flat_map(|name| values(name).into_iter().map(|v| ((*name).to_owned(), v)));
    all.collect()
}

/// How we answer a cross-origin request.
pub(crate) fn cross_origin(table: &RouteTable, sent: &Sent) -> CrossOrigin {
    let cors = table.virtual_hosts()[0].routes[0].cors.as_ref().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in &sent.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let method = Method::from_bytes(sent.method.as_bytes()).unwrap();
    let (forwarded, granted) = match cors.decide(&method, &headers) {
        CorsDecision::Pass => (true, HeaderMap::new()),
        CorsDecision::Grant(granted) => (true, granted),
        CorsDecision::AnswerPreflight(granted) => (false, granted),
    };
    CrossOrigin {
        forwarded,
        status: 200,
        grants: grants(&granted),
    }
}
