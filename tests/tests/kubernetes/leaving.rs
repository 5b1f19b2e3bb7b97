//! Out of the mesh, and the mesh off the cluster.

use aquifer_tests::cluster::{Cluster, mesh};
use aquifer_tests::interrupt;
use aquifer_tests::lab::status::PodStatus;

use super::inventory;
use super::kinds::SHOP;
use super::world::{NAMESPACE, PATIENCE, SYSTEM, World};

pub(crate) fn a_namespace_that_leaves_talks_plainly(world: &World) {
    let pages = world.under_load(|| {
        world.kubectl(&["label", "namespace", NAMESPACE, "istio.io/dataplane-mode-"]);
        world.until("nobody is enrolled", |status| {
            status.pods.iter().all(|pod| !pod.enrolled)
        });
        // Their peers have a while to follow before pods are given back.
        until_no_pod_is_captured(world);
        world.settled("bookinfo answers without the mesh", |_| true);
    });
    world.assert_none_failed("leaving", &pages);
    // Back again, for what comes next.
    world.kubectl(&["label", "namespace", NAMESPACE, "istio.io/dataplane-mode=ambient"]);
    world.until("every pod is enrolled again", |status| {
        World::application(status).iter().all(|pod| pod.enrolled)
    });
}

fn until_no_pod_is_captured(world: &World) {
    world.wait("no pod has a kernel object any more", || {
        let pins: Vec<String> = pins(world);
        if pins.iter().any(|pin| pin.contains("sk_lookup_")) {
            return Err(format!("{pins:?}"));
        }
        Ok(())
    });
}

pub(crate) fn an_uninstalled_mesh_leaves_nothing(world: &World) {
    let before = world.status();
    let pages = world.under_load(|| {
        // In order: pods are given back while control plane and agents still run.
        let leave = [
            "-n",
            SYSTEM,
            "annotate",
            "daemonset/aquifer-agent",
            "aquifer.io/leave=true",
        ];
        world.kubectl(&leave);
        world.until("nobody is enrolled", |status| {
            status.pods.iter().all(|pod| !pod.enrolled)
        });
        until_no_pod_is_captured(world);
        let mesh = world.mesh();
        interrupt::in_turn(|| mesh.uninstall(PATIENCE)).unwrap();
        world.until("the agents are gone", |status| {
            status.pods_of(SYSTEM, "aquifer-agent").next().is_none()
        });
    });
    world.assert_none_failed("uninstalling", &pages);
    assert_no_object_is_left(world);
    nothing_is_on_the_nodes(world);
    world.settled("bookinfo answers without the mesh", |_| true);
    let after = world.status();
    let ran = |now: &PodStatus| {
        let mut earlier = before.pods.iter();
        earlier.any(|pod| pod.uid == now.uid && pod.restarts == now.restarts)
    };
    for pod in World::application(&after) {
        assert!(!pod.enrolled && ran(pod), "{pod:?}");
    }
    // Had to be there until now, so that there was something of every kind to remove.
    world.kubectl(&["delete", "namespace", SHOP, "--ignore-not-found"]);
}

/// By helm alone. The definitions stay, since users' objects are of them, and the authority's key.
fn assert_no_object_is_left(world: &World) {
    let is_anybody_elses = |object: &str| {
        let (kind, name) = object.split_once(' ').unwrap_or_default();
        let (namespace, name) = name.split_once('/').unwrap_or_default();
        match (kind, namespace) {
            ("CustomResourceDefinition", _) => true,
            // Helm has made one for the release and leaves it; chapters have made others, and Services in them.
            ("Namespace" | "IPAddress", _) => true,
            ("Secret", SYSTEM) => ["istio-ca-secret", "aquifer-ca-state"].contains(&name),
            // What Kubernetes puts into each namespace.
            ("ServiceAccount", _) if name == "default" => true,
            ("ConfigMap", _) if name == "kube-root-ca.crt" => true,
            (_, "" | SYSTEM) => false,
            // Chapters have put things of their own into theirs.
            _ => name != "istio-ca-root-cert",
        }
    };
    inventory::until_nothing_is_left(world, "helm uninstall", world.objects_before(), is_anybody_elses);
    let made = [
        "get",
        "all,serviceaccounts,configmaps,poddisruptionbudgets,horizontalpodautoscalers,gatewayclasses.gateway.networking.k8s.io",
        "--all-namespaces",
        "-l",
        "app.kubernetes.io/managed-by=aquifer",
        "-o",
        "name",
    ];
    world.wait("what the control plane had made is gone", || {
        match world.kubectl(&made) {
            left if left.is_empty() => Ok(()),
            left => Err(left),
        }
    });
}

/// What ends on a node has ended when its pod is gone, and no pod says that it was in the mesh.
pub(crate) fn nothing_is_on_the_nodes(world: &World) {
    world.wait("nothing of the mesh is on the nodes", || {
        let pins = pins(world);
        if !pins.is_empty() {
            return Err(format!("{pins:?}"));
        }
        for node in world.ours().map(Cluster::nodes).into_iter().flatten() {
            let (now, before) = (world.rules_of(node), world.rules_before(node));
            if now != before {
                return Err(format!("{node} has {now}, and had {before}"));
            }
        }
        let status = world.status();
        match status.pods.iter().any(|pod| pod.enrolled) {
            true => Err(status.to_string()),
            false => Ok(()),
        }
    });
}

fn pins(world: &World) -> Vec<String> {
    let Some(cluster) = world.ours() else {
        world.leave_out("in leaving and uninstalling: kernel objects, rules and files on the nodes");
        return Vec::new();
    };
    let nodes = cluster.nodes();
    nodes
        .flat_map(|node| mesh::pins(cluster, node).unwrap())
        .collect()
}
