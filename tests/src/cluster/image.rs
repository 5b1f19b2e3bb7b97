//! Images of one program each, as archives that `ctr`, `docker load` and `skopeo` take.

use std::io::{self, Write};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;

/// What holds a pod's namespaces open.
pub const PAUSE: &str = "docker.io/aquifer-cluster/pause:1";
/// The tests' application: `app serve PORT`, `get URL`, `resolve NAME`, `capabilities`.
pub const APP: &str = "docker.io/aquifer-cluster/app:1";
pub(super) const COREDNS: &str = "docker.io/aquifer-cluster/coredns:1";

/// An image that holds one program and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    pub name: &'a str,
    /// The program's path inside, without the leading slash.
    pub path: &'a str,
    pub program: &'a [u8],
    /// What follows the program on its command line when the container names nothing.
    pub arguments: &'a [&'a str],
}

const BLOCK: usize = 512;

impl Image<'_> {
    /// Writes the archive. The same image gives the same bytes.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = Archive::default();
        let layer = archive.add_layer(Layer::of_program(self.path, self.program)?)?;
        let variant = Variant {
            name: self.name.to_owned(),
            entrypoint: vec![format!("/{}", self.path)],
            arguments: self
                .arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            user: "0:0",
        };
        archive.add_image(&variant, &[layer]);
        archive.write(out)
    }
}

/// Files that images share: what is in one archive twice is in it once.
#[derive(Debug, Default)]
pub struct Layer(Vec<u8>);

impl Layer {
    pub fn of_program(path: &str, program: &[u8]) -> io::Result<Self> {
        let mut layer = Self::default();
        layer.add(Path::new(path), program)?;
        Ok(layer)
    }

    /// Adds an executable file at this path of the image.
    pub fn add(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        let path = path.to_string_lossy();
        entry(&mut self.0, path.trim_start_matches('/'), 0o755, content)
    }
}

/// What makes an image of layers.
#[derive(Clone, Debug)]
pub struct Variant {
    pub name: String,
    pub entrypoint: Vec<String>,
    pub arguments: Vec<String>,
    /// User and group, as numbers.
    pub user: &'static str,
}

/// Several images in one file.
#[derive(Debug, Default)]
pub struct Archive {
    layers: Vec<(String, Vec<u8>)>,
    manifest: Vec<serde_json::Value>,
    configurations: Vec<(String, String)>,
}

impl Archive {
    /// Takes a layer and answers the number by which images name it.
    pub fn add_layer(&mut self, layer: Layer) -> io::Result<usize> {
        let Layer(mut content) = layer;
        end(&mut content)?;
        self.layers.push((hex(&content), content));
        Ok(self.layers.len() - 1)
    }

    pub fn add_image(&mut self, image: &Variant, layers: &[usize]) {
        let digests: Vec<&String> = layers.iter().map(|&layer| &self.layers[layer].0).collect();
        let configuration = configuration(image, &digests).to_string();
        let name = format!("{}.json", hex(configuration.as_bytes()));
        let files: Vec<String> = digests.iter().map(|digest| format!("{digest}.tar")).collect();
        self.manifest
            .push(json!({"Config": name, "RepoTags": [image.name], "Layers": files}));
        self.configurations.push((name, configuration));
    }

    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        let manifest = serde_json::Value::from(self.manifest.clone()).to_string();
        entry(&mut out, "manifest.json", 0o644, manifest.as_bytes())?;
        for (name, configuration) in &self.configurations {
            entry(&mut out, name, 0o644, configuration.as_bytes())?;
        }
        for (digest, content) in &self.layers {
            entry(&mut out, &format!("{digest}.tar"), 0o644, content)?;
        }
        end(&mut out)?;
        out.flush()
    }
}

fn configuration(image: &Variant, digests: &[&String]) -> serde_json::Value {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let layers: Vec<String> = digests.iter().map(|digest| format!("sha256:{digest}")).collect();
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": image.entrypoint,
            "Cmd": image.arguments,
            "User": image.user,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": layers},
    })
}

/// A regular file in ustar format, of nobody in particular and no time.
fn entry(out: &mut impl Write, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    if path.len() > 99 {
        return Err(io::Error::other(format!(
            "path {path} is too long for an archive"
        )));
    }
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", content.len()).as_bytes());
    put(136, b"00000000000");
    // The checksum is computed with blanks in its own place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header)?;
    out.write_all(content)?;
    let padding = content.len().next_multiple_of(BLOCK) - content.len();
    out.write_all(&[0; BLOCK][..padding])
}

fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// SHA-256 of it.
pub(super) fn hex(content: &[u8]) -> String {
    let digest = digest(&SHA256, content);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_tar_reads() {
        let image = Image {
            name: "docker.io/a/b:1",
            path: "app",
            program: b"program",
            arguments: &[],
        };
        let mut archive = Vec::new();
        image.write(&mut archive).unwrap();
        let mut tar = std::process::Command::new("tar")
            .args(["-xO", "manifest.json"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        let output = tar.wait_with_output().unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "docker.io/a/b:1");
    }

    #[test]
    fn content_is_padded_to_blocks() {
        let mut archive = Vec::new();
        entry(&mut archive, "a", 0o644, &[7; 513]).unwrap();
        assert_eq!(archive.len(), 3 * BLOCK);
        let mut archive = Vec::new();
        entry(&mut archive, "a", 0o644, &[7; 512]).unwrap();
        assert_eq!(archive.len(), 2 * BLOCK);
    }
}
