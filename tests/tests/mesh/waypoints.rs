//! A waypoint that the user made: it routes by what clients are, and is not gone around.

use crate::world::{PATIENCE, World, eventually, field};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: mesh, labels: {istio.io/waypoint-for: service}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

/// Two versions behind one Service, of which one client sees the second.
pub(crate) const VERSIONS: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: mesh, labels: {istio.io/use-waypoint: front}}
spec:
  selector: {app: shop}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-v1, namespace: mesh}
spec:
  selector: {matchLabels: {app: shop, version: v1}}
  template:
    metadata: {labels: {app: shop, version: v1}}
    spec:
      containers: [{name: shop, image: echo, args: [serve, '8080']}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-v2, namespace: mesh}
spec:
  selector: {matchLabels: {app: shop, version: v2}}
  template:
    metadata: {labels: {app: shop, version: v2}}
    spec:
      containers: [{name: shop, image: echo, args: [serve, '8080']}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: mesh}
spec:
  host: shop
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
";

/// The client's version is another one than everybody's.
const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: mesh}
spec:
  hosts: [shop]
  http:
  - match: [{sourceLabels: {app: client}}]
    route: [{destination: {host: shop, subset: v2}}]
  - route: [{destination: {host: shop, subset: v1}}]
";

pub(crate) fn version(body: &str) -> &str {
    let pod = field(body, "pod");
    pod.strip_prefix("shop-")
        .and_then(|rest| rest.get(..2))
        .unwrap_or(pod)
}

#[test]
fn a_waypoint_that_the_user_made_routes_by_the_clients_labels() {
    let Some(world) = World::new("waypoint") else {
        return;
    };
    world.apply(VERSIONS);
    world.apply(RULE);
    world.apply(GATEWAY);
    world
        .lab
        .wait_until("the Gateway's pod is ready", PATIENCE, |status| {
            status.pods_of("mesh", "front").any(|pod| pod.ready)
        })
        .unwrap();
    assert!(
        world.pods("mesh/waypoint").is_empty(),
        "one of the user's own is enough"
    );

    let answers = |from: &str, wanted: &str| {
        let is_wanted =
            |answer: &Result<String, String>| answer.as_ref().is_ok_and(|body| version(body) == wanted);
        eventually("the rule is in force", || world.get(from, "shop:80"), is_wanted);
        for _ in 0..10 {
            let answer = world.get(from, "shop:80");
            assert!(is_wanted(&answer), "{from}: {answer:?}");
        }
    };
    answers("mesh/client", "v2");
    answers("mesh/other", "v1");

    // What dials a pod, not the Service, asked for no waypoint.
    let direct = format!("{}:8080", world.ip("mesh/shop-v1"));
    assert_eq!(version(&world.get("mesh/client", &direct).unwrap()), "v1");
}
