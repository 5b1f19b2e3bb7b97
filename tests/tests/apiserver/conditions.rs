//! Every kind of the mesh's own APIs is answered for, and what is answered is written once.

use serde_json::Value;

use crate::clients::Clients;
use crate::control::{self, Control};
use crate::world::World;
use crate::{PODS, turn};

/// One of each kind; what is not acted on says so.
const ONE_OF_EACH: &str = include_str!("../one-of-each.yaml");

const KINDS: [&str; 15] = [
    "virtualservices.networking.istio.io",
    "destinationrules.networking.istio.io",
    "gateways.networking.istio.io",
    "serviceentries.networking.istio.io",
    "workloadentries.networking.istio.io",
    "workloadgroups.networking.istio.io",
    "sidecars.networking.istio.io",
    "proxyconfigs.networking.istio.io",
    "envoyfilters.networking.istio.io",
    "authorizationpolicies.security.istio.io",
    "peerauthentications.security.istio.io",
    "requestauthentications.security.istio.io",
    "telemetries.telemetry.istio.io",
    "wasmplugins.extensions.istio.io",
    "trafficextensions.extensions.istio.io",
];

/// Those that an agent enforces: in effect at as many as are connected.
const AT_AGENTS: [&str; 2] = [
    "authorizationpolicy.security.istio.io/x",
    "peerauthentication.security.istio.io/x",
];

/// The one object of each kind, whole.
fn objects(world: &World) -> Vec<Value> {
    let list = world.kubectl(&["get", &KINDS.join(","), "-n", "shop", "-o", "json"]);
    let mut list: Value = serde_json::from_str(&list).unwrap();
    serde_json::from_value(list["items"].take()).unwrap()
}

fn name(object: &Value) -> String {
    format!("{} {}", object["kind"], object["metadata"]["resourceVersion"])
}

/// Whether the object's own state is answered for, in a way that says why where the answer is no.
fn is_answered(object: &Value) -> bool {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let accepted = conditions.iter().find(|c| c["type"] == "Accepted");
    let current = |c: &Value| c["observedGeneration"] == object["metadata"]["generation"];
    let said = |c: &Value| c["status"] == "True" || c["message"].as_str().is_some_and(|m| m.len() > 10);
    accepted.is_some_and(|c| current(c) && said(c)) && conditions.iter().all(current)
}

#[test]
fn every_kind_gets_conditions_and_equal_ones_are_not_written_again() {
    let Some(_turn) = turn() else { return };
    let world = World::up("conditions");
    world.apply(PODS);
    let ports = [control::free_port(), control::free_port()];
    let one = Control::start_on(&world, "one", ports[0], &[ports[1]]);
    let two = Control::start_on(&world, "two", ports[1], &[ports[0]]);
    one.ready();
    two.ready();
    world.pod_is_ready("istio-system", "agent");
    let clients = Clients::new(&world, &two);
    let token = world.token("istio-system", "aquifer-agent", "agent", "istio-ca");
    let agent = clients.agent(&token, "agent");
    world.apply(ONE_OF_EACH);
    world.until("every kind is answered for", || {
        let objects = objects(&world);
        objects.len() == KINDS.len() && objects.iter().all(is_answered)
    });
    for object in AT_AGENTS {
        let programmed = || world.condition("shop", object, "Programmed");
        world.until("it is in effect", || programmed().contains("in effect at 1 of "));
    }
    let outside = world.condition("shop", "serviceentry/x", "Accepted");
    assert!(outside.starts_with("True"), "{outside}");
    let entry = world.condition("shop", "workloadentry/x", "Accepted");
    assert!(
        entry.starts_with("False"),
        "stored, and said to have no effect: {entry}"
    );

    // Changes that concern none of them: nothing is written twice, by nobody.
    let settled = || objects(&world).iter().map(name).collect::<Vec<_>>();
    let mut rounds = 0..;
    let mut nothing_happens = || {
        let before = settled();
        the_writer_comes_by(&world, rounds.next().unwrap_or_default());
        before == settled()
    };
    world.until(
        "what proxies acknowledge has been written, and then nothing",
        || (0..3).all(|_| nothing_happens()),
    );
    let before = settled();
    let label = r#"{"metadata":{"labels":{"touched":"yes"}}}"#;
    world.kubectl(&[
        "patch",
        "virtualservice",
        "x",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        label,
    ]);
    the_writer_comes_by(&world, 1000);
    let differing = settled()
        .iter()
        .zip(&before)
        .filter(|(now, then)| now != then)
        .count();
    assert_eq!(differing, 1, "only what somebody else wrote");
    a_megabyte_of_settings_stops_nothing(&world);
    drop(agent);
    one.ends_in_order();
    two.ends_in_order();
}

/// Whatever was due before is written once this is.
fn the_writer_comes_by(world: &World, round: u32) {
    let namespace = format!("round-{round}");
    world.kubectl(&["create", "namespace", &namespace]);
    let root = ["get", "configmap", "istio-ca-root-cert", "-n", &namespace];
    world.until("the writer comes by", || world.try_kubectl(&root).is_some());
}

/// What the API server stores at most, with wrong types for known keys.
fn a_megabyte_of_settings_stops_nothing(world: &World) {
    let keys: String = (0..30_000)
        .map(|n| format!("key{n}: [{{a: {n}}}, true]\n"))
        .collect();
    let mesh = format!("enableAutoMtls: [1]\ntrustDomain: {{a: b}}\naccessLogFile: 7\n{keys}");
    let file = world.file("mesh");
    std::fs::write(&file, &mesh[..mesh.len().min(1_000_000)]).unwrap();
    let from = format!("--from-file=mesh={}", file.display());
    world.kubectl(&["create", "configmap", "istio", "-n", "istio-system", &from]);
    world.until("its keys are answered for", || {
        world
            .page("/debug/objects")
            .contains("more keys are without effect")
    });
    let mended = r#"{"spec":{"http":[{"route":[{"destination":{"host":"web"}}],"timeout":"3s"}]}}"#;
    world.kubectl(&[
        "patch",
        "virtualservice",
        "x",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        mended,
    ]);
    world.until("objects are answered for as before", || {
        world
            .condition("shop", "virtualservice/x", "Accepted")
            .starts_with("True Accepted 2 ")
    });
}
