//! Whether the user may create what an installation creates.

use crate::check::report::Report;
use crate::kubectl::Kubectl;

/// Every kind that the chart has, whatever its values.
const CLUSTER_WIDE: [&str; 7] = [
    "namespaces",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
];
/// The same, and Secrets, in which helm keeps its release.
const NAMESPACED: [&str; 12] = [
    "deployments.apps",
    "daemonsets.apps",
    "services",
    "serviceaccounts",
    "configmaps",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "poddisruptionbudgets.policy",
    "horizontalpodautoscalers.autoscaling",
    "resourcequotas",
    "jobs.batch",
    "secrets",
];

pub(super) fn check(kubectl: &Kubectl, namespace: &str, report: &mut Report) -> anyhow::Result<()> {
    let may = |kind: &str, scope: &[&str]| {
        let arguments = [&["auth", "can-i", "create", kind], scope].concat();
        // "no" is also a failure of the program.
        kubectl
            .text(&arguments)
            .is_ok_and(|answer| answer.trim().ends_with("yes"))
    };
    let wide = CLUSTER_WIDE
        .into_iter()
        .filter(|kind| !may(kind, &["--all-namespaces"]));
    let own = NAMESPACED
        .into_iter()
        .filter(|kind| !may(kind, &["-n", namespace]));
    let refused: Vec<&str> = wide.chain(own).collect();
    if refused.is_empty() {
        report.ok("installer", "may create everything that is needed");
    } else {
        let detail = format!("may not create {}", refused.join(", "));
        report.fail(
            "installer",
            detail,
            "use an account with cluster-admin for the installation",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::chart::carried_kinds;

    #[test]
    fn every_kind_of_the_chart_is_asked_for() {
        let asked: BTreeSet<&str> = CLUSTER_WIDE
            .into_iter()
            .chain(NAMESPACED)
            .filter_map(|kind| kind.split('.').next())
            .collect();
        for kind in carried_kinds() {
            let plural = match kind.to_ascii_lowercase() {
                kind if kind.ends_with("policy") => kind.replace("policy", "policies"),
                kind => format!("{kind}s"),
            };
            assert!(asked.contains(plural.as_str()), "{plural}");
        }
    }
}
