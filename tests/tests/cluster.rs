//! The cluster of real parts, without the mesh: what the Kubernetes suites stand on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aquifer_tests::cluster::image::Image;
use aquifer_tests::cluster::kubectl::limit;
use aquifer_tests::cluster::layout::{ClusterName, Layout, Member};
use aquifer_tests::cluster::parts::Parts;
use aquifer_tests::cluster::{Cluster, ClusterOptions, take_down};
use aquifer_tests::skip;

const PROGRAM: &str = env!("CARGO_BIN_EXE_aquifer-cluster");
/// Generous: the machine may be slow, and busy with other things.
const PATIENCE: Duration = Duration::from_secs(240);
/// BPF, NET_ADMIN and SYS_ADMIN, as /proc shows them.
const AGENT_CAPABILITIES: &str = "CapEff:\t0000008000201000";

const WORKLOADS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: web
        image: aquifer-cluster/app:1
        args: [serve, '8080']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
      - name: agent
        image: aquifer-cluster/app:1
        args: [capabilities]
        securityContext: {capabilities: {drop: [ALL], add: [BPF, NET_ADMIN, SYS_ADMIN]}}
";

/// One cluster at a time: each is some hundred processes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn pods_services_and_names_work_across_nodes() {
    let Some(_turn) = turn() else { return };
    let before = Machine::look();
    let name = name("web");
    let cluster = up(&name);
    deploy(&cluster);

    let pods = pods(&cluster, "web");
    let nodes: BTreeSet<&str> = pods.iter().map(|(_, node)| node.as_str()).collect();
    assert_eq!(nodes, BTreeSet::from(["node-1", "node-2"]));

    let address = run(
        &cluster,
        &["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"],
    );
    let (client, _) = &pods[0];
    for target in [format!("http://{address}/"), "http://web/".to_owned()] {
        both_answer(&cluster, client, &target);
    }
    let resolved = run(
        &cluster,
        &[
            "exec",
            client,
            "--",
            "/app",
            "resolve",
            "web.default.svc.cluster.local",
        ],
    );
    assert_eq!(resolved.trim(), address);
    says(&cluster, client, |log| log.contains("GET / from 10.244."));
    for (agent, _) in self::pods(&cluster, "agent") {
        says(&cluster, &agent, |log| log.trim() == AGENT_CAPABILITIES);
    }
    from_outside(&cluster);
    a_loaded_image_runs(&cluster);
    every_part_shows_its_metrics(&cluster);

    cluster.down().unwrap();
    assert_nothing_left(&name);
    assert_eq!(Machine::look(), before);
}

