//! Describes images to `aquifer-oci`, which writes them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::image::catalogue::{Image, Variant};
use crate::image::revision::Revision;
use crate::process;
use crate::workspace::Workspace;

const LICENCE: &str = "Apache-2.0";
const PROGRAM_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const SHARED_FOLDER_MODE: u32 = 0o1777;

pub(super) struct Packing<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) triple: &'a str,
    pub(super) programs: &'a Path,
    pub(super) output: &'a Path,
    pub(super) hub: &'a str,
    pub(super) tag: &'a str,
    pub(super) revision: Revision,
}

pub(super) struct Packed {
    pub(super) reference: String,
    pub(super) digest: String,
    pub(super) compressed: u64,
}

impl Packing<'_> {
    pub(super) fn archive(&self, image: &Image) -> PathBuf {
        self.output.join(format!("{}.tar", image.name))
    }

    pub(super) fn pack(&self, image: &Image) -> Result<Vec<Packed>> {
        let description = self.output.join(format!("{}.json", image.name));
        fs::write(&description, self.description(image)?.to_string())
            .with_context(|| format!("cannot write {}", description.display()))?;
        let input = File::open(&description)?;
        let report = process::output("packing", self.workspace.tool("aquifer-oci").stdin(input))?;
        read_report(&report)
    }

    fn description(&self, image: &Image) -> Result<Value> {
        let images: Vec<Value> = image
            .variants()
            .iter()
            .map(|variant| self.variant(image, variant))
            .collect();
        Ok(json!({
            "output": self.archive(image),
            "created": self.revision.time,
            "architecture": architecture(self.triple)?,
            "images": images,
        }))
    }

    fn variant(&self, image: &Image, variant: &Variant) -> Value {
        let program = format!("/usr/local/bin/{}", image.binary);
        let mut entrypoint = vec![program];
        entrypoint.extend(variant.arguments.iter().cloned());
        json!({
            "references": [self.reference(image, variant)],
            "user": image.user,
            "entrypoint": entrypoint,
            "environment": ["PATH=/usr/local/bin"],
            "ports": image.ports,
            "labels": self.labels(image),
            "layers": [
                {"comment": "base", "files": base(image)},
                {"comment": image.binary, "files": [{
                    "path": format!("usr/local/bin/{}", image.binary),
                    "mode": PROGRAM_MODE,
                    "content": {"file": self.programs.join(image.binary)},
                }]},
            ],
        })
    }

    fn reference(&self, image: &Image, variant: &Variant) -> Value {
        let familiar = match &variant.repository {
            Some(repository) => repository.clone(),
            None => format!("{}/{}", self.hub, image.name),
        };
        json!({
            "repository": with_registry(&familiar),
            "familiar": familiar,
            "tag": variant.tag.unwrap_or(self.tag),
        })
    }

    fn labels(&self, image: &Image) -> Value {
        json!({
            "org.opencontainers.image.title": image.title,
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.revision": self.revision.commit,
            "org.opencontainers.image.created": self.revision.time,
            "org.opencontainers.image.licenses": LICENCE,
        })
    }
}

/// What a static program expects around it: names of its users, the order of name look-ups, /tmp.
fn base(image: &Image) -> Vec<Value> {
    let text = |path: &str, text: &str| json!({"path": path, "mode": FILE_MODE, "content": {"text": text}});
    let mut files = vec![
        text(
            "etc/passwd",
            "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n",
        ),
        text("etc/group", "root:x:0:\nnonroot:x:65532:\n"),
        text("etc/nsswitch.conf", "hosts: files dns\n"),
        json!({"path": "tmp", "mode": SHARED_FOLDER_MODE, "content": "folder"}),
    ];
    if image.public_authorities {
        files.push(json!({
            "path": "etc/ssl/certs/ca-certificates.crt",
            "mode": FILE_MODE,
            "content": "publicAuthorities",
        }));
    }
    files
}

/// As docker and containerd read a name: without a registry it is docker.io's.
fn with_registry(familiar: &str) -> String {
    let first = familiar.split('/').next().unwrap_or_default();
    if first == "localhost" || first.contains(['.', ':']) {
        familiar.to_owned()
    } else {
        format!("docker.io/{familiar}")
    }
}

/// As Go names it.
fn architecture(triple: &str) -> Result<&'static str> {
    Ok(match triple.split('-').next() {
        Some("x86_64") => "amd64",
        Some("aarch64") => "arm64",
        _ => bail!("no image is made for {triple}; x86_64 and aarch64 are known"),
    })
}

fn read_report(report: &[u8]) -> Result<Vec<Packed>> {
    let images: Vec<Value> = serde_json::from_slice(report).context("aquifer-oci's report is not JSON")?;
    images
        .iter()
        .map(|image| {
            Some(Packed {
                reference: image["references"][0].as_str()?.to_owned(),
                digest: image["digest"].as_str()?.to_owned(),
                compressed: image["compressed"].as_u64()?,
            })
        })
        .collect::<Option<_>>()
        .context("aquifer-oci's report lacks a field")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_a_registry_are_docker_hubs() {
        assert_eq!(with_registry("aquifer/agent"), "docker.io/aquifer/agent");
        assert_eq!(with_registry("localhost:5000/agent"), "localhost:5000/agent");
        assert_eq!(with_registry("ghcr.io/x/agent"), "ghcr.io/x/agent");
    }
}
