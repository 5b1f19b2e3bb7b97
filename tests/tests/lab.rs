//! The lab itself, without the mesh: what every other suite stands on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use aquifer_tests::lab::layout::Layout;
use aquifer_tests::lab::network::Families;
use aquifer_tests::lab::status::Status;
use aquifer_tests::lab::{Lab, LabOptions, take_down};
use aquifer_tests::skip;

const PROGRAM: &str = env!("CARGO_BIN_EXE_aquifer-lab");
const ECHO: &str = env!("CARGO_BIN_EXE_aquifer-echo");
const PATIENCE: Duration = Duration::from_secs(180);

/// Two replicas of the echo server on two nodes, a client pod, and a Service with a named target port.
const WEB: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
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
      containers:
      - name: web
        image: echo
        args: [serve, '8080']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      containers: [{name: client, image: any, command: [sleep, infinity]}]
";

fn options(name: &str) -> LabOptions {
    LabOptions::named(name).without_mesh().image("echo", ECHO)
}

fn web_lab(name: &str, families: Families) -> Lab {
    let lab = Lab::up(&options(name).families(families)).unwrap();
    lab.apply("default", WEB).unwrap();
    lab.wait_ready(PATIENCE).unwrap();
    lab
}

fn text(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn get(lab: &Lab, from: &str, target: &str) -> String {
    text(&lab.exec(from, &[ECHO, "get", target]).unwrap())
}

/// The value of a line `KEY VALUE`.
fn field<'a>(body: &'a str, key: &str) -> &'a str {
    let line = body
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {key} in {body}"))
}

fn traces(name: &str) -> Vec<String> {
    let layout = Layout::new(&name.parse().unwrap());
    let mut traces: Vec<String> = std::fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|namespace| namespace.starts_with(&layout.netns_prefix()))
        .collect();
    let cgroups = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroup2 = cgroups.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    let cgroup = layout.cgroup(Path::new(cgroup2.split(' ').nth(4).unwrap()));
    traces.extend(cgroup.exists().then(|| cgroup.display().to_string()));
    traces.extend(
        layout
            .run_dir()
            .exists()
            .then(|| layout.run_dir().display().to_string()),
    );
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let run_dir = format!("{}/", layout.run_dir().display());
    traces.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&run_dir))
            .map(str::to_owned),
    );
    traces
}

#[test]
fn services_spread_over_nodes_and_keep_the_client_address() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-services", Families::Ipv4);
    let status = lab.status().unwrap();
    let nodes: Vec<&str> = status
        .pods_of("default", "web")
        .map(|pod| pod.node.as_str())
        .collect();
    assert_eq!(nodes.len(), 2);
    assert_ne!(nodes[0], nodes[1]);
    let client = status
        .pods_of("default", "client")
        .next()
        .unwrap()
        .ip
        .unwrap()
        .to_string();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let body = get(&lab, "default/client", "web:80");
        assert_eq!(field(&body, "client").split(':').next(), Some(client.as_str()));
        seen.insert(field(&body, "pod").to_owned());
    }
    assert_eq!(seen.len(), 2, "both replicas answer");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-hairpin", Families::Ipv4);
    for _ in 0..8 {
        get(&lab, "default/web", "web:80");
    }
}

#[test]
fn node_ports_show_the_node_and_work_from_outside() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-nodeport", Families::Ipv4);
    let status = lab.status().unwrap();
    let port = status.service("default", "web").unwrap().ports[0]
        .node_port
        .unwrap();
    for _ in 0..4 {
        let body = text(
            &lab.node("world", &[ECHO, "get", &format!("172.30.0.11:{port}")])
                .unwrap(),
        );
        let client = field(&body, "client").split(':').next().unwrap().to_owned();
        assert!(
            ["172.30.0.11", "10.244.1.1"].contains(&client.as_str()),
            "masqueraded to the node: {client}"
        );
    }
    let outside = lab
        .node("world", &["timeout", "2", ECHO, "get", "10.96.1.0:80"])
        .unwrap();
    assert!(!outside.status.success(), "Service addresses are for the inside");
}

