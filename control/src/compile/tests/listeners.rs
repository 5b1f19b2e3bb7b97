//! Listeners of the Gateway API with TLS and TCP: which certificates they get, what is passed on, what is said.

use std::collections::BTreeSet;

use aquifer_core::http::listener::{Chain, Listener, ListenerProtocol};
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, message, report};
use super::gateway_api::{SERVICES_TO_SHOP, TO_A, gateway, held, mesh, route, run};
use super::gateway_tls::secret;
use crate::compile::Compiled;
use crate::compile::credentials::namespaces;
use crate::proxies::ProxyKey;

fn https(name: &str, host: &str, references: &str) -> String {
    format!(
        "{{name: {name}, port: 443, protocol: HTTPS, hostname: {host}, tls: {{certificateRefs: [{references}]}}}}"
    )
}

fn passthrough(name: &str, host: &str) -> String {
    format!("{{name: {name}, port: 443, protocol: TLS, hostname: {host}, tls: {{mode: Passthrough}}}}")
}

fn stream(kind: &str, name: &str, parents: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{parentRefs: [{parents}]{rest}}}"
    )
}

fn grant(from_kind: &str, from: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: {from_kind}, namespace: {from}}}], to: [{to}]}}"
    )
}

const SECRET_X: &str = "{group: '', kind: Secret, name: x}";

fn chains(held: &Held, port: u16) -> Vec<Chain> {
    let name = format!("0.0.0.0_{port}");
    if !held.names(type_url::LISTENER).contains(&name) {
        return Vec::new();
    }
    let listener: Listener = held.one(type_url::LISTENER, &name);
    listener.chains.iter().cloned().collect()
}

/// `NAMES -> CLUSTERS` of a chain that forwards connections.
fn line(chain: &Chain) -> String {
    let names: Vec<String> = chain.server_names.iter().map(ToString::to_string).collect();
    let to = match &chain.protocol {
        ListenerProtocol::Http(http) => format!("http {}", http.routes),
        ListenerProtocol::Tcp(tcp) => {
            let all = tcp.destinations.iter();
            let all = all.map(|d| format!("{}={}", d.cluster, d.weight));
            all.collect::<Vec<_>>().join(" ")
        }
    };
    format!("{} -> {to}", names.join(","))
}

fn lines(compiled: &Compiled, port: u16) -> Vec<String> {
    chains(&held(compiled), port).iter().map(line).collect()
}

/// `STATUS REASON: MESSAGE` of a listener's condition.
fn listener(compiled: &Compiled, name: &str, kind: &str) -> String {
    let state = report(compiled, "Gateway", "shop", "g");
    let listener = state.listeners.iter().find(|l| &*l.name == name).unwrap();
    let found = listener.conditions.iter().find(|c| c.kind == kind).unwrap();
    format!("{} {}: {}", found.status, found.reason, found.message)
}

fn of_parent(compiled: &Compiled, kind: &str, name: &str, condition: &str) -> String {
    let parent = &report(compiled, kind, "shop", name).parents.as_ref().unwrap()[0];
    let found = parent.conditions.iter().find(|c| c.kind == condition).unwrap();
    format!("{} {}: {}", found.status, found.reason, found.message)
}

