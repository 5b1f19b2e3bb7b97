//! The control plane on a real API server, as the service account and with the roles of the chart.
//!
//! It runs beside the cluster, not in it: what is tested is what passes between it, the API server and its clients.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod admission;
mod authority;
mod beside;
mod clients;
mod conditions;
mod control;
mod definitions;
mod gateway_api;
mod nodes;
mod proxies;
mod rights;
mod secrets;
mod settings;
mod way;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

use aquifer_core::identity::SpiffeId;
use aquifer_tests::skip;

use beside::Beside;
use clients::Clients;
use control::Control;
use world::World;

/// One cluster at a time: each is some hundred processes.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}], timeout: 3s}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: web}, weight: -5}]}]}
";

const PODS: &str = r"
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: default}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: idle, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  serviceAccountName: web
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: 'aquifer-cluster/app:1', args: [serve, '8080']}]
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: istio-system}
spec:
  serviceAccountName: aquifer-agent
  terminationGracePeriodSeconds: 0
  containers: [{name: agent, image: 'aquifer-cluster/app:1', args: [serve, '8080']}]
";

#[test]
fn objects_become_statuses_and_waypoints() {
    let Some(_turn) = turn() else { return };
    let world = World::up("objects");
    let control = Control::start(&world, "one", &[]);
    control.ready();
    definitions::are_explained(&world);
    world.apply(SHOP);
    rules_are_answered_for(&world);
    every_namespace_gets_the_root(&world);
    secrets::are_read_where_a_role_allows_it(&world);
    a_waypoint_comes_back_and_goes(&world);
    what_a_kind_lacks_stops_no_other(&world);
    gateway_api::real_manifests_are_taken_and_answered_for(&world);
    control.ends_in_order();
}

fn rules_are_answered_for(world: &World) {
    let accepted = |name: &str| world.condition("shop", &format!("virtualservice/{name}"), "Accepted");
    world.until("good is accepted", || {
        accepted("good").starts_with("True Accepted 1 ")
    });
    world.until("bad is refused", || {
        accepted("bad").starts_with("False Invalid 1 spec.http[0].route[0].weight")
    });
    let reason = [
        "get",
        "events",
        "-n",
        "shop",
        "--field-selector=involvedObject.name=bad",
        "-o",
        "jsonpath={.items[*].reason}",
    ];
    world.until("an event says so", || world.kubectl(&reason) == "Invalid");
    let mended = r#"{"spec":{"http":[{"route":[{"destination":{"host":"web"}}]}]}}"#;
    world.kubectl(&[
        "patch",
        "virtualservice",
        "bad",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        mended,
    ]);
    world.until("mended, it is accepted as it is now", || {
        accepted("bad").starts_with("True Accepted 2 ")
    });
}

fn every_namespace_gets_the_root(world: &World) {
    let root = |namespace: &str| {
        world.try_kubectl(&[
            "get",
            "configmap",
            "istio-ca-root-cert",
            "-n",
            namespace,
            "-o",
            r"jsonpath={.data.root-cert\.pem}",
        ])
    };
    world.until("the control plane's own namespace has it", || {
        root("istio-system").is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----"))
    });
    let known = root("istio-system").unwrap();
    world.kubectl(&["create", "namespace", "late"]);
    world.until("a new namespace has it", || {
        root("late").is_some_and(|pem| pem == known)
    });
    world.kubectl(&["delete", "configmap", "istio-ca-root-cert", "-n", "late"]);
    world.until("a deleted one comes back", || {
        root("late").is_some_and(|pem| pem == known)
    });
    world.kubectl(&[
        "patch",
        "configmap",
        "istio-ca-root-cert",
        "-n",
        "late",
        "--type=merge",
        "-p",
        r#"{"data":{"root-cert.pem":"forged"}}"#,
    ]);
    world.until("a changed one is put right", || {
        root("late").is_some_and(|pem| pem == known)
    });
    world.kubectl(&["delete", "namespace", "late"]);
}

