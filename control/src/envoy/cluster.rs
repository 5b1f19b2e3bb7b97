//! Clusters and their endpoints.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use aquifer_core::http::cluster::{NamedEndpoint, Names, Transport};
use aquifer_xds::envoy::ENDPOINT_FILTER;
use aquifer_xds::envoy::pb::envoy::config::cluster::v3 as cluster;
use aquifer_xds::envoy::pb::envoy::config::core::v3 as core;
use aquifer_xds::envoy::pb::envoy::config::endpoint::v3 as endpoint;
use aquifer_xds::envoy::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options,
};
use aquifer_xds::envoy::pb::google::protobuf::value::Kind;
use aquifer_xds::envoy::pb::google::protobuf::{Any, ListValue, Struct, Value};
use aquifer_xds::type_url;
use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy};
use http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};

use crate::envoy::values::{ads, any, duration, socket_address, text, uint};
use crate::envoy::{Named, resource, resource_by_content};
use crate::model::destination_rule::Balance;

/// Istio's default (`meshConfig.connectTimeout`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The version of HTTP that endpoints are spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    One,
    Two,
    AsClient,
}

pub fn cluster_resource(name: &str, balance: Balance, version: HttpVersion) -> Named {
    let message = cluster::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: name.to_owned(),
        }),
        ..common(name, balance, version)
    };
    resource(type_url::CLUSTER, name, &message)
}

/// A cluster whose endpoints the proxy looks up by their names, outside the mesh.
pub fn named_cluster_resource(name: &str, balance: Balance, version: HttpVersion, names: &Names) -> Named {
    let discovery = match names.first_only {
        true => DiscoveryType::LogicalDns,
        false => DiscoveryType::StrictDns,
    };
    let message = cluster::Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery as i32)),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: names.list.iter().map(named_endpoint).collect(),
                ..endpoint::LocalityLbEndpoints::default()
            }],
            ..endpoint::ClusterLoadAssignment::default()
        }),
        metadata: Some(of_namespace(&names.namespace)),
        ..common(name, balance, version)
    };
    resource(type_url::CLUSTER, name, &message)
}

/// In Istio's words. One field of each map: the encoding of a map with more is not the same each time.
fn of_namespace(namespace: &str) -> core::Metadata {
    let service = Struct {
        fields: HashMap::from([("namespace".to_owned(), text(namespace))]),
    };
    let services = ListValue {
        values: vec![Value {
            kind: Some(Kind::StructValue(service)),
        }],
    };
    let list = Value {
        kind: Some(Kind::ListValue(services)),
    };
    let fields = HashMap::from([("services".to_owned(), list)]);
    core::Metadata {
        filter_metadata: HashMap::from([("istio".to_owned(), Struct { fields })]),
        ..core::Metadata::default()
    }
}

fn common(name: &str, balance: Balance, version: HttpVersion) -> cluster::Cluster {
    let policy = match balance {
        Balance::LeastRequest => LbPolicy::LeastRequest,
        Balance::RoundRobin => LbPolicy::RoundRobin,
        Balance::Random => LbPolicy::Random,
    };
    cluster::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        lb_policy: policy as i32,
        typed_extension_protocol_options: upstream_options(version),
        ..cluster::Cluster::default()
    }
}

fn named_endpoint(named: &NamedEndpoint) -> endpoint::LbEndpoint {
    let socket = core::SocketAddress {
        address: named.host.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
            named.port,
        ))),
        ..core::SocketAddress::default()
    };
    let host = endpoint::Endpoint {
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(socket)),
        }),
        ..endpoint::Endpoint::default()
    };
    // One field: the encoding of a map with more is not the same each time.
    let fields = HashMap::from([("tunnel".to_owned(), text("outside"))]);
    endpoint::LbEndpoint {
        load_balancing_weight: Some(uint(named.weight)),
        metadata: Some(of_filter(fields)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
        ..endpoint::LbEndpoint::default()
    }
}

/// The waypoint takes no word for the client's own version.
fn upstream_options(version: HttpVersion) -> HashMap<String, Any> {
    let version = match version {
        HttpVersion::AsClient => return HashMap::new(),
        HttpVersion::One => ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()),
        HttpVersion::Two => ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default()),
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(version),
        })),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), any(&options))])
}

/// One endpoint, in the order in which it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    pub address: SocketAddr,
    pub healthy: bool,
    pub weight: u32,
    pub transport: Transport,
    pub workload: String,
}

pub fn endpoints_resource(name: &str, endpoints: &[EndpointSpec]) -> Named {
    let message = endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: endpoints.iter().map(lb_endpoint).collect(),
            ..endpoint::LocalityLbEndpoints::default()
        }],
        ..endpoint::ClusterLoadAssignment::default()
    };
    resource_by_content(
        type_url::ENDPOINTS,
        name,
        &message,
        format!("{name} {endpoints:?}").as_bytes(),
    )
}

fn lb_endpoint(spec: &EndpointSpec) -> endpoint::LbEndpoint {
    let health = if spec.healthy {
        core::HealthStatus::Healthy
    } else {
        core::HealthStatus::Unhealthy
    };
    let host = endpoint::Endpoint {
        address: Some(socket_address(spec.address)),
        ..endpoint::Endpoint::default()
    };
    endpoint::LbEndpoint {
        health_status: health as i32,
        load_balancing_weight: Some(uint(spec.weight)),
        metadata: Some(metadata(spec)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
    }
}

fn metadata(spec: &EndpointSpec) -> core::Metadata {
    let mut fields = HashMap::from([("workload".to_owned(), text(&spec.workload))]);
    let tunnel = match &spec.transport {
        Transport::Hbone(identity) => {
            fields.insert("identity".to_owned(), text(identity.as_str()));
            "hbone"
        }
        Transport::Plaintext => "none",
        Transport::Outside => "outside",
    };
    fields.insert("tunnel".to_owned(), text(tunnel));
    of_filter(fields)
}

fn of_filter(fields: HashMap<String, Value>) -> core::Metadata {
    core::Metadata {
        filter_metadata: HashMap::from([(ENDPOINT_FILTER.to_owned(), Struct { fields })]),
        ..core::Metadata::default()
    }
}
