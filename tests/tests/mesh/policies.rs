//! Who may connect: STRICT, and ALLOW and DENY on principals, namespaces and ports.

use crate::world::{World, eventually};

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: mesh}
spec: {mtls: {mode: STRICT}}
";

#[test]
fn strict_refuses_plaintext_and_passes_probes() {
    let Some(world) = World::new("strict") else { return };
    let direct = format!("{}:8080", world.ip("mesh/web"));
    let status = world.lab.status().unwrap();
    let web = status.service("mesh", "web").unwrap();
    let node_port = web.ports[0].node_port.unwrap();
    let through_node = format!("{}:{node_port}", status.nodes[0].addresses[0]);

    // Without a policy everyone is let in, which also shows that the ways themselves work.
    world.get("default/outsider", &direct).unwrap();
    world.get_from_node("world", &through_node).unwrap();

    // A Service's pods are on both nodes: both of their agents have to know.
    world.apply(STRICT);
    world.settle();
    world.get("default/outsider", &direct).unwrap_err();
    world.get("default/outsider", "web.mesh:80").unwrap_err();
    // Masqueraded to the address of the node, which probes come from as well.
    world.get_from_node("world", &through_node).unwrap_err();
    world.get("mesh/client", &direct).unwrap();
    world.get("mesh/client", "web:80").unwrap();

    let node = world.pod("mesh/web").node;
    world.get_from_node(&node, &direct).unwrap();
    let status = world.settle();
    assert!(
        status
            .pods_of("mesh", "web")
            .all(|pod| pod.ready && pod.restarts == 0),
        "{status}"
    );

    world.delete(STRICT);
    eventually(
        "plaintext is let in again",
        || world.get("default/outsider", &direct),
        Result::is_ok,
    );
}

fn policy(action: &str, rule: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: web, namespace: mesh}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  action: {action}
  rules: [{rule}]
"
    )
}

#[test]
fn policies_choose_by_principal_namespace_and_port() {
    let Some(world) = World::new("policies") else {
        return;
    };
    let direct = format!("{}:8080", world.ip("mesh/web"));
    let other_port = format!("{}:9090", world.ip("mesh/web"));

    world.apply(&policy(
        "ALLOW",
        "{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}",
    ));
    world.settle();
    world.get("mesh/other", &direct).unwrap_err();
    world.get("default/outsider", &direct).unwrap_err();
    world.get("mesh/client", &direct).unwrap();
    world.get("mesh/client", "web:80").unwrap();

    world.apply(&policy("ALLOW", "{from: [{source: {namespaces: [mesh]}}]}"));
    world.settle();
    world.get("mesh/other", &direct).unwrap();
    world.get("default/outsider", &direct).unwrap_err();

    world.apply(&policy("DENY", "{to: [{operation: {ports: ['9090']}}]}"));
    world.settle();
    world.get("mesh/client", &other_port).unwrap_err();
    world.get("default/outsider", &other_port).unwrap_err();
    world.get("mesh/client", &direct).unwrap();
    world.get("default/outsider", &direct).unwrap();
    world.told("denials", |logs| logs.contains("denied by policy mesh/web"));
}
