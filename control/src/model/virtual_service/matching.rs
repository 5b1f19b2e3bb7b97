//! `http[].match[]`: the conditions of a rule.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::field::{TextMatch, header_name};
use crate::model::virtual_service::{GatewayRef, parse_gateways};
use crate::objects::Rejection;
use crate::objects::istio as raw;

/// Fields that are set are AND-ed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCondition {
    pub uri: Option<PathCondition>,
    pub ignore_uri_case: bool,
    pub headers: Vec<HeaderCondition>,
    pub query: Vec<(Arc<str>, TextMatch)>,
    pub port: Option<u16>,
    /// Overrides the VirtualService's own list where it is not empty.
    pub gateways: Vec<GatewayRef>,
    pub source: SourceCondition,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathCondition {
    Text(TextMatch),
    /// The path itself, or what lies below it; without a slash at its end, and not empty.
    Segments(Arc<str>),
}

/// A condition on a header, or on `:method`, `:authority` or `:scheme`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCondition {
    pub name: Arc<str>,
    pub value: TextMatch,
    /// `withoutHeaders`.
    pub invert: bool,
}

/// What the client's own workload must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceCondition {
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub namespace: Option<Arc<str>>,
}

impl SourceCondition {
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.namespace.is_none()
    }

    /// Both conditions; `None` where they exclude each other.
    pub fn and(&self, other: &Self) -> Option<Self> {
        let mut both = self.clone();
        for (key, value) in &other.labels {
            if both
                .labels
                .insert(key.clone(), value.clone())
                .is_some_and(|old| old != *value)
            {
                return None;
            }
        }
        match (&both.namespace, &other.namespace) {
            (Some(a), Some(b)) if a != b => return None,
            (None, Some(b)) => both.namespace = Some(b.clone()),
            _ => {}
        }
        Some(both)
    }

    pub fn holds_for(&self, labels: &BTreeMap<Arc<str>, Arc<str>>, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace)
            && self
                .labels
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl HttpCondition {
    pub(super) fn parse(m: &raw::HttpMatch, ns: &Arc<str>, field: &str) -> Result<Self, Rejection> {
        let at = |name: &str| format!("{field}.{name}");
        let uri = m.uri.as_ref().map(|u| parse_uri(u, &at("uri"))).transpose()?;
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", &m.method),
            (":authority", &m.authority),
            (":scheme", &m.scheme),
        ] {
            if let Some(value) = value {
                headers.push(pseudo_header(name, value, &at(&name[1..]))?);
            }
        }
        parse_headers(&m.headers, false, &at("headers"), &mut headers)?;
        parse_headers(&m.without_headers, true, &at("withoutHeaders"), &mut headers)?;
        let query = m.query_params.iter().map(|(name, value)| {
            let value = TextMatch::parse(value, &format!("{field}.queryParams[{name:?}]"))?;
            Ok((name.clone(), value))
        });
        Ok(Self {
            uri,
            ignore_uri_case: m.ignore_uri_case,
            headers,
            query: query.collect::<Result<_, Rejection>>()?,
            port: m.port,
            gateways: parse_gateways(&m.gateways, ns, &at("gateways"))?.unwrap_or_default(),
            source: SourceCondition {
                labels: m.source_labels.clone(),
                namespace: (!m.source_namespace.is_empty()).then(|| m.source_namespace.clone()),
            },
        })
    }

    /// Whether every request on every port matches.
    pub fn is_catch_all(&self) -> bool {
        let any_uri = match &self.uri {
            None | Some(PathCondition::Text(TextMatch::Present)) => true,
            Some(PathCondition::Text(TextMatch::Prefix(prefix))) => &**prefix == "/",
            Some(PathCondition::Text(TextMatch::Regex(regex))) => matches!(&**regex, ".*" | "/.*"),
            Some(PathCondition::Text(TextMatch::Exact(_)) | PathCondition::Segments(_)) => false,
        };
        any_uri
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.source.is_empty()
            && self.port.is_none()
    }
}

fn parse_uri(raw: &raw::StringMatch, field: &str) -> Result<PathCondition, Rejection> {
    let text = match TextMatch::parse(raw, field)? {
        TextMatch::Prefix(prefix) if prefix.is_empty() => TextMatch::Present,
        other => other,
    };
    Ok(PathCondition::Text(text))
}

fn pseudo_header(name: &str, value: &raw::StringMatch, field: &str) -> Result<HeaderCondition, Rejection> {
    Ok(HeaderCondition {
        name: name.into(),
        value: TextMatch::parse(value, field)?,
        invert: false,
    })
}

fn parse_headers(
    map: &BTreeMap<Arc<str>, raw::StringMatch>,
    invert: bool,
    field: &str,
    into: &mut Vec<HeaderCondition>,
) -> Result<(), Rejection> {
    for (name, value) in map {
        let field = format!("{field}[{name:?}]");
        if name.starts_with("@request.auth.claims") {
            return Err(Rejection::unsupported(
                field,
                "routing by JWT claims is not supported by this version",
            ));
        }
        let value = TextMatch::parse(value, &field)?;
        into.push(HeaderCondition {
            name: header_name(name, &field)?,
            value,
            invert,
        });
    }
    Ok(())
}
