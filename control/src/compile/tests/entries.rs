//! ServiceEntries: who reaches what they name, and what is said about it.

use aquifer_core::address::NetworkAddress;
use aquifer_core::http::cluster::{Cluster, Endpoint, Endpoints, Transport};
use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::BalanceMode;
use aquifer_core::snapshot::{Change, MeshSnapshot};
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, line, message, report};
use crate::compile::Compiled;
use crate::compile::waypoints::WaypointKey;
use crate::proxies::{Picture, ProxyKey, Types};

const HTTP: &str = "ports: [{number: 80, name: http, protocol: HTTP}]";

fn entry(mesh: &mut Mesh, name: &str, hosts: &str, rest: &str) {
    entry_in(mesh, "shop", name, hosts, rest);
}

fn entry_in(mesh: &mut Mesh, namespace: &str, name: &str, hosts: &str, rest: &str) {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1beta1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: [{hosts}], {HTTP}, {rest}}}"
    );
    mesh.add(namespace, &yaml);
}

fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient")
        .namespace("istio-system", "");
    mesh.pod("shop", "a", "app: a", "10.244.0.1");
    mesh.pod("istio-system", "gw-1", "istio: egressgateway", "10.244.5.1");
    mesh.service(
        "istio-system",
        "istio-egressgateway",
        "istio: egressgateway",
        "10.96.0.9",
        "{name: http, port: 80, targetPort: 8080}",
    );
    mesh.add(
        "istio-system",
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: egress}\nspec: {selector: {istio: egressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
    );
    mesh
}

const THROUGH: &str = "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {name: through}\nspec:\n  hosts: [out.example]\n  gateways: [istio-system/egress, mesh]\n  http:\n  - match: [{port: 80, gateways: [mesh]}]\n    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]\n  - match: [{port: 80, gateways: [istio-system/egress]}]\n    route: [{destination: {host: out.example, port: {number: 80}}}]\n";

fn gateway_key() -> ProxyKey {
    ProxyKey::Gateway {
        namespace: "istio-system".into(),
        pod: "gw-1".into(),
        uid: "uid-gw-1".into(),
    }
}

fn gateway(compiled: &Compiled) -> Held {
    Held::by(compiled, &gateway_key())
}

const CLUSTER: &str = "outbound|80||out.example";

#[test]
fn the_classic_manifest_leads_from_pods_over_the_gateway_to_the_host() {
    let mut mesh = mesh();
    let rest = "addresses: [10.96.7.7], resolution: STATIC, endpoints: [{address: 192.0.2.1, ports: {http: 4154}, weight: 2}]";
    entry(&mut mesh, "out", "out.example", rest);
    mesh.add("shop", THROUGH);
    mesh.compile();
    mesh.run_waypoint("shop", "waypoint");
    let compiled = mesh.compile();

    let key = NamespacedHostname::new("shop", "out.example");
    let service = &compiled.services[&key];
    assert!(service.waypoint.is_some() && service.vips.len() == 1 && !service.canonical);
    let waypoint = Held::by_waypoint(&compiled, "shop", "waypoint");
    let table = waypoint.routes("inbound-vip|80|http|out.example");
    let [host] = table.virtual_hosts() else {
        panic!("{table:?}")
    };
    let to_gateway = "outbound|80||istio-egressgateway.istio-system.svc.cluster.local=1";
    assert!(line(&host.routes[0]).ends_with(to_gateway), "{:?}", host.routes);

    let held = gateway(&compiled);
    let routes = held.routes("http.8080");
    let host = routes.virtual_host("out.example").expect("a host");
    assert!(
        line(&host.routes[0]).ends_with(&format!("{CLUSTER}=1")),
        "{host:?}"
    );
    let endpoints: Endpoints = held.one(type_url::ENDPOINTS, CLUSTER);
    let [one] = &endpoints.list[..] else {
        panic!("{endpoints:?}")
    };
    assert_eq!(
        (one.address.to_string().as_str(), one.weight),
        ("192.0.2.1:4154", 2)
    );
    assert_eq!((&one.transport, &*one.workload), (&Transport::Outside, ""));

    let report = report(&compiled, "ServiceEntry", "shop", "out");
    assert!(report.accepted && report.notices.is_empty(), "{report:?}");
    assert!(message(report, "CapturedFromPods").contains("10.96.7.7"));
    assert!(
        message(report, "istio.io/WaypointBound").starts_with("True"),
        "{report:?}"
    );
    let rules = super::fixture::report(&compiled, "VirtualService", "shop", "through");
    assert!(rules.notices.is_empty(), "{:?}", rules.notices);
}

