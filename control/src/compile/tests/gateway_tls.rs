//! Servers of a Gateway that end TLS or pass it on.

use std::sync::Arc;

use aquifer_core::http::listener::{Chain, Listener, ListenerProtocol};
use aquifer_core::http::server_tls::ClientCertificates;
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, message, report};
use crate::auth::Caller;
use crate::compile::credentials::namespaces;
use crate::compile::inputs::Labels;
use crate::proxies::ProxyKey;
use crate::serve::{ClientIdentity, ProxyType, ResourceSnapshots};
use crate::snapshots::Snapshots;

/// A Secret with a certificate for these names and its key.
pub(super) fn secret(name: &str, hosts: &[&str]) -> String {
    let (chain, key) = pair(hosts);
    let indented = |pem: &str| pem.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(&chain),
        indented(&key)
    )
}

fn pair(hosts: &[&str]) -> (String, String) {
    let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn authorities(name: &str) -> String {
    let (pem, _) = pair(&["clients"]);
    let data = pem.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n  cacert: |\n    {data}\n"
    )
}

fn gateway(name: &str, servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{selector: {{istio: gw}}, servers: [{servers}]}}"
    )
}

fn server(port_name: &str, hosts: &str, tls: &str) -> String {
    format!("{{port: {{number: 443, name: {port_name}, protocol: HTTPS}}, hosts: [{hosts}], tls: {{{tls}}}}}")
}

fn simple(port_name: &str, hosts: &str) -> String {
    server(port_name, hosts, "mode: SIMPLE, credentialName: cred")
}

fn rules(hosts: &str, body: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: vs}}\nspec: {{hosts: [{hosts}], gateways: [edge/g], {body}}}"
    )
}

fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient")
        .namespace("edge", "");
    mesh.pod("edge", "gw-1", "istio: gw", "10.244.5.1");
    mesh.pod("shop", "a", "app: a", "10.244.0.1");
    mesh.service("shop", "a", "app: a", "10.96.0.1", "{name: http, port: 80}");
    mesh
}

fn held(mesh: &mut Mesh) -> Held {
    let key = ProxyKey::Gateway {
        namespace: "edge".into(),
        pod: "gw-1".into(),
        uid: "uid-gw-1".into(),
    };
    Held::by(&mesh.compile(), &key)
}

fn chains(held: &Held) -> Vec<Chain> {
    let listener: Listener = held.one(type_url::LISTENER, "0.0.0.0_443");
    listener.chains.iter().cloned().collect()
}

fn said(mesh: &mut Mesh, condition: &str) -> String {
    message(report(&mesh.compile(), "Gateway", "edge", "g"), condition)
}

#[test]
fn a_server_has_a_chain_a_table_and_its_secret() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", &simple("https-a", "'a.org', '*.b.org'")));
    mesh.add("edge", &secret("cred", &["a.org", "*.b.org"]));
    mesh.add(
        "shop",
        &rules("a.org", "http: [{route: [{destination: {host: a}}]}]"),
    );
    let held = held(&mut mesh);
    let [chain] = &chains(&held)[..] else { panic!() };
    assert_eq!(chain.server_names, ["a.org".into(), "*.b.org".into()]);
    let tls = chain.tls.as_ref().unwrap();
    assert_eq!(tls.certificates, ["kubernetes://cred".into()]);
    assert_eq!(tls.alpn, ["h2".into(), "http/1.1".into()]);
    assert_eq!(tls.clients, ClientCertificates::NotAsked);
    assert_eq!(held.names(type_url::SECRET), ["kubernetes://cred"]);
    let table = held.routes("https.443.https-a.g.edge");
    assert!(table.virtual_host("a.org").is_some() && table.virtual_host("x.b.org").is_none());
    assert!(said(&mut mesh, "ResolvedRefs").starts_with("True"));
}

#[test]
fn secrets_come_from_the_pods_namespace_and_no_other() {
    let mut mesh = mesh();
    mesh.add("shop", &gateway("g", &simple("h", "a.org")));
    mesh.add("shop", &secret("cred", &["a.org"]));
    assert!(held(&mut mesh).names(type_url::SECRET).is_empty());
    let compiled = mesh.compile();
    let said = message(report(&compiled, "Gateway", "shop", "g"), "ResolvedRefs");
    assert!(
        said.contains("False NotFound: spec.servers[0].tls.credentialName: no Secret edge/cred"),
        "{said}"
    );
    assert_eq!(
        namespaces(
            &compiled.inputs,
            &compiled.selected,
            compiled.gateway_api.gateways.values()
        ),
        std::collections::BTreeSet::from(["edge".into()])
    );
    mesh.add("edge", &secret("cred", &["a.org"]));
    assert_eq!(held(&mut mesh).names(type_url::SECRET), ["kubernetes://cred"]);
}

