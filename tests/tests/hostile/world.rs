//! A lab with a namespace in the mesh and one outside of it, each with a server and a client.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use aquifer_tests::lab::status::{PodStatus, Status};
use aquifer_tests::lab::{Lab, LabOptions};
use aquifer_tests::skip;

use crate::actor;

/// For things that take milliseconds; generous, since machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

const NAMESPACES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
";

const UNLABELLED: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: mesh}
";

/// For each of the two namespaces.
const WORKLOADS: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: client}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  selector: {app: server}
  ports:
  - {name: tcp-echo, port: 7001}
  - {name: tcp-sink, port: 7002}
  - {name: tcp-source, port: 7003}
  - {name: tcp-greeting, port: 7004}
  - {name: tcp-reset, port: 7005}
  - {name: tcp-watch, port: 7006}
  - {name: udp-echo, port: 7001, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: server}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server, version: v1}}
  template:
    metadata: {labels: {app: server, version: v1}}
    spec:
      containers:
      - name: server
        image: actor
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  replicas: 2
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      serviceAccountName: client
      containers: [{name: client, image: any, command: [sleep, infinity]}]
";

pub(crate) struct World {
    pub(crate) lab: Lab,
}

impl World {
    /// None where the machine does not let us; the test then passes without having looked.
    pub(crate) fn new(name: &str) -> Option<Self> {
        Self::with_control(name, "")
    }

    /// With another control plane than the lab's, in its place before anything else is there.
    pub(crate) fn with_control(name: &str, control: &str) -> Option<Self> {
        if !skip::unless_root() {
            return None;
        }
        let options = LabOptions::named(&format!("hostile-{name}")).image("actor", &actor::command("serve"));
        let world = Self {
            lab: Lab::up(&options).unwrap(),
        };
        if !control.is_empty() {
            world.apply("istio-system", control);
            world.settle();
        }
        world.apply("default", NAMESPACES);
        for namespace in ["mesh", "plain"] {
            world.apply(namespace, WORKLOADS);
        }
        world.settle();
        Some(world)
    }

    pub(crate) fn apply(&self, namespace: &str, yaml: &str) {
        self.lab.apply(namespace, yaml).unwrap();
    }

    pub(crate) fn delete(&self, namespace: &str, yaml: &str) {
        self.lab.delete(namespace, yaml).unwrap();
    }

    /// Waits until everything is ready and enrolled, and known wherever it is asked for.
    pub(crate) fn settle(&self) -> Status {
        self.lab.wait_ready(PATIENCE).unwrap()
    }

    /// Takes the mesh's label off its namespace, or puts it back, and waits until all proxies have followed.
    pub(crate) fn opt(&self, is_in: bool) {
        self.apply("default", if is_in { NAMESPACES } else { UNLABELLED });
        let followed = |status: &Status| {
            let mut wanted = status.pods.iter().filter(|pod| pod.namespace == "mesh");
            wanted.all(|pod| {
                pod.enrolled == (is_in && pod.wanted) && pod.wanted == (is_in && !is_waypoint(pod))
            })
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

    pub(crate) fn vip(&self, namespace: &str, service: &str) -> String {
        let status = self.lab.status().unwrap();
        status.service(namespace, service).unwrap().vips[0].to_string()
    }

    /// A pod of the workload on another node than `node`, or on the same.
    pub(crate) fn client(&self, namespace: &str, node: &str, same: bool) -> String {
        let pods = self.pods(&format!("{namespace}/client"));
        let pod = pods.iter().find(|pod| (pod.node == node) == same);
        format!("{namespace}/{}", pod.expect("a pod on every node").name)
    }

    /// An actor's part, played inside a pod.
    pub(crate) fn command(&self, from: &str, part: &str) -> Command {
        let words = actor::words(part);
        self.lab.exec_command(from, &words)
    }

    /// What an actor that was to end by itself has said.
    pub(crate) fn run(&self, from: &str, part: &str) -> Result<String, String> {
        outcome(&self.lab.exec(from, &actor::words(part)).unwrap())
    }

    /// The answer to one request with a connection of its own.
    pub(crate) fn get(&self, from: &str, target: &str) -> Result<String, String> {
        self.run(from, &format!("get {target}"))
    }

    /// No process of the mesh has died, or was started again.
    pub(crate) fn assert_nobody_died(&self) {
        let status = self.lab.status().unwrap();
        let restarted = status.pods.iter().any(|pod| pod.restarts > 0);
        assert!(!restarted, "{status}");
    }
}

fn is_waypoint(pod: &PodStatus) -> bool {
    pod.labels.contains_key("gateway.networking.k8s.io/gateway-name")
}

fn outcome(output: &Output) -> Result<String, String> {
    let said = actor::said(&output.stdout);
    if output.status.success() && !said.is_empty() {
        return Ok(said);
    }
    Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Tries until it is so. Each try takes a process and with it time; there is nothing to wait for in between.
#[track_caller]
pub(crate) fn eventually<T: std::fmt::Debug>(
    what: &str,
    attempt: impl FnMut() -> T,
    is_so: impl Fn(&T) -> bool,
) -> T {
    eventually_within(PATIENCE, what, attempt, is_so)
}

/// The same for what takes long by its nature.
#[track_caller]
pub(crate) fn eventually_within<T: std::fmt::Debug>(
    patience: Duration,
    what: &str,
    mut attempt: impl FnMut() -> T,
    is_so: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        let outcome = attempt();
        if is_so(&outcome) {
            return outcome;
        }
        assert!(Instant::now() < deadline, "{what}: still not so: {outcome:?}");
    }
}