#[test]
fn an_address_that_is_written_identifies_nobody() {
    let mut mesh = mesh();
    let rest = "addresses: [10.96.7.7], resolution: STATIC, endpoints: [{address: 10.244.0.1}]";
    entry(&mut mesh, "out", "out.example, more.example", rest);
    let compiled = mesh.compile();
    let key = NamespacedHostname::new("shop", "out.example");
    let [workload] = &compiled.discovery.endpoints(&key).collect::<Vec<_>>()[..] else {
        panic!("one endpoint")
    };
    assert!(workload.host_network, "its address is not an identity's");
    assert_eq!(workload.services.len(), 2, "it serves every host of the entry");
}

#[test]
fn names_are_for_proxies_to_look_up() {
    let mut mesh = mesh();
    let rest = "resolution: DNS, endpoints: [{address: b.example, ports: {http: 81}}, {address: 192.0.2.1, weight: 3}]";
    entry(&mut mesh, "out", "out.example", rest);
    mesh.add("shop", THROUGH);
    let compiled = mesh.compile();
    let held = gateway(&compiled);
    let cluster: Cluster = held.one(type_url::CLUSTER, CLUSTER);
    let names = cluster.names.expect("names");
    let list: Vec<_> = names.list.iter().map(|n| (&*n.host, n.port, n.weight)).collect();
    assert_eq!(list, [("b.example", 81, 1), ("192.0.2.1", 80, 3)]);
    assert!(!names.first_only);
    assert_eq!(&*names.namespace, "shop", "on whose account they are looked up");
    assert!(!held.names(type_url::ENDPOINTS).contains(&CLUSTER.to_owned()));

    let report = report(&compiled, "ServiceEntry", "shop", "out");
    let said = message(report, "CapturedFromPods");
    assert!(
        said.contains("NoAddresses") && said.contains("meshCidrs"),
        "{said}"
    );
    let rules = super::fixture::report(&compiled, "VirtualService", "shop", "through");
    assert!(
        rules.notices[0].message.contains("not captured"),
        "{:?}",
        rules.notices
    );

    // Without endpoints the host itself is looked up, and one address of it is used.
    entry(&mut mesh, "out", "out.example", "resolution: DNS_ROUND_ROBIN");
    let cluster: Cluster = gateway(&mesh.compile()).one(type_url::CLUSTER, CLUSTER);
    let names = cluster.names.expect("names");
    assert_eq!((&*names.list[0].host, names.first_only), ("out.example", true));
}

#[test]
fn what_is_looked_up_gets_a_waypoint_for_its_addresses() {
    let mut mesh = mesh();
    entry(
        &mut mesh,
        "out",
        "out.example",
        "addresses: [10.96.7.7], resolution: DNS",
    );
    let compiled = mesh.compile();
    let waits = report(&compiled, "ServiceEntry", "shop", "out");
    assert!(waits.notices[0].message.contains("refused"), "{waits:?}");
    mesh.run_waypoint("shop", "waypoint");
    let compiled = mesh.compile();
    assert!(
        report(&compiled, "ServiceEntry", "shop", "out")
            .notices
            .is_empty()
    );
    let held = Held::by_waypoint(&compiled, "shop", "waypoint");
    let cluster: Cluster = held.one(type_url::CLUSTER, "inbound-vip|80|http|out.example");
    assert!(cluster.names.is_some());
}

#[test]
fn selected_pods_are_reached_as_what_they_are() {
    let mut mesh = mesh();
    let rest = "location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: a}}";
    entry(&mut mesh, "out", "out.example", rest);
    mesh.add("shop", THROUGH);
    let compiled = mesh.compile();
    let endpoints: Endpoints = gateway(&compiled).one(type_url::ENDPOINTS, CLUSTER);
    assert!(
        matches!(&endpoints.list[0].transport, Transport::Hbone(id) if id.as_str().ends_with("/sa/sa-a"))
    );
    mesh.remove("", "Pod", "shop", "a");
    let said = message(report(&mesh.compile(), "ServiceEntry", "shop", "out"), "Warning");
    assert!(said.contains("no pod"), "{said}");
}