fn wanted(compiled: &Compiled) -> BTreeSet<String> {
    let gateways = compiled.gateway_api.gateways.values();
    let all = namespaces(&compiled.inputs, &compiled.selected, gateways);
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn an_https_listener_has_its_routes_and_its_certificate() {
    let mut mesh = mesh();
    let listeners = format!(
        "{}, {}",
        https("a", "a.org", "{name: x}"),
        https("b", "'*.b.org'", "{name: w}")
    );
    mesh.add("shop", &gateway("g", "istio", &listeners));
    run(&mut mesh, "{name: https-443, port: 443}");
    mesh.add("shop", &secret("x", &["a.org"]));
    mesh.add(
        "shop",
        &route("r", "{name: g}", &format!(", rules: [{{{TO_A}}}]")),
    );
    let compiled = mesh.compile();
    let held = held(&compiled);
    assert_eq!(
        lines(&compiled, 443),
        [
            "a.org -> http https.443.a.g.shop",
            "*.b.org -> http https.443.b.g.shop"
        ]
    );
    assert_eq!(held.names(type_url::SECRET), ["kubernetes-gateway://shop/x"]);
    let tls = chains(&held, 443).remove(0).tls.unwrap();
    assert_eq!(tls.certificates, ["kubernetes-gateway://shop/x".into()]);
    assert_eq!(tls.alpn, ["h2".into(), "http/1.1".into()]);
    let table = held.routes("https.443.a.g.shop");
    assert!(table.virtual_host("a.org").is_some() && table.virtual_host("x.b.org").is_none());
    assert!(listener(&compiled, "a", "ResolvedRefs").starts_with("True"));
    assert!(listener(&compiled, "a", "Programmed").starts_with("True"));
    let said = listener(&compiled, "b", "ResolvedRefs");
    assert!(
        said.starts_with(
            "False InvalidCertificateRef: spec.listeners[1].tls.certificateRefs[0]: no Secret shop/w"
        ),
        "{said}"
    );
    assert!(listener(&compiled, "b", "Programmed").starts_with("False Invalid"));
    assert!(listener(&compiled, "b", "Accepted").starts_with("True"));
    assert_eq!(wanted(&compiled), BTreeSet::from(["shop".to_owned()]));
    let service = compiled.rendered.iter().find(|(k, _)| &*k.kind == "Service");
    let port = &service.unwrap().1["spec"]["ports"][1];
    assert_eq!(
        (&port["name"], &port["appProtocol"]),
        (&"https-443".into(), &"https".into())
    );
}

#[test]
fn a_secret_of_another_namespace_needs_a_grant() {
    let mut mesh = mesh();
    mesh.add(
        "shop",
        &gateway("g", "istio", &https("a", "a.org", "{name: x, namespace: other}")),
    );
    run(&mut mesh, "{name: https-443, port: 443}");
    mesh.add("other", &secret("x", &["a.org"]))
        .add("other", &secret("z", &["a.org"]));
    let secrets = |mesh: &mut Mesh| {
        let compiled = mesh.compile();
        (held(&compiled).names(type_url::SECRET), wanted(&compiled))
    };
    assert_eq!(
        secrets(&mut mesh),
        (Vec::new(), BTreeSet::new()),
        "and nothing is read there"
    );
    let said = listener(mesh.last(), "a", "ResolvedRefs");
    assert!(
        said.starts_with("False RefNotPermitted")
            && said.contains(
                "no ReferenceGrant of namespace other allows Gateways of namespace shop to refer to Secret x"
            ),
        "{said}"
    );
    for wrong in [
        grant("HTTPRoute", "shop", SECRET_X),
        grant("Gateway", "elsewhere", SECRET_X),
        grant("Gateway", "shop", "{group: '', kind: Secret, name: w}"),
        grant("Gateway", "shop", "{group: '', kind: Service, name: x}"),
    ] {
        mesh.add("other", &wrong);
        assert_eq!(secrets(&mut mesh).0, Vec::<String>::new(), "{wrong}");
    }
    mesh.add("other", &grant("Gateway", "shop", SECRET_X));
    let (names, namespaces) = secrets(&mut mesh);
    assert_eq!(names, ["kubernetes-gateway://other/x"], "that one, and no other");
    assert_eq!(namespaces, BTreeSet::from(["other".to_owned()]));
    assert!(listener(mesh.last(), "a", "ResolvedRefs").starts_with("True"));

    mesh.remove("gateway.networking.k8s.io", "ReferenceGrant", "other", "g");
    assert_eq!(
        secrets(&mut mesh).0,
        Vec::<String>::new(),
        "what is taken back goes"
    );
}

/// A Gateway that pods of another namespace serve: they may have what was granted to them.
#[test]
fn a_secret_goes_to_pods_of_the_namespace_that_it_was_granted_to() {
    let mut mesh = mesh();
    mesh.namespace("edge", "");
    mesh.pod("edge", "gw-1", "istio: gw", "10.244.5.1");
    mesh.service("edge", "gw", "istio: gw", "10.96.0.9", "{name: https, port: 443}");
    mesh.add("shop", &format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{gatewayClassName: istio, addresses: [{{type: Hostname, value: gw.edge.svc.cluster.local}}], listeners: [{}]}}", https("a", "a.org", "{name: x}")));
    mesh.add("edge", SERVICES_TO_SHOP);
    mesh.add("shop", &secret("x", &["a.org"]));
    let key = ProxyKey::Gateway {
        namespace: "edge".into(),
        pod: "gw-1".into(),
        uid: "uid-gw-1".into(),
    };
    let compiled = mesh.compile();
    let held = Held::by(&compiled, &key);
    assert!(held.names(type_url::SECRET).is_empty() && !chains(&held, 443).is_empty());
    let said = listener(&compiled, "a", "ResolvedRefs");
    assert!(
        said.contains("namespace shop allows Gateways of namespace edge to refer to Secret x"),
        "{said}"
    );
    mesh.add("shop", &grant("Gateway", "edge", "{group: '', kind: Secret}"));
    let held = Held::by(&mesh.compile(), &key);
    assert_eq!(held.names(type_url::SECRET), ["kubernetes-gateway://shop/x"]);
}

#[test]
fn of_several_certificates_those_of_use_are_served() {
    let mut mesh = mesh();
    let references = "{name: x}, {name: w}, {kind: Bucket, group: s3, name: z}";
    mesh.add("shop", &gateway("g", "istio", &https("a", "a.org", references)));
    run(&mut mesh, "{name: https-443, port: 443}");
    mesh.add("shop", &secret("w", &["a.org"]));
    let compiled = mesh.compile();
    let tls = chains(&held(&compiled), 443).remove(0).tls.unwrap();
    assert_eq!(tls.certificates, ["kubernetes-gateway://shop/w".into()]);
    let said = listener(&compiled, "a", "ResolvedRefs");
    assert!(
        said.starts_with("False InvalidCertificateRef")
            && said.contains("s3/Bucket")
            && said.contains("no Secret shop/x"),
        "{said}"
    );
    assert!(listener(&compiled, "a", "Programmed").starts_with("True"));
    mesh.remove("", "Secret", "shop", "w");
    let compiled = mesh.compile();
    let tls = chains(&held(&compiled), 443).remove(0).tls.unwrap();
    assert_eq!(
        tls.certificates.len(),
        1,
        "closed by a certificate that nobody has"
    );
    assert!(held(&compiled).names(type_url::SECRET).is_empty());
    assert!(listener(&compiled, "a", "Programmed").starts_with("False Invalid"));
}

#[test]
fn a_listener_that_would_do_less_than_is_asked_is_refused() {
    let check = |listener_text: &str, wanted: &str| {
        let mut mesh = mesh();
        mesh.add("shop", &gateway("g", "istio", listener_text));
        let said = listener(&mesh.compile(), "a", "Accepted");
        assert!(said.starts_with(wanted), "{listener_text}: {said}");
    };
    let tls = |tls: &str| format!("{{name: a, port: 443, protocol: HTTPS, tls: {{{tls}}}}}");
    check(
        "{name: a, port: 443, protocol: HTTPS}",
        "False Invalid: tls is missing",
    );
    check(&tls(""), "False Invalid: tls.certificateRefs is empty");
    check(
        &tls("mode: Passthrough"),
        "False Invalid: tls.mode Passthrough needs protocol TLS",
    );
    check(
        &tls("certificateRefs: [{name: x}], options: {a.b/c: d}"),
        "False Invalid: tls.options: a.b/c is not supported",
    );
    check(
        &tls("certificateRefs: [{name: x}], frontendValidation: {caCertificateRefs: []}"),
        "False Invalid: tls.frontendValidation",
    );
    check(
        "{name: a, port: 80, protocol: HTTP, tls: {certificateRefs: [{name: x}]}}",
        "False Invalid: a listener of protocol HTTP has no tls",
    );
    check(
        "{name: a, port: 9000, protocol: TCP, hostname: a.org}",
        "False Invalid: a listener of protocol TCP has no hostname",
    );
    check(
        "{name: a, port: 9000, protocol: UDP}",
        "False UnsupportedProtocol",
    );
    let mut mesh = mesh();
    let spec = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{gatewayClassName: istio, tls: {{frontend: {{default: {{validation: {{}}}}}}}}, listeners: [{}]}}",
        tls("certificateRefs: [{name: x}]")
    );
    mesh.add("shop", &spec);
    assert!(listener(&mesh.compile(), "a", "Accepted").starts_with("False Invalid: spec.tls.frontend"));
}

