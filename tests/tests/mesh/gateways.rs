//! The Gateway API: a gateway of its own for clients outside, and routes for a Service's clients inside.

use std::process::Output;

use crate::waypoints::{VERSIONS, version};
use crate::world::{PATIENCE, World, eventually, field};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: mesh}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}}
  - {name: alt, port: 8080, protocol: HTTP}
";

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: mesh}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [shop.example.com]
  rules:
  - backendRefs: [{name: shop-v1, port: 80}]
  - matches: [{path: {value: /old}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-share, value: 100%}], remove: [x-secret]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-by, value: edge}]}}
    backendRefs: [{name: shop-v2, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}, statusCode: 308}}]
  - matches: [{path: {type: Exact, value: /half}}]
    backendRefs: [{name: shop-v2, port: 80}, {name: nobody, port: 80}]
  - matches: [{headers: [{name: x-version, value: two}], method: GET}]
    backendRefs: [{name: shop-v2, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: foreign, namespace: default}
spec:
  parentRefs: [{name: edge, namespace: mesh}]
  hostnames: [foreign.example.com]
  rules:
  - backendRefs: [{name: shop-v1, namespace: mesh, port: 80}]
";

const GRANT: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop, namespace: mesh}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: '', kind: Service, name: shop-v1}]
";

/// A Service for each version.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop-v1, namespace: mesh}
spec:
  selector: {app: shop, version: v1}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: shop-v2, namespace: mesh}
spec:
  selector: {app: shop, version: v2}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// Prints head and body.
const CURL: [&str; 6] = ["curl", "-sS", "-i", "--max-time", "30", "-H"];

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What a client outside is answered, by host and path.
fn from_outside(world: &World, address: &str, host: &str, path: &str, more: &[&str]) -> String {
    let (host, url) = (format!("host: {host}"), format!("http://{address}{path}"));
    let arguments = [&CURL[..], &[&host], more, &[&url]].concat();
    text(&world.lab.node("world", &arguments).unwrap())
}

pub(crate) fn status(answer: &str) -> &str {
    answer.split_whitespace().nth(1).unwrap_or_default()
}

pub(crate) fn has_line(answer: &str, line: &str) -> bool {
    answer.lines().any(|l| l.trim().eq_ignore_ascii_case(line))
}

#[test]
fn a_gateway_of_its_own_routes_by_the_apis_rules() {
    let Some(world) = World::new("edge") else { return };
    world.apply(VERSIONS);
    world.apply(SERVICES);
    world.apply(GATEWAY);
    world.apply(ROUTES);
    world.settle();
    let address = address(&world);
    let get = |host: &str, path: &str, more: &[&str]| from_outside(&world, &address, host, path, more);
    let shop = |path: &str| get("shop.example.com", path, &[]);
    eventually(
        "the route is in force",
        || shop("/"),
        |answer| status(answer) == "200",
    );
    assert_eq!(version(&shop("/other")), "v1");
    assert_eq!(
        version(&get("shop.example.com", "/", &["-H", "x-version: two"])),
        "v2"
    );
    assert_eq!(
        version(&get(
            "shop.example.com",
            "/",
            &["-H", "x-version: two", "-d", "x"]
        )),
        "v1"
    );
    rewritten(&get("shop.example.com", "/old/a?b=c", &["-H", "x-secret: s"]));
    assert_eq!(version(&shop("/older")), "v1", "a prefix is of whole segments");
    let moved = shop("/moved/a?b=c");
    assert!(
        status(&moved) == "308" && has_line(&moved, "location: https://shop.example.com/a?b=c"),
        "{moved}"
    );
    half(&shop);
    for host in ["a.example.com", "example.org"] {
        assert_eq!(status(&get(host, "/", &[])), "404", "{host}");
    }
    assert_eq!(
        status(&get("foreign.example.com", "/", &[])),
        "500",
        "nobody granted it"
    );
    world.apply(GRANT);
    eventually(
        "the grant is in force",
        || get("foreign.example.com", "/", &[]),
        |answer| status(answer) == "200",
    );
    said(&world, &address);
    world.delete(GATEWAY);
    world
        .lab
        .wait_until("the gateway goes with its object", PATIENCE, |status| {
            status.pods_of("mesh", "edge-istio").next().is_none()
        })
        .unwrap();
}

/// The address that the lab gave the gateway's Service.
fn address(world: &World) -> String {
    let status = world.lab.status().unwrap();
    status.service("mesh", "edge-istio").unwrap().addresses[0].to_string()
}

fn rewritten(answer: &str) {
    assert_eq!((status(answer), version(answer)), ("200", "v2"));
    for line in [
        "request GET /new/a?b=c HTTP/1.1",
        "header host: inner.example",
        "header x-share: 100%",
        "x-by: edge",
    ] {
        assert!(has_line(answer, line), "no {line} in {answer}");
    }
    assert!(!answer.contains("x-secret"), "{answer}");
}

/// Of two backends with the same weight one is not there.
fn half(shop: &impl Fn(&str) -> String) {
    let mut seen: Vec<String> = (0..20).map(|_| status(&shop("/half")).to_owned()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["200", "500"]);
}