#[test]
fn both_families_work_alone_and_together() {
    if !skip::unless_root() {
        return;
    }
    for (name, families, count) in [("t-ipv6", Families::Ipv6, 1), ("t-dual", Families::Dual, 2)] {
        let lab = web_lab(name, families);
        let status = lab.status().unwrap();
        let vips = &status.service("default", "web").unwrap().vips;
        assert_eq!(vips.len(), count);
        assert!(vips.iter().any(std::net::IpAddr::is_ipv6));
        for vip in vips {
            let target = std::net::SocketAddr::new(*vip, 80).to_string();
            for _ in 0..4 {
                let body = get(&lab, "default/client", &target);
                assert_eq!(field(&body, "client").starts_with('['), vip.is_ipv6());
            }
        }
        get(&lab, "default/client", "web.default.svc.cluster.local:80");
    }
}

#[test]
fn names_resolve_as_in_a_cluster() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-names", Families::Ipv4);
    lab.apply(
        "other",
        "apiVersion: v1\nkind: Service\nmetadata: {name: none}\nspec: {clusterIP: None, selector: {a: b}}",
    )
    .unwrap();
    for name in [
        "web",
        "web.default",
        "web.default.svc",
        "web.default.svc.cluster.local",
        "WEB.default",
    ] {
        get(&lab, "default/client", &format!("{name}:80"));
    }
    for name in ["none.other", "missing", "example.com"] {
        assert!(
            !lab.exec("client", &[ECHO, "get", &format!("{name}:80")])
                .unwrap()
                .status
                .success(),
            "{name}"
        );
    }
}

#[test]
fn exec_passes_status_and_streams_through() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-exec", Families::Ipv4);
    assert_eq!(
        lab.exec("default/client", &["sh", "-c", "exit 7"])
            .unwrap()
            .status
            .code(),
        Some(7)
    );
    assert_eq!(
        lab.exec("default/client", &["no-such-program"])
            .unwrap()
            .status
            .code(),
        Some(127)
    );
    let mut child = lab.exec_command("client", &["cat"]);
    let mut child = child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"hello").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap()), "hello");
    let inside = text(
        &lab.exec(
            "client",
            &["sh", "-c", "hostname; cat /proc/self/cgroup; ls /run"],
        )
        .unwrap(),
    );
    let status = lab.status().unwrap();
    let pod = status.pods_of("default", "client").next().unwrap();
    assert!(inside.starts_with(&pod.name), "{inside}");
    assert!(
        inside.contains(&format!("/aq-t-exec/{}/kubepods/default/{}", pod.node, pod.name)),
        "{inside}"
    );
    assert!(
        inside.ends_with("\nsecrets\n"),
        "the machine's /run is hidden: {inside}"
    );
    let error = lab.exec("client/missing", &["true"]).unwrap();
    assert!(String::from_utf8_lossy(&error.stderr).contains("no pod or workload missing"));
}

#[test]
fn refusals_name_object_field_and_remedy() {
    if !skip::unless_root() {
        return;
    }
    let lab = Lab::up(&options("t-refusals")).unwrap();
    let refused = |yaml: &str| lab.apply("default", yaml).unwrap_err().to_string();
    let unknown = refused(&WEB.replace("image: echo", "image: docker.io/none:1"));
    assert!(
        unknown.contains("docker.io/none:1") && unknown.contains("--image"),
        "{unknown}"
    );
    assert!(lab.status().unwrap().pods.is_empty(), "nothing of it was applied");
    assert!(refused("a: [").contains("not YAML"));
    let wrong = refused(&WEB.replace("replicas: 2", "replicas: many"));
    assert!(
        wrong.contains("Deployment web") && wrong.contains("spec.replicas"),
        "{wrong}"
    );
    let missing = LabOptions::named("t-refusals-2")
        .without_mesh()
        .image("a", "/no/such/program");
    assert!(
        Lab::up(&missing)
            .unwrap_err()
            .to_string()
            .contains("/no/such/program")
    );
    let twice = Lab::up(&options("t-refusals")).unwrap_err().to_string();
    assert!(twice.contains("up already"), "{twice}");
}

