//! Bills of materials: every crate that is linked into a program, as CycloneDX 1.5.
//!
//! From cargo's own resolution, so that it cannot disagree with the build. Procedural macros and build
//! scripts run at compile time and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::image::catalogue::Image;
use crate::image::revision::Revision;
use crate::process;
use crate::workspace::Workspace;

pub(super) struct Packages {
    packages: BTreeMap<String, Value>,
    /// Package to what it links.
    links: BTreeMap<String, Vec<String>>,
    checksums: BTreeMap<(String, String), String>,
    runtimes: Vec<Value>,
}

impl Packages {
    pub(super) fn read(workspace: &Workspace, triple: &str) -> Result<Self> {
        let output = process::output(
            "cargo metadata",
            workspace
                .plain_cargo("metadata")
                .args(["--format-version", "1", "--filter-platform", triple]),
        )?;
        let metadata: Value = serde_json::from_slice(&output).context("cargo metadata is not JSON")?;
        let lock =
            std::fs::read_to_string(workspace.root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
        Ok(Self {
            packages: packages(&metadata),
            links: links(&metadata),
            checksums: checksums(&lock),
            runtimes: runtimes()?,
        })
    }

    pub(super) fn bill(&self, image: &Image, revision: &Revision) -> Result<String> {
        let (root, _) = self
            .packages
            .iter()
            .find(|(_, package)| package["name"] == image.package)
            .with_context(|| format!("cargo knows no package {}", image.package))?;
        let linked = self.linked(root);
        let components: Vec<Value> = linked
            .iter()
            .filter(|id| *id != root)
            .map(|id| self.component(id))
            .chain(self.runtimes.iter().cloned())
            .collect();
        let bill = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "timestamp": revision.time,
                "component": {
                    "type": "container",
                    "bom-ref": root,
                    "name": image.name,
                    "description": image.title,
                    "version": self.packages[root]["version"],
                    "properties": [{"name": "commit", "value": revision.commit}],
                },
            },
            "components": components,
            "dependencies": self.dependencies(&linked),
        });
        serde_json::to_string_pretty(&bill).context("cannot write a bill of materials")
    }

    /// `root` and everything below it.
    fn linked(&self, root: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![root.to_owned()];
        while let Some(id) = waiting.pop() {
            if found.insert(id.clone()) {
                waiting.extend(self.below(&id).cloned());
            }
        }
        found
    }

    fn below(&self, id: &str) -> impl Iterator<Item = &String> {
        self.links.get(id).into_iter().flatten().filter(|below| {
            self.packages
                .get(*below)
                .is_some_and(|package| !is_macro(package))
        })
    }

    fn component(&self, id: &str) -> Value {
        let package = &self.packages[id];
        let (name, version) = name_and_version(package);
        let mut component = json!({
            "type": "library",
            "bom-ref": id,
            "name": name,
            "version": version,
            "purl": format!("pkg:cargo/{name}@{version}"),
        });
        if let Some(licence) = package["license"].as_str() {
            // Old packages write a slash for "or".
            component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
        }
        if let Some(checksum) = self.checksums.get(&(name, version)) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        component
    }

    fn dependencies(&self, linked: &BTreeSet<String>) -> Vec<Value> {
        linked
            .iter()
            .map(|id| {
                let below: BTreeSet<&String> = self.below(id).collect();
                json!({"ref": id, "dependsOn": below})
            })
            .collect()
    }
}

fn packages(metadata: &Value) -> BTreeMap<String, Value> {
    array(&metadata["packages"])
        .filter_map(|package| Some((shown_id(package["id"].as_str()?, metadata), package.clone())))
        .collect()
}

fn links(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    array(&metadata["resolve"]["nodes"])
        .filter_map(|node| {
            let below = array(&node["deps"])
                .filter(|dependency| array(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null()))
                .filter_map(|dependency| Some(shown_id(dependency["pkg"].as_str()?, metadata)))
                .collect();
            Some((shown_id(node["id"].as_str()?, metadata), below))
        })
        .collect()
}

/// Packages of the workspace are named by their path, which differs from machine to machine.
fn shown_id(id: &str, metadata: &Value) -> String {
    let root = metadata["workspace_root"].as_str().unwrap_or_default();
    id.replace(&format!("path+file://{root}/"), "")
}

fn is_macro(package: &Value) -> bool {
    array(&package["targets"]).any(|target| array(&target["kind"]).any(|kind| kind == "proc-macro"))
}

fn name_and_version(package: &Value) -> (String, String) {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    (text("name"), text("version"))
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Name and version to SHA-256, for packages of a registry.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    lock.split("[[package]]")
        .filter_map(|package| {
            let value = |key: &str| {
                let line = package
                    .lines()
                    .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
                Some(line.trim_end_matches('"').to_owned())
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}

/// What the compiler links into every static program.
fn runtimes() -> Result<Vec<Value>> {
    let rustc = first_line("rustc", Command::new("rustc").arg("--version"))?;
    let libc = first_line("getconf", Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    Ok(vec![
        runtime(
            "rust-std",
            rustc.trim_start_matches("rustc "),
            "MIT OR Apache-2.0",
        ),
        runtime("glibc", libc.trim_start_matches("glibc "), "LGPL-2.1-or-later"),
    ])
}

fn runtime(name: &str, version: &str, licence: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": name,
        "name": name,
        "version": version,
        "licenses": [{"expression": licence}],
    })
}

fn first_line(step: &str, command: &mut Command) -> Result<String> {
    let output = process::output(step, command)?;
    Ok(String::from_utf8_lossy(&output)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Value {
        let package = |id: &str, kind: &str| json!({"id": id, "name": id, "version": "1", "targets": [{"kind": [kind]}]});
        let link = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        json!({
            "workspace_root": "/w",
            "packages": [
                package("path+file:///w/a#1", "bin"), package("lib", "lib"), package("macro", "proc-macro"),
                package("below-macro", "lib"), package("dev", "lib"),
            ],
            "resolve": {"nodes": [
                {"id": "path+file:///w/a#1", "deps": [link("lib", Value::Null), link("macro", Value::Null), link("dev", json!("dev"))]},
                {"id": "macro", "deps": [link("below-macro", Value::Null)]},
            ]},
        })
    }

    #[test]
    fn only_what_is_linked_is_listed() {
        let metadata = metadata();
        let packages = Packages {
            packages: packages(&metadata),
            links: links(&metadata),
            checksums: BTreeMap::new(),
            runtimes: Vec::new(),
        };
        let linked: Vec<String> = packages.linked("a#1").into_iter().collect();
        assert_eq!(linked, ["a#1", "lib"]);
    }

    #[test]
    fn checksums_are_read_from_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0\"\nchecksum = \"beef\"\n\n[[package]]\nname = \"ours\"\nversion = \"0\"\n";
        let found = checksums(lock);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&("a".to_owned(), "1.0".to_owned())], "beef");
    }
}
