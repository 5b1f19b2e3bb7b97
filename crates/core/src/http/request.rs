//! What routing may look at: one request and what is proven about its sender.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::{HeaderMap, Method};

/// The workload that sent a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source<'a> {
    /// Labels of the workload record whose identity the peer proved; `None` where there is no such record.
    pub labels: Option<&'a BTreeMap<Arc<str>, Arc<str>>>,
    /// Namespace of the proven identity.
    pub namespace: Option<&'a str>,
}

/// A request as routing sees it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    pub method: &'a Method,
    pub scheme: &'a str,
    /// The `Host` header or `:authority`, port included.
    pub host: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// After the question mark.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub source: Source<'a>,
}

impl<'a> RequestView<'a> {
    /// Whether a value of a header passes `test`; `None` where the header is absent. Names with a colon are pseudo
    /// headers.
    ///
    /// Values that were sent apart are looked at one by one (Envoy since 1.39): joined, a second value would let a
    /// request slip past a condition that one of them fulfils.
    pub fn any_value(&self, name: &str, mut test: impl FnMut(&[u8]) -> bool) -> Option<bool> {
        if let Some(value) = self.pseudo_header(name) {
            return Some(test(&value));
        }
        let mut values = self.headers.get_all(name).iter().peekable();
        values.peek()?;
        Some(values.any(|value| test(value.as_bytes())))
    }

    fn pseudo_header(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        match name {
            ":method" => Some(Cow::Borrowed(self.method.as_str().as_bytes())),
            ":scheme" => Some(Cow::Borrowed(self.scheme.as_bytes())),
            ":authority" | "host" => Some(Cow::Borrowed(self.host.as_bytes())),
            ":path" => Some(self.path_and_query()),
            _ => None,
        }
    }

    fn path_and_query(&self) -> Cow<'a, [u8]> {
        match self.query {
            Some(query) => Cow::Owned(format!("{}?{query}", self.path).into_bytes()),
            None => Cow::Borrowed(self.path.as_bytes()),
        }
    }

    /// The first value of a query parameter, as it is written; empty where it has none.
    pub fn query_value(&self, name: &str) -> Option<&'a str> {
        self.query?
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    pub fn is_grpc(&self) -> bool {
        let content_type = self.headers.get(::http::header::CONTENT_TYPE);
        content_type.is_some_and(|v| is_grpc_content_type(v.as_bytes()))
    }
}

/// `application/grpc`, or with a suffix after `+` or parameters after `;`.
pub fn is_grpc_content_type(value: &[u8]) -> bool {
    let rest = value.strip_prefix(b"application/grpc");
    rest.is_some_and(|r| matches!(r.first(), None | Some(b'+' | b';')))
}
