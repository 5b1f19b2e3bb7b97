//! Who gets a certificate in whose name: asked with the tokens of a living lab.

use std::io;

use aquifer_core::identity::SpiffeId;
use aquifer_identity::{CertificateSource, new_csr};
use aquifer_xds::ca::Asking;
use aquifer_xds::channel::ControlPlane;
use aquifer_xds::{CaClient, TokenFile};

use crate::actor::say;
use crate::world::{World, eventually};

const MESH_TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const ROOT: &str = "/var/run/secrets/istio/root-cert.pem";
const CONTROL_PLANE: &str = "istiod.istio-system.svc:15012";

/// An actor's part: asks for a certificate with a token, and says the identity that it got.
pub(crate) fn sign(token: &str, identity: &str, asking: &str) -> io::Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), token)?;
    let identity = SpiffeId::parse(identity).map_err(io::Error::other)?;
    let csr = new_csr(&identity).map_err(io::Error::other)?;
    let asking = match asking {
        "pods" => Asking::ForPods,
        _ => Asking::ForItself,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let chain = runtime.block_on(async {
        let control_plane = ControlPlane::new(CONTROL_PLANE, ROOT).map_err(io::Error::other)?;
        let ca = CaClient::new(&control_plane, TokenFile::new(file.path()), "Kubernetes", asking);
        ca.sign(&identity, csr.csr_pem()).await.map_err(io::Error::other)
    })?;
    let certificate = aquifer_identity::WorkloadCertificate::from_answer(&chain, &csr, &identity);
    say(certificate.map_err(io::Error::other)?.identity().as_str());
    Ok(())
}

fn token(world: &World, pod: &str, path: &str) -> String {
    let output = world.lab.exec(pod, &["cat", path]).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The same claims under a signature that is not theirs.
fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let flipped: String = signature.chars().rev().collect();
    format!("{signed}.{flipped}")
}

/// The same claims, claimed to need no signature (`{"alg":"none"}`).
fn unsigned(token: &str) -> String {
    let claims = token.split('.').nth(1).unwrap();
    format!("eyJhbGciOiJub25lIn0.{claims}.")
}

#[test]
fn a_certificate_is_given_only_to_whom_its_identity_belongs() {
    let Some(world) = World::new("tokens") else { return };
    let node = world.pod("mesh/server").node;
    let agent = |same: bool| {
        let agents = world.pods("istio-system/ztunnel");
        let agent = agents.iter().find(|pod| (pod.node == node) == same).unwrap();
        token(&world, &format!("istio-system/{}", agent.name), MESH_TOKEN)
    };
    let (here, elsewhere) = (agent(true), agent(false));
    let pod = world.client("plain", &node, true);
    let pods_token = token(&world, &pod, MESH_TOKEN);
    // Only the server runs under its namespace's default account, and on one node only.
    let server = "spiffe://cluster.local/ns/mesh/sa/default";
    let own = "spiffe://cluster.local/ns/plain/sa/client";
    let ask = |token: &str, identity: &str, asking: &str| {
        world.run(&pod, &format!("sign {token} {identity} {asking}"))
    };

    // A client asks again where a busy control plane lets it wait.
    let is_given = |token: &str, identity: &str, asking: &str| {
        let given = eventually(identity, || ask(token, identity, asking), Result::is_ok);
        assert_eq!(given.unwrap().trim(), identity);
    };

    is_given(&here, server, "pods");
    is_given(&pods_token, own, "itself");
    for (name, token, identity, asking) in [
        ("a pod of another node", elsewhere.as_str(), server, "pods"),
        (
            "a pod that does not exist",
            &here,
            "spiffe://cluster.local/ns/mesh/sa/nobody",
            "pods",
        ),
        (
            "the control plane itself",
            &here,
            "spiffe://cluster.local/ns/istio-system/sa/istiod",
            "pods",
        ),
        (
            "another trust domain",
            &here,
            "spiffe://other.example/ns/mesh/sa/default",
            "pods",
        ),
        ("a pod in another's name", &pods_token, server, "pods"),
        ("a pod in another's name, unasked", &pods_token, server, "itself"),
        ("a forged signature", &forged(&here), server, "pods"),
        ("no signature", &unsigned(&here), server, "pods"),
        (
            "a token for the API server",
            &token(&world, &pod, API_TOKEN),
            own,
            "itself",
        ),
        ("no token at all", "nonsense", own, "itself"),
    ] {
        let outcome = ask(token, identity, asking);
        let refusal = outcome.expect_err(name);
        assert!(
            !refusal.contains(token),
            "{name}: a token must not be told: {refusal}"
        );
    }
    is_given(&here, server, "pods");
    world.assert_nobody_died();
}
