//! Gateways and HTTPRoutes: what is attached where, what is routed how, and what is said about it.

use aquifer_core::http::action::Action;
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, line, message, report};
use crate::compile::Compiled;
use crate::compile::report::{Condition, ObjectReport};
use crate::proxies::ProxyKey;

pub(super) fn gateway(name: &str, class: &str, listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, uid: uid-{name}}}\nspec: {{gatewayClassName: {class}, listeners: [{listeners}]}}"
    )
}

pub(super) fn route(name: &str, parents: &str, rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec: {{parentRefs: [{parents}]{rest}}}"
    )
}

pub(super) const TO_A: &str = "backendRefs: [{name: a, port: 80}]";
pub(super) const TO_B: &str = "backendRefs: [{name: b, port: 80}]";
const A: &str = "outbound|80||a.shop.svc.cluster.local=1";
const B: &str = "outbound|80||b.shop.svc.cluster.local=1";
/// Lets Gateways of `shop` be served behind Services.
pub(super) const SERVICES_TO_SHOP: &str = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: edge}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: '', kind: Service, name: gw}]}";
const HTTP: &str = "{name: http, port: 80, protocol: HTTP}";

pub(super) fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient")
        .namespace("other", "team: a");
    for (name, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
        mesh.pod("shop", name, &format!("app: {name}"), &ip.replace("96", "244"));
        mesh.service(
            "shop",
            name,
            &format!("app: {name}"),
            ip,
            "{name: http, port: 80, targetPort: 8080}",
        );
    }
    mesh
}

/// The pod and Service of a Gateway `g`, as the cluster makes them from what is rendered.
pub(super) fn run(mesh: &mut Mesh, ports: &str) {
    mesh.pod(
        "shop",
        "g-pod",
        "gateway.networking.k8s.io/gateway-name: g",
        "10.244.8.1",
    );
    mesh.service(
        "shop",
        "g-istio",
        "gateway.networking.k8s.io/gateway-name: g",
        "10.96.8.1",
        ports,
    );
}

pub(super) fn held(compiled: &Compiled) -> Held {
    let key = ProxyKey::Gateway {
        namespace: "shop".into(),
        pod: "g-pod".into(),
        uid: "uid-g-pod".into(),
    };
    Held::by(compiled, &key)
}

/// `NAME -> DESTINATIONS` of the routes for a host at port 80.
fn routes(compiled: &Compiled, host: &str) -> Vec<String> {
    let table = held(compiled).routes("http.80");
    let found = table
        .virtual_host(host)
        .map(|h| h.routes.iter().map(line).collect());
    found.unwrap_or_default()
}

fn parent<'r>(report: &'r ObjectReport, at: usize, kind: &str) -> &'r Condition {
    let parent = &report.parents.as_ref().unwrap()[at];
    parent.conditions.iter().find(|c| c.kind == kind).unwrap()
}

pub(super) fn said(mesh: &mut Mesh, name: &str, kind: &str) -> String {
    let compiled = mesh.compile();
    let condition = parent(report(&compiled, "HTTPRoute", "shop", name), 0, kind).clone();
    format!("{} {}: {}", condition.status, condition.reason, condition.message)
}

#[test]
fn a_gateway_is_deployed_and_serves_its_routes() {
    let mut mesh = mesh();
    mesh.add("shop", &gateway("g", "istio", HTTP));
    mesh.add(
        "shop",
        &route("r", "{name: g}", &format!(", rules: [{{{TO_A}}}]")),
    );
    let compiled = mesh.compile();
    let made: Vec<String> = compiled.rendered.keys().map(ToString::to_string).collect();
    assert_eq!(
        made,
        [
            "Service shop/g-istio",
            "ServiceAccount shop/g-istio",
            "Deployment shop/g-istio"
        ]
    );
    let service = compiled
        .rendered
        .iter()
        .find(|(k, _)| &*k.kind == "Service")
        .unwrap()
        .1;
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(service["spec"]["ports"][1]["port"], 80);
    let state = report(&compiled, "Gateway", "shop", "g");
    assert!(
        message(state, "Accepted").starts_with("True Accepted"),
        "{state:?}"
    );
    assert!(
        message(state, "Programmed").starts_with("False AddressNotAssigned"),
        "{state:?}"
    );

    run(&mut mesh, "{name: http, port: 80}");
    let compiled = mesh.compile();
    assert_eq!(routes(&compiled, "any.example"), [format!("shop.r.0[] -> {A}")]);
    let state = report(&compiled, "Gateway", "shop", "g");
    assert!(
        message(state, "Programmed").starts_with("True Programmed"),
        "{state:?}"
    );
    assert_eq!(state.fields["addresses"][0]["value"], "10.96.8.1");
    let [listener] = state.listeners.as_slice() else {
        panic!("{state:?}")
    };
    assert_eq!(listener.attached_routes, 1);
    assert!(
        listener
            .conditions
            .iter()
            .all(|c| (c.kind == "Conflicted") == (c.status == "False")),
        "{listener:?}"
    );
}

