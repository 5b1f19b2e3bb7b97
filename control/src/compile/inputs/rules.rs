//! Rules of one kind, found by the hosts that they are for and by the hosts that they lead to.
//!
//! A mesh has many rules, and few of them concern one host: whoever asks about a host must not pay for the others, also
//! where these have thousands of wildcards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::inputs::table::{Entry, Iter, Rank, Table};
use crate::model::destination_rule::DestinationRule;
use crate::model::host::HostPattern;
use crate::model::service_entry::ServiceEntry;
use crate::model::virtual_service::{Action, Destination, VirtualService};
use crate::objects::Meta;

/// A rule, as an index sees it.
pub trait Ruling {
    /// Of the mesh's clients: what a rule is for at gateways is theirs to look up.
    fn hosts(&self) -> &[HostPattern];
    /// Where it sends what is for its hosts.
    fn destinations(&self) -> Vec<&Destination>;
    /// Addresses that it names.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        BTreeSet::new()
    }
}

impl Ruling for VirtualService {
    fn hosts(&self) -> &[HostPattern] {
        match self.is_mesh() {
            true => &self.hosts,
            false => &[],
        }
    }

    fn destinations(&self) -> Vec<&Destination> {
        let http = self.http.iter().filter_map(|rule| match &rule.action {
            Action::Forward(forward) => Some(&forward.destinations),
            _ => None,
        });
        let all = http
            .chain(self.tcp.iter().map(|rule| &rule.destinations))
            .chain(self.tls.iter().map(|rule| &rule.destinations));
        all.flatten().map(|d| &d.destination).collect()
    }
}

impl Ruling for DestinationRule {
    fn hosts(&self) -> &[HostPattern] {
        std::slice::from_ref(&self.host)
    }

    fn destinations(&self) -> Vec<&Destination> {
        Vec::new()
    }
}

/// What an entry is for are the hosts that it declares.
impl Ruling for ServiceEntry {
    fn hosts(&self) -> &[HostPattern] {
        &self.hosts
    }

    fn destinations(&self) -> Vec<&Destination> {
        Vec::new()
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .chain(self.endpoint_addresses().map(|(_, ip)| ip))
            .collect()
    }
}

/// Oldest first. Clones share everything.
#[derive(Debug)]
pub struct Rules<T> {
    all: Table<T>,
    /// By their hosts as these are written.
    by_host: imbl::OrdMap<HostPattern, Table<T>>,
    leading_to: imbl::OrdMap<Arc<str>, Table<T>>,
    by_address: imbl::OrdMap<IpAddr, Table<T>>,
}

impl<T> Default for Rules<T> {
    fn default() -> Self {
        Self {
            all: Table::by_age(),
            by_host: imbl::OrdMap::new(),
            leading_to: imbl::OrdMap::new(),
            by_address: imbl::OrdMap::new(),
        }
    }
}

impl<T> Clone for Rules<T> {
    fn clone(&self) -> Self {
        Self {
            all: self.all.clone(),
            by_host: self.by_host.clone(),
            leading_to: self.leading_to.clone(),
            by_address: self.by_address.clone(),
        }
    }
}

impl<T: Ruling> Rules<T> {
    pub(super) fn insert(&mut self, entry: Entry<T>) {
        for host in entry.spec.hosts() {
            enter(&mut self.by_host, host, &entry);
        }
        for destination in entry.spec.destinations() {
            enter(&mut self.leading_to, &destination.host, &entry);
        }
        for ip in entry.spec.addresses() {
            enter(&mut self.by_address, &ip, &entry);
        }
        self.all.insert(entry);
    }

    pub(super) fn remove(&mut self, meta: &Meta, spec: &T) {
        for host in spec.hosts() {
            leave(&mut self.by_host, host, meta);
        }
        for destination in spec.destinations() {
            leave(&mut self.leading_to, &destination.host, meta);
        }
        for ip in spec.addresses() {
            leave(&mut self.by_address, &ip, meta);
        }
        self.all.remove(meta);
    }

    /// Those that are for the host.
    pub fn for_host(&self, host: &str) -> Vec<&Entry<T>> {
        let covering = HostPattern::covering(host).filter_map(|pattern| self.by_host.get(&pattern));
        let found: BTreeMap<&Rank, &Entry<T>> = covering.flat_map(Table::ranked).collect();
        found.into_values().collect()
    }

    /// Those that have this very host, as it is written.
    pub fn naming<'t>(&'t self, host: &HostPattern) -> impl Iterator<Item = &'t Entry<T>> + use<'t, T> {
        self.by_host.get(host).into_iter().flat_map(Table::iter)
    }

    /// Those with a destination of this host.
    pub fn leading_to<'t>(&'t self, host: &str) -> impl Iterator<Item = &'t Entry<T>> + use<'t, T> {
        self.leading_to.get(host).into_iter().flat_map(Table::iter)
    }

    /// Those that name the address, oldest first.
    pub fn with_address(&self, ip: IpAddr) -> impl Iterator<Item = &Entry<T>> {
        self.by_address.get(&ip).into_iter().flat_map(Table::iter)
    }

    pub fn iter(&self) -> Iter<'_, T> {
        self.all.iter()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// See [`Table::changes`].
    pub fn changes<'t>(
        &'t self,
        newer: &'t Self,
    ) -> impl Iterator<Item = (Option<&'t Entry<T>>, Option<&'t Entry<T>>)> {
        self.all.changes(&newer.all)
    }
}

fn enter<K: Ord + Clone, T>(index: &mut imbl::OrdMap<K, Table<T>>, key: &K, entry: &Entry<T>) {
    let place = index.entry(key.clone()).or_insert_with(Table::by_age);
    place.insert(entry.clone());
}

fn leave<K: Ord + Clone, T>(index: &mut imbl::OrdMap<K, Table<T>>, key: &K, meta: &Meta) {
    let is_empty = index.get_mut(key).is_some_and(|place| {
        place.remove(meta);
        place.is_empty()
    });
    if is_empty {
        index.remove(key);
    }
}

impl<'t, T: Ruling> IntoIterator for &'t Rules<T> {
    type Item = &'t Entry<T>;
    type IntoIter = Iter<'t, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
