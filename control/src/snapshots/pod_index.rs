//! Pods by name, and which service accounts run on which node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::auth::pods::{PodFacts, PodPhase};
use crate::compile::inputs::{Entry, Inputs};
use crate::objects::kube::Pod;

#[derive(Debug, Default)]
pub(super) struct PodIndex {
    pods: HashMap<(Arc<str>, Arc<str>), Entry<Pod>>,
    /// Node, namespace, service account of pods that have not ended.
    accounts: BTreeSet<(Arc<str>, Arc<str>, Arc<str>)>,
}

impl PodIndex {
    pub(super) fn of(inputs: &Inputs) -> Self {
        let mut index = Self::default();
        for entry in &inputs.pods {
            let (meta, pod) = (&entry.meta, &entry.spec);
            if !pod.is_finished() && !pod.spec.node_name.is_empty() {
                let account = (
                    pod.spec.node_name.clone(),
                    meta.namespace.clone(),
                    pod.service_account(),
                );
                index.accounts.insert(account);
            }
            index
                .pods
                .insert((meta.namespace.clone(), meta.name.clone()), entry.clone());
        }
        index
    }

    pub(super) fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<PodFacts> {
        let entry = self.pods.get(&(namespace.into(), name.into()))?;
        (*entry.meta.uid == *uid && !uid.is_empty()).then(|| PodFacts {
            service_account: entry.spec.service_account(),
            node: entry.spec.spec.node_name.clone(),
            labels: entry.meta.labels.clone(),
            phase: phase(&entry.spec.status.phase),
        })
    }

    pub(super) fn runs_on(&self, node: &str, namespace: &str, account: &str) -> bool {
        self.accounts
            .contains(&(node.into(), namespace.into(), account.into()))
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
