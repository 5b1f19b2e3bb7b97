//! containerd takes the archives, and the programs run as the chart runs them.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aquifer_tests::cluster::kubectl;
use aquifer_tests::cluster::layout::{API_PORT, Member};
use aquifer_tests::cluster::mesh::cgroup_settings;
use aquifer_tests::cluster::parts;
use aquifer_tests::cluster::{Cluster, ClusterOptions};
use aquifer_tests::demo::namespace::Namespace;
use aquifer_tests::skip;
use serde_json::{Value, json};

use super::archive::{Archive, all, text};

/// Generous: the machine may be slow, and busy with other things.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn containerd_takes_the_archives_and_runs_the_programs() {
    if !skip::unless_root() {
        return;
    }
    let options = ClusterOptions::new("test-images".parse().unwrap());
    let cluster = Cluster::up(&options, &|step| eprintln!("{step}")).unwrap();
    let archives = all();
    for archive in &archives {
        cluster.load(&archive.path).unwrap();
    }
    each_has_its_digest(&cluster, &archives);
    each_program_tells_its_version(&cluster, &archives);
    a_part_of_the_sample_serves(&cluster, &archives);
    the_demo_plays_as_on_somebody_elses_cluster(&cluster);
    the_demo_plays_through_a_registry(&cluster);
    what_others_have_there_is_left_alone(&cluster);
    cluster.down().unwrap();
}

/// Under this name it is reached without TLS: by the one who pushes at once, by the nodes as they are told.
const REGISTRY: &str = "localhost:5000";

/// It is told of a place to push to, from where the nodes pull: none of these names is on any of them.
fn the_demo_plays_through_a_registry(cluster: &Cluster) {
    let registry = Registry::serve(cluster);
    nodes_find(cluster);
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, seen_from_the_world(cluster)).unwrap();
    let before = objects(cluster);
    let mut demo = demo(&["--registry", &format!("{REGISTRY}/mesh")], &kubeconfig);
    let output = world(cluster).run(move || demo.output()).unwrap().unwrap();
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the demo failed");
    as_it_was(cluster, &before);
    drop(registry);
}

/// In the world outside of the cluster, for as long as it is held.
struct Registry(Child);

