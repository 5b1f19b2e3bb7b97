//! The authority in its Secrets: replaced in stages by whoever leads, followed by the others, and never by what is broken.

use aquifer_core::identity::SpiffeId;
use serde_json::Value;

use crate::clients::Clients;
use crate::control::{self, Control};
use crate::world::World;
use crate::{PODS, turn};

const AGENT: &str = "spiffe://cluster.local/ns/istio-system/sa/aquifer-agent";

/// Both replicas, and who of them leads.
struct Replicas {
    leader: Control,
    follower: Control,
}

impl Replicas {
    fn start(world: &World, names: [&str; 2]) -> Self {
        let ports = [control::free_port(), control::free_port()];
        let one = Control::start_on(world, names[0], ports[0], &[ports[1]]);
        let two = Control::start_on(world, names[1], ports[1], &[ports[0]]);
        one.ready();
        two.ready();
        let holder = || {
            let path = "jsonpath={.spec.holderIdentity}";
            let lease = ["get", "lease", "aquifer-leader", "-n", "istio-system", "-o", path];
            world.try_kubectl(&lease).unwrap_or_default()
        };
        world.until("one of the two leads", || names.contains(&&*holder()));
        let (leader, follower) = if holder() == names[0] {
            (one, two)
        } else {
            (two, one)
        };
        Self { leader, follower }
    }

    /// Until both say so.
    fn say(&self, world: &World, what: &str, is_so: impl Fn(&Value) -> bool) {
        let views = || [self.leader.authority(), self.follower.authority()];
        world.until(what, || views().iter().all(&is_so));
    }

    fn kill(self) {
        self.leader.kill();
        self.follower.kill();
    }
}

fn reasons(world: &World) -> String {
    let path = "jsonpath={.items[*].reason}";
    let about = "--field-selector=involvedObject.name=aquifer-ca-state";
    world.kubectl(&["get", "events", "-n", "istio-system", about, "-o", path])
}

/// How many roots a new pod would find.
fn published(world: &World) -> usize {
    let path = r"jsonpath={.data.root-cert\.pem}";
    let map = [
        "get",
        "configmap",
        "istio-ca-root-cert",
        "-n",
        "istio-system",
        "-o",
        path,
    ];
    world.kubectl(&map).matches("BEGIN CERTIFICATE").count()
}

fn secret(world: &World, name: &str) -> Value {
    let text = world.kubectl(&["get", "secret", name, "-n", "istio-system", "-o", "json"]);
    serde_json::from_str(&text).unwrap()
}

fn signer(view: &Value) -> String {
    view["signer"]["fingerprint"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn another_authority_comes_in_stages_and_a_broken_one_never() {
    let Some(_turn) = turn() else { return };
    let world = World::up("authority");
    world.apply(PODS);
    let replicas = Replicas::start(&world, ["one", "two"]);
    world.pod_is_ready("istio-system", "agent");
    let clients = Clients::new(&world, &replicas.follower);
    let token = world.token("istio-system", "aquifer-agent", "agent", "istio-ca");
    let agent = SpiffeId::parse(AGENT).unwrap();
    clients.gets(&token, &agent, None);

    // Somebody asks for another one of the mesh's own. A proxy that takes roots in is asked, by way of the follower.
    let knows = clients.agent(&token, "agent");
    let first = signer(&replicas.leader.authority());
    let wish = "aquifer.io/renew=now";
    world.kubectl(&[
        "annotate",
        "secret",
        "istio-ca-secret",
        "-n",
        "istio-system",
        wish,
    ]);
    let another = |v: &Value| v["stage"] == "renewing" && signer(v) != first && v["of"] == 1;
    replicas.say(
        &world,
        "the mesh has made another one, and signs with it",
        another,
    );
    world.until("the wish is fulfilled", || {
        secret(&world, "istio-ca-secret")["metadata"]["annotations"]["aquifer.io/renew"].is_null()
    });
    world.until("an event says so", || reasons(&world).contains("AuthorityStage"));

    // Somebody gives one, while a proxy does not take roots in: nobody signs with what it does not know.
    drop(knows);
    // As the kubelet does it for a pod: the new root is published, and stands in the file.
    world.until("both roots are published", || published(&world) == 2);
    let clients = Clients::new(&world, &replicas.follower);
    let ignorant = clients.ignorant_agent(&token, "agent");
    let second = signer(&replicas.leader.authority());
    world.give_authority();
    let waits =
        |v: &Value| v["stage"] == "announcing" && signer(v) == second && v["inEffect"] == 0 && v["of"] == 1;
    replicas.say(&world, "the new root is announced", waits);
    let state = secret(&world, "aquifer-ca-state");
    assert!(
        state["data"]["ca-key.pem"].is_string(),
        "the key that signs is wanted for a restart"
    );

    // All control planes die with the key in their memory.
    replicas.kill();
    drop(ignorant);
    let replicas = Replicas::start(&world, ["three", "four"]);
    let clients = Clients::new(&world, &replicas.follower);
    let _knows = clients.agent(&token, "agent");
    let signs = |v: &Value| v["stage"] == "renewing" && signer(v) != second;
    replicas.say(&world, "everybody knows it, and it signs", signs);
    world.until("a key is kept no longer than it signs", || {
        secret(&world, "aquifer-ca-state")["data"]["ca-key.pem"].is_null()
    });
    clients.gets(&token, &agent, None);

    // What is broken is said, and changes nothing.
    let before = replicas.leader.authority();
    let broken = r#"{"data":{"ca-key.pem":"Z2FyYmFnZQ=="}}"#;
    world.kubectl(&[
        "patch",
        "secret",
        "cacerts",
        "-n",
        "istio-system",
        "--type=merge",
        "-p",
        broken,
    ]);
    let said = |v: &Value| v["problem"].as_str().is_some_and(|p| p.contains("ca-key.pem"));
    replicas.say(&world, "the broken key is named", said);
    let now = replicas.leader.authority();
    assert_eq!(now["signer"], before["signer"]);
    // Which of them are wanted is not known now: none is dropped.
    assert_eq!(fingerprints(&now["roots"]), fingerprints(&before["roots"]));
    world.until("an event says so", || {
        reasons(&world).contains("AuthorityUnusable")
    });
    clients.gets(&token, &agent, None);
    replicas.follower.ends_in_order();
    replicas.leader.ends_in_order();
}

fn fingerprints(roots: &Value) -> Vec<&Value> {
    let roots = roots.as_array().unwrap();
    roots.iter().map(|root| &root["fingerprint"]).collect()
}