#[test]
fn a_load_balancers_addresses_are_the_gateways() {
    let mut mesh = mesh();
    mesh.add("shop", &gateway("g", "istio", HTTP));
    mesh.pod(
        "shop",
        "g-pod",
        "gateway.networking.k8s.io/gateway-name: g",
        "10.244.8.1",
    );
    let service = |ingress: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: g-istio}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.8.1, selector: {{gateway.networking.k8s.io/gateway-name: g}}, ports: [{{port: 80}}]}}\nstatus: {{loadBalancer: {{ingress: [{ingress}]}}}}"
        )
    };
    mesh.add("shop", &service(""));
    let compiled = mesh.compile();
    assert!(message(report(&compiled, "Gateway", "shop", "g"), "Programmed").contains("AddressNotAssigned"));
    mesh.add("shop", &service("{ip: 192.0.2.1}, {hostname: lb.example}"));
    let compiled = mesh.compile();
    let state = report(&compiled, "Gateway", "shop", "g");
    let addresses = &state.fields["addresses"];
    assert_eq!(
        (&addresses[0]["value"], &addresses[1]["type"]),
        (&"192.0.2.1".into(), &"Hostname".into())
    );
    assert!(message(state, "Programmed").starts_with("True"));
}

#[test]
fn annotations_and_infrastructure_shape_what_is_deployed() {
    let mut mesh = mesh();
    mesh.add("shop", &format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, annotations: {{networking.istio.io/service-type: ClusterIP, gateway.istio.io/service-account: mine, gateway.istio.io/name-override: edge}}}}\nspec: {{gatewayClassName: aquifer, listeners: [{HTTP}], infrastructure: {{labels: {{team: a, istio.io/dataplane-mode: ambient}}, annotations: {{note: b}}}}}}"));
    let compiled = mesh.compile();
    let made: Vec<String> = compiled.rendered.keys().map(ToString::to_string).collect();
    assert_eq!(made, ["Service shop/edge", "Deployment shop/edge"]);
    let find = |kind: &str| {
        compiled
            .rendered
            .iter()
            .find(|(k, _)| &*k.kind == kind)
            .unwrap()
            .1
    };
    assert_eq!(find("Service")["spec"]["type"], "ClusterIP");
    let template = &find("Deployment")["spec"]["template"];
    assert_eq!(template["spec"]["serviceAccountName"], "mine");
    assert_eq!(template["metadata"]["labels"]["team"], "a");
    assert_eq!(
        template["metadata"]["labels"]["istio.io/dataplane-mode"], "none",
        "not the user's to change"
    );
    assert_eq!(template["metadata"]["annotations"]["note"], "b");
    assert_eq!(template["metadata"]["annotations"]["prometheus.io/port"], "15020");
}

#[test]
fn a_named_service_is_used_instead() {
    let mut mesh = mesh();
    mesh.namespace("edge", "");
    mesh.pod("edge", "gw-1", "istio: gw", "10.244.5.1");
    mesh.service(
        "edge",
        "gw",
        "istio: gw",
        "10.96.0.9",
        "{name: http, port: 80, targetPort: 8080}",
    );
    mesh.add("shop", &format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g}}\nspec: {{gatewayClassName: istio, addresses: [{{type: Hostname, value: gw.edge.svc.cluster.local}}], listeners: [{HTTP}]}}"));
    mesh.add("edge", SERVICES_TO_SHOP);
    mesh.add(
        "shop",
        &route("r", "{name: g}", &format!(", rules: [{{{TO_A}}}]")),
    );
    let compiled = mesh.compile();
    assert!(compiled.rendered.is_empty());
    let key = ProxyKey::Gateway {
        namespace: "edge".into(),
        pod: "gw-1".into(),
        uid: "uid-gw-1".into(),
    };
    assert_eq!(
        Held::by(&compiled, &key).names(type_url::LISTENER),
        ["0.0.0.0_8080"]
    );
}

