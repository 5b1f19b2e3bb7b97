//! `Cluster` to the model.

use std::collections::HashMap;
use std::time::Duration;

use aquifer_core::http::cluster::{BalancePolicy, Cluster as Model, Names, UpstreamHttp};

use super::pb::envoy::config::cluster::v3::Cluster;
use super::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, LbConfig, LbPolicy,
};
use super::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use super::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use super::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use super::pb::google::protobuf::Any;
use super::pb::google::protobuf::value::Kind;
use super::text::not_empty;
use super::values::{limit, unpack};
use super::{FieldError, Result, fields};

/// Envoy's where a cluster says nothing.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn convert(cluster: &Cluster) -> Result<Model> {
    fields!(cluster => Cluster {
        read: [
            name, eds_cluster_config, connect_timeout, lb_policy, lb_config, cluster_discovery_type, common_lb_config,
            typed_extension_protocol_options, load_assignment, metadata,
        ],
        harmless: [
            alt_stat_name, stats_matcher, per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout, cleanup_interval, upstream_connection_options,
            track_timeout_budgets, track_cluster_stats, wait_for_warm_on_init, dns_lookup_family,
            ignore_health_on_host_removal, http_protocol_options, respect_dns_ttl, lrs_report_endpoint_metrics,
        ],
        refused: [
            transport_socket_matches, transport_socket_matcher, health_checks,
            max_requests_per_connection, circuit_breakers, upstream_http_protocol_options,
            common_http_protocol_options, http2_protocol_options, dns_refresh_rate, dns_jitter,
            dns_failure_refresh_rate, dns_resolvers, use_tcp_for_dns_lookups, dns_resolution_config,
            typed_dns_resolver_config, outlier_detection, upstream_bind_config, lb_subset_config, transport_socket,
            protocol_selection, close_connections_on_host_health_failure, filters, load_balancing_policy, lrs_server,
            upstream_config, preconnect_policy, connection_pool_per_downstream_connection, queuing_policies,
        ],
    });
    let names = names(cluster)?;
    only_plain_balancing(cluster)?;
    let service_name = cluster
        .eds_cluster_config
        .as_ref()
        .map_or("", |c| &c.service_name);
    let service_name = if service_name.is_empty() {
        &cluster.name
    } else {
        service_name
    };
    let timeout = limit("connect_timeout", cluster.connect_timeout.as_ref(), None)?;
    Ok(Model {
        name: not_empty("name", &cluster.name)?.into(),
        balance: balance(cluster.lb_policy)?,
        connect_timeout: timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        http: upstream_http(&cluster.typed_extension_protocol_options)?,
        service_name: service_name.into(),
        names,
    })
}

/// How endpoints are found: in resources of their own, or by names that are looked up.
fn names(cluster: &Cluster) -> Result<Option<Names>> {
    let kind = match cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).ok(),
        _ => None,
    };
    let first_only = match kind {
        Some(DiscoveryType::Eds) if cluster.load_assignment.is_none() => return Ok(None),
        Some(DiscoveryType::Eds) => return Err(FieldError::unsupported("load_assignment")),
        Some(DiscoveryType::StrictDns) => false,
        Some(DiscoveryType::LogicalDns) => true,
        _ => {
            return Err(FieldError::new(
                "type",
                "is none of EDS, STRICT_DNS and LOGICAL_DNS",
            ));
        }
    };
    let assignment = cluster.load_assignment.as_ref();
    let assignment = assignment.ok_or_else(|| FieldError::new("load_assignment", "is missing"))?;
    let list = super::endpoints::named(assignment).map_err(|e| e.within("load_assignment"))?;
    Ok(Some(Names {
        namespace: namespace(cluster).unwrap_or_default().into(),
        list,
        first_only,
    }))
}

