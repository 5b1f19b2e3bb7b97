//! From xDS resources to changes of the snapshot, one handler per type.

use std::sync::Arc;

use aquifer_core::snapshot::Change;
use aquifer_xds::convert::{self, Address};
use aquifer_xds::handler::{Rejected, ResourceHandler, Update};
use aquifer_xds::type_url;

use super::MeshStore;

/// The handlers of what an agent subscribes to. Policies come first: a workload that lists a policy should find it.
pub(crate) fn handlers(store: &Arc<MeshStore>) -> Vec<Box<dyn ResourceHandler>> {
    vec![
        Box::new(Policies { store: store.clone() }),
        Box::new(Addresses { store: store.clone() }),
    ]
}

struct Addresses {
    store: Arc<MeshStore>,
}

impl ResourceHandler for Addresses {
    fn type_url(&self) -> &'static str {
        type_url::ADDRESS
    }

    fn apply(&mut self, updates: Vec<Update>, removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        let removals = removals
            .into_iter()
            .map(|name| Change::RemoveAddress(name.into()));
        apply(&self.store, removals, &updates, |update| {
            Ok(match Address::decode(update)? {
                Address::Workload(workload) => Change::Workload(Arc::new(*workload)),
                Address::Service(service) => Change::Service(Arc::new(*service)),
            })
        })
    }
}

struct Policies {
    store: Arc<MeshStore>,
}

impl ResourceHandler for Policies {
    fn type_url(&self) -> &'static str {
        type_url::AUTHORIZATION
    }

    fn apply(&mut self, updates: Vec<Update>, removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        let removals = removals.into_iter().map(|name| Change::RemovePolicy(name.into()));
        apply(&self.store, removals, &updates, |update| {
            Ok(Change::Policy(Arc::new(convert::decode_authorization(update)?)))
        })
    }
}

/// Applies what can be read as one step, and names the rest.
fn apply(
    store: &MeshStore,
    removals: impl Iterator<Item = Change>,
    updates: &[Update],
    decode: impl Fn(&Update) -> Result<Change, Rejected>,
) -> Result<(), Vec<Rejected>> {
    let mut changes: Vec<Change> = removals.collect();
    let mut rejected = Vec::new();
    for update in updates {
        match decode(update) {
            Ok(change) => changes.push(change),
            Err(reason) => rejected.push(reason),
        }
    }
    store.apply(changes);
    if rejected.is_empty() {
        Ok(())
    } else {
        Err(rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_core::workload::{Workload, WorkloadUid};

    fn update(name: &str, resource: prost_types::Any) -> Update {
        Update {
            name: name.to_owned(),
            version: "1".to_owned(),
            resource,
        }
    }

    #[test]
    fn a_bad_resource_is_rejected_alone() {
        let store = MeshStore::new();
        let mut workload = Workload::empty(WorkloadUid::pod("Kubernetes", "ns", "a"));
        workload.name = "a".into();
        workload.namespace = "ns".into();
        workload.addresses = vec!["10.0.0.1".parse().unwrap()];
        let good = Address::Workload(Box::new(workload));
        let bad = prost_types::Any {
            type_url: type_url::ADDRESS.to_owned(),
            value: vec![0xff, 0xff],
        };
        let updates = vec![update("bad", bad), update(&good.resource_name(), good.to_any())];
        let mut handler = Addresses { store: store.clone() };
        let rejected = handler.apply(updates, vec![]).unwrap_err();
        assert_eq!(rejected.len(), 1);
        assert_eq!(store.load().workloads().count(), 1);
        handler.apply(vec![], vec![good.resource_name()]).unwrap();
        assert_eq!(store.load().workloads().count(), 0);
    }
}