#[test]
fn a_port_is_used_for_one_thing() {
    let mut mesh = mesh();
    let listeners = "{name: http, port: 80, protocol: HTTP}, {name: tcp, port: 80, protocol: TCP}, {name: bytes, port: 9000, protocol: TCP}, {name: more, port: 9000, protocol: TCP}";
    mesh.add("shop", &gateway("g", "istio", listeners));
    let compiled = mesh.compile();
    let conflict = |name: &str| listener(&compiled, name, "Conflicted");
    assert!(conflict("http").starts_with("False"));
    assert!(conflict("tcp").starts_with("True ProtocolConflict: listener http uses the port for HTTP"));
    assert!(conflict("bytes").starts_with("False"));
    assert!(conflict("more").starts_with("True HostnameConflict"));
}

#[test]
fn gateways_of_the_same_pods_share_their_ports() {
    let mut mesh = mesh();
    mesh.service("shop", "gw", "istio: gw", "10.96.0.9", "{name: p, port: 443}");
    let named = |name: &str, listeners: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: istio, addresses: [{{type: Hostname, value: gw}}], listeners: [{listeners}]}}"
        )
    };
    let more = format!(
        "{}, {}",
        passthrough("b", "b.org"),
        "{name: http, port: 80, protocol: HTTP}"
    );
    mesh.add(
        "shop",
        &named(
            "old",
            &format!(
                "{}, {}",
                passthrough("a", "a.org"),
                "{name: http, port: 80, protocol: HTTP}"
            ),
        ),
    );
    mesh.add(
        "shop",
        &named(
            "g",
            &format!(
                "{}, {more}, {}",
                passthrough("a", "a.org"),
                "{name: tcp, port: 443, protocol: TCP}"
            ),
        ),
    );
    let compiled = mesh.compile();
    let conflict = |name: &str| listener(&compiled, name, "Conflicted");
    assert!(
        conflict("a").starts_with("True HostnameConflict: Gateway shop/old is older"),
        "{}",
        conflict("a")
    );
    assert!(conflict("tcp").starts_with("True ProtocolConflict"));
    assert!(conflict("b").starts_with("False"));
    assert!(conflict("http").starts_with("False"), "hosts of HTTP are merged");
}