fn a_waypoint_comes_back_and_goes(world: &World) {
    let names = || {
        world.kubectl(&[
            "get",
            "deployment,service,serviceaccount",
            "-n",
            "shop",
            "-l",
            "gateway.istio.io/managed",
            "-o",
            "name",
        ])
    };
    let all = "deployment.apps/waypoint\nservice/waypoint\nserviceaccount/waypoint\n";
    world.until("the waypoint is there", || names() == all);
    world.kubectl(&["delete", "deployment,serviceaccount", "waypoint", "-n", "shop"]);
    world.until("it came back", || names() == all);
    let foreign = [
        "create",
        "deployment",
        "other",
        "-n",
        "shop",
        "--image=x",
        "--replicas=0",
    ];
    world.kubectl(&foreign);
    world.kubectl(&[
        "label",
        "deployment",
        "other",
        "-n",
        "shop",
        "gateway.istio.io/managed=somebody",
    ]);
    world.kubectl(&["delete", "virtualservice", "--all", "-n", "shop"]);
    world.until("only what nobody of ours made is left", || {
        names() == "deployment.apps/other\n"
    });
}

/// The cluster has no Gateway API to begin with.
fn what_a_kind_lacks_stops_no_other(world: &World) {
    let unreadable = || {
        world
            .page("/debug/objects")
            .contains("gateways.gateway.networking.k8s.io")
    };
    world.until("the kind is named", unreadable);
    world.apply_gateway_api();
    world.until("the kind is found without a restart", || !unreadable());
    world.apply(world::WAYPOINT);
    let owner = [
        "get",
        "deployment",
        "own",
        "-n",
        "shop",
        "-o",
        "jsonpath={.metadata.ownerReferences[0].name}",
    ];
    world.until("its waypoint belongs to it", || {
        world.try_kubectl(&owner).is_some_and(|name| name == "own")
    });
    let foreign = world.kubectl(&[
        "get",
        "gateways.gateway.networking.k8s.io",
        "foreign",
        "-n",
        "shop",
        "-o",
        "jsonpath={.status}",
    ]);
    assert_eq!(foreign, "", "another implementation's status is its own");
}

#[test]
fn tokens_open_what_their_pods_may_have() {
    let Some(_turn) = turn() else { return };
    let world = World::up("tokens");
    let control = Control::start(&world, "one", &[]);
    control.ready();
    world.apply(PODS);
    for (namespace, pod) in [("default", "web"), ("istio-system", "agent")] {
        world.pod_is_ready(namespace, pod);
    }
    let clients = Clients::new(&world, &control);
    let id = |namespace: &str, account: &str| {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")).unwrap()
    };
    let (web, idle, agent) = (
        id("default", "web"),
        id("default", "idle"),
        id("istio-system", "aquifer-agent"),
    );
    let own = world.token("default", "web", "web", "istio-ca");
    clients.gets(&own, &web, None);
    let other = world.token("default", "web", "web", "vault");
    clients.refuses(&other, &web, None, "audience");
    let forged = forge(&own);
    clients.refuses(&forged, &web, None, "does not accept");
    let unbound = world.kubectl(&["create", "token", "web", "--audience=istio-ca"]);
    clients.refuses(unbound.trim(), &web, None, "not bound to a pod");
    clients.refuses(&own, &idle, Some(&idle), "only node agents");
    // An agent gets what its node runs, and nothing else.
    let node = world.token("istio-system", "aquifer-agent", "agent", "istio-ca");
    clients.gets(&node, &agent, None);
    clients.gets(&node, &web, Some(&web));
    clients.refuses(&node, &idle, Some(&idle), "no running pod");
    nodes::agents_speak_for_their_own_node_alone(&world, &clients);
    world.kubectl(&["delete", "pod", "web", "-n", "default", "--wait=true"]);
    world.until("a pod that is gone gets nothing", || {
        clients.is_refused(&own, &web, None)
    });
    world.until("nor does its agent for it", || {
        clients.is_refused(&node, &web, Some(&web))
    });
    let root = || {
        world.kubectl(&[
            "get",
            "configmap",
            "istio-ca-root-cert",
            "-n",
            "default",
            "-o",
            "yaml",
        ])
    };
    let before = root();
    world.give_authority();
    world.until("its root is published, without a restart", || root() != before);
    world.until("and signed under", || control.authority()["stage"] == "renewing");
    // The root that a client has may be one of a moment ago.
    world.until("a certificate is issued under it", || {
        Clients::new(&world, &control).issues(&node, &agent)
    });
    control.ends_in_order();
}

