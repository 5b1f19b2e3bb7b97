//! Addresses that somebody writes into the slices of a Service.

use aquifer_core::address::NetworkAddress;
use aquifer_core::http::cluster::{Endpoint, Endpoints, Transport};
use aquifer_core::snapshot::{Change, MeshSnapshot};
use aquifer_xds::type_url;

use super::{gateway_key, mesh};
use crate::compile::tests::fixture::{Held, Mesh};
use crate::compile::waypoints::WaypointKey;
use crate::proxies::{Picture, ProxyKey, Types};

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
