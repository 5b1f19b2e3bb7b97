//! A mesh's life by the command `aquifer` alone: with helm, and once more without it.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use aquifer_tests::cluster::{helm, mesh, parts};
use serde_json::{Value, json};

use super::inventory;
use super::leaving::nothing_is_on_the_nodes;
use super::world::{NAMESPACE, PATIENCE, SYSTEM, World, programs};

/// A namespace in which an Istio is said to live.
const ELSEWHERE: &str = "istio-elsewhere";
/// Definitions that somebody else brought: one of Istio's kinds, one of the Gateway API.
const FOREIGN: [(&str, &str); 2] = [
    ("crds", "telemetries.telemetry.istio.io"),
    ("gateway-api", "referencegrants.gateway.networking.k8s.io"),
];
/// What is kept without --purge, beside definitions.
const KEPT: [&str; 2] = ["istio-ca-secret", "aquifer-ca-state"];

pub(crate) fn the_command_installs_upgrades_and_leaves_nothing(world: &World) {
    world.kubectl(&["delete", "namespace", SYSTEM]);
    let definitions = replace_definitions(world);
    nothing_is_installed_beside_istio(world);
    // Definitions of ours are still there, as helm left them.
    let before = inventory::take(world);

    install(world);
    what_is_installed_is_shown(world);
    upgrade_under_load(world);
    purge_under_load(world);
    inventory::until_nothing_is_left(world, "the command with helm", &before, |_| false);
    no_definition_is_ours(world);
    nothing_is_on_the_nodes(world);
    assert_eq!(foreign_definitions(world), definitions);
}

pub(crate) fn the_command_does_it_without_helm(world: &World) {
    let definitions = foreign_definitions(world);
    let before = inventory::take(world);
    install_without_helm(world);
    assert_check_passes(world);

    let said = Ended::without_helm(world, &["uninstall"]).succeeded();
    assert!(
        said.contains("kept: the definitions") && said.contains(KEPT[0]),
        "{said}"
    );
    let is_kept = |object: &str| {
        let (kind, name) = object.split_once(' ').unwrap_or_default();
        match kind {
            "CustomResourceDefinition" => true,
            "Secret" => KEPT.iter().any(|kept| name == format!("{SYSTEM}/{kept}")),
            "Namespace" => name == format!("/{SYSTEM}"),
            // What Kubernetes puts into each namespace.
            _ => [
                format!("ServiceAccount {SYSTEM}/default"),
                format!("ConfigMap {SYSTEM}/kube-root-ca.crt"),
            ]
            .iter()
            .any(|made| made == object),
        }
    };
    let left = inventory::until_nothing_is_left(world, "the command without helm", &before, is_kept);
    assert!(left.len() > 3, "nothing was kept: {left:?}");
    nothing_is_on_the_nodes(world);

    Ended::without_helm(world, &["uninstall", "--purge"]).succeeded();
    inventory::until_nothing_is_left(world, "--purge", &before, |_| false);
    assert_eq!(foreign_definitions(world), definitions);
    world.settled("bookinfo answers without the mesh", |_| true);
}

/// In the place of ours, as another owner would have them.
fn replace_definitions(world: &World) -> Vec<Value> {
    for (folder, name) in FOREIGN {
        let path = helm::chart()
            .join("files")
            .join(folder)
            .join(format!("{name}.yaml"));
        let text = std::fs::read_to_string(path).unwrap();
        let theirs = text.replace("app.kubernetes.io/part-of: aquifer", "release: somebody-elses");
        assert_ne!(text, theirs);
        world.kubectl(&["delete", "customresourcedefinition", name, "--ignore-not-found"]);
        world.api().create(&theirs).unwrap();
    }
    foreign_definitions(world)
}

/// All but what the API server says of them by itself.
fn foreign_definitions(world: &World) -> Vec<Value> {
    let get = |name: &str| {
        let text = world.kubectl(&[
            "get",
            "customresourcedefinition",
            name,
            "-o",
            "json",
            "--show-managed-fields",
        ]);
        let mut object: Value = serde_json::from_str(&text).unwrap();
        object["status"] = Value::Null;
        object["metadata"]["resourceVersion"] = Value::Null;
        // Of status alone.
        let fields = object["metadata"]["managedFields"].as_array_mut().unwrap();
        fields.retain(|entry| entry["subresource"] != "status");
        object
    };
    FOREIGN.iter().map(|(_, name)| get(name)).collect()
}

