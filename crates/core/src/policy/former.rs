//! Waypoints that workloads and services were behind until a moment ago.
//!
//! A client, the former waypoint and the node of the destination hear of a change one after the other. What is under way
//! through the former waypoint was decided there, and is not to be judged for the waypoint in the client's place.

use std::time::{Duration, Instant};

use imbl::{HashMap, HashSet};

use crate::names::NamespacedHostname;
use crate::snapshot::{Change, MeshSnapshot};
use crate::workload::{GatewayAddress, GatewayDestination, Workload, WorkloadUid};

/// As long as a waypoint goes on serving what left it.
pub const LEAVING: Duration = Duration::from_secs(30);

/// Of each workload and service the one before its present waypoint. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct FormerWaypoints {
    of_workloads: HashMap<WorkloadUid, Left>,
    of_services: HashMap<NamespacedHostname, Left>,
}

#[derive(Clone, Debug)]
struct Left {
    waypoint: GatewayDestination,
    until: Instant,
}

impl FormerWaypoints {
    /// With what the changes take from waypoints, and without what is over. What goes itself is forgotten.
    #[must_use]
    pub fn after(&self, mesh: &MeshSnapshot, changes: &[Change], now: Instant) -> Self {
        let mut next = self.clone();
        let removed = changes.iter().filter_map(|change| match change {
            Change::RemoveAddress(name) => Some(&**name),
            _ => None,
        });
        let removed: HashSet<&str> = removed.collect();
        for change in changes {
            match change {
                // Another one of that name.
                Change::Workload(new) if removed.contains(new.uid.as_str()) => {}
                Change::Workload(new) => {
                    let old = mesh.workload(&new.uid).and_then(|old| old.waypoint.as_ref());
                    if let Some(left) = left(old, new.waypoint.as_ref(), now) {
                        next.of_workloads.insert(new.uid.clone(), left);
                    }
                }
                Change::Service(new) => {
                    let old = mesh.service(&new.key()).and_then(|old| old.waypoint.as_ref());
                    if let Some(left) = left(old, new.waypoint.as_ref(), now) {
                        next.of_services.insert(new.key(), left);
                    }
                }
                Change::RemoveAddress(name) => next.forget(name),
                Change::Policy(_) | Change::RemovePolicy(_) => {}
            }
        }
        next.of_workloads.retain(|_, left| now < left.until);
        next.of_services.retain(|_, left| now < left.until);
        next
    }

    fn forget(&mut self, name: &str) {
        self.of_workloads.remove(&WorkloadUid::new(name));
        if let Some(service) = NamespacedHostname::parse(name) {
            self.of_services.remove(&service);
        }
    }

    /// The former waypoints of a workload and of its services.
    pub fn of<'f>(
        &'f self,
        workload: &'f Workload,
        now: Instant,
    ) -> impl Iterator<Item = &'f GatewayDestination> {
        self.leaving(workload, now).map(|left| &left.waypoint)
    }

    /// When the first of them is that no more.
    pub fn until(&self, workload: &Workload, now: Instant) -> Option<Instant> {
        self.leaving(workload, now).map(|left| left.until).min()
    }

    fn leaving<'f>(&'f self, workload: &'f Workload, now: Instant) -> impl Iterator<Item = &'f Left> {
        let services = workload.services.keys();
        let of_services = services.filter_map(|service| self.of_services.get(service));
        let own = self.of_workloads.get(&workload.uid);
        own.into_iter()
            .chain(of_services)
            .filter(move |left| now < left.until)
    }
}

fn left(old: Option<&GatewayAddress>, new: Option<&GatewayAddress>, now: Instant) -> Option<Left> {
    let (old, new) = (old.map(|w| &w.destination), new.map(|w| &w.destination));
    let waypoint = old.filter(|old| Some(*old) != new)?.clone();
    Some(Left {
        waypoint,
        until: now + LEAVING,
    })
}

#[cfg(test)]
mod tests;
