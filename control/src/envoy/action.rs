//! What routes do, with header changes, faults and CORS around it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aquifer_xds::envoy::pb::envoy::config::core::v3 as core;
use aquifer_xds::envoy::pb::envoy::config::route::v3 as route;
use aquifer_xds::envoy::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use aquifer_xds::envoy::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use aquifer_xds::envoy::pb::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort,
};
use aquifer_xds::envoy::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use aquifer_xds::envoy::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, StringMatcher, string_matcher,
};
use aquifer_xds::envoy::pb::google::protobuf::Any;
use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
use route::retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate};
use route::route_action::{ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier};
use route::weighted_cluster::ClusterWeight;

use crate::envoy::matching::{safe_regex, string_matcher};
use crate::envoy::values::{any, bool_value, duration, share, uint};
use crate::model::virtual_service::{
    Abort, Action, Cors, HeaderEdits, HttpForward, HttpRule, PathRedirect, Redirect, RetryPolicy,
};

pub const FAULT: &str = "envoy.filters.http.fault";
pub const CORS: &str = "envoy.filters.http.cors";
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";
/// How often a retry looks for an endpoint that was not tried yet, as Istio sets it.
const HOST_SELECTION_ATTEMPTS: i64 = 5;

/// A destination by the name of its cluster.
pub struct WeightedName<'a> {
    pub cluster: String,
    pub weight: u32,
    pub request_headers: &'a HeaderEdits,
    pub response_headers: &'a HeaderEdits,
}

/// The route of one condition of a rule; `destinations` is used where the rule forwards.
pub fn rule_route(
    rule: &HttpRule,
    matches: route::RouteMatch,
    destinations: &[WeightedName<'_>],
) -> route::Route {
    let mut made = route::Route {
        name: rule.name.to_string(),
        r#match: Some(matches),
        ..route::Route::default()
    };
    let action = match &rule.action {
        Action::Forward(forward) => {
            made.typed_per_filter_config = per_filter(forward);
            route::route::Action::Route(forwarding(forward, &rule.request_headers, destinations))
        }
        Action::Redirect(redirect) => route::route::Action::Redirect(redirection(redirect)),
        Action::Respond { status, body } => {
            route::route::Action::DirectResponse(direct_response(*status, body))
        }
    };
    made.action = Some(action);
    made.request_headers_to_add = additions(&rule.request_headers);
    made.request_headers_to_remove = removals(&rule.request_headers);
    made.response_headers_to_add = additions(&rule.response_headers);
    made.response_headers_to_remove = removals(&rule.response_headers);
    made
}

/// A route without a rule: everything to one cluster.
pub fn plain_route(name: &str, matches: route::RouteMatch, cluster: &str) -> route::Route {
    let action = route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: Some(duration(Duration::ZERO)),
        retry_policy: retry_policy(&RetryPolicy::default()),
        ..route::RouteAction::default()
    };
    route::Route {
        name: name.to_owned(),
        r#match: Some(matches),
        action: Some(route::route::Action::Route(action)),
        ..route::Route::default()
    }
}

/// 404 for a request that no rule wanted.
pub fn no_match(matches: route::RouteMatch) -> route::Route {
    route::Route {
        name: "no-match".to_owned(),
        r#match: Some(matches),
        action: Some(route::route::Action::DirectResponse(direct_response(404, b""))),
        ..route::Route::default()
    }
}

fn forwarding(
    forward: &HttpForward,
    edits: &HeaderEdits,
    destinations: &[WeightedName<'_>],
) -> route::RouteAction {
    let rewrite = &forward.rewrite;
    let authority = rewrite.authority.as_ref().or(edits.authority.as_ref());
    route::RouteAction {
        cluster_specifier: Some(cluster_specifier(destinations)),
        prefix_rewrite: rewrite.uri.as_deref().unwrap_or_default().to_owned(),
        regex_rewrite: rewrite
            .regex
            .as_ref()
            .map(|(pattern, with)| substitution(pattern, with)),
        host_rewrite_specifier: authority.map(|a| HostRewriteSpecifier::HostRewriteLiteral(a.to_string())),
        // Zero is no limit; without a value Envoy would apply 15 s.
        timeout: Some(duration(forward.timeout.unwrap_or_default())),
        retry_policy: retry_policy(&forward.retries),
        cluster_not_found_response_code: not_found(forward.not_found) as i32,
        ..route::RouteAction::default()
    }
}

fn not_found(status: u16) -> ClusterNotFoundResponseCode {
    match status {
        500 => ClusterNotFoundResponseCode::InternalServerError,
        _ => ClusterNotFoundResponseCode::ServiceUnavailable,
    }
}

fn substitution(pattern: &str, with: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(safe_regex(pattern)),
        substitution: with.to_owned(),
    }
}

fn cluster_specifier(destinations: &[WeightedName<'_>]) -> ClusterSpecifier {
    match destinations {
        [only] if is_plain(only) => ClusterSpecifier::Cluster(only.cluster.clone()),
        several => ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: several.iter().map(cluster_weight).collect(),
            ..route::WeightedCluster::default()
        }),
    }
}

fn is_plain(destination: &WeightedName<'_>) -> bool {
    *destination.request_headers == HeaderEdits::default()
        && *destination.response_headers == HeaderEdits::default()
}

