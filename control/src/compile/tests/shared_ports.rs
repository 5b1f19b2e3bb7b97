//! Listeners that come together at one port of a gateway's pods, with each other and with Istio's servers: who has it.

use aquifer_core::http::listener::{Chain, Listener, ListenerProtocol};
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, message, report};
use super::gateway_api::{SERVICES_TO_SHOP, TO_A, mesh, route};
use super::gateway_tls::secret;
use crate::compile::Compiled;
use crate::proxies::ProxyKey;

/// A Gateway behind a Service that is there.
fn at(service: &str, name: &str, listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: istio, addresses: [{{type: Hostname, value: {service}}}], listeners: [{listeners}]}}"
    )
}

fn https(name: &str, port: u16, host: &str) -> String {
    format!(
        "{{name: {name}, port: {port}, protocol: HTTPS, hostname: {host}, tls: {{certificateRefs: [{{name: x}}]}}}}"
    )
}

fn http(name: &str, port: u16) -> String {
    format!("{{name: {name}, port: {port}, protocol: HTTP}}")
}

/// As the gateway chart's Service: 443 leads to 8443 of the pods.
const PORTS: &str = "{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}, {name: alt, port: 8443, targetPort: 8443}";

fn pods(mesh: &mut Mesh, namespace: &str) {
    mesh.namespace(namespace, "");
    mesh.pod(namespace, "gw-1", "istio: gw, app: gw", "10.244.5.1");
    mesh.service(namespace, "gw", "istio: gw, app: gw", "10.96.0.9", PORTS);
}

fn served(compiled: &Compiled, namespace: &str, port: u16) -> Vec<Chain> {
    let key = ProxyKey::Gateway {
        namespace: namespace.into(),
        pod: "gw-1".into(),
        uid: "uid-gw-1".into(),
    };
    let held = Held::by(compiled, &key);
    let name = format!("0.0.0.0_{port}");
    if !held.names(type_url::LISTENER).contains(&name) {
        return Vec::new();
    }
    let listener: Listener = held.one(type_url::LISTENER, &name);
    listener.chains.iter().cloned().collect()
}

fn names(compiled: &Compiled, namespace: &str, port: u16) -> Vec<String> {
    let chains = served(compiled, namespace, port);
    chains.iter().map(|c| c.name.to_string()).collect()
}

/// `STATUS REASON: MESSAGE` of the condition of the Gateway's first listener.
fn first(compiled: &Compiled, gateway: &str, kind: &str) -> String {
    let state = report(compiled, "Gateway", "shop", gateway);
    let found = state.listeners[0].conditions.iter().find(|c| c.kind == kind);
    let found = found.unwrap();
    format!("{} {}: {}", found.status, found.reason, found.message)
}

#[test]
fn plain_http_does_not_take_the_pods_port_of_an_older_listener_with_tls() {
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    mesh.add("shop", &secret("x", &["a.org"]));
    mesh.add("shop", &at("gw", "victim", &https("h", 443, "a.org")));
    mesh.add("shop", &at("gw", "aggressor", &http("p", 8443)));
    mesh.add(
        "shop",
        &route("r", "{name: victim}", &format!(", rules: [{{{TO_A}}}]")),
    );
    let compiled = mesh.compile();
    assert_eq!(names(&compiled, "shop", 8443), ["https.8443.h.victim.shop"]);
    assert!(served(&compiled, "shop", 8443)[0].tls.is_some());
    let said = first(&compiled, "aggressor", "Conflicted");
    assert!(
        said.starts_with("True ProtocolConflict: Gateway shop/victim is older")
            && said.contains("both 443 and 8443 lead to"),
        "{said}"
    );
    assert!(first(&compiled, "victim", "Conflicted").starts_with("False"));

    // Where the Service leads the ports apart, there is nothing to fight over.
    let apart = PORTS.replace("port: 8443, targetPort: 8443", "port: 8443, targetPort: 9443");
    mesh.service("shop", "gw", "istio: gw, app: gw", "10.96.0.9", &apart);
    let compiled = mesh.compile();
    assert!(first(&compiled, "aggressor", "Conflicted").starts_with("False"));
    assert_eq!(names(&compiled, "shop", 8443), ["https.8443.h.victim.shop"]);
}

#[test]
fn a_name_with_tls_is_the_oldest_listeners_whatever_port_is_declared() {
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    mesh.add("shop", &secret("x", &["a.org"]));
    mesh.add("shop", &at("gw", "victim", &https("h", 443, "a.org")));
    let more = format!("{}, {}", https("h", 8443, "a.org"), https("o", 8443, "b.org"));
    mesh.add("shop", &at("gw", "aggressor", &more));
    let compiled = mesh.compile();
    assert_eq!(
        names(&compiled, "shop", 8443),
        ["https.8443.h.victim.shop", "https.8443.o.aggressor.shop"]
    );
    assert!(first(&compiled, "aggressor", "Conflicted").starts_with("True HostnameConflict"));
}

