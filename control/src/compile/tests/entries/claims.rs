//! Hosts and addresses that several have: whose they are for whom, and who is told.

use aquifer_core::http::cluster::Endpoints;
use aquifer_core::names::NamespacedHostname;
use aquifer_xds::type_url;

use super::{CLUSTER, HTTP, THROUGH, entry, entry_in, gateway, mesh};
use crate::compile::Compiled;
use crate::compile::tests::fixture::{Held, message, report};

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
