use std::collections::BTreeMap;

use aquifer_core::address::NetworkAddress;
use aquifer_core::identity::{SpiffeId, TrustDomain};
use aquifer_core::names::NamespacedHostname;
use aquifer_core::policy::{Action, Group, Match, Rule, Scope, ServiceAccountMatch, StringMatch};
use aquifer_core::service::{AppProtocol, BalanceMode, BalanceScope, LoadBalancing, PortMapping};
use aquifer_core::workload::{
    GatewayAddress, GatewayDestination, Health, TunnelProtocol, WorkloadType, WorkloadUid,
};
use proptest::prelude::*;

use super::*;

fn mapping() -> PortMapping {
    PortMapping {
        service_port: 80,
        target_port: 9080,
        protocol: AppProtocol::Http11,
    }
}

fn waypoint() -> GatewayAddress {
    GatewayAddress {
        destination: GatewayDestination::Hostname(NamespacedHostname::new(
            "bookinfo",
            "waypoint.bookinfo.svc",
        )),
        hbone_port: 15008,
    }
}

fn full_workload() -> Workload {
    Workload {
        name: "reviews-v1".into(),
        namespace: "bookinfo".into(),
        network: "net1".into(),
        addresses: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        hostname: "db.example.com".into(),
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        service_account: "reviews".into(),
        tunnel: TunnelProtocol::Hbone,
        native_tunnel: true,
        waypoint: Some(waypoint()),
        node: "node-1".into(),
        canonical_name: "reviews".into(),
        canonical_revision: "v1".into(),
        workload_type: WorkloadType::CronJob,
        workload_name: "reviews-v1".into(),
        cluster: "east".into(),
        health: Health::Unhealthy,
        policies: vec!["bookinfo/deny".into()],
        services: [(
            NamespacedHostname::new("bookinfo", "reviews.bookinfo.svc"),
            vec![mapping()],
        )]
        .into(),
        capacity: 0,
        host_network: true,
        region: "r".into(),
        zone: "z".into(),
        labels: [("app".into(), "reviews".into()), ("version".into(), "".into())].into(),
        ..Workload::empty(WorkloadUid::pod("east", "bookinfo", "reviews-v1"))
    }
}

fn full_service() -> Service {
    Service {
        name: "reviews".into(),
        namespace: "bookinfo".into(),
        hostname: "reviews.bookinfo.svc.cluster.local".into(),
        vips: vec![NetworkAddress::new(&"net1".into(), "10.96.0.7".parse().unwrap())],
        ports: vec![mapping()],
        subject_alt_names: vec![SpiffeId::parse("spiffe://example.org/ns/a/sa/b").unwrap()],
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Address("fd00::9".parse().unwrap()),
            hbone_port: 15009,
        }),
        load_balancing: LoadBalancing {
            mode: BalanceMode::Failover,
            preference: vec![BalanceScope::Zone, BalanceScope::Node],
            allow_unhealthy: true,
        },
        canonical: true,
        ingress_use_waypoint: true,
        namespace_only: true,
    }
}

fn full_policy() -> Authorization {
    let account = ServiceAccountMatch {
        namespace: "a".into(),
        service_account: "b".into(),
    };
    let one = Match {
        namespaces: vec![StringMatch::Exact("a".into()), StringMatch::Prefix("b".into())],
        not_namespaces: vec![StringMatch::Suffix("c".into())],
        service_accounts: vec![account.clone()],
        not_service_accounts: vec![account],
        principals: vec![StringMatch::Presence],
        not_principals: vec![StringMatch::Exact("td/ns/x/sa/y".into())],
        source_ips: vec!["10.0.0.0/8".parse().unwrap()],
        not_source_ips: vec!["fd00::/64".parse().unwrap()],
        destination_ips: vec!["10.1.0.1/32".parse().unwrap()],
        not_destination_ips: vec!["0.0.0.0/0".parse().unwrap()],
        destination_ports: vec![80, 65535],
        not_destination_ports: vec![0],
    };
    Authorization {
        name: "p".into(),
        namespace: "bookinfo".into(),
        scope: Scope::WorkloadSelector,
        action: Action::Deny,
        groups: vec![
            Group {
                rules: vec![
                    Rule {
                        matches: vec![one, Match::default()],
                    },
                    Rule::default(),
                ],
            },
            Group::default(),
        ],
        dry_run: true,
    }
}

fn update(name: &str, resource: Any) -> Update {
    Update {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource,
    }
}