#[test]
fn a_killed_runner_does_not_hinder_the_next() {
    let Some(_turn) = turn() else { return };
    let name = name("killed");
    let mut runner = Command::new(PROGRAM)
        .args(["--name", name.as_str(), "up"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(runner.stderr.take().unwrap());
    let ready = stderr
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("API server is ready"));
    runner.kill().unwrap();
    runner.wait().unwrap();
    assert!(ready, "the runner ended before its API server was up");

    // Its members live on without it; a second run clears them away, and one that lost its first process.
    let layout = Layout::new(&name);
    let init = std::fs::read_to_string(layout.member_dir(Member::Node(1)).join("pid")).unwrap();
    let killed = Command::new("kill").args(["-9", &init]).status().unwrap();
    assert!(killed.success());
    let cluster = up(&name);
    wait_for(&cluster, "every part is ready", || cluster.status().is_ready());
    cluster.down().unwrap();
    assert_nothing_left(&name);
}

#[test]
fn parts_and_nodes_that_fail_come_back() {
    let Some(_turn) = turn() else { return };
    let name = name("power");
    let cluster = up(&name);
    deploy(&cluster);

    // Pods do not notice the loss of what manages them.
    cluster.stop_service(Member::Control, "kube-apiserver").unwrap();
    assert!(
        cluster
            .kubectl()
            .run(&["get", "--raw", "/readyz", "--request-timeout=2s"])
            .is_err()
    );
    from_outside(&cluster);
    cluster.start_service(Member::Control, "kube-apiserver").unwrap();
    for service in ["kubelet", "containerd"] {
        cluster.kill_service(Member::Node(1), service).unwrap();
    }
    wait_for(&cluster, "the API server is back", || {
        cluster.kubectl().run(&["get", "--raw", "/readyz"]).is_ok()
    });
    assert!(
        restarts(&cluster).iter().all(|(_, count)| *count == 0),
        "{:?}",
        restarts(&cluster)
    );

    // A node without power loses its pods and starts them anew.
    let node = Member::Node(2);
    cluster.stop_member(node).unwrap();
    assert!(cluster.services(node).is_err());
    cluster.start_member(node).unwrap();
    wait_for(&cluster, "node-2 has started its pods again", || {
        let there: Vec<_> = restarts(&cluster)
            .into_iter()
            .filter(|(node, _)| node == "node-2")
            .collect();
        !there.is_empty() && there.iter().all(|(_, count)| *count > 0) && cluster.status().is_ready()
    });
    let pods = pods(&cluster, "web");
    both_answer(&cluster, &pods[0].0, "http://web/");

    cluster.down().unwrap();
    assert_nothing_left(&name);
}

/// Tests need root; without it they are skipped, but not in CI.
fn turn() -> Option<MutexGuard<'static, ()>> {
    skip::unless_root().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

fn name(test: &str) -> ClusterName {
    format!("test-{test}").parse().unwrap()
}

fn up(name: &ClusterName) -> Cluster {
    Cluster::up(&ClusterOptions::new(name.clone()), &|step| eprintln!("{step}")).unwrap()
}

fn deploy(cluster: &Cluster) {
    cluster.kubectl().apply(WORKLOADS).unwrap();
    for workload in ["deployment/web", "daemonset/agent"] {
        run(cluster, &["rollout", "status", workload, &limit(PATIENCE)]);
    }
}

fn run(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl().run(arguments).unwrap()
}

/// Names and nodes of an application's pods.
fn pods(cluster: &Cluster, app: &str) -> Vec<(String, String)> {
    let template = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{'\\n'}{end}";
    let list = run(
        cluster,
        &["get", "pods", "-l", &format!("app={app}"), "-o", template],
    );
    pairs(&list)
}

/// Nodes and restart counts of all pods of ours.
fn restarts(cluster: &Cluster) -> Vec<(String, u32)> {
    let template =
        "jsonpath={range .items[*]}{.spec.nodeName} {.status.containerStatuses[0].restartCount}{'\\n'}{end}";
    let list = run(cluster, &["get", "pods", "-o", template]);
    let parsed = pairs(&list).into_iter();
    parsed
        .map(|(node, count)| (node, count.parse().unwrap()))
        .collect()
}

fn pairs(lines: &str) -> Vec<(String, String)> {
    let split = |line: &str| {
        line.split_once(' ')
            .map(|(one, two)| (one.to_owned(), two.to_owned()))
    };
    lines.lines().filter_map(split).collect()
}

/// Asks until both pods have answered: nodes hear of them a moment after they are ready.
fn both_answer(cluster: &Cluster, client: &str, url: &str) {
    let answered = RefCell::new(BTreeSet::new());
    let ask = || {
        // A kubelet that has just started hears of its pods a moment after it answers.
        let body = cluster.kubectl().run(&["exec", client, "--", "/app", "get", url]);
        let body = body.map_err(|error| error.to_string())?;
        let mut answered = answered.borrow_mut();
        answered.extend(body.lines().next().map(str::to_owned));
        match answered.len() {
            2 => Ok(()),
            _ => Err(format!("{answered:?} answered")),
        }
    };
    let what = format!("both pods answer at {url}");
    cluster.kubectl().until(&what, PATIENCE, ask).unwrap();
}

fn says(cluster: &Cluster, pod: &str, wanted: impl Fn(&str) -> bool) {
    cluster.kubectl().until_log(pod, PATIENCE, wanted).unwrap();
}

/// A NodePort of each node answers the world, once its kube-proxy has heard of it.
fn from_outside(cluster: &Cluster) {
    let app = Parts::find().unwrap().unwrap().app();
    for node in cluster.nodes() {
        let url = format!("http://{}:30080/", node.address());
        let get = || {
            let argv = [app.to_str().unwrap(), "get", &url];
            let output = cluster.exec_command(Member::World, &argv).output().unwrap();
            String::from_utf8_lossy(&output.stdout).starts_with("pod web-")
        };
        wait_for(cluster, &url, get);
    }
}

fn a_loaded_image_runs(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    let program = std::fs::read(Parts::find().unwrap().unwrap().app()).unwrap();
    let image = Image {
        name: "docker.io/aquifer-cluster/loaded:1",
        path: "loaded",
        program: &program,
        arguments: &[],
    };
    image.write(std::fs::File::create(&archive).unwrap()).unwrap();
    cluster.load(&archive).unwrap();
    let arguments = [
        "run",
        "loaded",
        "--image=aquifer-cluster/loaded:1",
        "--restart=Never",
        "--",
        "resolve",
        "kubernetes.default.svc.cluster.local",
    ];
    run(cluster, &arguments);
    run(
        cluster,
        &[
            "wait",
            "--for=jsonpath={.status.phase}=Succeeded",
            "pod/loaded",
            &limit(PATIENCE),
        ],
    );
    says(cluster, "loaded", |log| log.trim() == "10.96.0.1");
}

fn every_part_shows_its_metrics(cluster: &Cluster) {
    for (member, service, wanted) in [
        (Member::Control, "etcd", "etcd_server_has_leader 1"),
        (Member::Control, "kube-apiserver", "apiserver_request_total"),
        (Member::Control, "kube-controller-manager", "workqueue_adds_total"),
        (
            Member::Control,
            "kube-scheduler",
            "scheduler_pod_scheduling_attempts",
        ),
        (Member::Node(1), "kubelet", "kubelet_running_pods"),
        (Member::Node(2), "kube-proxy", "kubeproxy_sync_proxy_rules"),
        (Member::Node(2), "containerd", "container"),
        (Member::Control, "coredns", "coredns_dns_requests_total"),
    ] {
        let look = || match cluster.metrics(member, service) {
            Ok(metrics) if metrics.contains(wanted) => Ok(()),
            Ok(metrics) => Err(format!("{} bytes without it", metrics.len())),
            Err(error) => Err(error.to_string()),
        };
        let what = format!("{wanted} is among the metrics of {service}");
        cluster.kubectl().until(&what, PATIENCE, look).unwrap();
    }
    the_status_counts_the_metrics_of_each(cluster);
}

fn the_status_counts_the_metrics_of_each(cluster: &Cluster) {
    let name = cluster.layout().name().as_str();
    let look = || {
        let arguments = ["--name", name, "status"];
        let status = Command::new(PROGRAM).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        // Four of the control plane, three of each of two nodes, and CoreDNS.
        let counted = text.lines().filter(|line| line.ends_with(" samples")).count();
        match status.status.success() && counted == 11 && text.contains("metrics of control coredns: ") {
            true => Ok(()),
            false => Err(text),
        }
    };
    let what = "the status counts the metrics of each part";
    cluster.kubectl().until(what, PATIENCE, look).unwrap();
}

fn wait_for(cluster: &Cluster, what: &str, wanted: impl Fn() -> bool) {
    eprintln!("waiting: {what}");
    let attempt = || if wanted() { Ok(()) } else { Err(cluster.status()) };
    cluster.kubectl().until(what, PATIENCE, attempt).unwrap();
}

/// What of the machine itself a cluster could change.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    links: BTreeSet<String>,
    rules: String,
    settings: Vec<String>,
}