#[test]
fn other_gateways_pods_get_nothing() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", &simple("h", "a.org")));
    mesh.add("edge", &secret("cred", &["a.org"]));
    mesh.pod("edge", "curious", "app: curious", "10.244.5.2");
    for (pod, uid) in [("curious", "uid-curious"), ("gw-1", "of-another"), ("gw-2", "")] {
        let key = ProxyKey::Gateway {
            namespace: "edge".into(),
            pod: pod.into(),
            uid: uid.into(),
        };
        let held = Held::by(&mesh.compile(), &key);
        assert!(held.names(type_url::SECRET).is_empty() && held.names(type_url::LISTENER).is_empty());
    }
}

#[test]
fn a_pod_that_is_relabelled_loses_what_it_had_at_once() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", &simple("h", "a.org")));
    mesh.add("edge", &secret("cred", &["a.org"]));
    let snapshots = Snapshots::default();
    snapshots.publish(&Arc::new(mesh.compile()), mesh.moment.now);
    let client = ClientIdentity {
        caller: Caller {
            namespace: "edge".into(),
            service_account: "gw".into(),
            pod_name: "gw-1".into(),
            pod_uid: "uid-gw-1".into(),
            node_name: "node-1".into(),
            node_uid: "".into(),
        },
        proxy_type: ProxyType::Gateway,
        node_id: "router".into(),
        pod_labels: Labels::from([("istio".into(), "gw".into())]),
    };
    let told = snapshots.subscribe(&client).unwrap();
    let count = || {
        let snapshot = told.borrow();
        [type_url::LISTENER, type_url::SECRET].map(|url| snapshot.types.get(url).map_or(0, |r| r.len()))
    };
    assert_eq!(count(), [1, 1]);
    mesh.pod("edge", "gw-1", "app: gw", "10.244.5.1");
    mesh.compile();
    snapshots.publish(&Arc::new(mesh.last().clone()), mesh.moment.now);
    assert_eq!(count(), [0, 0], "the stream is still open");
    mesh.pod("edge", "gw-1", "istio: gw", "10.244.5.1");
    mesh.compile();
    snapshots.publish(&Arc::new(mesh.last().clone()), mesh.moment.now);
    assert_eq!(count(), [1, 1]);
    mesh.remove("", "Pod", "edge", "gw-1");
    mesh.compile();
    snapshots.publish(&Arc::new(mesh.last().clone()), mesh.moment.now);
    assert_eq!(count(), [0, 0]);
}

#[test]
fn a_secret_of_no_use_is_said_and_the_other_server_works() {
    let mut mesh = mesh();
    let other = server("h2", "b.org", "mode: SIMPLE, credentialName: good");
    mesh.add(
        "edge",
        &gateway("g", &format!("{}, {other}", simple("h1", "a.org"))),
    );
    let (chain, _) = pair(&["a.org"]);
    let (_, foreign) = pair(&["a.org"]);
    let indented = |pem: &str| pem.replace('\n', "\n    ");
    let wrong = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cred}}\nstringData:\n  cert: |\n    {}\n  key: |\n    {}\n",
        indented(&chain),
        indented(&foreign)
    );
    mesh.add("edge", &wrong).add("edge", &secret("good", &["b.org"]));
    assert_eq!(held(&mut mesh).names(type_url::SECRET), ["kubernetes://good"]);
    let told = said(&mut mesh, "ResolvedRefs");
    assert!(told.starts_with("False InvalidCertificateRef"), "{told}");
    assert!(
        told.contains("does not belong to the first certificate"),
        "{told}"
    );
    assert!(!told.contains("BEGIN"), "{told}");
}

