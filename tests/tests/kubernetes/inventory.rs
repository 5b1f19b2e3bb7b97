//! Every object of the cluster, by name: what an installation must leave as it found it.

use std::collections::BTreeSet;

use super::world::World;

/// What Kubernetes itself makes, renews and ends at any time.
const FLEETING: [&str; 10] = [
    // Of definitions, one for each version of a group.
    "apiservices.apiregistration.k8s.io",
    "events",
    "events.events.k8s.io",
    "leases.coordination.k8s.io",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "pods",
    "replicasets.apps",
    "controllerrevisions.apps",
    "componentstatuses",
];

/// `KIND NAMESPACE/NAME` of all that is not fleeting.
pub(crate) fn take(world: &World) -> BTreeSet<String> {
    let kinds = world.kubectl(&["api-resources", "--verbs=list", "--output=name"]);
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !FLEETING.contains(kind)).collect();
    let each = "{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{'\\n'}{end}";
    let list = world.kubectl(&[
        "get",
        &kinds.join(","),
        "--all-namespaces",
        "-o",
        &format!("jsonpath={each}"),
    ]);
    list.lines().map(str::to_owned).collect()
}

/// What is there now and was not before.
pub(crate) fn since(world: &World, before: &BTreeSet<String>) -> Vec<String> {
    take(world).difference(before).cloned().collect()
}
