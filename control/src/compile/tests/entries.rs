//! ServiceEntries: who reaches what they name, and what is said about it.

mod claims;
mod slices;

use aquifer_core::http::cluster::{Cluster, Endpoints, Transport};
use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::BalanceMode;
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, line, message, report};
use crate::compile::Compiled;
use crate::proxies::ProxyKey;

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