/// By its control plane's labels, wherever it is, or by what it has told the API server.
fn nothing_is_installed_beside_istio(world: &World) {
    let deployment = |namespace: &str| {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "istiod", "namespace": namespace, "labels": {"app": "istiod", "istio": "pilot"}},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "istiod"}},
                "template": {
                    "metadata": {"labels": {"app": "istiod"}},
                    "spec": {"containers": [{"name": "discovery", "image": "istio/pilot"}]},
                },
            },
        })
    };
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "istio-validator-istio-elsewhere", "labels": {"app": "istiod"}},
    });
    for namespace in [SYSTEM, ELSEWHERE] {
        world.kubectl(&["create", "namespace", namespace]);
    }
    for (object, named) in [
        (deployment(SYSTEM), "Deployment istio-system/istiod"),
        (deployment(ELSEWHERE), "Deployment istio-elsewhere/istiod"),
        (
            webhook,
            "ValidatingWebhookConfiguration istio-validator-istio-elsewhere",
        ),
    ] {
        world.api().create(&object.to_string()).unwrap();
        let by_helm = world.mesh().put(&[]).unwrap_err().to_string();
        let by_command = Ended::of(world, &["install"]);
        for said in [&by_helm, &by_command.stderr] {
            assert!(
                said.contains(named) && said.contains("Coming from Istio"),
                "{named}: {said}"
            );
        }
        assert_eq!(by_command.status, Some(1));
        assert_eq!(Ended::of(world, &["check"]).status, Some(1));
        let (kind, rest) = named.split_once(' ').unwrap();
        let (namespace, name) = rest.split_once('/').unwrap_or(("default", rest));
        world.kubectl(&["delete", kind, name, "-n", namespace]);
    }
    for namespace in [SYSTEM, ELSEWHERE] {
        world.kubectl(&["delete", "namespace", namespace]);
    }
}

fn install(world: &World) {
    let [root, captured] = mesh::cgroup_settings().unwrap();
    let said = Ended::of(
        world,
        &[
            "install",
            "--set",
            &root,
            "--set",
            &captured,
            "--set",
            "gatewayApi.install=true,ingressGateway.service.type=ClusterIP",
        ],
    )
    .succeeded();
    for part in ["checked before: ", "ready: daemonset/aquifer-agent (2 of 2)"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The namespace has had its label all along.
    enrolled(world);
}

/// Also for the control plane, which learns it from the agents' reports.
fn enrolled(world: &World) {
    world.until("every pod is enrolled", |status| {
        World::application(status).iter().all(|pod| pod.enrolled)
    });
    world.settled("bookinfo answers in the mesh", |_| true);
    world.wait("the control plane sees them enrolled", || {
        let check = Ended::of(world, &["check", "-o", "json"]);
        let lines: Value =
            serde_json::from_str(&check.stdout).map_err(|error| format!("{error}: {}", check.stderr))?;
        let of = |subject: &str| {
            lines
                .as_array()
                .into_iter()
                .flatten()
                .find(|line| line["subject"] == subject)
        };
        for subject in ["pods", "proxies", "webhook"] {
            match of(subject) {
                Some(line) if line["outcome"] == "ok" => {}
                other => return Err(format!("{subject}: {other:?} {}", check.stderr)),
            }
        }
        Ok(())
    });
}

/// In time: a proxy that was told something a moment ago has yet to say that it took it.
fn assert_check_passes(world: &World) {
    world.wait("aquifer check finds nothing", || check_passes(world));
}

fn check_passes(world: &World) -> Result<(), String> {
    let check = Ended::of(world, &["check"]);
    let said = format!("{}{}", check.stdout, check.stderr);
    if check.status != Some(0) {
        return Err(said);
    }
    for subject in [
        "API server",
        "control plane",
        "agents",
        "versions",
        "webhook",
        "root certificate",
        "proxies",
        "pods",
        "nodes",
        "mesh settings",
    ] {
        let line = format!("ok    {subject}: ");
        if !check.stdout.lines().any(|l| l.starts_with(&line)) {
            return Err(format!("{subject}: {said}"));
        }
    }
    eprintln!("{}", check.stdout);
    Ok(())
}

fn what_is_installed_is_shown(world: &World) {
    assert_check_passes(world);
    world.wait("the status shows every proxy in sync", || {
        let status = tells(world, &["status"])?;
        let of = |word: &str| status.lines().filter(|line| line.contains(word)).count();
        let in_sync = of("STALE") + of("REJECTED") == 0 && of("SYNCED") >= 3;
        match in_sync && of("productpage") > 0 {
            true => Ok(()),
            false => Err(status),
        }
    });
    let agent = world.kubectl(&[
        "-n",
        SYSTEM,
        "get",
        "pods",
        "-l",
        "app=ztunnel",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ]);
    let proxy = format!("{agent}.{SYSTEM}");
    for (section, part) in [
        ("workloads", "productpage"),
        ("services", "reviews"),
        ("certificates", "spiffe://"),
    ] {
        world.wait(&format!("{part} is among the {section} of an agent"), || {
            let shown = tells(world, &["config", &proxy, section])?;
            match shown.contains(part) {
                true => Ok(()),
                false => Err(shown),
            }
        });
    }
    let authority = Ended::of(world, &["ca", "status"]).succeeded();
    assert!(authority.contains("settled"), "{authority}");
    // What is there is right; what is not applied yet is judged beside it.
    Ended::of(world, &["analyze", "-n", NAMESPACE]).succeeded();
    let wrong = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: wrong, namespace: bookinfo}, spec: {hosts: [details], http: [{route: [{destination: {host: nobody}}]}]}}";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), wrong).unwrap();
    let path = file.path().to_str().unwrap();
    let judged = Ended::of(world, &["analyze", "--cluster", "-f", path]);
    assert_eq!(judged.status, Some(1), "{}{}", judged.stdout, judged.stderr);
    assert!(judged.stdout.contains("NotFound"), "{}", judged.stdout);
    // Another place is asked for, and named.
    let elsewhere = Ended::of(world, &["status", "-n", "default"]);
    assert!(
        elsewhere.status == Some(1) && elsewhere.stderr.contains("default"),
        "{}",
        elsewhere.stderr
    );
}

