//! Which controller a pod belongs to, by its owner references and the names that controllers give.

use std::sync::Arc;

use aquifer_core::workload::WorkloadType;

use crate::objects::Meta;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) kind: WorkloadType,
    pub(super) name: Arc<str>,
}

pub(super) fn of(meta: &Meta) -> Owner {
    let refs = &meta.owner_references;
    let controller = refs
        .iter()
        .find(|r| r.controller == Some(true))
        .or_else(|| refs.first());
    let Some(owner) = controller else {
        return Owner {
            kind: WorkloadType::Pod,
            name: meta.name.clone(),
        };
    };
    let (kind, name) = match &*owner.kind {
        "ReplicaSet" => (WorkloadType::Deployment, deployment_of(&owner.name, meta)),
        "Deployment" => (WorkloadType::Deployment, owner.name.clone()),
        "CronJob" => (WorkloadType::CronJob, owner.name.clone()),
        "Job" => match cron_job_of(&owner.name) {
            Some(name) => (WorkloadType::CronJob, name),
            None => (WorkloadType::Job, owner.name.clone()),
        },
        // The workload API has no name for the others; their own name is what dashboards should show.
        _ => (WorkloadType::Pod, owner.name.clone()),
    };
    Owner { kind, name }
}

/// A Deployment's ReplicaSet is called `DEPLOYMENT-HASH`.
fn deployment_of(replica_set: &Arc<str>, meta: &Meta) -> Arc<str> {
    let hash = meta.labels.get("pod-template-hash");
    let by_hash = hash.and_then(|h| replica_set.strip_suffix(&**h)?.strip_suffix('-'));
    let by_dash = || replica_set.rsplit_once('-').map(|(name, _)| name);
    by_hash
        .or_else(by_dash)
        .filter(|n| !n.is_empty())
        .map_or_else(|| replica_set.clone(), Arc::from)
}

/// A CronJob's Job is called `CRONJOB-MINUTES`, minutes since 1970.
fn cron_job_of(job: &str) -> Option<Arc<str>> {
    let (name, minutes) = job.rsplit_once('-')?;
    let scheduled = minutes.len() >= 8 && minutes.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty();
    scheduled.then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Meta;

    #[track_caller]
    fn check(kind: &str, owner: &str, want: WorkloadType, name: &str) {
        let json = serde_json::json!({
            "name": "pod-1", "labels": {"pod-template-hash": "7d9"},
            "ownerReferences": [{"kind": kind, "name": owner, "controller": true}],
        });
        let meta: Meta = serde_json::from_value(json).unwrap();
        assert_eq!(
            of(&meta),
            Owner {
                kind: want,
                name: name.into()
            }
        );
    }

    #[test]
    fn names_the_controller() {
        check(
            "ReplicaSet",
            "reviews-v1-7d9",
            WorkloadType::Deployment,
            "reviews-v1",
        );
        check(
            "ReplicaSet",
            "reviews-v1-abc",
            WorkloadType::Deployment,
            "reviews-v1",
        );
        check("Deployment", "reviews-v1", WorkloadType::Deployment, "reviews-v1");
        check("Job", "backup-29012345", WorkloadType::CronJob, "backup");
        check("Job", "migrate", WorkloadType::Job, "migrate");
        check("DaemonSet", "ztunnel", WorkloadType::Pod, "ztunnel");
    }
}
