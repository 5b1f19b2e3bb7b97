//! The chains of a gateway's listener: one for everybody, or one for each server that TLS asks for by name.

use std::collections::BTreeSet;
use std::fmt::Display;

use crate::compile::credentials::{Credentials, server_tls};
use crate::compile::gateway_api::backends::NOWHERE;
use crate::compile::routes::{StreamRoute, Streams};
use crate::compile::servers::{Plan, Served, Use};
use crate::envoy::listener::{Chain, Handling};
use crate::model::gateway::ServerKind;
use crate::model::host::HostPattern;
use crate::model::termination::Termination;
use crate::proxies::endpoints::Clients;
use crate::proxies::gateway::Gateway;

/// What a browser may choose from.
pub(super) const ALPN: [&str; 2] = ["h2", "http/1.1"];

impl Gateway<'_> {
    pub(super) fn chains(&mut self, listener: &str, port: u16, plan: &Plan<'_>) -> Vec<Chain> {
        match plan.usage {
            Use::Http => {
                let routes = self.table(format!("http.{port}"), port, &plan.in_effect);
                vec![plain(listener, Handling::Http { routes, edge: true })]
            }
            Use::Tcp => {
                let route = plan.in_effect.iter().find_map(|s| self.streams().bytes(*s));
                let route = route.map(|route| plain(listener, self.stream(route)));
                route.into_iter().collect()
            }
            Use::Tls => {
                let chains = plan.in_effect.iter().flat_map(|s| self.of_server(port, *s));
                without_doubles(chains.collect())
            }
        }
    }

    fn streams(&self) -> Streams<'_> {
        Streams {
            resolver: self.resolver,
            own: &self.own,
        }
    }

    pub(super) fn stream(&mut self, route: StreamRoute) -> Handling {
        self.collected
            .add_clusters(&self.resolver, &route.clusters, Clients::Outside);
        Handling::Tcp {
            clusters: route.destinations,
        }
    }

    fn of_server(&mut self, port: u16, served: Served<'_>) -> Vec<Chain> {
        let (gateway, server) = served;
        let name = format!(
            "{}.{}.{}.{}",
            server.port, server.port_name, gateway.meta.name, gateway.meta.namespace
        );
        match &server.kind {
            ServerKind::Https(termination) => {
                let routes = self.table(format!("https.{name}"), port, &[served]);
                let handling = Handling::Http { routes, edge: true };
                vec![self.ended(format!("https.{name}"), served, termination, &ALPN, handling)]
            }
            ServerKind::Tls(termination) => {
                let Some(route) = self.streams().bytes(served) else {
                    return vec![closed(name, hosts(served))];
                };
                let handling = self.stream(route);
                vec![self.ended(format!("tls.{name}"), served, termination, &[], handling)]
            }
            ServerKind::Passthrough => {
                let routes = self.streams().passthrough(served);
                let chains = routes.into_iter().map(|route| self.passing(route));
                chains.chain([closed(name, hosts(served))]).collect()
            }
            // The plan keeps servers without TLS off ports with it.
            ServerKind::Http { .. } | ServerKind::Tcp => Vec::new(),
        }
    }

    fn ended(
        &mut self,
        name: String,
        served: Served<'_>,
        termination: &Termination,
        alpn: &[&str],
        handling: Handling,
    ) -> Chain {
        let credentials = Credentials::new(self.resolver.inputs, self.namespace);
        self.secrets(&credentials, termination);
        Chain {
            name,
            server_names: hosts(served),
            tls: Some(server_tls(termination, alpn)),
            handling,
        }
    }

    pub(super) fn passing(&mut self, route: StreamRoute) -> Chain {
        Chain {
            name: route.name.clone(),
            server_names: server_names(route.server_names.iter()),
            tls: None,
            handling: self.stream(route),
        }
    }
}

/// The names that a server is for.
fn hosts((_, server): Served<'_>) -> Vec<String> {
    server_names(server.hosts.iter().map(|h| &h.host))
}

/// Closes connections to names of a server or listener with TLS that none of its routes has: one that is for more names
/// would take them otherwise, and end TLS that was to pass.
pub(super) fn closed(name: impl Display, server_names: Vec<String>) -> Chain {
    Chain {
        name: format!("closed.{name}"),
        server_names,
        tls: None,
        handling: Handling::Tcp {
            clusters: vec![(NOWHERE.to_owned(), 1)],
        },
    }
}

pub(super) fn plain(name: &str, handling: Handling) -> Chain {
    Chain {
        name: name.to_owned(),
        server_names: Vec::new(),
        tls: None,
        handling,
    }
}

/// None at all where one of the hosts is any: then everybody is served, also who asks for nothing.
pub(super) fn server_names<'h>(hosts: impl Iterator<Item = &'h HostPattern> + Clone) -> Vec<String> {
    if hosts.clone().any(|host| *host == HostPattern::Any) {
        return Vec::new();
    }
    hosts.map(ToString::to_string).collect()
}

/// A name belongs to the first chain that has it, since a listener with two is refused as a whole.
pub(super) fn without_doubles(chains: Vec<Chain>) -> Vec<Chain> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut kept = Vec::new();
    for mut chain in chains {
        let any = chain.server_names.is_empty();
        chain.server_names.retain(|name| taken.insert(name.clone()));
        let is_first_any = any && taken.insert("*".to_owned());
        if is_first_any || !chain.server_names.is_empty() {
            kept.push(chain);
        }
    }
    kept
}
