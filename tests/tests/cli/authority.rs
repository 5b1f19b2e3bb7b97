//! `aquifer ca`: what the control plane says is shown, and a wish for another authority goes to the right Secret.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::cluster::{VERSION, played};
use crate::program::{Ended, aquifer, with_kubectl};

/// Runs `ca status` against a control plane that says this.
fn status(view: &str) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let body = view.to_owned();
    let control = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let size = stream.read(&mut request).unwrap();
        let asked = String::from_utf8_lossy(&request[..size]).into_owned();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        asked
    });
    let ended = aquifer(&["ca", "status", "--control", &address], "");
    assert!(control.join().unwrap().starts_with("GET /debug/ca "));
    ended
}

const RENEWING: &str = r#"{"stage": "renewing", "origin": "secret istio-system/cacerts", "problem": null,
    "since": "2026-01-01T00:00:00.000Z", "inEffect": 2, "of": 3, "retiresAt": "2026-01-02T00:00:00.000Z",
    "signer": {"subject": "CN=new", "fingerprint": "AA:BB", "notAfter": "2030-01-01T00:00:00.000Z", "wanted": true},
    "roots": [
        {"subject": "CN=new", "fingerprint": "AA:BB", "notAfter": null, "wanted": true},
        {"subject": "CN=before", "fingerprint": "CC:DD", "notAfter": null, "wanted": false}]}"#;

#[test]
fn the_stage_and_what_is_trusted_are_shown() {
    let ended = status(RENEWING);
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    for part in [
        "renewing",
        "2026-01-02T00:00:00",
        "2 of 3 proxies",
        "secret istio-system/cacerts",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let old: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|l| l.starts_with("old root"))
        .collect();
    assert!(old.len() == 1 && old[0].contains("CN=before"), "{old:?}");
}

#[test]
fn what_cannot_be_used_fails() {
    let ended = status(&RENEWING.replace(
        "\"problem\": null",
        "\"problem\": \"ca-key.pem is no private key\"",
    ));
    assert_eq!(ended.status, 1);
    assert!(
        ended.stdout.contains("PROBLEM  ca-key.pem is no private key"),
        "{}",
        ended.stdout
    );
}

#[test]
fn another_authority_is_asked_for_where_the_mesh_made_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("asked");
    let asked = format!("annotate*) echo \"$*\" > {};;", log.display());
    let own = format!(
        "{VERSION}\n\"get secret istio-ca-secret\"*) echo secret/istio-ca-secret;;\n*ignore-not-found*) ;;\n{asked}"
    );
    let (_folder, kubectl) = played(&own);
    let ended = with_kubectl(&kubectl, &["ca", "rotate"], "");
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    let asked = std::fs::read_to_string(&log).unwrap();
    assert!(
        asked.starts_with("annotate secret istio-ca-secret -n istio-system"),
        "{asked}"
    );
    assert!(asked.contains("aquifer.io/renew="), "{asked}");

    let given = format!("{VERSION}\n\"get secret cacerts\"*) echo secret/cacerts;;");
    let (_folder, kubectl) = played(&given);
    let ended = with_kubectl(&kubectl, &["ca", "rotate"], "");
    assert_eq!(ended.status, 1);
    assert!(
        ended.stderr.contains("the authority is yours"),
        "{}",
        ended.stderr
    );
}