#[test]
fn rules_of_all_routes_are_in_the_apis_order() {
    let mut mesh = mesh();
    mesh.add("shop", &gateway("g", "istio", HTTP));
    run(&mut mesh, "{name: http, port: 80}");
    let rules = format!(
        ", rules: [{{{TO_A}, name: any}}, {{{TO_A}, name: long, matches: [{{path: {{value: /a/b}}}}]}}]"
    );
    mesh.add("shop", &route("old", "{name: g}", &rules));
    let rules = format!(
        ", rules: [{{{TO_B}, name: short, matches: [{{path: {{value: /a}}}}]}}, {{{TO_B}, name: exact, matches: [{{path: {{type: Exact, value: /a}}}}]}}, {{{TO_B}, name: late}}, {{{TO_B}, name: get, matches: [{{method: GET}}]}}]"
    );
    mesh.add("shop", &route("new", "{name: g}", &rules));
    let names: Vec<String> = routes(&mesh.compile(), "x")
        .iter()
        .map(|l| l.split('[').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["exact", "long", "short", "get", "any", "late"]);
}

#[test]
fn a_host_belongs_to_the_most_specific_listener() {
    let mut mesh = mesh();
    let listeners = "{name: any, port: 80, protocol: HTTP}, {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'}, {name: one, port: 80, protocol: HTTP, hostname: a.example.com}";
    mesh.add("shop", &gateway("g", "istio", listeners));
    run(&mut mesh, "{name: http, port: 80}");
    mesh.add(
        "shop",
        &route(
            "on-any",
            "{name: g, sectionName: any}",
            &format!(", hostnames: [a.example.com, b.example.com, c.org], rules: [{{{TO_A}}}]"),
        ),
    );
    mesh.add(
        "shop",
        &route(
            "on-wild",
            "{name: g, sectionName: wild}",
            &format!(", rules: [{{{TO_B}}}]"),
        ),
    );
    let compiled = mesh.compile();
    assert_eq!(
        routes(&compiled, "a.example.com"),
        Vec::<String>::new(),
        "the listener of that name has no route"
    );
    assert_eq!(
        routes(&compiled, "b.example.com"),
        [format!("shop.on-wild.0[] -> {B}")]
    );
    assert_eq!(routes(&compiled, "c.org"), [format!("shop.on-any.0[] -> {A}")]);
    assert_eq!(routes(&compiled, "d.org"), Vec::<String>::new());
}

#[test]
fn a_route_is_told_why_it_is_not_attached() {
    let mut mesh = mesh();
    let listeners = "{name: http, port: 80, protocol: HTTP, hostname: '*.example.com'}, {name: udp, port: 443, protocol: UDP}, {name: grpc, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}, {name: twin, port: 80, protocol: HTTP, hostname: '*.example.com'}";
    mesh.add("shop", &gateway("g", "istio", listeners));
    let check = |mesh: &mut Mesh, parent: &str, hosts: &str, wanted: &str| {
        mesh.add(
            "shop",
            &route(
                "r",
                parent,
                &format!(", hostnames: [{hosts}], rules: [{{{TO_A}}}]"),
            ),
        );
        let said = said(mesh, "r", "Accepted");
        assert!(said.starts_with(wanted), "{parent} {hosts}: {said}");
    };
    check(&mut mesh, "{name: g}", "a.example.com", "True Accepted");
    check(
        &mut mesh,
        "{name: g}",
        "a.org",
        "False NoMatchingListenerHostname",
    );
    check(
        &mut mesh,
        "{name: g, sectionName: nothing}",
        "",
        "False NoMatchingParent",
    );
    check(&mut mesh, "{name: g, port: 8080}", "", "False NoMatchingParent");
    check(
        &mut mesh,
        "{name: g, sectionName: udp}",
        "",
        "False NoMatchingParent: listener udp is not served: protocol UDP",
    );
    check(
        &mut mesh,
        "{name: g, sectionName: grpc}",
        "",
        "False NotAllowedByListeners",
    );
    check(
        &mut mesh,
        "{name: g, sectionName: twin}",
        "",
        "False NoMatchingParent: listener twin is not served: listener http has the same",
    );
    let compiled = mesh.compile();
    let state = report(&compiled, "Gateway", "shop", "g");
    assert!(
        message(state, "Accepted").starts_with("True ListenersNotValid: 2 of 4"),
        "{state:?}"
    );
    let conditions = |name: &str| {
        let listener = state.listeners.iter().find(|l| &*l.name == name).unwrap();
        let all = listener
            .conditions
            .iter()
            .map(|c| format!("{}={}", c.kind, c.reason));
        all.collect::<Vec<_>>().join(" ")
    };
    assert!(
        conditions("udp").starts_with("Accepted=UnsupportedProtocol"),
        "{}",
        conditions("udp")
    );
    assert!(conditions("twin").contains("Conflicted=HostnameConflict"));
    assert!(conditions("grpc").contains("ResolvedRefs=InvalidRouteKinds"));
}

