//! Which VirtualService and which DestinationRule apply to a host, for whom.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::inputs::{Entry, Inputs};
use crate::model::destination_rule::{Balance, DestinationRule, Subset};
use crate::model::virtual_service::VirtualService;
use crate::model::visibility::Visibility;

/// The clients of one host that see the same VirtualService.
#[derive(Debug)]
pub struct ClientClass<'a> {
    /// Clients of this namespace; `None` for all others.
    pub namespace: Option<Arc<str>>,
    pub rules: Option<&'a Entry<VirtualService>>,
}

/// Partitions the clients of `host` by the VirtualService that wins for them.
///
/// Within the mesh rules are not merged: the most specific host wins, then a rule exported to the client's namespace
/// alone, then the oldest. Namespaces named in an `exportTo` come first; the class of all others is always last.
pub fn mesh_classes<'a>(inputs: &'a Inputs, host: &str) -> Vec<ClientClass<'a>> {
    let candidates: Vec<_> = inputs
        .virtual_services
        .iter()
        .filter(|v| v.spec.is_mesh() && v.spec.best_host(host).is_some())
        .collect();
    let public = winner(&candidates, host, None);
    let mut classes = Vec::new();
    for namespace in named_namespaces(&candidates) {
        let rules = winner(&candidates, host, Some(&namespace));
        if rules.map(|r| &r.meta) != public.map(|p| &p.meta) {
            classes.push(ClientClass {
                namespace: Some(namespace),
                rules,
            });
        }
    }
    classes.push(ClientClass {
        namespace: None,
        rules: public,
    });
    classes
}

fn named_namespaces(candidates: &[&Entry<VirtualService>]) -> BTreeSet<Arc<str>> {
    let named = candidates.iter().filter_map(|v| match &v.spec.visibility {
        Visibility::All => None,
        Visibility::Namespaces(names) => Some(names),
    });
    named.flatten().cloned().collect()
}

/// The VirtualService that a client of `namespace` follows; the list is sorted oldest first.
fn winner<'a>(
    candidates: &[&'a Entry<VirtualService>],
    host: &str,
    namespace: Option<&str>,
) -> Option<&'a Entry<VirtualService>> {
    let visible = candidates
        .iter()
        .filter(|v| match (&v.spec.visibility, namespace) {
            (Visibility::All, _) => true,
            (limited, Some(namespace)) => limited.includes(namespace),
            (Visibility::Namespaces(_), None) => false,
        });
    let rank = |v: &Entry<VirtualService>| {
        let specificity = v.spec.best_host(host).map_or(0, |h| h.specificity());
        (Reverse(specificity), v.spec.visibility == Visibility::All)
    };
    // `min_by_key` keeps the first of equals, which is the oldest.
    visible.min_by_key(|v| rank(v)).copied()
}

/// Mesh VirtualServices whose host another one has taken for every client.
pub fn shadowed_by<'a>(
    inputs: &'a Inputs,
    rules: &Entry<VirtualService>,
) -> Vec<(String, &'a Entry<VirtualService>)> {
    let mut shadows = Vec::new();
    for host in rules.spec.hosts.iter().filter(|_| rules.spec.is_mesh()) {
        let older = inputs.virtual_services.iter().find(|other| {
            other.spec.is_mesh()
                && other.spec.hosts.contains(host)
                && other.spec.visibility == Visibility::All
        });
        let is_another = |o: &&Entry<VirtualService>| {
            (&o.meta.namespace, &o.meta.name) != (&rules.meta.namespace, &rules.meta.name)
        };
        if let Some(older) = older
            .filter(is_another)
            .filter(|_| rules.spec.visibility == Visibility::All)
        {
            shadows.push((host.to_string(), older));
        }
    }
    shadows
}

/// The DestinationRules that apply to a host, merged: of the first scope that has any.
#[derive(Debug, Default)]
pub struct MergedRules<'a> {
    pub rules: Vec<&'a Entry<DestinationRule>>,
}

/// Looks in the client's namespace, then the service's, then the root namespace; within one, the most specific host.
pub fn destination_rules<'a>(
    inputs: &'a Inputs,
    host: &str,
    client_namespace: &str,
    service_namespace: &str,
    root_namespace: &str,
) -> MergedRules<'a> {
    let scopes = [client_namespace, service_namespace, root_namespace];
    let found = scopes
        .iter()
        .map(|scope| in_scope(inputs, host, scope, client_namespace))
        .find(|r| !r.is_empty());
    MergedRules {
        rules: found.unwrap_or_default(),
    }
}

fn in_scope<'a>(
    inputs: &'a Inputs,
    host: &str,
    scope: &str,
    client_namespace: &str,
) -> Vec<&'a Entry<DestinationRule>> {
    let visible = |r: &&Entry<DestinationRule>| {
        &*r.meta.namespace == scope
            && r.spec.host.matches(host)
            && r.spec.visibility.includes(client_namespace)
    };
    let all: Vec<_> = inputs.destination_rules.iter().filter(visible).collect();
    let best = all.iter().map(|r| r.spec.host.specificity()).max();
    all.into_iter()
        .filter(|r| Some(r.spec.host.specificity()) == best)
        .collect()
}

impl<'a> MergedRules<'a> {
    /// Subsets of all rules; of two with one name the older rule's.
    pub fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.rules.iter().find_map(|r| r.spec.subset(name))
    }

    pub fn subsets(&self) -> Vec<&'a Subset> {
        let mut subsets: Vec<&Subset> = Vec::new();
        for subset in self.rules.iter().flat_map(|r| &r.spec.subsets) {
            if !subsets.iter().any(|s| s.name == subset.name) {
                subsets.push(subset);
            }
        }
        subsets
    }

    /// The subset's word on the port, else the first rule's that has one.
    pub fn balance(&self, subset: Option<&Subset>, port: u16) -> Balance {
        let of_subset = subset.and_then(|s| s.policy.balance_for(port));
        let of_rule = || self.rules.iter().find_map(|r| r.spec.policy.balance_for(port));
        of_subset.or_else(of_rule).unwrap_or_default()
    }
}