#[test]
fn tls_is_passed_on_by_the_routes_names() {
    let mut mesh = mesh();
    let listeners = format!(
        "{}, {}",
        passthrough("tls", "'*.example.com'"),
        https("own", "own.example.com", "{name: x}")
    );
    mesh.add("shop", &gateway("g", "istio", &listeners));
    run(&mut mesh, "{name: tls-443, port: 443}");
    mesh.add("shop", &secret("x", &["own.example.com"]));
    let to = |rest: &str| format!(", rules: [{{backendRefs: [{rest}]}}]");
    mesh.add(
        "shop",
        &stream(
            "TLSRoute",
            "old",
            "{name: g}",
            &format!(
                ", hostnames: [a.example.com, own.example.com]{}",
                to("{name: a, port: 80, weight: 3}, {name: b, port: 80}")
            ),
        ),
    );
    mesh.add(
        "shop",
        &stream(
            "TLSRoute",
            "new",
            "{name: g, sectionName: tls}",
            &format!(
                ", hostnames: [a.example.com, b.example.com]{}",
                to("{name: b, port: 80}")
            ),
        ),
    );
    let compiled = mesh.compile();
    assert_eq!(
        lines(&compiled, 443),
        [
            "a.example.com -> outbound|80||a.shop.svc.cluster.local=3 outbound|80||b.shop.svc.cluster.local=1",
            "b.example.com -> outbound|80||b.shop.svc.cluster.local=1",
            "*.example.com -> backend.invalid=1",
            "own.example.com -> http https.443.own.g.shop",
        ],
        "a name belongs to the oldest route, and to the listener that is for it alone"
    );
    assert!(chains(&held(&compiled), 443)[0].tls.is_none());
    assert!(of_parent(&compiled, "TLSRoute", "old", "Accepted").starts_with("True"));
    assert!(of_parent(&compiled, "TLSRoute", "new", "Accepted").starts_with("True"));
    let state = report(&compiled, "Gateway", "shop", "g");
    let counts: Vec<usize> = state.listeners.iter().map(|l| l.attached_routes).collect();
    assert_eq!(counts, [2, 0]);
    assert_eq!(state.listeners[0].supported_kinds[0]["kind"], "TLSRoute");

    let late = format!(", hostnames: [a.example.com]{}", to("{name: b, port: 80}"));
    mesh.add("shop", &stream("TLSRoute", "late", "{name: g}", &late));
    let said = of_parent(&mesh.compile(), "TLSRoute", "late", "Accepted");
    assert!(
        said.starts_with("False ParentRefConflict: TLSRoute shop/old is older"),
        "{said}"
    );
    mesh.add("shop", &route("http", "{name: g, sectionName: tls}", ""));
    let said = of_parent(&mesh.compile(), "HTTPRoute", "http", "Accepted");
    assert!(said.starts_with("False NotAllowedByListeners"), "{said}");
}