impl Registry {
    fn serve(cluster: &Cluster) -> Self {
        let mut serve = Command::new(parts::registry(&|step| eprintln!("{step}")).unwrap());
        serve.args(["registry", "serve", "--address=:5000"]);
        // It tells of every request.
        serve.stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self(world(cluster).run(move || serve.spawn()).unwrap().unwrap());
        let listens = || {
            let connect = || TcpStream::connect(REGISTRY).map(drop);
            world(cluster).run(connect).unwrap()
        };
        cluster
            .kubectl()
            .until("the registry listens", PATIENCE, listens)
            .unwrap();
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn world(cluster: &Cluster) -> Namespace {
    Namespace::named(&cluster.layout().netns(Member::World))
}

/// As containerd is told of a registry that has another address than its images' names say.
fn nodes_find(cluster: &Cluster) {
    let folder = format!("/etc/containerd/certs.d/{REGISTRY}");
    let host = format!("[host.\"http://{}:5000\"]", Member::World.address());
    let script = format!("mkdir -p {folder} && echo '{host}' > {folder}/hosts.toml");
    for node in cluster.nodes() {
        let told = cluster.exec_command(node, &["sh", "-c", &script]).status();
        assert!(told.unwrap().success());
    }
}

/// The kubeconfig for somebody in the cluster's network.
fn seen_from_the_world(cluster: &Cluster) -> String {
    let view = ["config", "view", "--raw", "-o", "json"];
    let mut kubeconfig: Value = serde_json::from_str(&cluster.kubectl().run(&view).unwrap()).unwrap();
    let server = format!("https://{}:{API_PORT}", Member::Control.address());
    kubeconfig["clusters"][0]["cluster"]["server"] = json!(server);
    kubeconfig.to_string()
}

/// All that it gets is a kubeconfig and a command that loads archives.
fn the_demo_plays_as_on_somebody_elses_cluster(cluster: &Cluster) {
    let before = objects(cluster);
    let folder = tempfile::tempdir().unwrap();
    let figures = folder.path().join("demo.json");
    let (load, kubeconfig) = (load_command(cluster), cluster.kubeconfig());
    let arguments = ["--load-with", &load, "--json", figures.to_str().unwrap()];
    let output = demo(&arguments, &kubeconfig).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let steps = String::from_utf8_lossy(&output.stderr);
    eprintln!("{steps}{told}");
    assert!(output.status.success(), "the demo failed");
    let figures: Value = serde_json::from_slice(&std::fs::read(figures).unwrap()).unwrap();
    assert_eq!(
        (&figures["failures"], &figures["restarts"]),
        (&json!(0), &json!(0))
    );
    assert!(
        told.contains("PACKETS: left out"),
        "it is told what was not looked at"
    );
    as_it_was(cluster, &before);
}

fn what_others_have_there_is_left_alone(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.run(&["create", "namespace", "istio-system"]).unwrap();
    let before = objects(cluster);
    let arguments = ["--load-with", &load_command(cluster)];
    let output = demo(&arguments, &cluster.kubeconfig()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("namespace istio-system of its own, so this is left alone"),
        "{said}"
    );
    as_it_was(cluster, &before);
}

fn load_command(cluster: &Cluster) -> String {
    let (program, name) = (env!("CARGO_BIN_EXE_aquifer-cluster"), cluster.layout().name());
    format!("{program} --name {name} load {{}}")
}

fn demo(arguments: &[&str], kubeconfig: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer-demo"));
    command.arg("--kubernetes").args(arguments);
    for setting in cgroup_settings().unwrap() {
        command.args(["--set", &setting]);
    }
    command.env("KUBECONFIG", kubeconfig);
    command
}

/// Waits until it is: what a namespace or a definition held goes a moment before them.
fn as_it_was(cluster: &Cluster, before: &str) {
    let look = || match objects(cluster) {
        now if now == before => Ok(()),
        now => Err(now),
    };
    let what = "the cluster is as it was";
    cluster.kubectl().until(what, PATIENCE, look).unwrap();
}

/// Names of what a mesh brings.
fn objects(cluster: &Cluster) -> String {
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,validatingwebhookconfigurations,validatingadmissionpolicies";
    cluster.kubectl().run(&["get", kinds, "-o", "name"]).unwrap()
}

fn each_has_its_digest(cluster: &Cluster, archives: &[Archive]) {
    let listed = cluster
        .exec_command(Member::Node(1), &["ctr", "-n", "k8s.io", "images", "list"])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for image in archives.iter().flat_map(|archive| &archive.images) {
        let line = listed
            .lines()
            .find(|line| line.starts_with(&format!("{} ", image.reference)));
        let digest = text(&image.entry["digest"]);
        assert!(
            line.is_some_and(|line| line.contains(&digest)),
            "{} {digest}:\n{listed}",
            image.reference
        );
    }
}

fn each_program_tells_its_version(cluster: &Cluster, archives: &[Archive]) {
    for archive in archives.iter().filter(|archive| archive.name != "bookinfo") {
        let mut pod = pod(archive, 0);
        pod["spec"]["containers"][0]["args"] = json!(["--version"]);
        cluster.kubectl().apply(&pod.to_string()).unwrap();
        wait(cluster, &archive.name, "jsonpath={.status.phase}=Succeeded");
        let tells = |said: &str| said.trim().ends_with(env!("CARGO_PKG_VERSION"));
        let told = cluster.kubectl().until_log(&archive.name, PATIENCE, tells);
        told.unwrap();
    }
}

fn a_part_of_the_sample_serves(cluster: &Cluster, archives: &[Archive]) {
    let sample = archives
        .iter()
        .find(|archive| archive.name == "bookinfo")
        .unwrap();
    let details = |image: &super::archive::Image| image.reference.contains("details-v1");
    let details = sample.images.iter().position(details).unwrap();
    let mut pod = pod(sample, details);
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({"httpGet": {"path": "/details/0", "port": 9080}, "periodSeconds": 1});
    cluster.kubectl().apply(&pod.to_string()).unwrap();
    wait(cluster, &sample.name, "condition=Ready");
}

/// As strictly as the product's own pods; the agent's image alone needs root.
fn pod(archive: &Archive, image: usize) -> Value {
    let security = json!({
        "runAsNonRoot": archive.name != "agent",
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": archive.name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "program",
                "image": archive.images[image].reference,
                "imagePullPolicy": "Never",
                "securityContext": security,
            }],
        },
    })
}

fn wait(cluster: &Cluster, pod: &str, what: &str) {
    let (pod, what) = (format!("pod/{pod}"), format!("--for={what}"));
    let limit = kubectl::limit(PATIENCE);
    let waited = cluster.kubectl().run(&["wait", &pod, &what, &limit]);
    if let Err(error) = waited {
        let seen = cluster.kubectl().run(&["describe", &pod]);
        panic!("{error}\n{}", seen.unwrap_or_default());
    }
}