#[test]
fn clients_are_checked_against_the_secret_beside_the_certificate() {
    let mut mesh = mesh();
    let mutual = server(
        "h",
        "a.org",
        "mode: MUTUAL, credentialName: cred, subjectAltNames: [client.org]",
    );
    mesh.add("edge", &gateway("g", &mutual))
        .add("edge", &secret("cred", &["a.org"]));
    let told = said(&mut mesh, "ResolvedRefs");
    assert!(
        told.contains("Secret edge/cred is of no use: it has neither ca.crt nor cacert"),
        "{told}"
    );
    mesh.add("edge", &authorities("cred-cacert"));
    let held = held(&mut mesh);
    assert_eq!(
        held.names(type_url::SECRET),
        ["kubernetes://cred", "kubernetes://cred-cacert"]
    );
    let chains = chains(&held);
    let ClientCertificates::Required(check) = &chains[0].tls.as_ref().unwrap().clients else {
        panic!("{chains:?}")
    };
    assert_eq!(&*check.authorities, "kubernetes://cred-cacert");
    assert_eq!(check.names, ["client.org".into()]);
}

#[test]
fn tls_is_passed_on_by_name() {
    let mut mesh = mesh();
    let passing = server("tls", "'*.p.org'", "mode: PASSTHROUGH");
    mesh.add(
        "edge",
        &gateway("g", &format!("{}, {passing}", simple("h", "x.p.org"))),
    );
    mesh.add(
        "shop",
        &rules(
            "'*.p.org'",
            "tls: [{match: [{sniHosts: [a.p.org, x.p.org]}], route: [{destination: {host: a, port: {number: 80}}}]}]",
        ),
    );
    let chains = chains(&held(&mut mesh));
    let [https, passed, closed] = &chains[..] else {
        panic!("{chains:?}")
    };
    assert!(https.tls.is_some());
    // x.p.org ends here already: it is the name of the first server.
    assert_eq!(
        (&passed.tls, &passed.server_names[..]),
        (&None, &["a.p.org".into()][..])
    );
    // No server for more names takes those without a route, and ends TLS that was to pass.
    assert_eq!(
        (&closed.tls, &closed.server_names[..]),
        (&None, &["*.p.org".into()][..])
    );
    let ListenerProtocol::Tcp(tcp) = &passed.protocol else {
        panic!("{passed:?}")
    };
    let first = tcp.destinations.iter().next().unwrap();
    assert_eq!(&*first.cluster, "outbound|80||a.shop.svc.cluster.local");
}

#[test]
fn the_older_server_keeps_a_port_and_a_host() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("old", &simple("h", "a.org, b.org")));
    mesh.add("edge", &secret("cred", &["a.org", "b.org", "c.org"]));
    let plain = "{port: {number: 443, name: p, protocol: HTTP}, hosts: ['*']}";
    let servers = format!("{}, {}, {plain}", simple("h1", "b.org"), simple("h2", "c.org"));
    mesh.add("edge", &gateway("g", &servers));
    let names: Vec<_> = chains(&held(&mut mesh)).into_iter().map(|c| c.name).collect();
    assert_eq!(
        names,
        ["https.443.h.old.edge".into(), "https.443.h2.g.edge".into()]
    );
    let told = said(&mut mesh, "Warning");
    assert!(
        told.contains(
            "spec.servers[0]: host b.org of port 443 belongs to spec.servers[0] of Gateway edge/old"
        ),
        "{told}"
    );
    assert!(
        told.contains("spec.servers[2]: port 443 is used for TLS"),
        "{told}"
    );
}

#[test]
fn a_redirect_to_https_needs_no_rule() {
    let mut mesh = mesh();
    let redirect =
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.org], tls: {httpsRedirect: true}}";
    mesh.add("edge", &gateway("g", redirect));
    let table = held(&mut mesh).routes("http.80");
    assert!(table.virtual_host("a.org").unwrap().https_only);
}

#[test]
fn hosts_that_the_certificate_is_not_for_are_said() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", &simple("h", "a.org, '*.b.org'")));
    mesh.add("edge", &secret("cred", &["a.org"]));
    let told = said(&mut mesh, "Warning");
    assert!(
        told.contains(
            "spec.servers[0].hosts[1]: the certificate is for a.org; clients that check it refuse *.b.org"
        ),
        "{told}"
    );
}

#[test]
fn the_addresses_that_lead_to_it_are_in_the_status() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", &simple("h", "a.org")));
    mesh.add(
        "edge",
        "apiVersion: v1\nkind: Service\nmetadata: {name: gw}\nspec: {type: LoadBalancer, clusterIP: 10.96.0.9, selector: {istio: gw}, ports: [{name: h, port: 443, targetPort: 8443, nodePort: 30443}, {name: s, port: 15021}]}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}",
    );
    let compiled = mesh.compile();
    let addresses = report(&compiled, "Gateway", "edge", "g").fields["addresses"].to_string();
    for part in [
        "192.0.2.1",
        "\"LoadBalancer\"",
        "[30443]",
        "10.96.0.9",
        "\"ports\":[443]",
    ] {
        assert!(addresses.contains(part), "{part} in {addresses}");
    }
    assert!(!addresses.contains("15021"), "{addresses}");
}

