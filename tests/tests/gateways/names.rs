//! Servers of one port, chosen by the name that a client asks for.

use crate::world::{World, eventually};

const SERVERS: &str = "
  {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com'], tls: {httpsRedirect: true}},
  {port: {number: 443, name: https-a, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: cert-a}},
  {port: {number: 443, name: https-b, protocol: HTTPS}, hosts: [b.example.com],
   tls: {mode: SIMPLE, credentialName: cert-b, minProtocolVersion: TLSV1_3}}
";

/// SNI chooses certificate and routes; an unknown name is closed; a missing Secret closes its own server only, and one
/// that comes later opens it; what is plain is redirected.
#[test]
fn each_name_has_its_server_and_its_certificate() {
    let Some(world) = World::new("names") else {
        return;
    };
    let all = world.authority.issue("all", &["*.example.com"]);
    world.gateway(SERVERS);
    world.routes("web", "'*.example.com'");
    world.apply(&all.secret("cert-a"));

    world.settle();

    let a = world.curl("https://a.example.com/");
    let answer = eventually("the first server serves", || a.send(), |a| a.is_ok());
    assert_eq!(
        (answer.version.as_str(), answer.field("x-forwarded-proto")),
        ("2", "https"),
        "{answer:?}"
    );
    let old = world
        .curl("https://a.example.com/")
        .with(&["--http1.1", "--tls-max", "1.2"]);
    assert_eq!(old.send().version, "1.1");

    // The second server's Secret is not there: it alone is closed, and the status says so.
    assert_eq!(world.curl("https://b.example.com/").send().code, "000");
    let said = eventually(
        "the status tells of the missing Secret",
        || world.condition("ResolvedRefs"),
        |said| said.starts_with("False"),
    );
    assert!(said.contains("no Secret istio-system/cert-b"), "{said}");
    world.apply(&all.secret("cert-b"));
    let b = world.curl("https://b.example.com/");
    eventually("the second server serves", || b.send(), |a| a.is_ok());
    let old = world.curl("https://b.example.com/").with(&["--tls-max", "1.2"]);
    assert_eq!(old.send().code, "000", "TLS 1.2 was ruled out");
    eventually(
        "the status is good",
        || world.condition("ResolvedRefs"),
        |said| said.starts_with("True"),
    );

    // A name that nobody serves, and none at all.
    let unknown = world.curl("https://c.example.com/").send();
    assert_eq!(unknown.code, "000", "{unknown:?}");
    let port = format!("{}:443", world.address);
    let (_, said) = world.outside(&["openssl", "s_client", "-connect", &port, "-noservername"]);
    assert!(said.contains("no peer certificate available"), "{said}");

    // A host that belongs to the other server's connection.
    let misdirected = world
        .curl("https://a.example.com/")
        .with(&["-H", "host: b.example.com"]);
    assert_eq!(misdirected.send().code, "421");
    assert_eq!(
        world
            .curl("https://a.example.com/")
            .with(&["-H", "host: x.org"])
            .send()
            .code,
        "404"
    );

    let redirect = world.curl("http://a.example.com/p?q=1").send();
    assert_eq!(
        (redirect.code.as_str(), redirect.redirect.as_str()),
        ("301", "https://a.example.com/p?q=1"),
        "{redirect:?}"
    );

    eventually(
        "the status tells the address",
        || world.status()["addresses"].to_string(),
        |addresses| addresses.contains(&world.address),
    );

    let (_, dump) = inside(&world, "http://127.0.0.1:15000/config_dump");
    assert!(
        dump.contains("SecretsConfigDump") && dump.contains("W3JlZGFjdGVkXQ=="),
        "{dump}"
    );
    let key = std::fs::read_to_string(&all.key).unwrap();
    let line = key.lines().nth(2).unwrap();
    let logs = ["istio-system/istio-ingressgateway", "istio-system/istiod"]
        .map(|pod| world.lab.logs(pod, 1 << 20).unwrap());
    for text in [&dump, &logs[0], &logs[1]] {
        assert!(!text.contains(line));
    }
}

fn inside(world: &World, url: &str) -> (bool, String) {
    let argv = ["curl", "-s", url];
    let output = world
        .lab
        .exec("istio-system/istio-ingressgateway", &argv)
        .unwrap();
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
