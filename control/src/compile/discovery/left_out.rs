//! Addresses of pods and Services in namespaces that `discoverySelectors` leave out.
//!
//! Proxies are not told of them, and so cannot put them before a ServiceEntry that names such an address: the entry is
//! told for its own namespace alone instead.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::inputs::{Entry, Inputs};
use crate::objects::kube::{Pod, Service};

/// By address; of several that have it the first.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftOut(imbl::OrdSet<(IpAddr, Owner)>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    kind: OwnerKind,
    namespace: Arc<str>,
    name: Arc<str>,
}

/// Services come first: what is led to their addresses is refused as an endpoint, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OwnerKind {
    Service,
    Pod,
}

impl Owner {
    pub fn is_service(&self) -> bool {
        self.kind == OwnerKind::Service
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OwnerKind::Service => "Service",
            OwnerKind::Pod => "pod",
        };
        write!(f, "{kind} {}/{}", self.namespace, self.name)
    }
}

impl LeftOut {
    pub(super) fn owner(&self, ip: IpAddr) -> Option<&Owner> {
        let ip = ip.to_canonical();
        let first = Owner {
            kind: OwnerKind::Service,
            namespace: Arc::default(),
            name: Arc::default(),
        };
        let (of, owner) = self.0.range((ip, first)..).next()?;
        (*of == ip).then_some(owner)
    }

    /// Takes over what changed; gives the addresses that it concerns.
    pub(super) fn update(&mut self, before: &Inputs, inputs: &Inputs) -> BTreeSet<IpAddr> {
        let (before, inputs) = (&before.left_out, &inputs.left_out);
        let mut touched = BTreeSet::new();
        for (old, new) in before.services.changes(&inputs.services) {
            self.exchange(&of_service(old), &of_service(new), &mut touched);
        }
        for (old, new) in before.pods.changes(&inputs.pods) {
            self.exchange(&of_pod(old), &of_pod(new), &mut touched);
        }
        touched
    }

    fn exchange(&mut self, old: &[(IpAddr, Owner)], new: &[(IpAddr, Owner)], touched: &mut BTreeSet<IpAddr>) {
        if old == new {
            return;
        }
        touched.extend(old.iter().chain(new).map(|(ip, _)| *ip));
        for gone in old {
            self.0.remove(gone);
        }
        self.0.extend(new.iter().cloned());
    }
}

fn of_service(service: Option<&Entry<Service>>) -> Vec<(IpAddr, Owner)> {
    let owned = service.into_iter().flat_map(|service| {
        let owner = owner(OwnerKind::Service, service);
        let vips = service.spec.vips().into_iter();
        vips.map(move |ip| (ip.to_canonical(), owner.clone()))
    });
    owned.collect()
}

/// One that runs on its node's network has no address of its own, and one that has ended has none any more.
fn of_pod(pod: Option<&Entry<Pod>>) -> Vec<(IpAddr, Owner)> {
    let has_own = |pod: &&Entry<Pod>| !pod.spec.spec.host_network && !pod.spec.is_finished();
    let owned = pod.into_iter().filter(has_own).flat_map(|pod| {
        let owner = owner(OwnerKind::Pod, pod);
        let ips = pod.spec.ips().iter();
        ips.map(move |ip| (ip.to_canonical(), owner.clone()))
    });
    owned.collect()
}

fn owner<T>(kind: OwnerKind, entry: &Entry<T>) -> Owner {
    Owner {
        kind,
        namespace: entry.meta.namespace.clone(),
        name: entry.meta.name.clone(),
    }
}
