//! A lab with an ingress gateway, a service behind it, and clients outside of the cluster.

use std::process::Command;
use std::time::{Duration, Instant};

use aquifer_tests::lab::{Lab, LabOptions};
use aquifer_tests::skip;
use serde_json::Value;

use crate::authority::Authority;
use crate::clients::Curl;

const ECHO: &str = env!("CARGO_BIN_EXE_aquifer-echo");
/// For things that take milliseconds; generous, since machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: echo, args: [serve, '8080'], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
";

pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) authority: Authority,
    /// The gateway's address for the world outside.
    pub(crate) address: String,
}

impl World {
    /// None where the machine does not let us; the test then passes without having looked.
    pub(crate) fn new(name: &str) -> Option<Self> {
        Self::with(LabOptions::named(&format!("gw-{name}")))
    }

    pub(crate) fn with(options: LabOptions) -> Option<Self> {
        if !skip::unless_root() {
            return None;
        }
        let lab = Lab::up(&options.image("echo", ECHO)).unwrap();
        lab.apply("default", SHOP).unwrap();
        let status = lab.wait_ready(PATIENCE).unwrap();
        let service = status.service("istio-system", "istio-ingressgateway").unwrap();
        let address = service.addresses[0].to_string();
        Some(Self {
            lab,
            authority: Authority::new(),
            address,
        })
    }

    pub(crate) fn apply(&self, yaml: &str) {
        self.lab.apply("default", yaml).unwrap();
    }

    /// Waits until everything is ready, and known wherever it is asked for.
    pub(crate) fn settle(&self) {
        self.lab.wait_ready(PATIENCE).unwrap();
    }

    /// A Gateway `web` in namespace shop, with these servers.
    pub(crate) fn gateway(&self, servers: &str) {
        self.apply(&format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: web, namespace: shop}}\nspec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}"
        ));
    }

    /// A VirtualService that leads these hosts to the shop.
    pub(crate) fn routes(&self, name: &str, hosts: &str) {
        self.apply(&format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{hosts: [{hosts}], gateways: [web], http: [{{route: [{{destination: {{host: web}}}}]}}]}}"
        ));
    }

    /// A client outside of the cluster that trusts the authority.
    pub(crate) fn curl(&self, url: &str) -> Curl<'_> {
        self.curl_at(&self.address, url)
    }

    /// The same, for a gateway at another address.
    pub(crate) fn curl_at(&self, address: &str, url: &str) -> Curl<'_> {
        Curl::new(self, address, url)
    }

    /// Runs a program outside of the cluster; what it wrote to both streams.
    pub(crate) fn outside(&self, argv: &[&str]) -> (bool, String) {
        let output = self.lab.node("world", argv).unwrap();
        let text = [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned());
        (output.status.success(), text.concat())
    }

    pub(crate) fn outside_command(&self, argv: &[&str]) -> Command {
        self.lab.node_command("world", argv)
    }

    /// The status that the control plane has written for the Gateway `web`.
    pub(crate) fn status(&self) -> Value {
        self.status_of("Gateway", "web")
    }

    pub(crate) fn status_of(&self, kind: &str, name: &str) -> Value {
        let folder = std::fs::read_dir(self.lab.sink_dir().join("status")).unwrap();
        let texts = folder
            .flatten()
            .filter_map(|file| std::fs::read(file.path()).ok());
        let mut statuses = texts.filter_map(|text| serde_json::from_slice::<Value>(&text).ok());
        let found = statuses.find(|s| s["kind"] == kind && s["metadata"]["name"] == name);
        found.map(|object| object["status"].clone()).unwrap_or_default()
    }

    /// The condition of that type: its status, reason and message in one line.
    pub(crate) fn condition(&self, kind: &str) -> String {
        condition(&self.status()["conditions"], kind)
    }
}

/// The condition of that type in a list: its status, reason and message in one line.
pub(crate) fn condition(list: &Value, kind: &str) -> String {
    let found = list.as_array().into_iter().flatten().find(|c| c["type"] == kind);
    let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
    found.map_or_else(String::new, |c| {
        format!(
            "{} {}: {}",
            text(c, "status"),
            text(c, "reason"),
            text(c, "message")
        )
    })
}

/// Tries until it is so. Each try takes a process and with it time; there is nothing to wait for in between.
#[track_caller]
pub(crate) fn eventually<T: std::fmt::Debug>(
    what: &str,
    attempt: impl Fn() -> T,
    is_so: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = attempt();
        if is_so(&outcome) {
            return outcome;
        }
        assert!(Instant::now() < deadline, "{what}: still not so: {outcome:?}");
    }
}
