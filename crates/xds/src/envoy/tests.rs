use std::time::Duration;

use aquifer_core::http::action::Action;
use aquifer_core::http::cluster::{BalancePolicy, Transport, UpstreamHttp};
use aquifer_core::http::listener::{Binding, Chain, ListenerProtocol};
use aquifer_core::http::matching::SourceAttribute;
use proptest::prelude::*;
use prost::Name;

use super::pb::envoy::config::cluster::v3 as cluster_pb;
use super::pb::envoy::config::core::v3 as core_pb;
use super::pb::envoy::config::endpoint::v3 as endpoint_pb;
use super::pb::envoy::config::listener::v3 as listener_pb;
use super::pb::envoy::config::route::v3 as route_pb;
use super::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm_pb;
use super::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_pb;
use super::pb::envoy::r#type::matcher::v3 as matcher_pb;
use super::pb::google::protobuf as wkt;
use super::*;

fn any<M: Message + Name>(message: &M) -> wkt::Any {
    wkt::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

fn source_label(key: &str, value: &str) -> matcher_pb::MetadataMatcher {
    use matcher_pb::metadata_matcher::{PathSegment, path_segment::Segment};
    let text = matcher_pb::StringMatcher {
        match_pattern: Some(matcher_pb::string_matcher::MatchPattern::Exact(value.into())),
        ..Default::default()
    };
    matcher_pb::MetadataMatcher {
        filter: SOURCE_FILTER.into(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(key.into())),
        }],
        value: Some(matcher_pb::ValueMatcher {
            match_pattern: Some(matcher_pb::value_matcher::MatchPattern::StringMatch(text)),
        }),
        invert: false,
    }
}

fn route_to(cluster: &str) -> route_pb::Route {
    let action = route_pb::RouteAction {
        cluster_specifier: Some(route_pb::route_action::ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    route_pb::Route {
        r#match: Some(route_pb::RouteMatch {
            path_specifier: Some(route_pb::route_match::PathSpecifier::Prefix("/".into())),
            dynamic_metadata: vec![source_label("version", "v3")],
            ..Default::default()
        }),
        action: Some(route_pb::route::Action::Route(action)),
        ..Default::default()
    }
}

