//! Routes of servers of a gateway: everything that is attached to the Gateways that select its pods.
//!
//! Unlike inside the mesh, VirtualServices with the same host are merged: their rules follow each other oldest first,
//! with catch-all routes moved to the end. Conditions on the source are compared with the gateway's own labels, here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_xds::envoy::pb::envoy::config::route::v3::virtual_host::TlsRequirementType;
use aquifer_xds::envoy::pb::envoy::config::route::v3::{Route, VirtualHost};

use crate::compile::inputs::{Entry, Inputs, Labels, selects};
use crate::compile::references::Resolver;
use crate::compile::routes::{Routed, Scope};
use crate::compile::servers::Served;
use crate::envoy::action::rule_route;
use crate::envoy::matching::{any_request, route_match};
use crate::envoy::{route_configuration, virtual_host};
use crate::model::gateway::{Gateway, Server, ServerHost, ServerKind};
use crate::model::host::HostPattern;
use crate::model::virtual_service::{GatewayRef, HttpCondition, HttpRule, SourceCondition, VirtualService};
use crate::objects::kube;

/// A port that the gateway's pods listen on, with the servers that share it.
#[derive(Debug)]
pub struct GatewayPort<'a> {
    pub port: u16,
    pub servers: Vec<Served<'a>>,
}

/// The ports of the gateway pod with these labels.
pub fn gateway_ports<'a>(
    inputs: &'a Inputs,
    namespace: &str,
    labels: &Labels,
    pod: Option<&kube::Pod>,
) -> Vec<GatewayPort<'a>> {
    let mut ports: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for gateway in inputs
        .gateways
        .iter()
        .filter(|g| selects(&g.spec.selector, labels))
    {
        for server in &gateway.spec.servers {
            let port = listening_port(inputs, namespace, labels, pod, server.port);
            ports.entry(port).or_default().push((gateway, server));
        }
    }
    ports
        .into_iter()
        .map(|(port, servers)| GatewayPort { port, servers })
        .collect()
}

/// Where a Service in front of the pod has a port of that number, its target; otherwise the number itself.
pub fn listening_port(
    inputs: &Inputs,
    namespace: &str,
    labels: &Labels,
    pod: Option<&kube::Pod>,
    number: u16,
) -> u16 {
    let in_front = inputs
        .services
        .in_namespace(namespace)
        .filter(|s| !s.spec.selector.is_empty() && selects(&s.spec.selector, labels));
    let mut ports = in_front.flat_map(|s| &s.spec.ports).filter(|p| p.port == number);
    ports.find_map(|p| target(p, pod)).unwrap_or(number)
}

fn target(port: &kube::ServicePort, pod: Option<&kube::Pod>) -> Option<u16> {
    match (&port.target_port, pod) {
        (None | Some(kube::TargetPort::Number(0)), _) => Some(port.port),
        (Some(kube::TargetPort::Number(number)), _) => Some(*number),
        (Some(kube::TargetPort::Name(name)), Some(pod)) => pod.named_port(name),
        (Some(kube::TargetPort::Name(_)), None) => None,
    }
}

/// Routes of one virtual host, with the catch-alls apart.
#[derive(Default)]
struct HostRoutes {
    specific: Vec<Route>,
    catch_all: Vec<Route>,
    /// An older VirtualService ended the list already.
    merged: BTreeSet<(Arc<str>, Arc<str>)>,
    /// A server of it sends what is not `https` there.
    https_only: bool,
}

/// Which servers share a route table, and its name.
pub struct Table<'s, 'a> {
    pub name: String,
    /// The port that they listen on, as virtual hosts are named.
    pub port: u16,
    pub servers: &'s [Served<'a>],
}

/// The table of servers with HTTP.
pub fn gateway_routes(
    resolver: Resolver<'_>,
    own: &BTreeSet<NamespacedHostname>,
    table: &Table<'_, '_>,
    namespace: &str,
    labels: &Labels,
) -> Routed {
    let mut hosts = redirected(table.servers);
    let mut clusters = BTreeMap::new();
    let client = Client { namespace, labels };
    for rules in &resolver.inputs.virtual_services {
        for (gateway, server) in table.servers {
            let domains = served(rules, gateway, server);
            if domains.is_empty() {
                continue;
            }
            let mut scope = Scope::new(resolver, own, server.port);
            let (specific, catch_all) = client.routes(&mut scope, &rules.spec, gateway);
            clusters.extend(scope.clusters);
            for domain in domains {
                let host = hosts.entry(domain).or_default();
                host.https_only |= is_https_only(server);
                if host
                    .merged
                    .insert((rules.meta.namespace.clone(), rules.meta.name.clone()))
                {
                    host.specific.extend(specific.iter().cloned());
                    host.catch_all.extend(catch_all.iter().cloned());
                }
            }
        }
    }
    let virtual_hosts = hosts
        .into_iter()
        .map(|(domain, routes)| to_virtual_host(&domain, routes, table.port));
    Routed {
        config: route_configuration(&table.name, virtual_hosts.collect()),
        clusters,
    }
}