#[test]
fn addresses_round_trip_with_every_field() {
    for address in [
        Address::Workload(full_workload().into()),
        Address::Service(full_service().into()),
    ] {
        let sent = update(&address.resource_name(), address.to_any());
        assert_eq!(Address::decode(&sent).unwrap(), address);
    }
}

#[test]
fn policies_round_trip_with_every_field() {
    let policy = full_policy();
    let sent = update("bookinfo/p", authorization_to_any(&policy));
    assert_eq!(decode_authorization(&sent).unwrap(), policy);
}

#[test]
fn empty_fields_mean_istios_defaults() {
    let wire = pb::Workload {
        uid: "u".into(),
        ..Default::default()
    };
    let workload = workload_from_pb(wire).unwrap();
    assert_eq!(workload, Workload::empty(WorkloadUid::new("u")));
    assert_eq!(workload.capacity, 1);
    assert_eq!(&*workload.cluster, "Kubernetes");
    assert_eq!(&*workload.service_account, "default");
}

#[test]
fn rejects_bad_workloads_with_the_field_named() {
    let check = |change: fn(&mut pb::Workload), field: &str| {
        let mut wire = workload_to_pb(&full_workload());
        change(&mut wire);
        let error = workload_from_pb(wire).unwrap_err().to_string();
        assert!(error.contains(field), "{field} is not in {error:?}");
    };
    check(|w| w.uid.clear(), "uid");
    check(
        |w| w.addresses.push(bytes::Bytes::from_static(&[1, 2, 3])),
        "4 or 16 bytes, not 3",
    );
    check(
        |w| w.tunnel_protocol = pb::TunnelProtocol::LegacyIstioMtls.into(),
        "LEGACY_ISTIO_MTLS",
    );
    check(|w| w.tunnel_protocol = 77, "tunnel_protocol");
    check(|w| w.status = -1, "status");
    check(|w| w.network_mode = 9, "network_mode");
    check(|w| w.trust_domain = "Not A Domain".into(), "trust_domain");
    check(|w| w.service_account = "a/b".into(), "service_account");
    check(|w| w.waypoint = Some(pb::GatewayAddress::default()), "waypoint");
    check(
        |w| w.waypoint.as_mut().unwrap().hbone_mtls_port = 70_000,
        "waypoint",
    );
    check(
        |w| _ = w.services.insert("nohost".into(), pb::PortList::default()),
        "services",
    );
    check(
        |w| w.services.values_mut().next().unwrap().ports[0].target_port = 65_536,
        "services",
    );
    check(
        |w| w.network_gateway = Some(pb::GatewayAddress::default()),
        "network_gateway",
    );
    check(
        |w| w.application_tunnel = Some(pb::ApplicationTunnel { protocol: 1, port: 1 }),
        "application_tunnel",
    );
    check(|w| w.extensions[0].config = None, "extensions");
    check(
        |w| w.extensions[0].config.as_mut().unwrap().value = vec![0xff],
        "Struct",
    );
    check(
        |w| w.extensions[0].config.as_mut().unwrap().type_url.clear(),
        "extensions",
    );
}

#[test]
fn other_extensions_of_a_workload_are_skipped() {
    let mut wire = workload_to_pb(&full_workload());
    wire.extensions.insert(
        0,
        pb::Extension {
            name: "other".into(),
            config: None,
        },
    );
    assert_eq!(workload_from_pb(wire).unwrap(), full_workload());
}

#[test]
fn rejects_bad_services_with_the_field_named() {
    let check = |change: fn(&mut pb::Service), field: &str| {
        let mut wire = service_to_pb(&full_service());
        change(&mut wire);
        let error = service_from_pb(wire).unwrap_err().to_string();
        assert!(error.contains(field), "{field} is not in {error:?}");
    };
    check(|s| s.hostname.clear(), "hostname");
    check(|s| s.namespace.clear(), "hostname");
    check(|s| s.addresses[0].address = bytes::Bytes::new(), "addresses");
    check(|s| s.addresses[0].length = Some(24), "range");
    check(|s| s.ports[0].service_port = 0, "ports");
    check(
        |s| s.subject_alt_names[0] = "spiffe://x".into(),
        "subject_alt_names",
    );
    check(
        |s| s.load_balancing.as_mut().unwrap().mode = 9,
        "load_balancing.mode",
    );
    check(
        |s| s.load_balancing.as_mut().unwrap().routing_preference[0] = 0,
        "routing_preference",
    );
    check(
        |s| s.weighted_waypoints.push(pb::WeightedWaypoint::default()),
        "weighted_waypoints",
    );
    check(|s| s.visibility = 2, "visibility");
}

