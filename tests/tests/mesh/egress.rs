//! Hosts outside the mesh: straight on by their addresses, through an egress gateway, and by names that move.

use std::time::{Duration, Instant};

use crate::gateways::{has_line, status, text};
use crate::sniffer::Sniffer;
use crate::world::{World, eventually};

/// Two servers that the mesh knows nothing of, and a name that leads to one of them.
const SERVERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: moving, namespace: default}
spec: {clusterIP: None, selector: {app: out-a}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: out-a, namespace: default}
spec:
  selector: {matchLabels: {app: out-a}}
  template:
    metadata: {labels: {app: out-a}}
    spec: {containers: [{name: web, image: echo, args: [serve, '8080'], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: out-b, namespace: default}
spec:
  selector: {matchLabels: {app: out-b}}
  template:
    metadata: {labels: {app: out-b}}
    spec: {containers: [{name: web, image: echo, args: [serve, '8080'], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}]}
";

/// As the chart makes it.
const EGRESS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: istio-egressgateway, namespace: istio-system}
---
apiVersion: v1
kind: Service
metadata: {name: istio-egressgateway, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  ports: [{name: http2, port: 80, targetPort: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: istio-egressgateway, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  template:
    metadata:
      labels: {istio: egressgateway, istio.io/dataplane-mode: none, networking.istio.io/tunnel: http}
    spec:
      serviceAccountName: istio-egressgateway
      terminationGracePeriodSeconds: 5
      containers:
      - name: istio-proxy
        image: aquifer/waypoint
        args: [--role, gateway]
        env:
        - {name: AQUIFER_DRAIN_SECONDS, value: '4'}
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: INSTANCE_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        - name: SERVICE_ACCOUNT
          valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        readinessProbe:
          httpGet: {path: /healthz/ready, port: 15021}
          periodSeconds: 1
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
";

/// An address of the Service range that no Service has.
const ADDRESS: &str = "10.96.200.1";

fn entry(resolution: &str, endpoint: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {{name: out, namespace: mesh}}
spec:
  hosts: [out.example]
  addresses: [{ADDRESS}]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: {resolution}
  endpoints: [{{address: {endpoint}, ports: {{http: 8080}}}}]
"
    )
}

/// The manifest that Istio's users know; the gateway takes a header away, so that what it sent on can be told from what
/// it got.
const THROUGH: &str = "
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: out, namespace: mesh}
spec:
  hosts: [out.example]
  gateways: [istio-system/egress, mesh]
  http:
  - match: [{port: 80, gateways: [mesh]}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
  - match: [{port: 80, gateways: [istio-system/egress]}]
    headers: {request: {remove: [x-secret], set: {x-by: egress}}}
    route: [{destination: {host: out.example, port: {number: 80}}}]
";

/// The waypoint decides for its clients, the gateway for the waypoint.
const ONLY_CLIENT: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: egress, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: egressgateway}}
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client, cluster.local/ns/mesh/sa/waypoint]}}]}]
";

const SECRET: &str = "6a1f-nobody-else-has-this";

/// What a pod is answered at an address, by the name that is looked for there.
fn ask(world: &World, from: &str, address: &str) -> String {
    let secret = format!("x-secret: {SECRET}");
    let url = format!("http://{address}/");
    let arguments = [
        "curl",
        "-sS",
        "-i",
        "--max-time",
        "30",
        "-H",
        "host: out.example",
        "-H",
        &secret,
        &url,
    ];
    text(&world.lab.exec(from, &arguments).unwrap())
}

fn world(name: &str) -> Option<World> {
    let world = World::new(name)?;
    world.apply(SERVERS);
    world.settle();
    Some(world)
}

fn with_gateway(world: &World) {
    world.apply(EGRESS);
    world.settle();
}

/// Whose address the server saw.
fn seen(answer: &str) -> String {
    let line = answer.lines().find_map(|l| l.strip_prefix("client "));
    line.and_then(|l| l.rsplit_once(':'))
        .map(|(ip, _)| ip.to_owned())
        .unwrap_or_default()
}

