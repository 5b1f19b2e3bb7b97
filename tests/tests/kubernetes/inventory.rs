//! Every object of the cluster, by name: what an installation must leave as it found it.

use std::collections::BTreeSet;

use aquifer_tests::cluster::kubectl::KubectlError;

use super::world::{PATIENCE, World};

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
    // Just after definitions have come or gone the API server names kinds that it does not serve.
    let taken = world
        .api()
        .until("every object is listed", PATIENCE, || list(world));
    taken.unwrap()
}

/// Waits until nothing is there that was not before, but for what may be: Kubernetes takes some things away a moment after
/// what they belong to. Tells what is left and may be.
pub(crate) fn until_nothing_is_left(
    world: &World,
    what: &str,
    before: &BTreeSet<String>,
    may_be: impl Fn(&str) -> bool,
) -> Vec<String> {
    let nothing_else = || {
        let left = list(world).map_err(|error| error.to_string())?;
        let left: Vec<String> = left.difference(before).cloned().collect();
        let more: Vec<&String> = left.iter().filter(|object| !may_be(object)).collect();
        match more.is_empty() {
            true => Ok(left),
            false => Err(format!("{more:?}")),
        }
    };
    let waited = world
        .api()
        .until(&format!("nothing is left by {what}"), PATIENCE, nothing_else);
    waited.unwrap()
}

fn list(world: &World) -> Result<BTreeSet<String>, KubectlError> {
    let kinds = world
        .api()
        .run(&["api-resources", "--verbs=list", "--output=name"])?;
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !FLEETING.contains(kind)).collect();
    let each = "{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{'\\n'}{end}";
    let list = world.api().run(&[
        "get",
        &kinds.join(","),
        "--all-namespaces",
        "-o",
        &format!("jsonpath={each}"),
    ])?;
    Ok(list.lines().map(str::to_owned).collect())
}
