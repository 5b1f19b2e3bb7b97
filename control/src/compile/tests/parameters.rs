//! What users lay over the objects that are made for their Gateways.

use serde_json::json;

use super::fixture::{Mesh, message, report};
use super::gateway_api::mesh;

const WITH_PARAMETERS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}], infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: shape}}}";

fn shape(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shape}}\ndata: {{{data}}}")
}

#[test]
fn parameters_are_laid_over_what_is_deployed() {
    let mut mesh = mesh();
    mesh.add("shop", WITH_PARAMETERS);
    mesh.add("shop", &shape("deployment: '{spec: {replicas: 3, template: {spec: {priorityClassName: high, containers: [{name: istio-proxy, resources: {requests: {cpu: 1}}}]}}}, metadata: {name: other, labels: {gateway.istio.io/managed: nobody}}}', horizontalPodAutoscaler: '{spec: {minReplicas: 2, maxReplicas: 5}}', podDisruptionBudget: '{spec: {minAvailable: 1}}'"));
    let compiled = mesh.compile();
    let made: Vec<String> = compiled.rendered.keys().map(ToString::to_string).collect();
    assert_eq!(
        made,
        [
            "Service shop/w",
            "ServiceAccount shop/w",
            "Deployment shop/w",
            "HorizontalPodAutoscaler shop/w",
            "PodDisruptionBudget shop/w"
        ]
    );
    let find = |kind: &str| {
        compiled
            .rendered
            .iter()
            .find(|(k, _)| &*k.kind == kind)
            .unwrap()
            .1
    };
    let deployment = find("Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(
        (
            &pod["priorityClassName"],
            &pod["containers"][0]["resources"]["requests"]["cpu"]
        ),
        (&"high".into(), &1.into())
    );
    assert_eq!(pod["containers"][0]["image"], "aquifer/waypoint");
    assert_eq!(deployment["metadata"]["name"], "w");
    assert_eq!(
        deployment["metadata"]["labels"]["gateway.istio.io/managed"],
        "istio.io-mesh-controller"
    );
    assert!(deployment["spec"].get("replicas").is_none(), "the autoscaler's");
    let autoscaler = find("HorizontalPodAutoscaler");
    assert_eq!(
        (
            &autoscaler["spec"]["scaleTargetRef"]["name"],
            &autoscaler["spec"]["maxReplicas"]
        ),
        (&"w".into(), &5.into())
    );
    let selector = &find("PodDisruptionBudget")["spec"]["selector"]["matchLabels"];
    assert_eq!(selector["gateway.networking.k8s.io/gateway-name"], "w");
}

const BOTH_ROLES: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: w}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}";

#[test]
fn what_is_deployed_has_no_privilege() {
    let mut mesh = mesh();
    let compiled = mesh.add("shop", BOTH_ROLES).compile();
    let rendered = compiled.rendered.iter();
    let deployments = rendered.filter(|(key, _)| &*key.kind == "Deployment");
    let pods: Vec<_> = deployments
        .map(|(_, value)| &value["spec"]["template"]["spec"])
        .collect();
    let roles: Vec<_> = pods.iter().map(|pod| &pod["containers"][0]["args"][1]).collect();
    assert_eq!(roles, ["gateway", "waypoint"]);
    for pod in pods {
        assert_eq!(pod["automountServiceAccountToken"], false);
        for shared in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
            assert_eq!(pod.get(shared), None, "{shared}");
        }
        let (of_pod, only) = (&pod["securityContext"], &pod["containers"][0]);
        assert_eq!(of_pod["runAsNonRoot"], true);
        assert_ne!(of_pod["runAsUser"].as_u64().expect("a user"), 0);
        assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["containers"].as_array().map(Vec::len), Some(1));
        assert_eq!(only["name"], "istio-proxy", "dashboards and overlays go by it");
        let unprivileged = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        });
        assert_eq!(only["securityContext"], unprivileged);
        for volume in pod["volumes"].as_array().expect("volumes") {
            let is_harmless = ["projected", "configMap"]
                .iter()
                .any(|kind| volume.get(kind).is_some());
            assert!(is_harmless, "{volume}");
        }
    }
}

#[test]
fn parameters_that_go_wrong_take_nothing_away() {
    let mut mesh = mesh();
    mesh.add("shop", WITH_PARAMETERS);
    let said = |mesh: &mut Mesh| message(report(&mesh.compile(), "Gateway", "shop", "w"), "Accepted");
    assert!(
        said(&mut mesh).starts_with(
            "False InvalidParameters: spec.infrastructure.parametersRef: no ConfigMap shop/shape"
        )
    );
    mesh.add("shop", &shape("deployment: '{spec: {replicas: 3}}'"));
    assert!(said(&mut mesh).starts_with("True"));
    for (wrong, why) in [
        ("deploiment: x", "has the key"),
        ("deployment: '- a'", "is not an object"),
        ("deployment: '{'", "is not YAML"),
    ] {
        mesh.add("shop", &shape(wrong));
        assert!(said(&mut mesh).contains(why), "{}", said(&mut mesh));
        let compiled = mesh.compile();
        let deployment = compiled
            .rendered
            .iter()
            .find(|(k, _)| &*k.kind == "Deployment")
            .unwrap()
            .1;
        assert_eq!(deployment["spec"]["replicas"], 3, "{wrong}");
    }
}
