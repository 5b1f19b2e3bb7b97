//! A route of any kind, as its parents and backends look at it.

use std::sync::Arc;

use crate::compile::gateway_api::{Name, name};
use crate::compile::inputs::{Entry, Inputs};
use crate::model::host::HostPattern;
use crate::model::http_route::{Backend, HttpRoute, ParentRef};
use crate::model::stream_route::{RouteKind, StreamRoute};
use crate::objects::Meta;

#[derive(Clone, Copy, Debug)]
pub enum Route<'a> {
    Http(&'a Entry<HttpRoute>),
    Stream(&'a Entry<StreamRoute>),
}

/// Every route: those of requests by name, then the others, the oldest first, since that one wins.
pub fn all(inputs: &Inputs) -> Vec<Route<'_>> {
    let mut streams: Vec<_> = inputs.tls_routes.iter().chain(&inputs.tcp_routes).collect();
    streams.sort_by_cached_key(|r| (r.meta.creation_timestamp.clone(), name(r)));
    let requests = inputs.http_routes.iter().map(Route::Http);
    requests.chain(streams.into_iter().map(Route::Stream)).collect()
}

impl<'a> Route<'a> {
    pub fn kind(self) -> RouteKind {
        match self {
            Self::Http(_) => RouteKind::Http,
            Self::Stream(route) => route.spec.kind,
        }
    }

    pub fn meta(self) -> &'a Arc<Meta> {
        match self {
            Self::Http(route) => &route.meta,
            Self::Stream(route) => &route.meta,
        }
    }

    pub fn name(self) -> Name {
        let meta = self.meta();
        (meta.namespace.clone(), meta.name.clone())
    }

    pub fn parents(self) -> &'a [ParentRef] {
        match self {
            Self::Http(route) => &route.spec.parents,
            Self::Stream(route) => &route.spec.parents,
        }
    }

    pub fn hostnames(self) -> &'a [HostPattern] {
        match self {
            Self::Http(route) => &route.spec.hostnames,
            Self::Stream(route) => &route.spec.hostnames,
        }
    }

    pub(super) fn backends(self) -> Vec<&'a Backend> {
        match self {
            Self::Http(route) => route.spec.rules.iter().flat_map(|rule| &rule.backends).collect(),
            Self::Stream(route) => route.spec.backends.iter().collect(),
        }
    }
}
