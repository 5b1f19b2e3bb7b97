//! How far a change of rules or Services reaches: which services are routed otherwise, which gateways, which reports.
//!
//! Everything here is by hosts: rules are for hosts and lead to hosts, and so does the Gateway API where Services are
//! named. Rather one too many than one too few: what is made anew and comes out the same concerns nobody.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;

use crate::compile::Compiled;
use crate::compile::discovery::hostname;
use crate::compile::gateway_api::{self, Name};
use crate::compile::inputs::{Entry, Inputs, Ruling};
use crate::model::destination_rule::DestinationRule;
use crate::model::host::{HostPattern, covered};
use crate::model::service_entry::ServiceEntry;
use crate::model::virtual_service::{GatewayRef, VirtualService};
use crate::objects::{GATEWAY_API, Meta, NETWORKING, ObjectKey};

/// What of routing may be different from the model before.
#[derive(Clone, Debug, Default)]
pub enum Reach {
    #[default]
    Nothing,
    Some(Concerned),
    Everything,
}

#[derive(Clone, Debug, Default)]
pub struct Concerned {
    /// Whose rules, ports or waypoint are different.
    pub hosts: BTreeSet<Arc<str>>,
    /// Services whose waypoints are others.
    pub moved: BTreeSet<NamespacedHostname>,
    /// Services whose routes may be different: those of the hosts, and those that are sent on to the hosts.
    pub routed: BTreeSet<NamespacedHostname>,
    /// Gateways that rules in question name.
    pub gateways: BTreeSet<Name>,
    /// Where Services changed: a gateway's ports depend on those in front of it.
    pub namespaces: BTreeSet<Arc<str>>,
    /// A route of the Gateway API names one of the hosts.
    pub gateway_api: bool,
}

impl Reach {
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Everything)
    }

    pub fn concerned(&self) -> Option<&Concerned> {
        match self {
            Self::Some(concerned) => Some(concerned),
            Self::Nothing | Self::Everything => None,
        }
    }
}

impl Concerned {
    /// What the changes of rules and Services say by themselves.
    pub fn by(before: &Inputs, next: &Compiled) -> Self {
        let mut concerned = Self::default();
        for (old, new) in before.virtual_services.changes(&next.inputs.virtual_services) {
            for rules in [old, new].into_iter().flatten() {
                concerned.named_by(&rules.spec);
                concerned.ruled(next, rules.spec.hosts());
            }
        }
        for (old, new) in before.destination_rules.changes(&next.inputs.destination_rules) {
            for rule in [old, new].into_iter().flatten() {
                concerned.ruled(next, rule.spec.hosts());
            }
        }
        for (old, new) in before.services.changes(&next.inputs.services) {
            if let Some(either) = new.or(old) {
                concerned.service(&either.meta);
            }
        }
        concerned.gateway_api = next.gateway_api.names_any(&concerned.hosts);
        concerned
    }

    fn service(&mut self, meta: &Meta) {
        self.hosts.insert(hostname(&meta.name, &meta.namespace).into());
        self.namespaces.insert(meta.namespace.clone());
    }

    fn ruled(&mut self, compiled: &Compiled, hosts: &[HostPattern]) {
        self.hosts
            .extend(hosts.iter().filter_map(HostPattern::exact).cloned());
        let all = compiled.discovery.by_host.keys();
        self.hosts.extend(covered(hosts, all, |host| host).cloned());
    }

    fn named_by(&mut self, rules: &VirtualService) {
        let gateways = rules.gateways.iter().filter_map(|reference| match reference {
            GatewayRef::Mesh => None,
            GatewayRef::Gateway { namespace, name } => Some((namespace.clone(), name.clone())),
        });
        self.gateways.extend(gateways);
    }

    /// The services with these hosts, as they are or were.
    pub fn services(&self, before: &Compiled, next: &Compiled) -> BTreeSet<NamespacedHostname> {
        let find = |host: &Arc<str>| {
            let (old, new) = (&before.discovery.by_host, &next.discovery.by_host);
            [old.get(host), new.get(host)]
        };
        let found = self.hosts.iter().flat_map(find).flatten();
        found.flat_map(|keys| keys.iter().cloned()).collect()
    }