/// The statuses as they are written, which is after proxies are told.
fn said(world: &World, address: &str) {
    let read = |file: &str| -> serde_json::Value {
        let path = world.lab.sink_dir().join("status").join(file);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    world.settle();
    let condition = |list: &serde_json::Value, kind: &str| {
        let found = list.as_array().unwrap().iter().find(|c| c["type"] == kind);
        found
            .map(|c| c["status"].as_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    let gateway = read("Gateway.mesh.edge.json");
    assert_eq!(gateway["status"]["addresses"][0]["value"], *address);
    assert_eq!(condition(&gateway["status"]["conditions"], "Programmed"), "True");
    let listeners = &gateway["status"]["listeners"];
    assert_eq!(
        (&listeners[0]["attachedRoutes"], &listeners[1]["attachedRoutes"]),
        (&2.into(), &0.into()),
        "{listeners}"
    );
    let parent = &read("HTTPRoute.mesh.shop.json")["status"]["parents"][0];
    assert_eq!(parent["controllerName"], "istio.io/gateway-controller");
    assert_eq!(condition(&parent["conditions"], "Accepted"), "True");
    assert_eq!(
        condition(&parent["conditions"], "ResolvedRefs"),
        "False",
        "nobody is not there"
    );
    eventually(
        "the proxy has it",
        || read("HTTPRoute.mesh.shop.json")["status"]["parents"][0]["conditions"].clone(),
        |list| condition(list, "Programmed") == "True",
    );
}

const INSIDE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: inside, namespace: mesh}
spec:
  parentRefs: [{group: '', kind: Service, name: shop, port: 80}]
  rules:
  - matches: [{path: {value: /two}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: inside}]}}]
    backendRefs: [{name: shop-v2, port: 80}]
";

#[test]
fn a_services_routes_are_all_that_its_clients_get() {
    let Some(world) = World::new("inside") else { return };
    world.apply(&VERSIONS.replace("labels: {istio.io/use-waypoint: front}", "labels: {}"));
    world.apply(SERVICES);
    let get = |from: &str, path: &str| {
        let url = format!("http://shop{path}");
        let arguments = [&CURL[..], &["x-client: a", &url]].concat();
        text(&world.lab.exec(from, &arguments).unwrap())
    };
    world.settle();
    assert_eq!(status(&get("mesh/client", "/")), "200");
    world.apply(INSIDE);
    // A waypoint appears by itself, and traffic moves to it when it serves.
    world.settle();
    eventually(
        "the route is in force",
        || get("mesh/client", "/"),
        |answer| status(answer) == "404",
    );
    let answer = get("mesh/client", "/two/more");
    assert_eq!(
        (version(&answer), field(&answer, "request")),
        ("v2", "GET /two/more HTTP/1.1")
    );
    assert!(has_line(&answer, "header x-route: inside"), "{answer}");
    assert!(!world.pods("mesh/waypoint").is_empty());
    world.delete(INSIDE);
    eventually(
        "without the route all is served",
        || get("mesh/client", "/"),
        |answer| status(answer) == "200",
    );
}

const BYTES: &str = "
apiVersion: v1
kind: Service
metadata: {name: bytes, namespace: mesh}
spec:
  selector: {app: shop}
  ports: [{name: tcp, port: 81, targetPort: 8080}]
";

const BYTES_ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: bytes, namespace: mesh}
spec:
  parentRefs: [{group: '', kind: Service, name: bytes}]
  rules: [{backendRefs: [{name: shop-v2, port: 80}]}]
";

#[test]
fn connections_to_a_service_go_where_its_tcp_route_says() {
    let Some(world) = World::new("bytes") else { return };
    world.apply(&VERSIONS.replace("labels: {istio.io/use-waypoint: front}", "labels: {}"));
    world.apply(SERVICES);
    world.apply(BYTES);
    // Each on a connection of its own.
    let versions = || {
        let answers = (0..12).map(|_| {
            let arguments = [&CURL[..], &["x-client: a", "http://bytes:81/"]].concat();
            text(&world.lab.exec("mesh/client", &arguments).unwrap())
        });
        let mut seen: Vec<String> = answers
            .map(|a| {
                a.lines()
                    .find_map(|l| l.strip_prefix("pod shop-").map(|p| p[..2].to_owned()))
                    .unwrap_or(a)
            })
            .collect();
        seen.sort();
        seen.dedup();
        seen
    };
    eventually("both versions answer", versions, |seen| *seen == ["v1", "v2"]);
    world.apply(BYTES_ROUTE);
    world
        .lab
        .wait_until("a waypoint of its own serves it", PATIENCE, |status| {
            status.pods_of("mesh", "waypoint").any(|pod| pod.ready)
        })
        .unwrap();
    eventually("the route is in force", versions, |seen| *seen == ["v2"]);
    world.delete(BYTES_ROUTE);
    eventually("without it all are served", versions, |seen| {
        *seen == ["v1", "v2"]
    });
}
