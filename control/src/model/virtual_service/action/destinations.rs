//! Destinations, their weights, and mirrors.

use std::sync::Arc;

use super::headers::HeaderEdits;
use crate::model::field::Share;
use crate::model::host::destination_host;
use crate::model::virtual_service::{CLUSTER_DOMAIN, indexed};
use crate::objects::istio as raw;
use crate::objects::{Notice, Rejection};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub host: Arc<str>,
    pub subset: Option<Arc<str>>,
    pub port: Option<u16>,
    /// The path of this destination in its object, for messages.
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedDestination {
    pub destination: Destination,
    pub weight: u32,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTo {
    pub destination: Destination,
    pub share: Share,
}

pub(super) fn http_destinations(
    routes: &[raw::HttpDestination],
    ns: &Arc<str>,
    field: &str,
) -> Result<Vec<WeightedDestination>, Rejection> {
    let weights: Vec<Option<i64>> = routes.iter().map(|r| r.weight).collect();
    let weights = check_weights(&weights, field)?;
    let mut parsed = Vec::with_capacity(routes.len());
    for (i, route) in routes.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let headers = route.headers.as_ref();
        parsed.push(WeightedDestination {
            destination: Destination::parse(route.destination.as_ref(), ns, &format!("{field}.destination"))?,
            weight: weights[i],
            request_headers: HeaderEdits::parse(
                headers.and_then(|h| h.request.as_ref()),
                &format!("{field}.headers.request"),
            )?,
            response_headers: HeaderEdits::parse(
                headers.and_then(|h| h.response.as_ref()),
                &format!("{field}.headers.response"),
            )?,
        });
    }
    parsed.retain(|d| d.weight > 0);
    Ok(parsed)
}

pub(in crate::model::virtual_service) fn tcp_destinations(
    routes: &[raw::RouteDestination],
    ns: &Arc<str>,
    field: &str,
) -> Result<Vec<WeightedDestination>, Rejection> {
    if routes.is_empty() {
        return Err(Rejection::invalid(
            field,
            "is empty; a tcp rule needs a destination",
        ));
    }
    let weights: Vec<Option<i64>> = routes.iter().map(|r| r.weight).collect();
    let weights = check_weights(&weights, field)?;
    let mut parsed = indexed(routes, field, |route, field| {
        Ok(WeightedDestination {
            destination: Destination::parse(route.destination.as_ref(), ns, &format!("{field}.destination"))?,
            weight: 0,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        })
    })?;
    for (destination, weight) in parsed.iter_mut().zip(&weights) {
        destination.weight = *weight;
    }
    parsed.retain(|d| d.weight > 0);
    Ok(parsed)
}

/// The sum need not be 100. One destination gets everything, whatever its weight.
fn check_weights(weights: &[Option<i64>], field: &str) -> Result<Vec<u32>, Rejection> {
    let mut checked = Vec::with_capacity(weights.len());
    for (i, weight) in weights.iter().enumerate() {
        let weight = weight.unwrap_or(0);
        let valid = u32::try_from(weight)
            .ok()
            .filter(|w| *w <= MAX_WEIGHT)
            .ok_or_else(|| {
                let reason = format!("is {weight}; expected 0 to {MAX_WEIGHT}");
                Rejection::invalid(format!("{field}[{i}].weight"), reason)
            })?;
        checked.push(valid);
    }
    if let [only] = checked.as_mut_slice() {
        *only = (*only).max(1);
    }
    if checked.iter().map(|w| u64::from(*w)).sum::<u64>() == 0 {
        return Err(Rejection::invalid(
            field,
            "has weights that add up to 0: no request could be routed",
        ));
    }
    Ok(checked)
}

/// Keeps sums within 32 bits for any number of destinations that an object can hold.
const MAX_WEIGHT: u32 = 1_000_000;

impl Destination {
    pub(super) fn parse(
        raw: Option<&raw::Destination>,
        ns: &Arc<str>,
        field: &str,
    ) -> Result<Self, Rejection> {
        let Some(raw) = raw else {
            return Err(Rejection::invalid(field, "is missing"));
        };
        if raw.host.is_empty() {
            return Err(Rejection::invalid(format!("{field}.host"), "is missing"));
        }
        let port = raw.port.as_ref().and_then(|p| p.number);
        if port == Some(0) {
            return Err(Rejection::invalid(
                format!("{field}.port.number"),
                "is 0; expected 1 to 65535",
            ));
        }
        Ok(Self {
            host: destination_host(&raw.host, ns, CLUSTER_DOMAIN, &format!("{field}.host"))?,
            subset: (!raw.subset.is_empty()).then(|| raw.subset.clone()),
            port,
            field: field.to_owned(),
        })
    }
}

/// Checked and kept, but no proxy of this version mirrors.
pub(super) fn note_mirrors(mirrors: Vec<MirrorTo>, notices: &mut Vec<Notice>) -> Vec<MirrorTo> {
    let message = "requests are not mirrored by this version";
    notices.extend(
        mirrors
            .iter()
            .map(|m| Notice::not_supported(m.destination.field.as_str(), message)),
    );
    mirrors
}

pub(super) fn parse_mirrors(
    rule: &raw::HttpRoute,
    ns: &Arc<str>,
    field: &str,
) -> Result<Vec<MirrorTo>, Rejection> {
    if rule.mirror.is_some() && !rule.mirrors.is_empty() {
        return Err(Rejection::invalid(
            format!("{field}.mirrors"),
            "cannot be used together with mirror",
        ));
    }
    if let Some(mirror) = &rule.mirror {
        let share = match (rule.mirror_percentage.as_ref(), rule.mirror_percent) {
            (None, Some(percent)) => Share::percent(percent, &format!("{field}.mirrorPercent"))?,
            (percentage, _) => Share::parse(percentage, &format!("{field}.mirrorPercentage"))?,
        };
        let destination = Destination::parse(Some(mirror), ns, &format!("{field}.mirror"))?;
        return Ok(vec![MirrorTo { destination, share }]);
    }
    indexed(&rule.mirrors, &format!("{field}.mirrors"), |mirror, field| {
        if mirror.headers.is_some() {
            let at = format!("{field}.headers");
            return Err(Rejection::unsupported(
                at,
                "headers of a mirror are not supported by this version",
            ));
        }
        Ok(MirrorTo {
            destination: Destination::parse(
                mirror.destination.as_ref(),
                ns,
                &format!("{field}.destination"),
            )?,
            share: Share::parse(mirror.percentage.as_ref(), &format!("{field}.percentage"))?,
        })
    })
}
