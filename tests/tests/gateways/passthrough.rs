//! TLS that a gateway passes on as it is, and bytes.

use crate::world::{World, eventually};
use aquifer_tests::lab::LabOptions;

/// OpenSSL's own server ends TLS in the pod; it is in the mesh, so that its TLS goes through a tunnel.
pub(crate) const BACKEND: &str = "
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: shop}
spec:
  selector: {app: vault}
  ports: [{name: tls, port: 443, targetPort: 8443}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: vault, namespace: shop}
spec:
  selector: {matchLabels: {app: vault}}
  template:
    metadata: {labels: {app: vault}}
    spec:
      containers:
      - name: vault
        image: openssl
        args: [s_server, -accept, '8443', -cert, CERT, -key, KEY, -www, -quiet]
        ports: [{containerPort: 8443}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vault, namespace: shop}
spec:
  hosts: [vault.example.com]
  gateways: [web]
  tls:
  - match: [{sniHosts: [vault.example.com], port: 443}]
    route: [{destination: {host: vault, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bytes, namespace: shop}
spec:
  hosts: ['*']
  gateways: [web]
  tcp:
  - match: [{port: 9000}]
    route: [{destination: {host: web, port: {number: 80}}}]
";

const SERVERS: &str = "
  {port: {number: 443, name: tls, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}},
  {port: {number: 443, name: https, protocol: HTTPS}, hosts: [web.example.com], tls: {mode: SIMPLE, credentialName: cert}},
  {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
";

#[test]
fn a_server_behind_the_gateway_ends_tls_itself() {
    let options = LabOptions::named("gw-pass").image("openssl", "openssl");
    let Some(world) = World::with(options) else {
        return;
    };
    let vault = world.authority.issue("vault", &["vault.example.com"]);
    let web = world.authority.issue("web", &["web.example.com"]);
    let backend = BACKEND
        .replace("CERT", vault.certificate.to_str().unwrap())
        .replace("KEY", vault.key.to_str().unwrap());
    world.apply(&web.secret("cert"));
    world.apply(&backend);
    world.gateway(SERVERS);
    world.routes("web", "web.example.com");
    world.settle();

    let passed = world.curl("https://vault.example.com/");
    let answer = eventually("TLS is passed on", || passed.send(), |a| a.is_ok());
    assert!(answer.body.contains("s_server"), "{answer:?}");
    let ended = world.curl("https://web.example.com/");
    let answer = eventually("the other name ends here", || ended.send(), |a| a.is_ok());
    assert!(answer.field("pod").starts_with("web-"), "{answer:?}");
    assert_eq!(world.curl("https://nobody.example.com/").send().code, "000");

    // Bytes: the gateway's own port, for its Service has none of that number.
    let status = world.lab.status().unwrap();
    let gateway = status
        .pods_of("istio-system", "istio-ingressgateway")
        .next()
        .unwrap();
    let target = format!("http://{}:9000/", gateway.ip.unwrap());
    let argv = ["curl", "-sS", "--max-time", "60", target.as_str()];
    let bytes = || String::from_utf8_lossy(&world.lab.node("node-1", &argv).unwrap().stdout).into_owned();
    eventually("bytes are passed on", bytes, |body| body.contains("pod web-"));
}
