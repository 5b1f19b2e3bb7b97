//! A waypoint's picture in parts, one for each service that it serves: a change of rules makes those anew that it
//! concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::reach::Concerned;
use crate::compile::waypoints::WaypointKey;
use crate::proxies::{Collected, Picture, insert, waypoint};

/// Which resources of a waypoint are there for which of its services.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// What the waypoint serves.
    services: BTreeSet<NamespacedHostname>,
    of: BTreeMap<NamespacedHostname, Vec<Place>>,
    /// How many services need a resource: routes of several may lead to one cluster.
    uses: BTreeMap<Place, usize>,
    /// The service that a cluster leads to.
    leads_to: BTreeMap<String, NamespacedHostname>,
}

/// A type and a name.
type Place = (&'static str, Arc<str>);

impl Picture {
    pub(super) fn of_waypoint(compiled: &Compiled, key: &WaypointKey) -> Self {
        let mut picture = Self {
            types: Collected::default().into_types(),
            ..Self::default()
        };
        picture.parts.services = compiled.waypoints.services_of(key);
        for service in picture.parts.services.clone() {
            picture.put_part(compiled, key, &service);
        }
        picture
    }

    /// Makes those parts anew whose routes may be different.
    pub(super) fn with_parts(
        mut self,
        compiled: &Compiled,
        key: &WaypointKey,
        concerned: &Concerned,
    ) -> Self {
        for service in &concerned.moved {
            match compiled.waypoints.serves(key, service) {
                true => self.parts.services.insert(service.clone()),
                false => self.parts.services.remove(service),
            };
        }
        let entries = match concerned.moved.is_empty() && concerned.namespaces.is_empty() {
            true => BTreeSet::new(),
            false => self.entries(compiled),
        };
        for service in concerned.routed.iter().chain(&concerned.moved).chain(&entries) {
            if self.parts.services.contains(service) || self.parts.of.contains_key(service) {
                self.put_part(compiled, key, service);
            }
        }
        self
    }

    /// Hosts of ServiceEntries: what came to the waypoint or went may have come before them, with one host or address.
    fn entries(&self, compiled: &Compiled) -> BTreeSet<NamespacedHostname> {
        let entry = |key: &&NamespacedHostname| {
            let found = compiled.discovery.services.get(*key);
            found.is_some_and(|found| found.entry.is_some())
        };
        self.parts.services.iter().filter(entry).cloned().collect()
    }

    /// Puts what there is for a service now in the place of what there was.
    fn put_part(&mut self, compiled: &Compiled, key: &WaypointKey, service: &NamespacedHostname) {
        let services = &self.parts.services;
        let new = match services.contains(service) {
            true => waypoint::part(compiled, key, services, service),
            false => Collected::default(),
        };
        let old = self.parts.of.remove(service).unwrap_or_default();
        for (name, target) in &new.targets {
            let of_target = self.clusters.entry(target.service.clone()).or_default();
            of_target.insert(name.clone(), target.clone());
            self.parts.leads_to.insert(name.clone(), target.service.clone());
        }
        let mut places = Vec::new();
        for (url, resources) in new.into_types() {
            let held = self.types.entry(url).or_default();
            for (name, resource) in resources {
                places.push((url, name.clone()));
                insert(held, name, resource);
            }
        }
        for place in &places {
            *self.parts.uses.entry(place.clone()).or_default() += 1;
        }
        for place in old {
            self.give_up(place);
        }
        if !places.is_empty() {
            self.parts.of.insert(service.clone(), places);
        }
    }

    fn give_up(&mut self, place: Place) {
        let Some(uses) = self.parts.uses.get_mut(&place) else {
            return;
        };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.parts.uses.remove(&place);
        let (url, name) = place;
        if let Some(held) = self.types.get_mut(url) {
            held.remove(&name);
        }
        if url == type_url::CLUSTER
            && let Some(service) = self.parts.leads_to.remove(&*name)
            && let Some(clusters) = self.clusters.get_mut(&service)
        {
            clusters.remove(&*name);
            if clusters.is_empty() {
                self.clusters.remove(&service);
            }
        }
    }
}