#[test]
fn routes_of_other_namespaces_must_be_allowed() {
    for (allowed, wanted) in [
        ("", "False NotAllowedByListeners"),
        (", allowedRoutes: {namespaces: {from: All}}", "True"),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}",
            "True",
        ),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: b}}}}",
            "False NotAllowedByListeners",
        ),
    ] {
        let mut mesh = mesh();
        mesh.add(
            "shop",
            &gateway(
                "g",
                "istio",
                &format!("{{name: http, port: 80, protocol: HTTP{allowed}}}"),
            ),
        );
        mesh.add("other", &route("r", "{name: g, namespace: shop}", ""));
        let compiled = mesh.compile();
        let condition = parent(report(&compiled, "HTTPRoute", "other", "r"), 0, "Accepted");
        let said = format!("{} {}", condition.status, condition.reason);
        assert!(said.starts_with(wanted), "{allowed}: {said}");
    }
}

#[test]
fn other_implementations_objects_are_left_alone() {
    let mut mesh = mesh();
    mesh.add("shop", &gateway("g", "nginx", HTTP));
    mesh.add(
        "shop",
        &route("r", "{name: g}", ", rules: [{filters: [{type: CORS}]}]"),
    );
    mesh.add("shop", &route("s", "{name: g}", ""));
    mesh.add("", "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: nginx}\nspec: {controllerName: nginx.org/x}");
    let compiled = mesh.compile();
    let kinds: Vec<&str> = compiled
        .reports
        .keys()
        .filter(|k| k.group.starts_with("gateway"))
        .map(|k| &*k.kind)
        .collect();
    assert_eq!(kinds, Vec::<&str>::new());
    assert!(compiled.rendered.is_empty());
    mesh.add("", "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: nginx}\nspec: {controllerName: istio.io/gateway-controller}");
    let compiled = mesh.compile();
    assert!(message(report(&compiled, "GatewayClass", "", "nginx"), "Accepted").starts_with("True"));
    assert!(message(report(&compiled, "Gateway", "shop", "g"), "Accepted").starts_with("True"));
}

#[test]
fn backends_that_lead_nowhere_answer_500_for_their_share() {
    let mut mesh = mesh();
    mesh.add("shop", &gateway("g", "istio", HTTP));
    run(&mut mesh, "{name: http, port: 80}");
    mesh.service("other", "c", "app: c", "10.96.0.3", "{name: http, port: 80}");
    let there = "{name: a, port: 80, weight: 3}";
    let mut check = |backend: &str, reason: &str, cluster: &str| {
        mesh.add(
            "shop",
            &route(
                "r",
                "{name: g}",
                &format!(", rules: [{{backendRefs: [{there}, {backend}]}}]"),
            ),
        );
        let said = said(&mut mesh, "r", "ResolvedRefs");
        assert!(said.starts_with(reason), "{backend}: {said}");
        let table = held(&mesh.compile()).routes("http.80");
        let Action::Forward(forward) = &table.virtual_hosts()[0].routes[0].action else {
            panic!("{table:?}")
        };
        assert_eq!(forward.cluster_not_found, 500);
        let names: Vec<&str> = forward.destinations.iter().map(|d| &*d.cluster).collect();
        assert_eq!(names, ["outbound|80||a.shop.svc.cluster.local", cluster]);
    };
    check(
        "{name: nothing, port: 80}",
        "False BackendNotFound",
        "outbound|80||nothing.shop.svc.cluster.local",
    );
    check(
        "{name: b, port: 99}",
        "False BackendNotFound",
        "outbound|99||b.shop.svc.cluster.local",
    );
    check(
        "{name: c, namespace: other, port: 80}",
        "False RefNotPermitted",
        "outbound|80||backend.invalid",
    );
    check(
        "{name: x, kind: Bucket, group: s3}",
        "False InvalidKind",
        "outbound|80||backend.invalid",
    );
    mesh.add("other", "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service, name: c}]}");
    mesh.add(
        "shop",
        &route(
            "r",
            "{name: g}",
            ", rules: [{backendRefs: [{name: c, namespace: other, port: 80}]}]",
        ),
    );
    assert!(said(&mut mesh, "r", "ResolvedRefs").starts_with("True"));
    assert_eq!(
        routes(&mesh.compile(), "x"),
        ["shop.r.0[] -> outbound|80||c.other.svc.cluster.local=1"]
    );
    for nothing in ["", "backendRefs: [{name: a, port: 80, weight: 0}]"] {
        mesh.add(
            "shop",
            &route("r", "{name: g}", &format!(", rules: [{{{nothing}}}]")),
        );
        assert_eq!(routes(&mesh.compile(), "x"), ["shop.r.0[] -> respond 500"]);
    }
}

