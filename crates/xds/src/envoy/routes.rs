//! `RouteConfiguration` to a route table.

use std::sync::Arc;
use std::time::Duration;

use aquifer_core::http::action::{Action, Destination, Destinations, DirectResponse, Forward};
use aquifer_core::http::mutation::HeaderMutations;
use aquifer_core::http::retry::RetryPolicy as Retries;
use aquifer_core::http::rewrite::{HostRewrite, PathRewrite, Redirect, RedirectPath};
use aquifer_core::http::table::{HostPort, Route as Entry, RouteTable, VirtualHost as Host};
use http::HeaderName;

use super::filters::{PerRoute, per_route};
use super::headers::mutations;
use super::matching::each;
use super::pb::envoy::config::core::v3::DataSource;
use super::pb::envoy::config::core::v3::data_source::Specifier;
use super::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use super::pb::envoy::config::route::v3::route::Action as ActionKind;
use super::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration, UpgradeConfig,
};
use super::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;
use super::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use super::pb::envoy::config::route::v3::weighted_cluster::cluster_weight::HostRewriteSpecifier as WeightHostRewrite;
use super::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, Route, RouteAction, RouteConfiguration, VirtualHost,
    WeightedCluster,
};
use super::text::{not_empty, substitution};
use super::values::{limit, status};
use super::{FieldError, Result, fields, is_set, matching, retry};

/// Envoy's where a route says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy's default limit of a direct response's body, in bytes.
const MAX_BODY: usize = 4096;

pub(super) fn convert(config: &RouteConfiguration) -> Result<RouteTable> {
    fields!(config => RouteConfiguration {
        read: [
            name, virtual_hosts, response_headers_to_add, response_headers_to_remove, request_headers_to_add,
            request_headers_to_remove, ignore_port_in_host_matching, max_direct_response_body_size_bytes,
        ],
        harmless: [validate_clusters, metadata],
        refused: [
            vhds, internal_only_headers, most_specific_header_mutations_wins, cluster_specifier_plugins,
            request_mirror_policies, vhost_header, ignore_path_parameters_in_path_matching, typed_per_filter_config,
            route_specifiers,
        ],
    });
    let max_body = config
        .max_direct_response_body_size_bytes
        .map_or(MAX_BODY, |n| n.value as usize);
    let hosts = config.virtual_hosts.iter();
    let hosts =
        hosts.map(|h| virtual_host(h, max_body).map_err(|e| e.within(format!("virtual_hosts[{}]", h.name))));
    let port = if config.ignore_port_in_host_matching {
        HostPort::Ignored
    } else {
        HostPort::Compared
    };
    let mut table = RouteTable::new(&config.name, port, hosts.collect::<Result<_>>()?)
        .map_err(|e| FieldError::new("virtual_hosts", e))?;
    table.request_headers = mutations(
        "request_headers",
        &config.request_headers_to_add,
        &config.request_headers_to_remove,
    )?;
    table.response_headers = mutations(
        "response_headers",
        &config.response_headers_to_add,
        &config.response_headers_to_remove,
    )?;
    Ok(table)
}

fn virtual_host(host: &VirtualHost, max_body: usize) -> Result<Host> {
    fields!(host => VirtualHost {
        read: [
            name, domains, routes, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
            response_headers_to_remove, typed_per_filter_config, include_request_attempt_count, retry_policy,
            require_tls,
        ],
        harmless: [virtual_clusters, per_request_buffer_limit_bytes, request_body_buffer_limit, metadata],
        refused: [
            matcher, rate_limits, cors, include_attempt_count_in_response, retry_policy_typed_config,
            hedge_policy, include_is_timeout_retry_header, request_mirror_policies, route_specifiers,
        ],
    });
    let outer = Outer {
        filters: per_route(&host.typed_per_filter_config)?,
        retry: host
            .retry_policy
            .as_ref()
            .map(retry::convert)
            .transpose()?
            .flatten(),
        max_body,
    };
    Ok(Host {
        name: host.name.as_str().into(),
        domains: host.domains.iter().map(|d| d.as_str().into()).collect(),
        routes: host
            .routes
            .iter()
            .enumerate()
            .map(|(i, r)| route(r, &outer).map_err(|e| e.within(format!("routes[{}]", label(i, &r.name)))))
            .collect::<Result<_>>()?,
        request_headers: mutations(
            "request_headers",
            &host.request_headers_to_add,
            &host.request_headers_to_remove,
        )?,
        response_headers: mutations(
            "response_headers",
            &host.response_headers_to_add,
            &host.response_headers_to_remove,
        )?,
        attempt_count: host.include_request_attempt_count,
        https_only: https_only(host.require_tls)?,
    })
}

