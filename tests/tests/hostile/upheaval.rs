//! Changes and deaths under load: what must not fail does not, and what must not pass does not.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};

use crate::actor;
use crate::calls::Tally;
use crate::requests::server::Seen;
use crate::world::{World, eventually};

const SECOND_VERSION: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: server-v2, namespace: mesh}
spec:
  selector: {matchLabels: {app: server, version: v2}}
  template:
    metadata: {labels: {app: server, version: v2}}
    spec:
      containers:
      - name: server
        image: actor
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: mesh}
spec:
  host: web
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
";

fn all_to(version: &str) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: mesh}}
spec:
  hosts: [web]
  http: [{{route: [{{destination: {{host: web, subset: {version}}}}}]}}]
"
    )
}

/// Lets the client in, and no waypoint for itself.
const ONLY_THE_CLIENT: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-the-client, namespace: mesh}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]
";

/// Requests from a pod until it is finished.
pub(crate) struct Load {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Load {
    pub(crate) fn start(world: &World, from: &str, target: &str, per_connection: usize) -> Self {
        let mut command = world.command(from, &format!("load {target} {per_connection}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("calling") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "the load has died");
        }
        Self { child, said }
    }

    pub(crate) fn finish(mut self) -> Tally {
        drop(self.child.stdin.take());
        let mut rest = Vec::new();
        self.said.read_to_end(&mut rest).unwrap();
        self.child.wait().unwrap();
        serde_json::from_str(actor::said(&rest).trim()).unwrap()
    }

    #[track_caller]
    pub(crate) fn finish_without_failure(self, what: &str) {
        let tally = self.finish();
        assert!(tally.failed == 0 && tally.answered > 0, "{what}: {tally:?}");
    }
}

/// Who answers now.
fn served_by(world: &World, client: &str) -> String {
    let body = world.get(client, "web:80/who").unwrap_or_default();
    serde_json::from_str::<Seen>(&body).map_or_else(|_| body, |seen| seen.pod)
}

/// Whether a request comes to the application by way of a waypoint, which leaves its traces.
fn went_through_waypoint(world: &World, client: &str) -> Option<bool> {
    let body = world.get(client, "web:80/who").ok()?;
    let seen = serde_json::from_str::<Seen>(&body).ok()?;
    Some(seen.header("x-forwarded-for").is_some())
}

#[test]
fn routes_and_labels_change_without_a_failed_request() {
    let Some(world) = World::new("change") else { return };
    world.apply("default", SECOND_VERSION);
    world.settle();
    let node = world.pod("mesh/server").node;
    let client = world.client("mesh", &node, false);
    let loads = || [1, 50].map(|per_connection| Load::start(&world, &client, "web:80/load", per_connection));
    let finish = |loads: [Load; 2], what: &str| {
        for load in loads {
            load.finish_without_failure(what);
        }
    };

    let running = loads();
    world.apply("default", &all_to("v1"));
    let of = |version: &'static str| {
        move |pod: &String| pod.starts_with("server-v2") == (version == "v2") && pod.starts_with("server")
    };
    eventually(
        "a waypoint comes",
        || world.pods("mesh/waypoint"),
        |pods| !pods.is_empty(),
    );
    world.settle();
    finish(running, "the service moves to a waypoint");

    let running = loads();
    for version in ["v2", "v1", "v2"] {
        world.apply("default", &all_to(version));
        for _ in 0..5 {
            eventually(
                "the route is followed",
                || served_by(&world, &client),
                of(version),
            );
        }
    }
    finish(running, "routes change");

    let running = loads();
    world.opt(false);
    world.opt(true);
    world.settle();
    finish(running, "the label goes and comes back");

    // What the waypoint still carries is not the waypoint's own.
    world.apply("default", ONLY_THE_CLIENT);
    let is_refused = || world.get("mesh/server-v2", "web:80").is_err();
    eventually("the policy is in force", is_refused, |refused| *refused);
    let running = loads();
    world.delete("default", &all_to("v2"));
    // The waypoint itself stays for a while, for connections that were open.
    eventually(
        "the service leaves its waypoint",
        || went_through_waypoint(&world, &client),
        |went| *went == Some(false),
    );
    finish(running, "the service leaves its waypoint");
    world.assert_nobody_died();
}

#[test]
fn the_death_of_the_control_plane_is_nobody_elses() {
    let Some(world) = World::new("control") else {
        return;
    };
    world.apply("default", SECOND_VERSION);
    world.apply("default", &all_to("v1"));
    let client = world.client("mesh", &world.pod("mesh/server").node, false);
    eventually(
        "a waypoint comes",
        || world.pods("mesh/waypoint"),
        |pods| !pods.is_empty(),
    );
    world.settle();
    let load = Load::start(&world, &client, "web:80/load", 10);
    world
        .lab
        .kill("istio-system/istiod", libc::SIGKILL, true)
        .unwrap();
    world.get(&client, "web:80").unwrap();
    world.lab.release("istio-system/istiod").unwrap();
    world.settle();
    world.apply("default", &all_to("v2"));
    eventually(
        "it leads again",
        || served_by(&world, &client),
        |pod| pod.starts_with("server-v2"),
    );
    load.finish_without_failure("the control plane dies and comes back");
}

#[test]
fn a_dead_waypoint_is_not_gone_around() {
    let Some(world) = World::new("dead") else { return };
    world.apply("default", SECOND_VERSION);
    world.apply("default", &all_to("v1"));
    let client = world.client("mesh", &world.pod("mesh/server").node, false);
    eventually(
        "a waypoint comes",
        || world.pods("mesh/waypoint"),
        |pods| !pods.is_empty(),
    );
    world.settle();
    eventually(
        "traffic goes through it",
        || went_through_waypoint(&world, &client),
        |went| *went == Some(true),
    );
    let past_it = |what: &str| {
        // Nobody gets an answer, neither now nor with a control plane that knows of no earlier time.
        for _ in 0..5 {
            let answer = world.get(&client, "web:80");
            assert!(answer.is_err(), "{what}: {answer:?}");
        }
    };
    world.lab.kill("mesh/waypoint", libc::SIGKILL, true).unwrap();
    past_it("the waypoint is dead");
    world
        .lab
        .kill("istio-system/istiod", libc::SIGKILL, false)
        .unwrap();
    past_it("the control plane has died as well");
    world.lab.release("mesh/waypoint").unwrap();
    recovers(&world, &client);
    world.settle();
    past_dead_pods(&world, &client);
}

#[track_caller]
fn recovers(world: &World, client: &str) {
    let answered = eventually("traffic recovers", || world.get(client, "web:80"), Result::is_ok);
    assert!(answered.is_ok());
}

/// Whoever replaces a pod is found, and the waypoint's own replacement as well.
fn past_dead_pods(world: &World, client: &str) {
    for workload in ["mesh/server", "mesh/waypoint"] {
        world.lab.kill(workload, libc::SIGKILL, false).unwrap();
        recovers(world, client);
    }
    // Deleted by somebody, and wanted by the control plane all the same.
    world.delete(
        "mesh",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: waypoint}}",
    );
    recovers(world, client);
    world.settle();
}
