//! The definitions of Istio's kinds: structural, complete enough for manifests that people have.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::helm::{chart, list, name, objects, rendered, texts};
use crate::schema::{Problems, problems};

/// Kind, its versions, its short name.
const KINDS: &[(&str, &[&str], Option<&str>)] = &[
    ("AuthorizationPolicy", &["v1", "v1beta1"], Some("ap")),
    ("DestinationRule", &["v1", "v1beta1", "v1alpha3"], Some("dr")),
    ("EnvoyFilter", &["v1alpha3"], None),
    ("Gateway", &["v1", "v1beta1", "v1alpha3"], Some("gw")),
    ("PeerAuthentication", &["v1", "v1beta1"], Some("pa")),
    ("ProxyConfig", &["v1beta1"], None),
    ("RequestAuthentication", &["v1", "v1beta1"], Some("ra")),
    ("ServiceEntry", &["v1", "v1beta1", "v1alpha3"], Some("se")),
    ("Sidecar", &["v1", "v1beta1", "v1alpha3"], None),
    ("Telemetry", &["v1", "v1alpha1"], Some("telemetry")),
    ("TrafficExtension", &["v1alpha1"], None),
    ("VirtualService", &["v1", "v1beta1", "v1alpha3"], Some("vs")),
    ("WasmPlugin", &["v1alpha1"], None),
    ("WorkloadEntry", &["v1", "v1beta1", "v1alpha3"], Some("we")),
    ("WorkloadGroup", &["v1", "v1beta1", "v1alpha3"], Some("wg")),
];

fn definitions() -> BTreeMap<String, Value> {
    fs::read_dir(chart().join("files/crds"))
        .unwrap()
        .flat_map(|entry| objects(&fs::read_to_string(entry.unwrap().path()).unwrap()))
        .map(|definition| {
            (
                definition["spec"]["names"]["kind"].as_str().unwrap().to_owned(),
                definition,
            )
        })
        .collect()
}

fn versions(definition: &Value) -> BTreeMap<&str, &Value> {
    list(&definition["spec"]["versions"])
        .map(|version| {
            let name = version["name"].as_str().unwrap();
            (name, &version["schema"]["openAPIV3Schema"])
        })
        .collect()
}

#[test]
fn every_kind_is_there_in_the_versions_people_write() {
    let definitions = definitions();
    assert_eq!(definitions.len(), KINDS.len());
    for (kind, wanted, short) in KINDS {
        let definition = &definitions[*kind];
        let listed: Vec<&str> = list(&definition["spec"]["versions"])
            .map(|version| version["name"].as_str().unwrap())
            .collect();
        assert_eq!(listed, *wanted, "{kind}");
        let names = &definition["spec"]["names"];
        assert_eq!(names["shortNames"][0].as_str(), *short, "{kind}");
        assert_eq!(
            name(definition),
            format!(
                "{}.{}",
                names["plural"].as_str().unwrap(),
                definition["spec"]["group"].as_str().unwrap()
            )
        );
    }
}

/// Kind, its versions, its short name.
const GATEWAY_API: &[(&str, &[&str], Option<&str>)] = &[
    ("GatewayClass", &["v1", "v1beta1"], Some("gc")),
    ("Gateway", &["v1", "v1beta1"], Some("gtw")),
    ("HTTPRoute", &["v1", "v1beta1"], None),
    ("GRPCRoute", &["v1"], None),
    ("TLSRoute", &["v1alpha3", "v1alpha2", "v1"], None),
    ("TCPRoute", &["v1alpha2"], None),
    ("ReferenceGrant", &["v1beta1", "v1"], Some("refgrant")),
];

#[test]
fn the_gateway_api_is_there_on_request_and_says_which_version_it_is() {
    let is_its = |object: &Value| name(object).ends_with(".gateway.networking.k8s.io");
    let with = rendered(&["--set", "gatewayApi.install=true"]);
    let without = rendered(&[]);
    assert!(!without.iter().any(is_its));
    let found: Vec<&Value> = with.iter().filter(|object| is_its(object)).collect();
    assert_eq!(found.len(), GATEWAY_API.len());
    for (kind, wanted, short) in GATEWAY_API {
        let is_it = |object: &&&Value| object["spec"]["names"]["kind"] == *kind;
        let definition = found.iter().find(is_it).unwrap();
        let listed: Vec<&str> = list(&definition["spec"]["versions"])
            .map(|version| version["name"].as_str().unwrap())
            .collect();
        assert_eq!(listed, *wanted, "{kind}");
        assert_eq!(
            definition["spec"]["names"]["shortNames"][0].as_str(),
            *short,
            "{kind}"
        );
        let annotations = &definition["metadata"]["annotations"];
        let channel = if wanted[0].contains("alpha") {
            "experimental"
        } else {
            "standard"
        };
        assert_eq!(annotations["gateway.networking.k8s.io/channel"], channel);
        assert!(
            annotations["gateway.networking.k8s.io/bundle-version"]
                .as_str()
                .unwrap()
                .starts_with('v')
        );
        for (version, schema) in versions(definition) {
            structural(schema, &format!("{kind} {version}"), true);
        }
    }
}