#[test]
fn what_is_not_ready_is_told_with_its_last_words() {
    if !skip::unless_root() {
        return;
    }
    let lab = Lab::up(&options("t-crash")).unwrap();
    lab.apply(
        "default",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: sick}\nspec:\n  containers:\n  - {name: c, image: x, command: [sh, -c, 'echo last words; exit 3']}\n",
    )
    .unwrap();
    lab.wait_until("restarted", PATIENCE, |status| {
        status.pods.iter().any(|pod| pod.restarts > 1)
    })
    .unwrap();
    let error = lab.wait_ready(Duration::from_millis(1)).unwrap_err().to_string();
    for part in ["default/sick", "container c", "exit status: 3", "last words"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn liveness_failures_restart_and_unready_pods_get_no_traffic() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-probes", Families::Ipv4);
    lab.apply(
        "default",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: half, labels: {app: web}}\nspec:\n  containers:\n  - name: c\n    image: echo\n    \
         args: [serve, '8080']\n    ports: [{name: http, containerPort: 8080}]\n    readinessProbe: {tcpSocket: {port: 9999}}\n    \
         livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}\n",
    )
    .unwrap();
    let restarted = |status: &Status| {
        status
            .pods
            .iter()
            .any(|pod| pod.name == "half" && pod.restarts > 0)
    };
    let status = lab.wait_until("restarted", PATIENCE, restarted).unwrap();
    assert_eq!(status.service("default", "web").unwrap().ready_endpoints, 2);
}

#[test]
fn a_new_template_replaces_the_pods_and_deletion_ends_them() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-rollout", Families::Ipv4);
    let before: Vec<String> = lab
        .status()
        .unwrap()
        .pods_of("default", "web")
        .map(|pod| pod.name.clone())
        .collect();
    lab.apply(
        "default",
        &WEB.replace(
            "labels: {app: web}}\n    spec",
            "labels: {app: web, version: v2}}\n    spec",
        ),
    )
    .unwrap();
    let replaced = |status: &Status| {
        let names: Vec<&str> = status
            .pods_of("default", "web")
            .map(|pod| pod.name.as_str())
            .collect();
        names.len() == 2 && !names.iter().any(|name| before.iter().any(|old| old == name)) && status.ready
    };
    lab.wait_until("replaced", PATIENCE, replaced).unwrap();
    get(&lab, "client", "web:80");
    lab.delete("default", WEB).unwrap();
    assert!(lab.status().unwrap().pods.is_empty());
    assert!(
        lab.delete("default", WEB)
            .unwrap_err()
            .to_string()
            .contains("not found")
    );
}

#[test]
fn killed_pods_come_back_and_held_ones_wait() {
    if !skip::unless_root() {
        return;
    }
    let lab = web_lab("t-hold", Families::Ipv4);
    lab.kill("default/client", 9, true).unwrap();
    let down = |status: &Status| status.pods_of("default", "client").any(|pod| pod.pids.is_empty());
    lab.wait_until("down", PATIENCE, down).unwrap();
    lab.release("default/client").unwrap();
    lab.wait_until("up again", PATIENCE, |status| status.ready)
        .unwrap();
    assert_eq!(
        lab.status()
            .unwrap()
            .pods_of("default", "client")
            .next()
            .unwrap()
            .restarts,
        1
    );
}

