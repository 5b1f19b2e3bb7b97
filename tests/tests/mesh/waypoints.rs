//! A waypoint that the user made: it routes by what clients are, and is not gone around.

use crate::world::{World, eventually, field};

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
      containers: [{name: shop, image: echo, args: [serve, '8080'], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-v2, namespace: mesh}
spec:
  selector: {matchLabels: {app: shop, version: v2}}
  template:
    metadata: {labels: {app: shop, version: v2}}
    spec:
      containers: [{name: shop, image: echo, args: [serve, '8080'], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]
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
    world.settle();
    assert!(
        world.pods("mesh/waypoint").is_empty(),
        "one of the user's own is enough"
    );

    // Before that either version answers, and by chance the right one.
    let answers = |from: &str, wanted: &str| {
        let get = || world.get(from, "shop:80");
        eventually("traffic goes through the waypoint", get, through_waypoint);
        for _ in 0..10 {
            let answer = get();
            let is_wanted = answer.as_ref().is_ok_and(|body| version(body) == wanted);
            assert!(is_wanted && through_waypoint(&answer), "{from}: {answer:?}");
        }
    };
    answers("mesh/client", "v2");
    answers("mesh/other", "v1");

    // What dials a pod, not the Service, asked for no waypoint.
    let direct = format!("{}:8080", world.ip("mesh/shop-v1"));
    assert_eq!(version(&world.get("mesh/client", &direct).unwrap()), "v1");
}

/// Of pods alone, with the namespace's label and one of a pod that wants none.
const FOR_PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: front}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: alone, namespace: mesh}
spec:
  selector: {matchLabels: {app: alone}}
  template:
    metadata: {labels: {app: alone, istio.io/use-waypoint: none}}
    spec:
      containers: [{name: alone, image: echo, args: [serve, '8080'], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]
";

/// Asked of the pods themselves, and of nothing that is in front of them.
const DENY_OTHER: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: shop, namespace: mesh}
spec:
  selector: {matchLabels: {app: shop}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/default]}}], to: [{operation: {ports: ['8080']}}]}]
";

/// Whether the answer says that the request was looked at on its way.
fn through_waypoint(answer: &Result<String, String>) -> bool {
    answer
        .as_ref()
        .is_ok_and(|body| body.to_ascii_lowercase().contains("header x-request-id"))
}

#[test]
fn a_pods_own_address_is_behind_the_waypoint_that_it_names() {
    let Some(world) = World::new("pod-waypoint") else {
        return;
    };
    world.apply(&VERSIONS.replace("labels: {istio.io/use-waypoint: front}", "labels: {}"));
    world.apply(&GATEWAY.replace("waypoint-for: service", "waypoint-for: workload"));
    world.apply(FOR_PODS);
    world.settle();
    let (pod, alone) = (world.ip("mesh/shop-v1"), world.ip("mesh/alone"));
    let (direct, alone) = (format!("{pod}:8080"), format!("{alone}:8080"));
    eventually(
        "the pod is reached through its waypoint",
        || world.get("mesh/client", &direct),
        through_waypoint,
    );
    // A Service's traffic to the same pods has no waypoint here, nor has a pod that wants none.
    for target in ["shop:80", &alone] {
        let answer = world.get("mesh/client", target);
        assert!(
            answer.is_ok() && !through_waypoint(&answer),
            "{target}: {answer:?}"
        );
    }

    // The pod's policies are decided for the client, and by requests: its connection is there.
    world.apply(DENY_OTHER);
    world.settle();
    let denied = |answer: &Result<String, String>| answer.as_ref().is_err_and(|e| e.contains("403"));
    eventually(
        "the client is denied",
        || world.get("mesh/other", &direct),
        denied,
    );
    assert!(through_waypoint(&world.get("mesh/client", &direct)));
    world.get("mesh/other", "shop:80").unwrap_err();

    // Without its waypoint nothing gets to the pod, and everything else does.
    world.lab.kill("mesh/front", libc::SIGKILL, true).unwrap();
    world.get("mesh/client", &direct).unwrap_err();
    eventually(
        "it is known to be down",
        || world.pods("mesh/front").iter().any(|pod| pod.ready),
        |ready| !ready,
    );
    world.get("mesh/client", &direct).unwrap_err();
    world.get("mesh/client", "shop:80").unwrap();
    world.lab.release("mesh/front").unwrap();
    eventually(
        "the pod is reached through its waypoint again",
        || world.get("mesh/client", &direct),
        through_waypoint,
    );

    // And where it is no longer named, it is not asked.
    world.apply(&FOR_PODS.replace(", istio.io/use-waypoint: front", ""));
    let at_layer_4 = |answer: &Result<String, String>| answer.is_ok() && !through_waypoint(answer);
    eventually(
        "the pod is at layer 4 again",
        || world.get("mesh/client", &direct),
        at_layer_4,
    );
}
