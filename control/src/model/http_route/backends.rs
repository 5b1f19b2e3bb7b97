//! `rules[].backendRefs[]`: where requests go, as it is written.

use std::sync::Arc;

use super::filters::Filters;
use crate::model::virtual_service::HeaderEdits;
use crate::objects::Rejection;
use crate::objects::gateway_api as raw;

/// The API's own limit.
const MAX_WEIGHT: i64 = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub target: BackendTarget,
    pub weight: u32,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// The path in the object, for messages.
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendTarget {
    Service {
        namespace: Arc<str>,
        name: Arc<str>,
        port: u16,
    },
    /// Something that this mesh does not know, as `GROUP/KIND`.
    Other(String),
}

impl Backend {
    pub(crate) fn parse(
        raw: &raw::HttpBackend,
        namespace: &Arc<str>,
        field: &str,
    ) -> Result<Self, Rejection> {
        let weight = raw.weight.unwrap_or(1);
        let weight = u32::try_from(weight)
            .ok()
            .filter(|_| weight <= MAX_WEIGHT)
            .ok_or_else(|| {
                let reason = format!("is {weight}; expected 0 to {MAX_WEIGHT}");
                Rejection::invalid(format!("{field}.weight"), reason)
            })?;
        let filters = Filters::of_backend(&raw.filters, &format!("{field}.filters"))?;
        Ok(Self {
            target: target(raw, namespace, field)?,
            weight,
            request_headers: filters.request_headers,
            response_headers: filters.response_headers,
            field: field.to_owned(),
        })
    }
}

fn target(raw: &raw::HttpBackend, namespace: &Arc<str>, field: &str) -> Result<BackendTarget, Rejection> {
    let kind = raw.kind.as_deref().unwrap_or("Service");
    if !matches!((&*raw.group, kind), ("" | "core", "Service")) {
        return Ok(BackendTarget::Other(format!("{}/{kind}", raw.group)));
    }
    if raw.name.is_empty() {
        return Err(Rejection::invalid(format!("{field}.name"), "is missing"));
    }
    let Some(port) = raw.port.filter(|p| *p > 0) else {
        return Err(Rejection::invalid(
            format!("{field}.port"),
            "is missing; a Service needs it",
        ));
    };
    Ok(BackendTarget::Service {
        namespace: raw.namespace.clone().unwrap_or_else(|| namespace.clone()),
        name: raw.name.clone(),
        port,
    })
}