#[test]
fn one_version_is_stored_and_all_are_served_with_a_status() {
    for (kind, definition) in definitions() {
        let versions: Vec<&Value> = list(&definition["spec"]["versions"]).collect();
        let stored = versions
            .iter()
            .filter(|version| version["storage"] == true)
            .count();
        assert_eq!(stored, 1, "{kind}");
        for version in &versions {
            assert_eq!(version["served"], true, "{kind}");
            assert_eq!(version["subresources"], json!({"status": {}}), "{kind}");
            let status = &version["schema"]["openAPIV3Schema"]["properties"]["status"];
            assert_eq!(status["x-kubernetes-preserve-unknown-fields"], true, "{kind}");
        }
        assert!(
            versions
                .windows(2)
                .all(|pair| pair[0]["schema"] == pair[1]["schema"]),
            "{kind}: the versions' schemas differ, and nothing converts between them"
        );
    }
}

/// The rules of the API server for structural schemas, as far as a generator could break them.
#[test]
fn schemas_are_structural_and_explained() {
    for (kind, definition) in definitions() {
        for (version, schema) in versions(&definition) {
            structural(schema, &format!("{kind} {version}"), true);
        }
    }
}

fn structural(schema: &Value, path: &str, described: bool) {
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    assert!(int_or_string || schema["type"].is_string(), "{path} has no type");
    assert!(
        !described || schema["description"].is_string(),
        "{path} is not explained"
    );
    assert!(
        !(schema["properties"].is_object() && schema["additionalProperties"].is_object()),
        "{path} is both an object and a map"
    );
    for required in texts(&schema["required"]) {
        assert!(
            !schema["properties"][required].is_null(),
            "{path} requires {required}, which it lacks"
        );
    }
    for key in texts(&schema["x-kubernetes-list-map-keys"]) {
        assert!(
            texts(&schema["items"]["required"]).contains(&key),
            "{path}: the key {key} is not required"
        );
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let told = !path.is_empty() && !["apiVersion", "kind", "metadata"].contains(&name.as_str());
        structural(inner, &format!("{path}.{name}"), told);
    }
    for inner in [&schema["items"], &schema["additionalProperties"]] {
        if inner.is_object() {
            structural(inner, &format!("{path}[]"), false);
        }
    }
}

#[test]
fn the_samples_are_valid_and_lose_nothing() {
    let definitions = definitions();
    let mut checked = 0;
    for folder in ["bookinfo", "seed"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../deploy/samples")
            .join(folder);
        for entry in fs::read_dir(folder).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            for object in objects(&text) {
                if let Some(found) = check(&definitions, &object) {
                    assert_eq!(found, Problems::new(), "{object}");
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 12, "only {checked} objects of Istio's kinds");
}

/// None for kinds that are not Istio's.
fn check(definitions: &BTreeMap<String, Value>, object: &Value) -> Option<Problems> {
    let (group, version) = object["apiVersion"].as_str()?.split_once('/')?;
    let definition = definitions.get(object["kind"].as_str()?)?;
    (definition["spec"]["group"] == group).then(|| {
        let versions = versions(definition);
        let schema = versions
            .get(version)
            .unwrap_or_else(|| panic!("{} is not served as {version}", object["kind"]));
        problems(schema, object)
    })
}

#[test]
fn mistakes_are_found() {
    let definitions = definitions();
    let spec = |kind: &str, spec: Value| {
        let group = definitions[kind]["spec"]["group"].as_str().unwrap();
        let version = definitions[kind]["spec"]["versions"][0]["name"].as_str().unwrap();
        let object = json!({
            "apiVersion": format!("{group}/{version}"), "kind": kind, "metadata": {"name": "x"}, "spec": spec,
        });
        check(&definitions, &object).unwrap()
    };
    for (kind, wrong, named) in [
        ("VirtualService", json!({"hosts": ["a"], "htp": []}), "spec.htp"),
        ("VirtualService", json!({"hosts": "a"}), "spec.hosts"),
        (
            "VirtualService",
            json!({"http": [{"timeout": "5 seconds"}]}),
            "spec.http[0].timeout",
        ),
        (
            "VirtualService",
            json!({"http": [{"match": [{"uri": {"exact": "/", "prefix": "/"}}]}]}),
            "spec.http[0].match[0].uri",
        ),
        (
            "VirtualService",
            json!({"http": [{"route": [{"weight": 1}]}]}),
            "spec.http[0].route[0]",
        ),
        (
            "VirtualService",
            json!({"http": [{"match": [{"port": 65536}]}]}),
            "spec.http[0].match[0].port",
        ),
        ("DestinationRule", json!({}), "spec"),
        (
            "DestinationRule",
            json!({"host": "a", "trafficPolicy": {"loadBalancer": {"simple": "FASTEST"}}}),
            "spec.trafficPolicy.loadBalancer.simple",
        ),
        ("ServiceEntry", json!({"hosts": []}), "spec.hosts"),
        (
            "PeerAuthentication",
            json!({"mtls": {"mode": "strict"}}),
            "spec.mtls.mode",
        ),
    ] {
        let found = spec(kind, wrong);
        assert!(
            found.iter().any(|problem| problem.starts_with(named)),
            "{kind}: {found:?}"
        );
    }
}

#[test]
fn durations_are_gos() {
    let definitions = definitions();
    let ok = |text: &str| {
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "x"},
            "spec": {"http": [{"timeout": text}]},
        });
        check(&definitions, &object).unwrap().is_empty()
    };
    for good in ["5s", "0.5s", "1h30m", "100ms", "0s", "0", "1.5h", ".5s"] {
        assert!(ok(good), "{good}");
    }
    for bad in ["5", "5 s", "", "s", "1d", "-1s"] {
        assert!(!ok(bad), "{bad}");
    }
}
