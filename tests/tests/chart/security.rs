//! docs/security-model.md names every capability, mount and rule, and nothing that is not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::documents::Page;
use crate::helm::{list, name, of_kind, rendered, texts};

const EVERYTHING: [&str; 2] = [
    "--set",
    "webhook.enabled=true,egressGateway.enabled=true,gatewayApi.secretNamespaces={shop}",
];

/// Role, group, resource, name, verb.
type Permission = [String; 5];

fn page() -> Page {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security-model.md");
    Page::new(&fs::read_to_string(path).unwrap())
}

#[test]
fn every_permission_has_a_reason_and_every_reason_a_permission() {
    let granted = granted(&rendered(&EVERYTHING));
    let explained: BTreeSet<Permission> = page()
        .table("What the API server allows")
        .iter()
        .flat_map(|row| explained(row))
        .collect();
    let unexplained: Vec<_> = granted.difference(&explained).collect();
    assert!(unexplained.is_empty(), "not explained: {unexplained:?}");
    let superfluous: Vec<_> = explained.difference(&granted).collect();
    assert!(superfluous.is_empty(), "not granted: {superfluous:?}");
}

#[test]
fn no_permission_is_a_wildcard() {
    for permission in granted(&rendered(&EVERYTHING)) {
        assert!(
            permission.iter().all(|part| !part.contains('*')),
            "{permission:?}"
        );
    }
}

/// Whoever may read every Secret or make pods owns the cluster.
#[test]
fn nothing_may_read_every_secret_or_run_anything_by_itself() {
    for [role, _, resource, _, verb] in granted(&rendered(&EVERYTHING)) {
        let cluster_wide = role.starts_with("ClusterRole");
        assert!(!(cluster_wide && resource == "secrets"), "{role}");
        let escalates = ["escalate", "bind", "impersonate"].contains(&verb.as_str());
        assert!(!escalates, "{role}");
        assert!(!(resource == "pods" && verb == "create"), "{role}");
        assert!(!resource.starts_with("pods/"), "{role}: {resource}");
    }
}

#[test]
fn every_binding_leads_to_a_role_and_an_account() {
    let objects = rendered(&EVERYTHING);
    let there = |kind: &str, wanted: &Value| {
        of_kind(&objects, kind).any(|object| object["metadata"]["name"] == *wanted)
    };
    for binding in of_kind(&objects, "ClusterRoleBinding").chain(of_kind(&objects, "RoleBinding")) {
        let role = &binding["roleRef"];
        assert!(there(role["kind"].as_str().unwrap(), &role["name"]), "{binding}");
        for subject in list(&binding["subjects"]) {
            assert!(there("ServiceAccount", &subject["name"]), "{binding}");
        }
    }
}

#[test]
fn every_capability_is_explained() {
    let objects = rendered(&[]);
    let agent = of_kind(&objects, "DaemonSet").next().unwrap();
    let context = &agent["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let granted: BTreeSet<&str> = texts(&context["capabilities"]["add"]).into_iter().collect();
    let page = page();
    let table = page.table("Capabilities");
    let explained: BTreeSet<&str> = table.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(granted, explained);
}

#[test]
fn every_mount_is_explained() {
    let objects = rendered(&[]);
    let agent = of_kind(&objects, "DaemonSet").next().unwrap();
    let mounts: BTreeSet<(String, bool)> =
        list(&agent["spec"]["template"]["spec"]["containers"][0]["volumeMounts"])
            .map(|mount| {
                let path = mount["mountPath"].as_str().unwrap().to_owned();
                (path, mount["readOnly"] == true)
            })
            .collect();
    let explained: BTreeSet<(String, bool)> = page()
        .table("Mounts")
        .iter()
        .map(|row| (row[0].trim_matches('`').to_owned(), row[2] == "read"))
        .collect();
    assert_eq!(mounts, explained);
}

fn granted(objects: &[Value]) -> BTreeSet<Permission> {
    of_kind(objects, "ClusterRole")
        .chain(of_kind(objects, "Role"))
        .flat_map(|role| {
            let title = format!("{} {}", role["kind"].as_str().unwrap(), name(role));
            list(&role["rules"]).flat_map(move |rule| {
                let groups = texts(&rule["apiGroups"])
                    .iter()
                    .map(|group| if group.is_empty() { "core" } else { *group }.to_owned())
                    .collect::<Vec<_>>();
                let owned = |key: &str| texts(&rule[key]).iter().map(|text| (*text).to_owned()).collect();
                combinations(
                    &title,
                    &groups,
                    &owned("resources"),
                    &owned("resourceNames"),
                    &owned("verbs"),
                )
            })
        })
        .collect()
}

fn explained(row: &[String]) -> Vec<Permission> {
    let cell = |index: usize| -> Vec<String> {
        row[index]
            .split(',')
            .map(|word| word.trim().to_owned())
            .filter(|word| word != "–")
            .collect()
    };
    assert!(row[5].len() > 5, "no reason: {row:?}");
    combinations(&row[0], &cell(1), &cell(2), &cell(3), &cell(4))
}

fn combinations(
    role: &str,
    groups: &[String],
    resources: &Vec<String>,
    names: &Vec<String>,
    verbs: &Vec<String>,
) -> Vec<Permission> {
    let any = vec![String::new()];
    let names = if names.is_empty() { &any } else { names };
    let mut found = Vec::new();
    for group in groups {
        for resource in resources {
            for name in names {
                for verb in verbs {
                    found.push([role, group, resource, name, verb].map(str::to_owned));
                }
            }
        }
    }
    found
}
