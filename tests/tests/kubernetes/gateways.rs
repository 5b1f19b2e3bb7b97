//! Gateways: one that brings its own proxy, the chart's own with TLS, and a waypoint by the command.

use std::path::Path;
use std::process::Command;

use aquifer_tests::cluster::ground::Way;
use aquifer_tests::demo::load::Load;

use super::manifests::namespace;
use super::world::{GATEWAYS, NAMESPACE, SYSTEM, World, limit, programs};

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
    let limit = limit();
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
    // The nodes lead the Service's port to the pod a moment after it is ready.
    world.answers("a page comes through the gateway", way.address);
    let pages = Load::pages(&world.outside(), way.address, PAGES).unwrap();
    world.assert_none_failed("a gateway of class istio", &pages);
    world.kubectl(&["-n", NAMESPACE, "delete", GATEWAYS, "pages"]);
    world.kubectl(&["-n", NAMESPACE, "delete", "httproutes", "pages"]);
    world.until("its pods go with it", |status| {
        status.pods_of(NAMESPACE, "pages-istio").next().is_none()
    });
}

const SECURE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: secure}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [pages.example.com]
    tls: {mode: SIMPLE, credentialName: pages}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: secure}
spec:
  hosts: [pages.example.com]
  gateways: [secure]
  http: [{route: [{destination: {host: productpage, port: {number: 9080}}}]}]
";
const ISTIO_GATEWAYS: &str = "gateways.networking.istio.io";
pub(super) const INGRESS: &str = "istio-ingressgateway";
/// What a cloud's load balancer would have.
const BALANCER: &str = "172.31.9.10";

pub(crate) fn a_gateway_ends_tls_with_a_secret_that_changes(world: &World) {
    let folder = tempfile::tempdir().unwrap();
    world.apply(NAMESPACE, SECURE);
    let way = world.way_into(SYSTEM, INGRESS, 443);
    let first = certificate(folder.path(), "first");
    keep(world, &first);
    world.eventually("a page comes over TLS", || page(world, &first, &way));
    // Who has only the second authority does not take the first one's certificate.
    let second = certificate(folder.path(), "second");
    assert!(!page(world, &second, &way));
    world.kubectl(&["-n", SYSTEM, "delete", "secret", "pages"]);
    keep(world, &second);
    world.eventually("the new certificate is shown", || page(world, &second, &way));
    assert!(!page(world, &first, &way));

    if world.ours().is_some() {
        the_address_of_a_load_balancer_is_told(world);
    } else {
        world.leave_out("in https: the address of a load balancer");
    }
    world.kubectl(&["-n", NAMESPACE, "delete", ISTIO_GATEWAYS, "secure"]);
    world.kubectl(&["-n", NAMESPACE, "delete", "virtualservices", "secure"]);
    world.kubectl(&["-n", SYSTEM, "delete", "secret", "pages"]);
}

/// A load balancer is somebody else's work: here it is played.
fn the_address_of_a_load_balancer_is_told(world: &World) {
    let service = format!("service/{INGRESS}");
    let typed = |kind: &str| {
        let patch = format!("{{\"spec\": {{\"type\": \"{kind}\"}}}}");
        world.kubectl(&["-n", SYSTEM, "patch", &service, "-p", &patch]);
    };
    typed("LoadBalancer");
    let balanced =
        format!("{{\"status\": {{\"loadBalancer\": {{\"ingress\": [{{\"ip\": \"{BALANCER}\"}}]}}}}}}");
    world.kubectl(&[
        "-n",
        SYSTEM,
        "patch",
        &service,
        "--subresource=status",
        "-p",
        &balanced,
    ]);
    world.eventually("the Gateway has the balancer's address", || {
        let status = [
            "-n",
            NAMESPACE,
            "get",
            ISTIO_GATEWAYS,
            "secure",
            "-o",
            "jsonpath={.status}",
        ];
        world.kubectl(&status).contains(BALANCER)
    });
    typed("NodePort");
}

/// A certificate that is its own authority, and its key.
struct Issued {
    certificate: String,
    key: String,
}

fn certificate(folder: &Path, name: &str) -> Issued {
    let file = |end: &str| folder.join(format!("{name}.{end}")).display().to_string();
    let issued = Issued {
        certificate: file("crt"),
        key: file("key"),
    };
    let made = Command::new("openssl")
        .args("req -x509 -nodes -days 2 -newkey rsa:2048 -subj /CN=pages.example.com".split(' '))
        .args(["-addext", "subjectAltName=DNS:pages.example.com"])
        .args(["-keyout", &issued.key, "-out", &issued.certificate])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    issued
}

fn keep(world: &World, issued: &Issued) {
    let (certificate, key) = (
        format!("--cert={}", issued.certificate),
        format!("--key={}", issued.key),
    );
    world.kubectl(&[
        "-n",
        SYSTEM,
        "create",
        "secret",
        "tls",
        "pages",
        &certificate,
        &key,
    ]);
}

/// Whether a client of the world that trusts this certificate gets the page.
fn page(world: &World, trusted: &Issued, way: &Way) -> bool {
    let (ip, port) = (way.address.ip(), way.address.port());
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "60",
        "--output",
        "/dev/null",
    ])
    .args(["--cacert", &trusted.certificate])
    .args(["--resolve", &format!("pages.example.com:{port}:{ip}")])
    .arg(format!("https://pages.example.com:{port}/productpage"));
    let ended = world.outside().run(move || curl.status());
    ended.unwrap().unwrap().success()
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
            "--timeout=240",
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
    let status = aquifer(world, &["status", "mine", "-n", "own", "--timeout=240"]);
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