#[test]
fn bytes_go_where_the_oldest_route_of_the_port_says() {
    let mut mesh = mesh();
    let listeners = "{name: bytes, port: 9000, protocol: TCP}, {name: ended, port: 9443, protocol: TLS, tls: {certificateRefs: [{name: x}]}}";
    mesh.add("shop", &gateway("g", "istio", listeners));
    run(
        &mut mesh,
        "{name: tcp-9000, port: 9000, targetPort: 9100}, {name: tls-9443, port: 9443}",
    );
    mesh.add("shop", &secret("x", &["a.org"]));
    assert!(
        lines(&mesh.compile(), 9100).is_empty(),
        "without a route there is no socket"
    );
    let to = |name: &str| format!(", rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]");
    mesh.add("shop", &stream("TCPRoute", "old", "{name: g}", &to("a")));
    mesh.add(
        "shop",
        &stream("TCPRoute", "new", "{name: g, sectionName: bytes}", &to("b")),
    );
    let compiled = mesh.compile();
    let to_a = " -> outbound|80||a.shop.svc.cluster.local=1";
    assert_eq!(lines(&compiled, 9100), [to_a]);
    assert_eq!(lines(&compiled, 9443), [to_a]);
    assert!(chains(&held(&compiled), 9443)[0].tls.is_some());
    let said = of_parent(&compiled, "TCPRoute", "new", "Accepted");
    assert!(
        said.starts_with("False ParentRefConflict: TCPRoute shop/old"),
        "{said}"
    );

    for (backend, reason) in [
        ("{name: nobody, port: 80}", "False BackendNotFound"),
        ("{name: a, namespace: other, port: 80}", "False RefNotPermitted"),
        ("{name: a, port: 80, weight: 0}", "True"),
    ] {
        mesh.add(
            "shop",
            &stream(
                "TCPRoute",
                "old",
                "{name: g}",
                &format!(", rules: [{{backendRefs: [{backend}]}}]"),
            ),
        );
        mesh.remove("gateway.networking.k8s.io", "TCPRoute", "shop", "new");
        let compiled = mesh.compile();
        let said = of_parent(&compiled, "TCPRoute", "old", "ResolvedRefs");
        assert!(said.starts_with(reason), "{said}");
        let [only] = &lines(&compiled, 9100)[..] else {
            panic!("the socket stays, connections are closed")
        };
        let names = held(&compiled).names(type_url::CLUSTER);
        let cluster = only.trim_start_matches(" -> ").trim_end_matches("=1");
        assert!(
            !names.contains(&cluster.to_owned()),
            "{only} leads somewhere: {names:?}"
        );
        mesh.add(
            "shop",
            &stream("TCPRoute", "new", "{name: g, sectionName: bytes}", &to("b")),
        );
    }
}

