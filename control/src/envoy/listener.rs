//! Listeners of waypoints and gateways.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aquifer_core::http::server_tls::ServerTls;
use aquifer_xds::envoy::pb::envoy::config::listener::v3 as listener;
use aquifer_xds::envoy::pb::envoy::extensions::filters::http::cors::v3::Cors;
use aquifer_xds::envoy::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use aquifer_xds::envoy::pb::envoy::extensions::filters::http::router::v3::Router;
use aquifer_xds::envoy::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use aquifer_xds::envoy::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use aquifer_xds::envoy::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use aquifer_xds::envoy::pb::google::protobuf::Any;
use hcm::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
};
use tcp::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};

use crate::envoy::action::{CORS, FAULT};
use crate::envoy::server_tls::transport_socket;
use crate::envoy::values::{ads, any, bool_value, socket, socket_address};

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
const ROUTER: &str = "envoy.filters.http.router";

/// What a listener does with its connections.
pub enum Handling {
    /// HTTP by the route table of that name.
    Http { routes: String, edge: bool },
    /// Connections to clusters by weight.
    Tcp { clusters: Vec<(String, u32)> },
}

/// One way of serving connections of a bound listener.
pub struct Chain {
    pub name: String,
    /// What a client may ask for in its TLS handshake; empty for everybody.
    pub server_names: Vec<String>,
    pub tls: Option<ServerTls>,
    pub handling: Handling,
}

/// A listener without a socket: the waypoint finds it by the authority of a tunnel.
pub fn virtual_listener(
    name: &str,
    addresses: &[SocketAddr],
    handling: &Handling,
) -> Option<listener::Listener> {
    let (first, more) = addresses.split_first()?;
    let additional = more.iter().map(|address| listener::AdditionalAddress {
        address: Some(socket_address(*address)),
        ..listener::AdditionalAddress::default()
    });
    Some(listener::Listener {
        name: name.to_owned(),
        address: Some(socket_address(*first)),
        additional_addresses: additional.collect(),
        bind_to_port: Some(bool_value(false)),
        filter_chains: vec![filter_chain(name, handling)],
        ..listener::Listener::default()
    })
}

/// A listener on every address of the pod, of both families.
pub fn bound_listener(name: &str, port: u16, chains: &[Chain]) -> listener::Listener {
    let looks = chains
        .iter()
        .any(|c| c.tls.is_some() || !c.server_names.is_empty());
    listener::Listener {
        name: name.to_owned(),
        address: Some(socket(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        additional_addresses: vec![listener::AdditionalAddress {
            address: Some(socket(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
            ..listener::AdditionalAddress::default()
        }],
        filter_chains: chains.iter().map(chain).collect(),
        listener_filters: looks.then(tls_inspector).into_iter().collect(),
        ..listener::Listener::default()
    }
}

fn tls_inspector() -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: TLS_INSPECTOR.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            &TlsInspector::default(),
        ))),
        ..listener::ListenerFilter::default()
    }
}

fn chain(chain: &Chain) -> listener::FilterChain {
    let names = (!chain.server_names.is_empty()).then(|| listener::FilterChainMatch {
        server_names: chain.server_names.clone(),
        ..listener::FilterChainMatch::default()
    });
    listener::FilterChain {
        name: chain.name.clone(),
        filter_chain_match: names,
        transport_socket: chain.tls.as_ref().map(transport_socket),
        ..filter_chain(&chain.name, &chain.handling)
    }
}

fn filter_chain(name: &str, handling: &Handling) -> listener::FilterChain {
    let (filter, config) = match handling {
        Handling::Http { routes, edge } => (HTTP_CONNECTION_MANAGER, any(&http(name, routes, *edge))),
        Handling::Tcp { clusters } => (TCP_PROXY, any(&tcp_proxy(name, clusters))),
    };
    let filter = listener::Filter {
        name: filter.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    };
    listener::FilterChain {
        filters: vec![filter],
        ..listener::FilterChain::default()
    }
}

fn http(name: &str, routes: &str, edge: bool) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: name.to_owned(),
        http_filters: vec![
            http_filter(CORS, any(&Cors {})),
            http_filter(FAULT, any(&HttpFault::default())),
            http_filter(ROUTER, any(&Router::default())),
        ],
        use_remote_address: Some(bool_value(edge)),
        // At the edge, services are told of a client's certificate what Istio's gateways tell.
        forward_client_cert_details: match edge {
            true => ForwardClientCertDetails::SanitizeSet.into(),
            false => ForwardClientCertDetails::Sanitize.into(),
        },
        set_current_client_cert_details: edge.then(|| SetCurrentClientCertDetails {
            subject: Some(bool_value(true)),
            cert: true,
            uri: true,
            dns: true,
            ..SetCurrentClientCertDetails::default()
        }),
        // Istio's default for paths (pathNormalization BASE).
        normalize_path: Some(bool_value(true)),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        ..hcm::HttpConnectionManager::default()
    }
}

fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..hcm::HttpFilter::default()
    }
}

fn tcp_proxy(name: &str, clusters: &[(String, u32)]) -> tcp::TcpProxy {
    let specifier = match clusters {
        [(only, _)] => ClusterSpecifier::Cluster(only.clone()),
        several => {
            let weights = several.iter().map(|(name, weight)| ClusterWeight {
                name: name.clone(),
                weight: *weight,
                ..ClusterWeight::default()
            });
            ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: weights.collect(),
            })
        }
    };
    tcp::TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(specifier),
        ..tcp::TcpProxy::default()
    }
}
