//! The Gateway API: a Gateway that brings its own proxy, and a waypoint by the command.

use std::process::Command;

use aquifer_tests::demo::load::Load;

use super::manifests::namespace;
use super::world::{GATEWAYS, NAMESPACE, PATIENCE, World, programs};

const PAGES: usize = 40;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: pages
  annotations: {networking.istio.io/service-type: NodePort}
spec:
  gatewayClassName: istio
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pages}
spec:
  parentRefs: [{name: pages}]
  rules:
  - matches: [{path: {value: /productpage}}]
    backendRefs: [{name: productpage, port: 9080}]
";

pub(crate) fn a_gateway_of_its_own_serves_pages(world: &World) {
    world.apply(NAMESPACE, GATEWAY);
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    let gateway = format!("{GATEWAYS}/pages");
    world.kubectl(&[
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Programmed",
        &gateway,
        &limit,
    ]);
    let attached = "--for=jsonpath={.status.listeners[0].attachedRoutes}=1";
    world.kubectl(&["-n", NAMESPACE, "wait", attached, &gateway, &limit]);
    let way = world.way_to("pages-istio", 80);
    // The gateway's certificate comes a moment after it is ready for probes of its own.
    world.answers("a page comes through the gateway", way.address);
    let pages = Load::pages(&world.outside(), way.address, PAGES).unwrap();
    world.assert_none_failed("a gateway of class istio", &pages);
    world.kubectl(&["-n", NAMESPACE, "delete", GATEWAYS, "pages"]);
    world.until("its pods go with it", |status| {
        status.pods_of(NAMESPACE, "pages-istio").next().is_none()
    });
}

pub(crate) fn a_waypoint_is_made_watched_and_deleted_by_the_command(world: &World) {
    world.apply("default", &namespace("own", ""));
    let said = aquifer(
        world,
        &[
            "apply",
            "-n",
            "own",
            "--name",
            "mine",
            "--for",
            "all",
            "--enroll-namespace",
            "--wait",
        ],
    );
    assert!(said.contains("waypoint own/mine applied"), "{said}");
    let label = r"jsonpath={.metadata.labels.istio\.io/use-waypoint}";
    assert_eq!(world.kubectl(&["get", "namespace", "own", "-o", label]), "mine");
    let listed = aquifer(world, &["list", "-A"]);
    let row = listed
        .lines()
        .find(|line| line.starts_with("own "))
        .unwrap_or_default();
    assert!(
        row.contains("mine") && row.contains("all") && row.contains("True"),
        "{listed}"
    );
    let status = aquifer(world, &["status", "mine", "-n", "own"]);
    assert!(status.contains("Programmed"), "{status}");
    let said = aquifer(world, &["delete", "-n", "own", "--all"]);
    assert!(said.contains("waypoint own/mine deleted"), "{said}");
    world.until("its pods are gone", |status| {
        status.pods_of("own", "mine").next().is_none()
    });
    world.kubectl(&["delete", "namespace", "own"]);
}

/// `aquifer waypoint …`; it must succeed.
fn aquifer(world: &World, arguments: &[&str]) -> String {
    let output = Command::new(programs().join("aquifer"))
        .arg("waypoint")
        .args(arguments)
        .env("KUBECONFIG", world.api().kubeconfig())
        .env("KUBECTL", aquifer_tests::cluster::parts::tool("kubectl").unwrap())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
