//! Which VirtualService or HTTPRoutes and which DestinationRule apply to a host, for whom.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;

use crate::compile::inputs::{Entry, Inputs, Ruling as _};
use crate::compile::references::Resolver;
use crate::model::destination_rule::{Balance, DestinationRule, Subset};
use crate::model::http_route::HttpRoute;
use crate::model::virtual_service::VirtualService;
use crate::model::visibility::Visibility;
use crate::objects::Meta;

/// What the clients of a service follow.
#[derive(Debug)]
pub enum Rules<'a> {
    VirtualService(&'a Entry<VirtualService>),
    /// Merged; never empty.
    HttpRoutes(Vec<&'a Entry<HttpRoute>>),
}

impl Rules<'_> {
    fn objects(&self) -> Vec<*const Meta> {
        match self {
            Self::VirtualService(rules) => vec![Arc::as_ptr(&rules.meta)],
            Self::HttpRoutes(routes) => routes.iter().map(|r| Arc::as_ptr(&r.meta)).collect(),
        }
    }
}

/// The clients of one host that follow the same rules.
#[derive(Debug)]
pub struct ClientClass<'a> {
    /// Clients of this namespace; `None` for all others.
    pub namespace: Option<Arc<str>>,
    pub rules: Option<Rules<'a>>,
}

/// Partitions the clients of a port of a service by the rules that win for them.
///
/// Within the mesh VirtualServices are not merged: the most specific host wins, then a rule exported to the client's
/// namespace alone, then the oldest. Clients that no VirtualService is for follow the HTTPRoutes of their namespace, or
/// else those of the service's. Namespaces that differ come first; the class of all others is always last.
pub fn mesh_classes<'a>(
    resolver: &Resolver<'a>,
    service: &NamespacedHostname,
    port: u16,
) -> Vec<ClientClass<'a>> {
    let candidates = mesh_rules(resolver.inputs, &service.hostname);
    let routes = resolver.gateway_api;
    let rules_of = |namespace: Option<&str>| match winner(&candidates, &service.hostname, namespace) {
        Some(rules) => Some(Rules::VirtualService(rules)),
        None => {
            let routes = routes.for_clients(service, port, namespace);
            (!routes.is_empty()).then_some(Rules::HttpRoutes(routes))
        }
    };
    let public = rules_of(None);
    let mut namespaces = named_namespaces(&candidates);
    namespaces.extend(routes.consumer_namespaces(service).cloned());
    let mut classes = Vec::new();
    for namespace in namespaces {
        let rules = rules_of(Some(&namespace));
        if rules.as_ref().map(Rules::objects) != public.as_ref().map(Rules::objects) {
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

fn mesh_rules<'a>(inputs: &'a Inputs, host: &str) -> Vec<&'a Entry<VirtualService>> {
    inputs.virtual_services.for_host(host)
}

/// The VirtualService that every client follows which no other one is for.
pub fn mesh_owner<'a>(inputs: &'a Inputs, host: &str) -> Option<&'a Entry<VirtualService>> {
    winner(&mesh_rules(inputs, host), host, None)
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
    for host in rules.spec.hosts() {
        let mut sharing = inputs.virtual_services.naming(host);
        let older = sharing.find(|v| v.spec.visibility == Visibility::All);
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
    let mut all = inputs.destination_rules.for_host(host);
    all.retain(|r| r.spec.visibility.includes(client_namespace));
    let scopes = [client_namespace, service_namespace, root_namespace];
    let found = scopes
        .iter()
        .map(|scope| in_scope(&all, scope))
        .find(|r| !r.is_empty());
    MergedRules {
        rules: found.unwrap_or_default(),
    }
}

fn in_scope<'a>(all: &[&'a Entry<DestinationRule>], scope: &str) -> Vec<&'a Entry<DestinationRule>> {
    let of_scope = || all.iter().filter(|r| *r.meta.namespace == *scope);
    let best = of_scope().map(|r| r.spec.host.specificity()).max();
    of_scope()
        .filter(|r| Some(r.spec.host.specificity()) == best)
        .copied()
        .collect()
}

impl<'a> MergedRules<'a> {
    /// Subsets of all rules; of two with one name the older rule's.
    pub fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.rules.iter().find_map(|r| r.spec.subset(name))
    }

    pub fn subsets(&self) -> Vec<&'a Subset> {
        let mut names = BTreeSet::new();
        let all = self.rules.iter().flat_map(|r| &r.spec.subsets);
        all.filter(|subset| names.insert(&subset.name)).collect()
    }

    /// The subset's word on the port, else the first rule's that has one.
    pub fn balance(&self, subset: Option<&Subset>, port: u16) -> Balance {
        let of_subset = subset.and_then(|s| s.policy.balance_for(port));
        let of_rule = || self.rules.iter().find_map(|r| r.spec.policy.balance_for(port));
        of_subset.or_else(of_rule).unwrap_or_default()
    }
}
