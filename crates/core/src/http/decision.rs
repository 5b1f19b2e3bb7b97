//! The choice made for one request, as a value that the proxy acts on and the access log prints.

use super::action::{Action, Destination, DirectResponse, Forward};
use super::mutation::HeaderMutations;
use super::request::RequestView;
use super::rewrite::Redirect;
use super::table::{Route, RouteTable, VirtualHost};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome<'t> {
    /// No virtual host, or none of its routes: 404 with flag `NR`.
    NotFound,
    Forward {
        forward: &'t Forward,
        destination: &'t Destination,
    },
    Redirect(&'t Redirect),
    /// 301 to the same place by `https`; the virtual host serves nothing else.
    ToHttps,
    Direct(&'t DirectResponse),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision<'t> {
    pub table: &'t RouteTable,
    pub virtual_host: Option<&'t VirtualHost>,
    pub route: Option<&'t Route>,
    pub outcome: Outcome<'t>,
}

/// Routes a request: the most specific virtual host, its first matching route, one destination by weight.
pub fn route<'t>(table: &'t RouteTable, request: &RequestView<'_>, random: u64) -> Decision<'t> {
    let virtual_host = table.virtual_host(request.host);
    if virtual_host.is_some_and(|v| v.https_only) && request.scheme != "https" {
        return Decision {
            table,
            virtual_host,
            route: None,
            outcome: Outcome::ToHttps,
        };
    }
    let routes = virtual_host.map(|v| v.routes.as_slice()).unwrap_or_default();
    let route = routes.iter().find(|r| r.matches.matches(request));
    let outcome = match route.map(|r| &r.action) {
        None => Outcome::NotFound,
        Some(Action::Forward(forward)) => Outcome::Forward {
            forward,
            destination: forward.destinations.choose(random),
        },
        Some(Action::Redirect(redirect)) => Outcome::Redirect(redirect),
        Some(Action::DirectResponse(direct)) if is_no_match(route, direct) => Outcome::NotFound,
        Some(Action::DirectResponse(direct)) => Outcome::Direct(direct),
    };
    Decision {
        table,
        virtual_host,
        route,
        outcome,
    }
}

/// Where a request is sent by [`Outcome::ToHttps`]: the host as it was written, its port included.
pub fn https_location(request: &RequestView<'_>) -> String {
    let query = request.query.map(|q| format!("?{q}")).unwrap_or_default();
    format!("https://{}{}{query}", request.host, request.path)
}

/// The name of the routes that say: there were rules for this client, and none of them matched.
///
/// To Istio's users that is a request without a route, and not an answer that somebody configured.
pub const NO_MATCH: &str = "no-match";

fn is_no_match(route: Option<&Route>, direct: &DirectResponse) -> bool {
    direct.status == 404 && direct.body.is_empty() && route.is_some_and(|r| &*r.name == NO_MATCH)
}

impl<'t> Decision<'t> {
    /// The route's name for the access log; empty where there is none.
    pub fn route_name(&self) -> &'t str {
        self.route.map_or("", |r| &r.name)
    }

    pub fn cluster(&self) -> Option<&'t str> {
        match self.outcome {
            Outcome::Forward { destination, .. } => Some(&destination.cluster),
            _ => None,
        }
    }

    /// Changes of the request's headers, most specific level first, as Envoy applies them.
    pub fn request_mutations(&self) -> impl Iterator<Item = &'t HeaderMutations> {
        let destination = self.destination().map(|d| &d.request_headers);
        let route = self.route.map(|r| &r.request_headers);
        let host = self.virtual_host.map(|v| &v.request_headers);
        let table = self.route.map(|_| &self.table.request_headers);
        [destination, route, host, table].into_iter().flatten()
    }

    /// Changes of the response's headers, most specific level first.
    pub fn response_mutations(&self) -> impl Iterator<Item = &'t HeaderMutations> {
        let destination = self.destination().map(|d| &d.response_headers);
        let route = self.route.map(|r| &r.response_headers);
        let host = self.route.and(self.virtual_host).map(|v| &v.response_headers);
        let table = self.route.map(|_| &self.table.response_headers);
        [destination, route, host, table].into_iter().flatten()
    }

    fn destination(&self) -> Option<&'t Destination> {
        match self.outcome {
            Outcome::Forward { destination, .. } => Some(destination),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
