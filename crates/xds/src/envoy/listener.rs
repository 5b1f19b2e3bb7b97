//! `Listener` to the model.

use std::time::Duration;

use aquifer_core::http::action::{Destination, Destinations};
use aquifer_core::http::listener::{
    Binding, Chain, Chains, HttpListener, Listener as Model, ListenerProtocol, PathHandling, TcpListener,
};

use super::filters::{CORS, FAULT, ROUTER};
use super::matching::each;
use super::pb::envoy::config::listener::v3::filter::ConfigType;
use super::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter,
};
use super::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use super::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use super::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
};
use super::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use super::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use super::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use super::pb::google::protobuf::Any;
use super::text::not_empty;
use super::values::{flag, limit, socket_address, unpack};
use super::{FieldError, Result, fields, server_tls};

const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
/// Envoy's idle limits of a stream and of a TCP connection where nothing is said.
const DEFAULT_STREAM_IDLE: Duration = Duration::from_secs(300);
const DEFAULT_TCP_IDLE: Duration = Duration::from_secs(3600);

pub(super) fn convert(listener: &Listener) -> Result<Model> {
    fields!(listener => Listener {
        read: [name, address, additional_addresses, filter_chains, bind_to_port, listener_filters],
        harmless: [
            stat_prefix, stats_matcher, per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout, metadata, drain_type, listener_filters_timeout,
            continue_on_listener_filters_timeout, tcp_fast_open_queue_length, traffic_direction,
            connection_balance_config, reuse_port, enable_reuse_port, access_log, tcp_backlog_size,
            max_connections_to_accept_per_socket_event, enable_mptcp, ignore_global_conn_limit,
            bypass_overload_manager, tcp_keepalive,
        ],
        refused: [
            fcds_config, filter_chain_matcher, use_original_dst, default_filter_chain, deprecated_v1,
            transparent, freebind, socket_options, udp_listener_config, api_listener,
            listener_specifier,
        ],
    });
    let mut addresses = vec![socket_address("address", listener.address.as_ref())?];
    for more in &listener.additional_addresses {
        addresses.push(socket_address("additional_addresses", more.address.as_ref())?);
    }
    let chains = each("filter_chains", &listener.filter_chains, chain)?;
    let chains = Chains::new(chains).map_err(|e| FieldError::new("filter_chains", e))?;
    listener_filters(&listener.listener_filters, &chains)?;
    let bound = listener.bind_to_port.is_none_or(|b| b.value);
    Ok(Model {
        name: not_empty("name", &listener.name)?.into(),
        addresses,
        binding: if bound { Binding::Bound } else { Binding::Tunnel },
        chains,
    })
}

/// Only the inspector of TLS, and it where names are compared: without it Envoy would see none.
fn listener_filters(filters: &[ListenerFilter], chains: &Chains) -> Result<()> {
    let other = filters.iter().find(|f| f.name != TLS_INSPECTOR);
    if let Some(other) = other {
        let reason = format!("{:?} is not supported", other.name);
        return Err(FieldError::new("listener_filters", reason));
    }
    if filters.is_empty() && chains.iter().any(|c| !c.server_names.is_empty()) {
        let reason = format!("must have {TLS_INSPECTOR} where chains have server names");
        return Err(FieldError::new("listener_filters", reason));
    }
    Ok(())
}

fn chain(chain: &FilterChain) -> Result<Chain> {
    fields!(chain => FilterChain {
        read: [filters, filter_chain_match, transport_socket, name],
        harmless: [metadata, transport_socket_connect_timeout],
        refused: [use_proxy_proto],
    });
    let server_names = match &chain.filter_chain_match {
        Some(m) => server_names(m).map_err(|e| e.within("filter_chain_match"))?,
        None => Vec::new(),
    };
    Ok(Chain {
        name: chain.name.as_str().into(),
        server_names,
        tls: chain
            .transport_socket
            .as_ref()
            .map(server_tls::convert)
            .transpose()
            .map_err(|e| e.within("transport_socket"))?,
        protocol: protocol(chain)?,
    })
}

