//! STRICT, the kubelet's probes, and pods that come and go.

use aquifer_tests::cluster::layout::Member;

use super::manifests::{STRICT, deployment, namespace, object, pods, service, serving};
use super::world::{NAMESPACE, UNMESHED, World};

/// One pod on each node, probed by HTTP, TCP and a command, with ways in from outside; one probed by gRPC.
fn probed() -> String {
    let port = "name: http, port: 80, targetPort: 8080";
    let node_port = format!("type: NodePort, ports: [{{{port}, nodePort: 30082}}]");
    let balanced = format!("type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{{{port}}}]");
    let pod = format!("{SPREAD}, containers: [{}]", serving("web", 8080, PROBES));
    [
        service("probed", "probed", &node_port),
        service("balanced", "probed", &balanced),
        object(
            "Deployment",
            "probed",
            &format!("replicas: 2, {}", pods("probed", &pod)),
        ),
        deployment("checked", CHECKED),
    ]
    .concat()
}

const SPREAD: &str = "topologySpreadConstraints: [{
    maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, nodeTaintsPolicy: Honor,
    labelSelector: {matchLabels: {app: probed}}}]";
/// What is refused fails at once; a machine that is slow to answer fails nothing.
const PROBES: &str = "ports: [{name: http, containerPort: 8080}],
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1},
    livenessProbe: {tcpSocket: {port: http}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 3},
    startupProbe: {exec: {command: [/app, get, 'http://127.0.0.1:8080/']},
        periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 60}";
const CHECKED: &str = "containers: [{
    name: details, image: 'docker.io/istio/examples-bookinfo-details-v1:1.20.3', imagePullPolicy: IfNotPresent,
    readinessProbe: {grpc: {port: 9080}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1},
    livenessProbe: {grpc: {port: 9080, service: anything},
        initialDelaySeconds: 5, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 3}}]";

/// Where a load balancer in front of the cluster would be.
const BALANCER: &str = "172.31.9.9";

const NAME: &str = "http://probed.bookinfo.svc.cluster.local/";

pub(crate) fn probes_pass_under_strict_and_plaintext_does_not(world: &World) {
    let client = deployment(
        "client",
        &format!("containers: [{}]", serving("client", 8080, "")),
    );
    world.apply(NAMESPACE, &[probed(), client.clone()].concat());
    world.apply(UNMESHED, &[namespace(UNMESHED, ""), client].concat());
    world.available(NAMESPACE);
    world.available(UNMESHED);
    enrolled(world, "probed", 2);
    enrolled(world, "checked", 1);
    enrolled(world, "client", 1);
    world.peers_know();
    world.reaches(NAMESPACE, "client", NAME);
    // Plaintext is taken until STRICT.
    world.reaches(UNMESHED, "client", NAME);

    world.apply(NAMESPACE, STRICT);
    world.wait("a client without the mesh is refused", || {
        refused(world.get_from(UNMESHED, "client", NAME))
    });
    assert!(world.get_from(NAMESPACE, "client", NAME).is_ok());
    // Whoever starts now is probed under STRICT from the first time on.
    for workload in ["probed", "checked"] {
        let deployment = format!("deployment/{workload}");
        world.kubectl(&["-n", NAMESPACE, "rollout", "restart", &deployment]);
        world.rolled_out(NAMESPACE, workload);
    }
    enrolled(world, "probed", 2);
    enrolled(world, "checked", 1);
    let status = world.status();
    let probed = status
        .pods_of(NAMESPACE, "probed")
        .chain(status.pods_of(NAMESPACE, "checked"));
    assert!(probed.into_iter().all(|pod| pod.restarts == 0), "{status}");
    world.kubectl(&["-n", NAMESPACE, "delete", "peerauthentication", "default"]);
}

/// What kube-proxy masquerades comes from a node's address, as the probes do, and is no probe.
pub(crate) fn what_is_masqueraded_to_a_node_is_no_probe(world: &World) {
    let ingress = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{BALANCER}"}}]}}}}}}"#);
    let patch = [
        "-n",
        NAMESPACE,
        "patch",
        "service",
        "balanced",
        "--subresource=status",
        "--type=merge",
        "-p",
    ];
    world.kubectl(&[&patch[..], &[&ingress]].concat());
    let route = format!("ip route replace {BALANCER} via {}", Member::Node(1).address());
    world.in_node(Member::World, &route);
    let nodes = world
        .cluster()
        .nodes()
        .map(|node| format!("http://{}:30082/", node.address()));
    let ways: Vec<String> = nodes.chain([format!("http://{BALANCER}/")]).collect();
    // Asked often enough to meet the pods of both nodes.
    let answers = |url: &String| {
        let curl =
            format!("for i in 1 2 3 4 5 6 7 8; do curl -s -m 20 -o /dev/null {url} && echo answered; done");
        world.in_node(Member::World, &curl).lines().count()
    };
    let all = |wanted: usize| {
        world.wait(
            &format!("{wanted} of 8 requests from outside are answered"),
            || {
                let wrong =
                    |url: &String| Some((url.clone(), answers(url))).filter(|(_, count)| *count != wanted);
                let wrong: Vec<_> = ways.iter().filter_map(wrong).collect();
                if wrong.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{wrong:?}"))
                }
            },
        );
    };
    all(8);
    world.apply(NAMESPACE, STRICT);
    all(0);
    world.kubectl(&["-n", NAMESPACE, "delete", "peerauthentication", "default"]);
    all(8);
    world.in_node(Member::World, &format!("ip route del {BALANCER}"));
}

pub(crate) fn pods_that_come_and_go_are_followed(world: &World) {
    world.kubectl(&["-n", NAMESPACE, "scale", "deployment/probed", "--replicas=6"]);
    enrolled(world, "probed", 6);
    world.kubectl(&["-n", NAMESPACE, "scale", "deployment/probed", "--replicas=0"]);
    world.until("the pods are gone", |status| {
        status.pods_of(NAMESPACE, "probed").next().is_none()
    });
    world.kubectl(&["-n", NAMESPACE, "scale", "deployment/probed", "--replicas=2"]);
    enrolled(world, "probed", 2);
    // A pod may stay out, and come in after all.
    let out = r#"{"spec":{"template":{"metadata":{"labels":{"istio.io/dataplane-mode":"none"}}}}}"#;
    world.kubectl(&["-n", "bookinfo", "patch", "deployment/client", "-p", out]);
    world.rolled_out(NAMESPACE, "client");
    world.until("the client stays out", |status| {
        let pods: Vec<_> = status.pods_of(NAMESPACE, "client").collect();
        pods.len() == 1 && !pods[0].enrolled
    });
    world.kubectl(&[
        "-n",
        NAMESPACE,
        "label",
        "pods",
        "-l",
        "app=client",
        "istio.io/dataplane-mode-",
    ]);
    enrolled(world, "client", 1);
}

/// What was answered after all is the error.
pub(crate) fn refused(answer: Result<String, String>) -> Result<(), String> {
    match answer {
        Err(_) => Ok(()),
        Ok(answer) => Err(answer),
    }
}

fn enrolled(world: &World, workload: &str, count: usize) {
    world.until(
        &format!("{count} pods of {workload} are ready and enrolled"),
        |status| {
            let pods: Vec<_> = status.pods_of(NAMESPACE, workload).collect();
            pods.len() == count && pods.iter().all(|pod| pod.ready && pod.enrolled)
        },
    );
}