#[test]
fn a_host_outside_is_reached_through_the_egress_gateway_and_only_through_it() {
    let Some(world) = world("egress") else { return };
    let (client, server) = (world.ip("mesh/client"), world.ip("default/out-a"));
    world.apply(&entry("STATIC", &server));
    let direct = || ask(&world, "mesh/client", ADDRESS);
    eventually("the address leads to the endpoint", direct, |answer| {
        seen(answer) == client
    });

    with_gateway(&world);
    world.apply(THROUGH);
    let gateway = world.ip("istio-system/istio-egressgateway");
    eventually("traffic moves to the gateway", direct, |answer| {
        seen(answer) == gateway
    });
    // The proof that the sniffer finds the header where it is plain: straight to the server.
    let sniffer = Sniffer::start(&world.lab, SECRET);
    ask(&world, "default/outsider", &format!("{server}:8080"));
    let plain = sniffer.stop();
    assert!(plain.with_text > 0, "{plain:?}");
    let sniffer = Sniffer::start(&world.lab, SECRET);
    for _ in 0..20 {
        let answer = direct();
        assert_eq!(
            (status(&answer), seen(&answer)),
            ("200", gateway.clone()),
            "{answer}"
        );
        assert!(has_line(&answer, "header x-by: egress") && !answer.contains("x-secret"));
    }
    let meshed = sniffer.stop();
    assert!(meshed.packets > 0);
    assert_eq!(
        meshed.with_text, 0,
        "up to the gateway it is encrypted: {meshed:?}"
    );
    said(&world);

    world.apply(ONLY_CLIENT);
    eventually(
        "the gateway's policy keeps others out",
        || ask(&world, "mesh/other", ADDRESS),
        |answer| status(answer) == "403",
    );
    assert_eq!(seen(&direct()), gateway);

    let scaled = EGRESS.replace(
        "\nspec:\n  selector: {matchLabels",
        "\nspec:\n  replicas: 0\n  selector: {matchLabels",
    );
    world.apply(&scaled);
    eventually("nobody goes around a gateway that is gone", direct, |answer| {
        status(answer) == "503"
    });
}

#[test]
fn a_name_is_followed_where_it_moves() {
    let Some(world) = world("names") else { return };
    with_gateway(&world);
    world.apply(&entry("DNS", "moving.default.svc.cluster.local"));
    world.apply(THROUGH);
    let pod = |answer: &String| {
        let line = answer.lines().find_map(|l| l.strip_prefix("pod "));
        line.unwrap_or_default().to_owned()
    };
    let get = || ask(&world, "mesh/client", ADDRESS);
    eventually("the first server answers", get, |answer| {
        pod(answer).starts_with("out-a")
    });
    world.apply(&SERVERS.replace("selector: {app: out-a}, ports", "selector: {app: out-b}, ports"));
    eventually("the second server answers", get, |answer| {
        pod(answer).starts_with("out-b")
    });
    // A name that is no more leads where it led for 30 seconds, and then nowhere: the address may be somebody else's.
    let led = Instant::now();
    world.delete("\napiVersion: v1\nkind: Service\nmetadata: {name: moving, namespace: default}\n");
    said_in_log(&world, "cannot be looked up");
    let answer = get();
    // A machine that stands still may let them pass.
    let is_over = led.elapsed() >= Duration::from_secs(30);
    assert!(pod(&answer).starts_with("out-b") || is_over, "{answer}");
    said_in_log(&world, "leads nowhere any more");
    eventually("nothing is behind it", get, |answer| status(answer) == "503");

    // The gateway does not stand in for its clients at the nodes' own servers.
    let nodes = world.lab.status().unwrap().nodes;
    world.apply(&entry("STATIC", &nodes[0].addresses[0].to_string()));
    let asked = || (get(), log(&world));
    eventually("the node's address is refused", asked, |(answer, log)| {
        status(answer) == "503" && log.contains("is that of node")
    });
    eventually(
        "the status says so",
        || condition(&world, "Warning"),
        |c| c.contains("spec.endpoints[0].address") && c.contains("address of node"),
    );
}

fn log(world: &World) -> String {
    let log = world.lab.logs("istio-system/istio-egressgateway", 1 << 20);
    log.unwrap()
}

fn said_in_log(world: &World, part: &str) {
    eventually(part, || log(world), |log| log.contains(part));
}

#[test]
fn what_an_entry_asks_for_in_vain_is_refused_with_a_status() {
    let Some(world) = World::new("refused") else {
        return;
    };
    world.apply(&entry("STATIC", "192.0.2.1").replace("[out.example]", "['*.example']"));
    eventually(
        "the status says why",
        || condition(&world, "Accepted"),
        |c| c.contains("Unsupported") && c.contains("spec.hosts[0]") && c.contains("wildcard"),
    );
}

fn condition(world: &World, kind: &str) -> String {
    let path = world.lab.sink_dir().join("status/ServiceEntry.mesh.out.json");
    let Ok(text) = std::fs::read_to_string(path) else {
        return String::new();
    };
    let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let conditions = status["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.map(ToString::to_string).unwrap_or_default()
}

/// What the entry's status says where all is well.
fn said(world: &World) {
    for (kind, part) in [
        ("Accepted", "True"),
        ("CapturedFromPods", ADDRESS),
        ("istio.io/WaypointBound", "mesh/waypoint"),
        ("Programmed", "True"),
    ] {
        eventually(kind, || condition(world, kind), |c| c.contains(part));
    }
}
