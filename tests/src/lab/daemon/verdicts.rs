//! What the control plane says of the objects, read from its statuses.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::super::status::RefusedObject;
use super::super::store::{Key, Store};

/// API groups whose objects are the mesh's.
const MESH_GROUPS: &[&str] = &[
    "networking.istio.io",
    "security.istio.io",
    "gateway.networking.k8s.io",
];
/// Objects of these kinds get a status from the control plane, whatever it thinks of them.
const MESH_KINDS: &[&str] = &[
    "AuthorizationPolicy",
    "DestinationRule",
    "Gateway",
    "HTTPRoute",
    "PeerAuthentication",
    "ServiceEntry",
    "TCPRoute",
    "TLSRoute",
    "VirtualService",
];
/// Reasons that time alone will change.
const PENDING: &[&str] = &["AddressNotAssigned", "Pending", "WaypointIsNotReady"];

/// Conditions by object.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    conditions: BTreeMap<Key, Vec<Condition>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    observed_generation: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatusFile {
    api_version: String,
    kind: String,
    metadata: Name,
    status: Conditions,
}

#[derive(Debug, Deserialize)]
struct Name {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    conditions: Vec<Condition>,
    /// Of a route of the Gateway API: one entry for each parent.
    #[serde(default)]
    parents: Vec<Self>,
}

impl Conditions {
    fn all(self) -> Vec<Condition> {
        let of_parents = self.parents.into_iter().flat_map(Self::all);
        self.conditions.into_iter().chain(of_parents).collect()
    }
}

impl Verdicts {
    /// Files that are not statuses are passed over: they are someone else's mistake.
    pub(super) fn read(folder: &Path) -> Self {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let paths = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "json"));
        let files = paths.filter_map(|path| serde_json::from_slice::<StatusFile>(&fs::read(path).ok()?).ok());
        let conditions = files.map(|file| {
            let group = file.api_version.split_once('/').map_or("", |(group, _)| group);
            let key = Key::new(&file.kind, group, &file.metadata.namespace, &file.metadata.name);
            (key, file.status.all())
        });
        Self {
            conditions: conditions.collect(),
        }
    }

    /// What the control plane has not come to yet, or not brought to every proxy.
    pub(super) fn pending(&self, store: &Store) -> Vec<String> {
        let mut pending = Vec::new();
        for key in store.keys() {
            let conditions = self.conditions.get(key);
            let generation = store
                .get(key)
                .and_then(|value| value["metadata"]["generation"].as_u64());
            let seen = |condition: &Condition| {
                condition
                    .observed_generation
                    .is_none_or(|seen| Some(seen) >= generation)
            };
            if is_mesh_object(key) && !conditions.is_some_and(|list| list.iter().all(seen)) {
                pending.push(format!("{key}: the control plane has not looked at it yet"));
            }
            let waits = |condition: &&Condition| {
                condition.status != "True" && PENDING.contains(&condition.reason.as_str())
            };
            let waiting = conditions.into_iter().flatten().filter(waits);
            pending.extend(waiting.map(|condition| format!("{key}: {}", condition.message)));
        }
        pending
    }

    /// Objects that the control plane does not follow, and why.
    pub(super) fn refused(&self) -> Vec<RefusedObject> {
        let refused = |(key, conditions): (&Key, &Vec<Condition>)| {
            let verdict =
                |condition: &&Condition| condition.r#type == "Accepted" && condition.status == "False";
            let condition = conditions.iter().find(verdict)?;
            Some(RefusedObject {
                kind: key.kind.clone(),
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                reason: condition.message.clone(),
            })
        };
        self.conditions.iter().filter_map(refused).collect()
    }
}

fn is_mesh_object(key: &Key) -> bool {
    MESH_GROUPS.contains(&key.group.as_str()) && MESH_KINDS.contains(&key.kind.as_str())
}
