//! The chains of a port that listeners of the Gateway API share.

use aquifer_core::http::server_tls::ServerTls;

use crate::compile::credentials::{of_open, server_tls};
use crate::compile::gateway_api::listeners::OpenListener;
use crate::compile::gateway_api::listeners::conflicts::Opened;
use crate::compile::routes::{StreamRoute, listener_routes, listener_streams};
use crate::compile::servers::Use;
use crate::envoy::listener::{Chain, Handling};
use crate::model::gateway::ServerKind;
use crate::model::termination::Termination;
use crate::proxies::gateway::Gateway;
use crate::proxies::gateway::chains::{ALPN, closed, plain, server_names, without_doubles};

impl Gateway<'_> {
    /// None where the port leads nowhere. Listeners that another one keeps out are not among them.
    pub(super) fn kube_chains(&mut self, name: &str, port: u16, listeners: &[Opened<'_>]) -> Vec<Chain> {
        let all: Vec<&OpenListener> = listeners.iter().map(|(_, listener)| *listener).collect();
        let usage = all.first().and_then(|l| l.served()).map(Use::of);
        match usage {
            None => Vec::new(),
            Some(Use::Http) => {
                let routes = self.listeners_table(format!("http.{port}"), &all);
                vec![plain(name, Handling::Http { routes, edge: true })]
            }
            Some(Use::Tcp) => {
                let mut streams = listeners.iter().flat_map(|opened| self.streams_of(*opened, &all));
                let first = streams.next();
                drop(streams);
                let chain = first.map(|route| plain(name, self.stream(route)));
                chain.into_iter().collect()
            }
            Some(Use::Tls) => {
                let chains = listeners
                    .iter()
                    .flat_map(|opened| self.of_listener(port, *opened, &all));
                without_doubles(chains.collect())
            }
        }
    }

    fn listeners_table(&mut self, name: String, listeners: &[&OpenListener]) -> String {
        let routed = listener_routes(self.resolver, &name, listeners);
        self.routed(&name, &routed);
        name
    }

    fn streams_of(&self, (gateway, listener): Opened<'_>, all: &[&OpenListener]) -> Vec<StreamRoute> {
        listener_streams(self.resolver, &gateway.entry.meta, listener, all)
    }

    fn of_listener(&mut self, port: u16, opened: Opened<'_>, all: &[&OpenListener]) -> Vec<Chain> {
        let (gateway, listener) = opened;
        match listener.served() {
            Some(ServerKind::Https(termination)) => {
                let meta = &gateway.entry.meta;
                let name = format!("https.{port}.{}.{}.{}", listener.name, meta.name, meta.namespace);
                let routes = self.listeners_table(name.clone(), &[listener]);
                let tls = self.kube_tls(opened, termination, &ALPN);
                vec![Chain {
                    name,
                    server_names: server_names(std::iter::once(&listener.hostname)),
                    tls: Some(tls),
                    handling: Handling::Http { routes, edge: true },
                }]
            }
            Some(ServerKind::Tls(termination)) => {
                let tls = self.kube_tls(opened, termination, &[]);
                let routes = self.streams_of(opened, all);
                let chains = routes.into_iter().map(|route| Chain {
                    tls: Some(tls.clone()),
                    ..self.passing(route)
                });
                chains.chain([of_no_route(port, opened)]).collect()
            }
            Some(ServerKind::Passthrough) => {
                let routes = self.streams_of(opened, all);
                let chains = routes.into_iter().map(|route| self.passing(route));
                chains.chain([of_no_route(port, opened)]).collect()
            }
            // Others are kept off ports with TLS.
            Some(ServerKind::Http { .. } | ServerKind::Tcp) | None => Vec::new(),
        }
    }

    /// Ends TLS with the certificates that are of use; one that is not takes none of the others with it.
    fn kube_tls(&mut self, (gateway, _): Opened<'_>, termination: &Termination, alpn: &[&str]) -> ServerTls {
        let credentials = of_open(self.resolver.inputs, gateway);
        let of_use = termination.certificates.iter();
        let of_use = of_use.filter(|r| credentials.certificate(r).is_ok()).cloned();
        let usable = Termination {
            certificates: of_use.collect(),
            ..termination.clone()
        };
        self.secrets(&credentials, &usable);
        server_tls(&usable, alpn)
    }
}

fn of_no_route(port: u16, (gateway, listener): Opened<'_>) -> Chain {
    let meta = &gateway.entry.meta;
    let name = format!("{port}.{}.{}.{}", listener.name, meta.name, meta.namespace);
    closed(name, server_names(std::iter::once(&listener.hostname)))
}
