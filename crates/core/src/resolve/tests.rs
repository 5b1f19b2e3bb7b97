use super::*;
use crate::service::{AppProtocol, LoadBalancing, PortMapping};
use crate::snapshot::Change;
use crate::workload::Health;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const VIP: &str = "10.96.0.1";

fn workload(name: &str, ips: &[&str], tunnel: TunnelProtocol) -> Workload {
    let mut w = Workload::empty(WorkloadUid::pod("Kubernetes", "ns", name));
    w.name = name.into();
    w.namespace = "ns".into();
    w.service_account = name.into();
    w.addresses = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    w.tunnel = tunnel;
    w
}

fn key(name: &str) -> NamespacedHostname {
    NamespacedHostname::new("ns", name)
}

fn port(service_port: u16, target_port: u16) -> PortMapping {
    PortMapping {
        service_port,
        target_port,
        protocol: AppProtocol::Unknown,
    }
}

fn serving(mut w: Workload, service: &str, ports: &[PortMapping]) -> Workload {
    w.services.insert(key(service), ports.to_vec());
    w
}

fn service(name: &str, vips: &[&str], ports: &[PortMapping]) -> Service {
    Service {
        name: name.into(),
        namespace: "ns".into(),
        hostname: name.into(),
        vips: vips
            .iter()
            .map(|ip| NetworkAddress::new(&"".into(), ip.parse().unwrap()))
            .collect(),
        ports: ports.to_vec(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        load_balancing: LoadBalancing::default(),
        canonical: false,
        ingress_use_waypoint: false,
        namespace_only: false,
    }
}

fn mesh(workloads: Vec<Workload>, services: Vec<Service>) -> MeshSnapshot {
    let workloads = workloads.into_iter().map(|w| Change::Workload(Arc::new(w)));
    let services = services.into_iter().map(|s| Change::Service(Arc::new(s)));
    MeshSnapshot::default().apply(workloads.chain(services))
}

fn client() -> Workload {
    workload("client", &["10.0.0.1", "fd00::1"], TunnelProtocol::Hbone)
}

fn ask(mesh: &MeshSnapshot, destination: &str) -> Outbound {
    ask_after(mesh, destination, &[])
}

fn ask_after(mesh: &MeshSnapshot, destination: &str, failed: &[WorkloadUid]) -> Outbound {
    let source = client();
    let query = OutboundQuery {
        source: &source,
        destination: destination.parse().unwrap(),
        failed,
    };
    resolve_outbound(mesh, &query, &mut SmallRng::seed_from_u64(7))
}

#[track_caller]
fn hbone(outbound: Outbound) -> HboneRoute {
    match outbound {
        Outbound::Hbone(route) => route,
        other => panic!("{other:?}"),
    }
}

fn waypoint_at(name: &str) -> Option<GatewayAddress> {
    Some(GatewayAddress {
        destination: GatewayDestination::Hostname(key(name)),
        hbone_port: 15008,
    })
}

#[test]
fn vip_leads_to_a_pod_at_its_target_port() {
    let pod = serving(
        workload("a", &["10.0.0.2"], TunnelProtocol::Hbone),
        "s",
        &[port(80, 8080)],
    );
    let route = hbone(ask(
        &mesh(vec![pod], vec![service("s", &[VIP], &[port(80, 0)])]),
        "10.96.0.1:80",
    ));
    assert_eq!(route.peer.to_string(), "10.0.0.2:15008");
    assert_eq!(route.authority.to_string(), "10.0.0.2:8080");
    assert_eq!(route.local.to_string(), "10.0.0.1");
    assert_eq!(
        route.expected,
        vec![SpiffeId::parse("spiffe://cluster.local/ns/ns/sa/a").unwrap()]
    );
    assert_eq!(route.via, Via::Endpoint);
}

#[test]
fn pod_address_leads_to_that_pod() {
    let m = mesh(
        vec![workload("a", &["10.0.0.2", "fd00::2"], TunnelProtocol::Hbone)],
        vec![],
    );
    let route = hbone(ask(&m, "[fd00::2]:81"));
    assert_eq!(
        (route.peer.to_string(), route.authority.to_string()),
        ("[fd00::2]:15008".into(), "[fd00::2]:81".into())
    );
    assert_eq!(route.local.to_string(), "fd00::1");
    let route = hbone(ask(&m, "[::ffff:10.0.0.2]:81"));
    assert_eq!(route.peer.to_string(), "10.0.0.2:15008");
}

#[test]
fn pod_without_a_tunnel_is_plain() {
    let m = mesh(vec![workload("a", &["10.0.0.2"], TunnelProtocol::None)], vec![]);
    assert!(matches!(ask(&m, "10.0.0.2:81"), Outbound::Plain(p) if p.peer.to_string() == "10.0.0.2:81"));
}

#[test]
fn a_pod_that_is_its_own_endpoint_stays_inside_itself() {
    let own = serving(client(), "s", &[port(80, 8080)]);
    let outbound = ask(
        &mesh(vec![own], vec![service("s", &[VIP], &[port(80, 0)])]),
        "10.96.0.1:80",
    );
    assert!(matches!(outbound, Outbound::Plain(p) if p.peer.to_string() == "10.0.0.1:8080"));
}

#[test]
fn unknown_destination_passes() {
    let m = mesh(vec![], vec![]);
    assert!(
        matches!(ask(&m, "10.96.0.10:53"), Outbound::Plain(p) if p.workload.is_none() && p.service.is_none())
    );
}

#[test]
fn service_without_healthy_endpoints_is_refused() {
    let mut pod = serving(
        workload("a", &["10.0.0.2"], TunnelProtocol::Hbone),
        "s",
        &[port(80, 8080)],
    );
    pod.health = Health::Unhealthy;
    let outbound = ask(
        &mesh(vec![pod], vec![service("s", &[VIP], &[port(80, 0)])]),
        "10.96.0.1:80",
    );
    let Outbound::Refuse(refusal) = outbound else {
        panic!("{outbound:?}")
    };
    assert_eq!(refusal.to_string(), "no healthy endpoints for ns/s (1 known)");
}

#[test]
fn a_port_the_service_lacks_is_refused() {
    let outbound = ask(
        &mesh(vec![], vec![service("s", &[VIP], &[port(80, 0)])]),
        "10.96.0.1:81",
    );
    assert!(matches!(
        outbound,
        Outbound::Refuse(Refusal::NoSuchPort { port: 81, .. })
    ));
}

#[test]
fn service_waypoint_gets_the_untranslated_address() {
    let mut s = service("s", &[VIP], &[port(80, 8080)]);
    s.waypoint = waypoint_at("wp");
    let way = serving(
        workload("way", &["10.0.0.9"], TunnelProtocol::Hbone),
        "wp",
        &[port(15008, 15008)],
    );
    let m = mesh(
        vec![way],
        vec![s, service("wp", &["10.96.0.9"], &[port(15008, 15008)])],
    );
    let route = hbone(ask(&m, "10.96.0.1:80"));
    assert_eq!(
        (route.peer.to_string(), route.authority.to_string()),
        ("10.0.0.9:15008".into(), "10.96.0.1:80".into())
    );
    assert_eq!(
        route.expected,
        vec![SpiffeId::parse("spiffe://cluster.local/ns/ns/sa/way").unwrap()]
    );
    assert_eq!(route.via, Via::Waypoint);
}

#[test]
fn absent_waypoint_fails_closed() {
    let mut s = service("s", &[VIP], &[port(80, 8080)]);
    s.waypoint = waypoint_at("wp");
    let pod = serving(
        workload("a", &["10.0.0.2"], TunnelProtocol::Hbone),
        "s",
        &[port(80, 8080)],
    );
    let outbound = ask(&mesh(vec![pod], vec![s]), "10.96.0.1:80");
    assert!(
        matches!(outbound, Outbound::Refuse(Refusal::NoWaypoint { .. })),
        "{outbound:?}"
    );
}

#[test]
fn workload_waypoint_holds_only_for_the_pod_address() {
    let mut pod = serving(
        workload("a", &["10.0.0.2"], TunnelProtocol::Hbone),
        "s",
        &[port(80, 8080)],
    );
    pod.waypoint = Some(GatewayAddress {
        destination: GatewayDestination::Address("10.0.0.9".parse().unwrap()),
        hbone_port: 15008,
    });
    let way = workload("way", &["10.0.0.9"], TunnelProtocol::Hbone);
    let m = mesh(vec![pod, way], vec![service("s", &[VIP], &[port(80, 8080)])]);
    let direct = hbone(ask(&m, "10.0.0.2:8080"));
    assert_eq!(
        (direct.via, direct.authority.to_string()),
        (Via::Waypoint, "10.0.0.2:8080".into())
    );
    assert_eq!(hbone(ask(&m, "10.96.0.1:80")).via, Via::Endpoint);
}

#[test]
fn failed_endpoints_are_left_out() {
    let pod = |n: &str, ip: &str| serving(workload(n, &[ip], TunnelProtocol::Hbone), "s", &[port(80, 8080)]);
    let m = mesh(
        vec![pod("a", "10.0.0.2"), pod("b", "10.0.0.3")],
        vec![service("s", &[VIP], &[port(80, 8080)])],
    );
    let first = hbone(ask(&m, "10.96.0.1:80")).workload.uid.clone();
    let second = hbone(ask_after(&m, "10.96.0.1:80", std::slice::from_ref(&first)))
        .workload
        .uid
        .clone();
    assert_ne!(first, second);
    assert!(matches!(
        ask_after(&m, "10.96.0.1:80", &[first, second]),
        Outbound::Refuse(_)
    ));
}

#[test]
fn families_are_bridged_when_the_client_has_both() {
    let pod = serving(
        workload("a", &["fd00::2"], TunnelProtocol::Hbone),
        "s",
        &[port(80, 8080)],
    );
    let m = mesh(vec![pod], vec![service("s", &[VIP], &[port(80, 0)])]);
    let route = hbone(ask(&m, "10.96.0.1:80"));
    assert_eq!(
        (route.peer.to_string(), route.local.to_string()),
        ("[fd00::2]:15008".into(), "fd00::1".into())
    );
}

#[test]
fn nearer_endpoints_come_first_and_strict_takes_no_other() {
    let pod = |n: &str, ip: &str, zone: &str| {
        let mut w = serving(workload(n, &[ip], TunnelProtocol::Hbone), "s", &[port(80, 8080)]);
        w.zone = zone.into();
        w
    };
    let with = |mode, pods: Vec<Workload>| {
        let mut s = service("s", &[VIP], &[port(80, 8080)]);
        s.load_balancing = LoadBalancing {
            mode,
            preference: vec![crate::service::BalanceScope::Zone],
            allow_unhealthy: false,
        };
        ask(&mesh(pods, vec![s]), "10.96.0.1:80")
    };
    let both = || vec![pod("far", "10.0.0.2", "z2"), pod("near", "10.0.0.3", "")];
    assert_eq!(&*hbone(with(BalanceMode::Failover, both())).workload.name, "near");
    assert_eq!(&*hbone(with(BalanceMode::Strict, both())).workload.name, "near");
    let far = || vec![pod("far", "10.0.0.2", "z2")];
    assert_eq!(&*hbone(with(BalanceMode::Failover, far())).workload.name, "far");
    assert!(matches!(with(BalanceMode::Strict, far()), Outbound::Refuse(_)));
}

#[test]
fn weights_are_kept() {
    let pod = |n: &str, ip: &str, capacity| {
        let mut w = serving(workload(n, &[ip], TunnelProtocol::Hbone), "s", &[port(80, 8080)]);
        w.capacity = capacity;
        w
    };
    let m = mesh(
        vec![
            pod("a", "10.0.0.2", 3),
            pod("b", "10.0.0.3", 1),
            pod("c", "10.0.0.4", 0),
        ],
        vec![service("s", &[VIP], &[port(80, 8080)])],
    );
    let source = client();
    let query = OutboundQuery {
        source: &source,
        destination: "10.96.0.1:80".parse().unwrap(),
        failed: &[],
    };
    let mut rng = SmallRng::seed_from_u64(1);
    let mut counts = [0u32; 3];
    for _ in 0..4000 {
        match &*hbone(resolve_outbound(&m, &query, &mut rng)).workload.name {
            "a" => counts[0] += 1,
            "b" => counts[1] += 1,
            _ => counts[2] += 1,
        }
    }
    assert_eq!(counts[2], 0);
    assert!((2800..3200).contains(&counts[0]), "{counts:?}");
}

proptest! {
    /// Whatever the mesh looks like: a plain route never ends at a workload that advertises HBONE.
    #[test]
    fn never_plaintext_to_hbone(
        pods in proptest::collection::vec((0..5u8, any::<bool>(), any::<bool>(), any::<bool>()), 1..6),
        waypoint: bool, vip: bool, last in 0..6u8, seed: u64,
    ) {
        let workloads: Vec<Workload> = pods.iter().enumerate().map(|(i, (ip, tunnel, healthy, serves))| {
            let tunnel = if *tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None };
            let mut w = workload(&format!("w{i}"), &[&format!("10.0.1.{ip}")], tunnel);
            w.health = if *healthy { Health::Healthy } else { Health::Unhealthy };
            if *serves { w = serving(w, "s", &[port(80, 8080)]); }
            w
        }).collect();
        let mut s = service("s", &[VIP], &[port(80, 8080)]);
        s.waypoint = waypoint.then(|| waypoint_at("wp")).flatten();
        let has_waypoint = s.waypoint.is_some();
        let m = mesh(workloads, vec![s]);
        let source = client();
        let destination = if vip { "10.96.0.1:80".to_owned() } else { format!("10.0.1.{last}:8080") };
        let query = OutboundQuery { source: &source, destination: destination.parse().unwrap(), failed: &[] };
        let outbound = resolve_outbound(&m, &query, &mut SmallRng::seed_from_u64(seed));
        if let Outbound::Plain(plain) = &outbound {
            let owner = m.workload_at(&NetworkAddress::new(&"".into(), plain.peer.ip()));
            // With two owners of one address the newer record answers for the pod's address; a service names its pod.
            if let Some(w) = &plain.workload { prop_assert_eq!(w.tunnel, TunnelProtocol::None); }
            else { prop_assert!(owner.is_none()); }
        }
        if vip && has_waypoint { prop_assert!(matches!(outbound, Outbound::Refuse(_))); }
    }
}