/// Of two Services with the same pods only the pods' pictures know for certain.
#[test]
fn another_service_with_the_same_pods_is_no_way_around() {
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    mesh.add("shop", &secret("x", &["a.org"]));
    mesh.add("shop", &at("gw", "victim", &https("h", 443, "a.org")));
    mesh.service("shop", "same", "istio: gw, app: gw", "10.96.0.10", PORTS);
    mesh.service("shop", "wider", "istio: gw", "10.96.0.11", PORTS);
    mesh.add("shop", &at("same", "by-same", &http("p", 8443)));
    mesh.add("shop", &at("wider", "by-wider", &http("p", 8443)));
    let compiled = mesh.compile();
    assert_eq!(names(&compiled, "shop", 8443), ["https.8443.h.victim.shop"]);
    let said = first(&compiled, "by-same", "Conflicted");
    assert!(
        said.starts_with("True ProtocolConflict: Gateway shop/victim"),
        "{said}"
    );
    let said = first(&compiled, "by-wider", "Conflicted");
    assert!(
        said.starts_with("False"),
        "other pods of that may serve it: {said}"
    );
}

#[test]
fn ports_of_one_gateway_that_lead_to_one_port_are_in_conflict() {
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    mesh.add("shop", &secret("x", &["a.org"]));
    let listeners = format!("{}, {}", http("p", 8443), https("h", 443, "a.org"));
    mesh.add("shop", &at("gw", "g", &listeners));
    let compiled = mesh.compile();
    let state = report(&compiled, "Gateway", "shop", "g");
    let conflicted: Vec<&str> = state.listeners.iter().map(|l| l.conditions[1].reason).collect();
    assert_eq!(conflicted, ["NoConflicts", "ProtocolConflict"]);
    assert!(served(&compiled, "shop", 8443)[0].tls.is_none());
}

fn istio(mode: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: strict}}\nspec: {{selector: {{istio: gw}}, servers: [{{port: {{number: 443, name: h, protocol: HTTPS}}, hosts: [a.org], tls: {{mode: {mode}, credentialName: x}}}}]}}"
    )
}

#[test]
fn istios_server_with_tls_keeps_its_port() {
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    mesh.add("shop", &secret("x", &["a.org"]));
    mesh.add("shop", &at("gw", "g", &https("h", 8443, "a.org")));
    assert!(first(&mesh.compile(), "g", "Conflicted").starts_with("False"));
    mesh.add("shop", &istio("MUTUAL"));
    let compiled = mesh.compile();
    assert_eq!(names(&compiled, "shop", 8443), ["https.443.h.strict.shop"]);
    let said = first(&compiled, "g", "Conflicted");
    assert!(
        said.starts_with(
            "True ProtocolConflict: spec.servers[0] of Istio's Gateway shop/strict has this port of the same pods for TLS"
        ),
        "{said}"
    );
    mesh.remove("networking.istio.io", "Gateway", "shop", "strict");
    let compiled = mesh.compile();
    assert_eq!(names(&compiled, "shop", 8443), ["https.8443.h.g.shop"]);
}

#[test]
fn istios_server_with_bytes_keeps_its_port_and_with_plain_http_does_not() {
    let server = |protocol: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: i}}\nspec: {{selector: {{istio: gw}}, servers: [{{port: {{number: 80, name: p, protocol: {protocol}}}, hosts: ['*']}}]}}"
        )
    };
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    mesh.add("shop", &server("TCP"));
    mesh.add("shop", &at("gw", "g", &http("p", 80)));
    let compiled = mesh.compile();
    assert!(served(&compiled, "shop", 8080).is_empty(), "it leads nowhere yet");
    assert!(first(&compiled, "g", "Conflicted").contains("Istio's Gateway shop/i"));
    mesh.add("shop", &server("HTTP"));
    let compiled = mesh.compile();
    assert!(first(&compiled, "g", "Conflicted").starts_with("False"));
    let [chain] = &served(&compiled, "shop", 8080)[..] else {
        panic!("one for everybody")
    };
    assert!(matches!(chain.protocol, ListenerProtocol::Http(_)));
}

