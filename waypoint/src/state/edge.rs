//! Secrets, and the TLS configurations made of them: rebuilt where something changed, kept where nothing did.
//!
//! A configuration that is replaced lives on in the connections that it began; new ones get the new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aquifer_core::http::listener::Listener;
use aquifer_core::http::server_tls::ServerTls;
use aquifer_identity::edge::{EdgeError, EdgeSecret, edge_server_config};
use tokio_rustls::rustls::ServerConfig;

type Built = Result<Arc<ServerConfig>, EdgeError>;

/// What ends TLS, by what was asked for: servers that ask for the same share one.
#[derive(Clone, Default)]
pub(crate) struct EdgeServers {
    secrets: BTreeMap<Arc<str>, EdgeSecret>,
    servers: HashMap<ServerTls, Built>,
}

impl EdgeServers {
    /// The configuration of a server, or why there is none now; `None` for a server that no listener has.
    pub(crate) fn get(&self, tls: &ServerTls) -> Option<&Built> {
        self.servers.get(tls)
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&Arc<str>, &EdgeSecret)> {
        self.secrets.iter()
    }

    /// The same secrets with the servers of other listeners.
    pub(super) fn serving<'l>(&self, listeners: impl Iterator<Item = &'l Arc<Listener>>) -> Self {
        let mut servers = HashMap::new();
        for listener in listeners {
            for tls in listener.chains.iter().filter_map(|c| c.tls.as_ref()) {
                if !servers.contains_key(tls) {
                    let kept = self.servers.get(tls).cloned();
                    servers.insert(tls.clone(), kept.unwrap_or_else(|| self.build(tls)));
                }
            }
        }
        Self {
            secrets: self.secrets.clone(),
            servers,
        }
    }

    /// The same servers with other secrets.
    pub(super) fn holding(
        &self,
        remove: &[String],
        put: impl Iterator<Item = (Arc<str>, EdgeSecret)>,
    ) -> Self {
        let mut next = self.clone();
        let mut touched: Vec<Arc<str>> = Vec::new();
        for name in remove {
            next.secrets.remove(name.as_str());
            touched.push(name.as_str().into());
        }
        for (name, secret) in put {
            tracing::info!(secret = %name, content = ?secret, "secret received");
            touched.push(name.clone());
            next.secrets.insert(name, secret);
        }
        let affected = |tls: &&ServerTls| tls.secrets().any(|name| touched.contains(name));
        for tls in self.servers.keys().filter(affected) {
            let built = next.build(tls);
            next.servers.insert(tls.clone(), built);
        }
        next
    }

    fn build(&self, tls: &ServerTls) -> Built {
        let built = edge_server_config(tls, |name| self.secrets.get(name).cloned());
        if let Err(error) = &built {
            tracing::warn!(secrets = ?tls.certificates, %error, "a server ends no TLS; its connections are closed");
        }
        built
    }
}
