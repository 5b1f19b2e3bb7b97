//! Listeners that come together at one port of one pod: the oldest decides what it is used for, and has its hostname.
//!
//! What counts is the port of the pod, not the one that a listener declares: a Service may lead two ports to one. Which
//! listeners a pod has together is known for certain where its resources are made, and [`in_effect`] decides there. What is
//! said of a Gateway goes by its Service alone: [`settle`] finds those that meet behind one Service, or behind another one
//! whose pods are all among them.

use std::collections::BTreeMap;

use aquifer_core::names::NamespacedHostname;

use crate::compile::gateway_api::Name;
use crate::compile::gateway_api::listeners::{OpenGateway, OpenListener};
use crate::compile::inputs::{Entry, Inputs, selects};
use crate::compile::report::Condition;
use crate::compile::routes::GatewayPort;
use crate::compile::servers::{Use, plan};
use crate::model::gateway::Gateway as IstioGateway;
use crate::objects::kube::{Service, TargetPort};

/// A listener and the Gateway that has it.
pub type Opened<'a> = (&'a OpenGateway, &'a OpenListener);

/// Those of the listeners of a pod's port that are served there, the oldest Gateway's first.
pub fn in_effect(mut listeners: Vec<Opened<'_>>) -> Vec<Opened<'_>> {
    // Listeners of one Gateway stay in their order.
    listeners.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    let mut kept: Vec<Opened<'_>> = Vec::new();
    for (gateway, listener) in listeners {
        if kept
            .iter()
            .all(|(_, earlier)| conflict(earlier, listener, true).is_none())
        {
            kept.push((gateway, listener));
        }
    }
    kept
}

/// Why a listener is not served beside an earlier one at the same port of a pod. Of HTTP, hosts may be `merged`.
fn conflict(earlier: &OpenListener, listener: &OpenListener, merged: bool) -> Option<Condition> {
    let (first, second) = (Use::of(earlier.served()?), Use::of(listener.served()?));
    let name = &earlier.name;
    if first != second {
        let message = format!(
            "listener {name} uses {} for {}, and comes first",
            port(earlier, listener),
            first.as_str()
        );
        return Some(Condition::new("Conflicted", true, "ProtocolConflict", message));
    }
    if earlier.hostname != listener.hostname || (merged && first == Use::Http) {
        return None;
    }
    let message = match earlier.port == listener.port {
        true => format!("listener {name} has the same port and hostname, and comes first"),
        false => format!(
            "listener {name} has the same hostname and {}, and comes first",
            port(earlier, listener)
        ),
    };
    Some(Condition::new("Conflicted", true, "HostnameConflict", message))
}

fn port(earlier: &OpenListener, listener: &OpenListener) -> String {
    match earlier.port == listener.port {
        true => "the port".to_owned(),
        false => format!(
            "the port of the pods that both {} and {} lead to",
            earlier.port, listener.port
        ),
    }
}

/// Where a port of a Service leads on its pods.
#[derive(PartialEq, Eq)]
enum Target<'a> {
    Number(u16),
    Name(&'a str),
}

/// What is known of the pods behind a Gateway without a look at them.
struct Front<'a> {
    service: NamespacedHostname,
    found: Option<&'a Service>,
    /// Istio's Gateways that all these pods serve, the oldest first.
    istio: Vec<&'a Entry<IstioGateway>>,
}

impl<'a> Front<'a> {
    fn of(inputs: &'a Inputs, gateway: &OpenGateway) -> Self {
        let service = gateway.service.clone();
        let name = service.hostname.split('.').next().unwrap_or_default();
        let found = inputs.services.get(&service.namespace, name);
        let found: Option<&'a Service> = found.map(|entry| &*entry.spec);
        let selector = found.map(|s| &s.selector).filter(|s| !s.is_empty());
        let serve = |g: &&Entry<IstioGateway>| selector.is_some_and(|s| selects(&g.spec.selector, s));
        Self {
            istio: inputs.gateways.iter().filter(serve).collect(),
            service,
            found,
        }
    }

