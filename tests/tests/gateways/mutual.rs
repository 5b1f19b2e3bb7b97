//! Clients that prove themselves with a certificate.

use crate::authority::{Authority, authorities_secret};
use crate::world::{World, eventually};

fn server(mode: &str, more: &str) -> String {
    format!(
        "{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [a.example.com], tls: {{mode: {mode}, credentialName: cert{more}}}}}"
    )
}

#[test]
fn only_clients_of_the_authority_come_in_and_are_told_of() {
    let Some(world) = World::new("mutual") else {
        return;
    };
    let own = world.authority.issue("server", &["a.example.com"]);
    world.apply(&own.secret("cert"));
    world.apply(&authorities_secret("cert-cacert", &world.authority.certificate()));
    world.routes("web", "a.example.com");
    world.gateway(&server("MUTUAL", ""));
    let good = world.authority.issue("good", &["good.example.com"]);
    let plain = world.authority.issue_plainly("plain");
    let foreign = Authority::new().issue("good", &["good.example.com"]);
    let url = "https://a.example.com/";

    let with = world.curl(url).showing(&good);
    let answer = eventually("a good client comes in", || with.send(), |a| a.is_ok());
    let told = answer.field("x-forwarded-client-cert");
    assert!(
        told.contains("Hash=")
            && told.contains("Subject=\"O=example organization,CN=good\"")
            && told.contains("DNS=good.example.com"),
        "{answer:?}"
    );
    let forged = world
        .curl(url)
        .showing(&good)
        .with(&["-H", "x-forwarded-client-cert: Subject=\"CN=root\""]);
    assert!(!forged.send().body.contains("root"));
    assert!(
        world.curl(url).showing(&plain).send().is_ok(),
        "as OpenSSL makes it by default"
    );
    assert_eq!(world.curl(url).showing(&foreign).send().code, "000");
    assert_eq!(world.curl(url).send().code, "000");

    world.gateway(&server("MUTUAL", ", subjectAltNames: [other.example.com]"));
    let with = world.curl(url).showing(&good);
    eventually("the name is asked for", || with.send(), |a| a.code == "000");

    world.gateway(&server("OPTIONAL_MUTUAL", ""));
    let without = world.curl(url);
    let answer = eventually("a client without comes in", || without.send(), |a| a.is_ok());
    assert_eq!(answer.field("x-forwarded-client-cert"), "");
    assert!(world.curl(url).showing(&good).send().is_ok());
    assert_eq!(world.curl(url).showing(&foreign).send().code, "000");
}