#[test]
fn the_oldest_entry_has_a_host_and_the_other_is_told() {
    let mut mesh = mesh();
    let rest = |ip: &str| format!("resolution: STATIC, endpoints: [{{address: {ip}}}]");
    entry(&mut mesh, "first", "out.example", &rest("192.0.2.1"));
    entry(
        &mut mesh,
        "second",
        "out.example, own.example",
        &rest("192.0.2.2"),
    );
    mesh.add("shop", THROUGH);
    let compiled = mesh.compile();
    let address = |compiled: &Compiled| {
        let endpoints: Endpoints = gateway(compiled).one(type_url::ENDPOINTS, CLUSTER);
        endpoints.list[0].address.to_string()
    };
    assert_eq!(address(&compiled), "192.0.2.1:80");
    let said = message(report(&compiled, "ServiceEntry", "shop", "second"), "Warning");
    assert!(said.contains("shop/first"), "{said}");
    mesh.remove("networking.istio.io", "ServiceEntry", "shop", "first");
    let compiled = mesh.compile();
    assert_eq!(address(&compiled), "192.0.2.2:80");
    assert_eq!(
        message(report(&compiled, "ServiceEntry", "shop", "second"), "Warning"),
        ""
    );
}

#[test]
fn what_is_dialled_goes_on_and_no_proxy_leads_there() {
    let mut mesh = mesh();
    entry(
        &mut mesh,
        "out",
        "out.example",
        "addresses: [10.96.7.7], resolution: NONE",
    );
    mesh.add("shop", THROUGH);
    let compiled = mesh.compile();
    let key = NamespacedHostname::new("shop", "out.example");
    assert_eq!(
        compiled.services[&key].load_balancing.mode,
        BalanceMode::Passthrough
    );
    let rules = report(&compiled, "VirtualService", "shop", "through");
    let said = message(rules, "ResolvedRefs");
    assert!(said.contains("resolution NONE"), "{said}");
    assert!(
        !gateway(&compiled)
            .names(type_url::CLUSTER)
            .contains(&CLUSTER.to_owned())
    );
}

#[test]
fn who_does_not_see_an_entry_is_not_led_to_it() {
    let mut mesh = mesh();
    let rest =
        "addresses: [10.96.7.7], resolution: STATIC, endpoints: [{address: 192.0.2.1}], exportTo: ['.']";
    entry(&mut mesh, "out", "out.example", rest);
    mesh.add("shop", THROUGH);
    let compiled = mesh.compile();
    let key = NamespacedHostname::new("shop", "out.example");
    assert!(compiled.services[&key].namespace_only);
    assert!(
        !gateway(&compiled)
            .names(type_url::CLUSTER)
            .contains(&CLUSTER.to_owned())
    );
    let said = message(
        report(&compiled, "VirtualService", "shop", "through"),
        "ResolvedRefs",
    );
    assert!(said.contains("not exported to namespace istio-system"), "{said}");
}

#[test]
fn an_address_of_a_service_is_named() {
    let mut mesh = mesh();
    entry(
        &mut mesh,
        "out",
        "out.example",
        "addresses: [10.96.0.9], resolution: DNS",
    );
    let said = message(report(&mesh.compile(), "ServiceEntry", "shop", "out"), "Warning");
    assert!(said.contains("istio-system/istio-egressgateway"), "{said}");
    mesh.remove("", "Service", "istio-system", "istio-egressgateway");
    let said = message(report(&mesh.compile(), "ServiceEntry", "shop", "out"), "Warning");
    assert!(!said.contains("istio-egressgateway"), "{said}");
}