    /// Adds who is concerned because of others, once it is known which services moved.
    pub fn spread(&mut self, before: &Compiled, next: &Compiled) {
        self.moved = next.waypoints.moved_since(&before.waypoints);
        self.hosts.extend(self.moved.iter().map(|s| s.hostname.clone()));
        self.routed = self.services(before, next);
        let rules = self
            .hosts
            .iter()
            .flat_map(|h| next.inputs.virtual_services.leading_to(h));
        let leading: Vec<Entry<VirtualService>> = rules.cloned().collect();
        for rules in leading {
            self.named_by(&rules.spec);
            self.route_for(next, rules.spec.hosts());
        }
        if next.gateway_api.names_any(&self.hosts) {
            self.gateway_api = true;
            self.routed.extend(next.gateway_api.routed_services().cloned());
        }
    }

    fn route_for(&mut self, compiled: &Compiled, hosts: &[HostPattern]) {
        let by_host = &compiled.discovery.by_host;
        let exact = hosts.iter().filter_map(HostPattern::exact);
        let found = exact.chain(covered(hosts, by_host.keys(), |host| host));
        let keys = found.filter_map(|host| by_host.get(host));
        self.routed.extend(keys.flat_map(|keys| keys.iter().cloned()));
    }

    /// Objects of which something else may have to be said.
    pub fn reports(&self, before: &Inputs, compiled: &Compiled) -> BTreeSet<ObjectKey> {
        let inputs = &compiled.inputs;
        let mut keys = BTreeSet::new();
        for host in &self.hosts {
            keys.extend(
                inputs
                    .virtual_services
                    .for_host(host)
                    .into_iter()
                    .map(virtual_service),
            );
            keys.extend(inputs.virtual_services.leading_to(host).map(virtual_service));
            keys.extend(
                inputs
                    .destination_rules
                    .for_host(host)
                    .into_iter()
                    .map(destination_rule),
            );
        }
        // Of two with one host the older wins, also where no service has the host.
        for (old, new) in before.virtual_services.changes(&inputs.virtual_services) {
            let hosts = [old, new]
                .into_iter()
                .flatten()
                .flat_map(|rules| &rules.spec.hosts);
            let sharing = hosts.flat_map(|host| inputs.virtual_services.naming(host));
            keys.extend(sharing.map(virtual_service));
        }
        let moved = self
            .moved
            .iter()
            .filter_map(|key| compiled.discovery.services.get(key));
        keys.extend(moved.map(|entry| entry.object()));
        keys.extend(claiming(before, inputs));
        keys.extend(self.reports_of_gateways(compiled));
        keys
    }

    fn reports_of_gateways(&self, compiled: &Compiled) -> Vec<ObjectKey> {
        let inputs = &compiled.inputs;
        let has_addresses_of = |selector| {
            let pods = compiled.selected.running(inputs, selector);
            pods.iter()
                .any(|(namespace, _)| self.namespaces.contains(namespace))
        };
        let behind = inputs
            .gateways
            .iter()
            .filter(|g| !self.namespaces.is_empty() && has_addresses_of(&g.spec.selector));
        let mut keys: Vec<ObjectKey> = behind
            .map(|g| ObjectKey::new(NETWORKING, "Gateway", &g.meta.namespace, &g.meta.name))
            .collect();
        if self.gateway_api {
            let key = |kind, (namespace, name): Name| ObjectKey::new(GATEWAY_API, kind, &namespace, &name);
            let routes = gateway_api::route::all(inputs).into_iter();
            keys.extend(routes.map(|route| key(route.kind().as_str(), route.name())));
            let gateways = inputs.kube_gateways.iter();
            keys.extend(gateways.map(|gateway| key("Gateway", gateway_api::name(gateway))));
        }
        keys
    }
}

/// ServiceEntries that name an address of a Service that changed.
fn claiming(before: &Inputs, inputs: &Inputs) -> Vec<ObjectKey> {
    let changed = before.services.changes(&inputs.services);
    let both = changed.flat_map(|(old, new)| [old, new]).flatten();
    let addresses: BTreeSet<IpAddr> = both.flat_map(|service| service.spec.vips()).collect();
    let naming = addresses
        .iter()
        .flat_map(|ip| inputs.service_entries.with_address(*ip));
    naming.map(service_entry).collect()
}

pub(super) fn service_entry(entry: &Entry<ServiceEntry>) -> ObjectKey {
    let meta = &entry.meta;
    ObjectKey::new(NETWORKING, "ServiceEntry", &meta.namespace, &meta.name)
}

fn virtual_service(entry: &Entry<VirtualService>) -> ObjectKey {
    ObjectKey::new(
        NETWORKING,
        "VirtualService",
        &entry.meta.namespace,
        &entry.meta.name,
    )
}

pub(super) fn destination_rule(entry: &Entry<DestinationRule>) -> ObjectKey {
    ObjectKey::new(
        NETWORKING,
        "DestinationRule",
        &entry.meta.namespace,
        &entry.meta.name,
    )
}