#[test]
fn names_that_are_no_identities_are_not_accepted_as_one() {
    let mut wire = service_to_pb(&full_service());
    wire.subject_alt_names.push("db.example.com".into());
    assert_eq!(service_from_pb(wire).unwrap(), full_service());
}

#[test]
fn rejects_policies_that_could_only_be_applied_in_part() {
    let check = |change: fn(&mut security::Authorization), field: &str| {
        let mut wire = authorization_to_pb(&full_policy());
        change(&mut wire);
        let error = authorization_from_pb(wire).unwrap_err().to_string();
        assert!(error.contains(field), "{field} is not in {error:?}");
    };
    fn first(policy: &mut security::Authorization) -> &mut security::Match {
        &mut policy.groups[0].rules[0].matches[0]
    }
    check(|p| p.name.clear(), "name");
    check(|p| p.action = 2, "action");
    check(|p| p.scope = 3, "scope");
    check(|p| first(p).namespaces[0].match_type = None, "namespaces");
    check(|p| first(p).source_ips[0].length = 33, "source_ips");
    check(|p| first(p).source_ips[0].length = u32::MAX, "source_ips");
    check(
        |p| first(p).not_destination_ips[0].address = bytes::Bytes::from_static(b"x"),
        "not_destination_ips",
    );
    check(|p| first(p).destination_ports[0] = 65_536, "destination_ports");
    check(
        |p| {
            first(p).extensions.push(pb::Extension {
                name: "l7".into(),
                config: None,
            })
        },
        "l7",
    );
    check(|p| p.extensions.push(pb::Extension::default()), "extensions");
}

#[test]
fn mapped_ipv4_is_ipv4() {
    let range = security::Address {
        address: bytes::Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 0]),
        length: 104,
    };
    let mut wire = authorization_to_pb(&full_policy());
    wire.groups[0].rules[0].matches[0].source_ips = vec![range];
    let policy = authorization_from_pb(wire).unwrap();
    assert_eq!(
        policy.groups[0].rules[0].matches[0].source_ips,
        ["10.0.0.0/8".parse().unwrap()]
    );
}

#[test]
fn content_under_another_name_is_rejected() {
    let workload = Address::Workload(full_workload().into());
    let error = Address::decode(&update("east//Pod/bookinfo/other", workload.to_any())).unwrap_err();
    assert_eq!(error.name, "east//Pod/bookinfo/other");
    assert!(error.reason.contains("reviews-v1"), "{error}");
}

#[test]
fn decodes_bytes_as_istiod_writes_them() {
    // uid (20) and one address (3) by hand: field numbers are the contract, not our encoder.
    let mut workload = vec![0xa2, 0x01, 3, b'u', b'/', b'1', 0x1a, 4, 10, 0, 0, 1];
    // services (22): map entry { key "n/h", PortList { Port { 80, 8080, HTTP2 } } }
    workload.extend([
        0xb2, 0x01, 16, 0x0a, 3, b'n', b'/', b'h', 0x12, 9, 0x0a, 7, 0x08, 80, 0x10, 0x90, 0x3f, 0x18, 2,
    ]);
    let mut bytes = vec![0x0a, u8::try_from(workload.len()).unwrap()];
    bytes.extend(workload);
    let any = Any {
        type_url: type_url::ADDRESS.into(),
        value: bytes,
    };
    let Address::Workload(decoded) = Address::decode(&update("u/1", any)).unwrap() else {
        panic!("not a workload")
    };
    assert_eq!(
        decoded.addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    let want = PortMapping {
        service_port: 80,
        target_port: 8080,
        protocol: AppProtocol::Http2,
    };
    assert_eq!(
        decoded.services,
        BTreeMap::from([(NamespacedHostname::new("n", "h"), vec![want])])
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
        let address = update("x", Any { type_url: type_url::ADDRESS.into(), value: value.clone() });
        let _ = Address::decode(&address);
        let policy = update("x", Any { type_url: type_url::AUTHORIZATION.into(), value });
        let _ = decode_authorization(&policy);
    }

    #[test]
    fn damaged_resources_never_panic(at in 0usize..400, byte in any::<u8>(), which in 0..3) {
        let (mut any, url) = match which {
            0 => (Address::Workload(full_workload().into()).to_any(), type_url::ADDRESS),
            1 => (Address::Service(full_service().into()).to_any(), type_url::ADDRESS),
            _ => (authorization_to_any(&full_policy()), type_url::AUTHORIZATION),
        };
        let index = at % any.value.len();
        any.value[index] = byte;
        let damaged = update("x", any);
        if url == type_url::ADDRESS { let _ = Address::decode(&damaged); } else { let _ = decode_authorization(&damaged); }
    }
}