fn https_only(requirement: i32) -> Result<bool> {
    match TlsRequirementType::try_from(requirement) {
        Ok(TlsRequirementType::None) => Ok(false),
        Ok(TlsRequirementType::All) => Ok(true),
        _ => Err(FieldError::new("require_tls", "is neither NONE nor ALL")),
    }
}

fn label(index: usize, name: &str) -> String {
    if name.is_empty() {
        index.to_string()
    } else {
        format!("{index} {name}")
    }
}

/// What a virtual host says for all of its routes.
struct Outer {
    filters: PerRoute,
    retry: Option<Retries>,
    max_body: usize,
}

fn route(route: &Route, outer: &Outer) -> Result<Entry> {
    fields!(route => Route {
        read: [
            name, r#match, action, typed_per_filter_config, request_headers_to_add, request_headers_to_remove,
            response_headers_to_add, response_headers_to_remove,
        ],
        harmless: [
            metadata, decorator, tracing, per_request_buffer_limit_bytes, stat_prefix, request_body_buffer_limit,
        ],
        refused: [route_specifiers],
    });
    let conditions = route
        .r#match
        .as_ref()
        .ok_or_else(|| FieldError::new("match", "is missing"))?;
    let filters = per_route(&route.typed_per_filter_config)?.or(&outer.filters);
    Ok(Entry {
        name: route.name.as_str().into(),
        matches: matching::convert(conditions).map_err(|e| e.within("match"))?,
        action: action(route.action.as_ref(), outer)?,
        request_headers: mutations(
            "request_headers",
            &route.request_headers_to_add,
            &route.request_headers_to_remove,
        )?,
        response_headers: mutations(
            "response_headers",
            &route.response_headers_to_add,
            &route.response_headers_to_remove,
        )?,
        fault: filters.fault,
        cors: filters.cors,
    })
}

fn action(action: Option<&ActionKind>, outer: &Outer) -> Result<Action> {
    match action {
        Some(ActionKind::Route(route)) => forward(route, outer)
            .map(Action::Forward)
            .map_err(|e| e.within("route")),
        Some(ActionKind::Redirect(to)) => redirect(to)
            .map(Action::Redirect)
            .map_err(|e| e.within("redirect")),
        Some(ActionKind::DirectResponse(direct)) => direct_response(direct, outer.max_body)
            .map(Action::DirectResponse)
            .map_err(|e| e.within("direct_response")),
        Some(ActionKind::FilterAction(_)) => Err(FieldError::unsupported("filter_action")),
        Some(ActionKind::NonForwardingAction(_)) => Err(FieldError::unsupported("non_forwarding_action")),
        None => Err(FieldError::new("action", "is missing")),
    }
}

fn forward(action: &RouteAction, outer: &Outer) -> Result<Forward> {
    fields!(action => RouteAction {
        read: [
            cluster_not_found_response_code, prefix_rewrite, regex_rewrite, append_x_forwarded_host, timeout,
            idle_timeout, retry_policy, upgrade_configs, max_stream_duration, cluster_specifier,
            host_rewrite_specifier,
        ],
        // A hash matters only to ring-hash and maglev clusters, and those are refused; without circuit breakers
        // both priorities are the same.
        harmless: [hash_policy, priority, flush_timeout],
        refused: [
            metadata_match, path_rewrite_policy, path_rewrite, early_data_policy, retry_policy_typed_config,
            request_mirror_policies, rate_limits, include_vh_rate_limits, cors, max_grpc_timeout, grpc_timeout_offset,
            internal_redirect_policy, internal_redirect_action, max_internal_redirects, hedge_policy,
        ],
    });
    only_websocket(&action.upgrade_configs)?;
    only_unlimited(action.max_stream_duration.as_ref())?;
    let retry = match &action.retry_policy {
        Some(policy) => retry::convert(policy).map_err(|e| e.within("retry_policy"))?,
        None => outer.retry.clone(),
    };
    Ok(Forward {
        destinations: destinations(action.cluster_specifier.as_ref())?,
        timeout: limit("timeout", action.timeout.as_ref(), Some(DEFAULT_TIMEOUT))?,
        idle_timeout: limit("idle_timeout", action.idle_timeout.as_ref(), None)?,
        retry,
        path_rewrite: path_rewrite(action)?,
        host_rewrite: host_rewrite(action.host_rewrite_specifier.as_ref())?,
        append_forwarded_host: action.append_x_forwarded_host,
        cluster_not_found: not_found(action.cluster_not_found_response_code)?,
    })
}

