//! Every object is one that the API server knows, whatever the values.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::helm::{VALUE_SETS, chart, gateway_chart, helm, list, name, of_kind, render, rendered};

#[test]
fn lint_finds_nothing() {
    for folder in [chart(), gateway_chart()] {
        let output = helm(&["lint", "--strict", folder.to_str().unwrap(), "-n", "istio-system"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
    }
}

#[test]
fn every_set_of_values_renders_objects_that_the_api_knows() {
    for values in VALUE_SETS {
        for object in rendered(values) {
            check(&object);
        }
    }
}

#[test]
fn a_gateway_can_be_installed_on_its_own() {
    let objects = render(&gateway_chart(), "istio-edge", &[]);
    objects.iter().for_each(check);
    let deployment = of_kind(&objects, "Deployment").next().unwrap();
    assert_eq!(name(deployment), "istio-edge");
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"],
        serde_json::json!({"app": "istio-edge", "istio": "edge"})
    );
}

#[test]
fn profiles_differ_as_documented() {
    let names = |profile: &str| -> Vec<String> {
        let objects = rendered(&["-f", profile]);
        let mut names: Vec<String> = of_kind(&objects, "Deployment")
            .map(|object| format!("{}={}", name(object), object["spec"]["replicas"]))
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names("profiles/default.yaml"),
        ["aquifer-control=2", "istio-ingressgateway=1"]
    );
    assert_eq!(
        names("profiles/demo.yaml"),
        [
            "aquifer-control=1",
            "istio-egressgateway=1",
            "istio-ingressgateway=1"
        ]
    );
    assert_eq!(names("profiles/minimal.yaml"), ["aquifer-control=1"]);
}

#[test]
fn tools_find_the_mesh_by_istios_names() {
    let objects = rendered(&["--set", "webhook.enabled=true"]);
    let find = |kind: &'static str, wanted: &str| -> Value {
        of_kind(&objects, kind)
            .find(|object| name(object) == wanted)
            .unwrap_or_else(|| panic!("no {kind} {wanted}"))
            .clone()
    };
    let ports: Vec<u64> = list(&find("Service", "istiod")["spec"]["ports"])
        .map(|port| port["port"].as_u64().unwrap())
        .collect();
    assert_eq!(ports, [15012, 15014, 443]);
    let control = find("Deployment", "aquifer-control");
    assert_eq!(control["metadata"]["labels"]["app"], "istiod");
    assert_eq!(control["metadata"]["labels"]["istio.io/rev"], "default");
    let agent = find("DaemonSet", "aquifer-agent");
    assert_eq!(agent["metadata"]["labels"]["app.kubernetes.io/name"], "ztunnel");
    assert_eq!(agent["spec"]["template"]["metadata"]["labels"]["app"], "ztunnel");
    let mesh = find("ConfigMap", "istio");
    let settings: Value = serde_saphyr::from_str(mesh["data"]["mesh"].as_str().unwrap()).unwrap();
    assert_eq!(settings["trustDomain"], "cluster.local");
    assert_eq!(settings["rootNamespace"], "istio-system");
}

#[test]
fn the_users_mesh_settings_are_kept_as_they_are() {
    let objects = rendered(&[
        "--set-json",
        r#"meshConfig={"outboundTrafficPolicy":{"mode":"REGISTRY_ONLY"},"somethingNew":{"a":[1]}}"#,
    ]);
    let mesh = of_kind(&objects, "ConfigMap").next().unwrap();
    let settings: Value = serde_saphyr::from_str(mesh["data"]["mesh"].as_str().unwrap()).unwrap();
    assert_eq!(settings["outboundTrafficPolicy"]["mode"], "REGISTRY_ONLY");
    assert_eq!(settings["somethingNew"]["a"][0], 1);
}

/// Decodes the object and encodes it again: a field that is misspelt or in the wrong place gets lost.
fn check(object: &Value) {
    let decode = match object["kind"].as_str().unwrap() {
        "ClusterRole" => survives::<ClusterRole>,
        "ClusterRoleBinding" => survives::<ClusterRoleBinding>,
        "ConfigMap" => survives::<ConfigMap>,
        "CustomResourceDefinition" => survives::<CustomResourceDefinition>,
        "DaemonSet" => survives::<DaemonSet>,
        "Deployment" => survives::<Deployment>,
        "HorizontalPodAutoscaler" => survives::<HorizontalPodAutoscaler>,
        "Job" => survives::<Job>,
        "PodDisruptionBudget" => survives::<PodDisruptionBudget>,
        "ResourceQuota" => survives::<ResourceQuota>,
        "Role" => survives::<Role>,
        "RoleBinding" => survives::<RoleBinding>,
        "Service" => survives::<Service>,
        "ServiceAccount" => survives::<ServiceAccount>,
        "ValidatingAdmissionPolicy" => survives::<ValidatingAdmissionPolicy>,
        "ValidatingAdmissionPolicyBinding" => survives::<ValidatingAdmissionPolicyBinding>,
        "ValidatingWebhookConfiguration" => survives::<ValidatingWebhookConfiguration>,
        other => panic!("{other} is no kind that the chart is known to render"),
    };
    decode(object);
}

fn survives<T: DeserializeOwned + Serialize>(object: &Value) {
    let described = || format!("{} {}", object["kind"], object["metadata"]["name"]);
    let decoded: T =
        serde_path_to_error::deserialize(object).unwrap_or_else(|error| panic!("{}: {error}", described()));
    let encoded = serde_json::to_value(decoded).unwrap();
    if let Some(lost) = lost(object, &encoded, "") {
        panic!("{}: the API knows no field {lost}", described());
    }
}

/// The first field of `before` that `after` lacks. Empty values may be left out.
fn lost(before: &Value, after: &Value, path: &str) -> Option<String> {
    match before {
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match after.get(key) {
                Some(kept) => lost(value, kept, &path),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| lost(item, &after[index], &format!("{path}[{index}]"))),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
