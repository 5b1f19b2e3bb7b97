//! Secrets of gateways: read where the gateway chart's role allows it, and nowhere else.

use serde_json::json;

use crate::world::{World, helm_template};

const EDGE: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: edge}
---
apiVersion: v1
kind: Pod
metadata: {name: gateway, namespace: edge, labels: {istio: edge}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: istio-proxy, image: 'aquifer-cluster/app:1', args: [serve, '8080']}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tls, namespace: shop}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example], tls: {mode: SIMPLE, credentialName: cert}}
";

pub(crate) fn are_read_where_a_role_allows_it(world: &World) {
    world.apply(EDGE);
    let resolved = || world.condition("shop", "gateways.networking.istio.io/tls", "ResolvedRefs");
    world.until("the missing right is said", || {
        let said = resolved();
        said.starts_with("False NotFound") && said.contains("cannot be read") && said.contains("edge/cert")
    });
    let kept = || world.condition("shop", "virtualservice/good", "Accepted");
    assert!(kept().starts_with("True"), "the others go on");

    world.apply(&helm_template(
        "deploy/chart/charts/gateway",
        &["edge", "-n", "edge", "-s", "templates/rbac.yaml"],
    ));
    world.until("the missing Secret is said", || {
        resolved().contains("no Secret edge/cert")
    });
    world.apply(&secret());
    world.until("a Secret that comes is taken", || resolved().starts_with("True"));
    world.kubectl(&["delete", "secret", "cert", "-n", "edge"]);
    world.until("and one that goes is missed", || {
        resolved().starts_with("False NotFound")
    });
    world.kubectl(&["delete", "namespace", "edge"]);
    world.kubectl(&["delete", "gateways.networking.istio.io", "tls", "-n", "shop"]);
}

fn secret() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": "cert", "namespace": "edge" },
        "stringData": { "tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem() },
    })
    .to_string()
}