/// An endpoint as a ServiceEntry has it: an address that somebody wrote down.
fn written(name: &str, ip: &str) -> Workload {
    Workload {
        host_network: true,
        ..workload(name, &[ip], TunnelProtocol::None)
    }
}

#[test]
fn a_written_address_of_a_pod_is_reached_as_that_pod() {
    let pod = workload("a", &["10.0.0.2"], TunnelProtocol::Hbone);
    let entry = |ip: &str| serving(written("e", ip), "s", &[port(80, 8080)]);
    let services = || vec![service("s", &[VIP], &[port(80, 8080)])];
    let route = hbone(ask(
        &mesh(vec![pod.clone(), entry("10.0.0.2")], services()),
        "10.96.0.1:80",
    ));
    assert_eq!(route.workload.uid, pod.uid);
    assert_eq!(route.authority.to_string(), "10.0.0.2:8080");
    let outside = ask(&mesh(vec![pod, entry("192.0.2.1")], services()), "10.96.0.1:80");
    let Outbound::Plain(plain) = outside else {
        panic!("{outside:?}")
    };
    assert_eq!(plain.peer.to_string(), "192.0.2.1:8080");
}

#[test]
fn who_writes_the_address_of_a_pod_has_it_in_its_own_namespace_only() {
    let pod = workload("a", &["10.0.0.2"], TunnelProtocol::Hbone);
    let entry = serving(written("e", "192.0.2.1"), "s", &[port(80, 80)]);
    let claiming = |namespace: &str| Service {
        namespace: namespace.into(),
        ..service("s", &["10.0.0.2"], &[port(80, 80)])
    };
    let m = mesh(vec![pod.clone(), entry.clone()], vec![claiming("other")]);
    assert_eq!(hbone(ask(&m, "10.0.0.2:80")).workload.uid, pod.uid);
    let m = mesh(vec![pod, entry], vec![claiming("ns")]);
    assert!(matches!(ask(&m, "10.0.0.2:80"), Outbound::Plain(_)));
}