#[test]
fn what_was_to_be_encrypted_does_not_go_out_plainly() {
    let mut mesh = mesh();
    let rest = "addresses: [10.96.7.7], resolution: STATIC, endpoints: [{address: 192.0.2.1}]";
    entry(&mut mesh, "out", "out.example", rest);
    mesh.add("shop", THROUGH);
    mesh.add("shop", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: out}\nspec: {host: out.example, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}}");
    let compiled = mesh.compile();
    assert!(
        !gateway(&compiled)
            .names(type_url::CLUSTER)
            .contains(&CLUSTER.to_owned())
    );
    let said = message(
        report(&compiled, "VirtualService", "shop", "through"),
        "ResolvedRefs",
    );
    assert!(said.contains("asks for TLS to out.example"), "{said}");
    // Without rules of its own it is behind a waypoint all the same, which leads nowhere.
    mesh.remove("networking.istio.io", "VirtualService", "shop", "through");
    mesh.compile();
    mesh.run_waypoint("shop", "waypoint");
    let held = Held::by_waypoint(&mesh.compile(), "shop", "waypoint");
    let endpoints: Endpoints = held.one(type_url::ENDPOINTS, "inbound-vip|80|http|out.example");
    assert!(endpoints.list.is_empty(), "{endpoints:?}");
}

/// Who has the host for clients of a namespace.
fn owner<'c>(compiled: &'c Compiled, namespace: &str) -> &'c str {
    let found = compiled.discovery.service_for("out.example", namespace);
    found.map_or("nobody", |found| &found.meta.namespace)
}

#[test]
fn nobody_takes_a_host_from_another_namespaces_own_clients() {
    let mut mesh = mesh();
    let rest = |ip: &str| format!("resolution: STATIC, endpoints: [{{address: {ip}}}]");
    entry_in(&mut mesh, "other", "squats", "out.example", &rest("192.0.2.1"));
    entry(&mut mesh, "out", "out.example", &rest("192.0.2.2"));
    mesh.add("shop", THROUGH);
    let compiled = mesh.compile();
    assert_eq!(
        (owner(&compiled, "shop"), owner(&compiled, "other")),
        ("shop", "other")
    );
    assert_eq!(
        owner(&compiled, "istio-system"),
        "other",
        "of strangers the oldest"
    );
    let endpoints: Endpoints = gateway(&compiled).one(type_url::ENDPOINTS, CLUSTER);
    assert_eq!(endpoints.list[0].address.to_string(), "192.0.2.1:80");
    let said = message(report(&compiled, "ServiceEntry", "shop", "out"), "Warning");
    assert!(
        said.contains("other/squats") && said.contains("those of this namespace this one"),
        "{said}"
    );
    assert_eq!(
        message(report(&compiled, "ServiceEntry", "other", "squats"), "Warning"),
        ""
    );

    // What is not for others is in nobody's way.
    entry_in(
        &mut mesh,
        "other",
        "squats",
        "out.example",
        &format!("{}, exportTo: ['.']", rest("192.0.2.1")),
    );
    let compiled = mesh.compile();
    assert_eq!(
        (owner(&compiled, "other"), owner(&compiled, "istio-system")),
        ("other", "shop")
    );
    assert_eq!(
        message(report(&compiled, "ServiceEntry", "shop", "out"), "Warning"),
        ""
    );
    mesh.remove("networking.istio.io", "ServiceEntry", "shop", "out");
    assert_eq!(
        owner(&mesh.compile(), "istio-system"),
        "other",
        "not exported, and found to say so"
    );
}