#[test]
fn connections_to_a_service_go_where_its_tcp_route_says() {
    let mut mesh = mesh();
    mesh.run_waypoint("shop", "waypoint");
    mesh.service("shop", "db", "app: a", "10.96.0.7", "{name: tcp, port: 5432}");
    let parent = "{group: '', kind: Service, name: db}";
    let rule = ", rules: [{backendRefs: [{name: a, port: 80, weight: 3}, {name: b, port: 80}]}]";
    mesh.add("shop", &stream("TCPRoute", "r", parent, rule));
    let lines = |mesh: &mut Mesh| {
        let held = Held::by_waypoint(&mesh.compile(), "shop", "waypoint");
        let listener: Listener = held.one(
            type_url::LISTENER,
            "inbound-vip|5432|tcp|db.shop.svc.cluster.local",
        );
        listener.chains.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        lines(&mut mesh),
        [" -> outbound|80||a.shop.svc.cluster.local=3 outbound|80||b.shop.svc.cluster.local=1"]
    );
    assert!(of_parent(mesh.last(), "TCPRoute", "r", "Accepted").starts_with("True"));
    let mut refused = |parent: &str, kind: &str, wanted: &str| {
        mesh.add("shop", &stream(kind, "q", parent, rule));
        let said = of_parent(&mesh.compile(), kind, "q", "Accepted");
        assert!(said.starts_with(wanted), "{said}");
        mesh.remove("gateway.networking.k8s.io", kind, "shop", "q");
    };
    refused(
        parent,
        "TCPRoute",
        "False ParentRefConflict: TCPRoute shop/r is older",
    );
    refused(
        parent,
        "TLSRoute",
        "False NoMatchingParent: a TLSRoute is for Gateways",
    );
    refused(
        "{group: '', kind: Service, name: a}",
        "TCPRoute",
        "False NoMatchingParent: every port of a.shop.svc.cluster.local",
    );
    refused(
        "{group: '', kind: Service, name: x, namespace: other}",
        "TCPRoute",
        "False NoMatchingParent: a TCPRoute is for Services of its own namespace",
    );
    mesh.add("shop", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: vs}\nspec: {hosts: [db], tcp: [{route: [{destination: {host: b, port: {number: 80}}}]}]}");
    let said = of_parent(&mesh.compile(), "TCPRoute", "r", "Accepted");
    assert!(
        said.starts_with("False ParentRefConflict: VirtualService shop/vs"),
        "{said}"
    );
    let lines = |mesh: &mut Mesh| {
        let held = Held::by_waypoint(&mesh.compile(), "shop", "waypoint");
        let listener: Listener = held.one(
            type_url::LISTENER,
            "inbound-vip|5432|tcp|db.shop.svc.cluster.local",
        );
        listener.chains.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(lines(&mut mesh), [" -> outbound|80||b.shop.svc.cluster.local=1"]);
}

#[test]
fn an_unknown_field_of_ours_is_named_and_others_are_left_alone() {
    let mut mesh = mesh();
    let spec = |name: &str, class: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{gatewayClassName: {class}, listners: [], listeners: [{{name: a, port: 80, protocol: HTTP, hostnam: a.org}}]}}"
        )
    };
    mesh.add("shop", &spec("g", "istio"))
        .add("shop", &spec("foreign", "nginx"));
    let compiled = mesh.compile();
    let state = report(&compiled, "Gateway", "shop", "g");
    let fields: Vec<&str> = state.notices.iter().map(|n| &*n.field).collect();
    assert_eq!(
        fields,
        ["spec.listeners[0].hostnam", "spec.listners"],
        "{state:?}"
    );
    assert!(message(state, "FullySupported").starts_with("False"));
    assert!(!compiled.reports.keys().any(|k| &*k.name == "foreign"));
}