/// The namespace of the service that the cluster leads to, where Istio says it.
fn namespace(cluster: &Cluster) -> Option<&str> {
    let istio = cluster.metadata.as_ref()?.filter_metadata.get("istio")?;
    let Kind::ListValue(services) = istio.fields.get("services")?.kind.as_ref()? else {
        return None;
    };
    let Kind::StructValue(first) = services.values.first()?.kind.as_ref()? else {
        return None;
    };
    match first.fields.get("namespace")?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}

fn only_plain_balancing(cluster: &Cluster) -> Result<()> {
    match &cluster.lb_config {
        None => {}
        Some(LbConfig::RoundRobinLbConfig(config)) if config.slow_start_config.is_none() => {}
        Some(LbConfig::LeastRequestLbConfig(config))
            if config.slow_start_config.is_none()
                && config.active_request_bias.is_none()
                && config.choice_count.is_none_or(|n| n.value == 2) => {}
        Some(_) => return Err(FieldError::unsupported("lb_config")),
    }
    cluster.common_lb_config.as_ref().map_or(Ok(()), common_lb)
}

/// Unhealthy endpoints are never used, whatever their share: a panic threshold of zero.
fn common_lb(config: &CommonLbConfig) -> Result<()> {
    fields!(config => CommonLbConfig {
        read: [healthy_panic_threshold],
        harmless: [update_merge_window, close_connections_on_host_set_change, ignore_new_hosts_until_first_hc],
        refused: [consistent_hashing_lb_config, override_host_status, locality_config_specifier],
    });
    if config.healthy_panic_threshold.is_some_and(|p| p.value != 0.0) {
        let reason = "is not 0; this proxy never uses unhealthy endpoints";
        return Err(FieldError::new(
            "common_lb_config.healthy_panic_threshold",
            reason,
        ));
    }
    Ok(())
}

fn balance(policy: i32) -> Result<BalancePolicy> {
    match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => Ok(BalancePolicy::RoundRobin),
        Ok(LbPolicy::LeastRequest) => Ok(BalancePolicy::LeastRequest),
        Ok(LbPolicy::Random) => Ok(BalancePolicy::Random),
        Ok(other) => Err(FieldError::new(
            "lb_policy",
            format!("{} is not supported", other.as_str_name()),
        )),
        Err(_) => Err(FieldError::new("lb_policy", "is unknown")),
    }
}

/// Nothing said: the client's version of HTTP, where Envoy would translate to HTTP/1.1. A mesh that adds no setting
/// should not take HTTP/2 away from a service that speaks it.
fn upstream_http(options: &HashMap<String, Any>) -> Result<UpstreamHttp> {
    let unknown = options.keys().find(|key| *key != HTTP_OPTIONS);
    if let Some(unknown) = unknown {
        return Err(FieldError::unsupported(format!(
            "typed_extension_protocol_options[{unknown}]"
        )));
    }
    let Some(any) = options.get(HTTP_OPTIONS) else {
        return Ok(UpstreamHttp::AsDownstream);
    };
    http_options(&unpack(HTTP_OPTIONS, any)?).map_err(|e| e.within(HTTP_OPTIONS))
}

fn http_options(options: &HttpProtocolOptions) -> Result<UpstreamHttp> {
    fields!(options => HttpProtocolOptions {
        read: [upstream_protocol_options],
        harmless: [common_http_protocol_options],
        refused: [
            upstream_http_protocol_options, http_filters, header_validation_config, outlier_detection,
            request_mirror_policies, hash_policy, retry_policy,
        ],
    });
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => match config.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => Ok(UpstreamHttp::Http1),
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Ok(UpstreamHttp::Http2),
            _ => Err(FieldError::unsupported("explicit_http_config")),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => Ok(UpstreamHttp::AsDownstream),
        Some(UpstreamProtocolOptions::AutoConfig(_)) => Err(FieldError::unsupported("auto_config")),
        None => Err(FieldError::new("upstream_protocol_options", "is missing")),
    }
}
