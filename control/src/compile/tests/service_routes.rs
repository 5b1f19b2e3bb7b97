//! HTTPRoutes whose parent is a Service: what its clients get at the waypoint.

use super::fixture::{Held, Mesh, lines};
use super::gateway_api::{TO_A, TO_B, mesh, route, said};

const SERVICE: &str = "{kind: Service, group: '', name: a}";
const LISTENER: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";

fn lines_at_waypoint(mesh: &mut Mesh) -> Vec<String> {
    lines(&Held::by_waypoint(&mesh.compile(), "shop", "waypoint").routes(LISTENER))
}

#[test]
fn a_route_to_a_service_makes_a_waypoint_and_is_all_there_is() {
    let mut mesh = mesh();
    mesh.run_waypoint("shop", "waypoint");
    mesh.add(
        "shop",
        &route(
            "r",
            SERVICE,
            &format!(", rules: [{{{TO_B}, matches: [{{path: {{value: /x}}}}]}}]"),
        ),
    );
    assert_eq!(
        lines_at_waypoint(&mut mesh),
        [
            "shop.r.0[] -> inbound-vip|80|http|b.shop.svc.cluster.local=1"
                .replace("inbound-vip|80|http", "outbound|80|"),
            "no-match[] -> respond 404".to_owned()
        ]
    );
    assert!(said(&mut mesh, "r", "Accepted").starts_with("True"));
    let compiled = mesh.compile();
    assert!(
        compiled
            .rendered
            .keys()
            .any(|k| &*k.kind == "Deployment" && &*k.name == "waypoint")
    );
    mesh.remove("gateway.networking.k8s.io", "HTTPRoute", "shop", "r");
    assert_eq!(
        lines_at_waypoint(&mut mesh),
        [format!("default[] -> {LISTENER}=1")]
    );
}

#[test]
fn a_consumers_route_is_for_its_own_namespace() {
    let mut mesh = mesh();
    mesh.run_waypoint("shop", "waypoint");
    mesh.add("other", &route("theirs", "{kind: Service, group: '', name: a, namespace: shop}", ", rules: [{backendRefs: [{name: a, namespace: shop, port: 80}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: z}]}}]}]"));
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}], to: [{group: '', kind: Service}]}";
    mesh.add("shop", grant);
    assert_eq!(
        lines_at_waypoint(&mut mesh),
        [
            format!("other.theirs.0[namespace=other] -> {LISTENER}=1"),
            "no-match[namespace=other] -> respond 404".to_owned(),
            format!("default[] -> {LISTENER}=1")
        ]
    );
    mesh.add("shop", &route("own", SERVICE, &format!(", rules: [{{{TO_A}}}]")));
    let lines = lines_at_waypoint(&mut mesh);
    assert!(
        lines[0].starts_with("other.theirs.0[namespace=other]") && lines[2].starts_with("shop.own.0[]"),
        "{lines:?}"
    );
}

#[test]
fn a_virtual_service_wins_and_the_route_says_so() {
    let mut mesh = mesh();
    mesh.run_waypoint("shop", "waypoint");
    mesh.add("shop", &route("r", SERVICE, &format!(", rules: [{{{TO_A}}}]")));
    mesh.add("shop", "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [a], http: [{name: vs, route: [{destination: {host: a}}]}]}");
    assert!(lines_at_waypoint(&mut mesh)[0].starts_with("vs[]"));
    let said = said(&mut mesh, "r", "Accepted");
    assert!(
        said.starts_with("False ParentRefConflict: VirtualService shop/v"),
        "{said}"
    );
}

#[test]
fn a_service_parent_must_be_http_and_there() {
    let mut mesh = mesh();
    mesh.service("shop", "db", "app: db", "10.96.0.7", "{name: tcp, port: 5432}");
    for (parent, why) in [
        ("name: nothing", "no Service"),
        ("name: a, port: 81", "has no port 81"),
        ("name: db", "is HTTP by name"),
    ] {
        mesh.add(
            "shop",
            &route("r", &format!("{{kind: Service, group: '', {parent}}}"), ""),
        );
        let said = said(&mut mesh, "r", "Accepted");
        assert!(
            said.starts_with("False NoMatchingParent") && said.contains(why),
            "{parent}: {said}"
        );
    }
}
