//! Into the mesh: pods that have been running for a while.

use super::world::{NAMESPACE, World};

const LABEL: &str = "istio.io/dataplane-mode=ambient";

pub(crate) fn running_pods_join_without_a_restart_or_a_failed_request(world: &World) {
    world.available(NAMESPACE);
    plain_pages_are_seen(world);
    let before = world.status();
    let pods: Vec<String> = World::application(&before)
        .iter()
        .map(|pod| pod.uid.clone())
        .collect();
    assert_eq!(pods.len(), 8);

    let pages = world.under_load(|| {
        world.kubectl(&["label", "namespace", NAMESPACE, LABEL]);
        let took = world.until("every pod is enrolled", |status| {
            World::application(status).iter().all(|pod| pod.enrolled)
        });
        eprintln!("label to enrolled: {} ms", took.as_millis());
        world.settled("bookinfo answers in the mesh", |_| true);
    });
    world.assert_none_failed("joining", &pages);

    let after = world.status();
    let now = World::application(&after);
    assert!(
        now.iter().all(|pod| pods.contains(&pod.uid) && pod.restarts == 0),
        "{after}"
    );
    // What is not labelled is left alone, and so is whoever has the node's network.
    assert!(
        after
            .pods
            .iter()
            .all(|pod| pod.enrolled == (pod.namespace == NAMESPACE)),
        "{after}"
    );
}

/// By whoever watches the nodes: that nothing plain is seen in the mesh says something only then.
fn plain_pages_are_seen(world: &World) {
    let answers = || world.settled("bookinfo answers without the mesh", |_| true);
    if world.ours().is_none() {
        return answers();
    }
    let mesh = world.watched(answers).mesh();
    assert!(mesh.plaintext > 0 && mesh.hbone == 0, "{mesh:?}");
}

pub(crate) fn a_canary_is_served_by_a_waypoint(world: &World) {
    let pages = world.under_load(|| {
        world.apply_sample("bookinfo/destination-rule-all-mtls");
        world.apply_sample("seed/canary");
        world.until("a waypoint is ready", |status| {
            status.pods_of(NAMESPACE, "waypoint").any(|pod| pod.ready)
        });
        // As the sample's two rules say: v3 asks ratings v2, v2 asks v1; v1 asks nobody.
        world.settled("the canary is in force", |pages| {
            pages
                .served
                .keys()
                .all(|served| ["v1/-", "v2/v1", "v3/v2"].contains(&served.as_str()))
        });
    });
    world.assert_none_failed("canary", &pages);
}