#[test]
fn a_redirect_leads_to_the_listeners_port() {
    let mut mesh = mesh();
    mesh.add(
        "shop",
        &gateway(
            "g",
            "istio",
            "{name: http, port: 80, protocol: HTTP}, {name: alt, port: 8080, protocol: HTTP}",
        ),
    );
    run(&mut mesh, "{name: http, port: 80}, {name: alt, port: 8080}");
    let mut port = |table: &str, to: &str| {
        mesh.add(
            "shop",
            &route(
                "r",
                "{name: g}",
                &format!(", rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {to}}}]}}]"),
            ),
        );
        let table = held(&mesh.compile()).routes(table);
        let Action::Redirect(redirect) = &table.virtual_hosts()[0].routes[0].action else {
            panic!("{table:?}")
        };
        redirect.port
    };
    assert_eq!(port("http.80", "{hostname: x.example}"), None);
    assert_eq!(port("http.8080", "{hostname: x.example}"), Some(8080));
    assert_eq!(port("http.8080", "{scheme: https}"), None);
    assert_eq!(port("http.8080", "{scheme: https, port: 443}"), None);
    assert_eq!(port("http.8080", "{port: 9000}"), Some(9000));
}

#[test]
fn an_edit_that_cannot_be_kept_leaves_the_last_version_in_effect() {
    let mut mesh = mesh();
    mesh.add("shop", &gateway("g", "istio", HTTP));
    run(&mut mesh, "{name: http, port: 80}");
    mesh.add(
        "shop",
        &route("r", "{name: g}", &format!(", rules: [{{{TO_A}}}]")),
    );
    mesh.add(
        "shop",
        &route("r", "{name: g}", ", rules: [{filters: [{type: RequestMirror}]}]"),
    );
    let said = said(&mut mesh, "r", "Accepted");
    assert!(
        said.starts_with("False UnsupportedValue: spec.rules[0].filters[0].type"),
        "{said}"
    );
    assert!(said.contains("the last accepted version"), "{said}");
    assert_eq!(routes(&mesh.compile(), "x"), [format!("shop.r.0[] -> {A}")]);
}

#[test]
fn classes_are_made_where_the_cluster_has_the_kind() {
    use crate::store::SourceEvent;
    let mut mesh = mesh();
    let mut settings = (*mesh.settings).clone();
    settings.deployment.owned = true;
    mesh.settings = settings.into();
    let made = |mesh: &mut Mesh| -> Vec<String> {
        let compiled = mesh.compile();
        let classes = compiled.rendered.keys().filter(|k| &*k.kind == "GatewayClass");
        classes.map(|k| k.name.to_string()).collect()
    };
    assert_eq!(
        made(&mut mesh),
        ["aquifer", "aquifer-waypoint", "istio", "istio-waypoint"]
    );
    mesh.add("", "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: istio}\nspec: {controllerName: istio.io/gateway-controller}");
    assert_eq!(made(&mut mesh).len(), 3, "somebody made one already");
    mesh.remove("gateway.networking.k8s.io", "GatewayClass", "", "istio");
    let origin: std::sync::Arc<str> = "gatewayclasses.gateway.networking.k8s.io".into();
    mesh.store.apply(SourceEvent::Unreadable {
        origin,
        problems: vec!["no such kind".to_owned()],
    });
    assert!(made(&mut mesh).is_empty());
}