#[test]
fn an_address_leads_strangers_to_the_oldest_entry_and_a_namespace_to_its_own() {
    let mut mesh = mesh();
    let rest = "addresses: [10.96.7.7], resolution: STATIC, endpoints: [{address: 192.0.2.1}]";
    entry_in(&mut mesh, "other", "first", "first.example", rest);
    entry(&mut mesh, "second", "second.example", rest);
    entry(&mut mesh, "third", "third.example", rest);
    let compiled = mesh.compile();
    let service = |compiled: &Compiled, namespace: &str, host: &str| {
        compiled.services[&NamespacedHostname::new(namespace, host)].clone()
    };
    assert!(!service(&compiled, "other", "first.example").namespace_only);
    let second = service(&compiled, "shop", "second.example");
    assert!(second.namespace_only && second.vips.len() == 1);
    assert!(service(&compiled, "shop", "third.example").vips.is_empty());
    let said = |compiled: &Compiled, name| message(report(compiled, "ServiceEntry", "shop", name), "Warning");
    assert!(
        said(&compiled, "second").contains("older ServiceEntry other/first"),
        "{}",
        said(&compiled, "second")
    );
    assert!(
        said(&compiled, "third").contains("older ServiceEntry shop/second"),
        "{}",
        said(&compiled, "third")
    );

    // An entry that has lost its host has no address either.
    entry_in(&mut mesh, "other", "zero", "first.example", "resolution: DNS");
    mesh.remove("networking.istio.io", "ServiceEntry", "other", "first");
    mesh.remove("networking.istio.io", "ServiceEntry", "shop", "second");
    let compiled = mesh.compile();
    let third = service(&compiled, "shop", "third.example");
    assert!(!third.namespace_only && third.vips.len() == 1);
    assert!(
        !said(&compiled, "third").contains("older"),
        "{}",
        said(&compiled, "third")
    );
}

#[test]
fn at_a_shared_waypoint_its_own_namespace_comes_first() {
    let mut mesh = mesh();
    mesh.add("shop", "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]}");
    let bound = |name: &str, host: &str, ip: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, labels: {{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: shop}}}}\nspec: {{hosts: [{host}], {HTTP}, addresses: [{ip}], resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]}}"
        )
    };
    mesh.add("other", &bound("host", "out.example", "10.96.7.1"));
    mesh.add("other", &bound("address", "more.example", "10.96.7.2"));
    mesh.add("shop", &bound("host", "out.example", "10.96.7.3"));
    mesh.add("shop", &bound("address", "own.example", "10.96.7.2"));
    mesh.compile();
    mesh.run_waypoint("shop", "wp");
    let held = Held::by_waypoint(&mesh.compile(), "shop", "wp");
    let addresses: Vec<String> = held
        .all::<aquifer_core::http::listener::Listener>(type_url::LISTENER)
        .iter()
        .flat_map(|l| l.addresses.iter().map(|a| format!("{} {a}", l.name)))
        .collect();
    assert_eq!(
        addresses,
        [
            "inbound-vip|80|http|out.example 10.96.7.3:80",
            "inbound-vip|80|http|own.example 10.96.7.2:80"
        ]
    );
}

#[test]
fn addresses_of_pods_nodes_and_the_api_server_are_named() {
    let mut mesh = mesh();
    mesh.add("istio-system", "apiVersion: v1\nkind: Pod\nmetadata: {name: on-node}\nspec: {nodeName: worker, hostNetwork: true}\nstatus: {phase: Running, podIP: 172.18.0.3, hostIPs: [{ip: 172.18.0.3}, {ip: 'fd00::3'}]}");
    mesh.add("default", "apiVersion: v1\nkind: Service\nmetadata: {name: kubernetes}\nspec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}]}");
    mesh.add("default", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}\naddressType: IPv4\nendpoints: [{addresses: [172.18.0.9]}]\nports: [{name: https, port: 6443}]");
    let endpoints = "endpoints: [{address: 10.244.0.1}, {address: 192.0.2.1}, {address: 172.18.0.3}, {address: 'fd00::3'}, {address: 172.18.0.9}]";
    entry(
        &mut mesh,
        "out",
        "out.example",
        &format!("addresses: [10.96.7.7], resolution: STATIC, {endpoints}"),
    );
    entry(
        &mut mesh,
        "named",
        "named.example",
        "addresses: [10.244.0.1, 172.18.0.3], resolution: DNS",
    );
    let compiled = mesh.compile();
    let endpoints = said(&compiled, "out");
    for (i, owner) in [
        (0, "pod shop/a"),
        (2, "node worker"),
        (3, "node worker"),
        (4, "the API server"),
    ] {
        let wanted = format!("spec.endpoints[{i}].address");
        assert!(
            endpoints
                .iter()
                .any(|n| n.starts_with(&wanted) && n.contains(owner)),
            "{endpoints:?}"
        );
    }
    assert_eq!(endpoints.len(), 4, "{endpoints:?}");
    let addresses = said(&compiled, "named");
    assert!(
        addresses[0].contains("pod shop/a") && addresses[1].contains("node worker"),
        "{addresses:?}"
    );

    mesh.remove("", "Pod", "shop", "a");
    mesh.remove("", "Pod", "istio-system", "on-node");
    mesh.remove("discovery.k8s.io", "EndpointSlice", "default", "kubernetes");
    assert!(said(&mesh.compile(), "out").is_empty());
}

