//! The sample manifests: consistent with themselves, and what the demo makes of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aquifer_tests::bookinfo::part::{self, Part};
use aquifer_tests::lab::{Lab, LabOptions};
use aquifer_tests::skip;
use serde_json::Value;

const APPLICATION: [&str; 3] = [
    "bookinfo/bookinfo.yaml",
    "bookinfo/bookinfo-db.yaml",
    "bookinfo/bookinfo-ratings-v2.yaml",
];
/// For things that take milliseconds; generous, since machines are busy.
const PATIENCE: Duration = Duration::from_secs(180);
const RULES: &str = "bookinfo/destination-rule-all-mtls.yaml";
const SEED: [&str; 3] = ["seed/canary.yaml", "seed/egress.yaml", "seed/ingress.yaml"];
const GATEWAYS: [&str; 2] = [
    "bookinfo/bookinfo-gateway.yaml",
    "bookinfo/bookinfo-gateway-8080.yaml",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples")
}

fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert!(!documents.is_empty(), "{file} is empty");
    documents
}

fn application(kind: &str) -> Vec<Value> {
    APPLICATION
        .iter()
        .flat_map(|file| documents(file))
        .filter(|document| document["kind"] == kind)
        .collect()
}

fn name(document: &Value) -> &str {
    document["metadata"]["name"].as_str().unwrap()
}

#[test]
fn the_application_is_the_public_one() {
    let deployments: Vec<Value> = application("Deployment");
    let names: BTreeSet<&str> = deployments.iter().map(name).collect();
    let expected = [
        "details-v1",
        "mongodb-v1",
        "productpage-v1",
        "ratings-v1",
        "ratings-v2",
        "reviews-v1",
        "reviews-v2",
        "reviews-v3",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    for deployment in &deployments {
        let pod = &deployment["spec"]["template"];
        let labels = &pod["metadata"]["labels"];
        let part = format!(
            "{}-{}",
            labels["app"].as_str().unwrap(),
            labels["version"].as_str().unwrap()
        );
        assert_eq!(name(deployment), part);
        let image = pod["spec"]["containers"][0]["image"].as_str().unwrap();
        assert_eq!(image.parse::<Part>().unwrap().to_string(), part, "{image}");
    }
}

#[test]
fn services_have_the_ports_that_their_pods_open() {
    let deployments = application("Deployment");
    for service in application("Service") {
        let app = &service["spec"]["selector"]["app"];
        let port = &service["spec"]["ports"][0];
        let mut pods = deployments
            .iter()
            .map(|deployment| &deployment["spec"]["template"])
            .filter(|pod| pod["metadata"]["labels"]["app"] == *app)
            .peekable();
        assert!(pods.peek().is_some(), "{} selects nothing", name(&service));
        for pod in pods {
            assert_eq!(
                pod["spec"]["containers"][0]["ports"][0]["containerPort"],
                port["port"]
            );
        }
        let expected = if app == "mongodb" {
            ("mongo", 27017)
        } else {
            ("http", 9080)
        };
        assert_eq!(
            (port["name"].as_str().unwrap(), port["port"].as_u64().unwrap()),
            expected
        );
    }
}

#[test]
fn every_service_account_that_a_pod_uses_exists() {
    let accounts = application("ServiceAccount");
    let known: BTreeSet<&str> = accounts.iter().map(name).collect();
    for deployment in application("Deployment") {
        if let Some(account) = deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str() {
            assert!(known.contains(account), "{} uses {account}", name(&deployment));
        }
    }
}

#[test]
fn the_canary_names_subsets_that_exist() {
    let subsets: BTreeMap<String, BTreeSet<String>> = documents(RULES)
        .iter()
        .map(|rule| {
            let subsets = rule["spec"]["subsets"].as_array().unwrap();
            let names = subsets
                .iter()
                .map(|subset| subset["name"].as_str().unwrap().to_owned());
            (rule["spec"]["host"].as_str().unwrap().to_owned(), names.collect())
        })
        .collect();
    for service in documents("seed/canary.yaml") {
        for rule in service["spec"]["http"].as_array().unwrap() {
            for route in rule["route"].as_array().unwrap() {
                let destination = &route["destination"];
                let (host, subset) = (
                    destination["host"].as_str().unwrap(),
                    destination["subset"].as_str().unwrap(),
                );
                assert!(subsets[host].contains(subset), "{host} has no subset {subset}");
            }
        }
    }
}

#[test]
fn the_seeds_manifests_and_both_gateways_are_there() {
    for file in SEED {
        documents(file);
    }
    let ports = GATEWAYS.map(|file| documents(file)[0]["spec"]["servers"][0]["port"]["number"].as_u64());
    assert_eq!(ports, [Some(80), Some(8080)]);
}

#[test]
fn bookinfo_comes_up_unchanged_and_serves_its_page() {
    if !skip::unless_root() {
        return;
    }
    let mut options = LabOptions::named("t-samples").without_mesh();
    options.images = part::image_mappings(Path::new(env!("CARGO_BIN_EXE_bookinfo")));
    options.manifests = APPLICATION.iter().map(|file| folder().join(file)).collect();
    let lab = Lab::up(&options).unwrap();
    let status = lab.status().unwrap();
    let vip = status.service("default", "productpage").unwrap().vips[0];
    let url = format!("http://{vip}:9080/productpage");
    // The sample's parts wait for one another for two or three seconds, which a busy machine may take for itself.
    eventually(|| {
        let curl = ["curl", "-s", "--max-time", "60", &url];
        let page = String::from_utf8(lab.node("node-1", &curl).unwrap().stdout).unwrap();
        let title = page.contains("<title>Simple Bookstore App</title>");
        let whole = title && page.contains("reviews/v") && !page.contains("Error fetching");
        if whole { Ok(()) } else { Err(page) }
    });
    lab.down().unwrap();
}

/// The certificate is made by the story's own commands, and its manifests are applied as the story has them.
#[test]
fn the_seeds_kiali_is_reached_over_https() {
    if !skip::unless_root() {
        return;
    }
    let echo = env!("CARGO_BIN_EXE_aquifer-echo");
    let lab = Lab::up(&LabOptions::named("t-kiali").image("echo", echo)).unwrap();
    let status = lab.status().unwrap();
    let gateway = status.service("istio-system", "istio-ingressgateway").unwrap();
    let (address, domain) = (gateway.addresses[0], format!("{}.nip.io", gateway.addresses[0]));
    let certificates = tempfile::tempdir().unwrap();
    make_certificate(certificates.path(), &domain);
    let read = |file: &str| std::fs::read_to_string(certificates.path().join(file)).unwrap();
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": "telemetry-gw-cert", "namespace": "istio-system" },
        "stringData": { "tls.crt": read("tls.crt"), "tls.key": read("tls.key") },
    });
    lab.apply("istio-system", &secret.to_string()).unwrap();
    lab.apply("istio-system", KIALI).unwrap();
    let seed = std::fs::read_to_string(folder().join("seed/ingress.yaml")).unwrap();
    lab.apply("istio-system", &seed.replace("${INGRESS_DOMAIN}", &domain))
        .unwrap();
    lab.wait_ready(PATIENCE).unwrap();

    let url = format!("https://kiali.{domain}/");
    let resolve = format!("kiali.{domain}:443:{address}");
    let ca = certificates.path().join("ca.crt");
    let curl = [
        "curl",
        "-sS",
        "--max-time",
        "60",
        "--resolve",
        &resolve,
        "--cacert",
        ca.to_str().unwrap(),
        &url,
    ];
    eventually(|| {
        let output = lab.node("world", &curl).unwrap();
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        if page.contains("x-forwarded-proto https") {
            return Ok(());
        }
        Err(page + &String::from_utf8_lossy(&output.stderr))
    });
    lab.down().unwrap();
}