fn only_websocket(upgrades: &[UpgradeConfig]) -> Result<()> {
    let other = upgrades
        .iter()
        .find(|u| !u.upgrade_type.eq_ignore_ascii_case("websocket"));
    match other {
        Some(other) => {
            let reason = format!(
                "upgrade {:?} is not supported, only websocket",
                other.upgrade_type
            );
            Err(FieldError::new("upgrade_configs", reason))
        }
        None => Ok(()),
    }
}

/// Istio writes zeros everywhere: no limit, and no attention to `grpc-timeout`.
fn only_unlimited(duration: Option<&MaxStreamDuration>) -> Result<()> {
    let Some(duration) = duration else {
        return Ok(());
    };
    let limits = [
        &duration.max_stream_duration,
        &duration.grpc_timeout_header_max,
        &duration.grpc_timeout_header_offset,
    ];
    if limits.into_iter().flatten().any(is_set) {
        return Err(FieldError::new(
            "max_stream_duration",
            "is a limit, which is not supported; use timeout",
        ));
    }
    Ok(())
}

fn not_found(code: i32) -> Result<u16> {
    match ClusterNotFoundResponseCode::try_from(code) {
        Ok(ClusterNotFoundResponseCode::ServiceUnavailable) => Ok(503),
        Ok(ClusterNotFoundResponseCode::NotFound) => Ok(404),
        Ok(ClusterNotFoundResponseCode::InternalServerError) => Ok(500),
        Err(_) => Err(FieldError::new("cluster_not_found_response_code", "is unknown")),
    }
}

fn destinations(specifier: Option<&ClusterSpecifier>) -> Result<Destinations> {
    match specifier {
        Some(ClusterSpecifier::Cluster(name)) => Ok(Destinations::single(&not_empty("cluster", name)?)),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(weighted).map_err(|e| e.within("weighted_clusters"))
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => Err(FieldError::unsupported("cluster_header")),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
            Err(FieldError::unsupported("cluster_specifier_plugin"))
        }
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            Err(FieldError::unsupported("inline_cluster_specifier_plugin"))
        }
        None => Err(FieldError::new("cluster_specifier", "is missing")),
    }
}

fn weighted_clusters(weighted: &WeightedCluster) -> Result<Destinations> {
    // The total is what the weights add up to; the field that once said so is obsolete in Envoy too.
    fields!(weighted => WeightedCluster {
        read: [clusters],
        harmless: [total_weight, runtime_key_prefix],
        refused: [random_value_specifier],
    });
    let list = each("clusters", &weighted.clusters, destination)?;
    Destinations::new(list).map_err(|e| FieldError::new("clusters", e))
}

fn destination(cluster: &ClusterWeight) -> Result<Destination> {
    fields!(cluster => ClusterWeight {
        read: [
            name, weight, request_headers_to_add, request_headers_to_remove, response_headers_to_add,
            response_headers_to_remove, host_rewrite_specifier,
        ],
        harmless: [],
        refused: [cluster_header, metadata_match, typed_per_filter_config],
    });
    let rewrite = cluster.host_rewrite_specifier.as_ref();
    Ok(Destination {
        cluster: Arc::from(not_empty("name", &cluster.name)?),
        weight: cluster.weight.map_or(0, |w| w.value),
        request_headers: mutations(
            "request_headers",
            &cluster.request_headers_to_add,
            &cluster.request_headers_to_remove,
        )?,
        response_headers: response_mutations(cluster)?,
        host_rewrite: rewrite
            .map(|WeightHostRewrite::HostRewriteLiteral(host)| HostRewrite::Literal(host.as_str().into())),
    })
}

fn response_mutations(cluster: &ClusterWeight) -> Result<HeaderMutations> {
    mutations(
        "response_headers",
        &cluster.response_headers_to_add,
        &cluster.response_headers_to_remove,
    )
}

