//! Istio's Gateway: which pods listen on which ports for which hosts, validated.

mod protocol;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::host::HostPattern;
use crate::model::termination::Termination;
use crate::model::virtual_service::indexed;
use crate::objects::istio as raw;
use crate::objects::{Meta, Notice, Rejection};

#[derive(Clone, Debug)]
pub struct Gateway {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// Matched against pods' labels in any namespace; never empty.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    pub servers: Vec<Server>,
}

#[derive(Clone, Debug)]
pub struct Server {
    /// Its place in the object, such as `spec.servers[0]`.
    pub field: String,
    /// As written; the port to listen on depends on the Service in front of the pods.
    pub port: u16,
    pub port_name: Arc<str>,
    pub hosts: Vec<ServerHost>,
    pub kind: ServerKind,
}

/// What a server does with its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// HTTP, without TLS; what is not `https` already may be sent there.
    Http { https_only: bool },
    /// HTTP inside of TLS that ends here.
    Https(Termination),
    /// Bytes inside of TLS that ends here.
    Tls(Termination),
    /// TLS that is passed on by the name that its client asks for.
    Passthrough,
    /// Bytes.
    Tcp,
}

impl ServerKind {
    pub fn termination(&self) -> Option<&Termination> {
        match self {
            Self::Https(termination) | Self::Tls(termination) => Some(termination),
            Self::Http { .. } | Self::Passthrough | Self::Tcp => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHost {
    /// Only VirtualServices of this namespace may bind; any where there is none.
    pub namespace: Option<Arc<str>>,
    pub host: HostPattern,
}

impl Gateway {
    pub fn parse(spec: raw::Gateway, meta: &Meta, notices: &mut Vec<Notice>) -> Result<Self, Rejection> {
        if spec.selector.is_empty() {
            let reason = "is empty: it would select every pod of the cluster; name the gateway's pods";
            return Err(Rejection::unsupported("spec.selector", reason));
        }
        if spec.servers.is_empty() {
            return Err(Rejection::invalid("spec.servers", "is empty"));
        }
        let servers = indexed(&spec.servers, "spec.servers", |s, f| {
            Server::parse(s, &meta.namespace, f, notices)
        })?;
        unique_names(&servers)?;
        Ok(Self {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            selector: spec.selector,
            servers,
        })
    }

    /// The servers that end TLS, with how.
    pub fn terminations(&self) -> impl Iterator<Item = (&Server, &Termination)> {
        self.servers
            .iter()
            .filter_map(|server| Some((server, server.kind.termination()?)))
    }
}

/// A route table of a server that ends TLS is named for its port.
fn unique_names(servers: &[Server]) -> Result<(), Rejection> {
    let mut seen = BTreeSet::new();
    for server in servers.iter().filter(|s| s.kind.termination().is_some()) {
        if !seen.insert((server.port, &server.port_name)) {
            let reason = format!(
                "{:?} is the name of two servers of port {}; they need different ones",
                server.port_name, server.port
            );
            return Err(Rejection::invalid(format!("{}.port.name", server.field), reason));
        }
    }
    Ok(())
}

impl Server {
    fn parse(
        raw: &raw::Server,
        ns: &Arc<str>,
        field: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let Some(port) = &raw.port else {
            return Err(Rejection::invalid(format!("{field}.port"), "is missing"));
        };
        let number = port.number.filter(|n| *n > 0).ok_or_else(|| {
            Rejection::invalid(
                format!("{field}.port.number"),
                "is missing or 0; expected 1 to 65535",
            )
        })?;
        refuse_unsupported(raw, field)?;
        if port.target_port.is_some() {
            let message = "has no effect, as in Istio; the Service's targetPort decides";
            notices.push(Notice::warning(format!("{field}.port.targetPort"), message));
        }
        if raw.hosts.is_empty() {
            return Err(Rejection::invalid(format!("{field}.hosts"), "is empty"));
        }
        let hosts = indexed(&raw.hosts, &format!("{field}.hosts"), |h, f| {
            ServerHost::parse(h, ns, f)
        })?;
        Ok(Self {
            kind: protocol::kind(&port.protocol, raw.tls.as_ref(), field, notices)?,
            field: field.to_owned(),
            port: number,
            port_name: port.name.clone(),
            hosts,
        })
    }
}

fn refuse_unsupported(raw: &raw::Server, field: &str) -> Result<(), Rejection> {
    let refuse = |name: &str| {
        Err(Rejection::unsupported(
            format!("{field}.{name}"),
            "is not supported for a gateway by this version",
        ))
    };
    match raw {
        raw::Server {
            default_endpoint: Some(_),
            ..
        } => refuse("defaultEndpoint"),
        raw if !raw.bind.is_empty() => refuse("bind"),
        _ => Ok(()),
    }
}

impl ServerHost {
    fn parse(text: &Arc<str>, ns: &Arc<str>, field: &str) -> Result<Self, Rejection> {
        let (namespace, host) = match text.split_once('/') {
            None | Some(("*", _)) => (None, text.split_once('/').map_or(&**text, |(_, host)| host)),
            Some((".", host)) => (Some(ns.clone()), host),
            Some((namespace, host)) => (Some(namespace.into()), host),
        };
        Ok(Self {
            namespace,
            host: HostPattern::parse(host, field)?,
        })
    }

    /// What this server serves of a host of a VirtualService in `namespace`.
    pub fn admits(&self, namespace: &str, host: &HostPattern) -> Option<HostPattern> {
        let allowed = self.namespace.as_deref().is_none_or(|n| n == namespace);
        if allowed { self.host.intersect(host) } else { None }
    }
}
