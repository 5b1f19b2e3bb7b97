//! Route tables as Envoy writes `RouteConfiguration` in JSON.

use aquifer_core::http::action::{Action, Forward};
use aquifer_core::http::matching::{
    HeaderCondition, HeaderMatch, PathMatch, QueryMatch, RouteMatch, SourceAttribute, SourceMatch,
};
use aquifer_core::http::rewrite::{HostRewrite, PathRewrite, Redirect, RedirectPath};
use aquifer_core::http::table::{HostPort, Route, RouteTable, VirtualHost};
use aquifer_core::http::text::{TextMatch, TextPattern};
use aquifer_xds::envoy::{SOURCE_FILTER, SOURCE_NAMESPACE_FILTER};
use serde_json::{Map, Value, json};

pub(super) fn route_configuration(table: &RouteTable) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": table.name,
        "ignore_port_in_host_matching": table.host_port() == HostPort::Ignored,
        "virtual_hosts": table.virtual_hosts().iter().map(virtual_host).collect::<Vec<_>>(),
    })
}

fn virtual_host(host: &VirtualHost) -> Value {
    json!({
        "name": host.name,
        "domains": host.domains,
        "routes": host.routes.iter().map(route).collect::<Vec<_>>(),
    })
}

fn route(route: &Route) -> Value {
    let mut json = json!({ "name": route.name, "match": conditions(&route.matches) });
    let (key, action) = match &route.action {
        Action::Forward(forward) => ("route", forward_action(forward)),
        Action::Redirect(redirect) => ("redirect", redirect_action(redirect)),
        Action::DirectResponse(direct) => (
            "direct_response",
            json!({
                "status": direct.status,
                "body": { "inline_string": String::from_utf8_lossy(&direct.body) },
            }),
        ),
    };
    json[key] = action;
    json
}

fn conditions(m: &RouteMatch) -> Value {
    let mut json = match &m.path {
        PathMatch::Exact { path, .. } => json!({ "path": path }),
        PathMatch::Prefix { prefix, .. } => json!({ "prefix": prefix }),
        PathMatch::SegmentPrefix { prefix, .. } => json!({ "path_separated_prefix": prefix }),
        PathMatch::Regex(pattern) => json!({ "safe_regex": { "regex": pattern.as_str() } }),
    };
    if !m.headers.is_empty() {
        json["headers"] = m.headers.iter().map(header).collect();
    }
    if !m.query.is_empty() {
        json["query_parameters"] = m.query.iter().map(query).collect();
    }
    if !m.source.is_empty() {
        json["dynamic_metadata"] = m.source.iter().map(source).collect();
    }
    if m.grpc {
        json["grpc"] = json!({});
    }
    json
}

fn text(m: &TextMatch) -> Value {
    let (kind, value) = match &m.pattern {
        TextPattern::Exact(text) => ("exact", json!(text)),
        TextPattern::Prefix(text) => ("prefix", json!(text)),
        TextPattern::Suffix(text) => ("suffix", json!(text)),
        TextPattern::Contains(text) => ("contains", json!(text)),
        TextPattern::Regex(pattern) => ("safe_regex", json!({ "regex": pattern.as_str() })),
    };
    Value::Object(Map::from_iter([(kind.to_owned(), value)]))
}

fn header(m: &HeaderMatch) -> Value {
    let mut json = json!({ "name": m.name });
    match &m.condition {
        HeaderCondition::Present => json["present_match"] = json!(true),
        HeaderCondition::Absent => json["present_match"] = json!(false),
        HeaderCondition::Text(matcher) => json["string_match"] = text(matcher),
        HeaderCondition::Range { start, end } => json["range_match"] = json!({ "start": start, "end": end }),
    }
    if m.invert {
        json["invert_match"] = json!(true);
    }
    if m.missing_as_empty {
        json["treat_missing_header_as_empty"] = json!(true);
    }
    json
}

fn query(m: &QueryMatch) -> Value {
    match &m.value {
        Some(matcher) => json!({ "name": m.name, "string_match": text(matcher) }),
        None => json!({ "name": m.name, "present_match": true }),
    }
}

fn source(m: &SourceMatch) -> Value {
    let (filter, key) = match &m.attribute {
        SourceAttribute::Label(label) => (SOURCE_FILTER, &**label),
        SourceAttribute::Namespace => (SOURCE_NAMESPACE_FILTER, "name"),
    };
    let value = m.value.as_ref().map_or_else(
        || json!({ "present_match": true }),
        |matcher| json!({ "string_match": text(matcher) }),
    );
    json!({ "filter": filter, "path": [{ "key": key }], "value": value, "invert": m.invert })
}

fn forward_action(forward: &Forward) -> Value {
    let mut json = json!({
        "timeout": forward.timeout.map_or_else(|| "0s".to_owned(), |t| format!("{}s", t.as_secs_f64())),
    });
    let mut destinations = forward.destinations.iter();
    match (destinations.next(), destinations.next()) {
        (Some(only), None) => json["cluster"] = json!(only.cluster),
        _ => {
            let clusters = forward.destinations.iter();
            let clusters = clusters.map(|d| json!({ "name": d.cluster, "weight": d.weight }));
            json["weighted_clusters"] = json!({ "clusters": clusters.collect::<Vec<_>>() });
        }
    }
    if let Some(retry) = &forward.retry {
        json["retry_policy"] = json!({ "num_retries": retry.attempts });
    }
    match &forward.path_rewrite {
        Some(PathRewrite::Prefix(prefix)) => json["prefix_rewrite"] = json!(prefix),
        Some(PathRewrite::Regex {
            pattern,
            substitution,
        }) => {
            json["regex_rewrite"] =
                json!({ "pattern": { "regex": pattern.as_str() }, "substitution": substitution });
        }
        None => {}
    }
    match &forward.host_rewrite {
        Some(HostRewrite::Literal(host)) => json["host_rewrite_literal"] = json!(host),
        Some(HostRewrite::Header(name)) => json["host_rewrite_header"] = json!(name.as_str()),
        None => {}
    }
    json
}

fn redirect_action(redirect: &Redirect) -> Value {
    let mut json = json!({ "response_code": redirect.status });
    if let Some(host) = &redirect.host {
        json["host_redirect"] = json!(host);
    }
    if let Some(port) = redirect.port {
        json["port_redirect"] = json!(port);
    }
    if let Some(scheme) = &redirect.scheme {
        json["scheme_redirect"] = json!(scheme);
    }
    if let RedirectPath::Replace(path) = &redirect.path {
        json["path_redirect"] = json!(path);
    }
    json
}
