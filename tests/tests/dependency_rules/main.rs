//! The rules of CONTRIBUTING and deny.toml on crates and sources, checked with cargo alone.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod licences;
mod sources;
mod tree;

use std::collections::BTreeSet;

use licences::Expression;
use tree::Tree;

/// Our packages that each package may use. What is not named here may use no other of ours.
const MAY_USE: &[(&str, &[&str])] = &[
    ("aquifer-core", &[]),
    ("aquifer-ebpf-abi", &[]),
    ("aquifer-identity", &["aquifer-core"]),
    ("aquifer-hbone", &["aquifer-core", "aquifer-identity"]),
    ("aquifer-xds", &["aquifer-core", "aquifer-identity"]),
    ("aquifer-telemetry", &["aquifer-core"]),
    (
        "aquifer-agent",
        &[
            "aquifer-core",
            "aquifer-identity",
            "aquifer-hbone",
            "aquifer-xds",
            "aquifer-telemetry",
            "aquifer-ebpf-abi",
        ],
    ),
    (
        "aquifer-waypoint",
        &[
            "aquifer-core",
            "aquifer-identity",
            "aquifer-hbone",
            "aquifer-xds",
            "aquifer-telemetry",
        ],
    ),
    (
        "aquifer-control",
        &[
            "aquifer-core",
            "aquifer-identity",
            "aquifer-xds",
            "aquifer-telemetry",
        ],
    ),
    (
        "aquifer-cli",
        &[
            "aquifer-core",
            "aquifer-control",
            "aquifer-identity",
            "aquifer-xds",
            "aquifer-telemetry",
        ],
    ),
    ("aquifer-codegen", &[]),
    ("aquifer-crdgen", &[]),
    ("aquifer-oci", &[]),
    ("xtask", &[]),
];
/// Suites reach into the programs they test; nothing may depend on them in turn.
const TESTS: &str = "aquifer-tests";
/// The one package that loads kernel programs.
const AGENT: &str = "aquifer-agent";
/// What keeps the model free of edges.
const NOT_IN_CORE: [&str; 6] = ["tokio", "prost", "tonic", "kube", "rustls", "hyper"];

#[test]
fn packages_depend_downwards_only() {
    for (package, allowed) in MAY_USE {
        let tree = Tree::of(package);
        let ours: Vec<&str> = tree
            .names()
            .filter(|name| is_ours(name) && name != package)
            .collect();
        let wrong: Vec<&&str> = ours.iter().filter(|name| !allowed.contains(name)).collect();
        assert!(
            wrong.is_empty(),
            "{package} must not depend on {wrong:?}; it may use {allowed:?}"
        );
    }
}

#[test]
fn every_package_has_a_rule() {
    let known: BTreeSet<&str> = MAY_USE
        .iter()
        .map(|(package, _)| *package)
        .chain([TESTS])
        .collect();
    for package in tree::members() {
        assert!(
            known.contains(package.as_str()),
            "{package} is new: say in MAY_USE what it may depend on"
        );
    }
}

#[test]
fn the_agent_alone_links_aya() {
    for (package, _) in MAY_USE.iter().filter(|(package, _)| *package != AGENT) {
        let aya: Vec<String> = Tree::of(package)
            .names()
            .filter(|name| *name == "aya" || name.starts_with("aya-"))
            .map(str::to_owned)
            .collect();
        // The ABI crate may implement aya's marker trait for its types where the agent asks for it.
        assert!(
            aya.is_empty(),
            "{package} links {aya:?}, which belongs to {AGENT} alone"
        );
    }
}

#[test]
fn core_knows_no_runtime_and_no_wire() {
    let tree = Tree::of("aquifer-core");
    let wrong: Vec<&str> = tree.names().filter(|name| NOT_IN_CORE.contains(name)).collect();
    assert!(wrong.is_empty(), "aquifer-core depends on {wrong:?}");
}

#[test]
fn xtask_stays_light() {
    let tree = Tree::of("xtask");
    let wrong: Vec<&str> = tree
        .names()
        .filter(|name| ["tokio", "hyper", "aya", "tonic"].contains(name))
        .collect();
    assert!(
        wrong.is_empty(),
        "xtask depends on {wrong:?}; it only builds and spawns"
    );
}

#[test]
fn banned_crates_are_not_built() {
    let banned = sources::banned_crates();
    assert!(
        banned.contains("ring") && banned.contains("serde_yaml"),
        "deny.toml was not understood: {banned:?}"
    );
    let tree = Tree::whole();
    let wrong: Vec<&str> = tree.names().filter(|name| banned.contains(*name)).collect();
    assert!(
        wrong.is_empty(),
        "deny.toml bans {wrong:?}; `cargo tree --workspace -i CRATE` says who asks for it"
    );
}

#[test]
fn licences_are_allowed() {
    let allowed = sources::allowed_licences();
    assert!(
        allowed.contains("Apache-2.0"),
        "deny.toml was not understood: {allowed:?}"
    );
    for (name, licence) in Tree::whole().licences() {
        let expression = Expression::parse(licence);
        assert!(
            expression.is_some_and(|expression| expression.is_satisfied_by(&allowed)),
            "{name} has licence {licence:?}, which deny.toml does not allow"
        );
    }
}

#[test]
fn unsafe_code_is_forbidden_where_it_is_not_needed() {
    for (root, package) in tree::crate_roots() {
        if [AGENT, TESTS, "aquifer-ebpf-abi"].contains(&package.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(&root).unwrap();
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{} lacks #![forbid(unsafe_code)]",
            root.display()
        );
    }
}

#[test]
fn one_crate_builds_tls_configurations() {
    for file in sources::rust_files() {
        if file.starts_with("crates/identity/") || file.starts_with("tests/") {
            continue;
        }
        for builder in ["ClientConfig::builder", "ServerConfig::builder"] {
            let wrong = sources::read(&file).contains(builder);
            assert!(
                !wrong,
                "{file} calls {builder}: only crates/identity builds rustls configurations"
            );
        }
    }
}

#[test]
fn nothing_reads_outside_the_repository() {
    // Put together here, or this file would name them.
    let outside = [
        concat!("../", "shared"),
        concat!("/work", "/"),
        concat!(".", "library"),
    ];
    for file in sources::text_files() {
        let text = sources::read(&file);
        for name in outside {
            assert!(!text.contains(name), "{file} names {name}, which no clone has");
        }
    }
}

#[test]
fn modules_have_their_own_names() {
    let wrong: Vec<String> = sources::rust_files()
        .into_iter()
        .filter(|file| file.ends_with("/mod.rs"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{wrong:?}: write foo.rs beside foo/, so that tabs and traces name the module"
    );
}

#[test]
fn files_stay_readable() {
    for file in sources::rust_files()
        .into_iter()
        .filter(|file| !file.contains("/pb/"))
    {
        let lines = sources::read(&file).lines().count();
        assert!(lines <= 800, "{file} has {lines} lines; look for a seam at 500");
    }
}

fn is_ours(package: &str) -> bool {
    package.starts_with("aquifer-") || package == "xtask"
}