fn server_names(m: &FilterChainMatch) -> Result<Vec<std::sync::Arc<str>>> {
    fields!(m => FilterChainMatch {
        read: [server_names, transport_protocol],
        harmless: [],
        refused: [
            destination_port, prefix_ranges, address_suffix, suffix_len, direct_source_prefix_ranges, source_type,
            source_prefix_ranges, source_ports, application_protocols,
        ],
    });
    if !matches!(m.transport_protocol.as_str(), "" | "tls") {
        let reason = format!("{:?} is not supported, only \"tls\"", m.transport_protocol);
        return Err(FieldError::new("transport_protocol", reason));
    }
    Ok(m.server_names
        .iter()
        .map(|n| n.to_ascii_lowercase().into())
        .collect())
}

fn protocol(chain: &FilterChain) -> Result<ListenerProtocol> {
    let [filter] = chain.filters.as_slice() else {
        return Err(FieldError::new("filters", "must be exactly one"));
    };
    let config = typed_config(filter)?;
    match filter.name.as_str() {
        "envoy.filters.network.http_connection_manager" => http(&unpack("filters[0]", config)?)
            .map(ListenerProtocol::Http)
            .map_err(|e| e.within("http_connection_manager")),
        "envoy.filters.network.tcp_proxy" => tcp(&unpack("filters[0]", config)?)
            .map(ListenerProtocol::Tcp)
            .map_err(|e| e.within("tcp_proxy")),
        other => Err(FieldError::new(
            "filters[0].name",
            format!("{other:?} is not supported"),
        )),
    }
}

fn typed_config(filter: &Filter) -> Result<&Any> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(any),
        Some(ConfigType::ConfigDiscovery(_)) => Err(FieldError::unsupported("filters[0].config_discovery")),
        None => Err(FieldError::new("filters[0].typed_config", "is missing")),
    }
}

fn http(hcm: &HttpConnectionManager) -> Result<HttpListener> {
    fields!(hcm => HttpConnectionManager {
        read: [
            http_filters, stream_idle_timeout, use_remote_address, xff_num_trusted_hops, upgrade_configs,
            normalize_path, merge_slashes, route_specifier, forward_client_cert_details,
            set_current_client_cert_details,
        ],
        harmless: [
            codec_type, stat_prefix, tracing, common_http_protocol_options, http1_safe_max_connection_duration,
            http_protocol_options, http2_protocol_options, server_name, server_header_transformation,
            max_request_headers_kb, stream_flush_timeout, request_headers_timeout, drain_timeout,
            drain_timeout_jitter, delayed_close_timeout, access_log, access_log_flush_interval,
            flush_access_log_on_new_request, access_log_options, generate_request_id, preserve_external_request_id,
            proxy_100_continue, request_id_extension, internal_address_config,
        ],
        refused: [
            add_user_agent, http3_protocol_options, scheme_header_transformation, request_timeout,
            original_ip_detection_extensions, early_header_mutation_extensions, skip_xff_append, via,
            always_set_request_id_in_response, forward_client_cert_matcher, represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            path_with_escaped_slashes_action, local_reply_config, strip_matching_host_port,
            stream_error_on_invalid_http_message, path_normalization_options, strip_trailing_host_dot,
            proxy_status_config, typed_header_validation_config, append_x_forwarded_port, append_local_overload,
            add_proxy_protocol_connection_state, forward_proto_config, strip_port_mode,
        ],
    });
    http_filters(&hcm.http_filters)?;
    only_websocket(&hcm.upgrade_configs)?;
    Ok(HttpListener {
        routes: routes(hcm.route_specifier.as_ref())?.into(),
        path: PathHandling {
            normalize: flag(hcm.normalize_path.as_ref()),
            merge_slashes: hcm.merge_slashes,
        },
        edge: flag(hcm.use_remote_address.as_ref()),
        trusted_hops: hcm.xff_num_trusted_hops,
        forward_client_certificate: forward_client_certificate(hcm)?,
        stream_idle_timeout: limit(
            "stream_idle_timeout",
            hcm.stream_idle_timeout.as_ref(),
            Some(DEFAULT_STREAM_IDLE),
        )?,
    })
}