#[test]
fn a_service_of_its_namespace_only_is_not_seen_from_others() {
    let private = |namespace: &str| Service {
        namespace: namespace.into(),
        namespace_only: true,
        ..service("s", &[VIP], &[port(80, 80)])
    };
    let at = NetworkAddress::new(&"".into(), VIP.parse().unwrap());
    let m = mesh(Vec::new(), vec![private("other")]);
    assert!(m.service_at(&at, "ns").is_none() && m.service_at(&at, "other").is_some());
}

#[test]
fn nothing_that_is_written_about_a_pod_leads_around_its_waypoint() {
    let mut pod = workload("a", &["10.0.0.2"], TunnelProtocol::Hbone);
    pod.waypoint = waypoint_at("wp");
    let entry = || serving(written("e", "10.0.0.2"), "s", &[port(80, 8080)]);
    let written = vec![service("s", &[VIP], &[port(80, 8080)])];
    let outbound = ask(&mesh(vec![pod.clone(), entry()], written), "10.96.0.1:80");
    assert!(
        matches!(outbound, Outbound::Refuse(Refusal::NoWaypoint { .. })),
        "{outbound:?}"
    );
    let mut as_dialled = service("s", &["10.0.0.2"], &[port(80, 80)]);
    as_dialled.load_balancing.mode = BalanceMode::Passthrough;
    let outbound = ask(&mesh(vec![pod], vec![as_dialled]), "10.0.0.2:80");
    assert!(
        matches!(outbound, Outbound::Refuse(Refusal::NoWaypoint { .. })),
        "{outbound:?}"
    );
}
