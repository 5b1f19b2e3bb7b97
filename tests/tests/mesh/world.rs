//! A lab with a meshed namespace (two web pods, a client) and clients outside of it.

use std::process::Output;
use std::time::{Duration, Instant};

use aquifer_tests::lab::network::Families;
use aquifer_tests::lab::status::{PodStatus, Status};
use aquifer_tests::lab::{Lab, LabOptions};
use aquifer_tests::skip;

pub(crate) const ECHO: &str = env!("CARGO_BIN_EXE_aquifer-echo");
/// For things that take milliseconds; generous, since machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

const WORKLOADS: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: mesh}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: mesh}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: tcp, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: mesh}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: echo
        args: [serve, '8080', '9090', '127.0.0.1:7070']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: mesh}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      serviceAccountName: client
      containers: [{name: client, image: any, command: [sleep, infinity]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other, namespace: mesh}
spec:
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other}}
    spec:
      containers: [{name: client, image: any, command: [sleep, infinity]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: outsider, namespace: default}
spec:
  selector: {matchLabels: {app: outsider}}
  template:
    metadata: {labels: {app: outsider}}
    spec:
      containers: [{name: client, image: any, command: [sleep, infinity]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: plain, namespace: default}
spec:
  selector: {matchLabels: {app: plain}}
  template:
    metadata: {labels: {app: plain}}
    spec:
      containers:
      - {name: web, image: echo, args: [serve, '8080'], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}
";

const OPTED_IN: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}
";

const OPTED_OUT: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: mesh}
";

pub(crate) struct World {
    pub(crate) lab: Lab,
}

impl World {
    /// None where the machine does not let us; the test then passes without having looked.
    pub(crate) fn new(name: &str) -> Option<Self> {
        Self::with(name, Families::Ipv4)
    }

    pub(crate) fn with(name: &str, families: Families) -> Option<Self> {
        if !skip::unless_root() {
            return None;
        }
        let options = LabOptions::named(&format!("mesh-{name}"))
            .families(families)
            .image("echo", ECHO);
        let lab = Lab::up(&options).unwrap();
        let world = Self { lab };
        world.apply(OPTED_IN);
        world.apply(WORKLOADS);
        world.settle();
        Some(world)
    }

    pub(crate) fn apply(&self, yaml: &str) {
        self.lab.apply("default", yaml).unwrap();
    }

    pub(crate) fn delete(&self, yaml: &str) {
        self.lab.delete("default", yaml).unwrap();
    }

    /// Waits until everything is ready, and known wherever it is asked for.
    pub(crate) fn settle(&self) -> Status {
        self.lab.wait_ready(PATIENCE).unwrap()
    }

    /// Takes the label off, or puts it on, and waits until all agents have followed.
    pub(crate) fn opt(&self, is_in: bool) {
        self.apply(if is_in { OPTED_IN } else { OPTED_OUT });
        let followed = |status: &Status| {
            let meshed = status.pods.iter().filter(|pod| pod.namespace == "mesh");
            meshed
                .clone()
                .all(|pod| pod.enrolled == is_in && pod.wanted == is_in)
        };
        self.lab
            .wait_until("pods follow their label", PATIENCE, followed)
            .unwrap();
        self.settle();
    }

    pub(crate) fn pods(&self, workload: &str) -> Vec<PodStatus> {
        let (namespace, name) = workload.split_once('/').unwrap();
        let status = self.lab.status().unwrap();
        status.pods_of(namespace, name).cloned().collect()
    }

    pub(crate) fn pod(&self, workload: &str) -> PodStatus {
        self.pods(workload).remove(0)
    }

    pub(crate) fn ip(&self, workload: &str) -> String {
        self.pod(workload).ip.unwrap().to_string()
    }

    /// What the echo server answers, or why there is no answer.
    pub(crate) fn get(&self, from: &str, target: &str) -> Result<String, String> {
        outcome(&self.lab.exec(from, &[ECHO, "get", target]).unwrap())
    }

    pub(crate) fn get_from_node(&self, node: &str, target: &str) -> Result<String, String> {
        outcome(&self.lab.node(node, &[ECHO, "get", target]).unwrap())
    }

    pub(crate) fn agents(&self) -> &'static str {
        "istio-system/ztunnel"
    }

    /// Has every agent end, and waits until it has; it stays away until it is released.
    pub(crate) fn end_agents(&self, signal: i32) {
        self.lab.kill(self.agents(), signal, true).unwrap();
        let (namespace, name) = self.agents().split_once('/').unwrap();
        let gone = |status: &Status| status.pods_of(namespace, name).all(|pod| pod.pids.is_empty());
        self.lab
            .wait_until("the agents are gone", PATIENCE, gone)
            .unwrap();
    }

    pub(crate) fn agent_logs(&self) -> String {
        self.lab.logs(self.agents(), 1 << 20).unwrap()
    }

    /// What the agents have logged, once that is there: a connection is told of when it has ended, after its client has
    /// gone.
    #[track_caller]
    pub(crate) fn told(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        outcome_of(what, || self.agent_logs(), |logs| is_there(logs))
    }
}

fn outcome(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// The value of a line `KEY VALUE` of an answer.
pub(crate) fn field<'a>(body: &'a str, key: &str) -> &'a str {
    let line = body
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {key} in {body:?}"))
}

/// Tries until it is so. Each try takes a process and with it time; there is nothing to wait for in between.
#[track_caller]
pub(crate) fn eventually<T: std::fmt::Debug>(
    what: &str,
    attempt: impl Fn() -> T,
    is_so: impl Fn(&T) -> bool,
) {
    drop(outcome_of(what, attempt, is_so));
}

/// The same, for the outcome that is so.
#[track_caller]
fn outcome_of<T: std::fmt::Debug>(what: &str, attempt: impl Fn() -> T, is_so: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = attempt();
        if is_so(&outcome) {
            return outcome;
        }
        assert!(Instant::now() < deadline, "{what}: still not so: {outcome:?}");
    }
}