/// New values for both: agents and control plane are replaced, and who was served goes on to be.
fn upgrade_under_load(world: &World) {
    let old = pods_of_the_mesh(world);
    let node = node_of_productpage(world);
    let kept = RefCell::new(Kept::open(world));
    let pages = world.under_load(|| {
        let values = "agent.logLevel=debug,control.logLevel=debug";
        let upgrade = Ended::started(
            world,
            &parts::tool(parts::HELM).unwrap(),
            &["upgrade", "--set", values],
        );
        // The agent that has the connection is told to end, and does not while it is open.
        world.wait("an old agent drains beside a new one", || {
            kept.borrow_mut().page();
            drains(world, &node, &old)
        });
        kept.borrow_mut().page();
        drop(kept);
        let said = Ended::of_child(upgrade, "upgrade").succeeded();
        assert!(said.contains("ready: daemonset/aquifer-agent (2 of 2)"), "{said}");
        world.until("nothing of before is left", |status| {
            let mut now = status
                .pods_of(SYSTEM, "aquifer-agent")
                .chain(status.pods_of(SYSTEM, "aquifer-control"));
            now.all(|pod| !old.contains(&pod.uid))
        });
        world.settled("bookinfo answers after the upgrade", |_| true);
    });
    world.assert_none_failed("aquifer upgrade", &pages);
    enrolled(world);
    assert_check_passes(world);
}

fn node_of_productpage(world: &World) -> String {
    let status = world.status();
    let page = status.pods_of(NAMESPACE, "productpage-v1").next();
    page.unwrap().node.clone()
}

/// On that node the old agent has been told to end, and the new one is ready.
fn drains(world: &World, node: &str, old: &[String]) -> Result<(), String> {
    let agents = ["-n", SYSTEM, "get", "pods", "-l", "app=ztunnel", "-o", "json"];
    let agents: Value = serde_json::from_str(&world.kubectl(&agents)).unwrap();
    let here = agents["items"].as_array().into_iter().flatten();
    let here: Vec<&Value> = here.filter(|pod| pod["spec"]["nodeName"] == *node).collect();
    let ends = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
    let is_old = |pod: &Value| old.iter().any(|uid| pod["metadata"]["uid"] == *uid);
    let draining = here.iter().any(|pod| is_old(pod) && ends(pod));
    let replaced = here.iter().any(|pod| !is_old(pod) && !ends(pod));
    match draining && replaced {
        true => Ok(()),
        false => Err(format!("{} agents on {node}, draining: {draining}", here.len())),
    }
}

fn pods_of_the_mesh(world: &World) -> Vec<String> {
    let status = world.status();
    let own = status.pods.iter().filter(|pod| pod.namespace == SYSTEM);
    own.map(|pod| pod.uid.clone()).collect()
}