#[test]
fn the_seeds_kiali_gateway_is_served() {
    let mut mesh = Mesh::new();
    mesh.namespace("istio-system", "");
    mesh.pod("istio-system", "gw-1", "istio: ingressgateway", "10.244.5.1");
    mesh.service(
        "istio-system",
        "kiali",
        "app: kiali",
        "10.96.0.1",
        "{name: http, port: 20001}",
    );
    let seed = include_str!("../../../../deploy/samples/seed/ingress.yaml");
    mesh.add("default", &seed.replace("${INGRESS_DOMAIN}", "10.0.0.1.nip.io"));
    mesh.add(
        "istio-system",
        &secret("telemetry-gw-cert", &["*.10.0.0.1.nip.io"]),
    );
    let compiled = mesh.compile();
    let gateway = report(&compiled, "Gateway", "istio-system", "kiali-gateway");
    assert!(
        message(gateway, "ResolvedRefs").starts_with("True"),
        "{gateway:?}"
    );
    let rules = report(&compiled, "VirtualService", "istio-system", "kiali-vs");
    assert!(message(rules, "ResolvedRefs").starts_with("True"), "{rules:?}");
}

#[test]
fn no_key_is_ever_printed() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", &simple("h", "a.org")));
    let secret = secret("cred", &["a.org"]);
    let key = secret.split("PRIVATE KEY-----").nth(1).unwrap();
    let line = key
        .lines()
        .map(str::trim)
        .find(|l| l.len() > 40)
        .unwrap()
        .to_owned();
    mesh.add("edge", &secret);
    let compiled = mesh.compile();
    let held = held(&mut mesh);
    let secret: aquifer_xds::envoy::Secret = held.one(type_url::SECRET, "kubernetes://cred");
    for printed in [
        format!("{:?}", mesh.store),
        format!("{compiled:?}"),
        format!("{secret:?}"),
    ] {
        assert!(!printed.contains(&line));
    }
}

/// What Istio documents: the authorities are in the Secret with the suffix, or else in the certificate's own.
#[test]
fn without_a_secret_of_their_own_authorities_are_the_certificates() {
    let with_own = |name: &str| {
        let (clients, _) = pair(&["clients"]);
        let own = clients.replace('\n', "\n    ");
        format!("{}  ca.crt: |\n    {own}\n", secret(name, &["a.org"]))
    };
    let mutual = |more: &str| server("h", "a.org", &format!("mode: MUTUAL, credentialName: cred{more}"));
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", &mutual("")))
        .add("edge", &with_own("cred"));
    let version = |mesh: &mut Mesh, name: &str| {
        let held = held(mesh);
        held.names(type_url::SECRET)
            .contains(&name.to_owned())
            .then(|| held.version(type_url::SECRET, name))
    };
    let own = version(&mut mesh, "kubernetes://cred-cacert");
    assert!(own.is_some() && said(&mut mesh, "ResolvedRefs").starts_with("True"));

    mesh.add("edge", &authorities("cred-cacert"));
    let beside = version(&mut mesh, "kubernetes://cred-cacert");
    assert!(beside.is_some() && beside != own, "the one with the suffix wins");

    // One that is there and of no use closes the server: the other authorities may let in whom nobody meant.
    mesh.add(
        "edge",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: cred-cacert}\nstringData: {cacert: nonsense}",
    );
    assert_eq!(version(&mut mesh, "kubernetes://cred-cacert"), None);
    assert!(said(&mut mesh, "ResolvedRefs").contains("Secret edge/cred-cacert is of no use"));

    mesh.remove("", "Secret", "edge", "cred-cacert");
    assert_eq!(version(&mut mesh, "kubernetes://cred-cacert"), own);

    // Who names the Secret gets that one or none.
    mesh.add("edge", &gateway("g", &mutual(", caCertCredentialName: clients")));
    assert_eq!(
        held(&mut mesh).names(type_url::SECRET),
        ["kubernetes://cred"],
        "no other takes its place"
    );
}
