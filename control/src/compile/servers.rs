//! Servers that share a port of a gateway: which of them are in effect, and which an older one keeps out.

use std::collections::BTreeMap;

use crate::compile::inputs::Entry;
use crate::compile::routes::GatewayPort;
use crate::model::gateway::{Gateway, Server, ServerKind};
use crate::model::host::HostPattern;

/// A server and the Gateway that has it.
pub type Served<'a> = (&'a Entry<Gateway>, &'a Server);

/// What a port is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Http,
    Tcp,
    Tls,
}

impl Use {
    pub fn of(kind: &ServerKind) -> Self {
        match kind {
            ServerKind::Http { .. } => Self::Http,
            ServerKind::Tcp => Self::Tcp,
            ServerKind::Https(_) | ServerKind::Tls(_) | ServerKind::Passthrough => Self::Tls,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

/// The servers of a port, oldest Gateway first.
#[derive(Debug)]
pub struct Plan<'a> {
    pub usage: Use,
    pub in_effect: Vec<Served<'a>>,
    pub conflicts: Vec<Conflict<'a>>,
}

/// A server that is not in effect, and why.
#[derive(Debug)]
pub struct Conflict<'a> {
    pub server: Served<'a>,
    pub message: String,
}

/// The oldest Gateway decides what a port is used for, and of two servers with TLS the older one has a host.
///
/// `None` for a port without servers.
pub fn plan<'a>(port: &GatewayPort<'a>) -> Option<Plan<'a>> {
    let first = *port.servers.first()?;
    let usage = Use::of(&first.1.kind);
    let mut plan = Plan {
        usage,
        in_effect: Vec::new(),
        conflicts: Vec::new(),
    };
    let mut names: BTreeMap<&HostPattern, Served<'a>> = BTreeMap::new();
    for served in port.servers.iter().copied() {
        let server = served.1;
        let taken = match usage {
            Use::Tls => server.hosts.iter().find_map(|h| Some((h, names.get(&h.host)?))),
            Use::Http | Use::Tcp => None,
        };
        if Use::of(&server.kind) != usage {
            let message = other_use(port.port, usage, first);
            plan.conflicts.push(Conflict {
                server: served,
                message,
            });
        } else if let Some((host, older)) = taken {
            let message = format!(
                "host {} of port {} belongs to {}, which is older; this server is not in effect",
                host.host,
                port.port,
                describe(*older)
            );
            plan.conflicts.push(Conflict {
                server: served,
                message,
            });
        } else {
            names.extend(server.hosts.iter().map(|h| (&h.host, served)));
            plan.in_effect.push(served);
        }
    }
    Some(plan)
}

fn other_use(port: u16, usage: Use, first: Served<'_>) -> String {
    format!(
        "port {port} is used for {} by {}, which is older; this server is not in effect",
        usage.as_str(),
        describe(first)
    )
}

fn describe((gateway, server): Served<'_>) -> String {
    format!(
        "{} of Gateway {}/{}",
        server.field, gateway.meta.namespace, gateway.meta.name
    )
}
