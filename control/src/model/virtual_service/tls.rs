//! Rules of `tls`: connections by the name that their client asks for, passed on as they are.

use std::sync::Arc;

use crate::model::host::HostPattern;
use crate::model::virtual_service::{GatewayRef, WeightedDestination, action, indexed, parse_gateways};
use crate::objects::Rejection;
use crate::objects::istio as raw;

/// One rule of `tls`: weights per connection.
#[derive(Clone, Debug)]
pub struct TlsRule {
    /// Never empty.
    pub conditions: Vec<TlsCondition>,
    pub destinations: Vec<WeightedDestination>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCondition {
    /// Never empty; each is covered by a host of the VirtualService.
    pub names: Vec<HostPattern>,
    pub port: Option<u16>,
    pub gateways: Vec<GatewayRef>,
}

impl TlsRule {
    pub(super) fn parse(
        rule: &raw::TlsRoute,
        hosts: &[HostPattern],
        ns: &Arc<str>,
        field: &str,
    ) -> Result<Self, Rejection> {
        let at = |name: &str| format!("{field}.{name}");
        if rule.r#match.is_empty() {
            let reason = "is empty; a tls rule needs a match with sniHosts";
            return Err(Rejection::invalid(at("match"), reason));
        }
        Ok(Self {
            conditions: indexed(&rule.r#match, &at("match"), |m, f| {
                TlsCondition::parse(m, hosts, ns, f)
            })?,
            destinations: action::tcp_destinations(&rule.route, ns, &at("route"))?,
        })
    }
}

impl TlsCondition {
    fn parse(
        m: &raw::TlsMatch,
        hosts: &[HostPattern],
        ns: &Arc<str>,
        field: &str,
    ) -> Result<Self, Rejection> {
        let at = |name: &str| format!("{field}.{name}");
        let set = [
            ("destinationSubnets", !m.destination_subnets.is_empty()),
            ("sourceLabels", !m.source_labels.is_empty()),
            ("sourceNamespace", !m.source_namespace.is_empty()),
        ];
        if let Some((name, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
            return Err(Rejection::unsupported(
                at(name),
                "is not supported for tls by this version",
            ));
        }
        if m.sni_hosts.is_empty() {
            return Err(Rejection::invalid(at("sniHosts"), "is empty"));
        }
        Ok(Self {
            names: indexed(&m.sni_hosts, &at("sniHosts"), |name, f| covered(name, hosts, f))?,
            port: m.port,
            gateways: parse_gateways(&m.gateways, ns, &at("gateways"))?.unwrap_or_default(),
        })
    }
}

fn covered(name: &str, hosts: &[HostPattern], field: &str) -> Result<HostPattern, Rejection> {
    let name = HostPattern::parse(name, field)?;
    let within = |host: &HostPattern| host.intersect(&name).as_ref() == Some(&name);
    if hosts.iter().any(within) {
        return Ok(name);
    }
    let reason = format!("{name} is covered by none of the object's hosts");
    Err(Rejection::invalid(field, reason))
}