impl Machine {
    fn look() -> Self {
        const SETTINGS: [&str; 4] = [
            "vm/overcommit_memory",
            "vm/panic_on_oom",
            "kernel/panic",
            "kernel/panic_on_oops",
        ];
        let links = std::fs::read_dir("/sys/class/net").unwrap();
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        Self {
            links: links
                .map(|link| link.unwrap().file_name().to_string_lossy().into_owned())
                .collect(),
            rules: String::from_utf8_lossy(&rules.stdout).into_owned(),
            settings: SETTINGS
                .map(|key| std::fs::read_to_string(Path::new("/proc/sys").join(key)).unwrap())
                .to_vec(),
        }
    }
}

fn assert_nothing_left(name: &ClusterName) {
    let mark = format!("aqc-{name}");
    let layout = Layout::new(name);
    assert!(!layout.state_dir().exists());
    for folder in ["/run/netns", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let left: Vec<_> = entries
            .map(|entry| entry.file_name())
            .filter(|entry| entry.to_string_lossy().starts_with(&mark))
            .collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&*layout.state_dir().to_string_lossy()),
        "{mounts}"
    );
    assert!(!has_living_process(&mark));
    // Taking down what is not there is no error.
    take_down(name).unwrap();
}

/// Those that have ended and wait for this machine's init to notice are not alive.
fn has_living_process(cgroup: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let read = |folder: &Path, file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    processes
        .map(|process| process.path())
        .filter(|process| read(process, "cgroup").contains(cgroup))
        .any(|process| !read(&process, "status").contains("State:\tZ"))
}