#[test]
fn two_labs_do_not_see_each_other() {
    if !skip::unless_root() {
        return;
    }
    let first = web_lab("t-side", Families::Ipv4);
    let second = web_lab("t-side-2", Families::Ipv4);
    let pods: Vec<String> = second
        .status()
        .unwrap()
        .pods_of("default", "web")
        .map(|pod| pod.name.clone())
        .collect();
    first.down().unwrap();
    assert_eq!(traces("t-side"), Vec::<String>::new());
    for _ in 0..4 {
        let body = get(&second, "client", "web:80");
        assert!(pods.iter().any(|pod| pod == field(&body, "pod")), "{body}");
    }
}

#[test]
fn up_clears_what_a_killed_daemon_left() {
    if !skip::unless_root() {
        return;
    }
    let _down = Down("t-killed");
    let mut lab = web_lab("t-killed", Families::Ipv4);
    let pids: Vec<u32> = lab
        .status()
        .unwrap()
        .pods
        .iter()
        .flat_map(|pod| pod.pids.clone())
        .collect();
    // The daemon's own cgroup holds its pid.
    let pod = lab.status().unwrap().pods[0].cgroup.clone();
    let root = Path::new(&pod).ancestors().nth(4).unwrap();
    let daemon = std::fs::read_to_string(root.join("lab/cgroup.procs")).unwrap();
    for pid in daemon.lines() {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    lab.keep();
    drop(lab);
    let again = web_lab("t-killed", Families::Ipv4);
    get(&again, "client", "web:80");
    let survivors = pids.iter().filter(|pid| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        // A zombie that init has yet to reap keeps the name of its removed cgroup.
        cgroup.contains("/aq-t-killed/") && !cgroup.contains("(deleted)")
    });
    let now: Vec<u32> = again
        .status()
        .unwrap()
        .pods
        .iter()
        .flat_map(|pod| pod.pids.clone())
        .collect();
    assert_eq!(survivors.filter(|pid| !now.contains(pid)).count(), 0);
    again.down().unwrap();
    assert_eq!(traces("t-killed"), Vec::<String>::new());
}

/// Takes the lab of that name down, also when the test fails.
struct Down(&'static str);

impl Drop for Down {
    fn drop(&mut self) {
        take_down(&self.0.parse().unwrap()).unwrap();
    }
}

#[test]
fn the_command_line_keeps_its_contract() {
    if !skip::unless_root() {
        return;
    }
    let _down = Down("t-cli");
    let folder = std::env::temp_dir().join(format!("aq-cli-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("web.yaml"), WEB).unwrap();
    let path = folder.to_str().unwrap();
    let run = |args: &[&str]| {
        Command::new(PROGRAM)
            .args(["--name", "t-cli"])
            .args(args)
            .output()
            .unwrap()
    };
    let image = format!("echo={ECHO}");
    text(&run(&[
        "up",
        "--without-mesh",
        "--manifests",
        path,
        "--image",
        &image,
        "--nodes",
        "3",
    ]));
    let status: Status = serde_json::from_str(&text(&run(&["status", "-o", "json"]))).unwrap();
    assert_eq!(
        (status.nodes.len(), status.ready, status.pods.len()),
        (3, true, 3)
    );
    text(&run(&["apply", "-n", "other", "-f", path]));
    text(&run(&["wait"]));
    assert_eq!(
        run(&["exec", "other/web", "--", "sh", "-c", "exit 5"])
            .status
            .code(),
        Some(5)
    );
    assert!(
        text(&run(&[
            "exec",
            "default/client",
            "--",
            ECHO,
            "get",
            "web.other:80"
        ]))
        .starts_with("pod web-")
    );
    assert!(text(&run(&["node", "node-2", "--", "ip", "addr"])).contains("172.30.0.12"));
    text(&run(&["delete", "-n", "other", "-f", path]));
    text(&run(&["logs", "default/web"]));
    text(&run(&["down"]));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(traces("t-cli"), Vec::<String>::new());
}
