//! Whether a pod belongs to the mesh, decided from labels alone.
//!
//! Ambient's label is taken as it is; Istio's injection labels count as enrolment too, so that manifests written for
//! sidecars work without them. The pod wins over its namespace; at one level the ambient label wins over injection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Set on a namespace or a pod: `ambient` is in, `none` is out.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Set on a namespace: `enabled` is in, `disabled` is out.
pub const INJECTION: &str = "istio-injection";
/// Set on a pod: `true` is in, `false` is out.
pub const INJECT: &str = "sidecar.istio.io/inject";
/// Set on a namespace or a pod: the revision of the control plane that serves it.
pub const REVISION: &str = "istio.io/rev";

/// Labels of an object, whatever map holds them.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for BTreeMap<Arc<str>, Arc<str>> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(AsRef::as_ref)
    }
}

/// What is known of a pod beside its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod shares its node's network namespace: capturing it would capture the node.
    pub host_network: bool,
    /// The pod already carries a proxy of its own (annotation `sidecar.istio.io/status`).
    pub has_sidecar: bool,
}

/// The decision, with the label or fact that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolment {
    Wanted { because: String },
    NotWanted { because: String },
}

impl Enrolment {
    pub fn is_wanted(&self) -> bool {
        matches!(self, Self::Wanted { .. })
    }

    pub fn because(&self) -> &str {
        match self {
            Self::Wanted { because } | Self::NotWanted { because } => because,
        }
    }

    fn wanted(because: impl fmt::Display) -> Self {
        Self::Wanted {
            because: because.to_string(),
        }
    }

    fn not_wanted(because: impl fmt::Display) -> Self {
        Self::NotWanted {
            because: because.to_string(),
        }
    }
}

/// Decides whether a pod is to be enrolled.
pub fn decide(namespace: &impl Labels, pod: &impl Labels, facts: PodFacts) -> Enrolment {
    if facts.host_network {
        return Enrolment::not_wanted("the pod uses the network of its node (hostNetwork)");
    }
    if facts.has_sidecar {
        return Enrolment::not_wanted("the pod already has a sidecar (annotation sidecar.istio.io/status)");
    }
    by_mode("pod", pod)
        .or_else(|| by_switch("pod", pod, INJECT, "true", "false"))
        .or_else(|| by_revision("pod", pod))
        .or_else(|| by_mode("namespace", namespace))
        .or_else(|| by_switch("namespace", namespace, INJECTION, "enabled", "disabled"))
        .or_else(|| by_revision("namespace", namespace))
        .unwrap_or_else(|| {
            Enrolment::not_wanted(format_args!(
                "neither the pod nor its namespace has the label {DATAPLANE_MODE}=ambient"
            ))
        })
}

fn by_mode(level: &str, labels: &impl Labels) -> Option<Enrolment> {
    by_switch(level, labels, DATAPLANE_MODE, "ambient", "none")
}

/// A label with one value for in and one for out; other values decide nothing.
fn by_switch(level: &str, labels: &impl Labels, key: &str, on: &str, off: &str) -> Option<Enrolment> {
    let value = labels.label(key)?;
    let because = format!("{level} label {key}={value}");
    if value == on {
        return Some(Enrolment::wanted(because));
    }
    (value == off).then(|| Enrolment::not_wanted(because))
}

fn by_revision(level: &str, labels: &impl Labels) -> Option<Enrolment> {
    let value = labels.label(REVISION).filter(|v| !v.is_empty())?;
    Some(Enrolment::wanted(format_args!(
        "{level} label {REVISION}={value}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: PodFacts = PodFacts {
        host_network: false,
        has_sidecar: false,
    };

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[track_caller]
    fn check(namespace: &[(&str, &str)], pod: &[(&str, &str)], wanted: bool, because: &str) {
        let decision = decide(&labels(namespace), &labels(pod), POD);
        assert_eq!(decision.is_wanted(), wanted, "{decision:?}");
        assert!(decision.because().contains(because), "{decision:?}");
    }

    #[test]
    fn unlabelled_is_out() {
        check(&[], &[], false, "neither");
        check(&[("istio-injection", "maybe")], &[], false, "neither");
    }

    #[test]
    fn namespace_opts_in() {
        check(
            &[(DATAPLANE_MODE, "ambient")],
            &[],
            true,
            "namespace label istio.io/dataplane-mode=ambient",
        );
        check(&[(INJECTION, "enabled")], &[], true, "istio-injection=enabled");
        check(&[(REVISION, "1-30")], &[], true, "istio.io/rev=1-30");
        check(
            &[(INJECTION, "disabled"), (REVISION, "1-30")],
            &[],
            false,
            "disabled",
        );
        check(
            &[(INJECTION, "disabled"), (DATAPLANE_MODE, "ambient")],
            &[],
            true,
            "ambient",
        );
    }

    #[test]
    fn pod_wins_over_namespace() {
        check(
            &[(DATAPLANE_MODE, "ambient")],
            &[(DATAPLANE_MODE, "none")],
            false,
            "pod label",
        );
        check(&[], &[(DATAPLANE_MODE, "ambient")], true, "pod label");
        check(
            &[(INJECTION, "enabled")],
            &[(INJECT, "false")],
            false,
            "inject=false",
        );
        check(
            &[(INJECTION, "disabled")],
            &[(INJECT, "true")],
            true,
            "inject=true",
        );
        check(&[], &[(DATAPLANE_MODE, "none"), (INJECT, "true")], false, "none");
    }

    #[test]
    fn facts_win_over_labels() {
        let ambient = labels(&[(DATAPLANE_MODE, "ambient")]);
        let host = PodFacts {
            host_network: true,
            ..POD
        };
        assert!(!decide(&ambient, &ambient, host).is_wanted());
        let sidecar = PodFacts {
            has_sidecar: true,
            ..POD
        };
        assert!(!decide(&ambient, &ambient, sidecar).is_wanted());
    }
}
