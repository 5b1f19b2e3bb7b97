//! What nobody should do to a mesh, and somebody does.

use std::path::Path;
use std::time::Instant;

use aquifer_tests::cluster::layout::Member;
use aquifer_tests::lab::status::Status;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;

use super::manifests::{deployment, namespace, serving};
use super::world::{NAMESPACE, SYSTEM, World};

/// Namespaces whose labels flap, and how often each changes.
const FLAPPING: usize = 100;
const FLAPS: usize = 100;

pub(crate) fn nonsense_and_floods_disturb_nobody(world: &World) {
    let before = restarts(world);
    let pages = world.under_load(|| {
        the_webhook_refuses_garbage(world);
        a_megabyte_of_settings_is_read_or_refused(world);
        labels_flap(world);
    });
    world.assert_none_failed("garbage and floods", &pages);
    assert_eq!(restarts(world), before, "nothing of the mesh was restarted");
    super::living::renew_probed(world);
}

/// Of all that is the mesh's own.
fn restarts(world: &World) -> u32 {
    let status = world.status();
    let own = status.pods.iter().filter(|pod| pod.namespace == SYSTEM);
    own.map(|pod| pod.restarts).sum()
}

/// Whoever reaches its Service may talk to the webhook; the API server asks nothing like this.
fn the_webhook_refuses_garbage(world: &World) {
    for (body, wanted) in [
        ("printf ''", ["400", "422"]),
        ("echo nonsense", ["400", "422"]),
        (r#"echo '{"kind":"AdmissionReview"}'"#, ["400", "422"]),
        (
            r#"echo '{"request":{"uid":7,"object":[[[[]]]]}}'"#,
            ["400", "422"],
        ),
        ("head -c 1000000 /dev/zero", ["400", "413"]),
        // It may close before it was sent all.
        ("head -c 100000000 /dev/zero", ["413", "000"]),
    ] {
        let status = post_to_webhook(world, body);
        assert!(
            wanted.contains(&&*status),
            "{body}: {status}, not one of {wanted:?}"
        );
    }
    assert_control_plane_answers(world);
}

/// The status of the answer to what a command prints.
fn post_to_webhook(world: &World, body: &str) -> String {
    let template = "jsonpath={.spec.clusterIP}";
    let address = world.kubectl(&["-n", SYSTEM, "get", "service", "istiod", "-o", template]);
    let curl = format!(
        "{body} | curl -s -k -m 120 -o /dev/null -w '%{{http_code}}' -X POST -H 'content-type: application/json' --data-binary @- https://{address}/validate"
    );
    world.in_node(Member::Node(1), &curl)
}

fn assert_control_plane_answers(world: &World) {
    let status = post_to_webhook(world, "echo nonsense");
    assert!(["400", "422"].contains(&&*status), "{status}");
}

/// As large as the API server takes it.
fn a_megabyte_of_settings_is_read_or_refused(world: &World) {
    let configuration = |mesh: &str| {
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "istio", "namespace": SYSTEM},
            "data": {"mesh": mesh},
        })
        .to_string()
    };
    let now = [
        "-n",
        SYSTEM,
        "get",
        "configmap",
        "istio",
        "-o",
        "jsonpath={.data.mesh}",
    ];
    let settings = world.kubectl(&now);
    let nested = format!("{}1{}", "[".repeat(450_000), "]".repeat(450_000));
    let long = format!("rootNamespace: {}\n", "x".repeat(900_000));
    for text in [
        nested,
        long,
        "a: *b\nc: [\n".to_owned(),
        "&a [*a, *a]\n".repeat(80_000),
    ] {
        world.apply(SYSTEM, &configuration(&text));
        assert_control_plane_answers(world);
        world.settled("bookinfo answers whatever the settings", |_| true);
    }
    world.apply(SYSTEM, &configuration(&settings));
}

/// As fast as the API server takes it, from many sides at once.
fn labels_flap(world: &World) {
    let names: Vec<String> = (0..FLAPPING).map(|number| format!("flapping-{number}")).collect();
    let namespaces = names.iter().map(|name| namespace(name, "flaps: here"));
    let kubectl = world.cluster().kubectl();
    kubectl.apply(&namespaces.collect::<String>()).unwrap();
    // In one of them somebody lives.
    let (home, pod) = (&names[0], format!("containers: [{}]", serving("app", 9080, "")));
    world.apply(home, &deployment("flapping", &pod));
    world.available(home);
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .unwrap()
        .block_on(flap(&world.cluster().kubeconfig(), &names));
    let changed = start.elapsed();
    let is = |status: &Status, enrolled| {
        status
            .pods_of(home, "flapping")
            .all(|pod| pod.enrolled == enrolled)
    };
    world.until("whose namespace was labelled last to stay out is out", |status| {
        is(status, false)
    });
    world.kubectl(&[
        "label",
        "--overwrite",
        "namespace",
        home,
        "istio.io/dataplane-mode=ambient",
    ]);
    world.until("and in the mesh when it is labelled so", |status| {
        is(status, true)
    });
    // A pod that starts now is not behind all of that.
    super::living::renew_probed(world);
    eprintln!(
        "{} labels changed in {} ms; {} ms later new pods were enrolled",
        FLAPPING * FLAPS,
        changed.as_millis(),
        (start.elapsed() - changed).as_millis()
    );
    world.kubectl(&["delete", "namespaces", "-l", "flaps=here", "--wait=false"]);
    world.settled(&format!("bookinfo answers in {NAMESPACE}"), |_| true);
}

/// Each namespace's changes one after the other, the namespaces side by side.
async fn flap(kubeconfig: &Path, names: &[String]) {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let namespaces: Api<Namespace> = Api::all(Client::try_from(config.unwrap()).unwrap());
    let flaps = names.iter().map(async |name| {
        for flap in 0..FLAPS {
            let mode = if flap % 2 == 0 { "ambient" } else { "none" };
            let patch = json!({"metadata": {"labels": {"istio.io/dataplane-mode": mode}}});
            let (how, patch) = (PatchParams::default(), Patch::Merge(patch));
            let mut attempts = 0;
            // A busy API server may refuse one.
            while let Err(error) = namespaces.patch_metadata(name, &how, &patch).await {
                attempts += 1;
                assert!(attempts < 10, "{name}: {error}");
            }
        }
    });
    futures_util::future::join_all(flaps).await;
}
