//! The mesh's authority is replaced under load: its root, its intermediate, and by what cannot be used.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::TrustDomain;
use aquifer_identity::CertificateAuthority;
use http::StatusCode;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::Value;

use crate::place::Place;
use crate::tunnels::{HBONE, ROUTE, authority, certificate, config, connect, identity};
use crate::upheaval::Load;
use crate::world::{World, eventually_within};

/// The lab's control plane, with certificates of the shortest life and roots that are announced for a moment only.
const CONTROL: &str = include_str!("../../../deploy/lab/istiod.yaml");
const HURRY: &str = "
        - {name: AQUIFER_WORKLOAD_CERT_TTL, value: '60'}
        - {name: AQUIFER_ROOT_ANNOUNCE, value: '2'}
        - name: POD_NAME
";
/// A certificate's life, and time for a busy machine.
const A_LIFE: Duration = Duration::from_secs(240);

/// The same pods without a waypoint.
const DIRECT: &str = r"
apiVersion: v1
kind: Service
metadata: {name: direct, namespace: mesh}
spec:
  selector: {app: server}
  ports: [{name: tcp, port: 80, targetPort: 8080}]
";

const CLIENT: &str = "spiffe://cluster.local/ns/mesh/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/mesh/sa/default";

/// An authority as people make theirs: a root that stays at home, and what signs under it.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Root {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// The four files of an intermediate.
    fn intermediate(&self, name: &str) -> [(&'static str, String); 4] {
        let key = KeyPair::generate().unwrap();
        let certificate = authority_params(name)
            .signed_by(&key, &self.issuer)
            .unwrap()
            .pem();
        [
            ("ca-key.pem", key.serialize_pem()),
            ("cert-chain.pem", format!("{certificate}{}", self.pem)),
            ("root-cert.pem", self.pem.clone()),
            ("ca-cert.pem", certificate),
        ]
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn state(world: &World) -> PathBuf {
    world.lab.objects_dir().with_file_name("state")
}

/// One file after the other, as an editor would: what is there in between does not fit together.
fn give(world: &World, files: &[(&str, String)]) {
    for (name, text) in files {
        fs::write(state(world).join(name), text).unwrap();
    }
}

/// What the control plane says about its authority.
fn view(world: &World) -> Value {
    let page = || -> std::io::Result<String> {
        let control = Place::pod(world, "istio-system/istiod");
        let mut stream = control.connect("127.0.0.1:15014".parse().unwrap())?;
        stream.write_all(b"GET /debug/ca HTTP/1.1\r\nhost: istiod\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = page().unwrap_or_default();
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
    body.and_then(|body| serde_json::from_str(body).ok())
        .unwrap_or_default()
}

/// Waits for what the control plane says; at every look a new connection gets its answer.
#[track_caller]
fn reaches(world: &World, client: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let look = || {
        let answer = world.get(client, "web:80");
        assert!(answer.is_ok(), "{what}: {answer:?}");
        view(world)
    };
    eventually_within(A_LIFE, what, look, is_so)
}

fn signs(view: &Value, name: &str) -> bool {
    view["signer"]["subject"]
        .as_str()
        .is_some_and(|subject| subject.contains(name))
}

/// Whether a member with a certificate of this authority gets a tunnel to a pod.
fn is_let_in(world: &World, by: &CertificateAuthority, trusting: &CertificateAuthority) -> bool {
    let roots = [by.roots(), trusting.roots()].concat();
    let shown = certificate(&by.trusting(roots), &identity(CLIENT));
    let shown = config(&shown, SERVER);
    let ip = world.ip("mesh/server");
    let to = SocketAddr::new(ip.parse().unwrap(), HBONE);
    let from = Place::pod(world, "plain/client");
    connect(&from, to, &shown, &format!("{ip}:8080")) == Ok(StatusCode::OK)
}

#[test]
fn root_and_intermediate_are_replaced_without_a_failed_request() {
    let hurry = CONTROL.replacen("\n        - name: POD_NAME\n", HURRY, 1);
    let Some(world) = World::with_control("rotation", &hurry) else {
        return;
    };
    world.apply("default", ROUTE);
    world.apply("default", DIRECT);
    world.settle();
    let old = authority(&world);
    let client = world.client("mesh", &world.pod("mesh/server").node, false);
    reaches(&world, &client, "the first authority is settled", |v| {
        v["stage"] == "settled"
    });
    assert!(is_let_in(&world, &old, &old), "a proof that cannot fail is none");

    let loads = [
        ("web:80/load", 1),
        ("web:80/load", 50),
        ("direct:80/load", 1),
        ("direct:80/load", 50),
    ];
    let loads = loads.map(|(target, calls)| Load::start(&world, &client, target, calls));
    let root = Root::new("new root");
    give(&world, &root.intermediate("first intermediate"));
    let renewing = |name: &'static str| move |v: &Value| v["stage"] == "renewing" && signs(v, name);
    reaches(
        &world,
        &client,
        "the new root is signed under",
        renewing("first intermediate"),
    );
    give(&world, &root.intermediate("second intermediate"));
    reaches(
        &world,
        &client,
        "another intermediate signs",
        renewing("second intermediate"),
    );
    let settled = reaches(&world, &client, "the old root is dropped everywhere", |v| {
        v["stage"] == "settled" && v["inEffect"] == v["of"]
    });
    assert_eq!(settled["roots"].as_array().unwrap().len(), 1, "{settled}");
    for load in loads {
        load.finish_without_failure("root and intermediate are replaced");
    }
    world.assert_nobody_died();

    let new = authority(&world);
    assert!(is_let_in(&world, &new, &new));
    assert!(
        !is_let_in(&world, &old, &new),
        "a certificate of the dropped root"
    );
    forged_roots_mean_nothing(&world, &new);
    what_cannot_be_used_is_refused(&world, &client);
}

/// Whoever may write a ConfigMap must not become an authority by it.
fn forged_roots_mean_nothing(world: &World, real: &CertificateAuthority) {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let forged = CertificateAuthority::new_self_signed(domain, SystemTime::now()).unwrap();
    let both = format!("{}{}", real.roots_pem(), forged.roots_pem());
    let indented = both.replace('\n', "\n    ");
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio-ca-root-cert}}\ndata:\n  root-cert.pem: |\n    {indented}\n"
    );
    for namespace in ["mesh", "istio-system"] {
        world.apply(namespace, &map);
    }
    world.settle();
    assert!(!is_let_in(world, &forged, real));
}

fn what_cannot_be_used_is_refused(world: &World, client: &str) {
    let before = view(world);
    let kept: Vec<_> = ["ca-key.pem", "cert-chain.pem", "root-cert.pem", "ca-cert.pem"]
        .map(|name| (name, fs::read_to_string(state(world).join(name)).unwrap()))
        .into();
    let other = Root::new("other root").intermediate("other");
    let leaf = CertificateParams::new(["leaf".to_owned()]).unwrap();
    let leaf = leaf.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    let mut over = authority_params("over");
    over.not_after = rcgen::date_time_ymd(2020, 1, 1);
    over.not_before = rcgen::date_time_ymd(2019, 1, 1);
    let key = KeyPair::generate().unwrap();
    let (over, over_key) = (over.self_signed(&key).unwrap().pem(), key.serialize_pem());
    let wrong: [(&str, Vec<(&str, String)>); 6] = [
        ("belong together", vec![("ca-key.pem", other[0].1.clone())]),
        ("belong together", vec![("root-cert.pem", other[2].1.clone())]),
        ("ca-cert.pem", vec![("ca-cert.pem", "garbage".to_owned())]),
        ("root-cert.pem", vec![("root-cert.pem", String::new())]),
        ("cannot be used", vec![("ca-cert.pem", leaf)]),
        (
            "expired",
            vec![
                ("ca-key.pem", over_key),
                ("root-cert.pem", over.clone()),
                ("cert-chain.pem", String::new()),
                ("ca-cert.pem", over),
            ],
        ),
    ];
    for (reason, files) in wrong {
        give(world, &files);
        let said = |v: &Value| v["problem"].as_str().is_some_and(|p| p.contains(reason));
        let now = reaches(world, client, reason, said);
        assert_eq!(now["signer"], before["signer"]);
        assert_eq!(now["roots"], before["roots"]);
        give(world, &kept);
        reaches(world, client, "the right files are back", |v| {
            v["problem"].is_null()
        });
    }
}
