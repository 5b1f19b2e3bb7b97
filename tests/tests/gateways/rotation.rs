//! A certificate that is replaced while requests run.

use std::path::Path;

use crate::authority::Issued;
use crate::load::Load;
use crate::world::{World, eventually};

const SERVER: &str = "{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: cert}}";
const ROTATIONS: usize = 5;

/// The serial number that the gateway shows.
fn shown(world: &World) -> String {
    let port = format!("{}:443", world.address);
    let show = format!(
        "openssl s_client -connect {port} -servername a.example.com </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    world.outside(&["sh", "-c", &show]).1.trim().to_owned()
}

fn serial(issued: &Issued) -> String {
    let output = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(&issued.certificate)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_certificate_is_replaced_without_a_failed_request() {
    let Some(world) = World::new("rotation") else {
        return;
    };
    let issue = |n: usize| world.authority.issue(&format!("cert-{n}"), &["a.example.com"]);
    world.apply(&issue(0).secret("cert"));
    world.gateway(SERVER);
    world.routes("web", "a.example.com");
    let once = world.curl("https://a.example.com/");
    eventually("the server serves", || once.send(), |a| a.is_ok());

    let folder = tempfile::tempdir().unwrap();
    let stop = folder.path().join("stop");
    let load = Load::start(&world, "a.example.com", &stop);
    for n in 1..=ROTATIONS {
        let next = issue(n);
        world.apply(&next.secret("cert"));
        let expected = serial(&next);
        eventually(
            "the new certificate is shown",
            || shown(&world),
            |serial| *serial == expected,
        );
    }
    let tally = end(load, &stop);
    assert!(tally.asked > ROTATIONS && tally.failed.is_empty(), "{tally:?}");

    // A broken one is not taken: the server is closed, the status says why.
    let (certificate, key) = (issue(7), issue(8));
    let mixed = Issued {
        certificate: certificate.certificate,
        key: key.key,
    };
    world.apply(&mixed.secret("cert"));
    let said = eventually(
        "the status tells of the wrong key",
        || world.condition("ResolvedRefs"),
        |said| said.starts_with("False InvalidCertificateRef"),
    );
    assert!(said.contains("does not belong"), "{said}");
    eventually("the server is closed", || once.send().code, |code| code == "000");
}

fn end(load: Load, stop: &Path) -> crate::load::Tally {
    std::fs::write(stop, "").unwrap();
    load.end()
}