/// Tries until it works. Each try takes a process and with it time; there is nothing to wait for in between.
#[track_caller]
fn eventually(attempt: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(why) = attempt() {
        assert!(Instant::now() < deadline, "{why}");
    }
}

const KIALI: &str = "
apiVersion: v1
kind: Service
metadata: {name: kiali}
spec:
  selector: {app: kiali}
  ports: [{name: http, port: 20001}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kiali}
spec:
  selector: {matchLabels: {app: kiali}}
  template:
    metadata: {labels: {app: kiali}}
    spec:
      containers: [{name: kiali, image: echo, args: [serve, '20001'], ports: [{containerPort: 20001}]}]
";

/// The three commands of the story, with its subjects and its defaults.
fn make_certificate(folder: &Path, domain: &str) {
    let (authority, server) = (
        format!("/O=example Inc./CN=*.{domain}"),
        format!("/CN=*.{domain}/O=example organization"),
    );
    let commands: [(&str, Option<&str>); 3] = [
        (
            "req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout ca.key -out ca.crt",
            Some(&authority),
        ),
        (
            "req -out cert.csr -newkey rsa:2048 -nodes -keyout tls.key",
            Some(&server),
        ),
        (
            "x509 -req -sha256 -days 365 -CA ca.crt -CAkey ca.key -set_serial 0 -in cert.csr -out tls.crt",
            None,
        ),
    ];
    for (command, subject) in commands {
        let output = Command::new("openssl")
            .args(command.split(' '))
            .args(subject.into_iter().flat_map(|s| ["-subj", s]))
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {command}: {output:?}");
    }
}

/// The demo checks itself: a bar that is not reached is a failure, and its figures are as promised.
#[test]
fn the_demo_reaches_its_bars() {
    if !skip::unless_root() {
        return;
    }
    let file = std::env::temp_dir().join(format!("aquifer-demo-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_aquifer-demo"))
        .args(["--name", "t-demo", "--json"])
        .arg(&file)
        .output()
        .unwrap();
    let (report, progress) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{progress}\n{report}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let figures: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&figures["requests"], &figures["failures"]),
        (&Value::from(400), &Value::from(0))
    );
    assert_eq!(figures["link"]["plaintext"], 0);
    assert!(
        figures["link"]["plaintext_unlabelled"].as_u64().unwrap() > 0,
        "{figures}"
    );
    assert!(figures["seconds"].is_number(), "{figures}");
}
