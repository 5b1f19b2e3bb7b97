//! TLSRoute and TCPRoute: parents, the names that clients ask for, and where their connections go.

use std::sync::Arc;

use crate::model::host::HostPattern;
use crate::model::http_route::{Backend, ParentRef, hostname, parents};
use crate::model::virtual_service::indexed;
use crate::objects::gateway_api as raw;
use crate::objects::{Meta, Rejection};

/// The kinds of routes that this version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    Http,
    Tls,
    Tcp,
}

impl RouteKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

#[derive(Clone, Debug)]
pub struct StreamRoute {
    pub kind: RouteKind,
    pub parents: Vec<ParentRef>,
    /// Empty for those of the listener; a TCPRoute has none.
    pub hostnames: Vec<HostPattern>,
    pub backends: Vec<Backend>,
}

impl StreamRoute {
    pub fn parse_tls(spec: &raw::TlsRoute, meta: &Meta) -> Result<Self, Rejection> {
        Ok(Self {
            kind: RouteKind::Tls,
            parents: parents(&spec.parent_refs, meta),
            hostnames: indexed(&spec.hostnames, "spec.hostnames", hostname)?,
            backends: backends(&spec.rules, &meta.namespace)?,
        })
    }

    pub fn parse_tcp(spec: &raw::TcpRoute, meta: &Meta) -> Result<Self, Rejection> {
        Ok(Self {
            kind: RouteKind::Tcp,
            parents: parents(&spec.parent_refs, meta),
            hostnames: Vec::new(),
            backends: backends(&spec.rules, &meta.namespace)?,
        })
    }
}

/// The API's own limit, in backends.
const MAX_BACKENDS: usize = 16;

/// Those of the only rule: a second one would have nothing to be told apart by.
fn backends(rules: &[raw::StreamRule], namespace: &Arc<str>) -> Result<Vec<Backend>, Rejection> {
    let rule = match rules {
        [] => return Ok(Vec::new()),
        [rule] => rule,
        _ => {
            let reason = "has more than one rule, of which a connection could take only the first; take the others out";
            return Err(Rejection::unsupported("spec.rules", reason));
        }
    };
    let at = "spec.rules[0].backendRefs";
    if rule.backend_refs.len() > MAX_BACKENDS {
        let reason = format!("has more than {MAX_BACKENDS} backends");
        return Err(Rejection::invalid(at, reason));
    }
    indexed(&rule.backend_refs, at, |backend, field| {
        Backend::parse(&backend.without_filters(), namespace, field)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Object, ParsedObject};
    use crate::source::document;

    fn parse(kind: &str, spec: &str) -> Result<Arc<StreamRoute>, Rejection> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec: {spec}\n"
        );
        let parsed = document::parse(text.as_bytes());
        match ParsedObject::parse(parsed.objects[0].clone()).outcome {
            Ok(Object::StreamRoute(route)) => Ok(route),
            Ok(other) => panic!("{other:?}"),
            Err(rejection) => Err(rejection),
        }
    }

    #[track_caller]
    fn rejected(kind: &str, spec: &str, wanted: &str) {
        let said = parse(kind, spec).unwrap_err().to_string();
        assert!(said.starts_with(wanted), "{said}");
    }

    #[test]
    fn backends_have_the_apis_defaults() {
        let route = parse(
            "TLSRoute",
            "{parentRefs: [{name: g}], hostnames: [A.org, '*.b.org'], rules: [{backendRefs: [{name: a, port: 443}]}]}",
        )
        .unwrap();
        assert_eq!(route.kind, RouteKind::Tls);
        let hosts: Vec<String> = route.hostnames.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["a.org", "*.b.org"]);
        assert_eq!(route.backends[0].weight, 1);
        assert!(parse("TCPRoute", "{}").unwrap().backends.is_empty());
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_its_field() {
        rejected("TCPRoute", "{hostnames: [a]}", "spec.hostnames: unknown field");
        rejected("TLSRoute", "{hostnames: ['*']}", "spec.hostnames[0]: is *");
        rejected(
            "TCPRoute",
            "{rules: [{}, {}]}",
            "spec.rules: has more than one rule",
        );
        rejected(
            "TCPRoute",
            "{rules: [{backendRefs: [{name: a, port: 1, weight: -1}]}]}",
            "spec.rules[0].backendRefs[0].weight: is -1",
        );
        rejected(
            "TLSRoute",
            "{rules: [{backendRefs: [{name: a, port: 1, filters: []}]}]}",
            "spec.rules[0].backendRefs[0].filters: unknown field",
        );
        rejected(
            "TLSRoute",
            "{rules: [{backendRefs: [{name: a}]}]}",
            "spec.rules[0].backendRefs[0].port: is missing",
        );
    }
}
