//! Endpoints that somebody wrote by hand: of Services without a selector.

use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::PortMapping;
use aquifer_core::workload::{Health, Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::discovery::Registered;
use crate::compile::inputs::Entry;
use crate::compile::report::PodName;
use crate::objects::kube;

/// Namespace and name of an EndpointSlice.
pub(super) type SliceName = (Arc<str>, Arc<str>);

/// What a slice says of one endpoint: that it serves the slice's Service.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) workload: WorkloadUid,
    pub(super) service: NamespacedHostname,
    pub(super) ports: Arc<[PortMapping]>,
    pub(super) endpoint: Endpoint,
}

#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    Pod(PodName),
    /// No pod: the slice itself says all that is known.
    Bare(Arc<Workload>),
}

/// The claims of all slices, by slice and by workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    by_slice: imbl::OrdMap<SliceName, Arc<[Claim]>>,
    by_workload: imbl::OrdMap<WorkloadUid, imbl::OrdMap<SliceName, Claim>>,
}

impl Claims {
    /// Of the workload, in the order of the slices' names: the last one wins for a Service.
    pub(super) fn of<'c>(&'c self, workload: &WorkloadUid) -> impl Iterator<Item = &'c Claim> {
        self.by_workload
            .get(workload)
            .into_iter()
            .flat_map(imbl::OrdMap::values)
    }

    /// Replaces what a slice claims; gives what it claimed before.
    pub(super) fn set(&mut self, slice: &SliceName, claims: &[Claim]) -> Vec<Claim> {
        let old = self.take(slice);
        for claim in claims {
            let of_workload = self.by_workload.entry(claim.workload.clone()).or_default();
            // Of two endpoints with one address in a slice the first is the workload.
            if !of_workload.contains_key(slice) {
                of_workload.insert(slice.clone(), claim.clone());
            }
        }
        if !claims.is_empty() {
            self.by_slice.insert(slice.clone(), claims.into());
        }
        old
    }

    fn take(&mut self, slice: &SliceName) -> Vec<Claim> {
        let Some(old) = self.by_slice.remove(slice) else {
            return Vec::new();
        };
        for claim in old.iter() {
            let left = self.by_workload.get_mut(&claim.workload);
            let is_empty = left.is_some_and(|left| {
                left.remove(slice);
                left.is_empty()
            });
            if is_empty {
                self.by_workload.remove(&claim.workload);
            }
        }
        old.to_vec()
    }
}

/// What the slice claims for its Service.
pub(super) fn of_slice(
    slice: &Entry<kube::EndpointSlice>,
    service: &Registered,
    settings: &Settings,
) -> Vec<Claim> {
    let ports: Arc<[PortMapping]> = ports(service, &slice.spec).into();
    let claim = |endpoint: &kube::Endpoint| {
        let pod = endpoint.target_ref.as_ref().filter(|t| &*t.kind == "Pod");
        let (workload, endpoint) = match pod {
            Some(pod) => {
                let name = (slice.meta.namespace.clone(), pod.name.clone());
                let uid = WorkloadUid::pod(&settings.cluster_id, &name.0, &name.1);
                (uid, Endpoint::Pod(name))
            }
            None => {
                let uid = bare_uid(slice, endpoint.addresses.first()?, settings);
                let bare = bare_endpoint(uid.clone(), slice, endpoint, settings);
                (uid, Endpoint::Bare(Arc::new(bare)))
            }
        };
        Some(Claim {
            workload,
            service: service.service.key(),
            ports: ports.clone(),
            endpoint,
        })
    };
    slice.spec.endpoints.iter().filter_map(claim).collect()
}

fn bare_uid(slice: &Entry<kube::EndpointSlice>, address: &str, settings: &Settings) -> WorkloadUid {
    let (namespace, name) = (&slice.meta.namespace, &slice.meta.name);
    let cluster = &settings.cluster_id;
    WorkloadUid::new(&format!(
        "{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{address}"
    ))
}

fn ports(service: &Registered, slice: &kube::EndpointSlice) -> Vec<PortMapping> {
    let ports = service.ports().filter_map(|(mapping, port)| {
        let target = slice.ports.iter().find(|p| p.name == port.name)?.port?;
        Some(PortMapping {
            target_port: target,
            ..*mapping
        })
    });
    ports.collect()
}

fn bare_endpoint(
    uid: WorkloadUid,
    slice: &Entry<kube::EndpointSlice>,
    endpoint: &kube::Endpoint,
    settings: &Settings,
) -> Workload {
    let mut w = Workload::empty(uid);
    w.name = slice.spec.service.clone();
    w.namespace = slice.meta.namespace.clone();
    w.network = settings.network.clone();
    // Whoever may write a slice must not take an address from the pod that has it.
    w.host_network = true;
    w.addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    w.trust_domain = settings.trust_domain.clone();
    w.canonical_name = slice.spec.service.clone();
    w.canonical_revision = "latest".into();
    w.workload_name = slice.spec.service.clone();
    w.cluster = settings.cluster_id.clone();
    let ready = endpoint.conditions.ready.unwrap_or(true);
    w.health = if ready { Health::Healthy } else { Health::Unhealthy };
    w
}