fn purge_under_load(world: &World) {
    let named = Ended::of(world, &["uninstall", "--purge", "--dry-run"]).succeeded();
    assert!(named.contains("would delete"), "{named}");
    let pages = world.under_load(|| {
        let said = Ended::of(world, &["uninstall", "--purge"]).succeeded();
        eprintln!("{said}");
        world.settled("bookinfo answers without the mesh", |_| true);
    });
    world.assert_none_failed("aquifer uninstall", &pages);
}

fn no_definition_is_ours(world: &World) {
    let ours = [
        "get",
        "customresourcedefinitions",
        "-l",
        "app.kubernetes.io/part-of=aquifer",
        "-o",
        "name",
    ];
    assert_eq!(world.kubectl(&ours), "");
}

/// The profile as it is, but for where this machine's nodes have their cgroups: without helm kubectl says it.
fn install_without_helm(world: &World) {
    let install = ["install", "--profile", "minimal", "--no-wait"];
    let said = Ended::without_helm(world, &install).succeeded();
    assert!(said.contains("without helm: profile minimal as it is"), "{said}");
    let foreign = format!("definition {} is another's and stays as it is", FOREIGN[0].1);
    assert!(said.contains(&foreign), "{said}");
    let [root, captured] = mesh::cgroup_settings().unwrap();
    let value = |setting: &str| setting.split_once('=').unwrap().1.to_owned();
    let patch = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "istio-proxy", "env": [
            {"name": "AQUIFER_CAPTURED_CGROUP", "value": format!("/host/cgroup/{}", value(&captured))},
        ]}],
        "volumes": [{"name": "cgroup", "hostPath": {"path": value(&root), "type": "Directory"}}],
    }}}});
    world.kubectl(&[
        "-n",
        SYSTEM,
        "patch",
        "daemonset",
        "aquifer-agent",
        "-p",
        &patch.to_string(),
    ]);
    for what in ["deployment/aquifer-control", "daemonset/aquifer-agent"] {
        world.mesh().wait_rolled_out(what, PATIENCE).unwrap();
    }
    enrolled(world);
}

/// A connection to productpage that stays open.
struct Kept {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

impl Kept {
    fn open(world: &World) -> Self {
        let way = world.way_to("front", 9080);
        let address = way.address;
        let stream = world
            .outside()
            .run(move || TcpStream::connect(address))
            .unwrap()
            .unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream: BufReader::new(stream),
            address,
        }
    }

    /// One request and its whole answer.
    fn page(&mut self) {
        let request = format!("GET /productpage HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut length = None;
        let mut status = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.stream.read_line(&mut line).unwrap() > 0,
                "the connection was closed"
            );
            if status.is_empty() {
                status.clone_from(&line);
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>().unwrap());
            }
            if line.is_empty() {
                break;
            }
        }
        assert!(status.starts_with("HTTP/1.1 200 "), "{status}");
        let mut body = vec![0; length.expect("an answer that says its length")];
        self.stream.read_exact(&mut body).unwrap();
    }
}

/// What the command prints; it must succeed.
pub(crate) fn aquifer(world: &World, arguments: &[&str]) -> String {
    Ended::of(world, arguments).succeeded()
}

/// As `aquifer`, where it may also fail; the error is what it said.
pub(crate) fn tells(world: &World, arguments: &[&str]) -> Result<String, String> {
    let ended = Ended::of(world, arguments);
    match ended.status {
        Some(0) => Ok(ended.stdout),
        _ => Err(ended.stderr),
    }
}

/// The command, run to its end.
struct Ended {
    status: Option<i32>,
    stdout: String,
    stderr: String,
    what: String,
}

impl Ended {
    fn of(world: &World, arguments: &[&str]) -> Self {
        Self::run(world, &parts::tool(parts::HELM).unwrap(), arguments)
    }

    fn without_helm(world: &World, arguments: &[&str]) -> Self {
        Self::run(world, Path::new("/nonexistent/helm"), arguments)
    }

    fn run(world: &World, helm: &Path, arguments: &[&str]) -> Self {
        Self::of_child(Self::started(world, helm, arguments), &arguments.join(" "))
    }

    /// Runs beside what comes next.
    fn started(world: &World, helm: &Path, arguments: &[&str]) -> Child {
        Command::new(programs().join("aquifer"))
            .args(arguments)
            .env("KUBECONFIG", world.api().kubeconfig())
            .env("KUBECTL", parts::tool(parts::KUBECTL).unwrap())
            .env("HELM", helm)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn of_child(child: Child, what: &str) -> Self {
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            what: what.to_owned(),
        }
    }

    fn succeeded(self) -> String {
        assert_eq!(
            self.status,
            Some(0),
            "aquifer {}: {}{}",
            self.what,
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}