    /// A port that the Service has not is the pods' own.
    fn target(&self, port: u16) -> Target<'a> {
        let is_tcp = |protocol: &str| matches!(protocol, "" | "TCP");
        let mut ports = self.found.into_iter().flat_map(|s| &s.ports);
        let found = ports.find(|p| p.port == port && is_tcp(&p.protocol));
        match found.and_then(|p| p.target_port.as_ref()) {
            None | Some(TargetPort::Number(0)) => Target::Number(port),
            Some(TargetPort::Number(number)) => Target::Number(*number),
            Some(TargetPort::Name(name)) => Target::Name(name),
        }
    }

    /// Whether all pods of `other` are among these.
    fn covers(&self, other: &Self) -> bool {
        if self.service == other.service {
            return true;
        }
        let (Some(own), Some(others)) = (self.found, other.found) else {
            return false;
        };
        self.service.namespace == other.service.namespace
            && !own.selector.is_empty()
            && selects(&own.selector, &others.selector)
    }
}

/// Says of each listener whether another one has what it wants.
pub(super) fn settle(inputs: &Inputs, gateways: &mut BTreeMap<Name, OpenGateway>) {
    let mut order: Vec<(Front<'_>, &mut OpenGateway)> = gateways
        .values_mut()
        .map(|gateway| (Front::of(inputs, gateway), gateway))
        .collect();
    order.sort_by(|(_, a), (_, b)| a.age().cmp(&b.age()));
    for i in 0..order.len() {
        let (older, rest) = order.split_at_mut(i);
        let Some((front, gateway)) = rest.first_mut() else {
            continue;
        };
        for j in 0..gateway.listeners.len() {
            let (earlier, rest) = gateway.listeners.split_at_mut(j);
            let Some(listener) = rest.first_mut() else {
                continue;
            };
            let found = of_istio(front, listener)
                .or_else(|| older.iter().find_map(|older| of_older(older, front, listener)))
                .or_else(|| of_own(earlier, front, listener));
            if let Some(conflict) = found {
                listener.conflicted = conflict;
            }
        }
    }
}

/// Listeners of HTTP with different ports have their hosts together where a Service leads both to one.
fn of_own(earlier: &[OpenListener], front: &Front<'_>, listener: &OpenListener) -> Option<Condition> {
    let target = front.target(listener.port);
    let mut meeting = earlier.iter().filter(|e| front.target(e.port) == target);
    meeting.find_map(|e| conflict(e, listener, e.port != listener.port))
}

/// Gateways that are served by the same pods share their ports. Of HTTP, hosts are merged.
fn of_older(
    (older_front, older): &(Front<'_>, &mut OpenGateway),
    front: &Front<'_>,
    listener: &OpenListener,
) -> Option<Condition> {
    if !older_front.covers(front) {
        return None;
    }
    let target = front.target(listener.port);
    let mut meeting = older
        .listeners
        .iter()
        .filter(|e| older_front.target(e.port) == target);
    let found = meeting.find_map(|e| conflict(e, listener, true))?;
    let meta = &older.entry.meta;
    let message = format!(
        "Gateway {}/{} is older and served by the same pods: {}",
        meta.namespace, meta.name, found.message
    );
    Some(Condition { message, ..found })
}

/// A server of Istio's that ends TLS, passes it on or forwards bytes keeps its port, whichever is older.
fn of_istio(front: &Front<'_>, listener: &OpenListener) -> Option<Condition> {
    listener.served()?;
    let target = front.target(listener.port);
    let servers = front
        .istio
        .iter()
        .flat_map(|gateway| gateway.spec.servers.iter().map(|server| (*gateway, server)));
    let meeting = servers.filter(|(_, server)| front.target(server.port) == target);
    let port = GatewayPort {
        port: listener.port,
        servers: meeting.collect(),
    };
    let plan = plan(&port).filter(|plan| plan.usage != Use::Http)?;
    let (gateway, server) = plan.in_effect.first()?;
    let message = format!(
        "{} of Istio's Gateway {}/{} has this port of the same pods for {}, and keeps it; delete that one, or choose another port",
        server.field,
        gateway.meta.namespace,
        gateway.meta.name,
        plan.usage.as_str()
    );
    Some(Condition::new("Conflicted", true, "ProtocolConflict", message))
}
