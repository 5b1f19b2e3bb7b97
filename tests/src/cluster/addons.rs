//! What every cluster holds beside its parts: CoreDNS, and Services that lead to the control plane's metrics.

use std::fmt::Write as _;

use serde_json::json;

use super::image::COREDNS;
use super::layout::{DNS_SERVICE, Member};

/// CoreDNS, as a part of the cluster is called.
pub(super) const DNS: &str = "coredns";
/// Where the API server shows its metrics.
pub(super) const DNS_METRICS: &str = "/api/v1/namespaces/kube-system/services/kube-dns:metrics/proxy/metrics";

/// Cluster names are answered, all others refused: there is no name server outside.
const COREFILE: &str = ".:53 {
    errors
    health {
        lameduck 2s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    prometheus :9153
    cache 5
    loop
    reload
    loadbalance
}
";

/// Ports of the control plane's parts that serve /metrics without asking who looks.
const METRICS: [(&str, u16, &str); 3] = [
    ("etcd", 2381, "http"),
    ("kube-controller-manager", 10257, "https"),
    ("kube-scheduler", 10259, "https"),
];

/// Everything, as one stream of documents.
pub(super) fn manifests() -> String {
    let mut all = coredns();
    for (name, port, scheme) in METRICS {
        for document in metrics_service(name, port, scheme) {
            let _ = write!(all, "---\n{document}\n");
        }
    }
    all
}

/// A Service and its one endpoint, for a Prometheus inside the cluster. (The API server's own proxy leads to pods alone.)
fn metrics_service(name: &str, port: u16, scheme: &str) -> [serde_json::Value; 2] {
    let ports = json!([{"name": "metrics", "port": port, "protocol": "TCP", "appProtocol": scheme}]);
    [
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"clusterIP": "None", "ports": ports},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [Member::Control.address()], "conditions": {"ready": true}}],
            "ports": ports,
        }),
    ]
}

fn coredns() -> String {
    let corefile: String = COREFILE.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        r"apiVersion: v1
kind: ServiceAccount
metadata: {{name: coredns, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: system:coredns}}
rules:
- {{apiGroups: [''], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: system:coredns}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}}
subjects: [{{kind: ServiceAccount, name: coredns, namespace: kube-system}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: coredns, namespace: kube-system}}
data:
  Corefile: |
{corefile}---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: coredns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      serviceAccountName: coredns
      priorityClassName: system-cluster-critical
      dnsPolicy: Default
      containers:
      - name: coredns
        image: {COREDNS}
        args: [-conf, /etc/coredns/Corefile]
        ports:
        - {{name: dns, containerPort: 53, protocol: UDP}}
        - {{name: dns-tcp, containerPort: 53, protocol: TCP}}
        - {{name: metrics, containerPort: 9153, protocol: TCP}}
        # The only name server: one that a busy machine keeps from answering is no dead one, and nobody finds anything
        # while it is taken for that.
        readinessProbe: {{httpGet: {{path: /ready, port: 8181}}, periodSeconds: 1, timeoutSeconds: 30}}
        livenessProbe: {{httpGet: {{path: /health, port: 8080}}, initialDelaySeconds: 30, timeoutSeconds: 30}}
        securityContext:
          allowPrivilegeEscalation: false
          readOnlyRootFilesystem: true
          capabilities: {{add: [NET_BIND_SERVICE], drop: [ALL]}}
        volumeMounts: [{{name: config, mountPath: /etc/coredns}}]
      volumes: [{{name: config, configMap: {{name: coredns}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {DNS_SERVICE}
  selector: {{k8s-app: kube-dns}}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
  - {{name: metrics, port: 9153, protocol: TCP}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_an_object() {
        let all = manifests();
        let documents: Vec<&str> = all.split("---\n").collect();
        assert_eq!(documents.len(), 6 + 2 * METRICS.len());
        for document in documents {
            let value: serde_json::Value = serde_saphyr::from_str(document).expect(document);
            assert!(value["kind"].is_string(), "{document}");
        }
    }
}
