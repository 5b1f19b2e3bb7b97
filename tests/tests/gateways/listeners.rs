//! Listeners of the Gateway API: TLS that ends at a gateway of its own, TLS that is passed on, and bytes.

use aquifer_tests::lab::LabOptions;

use crate::passthrough::BACKEND;
use crate::world::{World, condition, eventually};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: istio
  listeners:
  - {name: near, port: 443, protocol: HTTPS, hostname: near.example.com, tls: {certificateRefs: [{name: rsa}, {name: elliptic}]}}
  - {name: far, port: 443, protocol: HTTPS, hostname: far.example.com, tls: {certificateRefs: [{name: cert, namespace: safe}]}}
  - {name: pass, port: 443, protocol: TLS, hostname: '*.example.com', tls: {mode: Passthrough}}
  - {name: bytes, port: 9000, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha3
kind: TLSRoute
metadata: {name: vault, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: pass}]
  hostnames: [vault.example.com, near.example.com]
  rules: [{backendRefs: [{name: vault, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: bytes, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: bytes}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

const SAFE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: safe}
";

const GRANT: &str = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: edge, namespace: safe}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}]
  to: [{group: '', kind: Secret, name: cert}]
";

/// Where the lab has put the gateway's Service.
fn address(world: &World) -> String {
    let status = world.lab.status().unwrap();
    status.service("shop", "edge-istio").unwrap().addresses[0].to_string()
}

/// The kind of key in the certificate that a client with these signatures is shown.
fn key_of(world: &World, address: &str, signatures: &str) -> String {
    let show = format!(
        "openssl s_client -connect {address}:443 -servername near.example.com -sigalgs {signatures} </dev/null 2>/dev/null | openssl x509 -noout -text | grep 'Public Key Algorithm'"
    );
    world.outside(&["sh", "-c", &show]).1
}

fn listener(world: &World, name: &str, kind: &str) -> String {
    let status = world.status_of("Gateway", "edge");
    let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
    let found = listeners.iter().find(|l| l["name"] == name);
    found.map_or_else(String::new, |l| condition(&l["conditions"], kind))
}

#[test]
fn listeners_end_tls_pass_it_on_and_forward_bytes() {
    let options = LabOptions::named("gw-api").image("openssl", "openssl");
    let Some(world) = World::with(options) else {
        return;
    };
    let certify = |file: &str| world.authority.issue(file, &[&format!("{file}.example.com")]);
    let (near, far, vault) = (certify("near"), certify("far"), certify("vault"));
    let elliptic = world.authority.issue_elliptic("elliptic", "near.example.com");
    world.apply(SAFE);
    world.apply(&near.secret_in("shop", "rsa"));
    world.apply(&elliptic.secret_in("shop", "elliptic"));
    world.apply(&far.secret_in("safe", "cert"));
    let backend = BACKEND
        .replace("CERT", vault.certificate.to_str().unwrap())
        .replace("KEY", vault.key.to_str().unwrap());
    world.apply(&backend);
    world.apply(GATEWAY);
    world.settle();
    let address = address(&world);
    let get = |url: &str| world.curl_at(&address, url);

    let ended = get("https://near.example.com/");
    let answer = eventually("TLS ends at the gateway", || ended.send(), |a| a.is_ok());
    assert_eq!(
        (answer.version.as_str(), answer.field("x-forwarded-proto")),
        ("2", "https"),
        "{answer:?}"
    );
    assert!(key_of(&world, &address, "RSA-PSS+SHA256").contains("rsaEncryption"));
    assert!(key_of(&world, &address, "ECDSA+SHA256").contains("id-ecPublicKey"));

    granted(&world, &address);

    let passed = get("https://vault.example.com/");
    let answer = eventually("TLS is passed on", || passed.send(), |a| a.is_ok());
    assert!(answer.body.contains("s_server"), "{answer:?}");
    assert_eq!(get("https://nobody.example.com/").send().code, "000");
    // A name of another listener, at that one's connection.
    let misdirected = get("https://near.example.com/").with(&["-H", "host: far.example.com"]);
    assert_eq!(misdirected.send().code, "421");

    let bytes = get(&format!("http://{address}:9000/"));
    let answer = eventually("bytes are forwarded", || bytes.send(), |a| a.is_ok());
    assert!(answer.field("pod").starts_with("web-"), "{answer:?}");

    let counts = || -> Vec<u64> {
        let status = world.status_of("Gateway", "edge");
        let listeners = status["listeners"].as_array().into_iter().flatten();
        listeners.filter_map(|l| l["attachedRoutes"].as_u64()).collect()
    };
    eventually("every listener has its route", counts, |counts| {
        *counts == [1, 1, 1, 1]
    });
    for route in ["TLSRoute", "TCPRoute"] {
        let name = if route == "TLSRoute" { "vault" } else { "bytes" };
        let parent = || world.status_of(route, name)["parents"][0]["conditions"].clone();
        eventually(
            "the proxy has the route",
            || condition(&parent(), "Programmed"),
            |said| said.starts_with("True"),
        );
        assert!(condition(&parent(), "Accepted").starts_with("True"));
    }
}

/// A Secret of another namespace is had by its grant, and only as long.
fn granted(world: &World, address: &str) {
    let far = world.curl_at(address, "https://far.example.com/");
    assert_eq!(far.send().code, "000", "nobody granted it");
    let said = eventually(
        "the missing grant is said",
        || listener(world, "far", "ResolvedRefs"),
        |said| said.starts_with("False RefNotPermitted"),
    );
    assert!(said.contains("no ReferenceGrant of namespace safe"), "{said}");
    assert!(listener(world, "far", "Programmed").starts_with("False Invalid"));
    world.apply(GRANT);
    eventually("the granted Secret is served", || far.send(), |a| a.is_ok());
    eventually(
        "the grant is said",
        || listener(world, "far", "ResolvedRefs"),
        |said| said.starts_with("True"),
    );
    world.lab.delete("default", GRANT).unwrap();
    eventually(
        "what is taken back is gone",
        || far.send().code,
        |code| code == "000",
    );
}