#[test]
fn what_the_chart_says_holds_through_the_api_server() {
    let Some(_turn) = turn() else { return };
    let world = World::up("chart");
    world.load_programs();
    let beside = Beside::of(&world);
    let one = beside.start("one", &[]);
    admission::bad_ones_are_denied_and_good_ones_are_not(&world);
    proxies::what_they_acknowledge_is_counted(&world, &one);
    one.ends_in_order();
    admission::without_the_control_plane_everything_passes(&world);
    let two = beside.start("two", &["control.automaticWaypoints=false"]);
    admission::without_automatic_waypoints_the_status_says_so(&world);
    two.ends_in_order();
    rights::a_kind_that_may_not_be_read_stops_nothing_else(&world, &beside);
    rights::nobody_is_served_before_policies_are_read(&world, &beside);
    settings::a_wrong_edit_changes_nothing(&world, &beside);
}

/// The same claims under a signature of nobody's.
fn forge(token: &str) -> String {
    let (rest, signature) = token.rsplit_once('.').unwrap();
    let changed: String = signature.chars().rev().collect();
    format!("{rest}.{changed}")
}

#[test]
fn replicas_agree_and_one_of_them_writes() {
    let Some(_turn) = turn() else { return };
    let world = World::up("replicas");
    // Started at once, before there is an authority.
    let ports = [control::free_port(), control::free_port()];
    let one = Control::start_on(&world, "one", ports[0], &[ports[1]]);
    let two = Control::start_on(&world, "two", ports[1], &[ports[0]]);
    one.ready();
    two.ready();
    assert_eq!(
        one.said("certificate authority made") + two.said("certificate authority made"),
        1
    );
    world.apply(PODS);
    world.pod_is_ready("istio-system", "agent");
    let holder = || {
        let path = "jsonpath={.spec.holderIdentity}";
        let lease = ["get", "lease", "aquifer-leader", "-n", "istio-system", "-o", path];
        world.try_kubectl(&lease).unwrap_or_default()
    };
    world.until("one leads", || !holder().is_empty());
    let (leader, follower) = if holder() == "one" { (one, two) } else { (two, one) };

    // The agent's stream is the follower's; the leader writes the status.
    let clients = Clients::new(&world, &follower);
    let token = world.token("istio-system", "aquifer-agent", "agent", "istio-ca");
    let _agent = clients.agent(&token, "agent");
    world.apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: default}\nspec: {mtls: {mode: STRICT}}\n");
    let programmed = || world.condition("default", "peerauthentication/default", "Programmed");
    world.until("the status counts the other replica's proxies", || {
        programmed().ends_with("in effect at 1 of 1 proxies")
    });

    let version = || {
        let path = "jsonpath={.metadata.resourceVersion}";
        world.kubectl(&["get", "peerauthentication", "default", "-o", path])
    };
    let (name, before) = (holder(), version());
    leader.kill();
    world.kubectl(&["create", "namespace", "after"]);
    let root = ["get", "configmap", "istio-ca-root-cert", "-n", "after"];
    world.until("the other one writes", || world.try_kubectl(&root).is_some());
    assert_ne!(holder(), name);
    assert_eq!(version(), before, "what the other one wrote is not written again");
    follower.ends_in_order();
    assert_eq!(holder(), "", "given back for the next one");
}

fn turn() -> Option<MutexGuard<'static, ()>> {
    skip::unless_root().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}