fn path_rewrite(action: &RouteAction) -> Result<Option<PathRewrite>> {
    match (action.prefix_rewrite.as_str(), &action.regex_rewrite) {
        ("", None) => Ok(None),
        (prefix, None) => Ok(Some(PathRewrite::Prefix(prefix.into()))),
        ("", Some(regex)) => Ok(Some(substitution("regex_rewrite", regex)?)),
        (_, Some(_)) => Err(FieldError::new(
            "regex_rewrite",
            "and prefix_rewrite are both set; only one may be",
        )),
    }
}

fn host_rewrite(specifier: Option<&HostRewriteSpecifier>) -> Result<Option<HostRewrite>> {
    match specifier {
        None => Ok(None),
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Ok(Some(HostRewrite::Literal(host.as_str().into())))
        }
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => HeaderName::from_bytes(name.as_bytes())
            .map(|name| Some(HostRewrite::Header(name)))
            .map_err(|_| FieldError::new("host_rewrite_header", "is not a header name")),
        Some(HostRewriteSpecifier::AutoHostRewrite(flag)) if !flag.value => Ok(None),
        Some(HostRewriteSpecifier::AutoHostRewrite(_)) => Err(FieldError::unsupported("auto_host_rewrite")),
        Some(HostRewriteSpecifier::HostRewritePathRegex(_)) => {
            Err(FieldError::unsupported("host_rewrite_path_regex"))
        }
        Some(HostRewriteSpecifier::HostRewrite(_)) => Err(FieldError::unsupported("host_rewrite")),
    }
}

fn redirect(action: &RedirectAction) -> Result<Redirect> {
    fields!(action => RedirectAction {
        read: [
            host_redirect, port_redirect, response_code, strip_query, scheme_rewrite_specifier, path_rewrite_specifier,
        ],
        harmless: [],
        refused: [],
    });
    let port = u16::try_from(action.port_redirect)
        .map_err(|_| FieldError::new("port_redirect", "is above 65535"))?;
    Ok(Redirect {
        scheme: match &action.scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.as_str().into()),
            Some(SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        },
        host: (!action.host_redirect.is_empty()).then(|| action.host_redirect.as_str().into()),
        port: (port != 0).then_some(port),
        path: redirect_path(action.path_rewrite_specifier.as_ref())?,
        strip_query: action.strip_query,
        status: redirect_status(action.response_code)?,
    })
}

fn redirect_path(specifier: Option<&PathRewriteSpecifier>) -> Result<RedirectPath> {
    match specifier {
        None => Ok(RedirectPath::Keep),
        Some(PathRewriteSpecifier::PathRedirect(path)) if path.is_empty() => Ok(RedirectPath::Keep),
        Some(PathRewriteSpecifier::PathRedirect(path)) => Ok(RedirectPath::Replace(path.as_str().into())),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            Ok(RedirectPath::Rewrite(PathRewrite::Prefix(prefix.as_str().into())))
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            Ok(RedirectPath::Rewrite(substitution("regex_rewrite", regex)?))
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => Err(FieldError::unsupported("path_rewrite")),
    }
}

fn redirect_status(code: i32) -> Result<u16> {
    match RedirectResponseCode::try_from(code) {
        Ok(RedirectResponseCode::MovedPermanently) => Ok(301),
        Ok(RedirectResponseCode::Found) => Ok(302),
        Ok(RedirectResponseCode::SeeOther) => Ok(303),
        Ok(RedirectResponseCode::TemporaryRedirect) => Ok(307),
        Ok(RedirectResponseCode::PermanentRedirect) => Ok(308),
        Err(_) => Err(FieldError::new("response_code", "is unknown")),
    }
}

fn direct_response(action: &DirectResponseAction, max_body: usize) -> Result<DirectResponse> {
    fields!(action => DirectResponseAction { read: [status, body], harmless: [], refused: [body_format] });
    let body = action
        .body
        .as_ref()
        .map_or_else(|| Ok(Arc::from(&b""[..])), body)?;
    if body.len() > max_body {
        return Err(FieldError::new(
            "body",
            format!("is longer than {max_body} bytes"),
        ));
    }
    Ok(DirectResponse {
        status: status("status", action.status, 200..600)?,
        body,
    })
}

fn body(source: &DataSource) -> Result<Arc<[u8]>> {
    match &source.specifier {
        Some(Specifier::InlineString(text)) => Ok(text.as_bytes().into()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.as_slice().into()),
        Some(Specifier::Filename(_)) => Err(FieldError::unsupported("body.filename")),
        Some(Specifier::EnvironmentVariable(_)) => Err(FieldError::unsupported("body.environment_variable")),
        None => Ok(Arc::from(&b""[..])),
    }
}
