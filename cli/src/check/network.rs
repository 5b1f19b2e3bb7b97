//! Which CNI the cluster has, and whether it is known to go with the mesh: the table in docs/install.md.

use serde_json::Value;

use crate::check::report::Report;
use crate::kubectl::Kubectl;

const PORT: &str = "NetworkPolicies must let port 15008 through between pods of the mesh";

/// A CNI by the name of its DaemonSet.
struct Known {
    daemonset: &'static str,
    name: &'static str,
    /// How it is known to go with the mesh.
    how: &'static str,
}

const DOCUMENTED: &str = "known from its documentation to need nothing";
const UNTRIED: &str = "not tried; it needs nothing if each pod has a network namespace of its own";

const KNOWN: [Known; 12] = [
    known("kindnet", "kindnet", DOCUMENTED),
    known("kube-flannel-ds", "Flannel", DOCUMENTED),
    known("calico-node", "Calico", DOCUMENTED),
    known("canal", "Canal", DOCUMENTED),
    known("cilium", "Cilium", DOCUMENTED),
    known("aws-node", "the AWS VPC CNI", UNTRIED),
    known("azure-cns", "the Azure CNI", UNTRIED),
    known("anetd", "GKE Dataplane V2 (Cilium)", UNTRIED),
    known("antrea-agent", "Antrea", UNTRIED),
    known("weave-net", "Weave Net", UNTRIED),
    known("kube-router", "kube-router", UNTRIED),
    known("ovnkube-node", "OVN-Kubernetes", UNTRIED),
];

const fn known(daemonset: &'static str, name: &'static str, how: &'static str) -> Known {
    Known { daemonset, name, how }
}

pub(super) fn check(kubectl: &Kubectl, report: &mut Report) -> anyhow::Result<()> {
    let daemonsets = kubectl.items(&["daemonsets", "--all-namespaces"])?;
    let found = KNOWN.iter().find_map(|known| {
        let is = |object: &&Value| object["metadata"]["name"] == known.daemonset;
        daemonsets.iter().find(is).map(|object| (known, object))
    });
    let Some((known, object)) = found else {
        report.ok(
            "CNI",
            "none that is known by its DaemonSet; any that gives each pod a network namespace of its own will do",
        );
        return Ok(());
    };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    match known.daemonset {
        "cilium" => {
            let settings = kubectl.object(&["configmap", "cilium-config", "-n", namespace])?;
            cilium(&settings.unwrap_or_default()["data"], report);
        }
        "calico-node" => {
            let felix = ["felixconfigurations.crd.projectcalico.org", "default"];
            calico(&kubectl.object(&felix)?.unwrap_or_default()["spec"], report);
        }
        _ => report.ok("CNI", format!("{}: {}; {PORT}", known.name, known.how)),
    }
    Ok(())
}

fn cilium(settings: &Value, report: &mut Report) {
    let is = |key: &str, value: &str| settings[key] == value;
    let mut missing = Vec::new();
    if !is("cni-exclusive", "false") {
        missing.push("cni.exclusive=false");
    }
    let rewrites = is("kube-proxy-replacement", "true") || is("kube-proxy-replacement", "strict");
    if rewrites && !is("bpf-lb-sock-hostns-only", "true") {
        missing.push("socketLB.hostNamespaceOnly=true");
    }
    if missing.is_empty() {
        report.ok("CNI", format!("Cilium, with what the mesh needs of it; {PORT}"));
        return;
    }
    report.warn(
        "CNI",
        "Cilium takes the mesh's plugin out of the chain, or rewrites the connections that the mesh captures",
        format!(
            "set {} in Cilium's values, and restart its agents",
            missing.join(" and ")
        ),
    );
}

fn calico(spec: &Value, report: &mut Report) {
    let rewrites = spec["bpfEnabled"] == true && spec["bpfConnectTimeLoadBalancing"] != "Disabled";
    if !rewrites {
        report.ok("CNI", format!("Calico: {DOCUMENTED}; {PORT}"));
        return;
    }
    report.warn(
        "CNI",
        "Calico with eBPF rewrites the connections that the mesh captures",
        "`kubectl patch felixconfiguration default --type merge -p '{\"spec\":{\"bpfConnectTimeLoadBalancing\":\"Disabled\"}}'`",
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(check: impl Fn(&mut Report)) -> String {
        let mut report = Report::default();
        check(&mut report);
        report.lines[0].to_string()
    }

    #[test]
    fn cilium_is_asked_for_what_it_lacks() {
        let said = line(|r| cilium(&json!({ "kube-proxy-replacement": "true" }), r));
        assert!(
            said.contains("set cni.exclusive=false and socketLB.hostNamespaceOnly=true"),
            "{said}"
        );
        let right = json!({ "cni-exclusive": "false", "kube-proxy-replacement": "false" });
        assert!(line(|r| cilium(&right, r)).starts_with("ok"));
        assert!(line(|r| cilium(&Value::Null, r)).starts_with("warn"));
    }

    #[test]
    fn calico_is_told_only_with_ebpf() {
        assert!(line(|r| calico(&Value::Null, r)).starts_with("ok"));
        assert!(line(|r| calico(&json!({ "bpfEnabled": true }), r)).starts_with("warn"));
        let off = json!({ "bpfEnabled": true, "bpfConnectTimeLoadBalancing": "Disabled" });
        assert!(line(|r| calico(&off, r)).starts_with("ok"));
    }
}
