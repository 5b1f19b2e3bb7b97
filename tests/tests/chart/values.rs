//! Values that cannot work are refused, with their name.

use std::fs;

use serde_json::Value;

use crate::helm::{chart, gateway_chart, refused, rendered};

#[test]
fn wrong_values_are_refused_by_name() {
    for (values, named) in [
        ("control.replicas=0", "/control/replicas"),
        ("control.replica=1", "replica"),
        ("contrl.replicas=1", "contrl"),
        ("agent.meshCidrs={nonsense}", "/agent/meshCidrs/0"),
        ("agent.meshCidrs=null", "meshCidrs"),
        ("agent.cgroup.captured=/sys/fs/cgroup/x", "/agent/cgroup/captured"),
        ("agent.env.A-B=c", "A-B"),
        ("agent.podNetnsDir=netns", "/agent/podNetnsDir"),
        ("webhook.failurePolicy=Maybe", "/webhook/failurePolicy"),
        ("global.imagePullPolicy=Sometimes", "/global/imagePullPolicy"),
        ("global.hub=aquifer/", "/global/hub"),
        ("global.trustDomain=Bad_Domain", "/global/trustDomain"),
        ("global.logFormat=xml", "/global/logFormat"),
        (
            "meshConfig.outboundTrafficPolicy.mode=NO",
            "/meshConfig/outboundTrafficPolicy/mode",
        ),
        ("ingressGateway.replicaCount=many", "/replicaCount"),
        ("ingressGateway.service.type=Public", "/service/type"),
        ("egressGateway.enabled=true,egressGateway.servce=x", "servce"),
    ] {
        let message = refused(&chart(), &["--set", values]);
        assert!(message.contains(named), "{values}: {message}");
    }
}

#[test]
fn the_gateways_chart_has_a_schema_of_its_own() {
    for (values, named) in [
        ("replicaCount=x", "/replicaCount"),
        ("replicas=1", "replicas"),
        ("service.ports=null", "ports"),
        ("serviceAccount.name=A B", "/serviceAccount/name"),
    ] {
        let message = refused(&gateway_chart(), &["--set", values]);
        assert!(message.contains(named), "{values}: {message}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused_with_the_remedy() {
    for (values, named) in [
        (
            &["--set", "meshConfig.trustDomain=other.example"][..],
            "set global.trustDomain alone",
        ),
        (
            &["--set", "global.istioNamespace=elsewhere"],
            "set both to the same",
        ),
    ] {
        let message = refused(&chart(), values);
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn every_value_is_in_the_schema_and_every_setting_of_the_schema_has_a_default() {
    for folder in [chart(), gateway_chart()] {
        let values: Value =
            serde_saphyr::from_str(&fs::read_to_string(folder.join("values.yaml")).unwrap()).unwrap();
        same_keys(&schema(&folder), &values, "");
    }
}

/// Two copies, since a chart cannot refer to another one's schema.
#[test]
fn both_charts_know_the_same_global_values() {
    let global = |folder| schema(folder)["properties"]["global"].clone();
    assert_eq!(global(&chart()), global(&gateway_chart()));
    let defaults = |folder: std::path::PathBuf| -> Value {
        let text = fs::read_to_string(folder.join("values.yaml")).unwrap();
        serde_saphyr::from_str::<Value>(&text).unwrap()["global"].clone()
    };
    assert_eq!(defaults(chart()), defaults(gateway_chart()));
}

#[test]
fn profiles_only_set_what_exists() {
    // The schema would refuse anything else; this proves that each file is read at all.
    for profile in ["default", "demo", "minimal"] {
        assert!(!rendered(&["-f", &format!("profiles/{profile}.yaml")]).is_empty());
    }
    let files = fs::read_dir(chart().join("profiles")).unwrap().count();
    assert_eq!(files, 3, "a profile is not tested");
}

fn schema(folder: &std::path::Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("values.schema.json")).unwrap()).unwrap()
}

/// Only where the schema lists what there is; free maps and lists may hold anything.
fn same_keys(schema: &Value, values: &Value, path: &str) {
    let Some(known) = schema["properties"].as_object() else {
        return;
    };
    // What a user may leave out altogether.
    const WITHOUT_DEFAULT: [&str; 5] = ["/meshConfig", "requests", "limits", "claims", "type"];
    for (key, inner) in known {
        let path = format!("{path}/{key}");
        if WITHOUT_DEFAULT
            .iter()
            .any(|free| path.starts_with(free) || key == free)
            && values.get(key).is_none()
        {
            continue;
        }
        if path.starts_with("/meshConfig/") {
            continue;
        }
        let value = values
            .get(key)
            .unwrap_or_else(|| panic!("{path} is in the schema, but has no default in values.yaml"));
        same_keys(inner, value, &path);
    }
    if schema["additionalProperties"] == false {
        for key in values.as_object().unwrap().keys() {
            assert!(known.contains_key(key), "{path}/{key} is not in the schema");
        }
    }
}
