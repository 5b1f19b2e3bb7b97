//! PeerAuthentication and AuthorizationPolicy at layer 4, validated.
//!
//! A node agent sees connections, not requests. What an AuthorizationPolicy says about requests therefore cannot be
//! enforced here, and the policy errs on the closed side, as the fields' notices say: an ALLOW rule that needs a
//! request is left out (it allows nothing), a DENY rule keeps only its connection part (it denies more).

mod authorization;
pub mod closed;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::istio as raw;
use crate::objects::{Meta, Notice, Rejection};

pub use authorization::AuthorizationPolicy;

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// As the wider scope says.
    #[default]
    Unset,
    /// Plaintext is accepted beside the mesh's own TLS; the mesh's default.
    Permissive,
    Strict,
}

#[derive(Clone, Debug)]
pub struct PeerAuthentication {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    /// `None`: the whole namespace, or the whole mesh in the root namespace.
    pub selector: Option<Labels>,
    pub mode: MtlsMode,
    /// By the pod's own port.
    pub ports: BTreeMap<u16, MtlsMode>,
}

impl PeerAuthentication {
    pub fn parse(
        spec: raw::PeerAuthentication,
        meta: &Meta,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let selector = selector(spec.selector);
        if selector.is_none() && !spec.port_level_mtls.is_empty() {
            return Err(Rejection::invalid(
                "spec.portLevelMtls",
                "needs spec.selector.matchLabels",
            ));
        }
        let mut ports = BTreeMap::new();
        for (port, mtls) in &spec.port_level_mtls {
            let field = format!("spec.portLevelMtls[{port:?}]");
            let number = port.parse::<u16>().ok().filter(|n| *n > 0);
            let Some(number) = number else {
                return Err(Rejection::invalid(field, "is not a port from 1 to 65535"));
            };
            ports.insert(number, mode(&mtls.mode, &format!("{field}.mode"), notices)?);
        }
        let whole = spec.mtls.map(|m| m.mode).unwrap_or_default();
        Ok(Self {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            selector,
            mode: mode(&whole, "spec.mtls.mode", notices)?,
            ports,
        })
    }
}

/// A selector without labels selects everything, which is what no selector means.
fn selector(raw: Option<raw::Selector>) -> Option<Labels> {
    raw.map(|s| s.match_labels).filter(|labels| !labels.is_empty())
}

fn mode(text: &str, field: &str, notices: &mut Vec<Notice>) -> Result<MtlsMode, Rejection> {
    Ok(match text {
        "" | "UNSET" => MtlsMode::Unset,
        "PERMISSIVE" => MtlsMode::Permissive,
        "STRICT" => MtlsMode::Strict,
        "DISABLE" => {
            let message =
                "is taken as PERMISSIVE: the mesh's tunnel cannot be turned off for an enrolled pod";
            notices.push(Notice::warning(field, message));
            MtlsMode::Permissive
        }
        other => {
            let reason = format!("is {other:?}; expected UNSET, DISABLE, PERMISSIVE or STRICT");
            return Err(Rejection::invalid(field, reason));
        }
    })
}
