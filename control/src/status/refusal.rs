//! Why an object is not in effect at a proxy that says so itself.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::compile::report::Audience;
use crate::peers::Standing;
use crate::serve::ProxyType;
use crate::serve::registry::ProxyStatus;

/// A proxy that has not taken its configuration whole, and its words: they name the resources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Refusal {
    namespace: Arc<str>,
    pod: Arc<str>,
    said: Arc<str>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} refuses {}", self.namespace, self.pod, self.said)
    }
}

/// Which of the proxies that have to hold an object, and do not since `generation`, say that they refuse something;
/// the first by name, so that a status does not change with the order in which proxies connect.
pub(super) fn first(
    audience: &Audience,
    generation: u64,
    refusing: &[&ProxyStatus],
    there: &[Standing],
) -> Option<Refusal> {
    let lacks = |p: &&&ProxyStatus| p.generation_in_effect.is_none_or(|has| has < generation);
    let here = refusing.iter().filter(lacks).filter_map(|p| {
        let said = p.refusal.as_ref()?;
        concerns(audience, p.proxy_type, &p.namespace, &p.pod).then(|| new(&p.namespace, &p.pod, said))
    });
    let elsewhere = there.iter().filter(|s| !s.has).filter_map(|s| {
        let said = s.refusal.as_ref()?;
        concerns(audience, s.proxy_type, &s.namespace, &s.pod).then(|| new(&s.namespace, &s.pod, said))
    });
    here.chain(elsewhere).min()
}

fn new(namespace: &Arc<str>, pod: &Arc<str>, said: &Arc<str>) -> Refusal {
    Refusal {
        namespace: namespace.clone(),
        pod: pod.clone(),
        said: said.clone(),
    }
}

/// Where an object is for waypoints and gateways of all namespaces, nobody's words are quoted: any pod may come as one.
fn concerns(audience: &Audience, kind: ProxyType, namespace: &Arc<str>, pod: &Arc<str>) -> bool {
    match audience {
        Audience::Nobody | Audience::WaypointsAndGateways => false,
        Audience::Agents => kind == ProxyType::Agent,
        Audience::Pods(pods) => kind != ProxyType::Agent && pods.contains(&(namespace.clone(), pod.clone())),
    }
}
