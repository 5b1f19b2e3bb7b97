//! Which ServiceEntries come before others at an address.
//!
//! Found once for all entries: somebody may write thousands with the same addresses, and each has to ask for each of its
//! addresses without looking at all the others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::compile::discovery::entries::{Reach, reach};
use crate::compile::inputs::{Entry, age};
use crate::model::service_entry::ServiceEntry;
use crate::objects::Meta;

/// Entries that have their first host, and with it their addresses: of each address and namespace the oldest. Clones
/// share everything.
#[derive(Clone, Debug, Default)]
pub struct Addressed {
    /// Those that are for clients of their own namespace; by address, then by namespace.
    own: Arc<[Claim]>,
    /// Those that are for all clients; by address, oldest first.
    everywhere: Arc<[Claim]>,
}

type Claim = (IpAddr, Arc<Meta>);

impl Addressed {
    /// The entries have to come oldest first.
    pub(super) fn of<'e>(entries: impl Iterator<Item = &'e Entry<ServiceEntry>>) -> Self {
        let (mut own, mut everywhere) = (Vec::new(), Vec::new());
        let mut taken = BTreeSet::new();
        for Entry { meta, spec } in entries {
            let mut has_first = None;
            for host in &spec.hosts {
                let is_free = taken.insert((&meta.namespace, host));
                has_first.get_or_insert(is_free);
            }
            let reach = reach(spec, &meta.namespace);
            if has_first != Some(true) || reach == Reach::Nobody {
                continue;
            }
            let claims = spec.addresses.iter().map(|ip| (*ip, meta.clone()));
            if reach == Reach::All {
                everywhere.extend(claims.clone());
            }
            own.extend(claims);
        }
        let own = oldest_of_namespaces(own);
        let mut everywhere = oldest_of_namespaces(everywhere);
        everywhere.sort_by(|(a, x), (b, y)| (a, age(x)).cmp(&(b, age(y))));
        Self {
            own: own.into(),
            everywhere: everywhere.into(),
        }
    }

    /// The older entry that has an address before this one, for clients that both are for.
    pub fn before(&self, meta: &Meta, spec: &ServiceEntry, ip: IpAddr) -> Option<&Arc<Meta>> {
        let is_older = |other: &&Arc<Meta>| age(other) < age(meta);
        // One of its own namespace takes the address from all of its clients.
        let own = self.of_namespace(ip, &meta.namespace).filter(is_older);
        let for_all = reach(spec, &meta.namespace) == Reach::All;
        let elsewhere = || {
            let mut others = self.for_all(ip);
            others.find(|other| other.namespace != meta.namespace)
        };
        own.or_else(|| elsewhere().filter(|_| for_all).filter(is_older))
    }

    fn of_namespace(&self, ip: IpAddr, namespace: &str) -> Option<&Arc<Meta>> {
        let place = |(at, meta): &Claim| (at, &*meta.namespace).cmp(&(&ip, namespace));
        let found = self.own.binary_search_by(place);
        found.ok().map(|i| &self.own[i].1)
    }

    fn for_all(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Meta>> {
        let first = self.everywhere.partition_point(|(at, _)| *at < ip);
        let from = self.everywhere[first..].iter();
        from.take_while(move |(at, _)| *at == ip).map(|(_, meta)| meta)
    }
}

/// Of claims of which the oldest come first.
fn oldest_of_namespaces(mut claims: Vec<Claim>) -> Vec<Claim> {
    // The sort is stable, and of equals the first stays.
    claims.sort_by(|(a, x), (b, y)| (a, &x.namespace).cmp(&(b, &y.namespace)));
    claims.dedup_by(|(a, x), (b, y)| a == b && x.namespace == y.namespace);
    claims
}

#[cfg(test)]
mod tests;