fn said(compiled: &Compiled, name: &str) -> Vec<String> {
    let notices = &report(compiled, "ServiceEntry", "shop", name).notices;
    notices
        .iter()
        .map(|n| format!("{}: {}", n.field, n.message))
        .collect()
}

#[test]
fn an_endpoint_with_the_address_of_a_service_is_named() {
    let mut mesh = mesh();
    let endpoints = "endpoints: [{address: 192.0.2.1}, {address: 10.96.0.9}]";
    for (name, resolution) in [("fixed", "STATIC"), ("looked-up", "DNS")] {
        let rest = format!("resolution: {resolution}, {endpoints}");
        entry(&mut mesh, name, &format!("{name}.example"), &rest);
    }
    let compiled = mesh.compile();
    for name in ["fixed", "looked-up"] {
        let expected = "spec.endpoints[1].address: 10.96.0.9 is the address of Service istio-system/istio-egressgateway, which waypoints and gateways do not take for one outside the mesh: they refuse to connect; let rules lead to that Service by its name";
        assert_eq!(said(&compiled, name), [expected]);
    }
    // The Service goes, and comes back.
    mesh.remove("", "Service", "istio-system", "istio-egressgateway");
    assert!(said(&mesh.compile(), "fixed").is_empty());
    let port = "{name: http, port: 80}";
    mesh.service("shop", "again", "app: a", "10.96.0.9", port);
    assert!(said(&mesh.compile(), "fixed")[0].contains("Service shop/again"));
}

/// Two entries of a hundred addresses each, all in conflict, and of as many endpoints.
#[test]
fn of_many_conflicts_the_first_are_named_and_the_others_counted() {
    let mut mesh = mesh();
    let many = |prefix: &str| {
        let all = (1..=100).map(|n| format!("{prefix}{n}"));
        all.collect::<Vec<_>>().join(", ")
    };
    for n in 1..=100 {
        let port = "{name: http, port: 80}";
        mesh.service("shop", &format!("s{n}"), "app: a", &format!("10.97.0.{n}"), port);
    }
    let endpoints = (1..=100).map(|n| format!("{{address: 10.97.0.{n}}}"));
    let endpoints = endpoints.collect::<Vec<_>>().join(", ");
    let rest = format!(
        "addresses: [{}], resolution: STATIC, endpoints: [{endpoints}]",
        many("10.98.0.")
    );
    entry(&mut mesh, "first", "first.example", &rest);
    entry(&mut mesh, "second", "second.example", &rest);
    let compiled = mesh.compile();
    let said = said(&compiled, "second");
    assert_eq!(said.len(), 2 * 17, "{said:?}");
    let more = "there are 84 more conflicts of this kind; resolve those named first";
    assert_eq!(said[16], format!("spec.addresses: {more}"));
    assert_eq!(said[33], format!("spec.endpoints: {more}"));
    let captured = message(
        report(&compiled, "ServiceEntry", "shop", "first"),
        "CapturedFromPods",
    );
    assert!(captured.contains("10.98.0.16 and 84 more"), "{captured}");
}

#[test]
fn an_address_in_a_slice_takes_nothing_from_the_pod_that_has_it() {
    let mut mesh = mesh();
    mesh.add("shop", "apiVersion: v1\nkind: Service\nmetadata: {name: squats}\nspec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}");
    mesh.add("shop", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: squats, labels: {kubernetes.io/service-name: squats}}\naddressType: IPv4\nendpoints: [{addresses: [10.244.0.1]}]\nports: [{name: http, port: 80}]");
    let compiled = mesh.compile();
    let changes = compiled.workloads.values().cloned().map(Change::Workload);
    let changes: Vec<Change> = changes.collect();
    for changes in [changes.clone(), changes.into_iter().rev().collect()] {
        let mesh = MeshSnapshot::default().apply(changes);
        let at = NetworkAddress::new(&"".into(), "10.244.0.1".parse().unwrap());
        assert_eq!(mesh.workload_at(&at).map(|w| &*w.name), Some("a"));
    }
}

