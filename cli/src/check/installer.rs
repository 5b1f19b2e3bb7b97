//! Whether the user may create what an installation creates.

use crate::check::report::Report;
use crate::kubectl::Kubectl;

const CLUSTER_WIDE: [&str; 5] = [
    "namespaces",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
];
const NAMESPACED: [&str; 5] = [
    "deployments.apps",
    "daemonsets.apps",
    "services",
    "serviceaccounts",
    "configmaps",
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