#[test]
fn pods_of_another_namespace_serve_a_gateway_only_where_that_allows_it() {
    let mut mesh = mesh();
    pods(&mut mesh, "edge");
    mesh.add("shop", &at("gw.edge.svc.cluster.local", "g", &http("p", 80)));
    mesh.add(
        "shop",
        &route("r", "{name: g}", &format!(", rules: [{{{TO_A}}}]")),
    );
    let compiled = mesh.compile();
    assert!(served(&compiled, "edge", 8080).is_empty());
    let state = report(&compiled, "Gateway", "shop", "g");
    for condition in ["Accepted", "Programmed"] {
        let said = message(state, condition);
        assert!(
            said.starts_with("False RefNotPermitted: spec.addresses: no ReferenceGrant of namespace edge allows Gateways of namespace shop to refer to Service gw; create one there"),
            "{condition}: {said}"
        );
    }
    assert_eq!(state.fields["addresses"].to_string(), "[]");
    let said = super::gateway_api::said(&mut mesh, "r", "Accepted");
    assert!(said.starts_with("False NoMatchingParent"), "{said}");
    let other = SERVICES_TO_SHOP.replace("name: gw", "name: other");
    for wrong in [
        other,
        SERVICES_TO_SHOP.replace("kind: Gateway", "kind: HTTPRoute"),
    ] {
        mesh.add("edge", &wrong);
        assert!(served(&mesh.compile(), "edge", 8080).is_empty(), "{wrong}");
    }
    mesh.add("edge", SERVICES_TO_SHOP);
    let compiled = mesh.compile();
    assert_eq!(served(&compiled, "edge", 8080).len(), 1);
    let state = report(&compiled, "Gateway", "shop", "g");
    assert!(message(state, "Programmed").starts_with("True"), "{state:?}");
    mesh.remove("gateway.networking.k8s.io", "ReferenceGrant", "edge", "edge");
    assert!(served(&mesh.compile(), "edge", 8080).is_empty());
}

fn passthrough(host: &str) -> String {
    format!("{{name: tls, port: 443, protocol: TLS, hostname: {host}, tls: {{mode: Passthrough}}}}")
}

#[test]
fn what_is_to_pass_is_closed_and_never_ended_where_no_route_has_it() {
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    mesh.add("shop", &secret("x", &["*.org"]));
    let listeners = format!("{}, {}", passthrough("a.org"), https("wild", 443, "'*.org'"));
    mesh.add("shop", &at("gw", "g", &listeners));
    let compiled = mesh.compile();
    let [closed, wild] = &served(&compiled, "shop", 8443)[..] else {
        panic!("{:?}", names(&compiled, "shop", 8443))
    };
    assert_eq!(
        (&closed.server_names[..], closed.tls.is_none()),
        (&["a.org".into()][..], true)
    );
    let ListenerProtocol::Tcp(tcp) = &closed.protocol else {
        panic!("{closed:?}")
    };
    let to: Vec<&str> = tcp.destinations.iter().map(|d| &*d.cluster).collect();
    assert_eq!(to, ["backend.invalid"], "no cluster is called so");
    assert!(wild.tls.is_some());
}

#[test]
fn a_route_whose_names_are_all_narrower_listeners_is_refused() {
    let mut mesh = mesh();
    pods(&mut mesh, "shop");
    let listeners = format!("{}, {}", passthrough("'*.org'"), https("own", 443, "a.org"));
    mesh.add("shop", &at("gw", "g", &listeners));
    let tls_route = |hosts: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TLSRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: [{{name: g, sectionName: tls}}], hostnames: [{hosts}], rules: [{{backendRefs: [{{name: a, port: 80}}]}}]}}"
        )
    };
    let mut accepted = |hosts: &str| {
        mesh.add("shop", &tls_route(hosts));
        let compiled = mesh.compile();
        let attached = report(&compiled, "Gateway", "shop", "g").listeners[0].attached_routes;
        let parents = report(&compiled, "TLSRoute", "shop", "r").parents.as_ref();
        let found = parents.unwrap()[0]
            .conditions
            .iter()
            .find(|c| c.kind == "Accepted");
        let found = found.unwrap();
        (
            format!("{} {}: {}", found.status, found.reason, found.message),
            attached,
        )
    };
    let (said, attached) = accepted("a.org");
    assert!(
        said.starts_with(
            "False NoMatchingListenerHostname: all of the route's hostnames at listener tls (*.org)"
        ),
        "{said}"
    );
    assert_eq!(attached, 0);
    let (said, attached) = accepted("a.org, b.org");
    assert!(said.starts_with("True"), "{said}");
    assert_eq!(attached, 1);
}

#[test]
fn what_has_no_effect_of_a_gateways_tls_is_said() {
    let mut mesh = mesh();
    let listeners = http("p", 80);
    mesh.add("shop", &format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{gatewayClassName: istio, tls: {{backend: {{clientCertificateRef: {{name: x}}}}}}, listeners: [{listeners}]}}"));
    let compiled = mesh.compile();
    let state = report(&compiled, "Gateway", "shop", "g");
    let said = message(state, "FullySupported");
    assert!(
        said.starts_with("False") && said.contains("spec.tls.backend"),
        "{said}"
    );
    assert!(message(state, "Accepted").starts_with("True"));
}