fn configuration(route: route_pb::Route) -> route_pb::RouteConfiguration {
    route_pb::RouteConfiguration {
        name: "r".into(),
        virtual_hosts: vec![route_pb::VirtualHost {
            name: "ratings".into(),
            domains: vec!["ratings".into()],
            routes: vec![route],
            ..Default::default()
        }],
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

#[test]
fn source_labels_become_conditions_on_the_source() {
    let table = RouteTable::from_wire(&configuration(route_to("c"))).unwrap();
    let route = &table.virtual_host("ratings:9080").unwrap().routes[0];
    assert_eq!(
        route.matches.source[0].attribute,
        SourceAttribute::Label("version".into())
    );
    let Action::Forward(forward) = &route.action else {
        panic!("forwards")
    };
    assert_eq!(forward.timeout, Some(Duration::from_secs(15)));
    assert_eq!(forward.retry, None);
}

/// Each change makes a resource that must be rejected, with the path of the field at fault.
#[test]
fn what_is_not_supported_is_refused_by_name() {
    let check = |change: &dyn Fn(&mut route_pb::Route), field: &str| {
        let mut route = route_to("c");
        change(&mut route);
        let error = RouteTable::from_wire(&configuration(route)).unwrap_err();
        let prefix = "virtual_hosts[ratings].routes[0].";
        assert_eq!(error.field.strip_prefix(prefix), Some(field), "{error}");
    };
    fn action(route: &mut route_pb::Route) -> &mut route_pb::RouteAction {
        match &mut route.action {
            Some(route_pb::route::Action::Route(action)) => action,
            _ => panic!("forwards"),
        }
    }
    check(&|r| r.action = None, "action");
    check(
        &|r| action(r).request_mirror_policies = vec![Default::default()],
        "route.request_mirror_policies",
    );
    check(&|r| action(r).cluster_specifier = None, "route.cluster_specifier");
    check(
        &|r| {
            action(r).retry_policy = Some(route_pb::RetryPolicy {
                retry_on: "x".into(),
                ..Default::default()
            })
        },
        "route.retry_policy.retry_on",
    );
    check(
        &|r| {
            action(r).timeout = Some(wkt::Duration {
                seconds: -1,
                nanos: 0,
            })
        },
        "route.timeout",
    );
    check(
        &|r| r.r#match.as_mut().unwrap().runtime_fraction = Some(Default::default()),
        "match.runtime_fraction",
    );
    check(
        &|r| r.r#match.as_mut().unwrap().dynamic_metadata[0].filter = "other".into(),
        "match.dynamic_metadata[0].filter",
    );
    check(
        &|r| {
            let regex = matcher_pb::RegexMatcher {
                regex: "(".into(),
                ..Default::default()
            };
            r.r#match.as_mut().unwrap().path_specifier =
                Some(route_pb::route_match::PathSpecifier::SafeRegex(regex));
        },
        "match.safe_regex",
    );
    check(
        &|r| {
            let header = core_pb::HeaderValue {
                key: "a".into(),
                value: "%REQ(b)%".into(),
                ..Default::default()
            };
            r.request_headers_to_add = vec![core_pb::HeaderValueOption {
                header: Some(header),
                ..Default::default()
            }];
        },
        "request_headers_to_add[0].header.value",
    );
    check(
        &|r| {
            r.typed_per_filter_config
                .insert("envoy.filters.http.rbac".into(), Default::default());
        },
        "typed_per_filter_config[envoy.filters.http.rbac]",
    );
}

fn address(ip: &str, port: u32) -> core_pb::Address {
    core_pb::Address {
        address: Some(core_pb::address::Address::SocketAddress(core_pb::SocketAddress {
            address: ip.into(),
            port_specifier: Some(core_pb::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    }
}

fn listener(filter: &str, config: wkt::Any) -> listener_pb::Listener {
    let filter = listener_pb::Filter {
        name: filter.into(),
        config_type: Some(listener_pb::filter::ConfigType::TypedConfig(config)),
    };
    listener_pb::Listener {
        name: "inbound-vip|9080|http|reviews".into(),
        address: Some(address("10.96.0.1", 9080)),
        additional_addresses: vec![listener_pb::AdditionalAddress {
            address: Some(address("fd00::1", 9080)),
            ..Default::default()
        }],
        bind_to_port: Some(wkt::BoolValue { value: false }),
        filter_chains: vec![listener_pb::FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn hcm() -> hcm_pb::HttpConnectionManager {
    hcm_pb::HttpConnectionManager {
        route_specifier: Some(hcm_pb::http_connection_manager::RouteSpecifier::Rds(
            hcm_pb::Rds {
                route_config_name: "routes".into(),
                ..Default::default()
            },
        )),
        http_filters: vec![hcm_pb::HttpFilter {
            name: "envoy.filters.http.router".into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn reads_http_and_tcp_listeners() {
    let http = listener("envoy.filters.network.http_connection_manager", any(&hcm()));
    let http = Listener::from_wire(&http).unwrap();
    assert_eq!((http.binding, http.addresses.len()), (Binding::Tunnel, 2));
    let unseen = |listener: &Listener| -> Chain { listener.chains.unseen().unwrap().clone() };
    assert!(matches!(unseen(&http).protocol, ListenerProtocol::Http(h) if &*h.routes == "routes" && !h.edge));
    let proxy = tcp_pb::TcpProxy {
        cluster_specifier: Some(tcp_pb::tcp_proxy::ClusterSpecifier::Cluster("c".into())),
        ..Default::default()
    };
    let tcp = Listener::from_wire(&listener("envoy.filters.network.tcp_proxy", any(&proxy))).unwrap();
    assert!(matches!(unseen(&tcp).protocol, ListenerProtocol::Tcp(_)));
}

#[test]
fn a_filter_that_would_be_skipped_rejects_its_listener() {
    let mut hcm = hcm();
    let rbac = hcm_pb::HttpFilter {
        name: "envoy.filters.http.rbac".into(),
        ..Default::default()
    };
    hcm.http_filters.insert(0, rbac);
    let wire = listener("envoy.filters.network.http_connection_manager", any(&hcm));
    let error = Listener::from_wire(&wire).unwrap_err();
    assert_eq!(
        error.field,
        "filter_chains[0].http_connection_manager.http_filters"
    );
}

#[test]
fn names_without_an_inspector_and_unknown_matches_are_refused() {
    let mut wire = listener("envoy.filters.network.http_connection_manager", any(&hcm()));
    let names = listener_pb::FilterChainMatch {
        server_names: vec!["a.org".into()],
        ..Default::default()
    };
    wire.filter_chains[0].filter_chain_match = Some(names.clone());
    assert_eq!(Listener::from_wire(&wire).unwrap_err().field, "listener_filters");
    wire.listener_filters = vec![listener_pb::ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".into(),
        ..Default::default()
    }];
    assert!(Listener::from_wire(&wire).is_ok());
    wire.filter_chains[0].filter_chain_match = Some(listener_pb::FilterChainMatch {
        application_protocols: vec!["h2".into()],
        ..names
    });
    assert_eq!(
        Listener::from_wire(&wire).unwrap_err().field,
        "filter_chains[0].filter_chain_match.application_protocols"
    );
}

#[test]
fn reads_clusters_and_refuses_what_it_would_not_do() {
    let mut cluster = cluster_pb::Cluster {
        name: "c".into(),
        lb_policy: cluster_pb::cluster::LbPolicy::LeastRequest as i32,
        cluster_discovery_type: Some(cluster_pb::cluster::ClusterDiscoveryType::Type(
            cluster_pb::cluster::DiscoveryType::Eds as i32,
        )),
        ..Default::default()
    };
    let model = Cluster::from_wire(&cluster).unwrap();
    assert_eq!(
        (model.balance, model.http),
        (BalancePolicy::LeastRequest, UpstreamHttp::AsDownstream)
    );
    assert_eq!(
        (&*model.service_name, model.connect_timeout),
        ("c", Duration::from_secs(5))
    );
    cluster.outlier_detection = Some(Default::default());
    assert_eq!(
        Cluster::from_wire(&cluster).unwrap_err().field,
        "outlier_detection"
    );
    cluster.outlier_detection = None;
    cluster.lb_policy = cluster_pb::cluster::LbPolicy::RingHash as i32;
    assert_eq!(Cluster::from_wire(&cluster).unwrap_err().field, "lb_policy");
}

fn assignment(metadata: &[(&str, &str)]) -> endpoint_pb::ClusterLoadAssignment {
    let text = |v: &str| wkt::Value {
        kind: Some(wkt::value::Kind::StringValue(v.into())),
    };
    let fields = metadata.iter().map(|(k, v)| ((*k).to_owned(), text(v))).collect();
    let endpoint = endpoint_pb::Endpoint {
        address: Some(address("10.244.1.5", 9080)),
        ..Default::default()
    };
    endpoint_pb::ClusterLoadAssignment {
        cluster_name: "c".into(),
        endpoints: vec![endpoint_pb::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint_pb::LbEndpoint {
                host_identifier: Some(endpoint_pb::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                metadata: Some(core_pb::Metadata {
                    filter_metadata: [(ENDPOINT_FILTER.to_owned(), wkt::Struct { fields })].into(),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn an_endpoint_says_how_it_is_reached() {
    let id = "spiffe://cluster.local/ns/bookinfo/sa/reviews";
    let hbone = assignment(&[("tunnel", "hbone"), ("identity", id), ("workload", "uid")]);
    let endpoints = Endpoints::from_wire(&hbone).unwrap();
    assert!(matches!(&endpoints.list[0].transport, Transport::Hbone(i) if i.as_str() == id));
    assert_eq!(
        (endpoints.list[0].weight, &*endpoints.list[0].workload),
        (1, "uid")
    );
    let plain = Endpoints::from_wire(&assignment(&[("tunnel", "none")])).unwrap();
    assert_eq!(plain.list[0].transport, Transport::Plaintext);
    for bad in [
        &[("tunnel", "hbone")][..],
        &[("tunnel", "x")],
        &[],
        &[("tunnel", "hbone"), ("identity", "x")],
    ] {
        assert!(Endpoints::from_wire(&assignment(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_resource_must_be_named_as_it_is_sent() {
    let update = |name: &str, value: Vec<u8>| Update {
        name: name.into(),
        version: String::new(),
        resource: prost_types::Any {
            type_url: String::new(),
            value,
        },
    };
    let bytes = configuration(route_to("c")).encode_to_vec();
    assert!(decode::<RouteTable>(&update("r", bytes.clone())).is_ok());
    assert_eq!(
        decode::<RouteTable>(&update("other", bytes)).unwrap_err().name,
        "other"
    );
    assert!(decode::<RouteTable>(&update("r", vec![0xff; 9])).is_err());
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any_byte(), 0..200)) {
        let update = Update {
            name: "n".into(),
            version: String::new(),
            resource: prost_types::Any { type_url: String::new(), value: bytes },
        };
        let _ = decode::<RouteTable>(&update);
        let _ = decode::<Listener>(&update);
        let _ = decode::<Cluster>(&update);
        let _ = decode::<Endpoints>(&update);
        let _ = decode::<Secret>(&update);
    }
}

/// Small values are tags and lengths that decode further than noise does.
fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![0u8..48, proptest::num::u8::ANY]
}
