//! Which service accounts run on which node, and what else is told of a pod.

use std::sync::Arc;

use crate::auth::pods::{PodFacts, PodPhase};
use crate::compile::inputs::{Entry, Table};
use crate::objects::kube::Pod;

/// Node, namespace, service account.
type Account = (Arc<str>, Arc<str>, Arc<str>);

/// The accounts of pods that have not ended, with how many pods they have. Clones share everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts(imbl::OrdMap<Account, usize>);

impl Accounts {
    pub(super) fn update(&mut self, before: Option<&Table<Pod>>, pods: &Table<Pod>) {
        let Some(before) = before else {
            pods.iter()
                .filter_map(account)
                .for_each(|account| self.enter(account));
            return;
        };
        for (old, new) in before.changes(pods) {
            if let Some(account) = new.and_then(account) {
                self.enter(account);
            }
            if let Some(account) = old.and_then(account) {
                self.leave(&account);
            }
        }
    }

    fn enter(&mut self, account: Account) {
        *self.0.entry(account).or_insert(0) += 1;
    }

    fn leave(&mut self, account: &Account) {
        let last = self.0.get_mut(account).is_some_and(|count| {
            *count -= 1;
            *count == 0
        });
        if last {
            self.0.remove(account);
        }
    }

    pub(super) fn run_on(&self, node: &str, namespace: &str, account: &str) -> bool {
        self.0
            .contains_key(&(node.into(), namespace.into(), account.into()))
    }
}

fn account(entry: &Entry<Pod>) -> Option<Account> {
    let (meta, pod) = (&entry.meta, &entry.spec);
    let lives = !pod.is_finished() && !pod.spec.node_name.is_empty();
    lives.then(|| {
        (
            pod.spec.node_name.clone(),
            meta.namespace.clone(),
            pod.service_account(),
        )
    })
}

pub(super) fn facts(entry: &Entry<Pod>) -> PodFacts {
    PodFacts {
        service_account: entry.spec.service_account(),
        node: entry.spec.spec.node_name.clone(),
        labels: entry.meta.labels.clone(),
        phase: phase(&entry.spec.status.phase),
    }
}

fn phase(text: &str) -> PodPhase {
    match text {
        "Pending" => PodPhase::Pending,
        "Running" => PodPhase::Running,
        "Succeeded" => PodPhase::Succeeded,
        "Failed" => PodPhase::Failed,
        _ => PodPhase::Unknown,
    }
}