/// Behind a waypoint and in front of a gateway a Service of which somebody writes the endpoints.
const SQUATS: [&str; 3] = [
    "apiVersion: v1\nkind: Service\nmetadata: {name: squats}\nspec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}",
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: squats, labels: {kubernetes.io/service-name: squats}}\naddressType: IPv4\nendpoints: [{addresses: [10.244.0.1]}, {addresses: [192.0.2.1]}]\nports: [{name: http, port: 8080}]",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: squats}\nspec: {hosts: [squats.shop.svc.cluster.local], gateways: [mesh, istio-system/egress], http: [{route: [{destination: {host: squats.shop.svc.cluster.local}}]}]}",
];

#[test]
fn an_address_in_a_slice_leads_to_the_tunnel_of_the_pod_that_has_it() {
    let mut mesh = mesh();
    for object in SQUATS {
        mesh.add("shop", object);
    }
    mesh.compile();
    mesh.run_waypoint("shop", "waypoint");
    let waypoint = ProxyKey::Waypoint(WaypointKey::new("shop", "waypoint"));
    let of_proxies = [
        (waypoint, "inbound-vip|80|http|squats.shop.svc.cluster.local"),
        (gateway_key(), "outbound|80||squats.shop.svc.cluster.local"),
    ];
    let first = mesh.compile();
    mesh.take_steps();
    let mut pictures = of_proxies.clone().map(|(key, _)| Picture::of(&first, &key));
    let mut check = |mesh: &mut Mesh, expected: [(&str, &str); 2]| {
        mesh.compile();
        for next in mesh.take_steps() {
            for (picture, (key, _)) in pictures.iter_mut().zip(&of_proxies) {
                *picture = std::mem::take(picture).next(&next, key);
            }
        }
        for (picture, (_, cluster)) in pictures.iter().zip(&of_proxies) {
            let endpoints: Endpoints =
                Held::of(picture.types(&Types::new())).one(type_url::ENDPOINTS, cluster);
            let told = endpoints.list.iter().map(|e| (transport(e), &*e.workload));
            assert_eq!(
                told.collect::<Vec<_>>(),
                expected.map(|(how, who)| (how.to_owned(), who)),
                "{cluster}"
            );
        }
    };
    let written = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/squats";
    let (of_pod, outside) = (format!("{written}/10.244.0.1"), format!("{written}/192.0.2.1"));
    let elsewhere = ("plaintext", &*outside);
    let pod = "Kubernetes//Pod/shop/a";
    check(
        &mut mesh,
        [("spiffe://cluster.local/ns/shop/sa/sa-a", pod), elsewhere],
    );
    mesh.remove("", "Pod", "shop", "a");
    check(&mut mesh, [("plaintext", &of_pod), elsewhere]);
    // Another pod gets the address.
    mesh.pod("istio-system", "b", "app: b", "10.244.0.1");
    let b = "Kubernetes//Pod/istio-system/b";
    check(
        &mut mesh,
        [("spiffe://cluster.local/ns/istio-system/sa/sa-b", b), elsewhere],
    );
    mesh.add("istio-system", &B.replace("ACCOUNT", "other"));
    check(
        &mut mesh,
        [("spiffe://cluster.local/ns/istio-system/sa/other", b), elsewhere],
    );
    mesh.add("istio-system", &B.replace("enabled", "pending"));
    check(&mut mesh, [("plaintext", &of_pod), elsewhere]);
}

/// The pod under another account.
const B: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: b, uid: uid-b, labels: {app: b}, annotations: {ambient.istio.io/redirection: enabled}}\nspec: {nodeName: node-1, serviceAccountName: ACCOUNT, containers: [{name: c}]}\nstatus: {phase: Running, podIP: 10.244.0.1, conditions: [{type: Ready, status: 'True'}]}";

fn transport(endpoint: &Endpoint) -> String {
    match &endpoint.transport {
        Transport::Plaintext => "plaintext".to_owned(),
        Transport::Outside => "outside".to_owned(),
        Transport::Hbone(identity) => identity.as_str().to_owned(),
    }
}