fn is_https_only(server: &Server) -> bool {
    matches!(server.kind, ServerKind::Http { https_only: true })
}

/// Hosts that redirect to `https` do so also where no VirtualService is for them.
fn redirected(servers: &[Served<'_>]) -> BTreeMap<HostPattern, HostRoutes> {
    let of = servers.iter().filter(|(_, server)| is_https_only(server));
    let hosts = of.flat_map(|(_, server)| &server.hosts);
    let redirect = || HostRoutes {
        https_only: true,
        ..HostRoutes::default()
    };
    hosts.map(|h| (h.host.clone(), redirect())).collect()
}

fn to_virtual_host(domain: &HostPattern, routes: HostRoutes, port: u16) -> VirtualHost {
    let domain = domain.to_string();
    let list = routes.specific.into_iter().chain(routes.catch_all).collect();
    let host = virtual_host(&format!("{domain}:{port}"), vec![domain], list);
    VirtualHost {
        require_tls: match routes.https_only {
            true => TlsRequirementType::All.into(),
            false => TlsRequirementType::None.into(),
        },
        ..host
    }
}

/// The hosts of the VirtualService that this server of this Gateway serves.
pub(super) fn served(
    rules: &Entry<VirtualService>,
    gateway: &Entry<Gateway>,
    server: &Server,
) -> BTreeSet<HostPattern> {
    let spec = &rules.spec;
    let attached = spec.gateways.iter().any(|g| is_gateway(g, gateway));
    if !attached || !spec.visibility.includes(&gateway.meta.namespace) {
        return BTreeSet::new();
    }
    let mut by_host: BTreeMap<&HostPattern, Vec<&ServerHost>> = BTreeMap::new();
    for host in &server.hosts {
        by_host.entry(&host.host).or_default().push(host);
    }
    let mut domains = BTreeSet::new();
    for host in &spec.hosts {
        // Both may have thousands of names: of a name only what covers it is worth a look.
        let candidates: Vec<&ServerHost> = match host.exact() {
            None => server.hosts.iter().collect(),
            Some(name) => HostPattern::covering(name)
                .filter_map(|pattern| by_host.get(&pattern))
                .flatten()
                .copied()
                .collect(),
        };
        domains.extend(candidates.iter().filter_map(|s| s.admits(&spec.namespace, host)));
    }
    domains
}

pub(super) fn is_gateway(reference: &GatewayRef, gateway: &Entry<Gateway>) -> bool {
    match reference {
        GatewayRef::Mesh => false,
        GatewayRef::Gateway { namespace, name } => {
            *namespace == gateway.meta.namespace && *name == gateway.meta.name
        }
    }
}

/// The gateway as the source of its own requests.
struct Client<'a> {
    namespace: &'a str,
    labels: &'a Labels,
}

impl Client<'_> {
    fn routes(
        &self,
        scope: &mut Scope<'_>,
        rules: &VirtualService,
        gateway: &Entry<Gateway>,
    ) -> (Vec<Route>, Vec<Route>) {
        let (mut specific, mut catch_all) = (Vec::new(), Vec::new());
        for rule in &rules.http {
            self.rule(scope, rule, gateway, &mut specific, &mut catch_all);
            if rule.conditions.is_empty() {
                break;
            }
        }
        (specific, catch_all)
    }

    fn rule(
        &self,
        scope: &mut Scope<'_>,
        rule: &HttpRule,
        gateway: &Entry<Gateway>,
        specific: &mut Vec<Route>,
        catch_all: &mut Vec<Route>,
    ) {
        let destinations = scope.of_rule(rule);
        let anyone = SourceCondition::default();
        if rule.conditions.is_empty() {
            catch_all.push(rule_route(rule, any_request(&anyone), &destinations));
        }
        for condition in rule
            .conditions
            .iter()
            .filter(|c| self.applies(c, scope.called, gateway))
        {
            let route = rule_route(rule, route_match(condition, &anyone), &destinations);
            if covers_everything(condition) {
                catch_all.push(route)
            } else {
                specific.push(route)
            }
        }
    }

    fn applies(&self, condition: &HttpCondition, port: u16, gateway: &Entry<Gateway>) -> bool {
        let named = condition.gateways.iter().any(|g| is_gateway(g, gateway));
        let from_here = if condition.gateways.is_empty() {
            condition.source.holds_for(self.labels, self.namespace)
        } else {
            named
        };
        from_here && condition.port.is_none_or(|p| p == port)
    }
}

/// A condition on the port or the source has been settled by now.
fn covers_everything(condition: &HttpCondition) -> bool {
    let settled = HttpCondition {
        port: None,
        source: SourceCondition::default(),
        ..condition.clone()
    };
    settled.is_catch_all()
}