/// Nothing of the client's own header is believed, in both modes; what is told of the certificate is not negotiable.
fn forward_client_certificate(hcm: &HttpConnectionManager) -> Result<bool> {
    let told = hcm.set_current_client_cert_details.unwrap_or_default();
    fields!(&told => SetCurrentClientCertDetails {
        read: [subject, cert, dns, uri],
        harmless: [],
        refused: [chain, issuer, format],
    });
    match ForwardClientCertDetails::try_from(hcm.forward_client_cert_details) {
        Ok(ForwardClientCertDetails::Sanitize) => Ok(false),
        Ok(ForwardClientCertDetails::SanitizeSet)
            if flag(told.subject.as_ref()) && told.cert && told.dns && told.uri =>
        {
            Ok(true)
        }
        Ok(ForwardClientCertDetails::SanitizeSet) => {
            let reason = "must have subject, cert, dns and uri";
            Err(FieldError::new("set_current_client_cert_details", reason))
        }
        _ => Err(FieldError::unsupported("forward_client_cert_details")),
    }
}

fn routes(specifier: Option<&RouteSpecifier>) -> Result<&str> {
    match specifier {
        Some(RouteSpecifier::Rds(rds)) if !rds.route_config_name.is_empty() => Ok(&rds.route_config_name),
        Some(RouteSpecifier::Rds(_)) => Err(FieldError::new("rds.route_config_name", "is empty")),
        Some(RouteSpecifier::RouteConfig(_)) => Err(FieldError::unsupported("route_config")),
        Some(RouteSpecifier::ScopedRoutes(_)) => Err(FieldError::unsupported("scoped_routes")),
        None => Err(FieldError::new("rds", "is missing")),
    }
}

/// The router last; fault and CORS before it do something only where a route configures them.
fn http_filters(filters: &[HttpFilter]) -> Result<()> {
    let unknown = |f: &&HttpFilter| !f.is_optional && !matches!(f.name.as_str(), FAULT | CORS | ROUTER);
    if let Some(filter) = filters.iter().find(unknown) {
        return Err(FieldError::new(
            "http_filters",
            format!("{:?} is not supported", filter.name),
        ));
    }
    match filters.last() {
        Some(last) if last.name == ROUTER => Ok(()),
        _ => Err(FieldError::new("http_filters", format!("must end with {ROUTER}"))),
    }
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

fn tcp(proxy: &TcpProxy) -> Result<TcpListener> {
    fields!(proxy => TcpProxy {
        read: [cluster_specifier, idle_timeout],
        harmless: [
            stat_prefix, access_log, access_log_flush_interval, flush_access_log_on_connected, access_log_options,
            check_drain_close,
        ],
        refused: [
            on_demand, metadata_match, downstream_idle_timeout, upstream_idle_timeout, max_connect_attempts,
            backoff_options, hash_policy, tunneling_config, max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage, proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy, upstream_connect_mode, max_early_data_bytes,
        ],
    });
    let destinations = match &proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => Destinations::single(&not_empty("cluster", name)?),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            let list = each("weighted_clusters.clusters", &weighted.clusters, weighted_cluster)?;
            Destinations::new(list).map_err(|e| FieldError::new("weighted_clusters", e))?
        }
        _ => {
            return Err(FieldError::new(
                "cluster_specifier",
                "is neither cluster nor weighted_clusters",
            ));
        }
    };
    Ok(TcpListener {
        destinations,
        idle_timeout: limit(
            "idle_timeout",
            proxy.idle_timeout.as_ref(),
            Some(DEFAULT_TCP_IDLE),
        )?,
    })
}

fn weighted_cluster(cluster: &ClusterWeight) -> Result<Destination> {
    fields!(cluster => ClusterWeight { read: [name, weight], harmless: [], refused: [metadata_match] });
    Ok(Destination::to(
        &not_empty("name", &cluster.name)?,
        cluster.weight,
    ))
}