fn cluster_weight(destination: &WeightedName<'_>) -> ClusterWeight {
    let authority = destination.request_headers.authority.as_ref();
    ClusterWeight {
        name: destination.cluster.clone(),
        weight: Some(uint(destination.weight)),
        request_headers_to_add: additions(destination.request_headers),
        request_headers_to_remove: removals(destination.request_headers),
        response_headers_to_add: additions(destination.response_headers),
        response_headers_to_remove: removals(destination.response_headers),
        host_rewrite_specifier: authority.map(|a| {
            route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(a.to_string())
        }),
        ..ClusterWeight::default()
    }
}

fn additions(edits: &HeaderEdits) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    let option = |(name, value): &(Arc<str>, Arc<str>), action| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.to_string(),
            value: value.to_string(),
            ..core::HeaderValue::default()
        }),
        append_action: action as i32,
        keep_empty_value: true,
        ..core::HeaderValueOption::default()
    };
    let set = edits.set.iter().map(|pair| option(pair, OverwriteIfExistsOrAdd));
    set.chain(edits.add.iter().map(|pair| option(pair, AppendIfExistsOrAdd)))
        .collect()
}

fn removals(edits: &HeaderEdits) -> Vec<String> {
    edits.remove.iter().map(ToString::to_string).collect()
}

fn retry_policy(policy: &RetryPolicy) -> Option<route::RetryPolicy> {
    if policy.attempts == 0 {
        return None;
    }
    let mut conditions: Vec<&str> = policy.conditions.iter().map(AsRef::as_ref).collect();
    if !policy.status_codes.is_empty() && !conditions.contains(&"retriable-status-codes") {
        conditions.push("retriable-status-codes");
    }
    let previous = RetryHostPredicate {
        name: PREVIOUS_HOSTS.to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate {},
        ))),
    };
    Some(route::RetryPolicy {
        retry_on: conditions.join(","),
        num_retries: Some(uint(policy.attempts)),
        per_try_timeout: policy.per_try_timeout.map(duration),
        retriable_status_codes: policy.status_codes.clone(),
        retry_back_off: policy.backoff.map(back_off),
        retry_host_predicate: policy
            .ignore_previous_hosts
            .then_some(previous)
            .into_iter()
            .collect(),
        host_selection_retry_max_attempts: if policy.ignore_previous_hosts {
            HOST_SELECTION_ATTEMPTS
        } else {
            0
        },
        ..route::RetryPolicy::default()
    })
}

fn back_off(base: Duration) -> RetryBackOff {
    // Envoy refuses an interval below a millisecond.
    let base = base.max(Duration::from_millis(1));
    RetryBackOff {
        base_interval: Some(duration(base)),
        max_interval: Some(duration(base * 10)),
    }
}

fn per_filter(forward: &HttpForward) -> HashMap<String, Any> {
    let mut configs = HashMap::new();
    if forward.delay.is_some() || forward.abort.is_some() {
        configs.insert(FAULT.to_owned(), any(&fault(forward)));
    }
    if let Some(cors) = &forward.cors {
        configs.insert(CORS.to_owned(), any(&cors_policy(cors)));
    }
    configs
}

fn fault(forward: &HttpForward) -> HttpFault {
    let delay = forward.delay.as_ref().map(|(fixed, part)| FaultDelay {
        percentage: Some(share(*part)),
        fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(duration(*fixed))),
    });
    let abort = forward.abort.as_ref().map(|(kind, part)| FaultAbort {
        percentage: Some(share(*part)),
        error_type: Some(match kind {
            Abort::Http(status) => fault_abort::ErrorType::HttpStatus(*status),
            Abort::Grpc(status) => fault_abort::ErrorType::GrpcStatus(*status),
        }),
        ..FaultAbort::default()
    });
    HttpFault {
        delay,
        abort,
        ..HttpFault::default()
    }
}

fn cors_policy(cors: &Cors) -> CorsPolicy {
    let any_origin = || StringMatcher {
        ignore_case: false,
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(safe_regex(".*"))),
    };
    CorsPolicy {
        allow_origin_string_match: cors
            .origins
            .iter()
            .map(|o| string_matcher(o).unwrap_or_else(any_origin))
            .collect(),
        allow_methods: cors.methods.join(","),
        allow_headers: cors.headers.join(","),
        expose_headers: cors.expose.join(","),
        max_age: cors
            .max_age
            .map(|age| age.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: cors.credentials.map(bool_value),
        forward_not_matching_preflights: Some(bool_value(cors.forward_unmatched)),
        ..CorsPolicy::default()
    }
}

fn redirection(redirect: &Redirect) -> route::RedirectAction {
    let code = match redirect.code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    route::RedirectAction {
        host_redirect: redirect.authority.as_deref().unwrap_or_default().to_owned(),
        port_redirect: redirect.port.map_or(0, u32::from),
        response_code: code as i32,
        scheme_rewrite_specifier: redirect
            .scheme
            .as_ref()
            .map(|s| SchemeRewriteSpecifier::SchemeRedirect(s.to_string())),
        path_rewrite_specifier: redirect.path.as_ref().map(|path| match path {
            PathRedirect::Full(path) => PathRewriteSpecifier::PathRedirect(path.to_string()),
            PathRedirect::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix.to_string()),
            PathRedirect::Regex(pattern, with) => {
                PathRewriteSpecifier::RegexRewrite(substitution(pattern, with))
            }
        }),
        ..route::RedirectAction::default()
    }
}

fn direct_response(status: u32, body: &[u8]) -> route::DirectResponseAction {
    let body = (!body.is_empty()).then(|| core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineBytes(body.to_vec())),
        ..core::DataSource::default()
    });
    route::DirectResponseAction {
        status,
        body,
        ..route::DirectResponseAction::default()
    }
}
