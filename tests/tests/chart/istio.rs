//! Our definitions beside Istio's own: no field that a manifest may have is pruned.
//!
//! Istio's are fetched when the test runs, as a Go module, and kept with the cluster's parts; nothing of them is here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use aquifer_tests::cluster::parts;
use serde_json::Value;

use crate::helm::{chart, list, objects};

const MODULE: &str = "istio.io/api";
/// Whoever raises it adds to `xtask/crdgen/api` what the test then names.
const VERSION: &str = "v1.32.0";
const SUM: &str = "h1:37mJvg9I0biYZAEQF+MATs4FNeCpXEIVO3LFpVb6iNM=";
const FILE: &str = "kubernetes/customresourcedefinitions.gen.yaml";

/// `GROUP/VERSION KIND`, and the path of every field below `spec`.
type Fields = BTreeMap<String, BTreeSet<String>>;

fn fields(definitions: &[Value]) -> Fields {
    let mut all = Fields::new();
    for definition in definitions {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for version in list(&spec["versions"]) {
            let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
            let mut paths = BTreeSet::new();
            let schema = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            walk(schema, "spec", &mut paths);
            all.insert(format!("{group}/{} {kind}", text(&version["name"])), paths);
        }
    }
    all
}

/// A place where anything may stand says so in its own path.
fn walk(schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    paths.insert(path.to_owned());
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        paths.insert(format!("{path}.*"));
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{path}.{name}"), paths);
    }
    for (inner, mark) in [(&schema["items"], "[]"), (&schema["additionalProperties"], "{}")] {
        if inner.is_object() {
            walk(inner, &format!("{path}{mark}"), paths);
        }
    }
}

fn ours() -> Fields {
    let files = fs::read_dir(chart().join("files/crds")).unwrap();
    let texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    fields(&texts.flat_map(|text| objects(&text)).collect::<Vec<_>>())
}

/// Fields of a kind and version that `ours` has not, and that it would prune.
fn missing(theirs: &Fields, ours: &Fields) -> Vec<String> {
    let none = BTreeSet::new();
    let lacking = |(kind, paths): (&String, &BTreeSet<String>)| {
        let own = ours.get(kind).unwrap_or(&none);
        let lacks = paths.difference(own).map(|path| format!("{kind}: {path}"));
        lacks.collect::<Vec<_>>()
    };
    theirs.iter().flat_map(lacking).collect()
}

#[test]
fn every_field_of_istios_kinds_is_in_ours() {
    let file = parts::module_file(MODULE, VERSION, SUM, FILE).unwrap();
    let theirs = fields(&objects(&fs::read_to_string(file).unwrap()));
    let count: usize = theirs.values().map(BTreeSet::len).sum();
    assert!(
        theirs.len() > 30 && count > 3000,
        "{} kinds, {count} fields",
        theirs.len()
    );
    let ours = ours();
    let missing = missing(&theirs, &ours);
    assert!(
        missing.is_empty(),
        "of {MODULE} {VERSION}, these are missing:\n{}",
        missing.join("\n")
    );
    let names = |all: &Fields| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "kinds and versions");
}

#[test]
fn a_field_that_is_missing_is_named() {
    let theirs = ours();
    let mut fewer = theirs.clone();
    let rules = "networking.istio.io/v1 VirtualService";
    assert!(
        fewer
            .get_mut(rules)
            .unwrap()
            .remove("spec.http[].retries.attempts")
    );
    assert_eq!(
        missing(&theirs, &fewer),
        [format!("{rules}: spec.http[].retries.attempts")]
    );
}
