//! How images get onto a cluster whose nodes are not ours: by a command of its owner's, or through a registry.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use thiserror::Error;

use super::image;

/// What stands for an archive's path in the owner's command.
const PLACE: &str = "{}";
/// Registries that are reached without TLS, as container runtimes do.
const LOOPBACK: [&str; 2] = ["localhost", "127.0.0.1"];
/// Where the images of samples and suites are named from.
const SAMPLES: [&str; 2] = ["docker.io/istio/", "aquifer-cluster/"];
/// Digits of the digest that tell one build's images from another's.
const REVISION_DIGITS: usize = 12;

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Run by the shell once per archive, such as `kind load image-archive {}`.
    Command(String),
    /// Host and path, such as `registry.example.com/team`; images go below it, the cluster pulls them from there.
    Registry(String),
}

#[derive(Debug, Error)]
pub enum DeliveryError {
    #[error("--load-with {0:?} has no {PLACE}, which stands for the path of an image archive")]
    NoPlace(String),
    #[error(
        "--registry {0:?}: expected a host and a path without scheme, such as registry.example.com/aquifer"
    )]
    Registry(String),
    #[error("`{command}` failed: {message}")]
    Failed { command: String, message: String },
    #[error("cannot run {program}: {source}")]
    Run {
        program: &'static str,
        source: io::Error,
    },
    #[error("{} is no archive of images: {message}", path.display())]
    Archive { path: PathBuf, message: String },
}

impl Delivery {
    pub fn by_command(command: &str) -> Result<Self, DeliveryError> {
        if command.contains(PLACE) {
            Ok(Self::Command(command.to_owned()))
        } else {
            Err(DeliveryError::NoPlace(command.to_owned()))
        }
    }

    pub fn by_registry(registry: &str) -> Result<Self, DeliveryError> {
        let registry = registry.trim_end_matches('/');
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/".contains(&byte);
        if registry.contains('/') && !registry.contains("//") && registry.bytes().all(good) {
            Ok(Self::Registry(registry.to_owned()))
        } else {
            Err(DeliveryError::Registry(registry.to_owned()))
        }
    }

    /// Puts every image of these archives where the cluster's nodes find it.
    pub fn deliver(self, archives: &[PathBuf]) -> Result<Delivered, DeliveryError> {
        match self {
            Self::Command(command) => {
                archives.iter().try_for_each(|archive| load(&command, archive))?;
                Ok(Delivered::Loaded)
            }
            Self::Registry(registry) => {
                let contents = archives.iter().map(|archive| Contents::of(archive));
                let contents: Vec<Contents> = contents.collect::<Result<_, _>>()?;
                let place = Pushed {
                    revision: revision(&contents),
                    registry,
                };
                contents.iter().try_for_each(|contents| push(&place, contents))?;
                Ok(Delivered::Pushed(place))
            }
        }
    }
}

/// Where a cluster has the images from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// On its nodes, under their own names.
    Loaded,
    Pushed(Pushed),
}

/// Below a registry's path, with what they are in their tags: a node that has the tag has the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    registry: String,
    /// Of all the images that were pushed together.
    revision: String,
}

impl Delivered {
    /// Manifests of samples and suites, with the names that their images have on that cluster.
    pub fn rename(&self, manifests: &str) -> String {
        let Self::Pushed(place) = self else {
            return manifests.to_owned();
        };
        let rename = |text: String, prefix: &&str| place.rename(&text, prefix);
        SAMPLES.iter().fold(manifests.to_owned(), rename)
    }

    /// The chart's values for images whose own tag is this.
    pub fn values(&self, tag: &str) -> Value {
        match self {
            // What was loaded is there; pulling would find somebody else's or nothing.
            Self::Loaded => json!({"tag": tag, "imagePullPolicy": "Never"}),
            Self::Pushed(place) => json!({
                "hub": place.registry,
                "tag": place.tag(tag),
                "imagePullPolicy": "IfNotPresent",
            }),
        }
    }
}

impl Pushed {
    fn tag(&self, own: &str) -> String {
        format!("{own}-{}", self.revision)
    }

    /// The last part of an image's name, and its tag, below the registry's path.
    fn below(&self, name: &str) -> String {
        let last = name.rsplit('/').next().unwrap_or(name);
        format!("{}/{}", self.registry, self.tag(last))
    }

    /// Every image whose name begins like this.
    fn rename(&self, manifests: &str, prefix: &str) -> String {
        let mut parts = manifests.split(prefix);
        let mut renamed = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || "-._:".contains(letter);
            let end = part.find(|letter| !is_of_name(letter)).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            renamed.push_str(&self.below(name));
            renamed.push_str(rest);
        }
        renamed
    }
}

fn load(command: &str, archive: &Path) -> Result<(), DeliveryError> {
    let filled = command.replace(PLACE, &quoted(&archive.to_string_lossy()));
    run("sh", Command::new("sh").args(["-c", &filled])).map(drop)
}

/// As the shell takes it, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn push(place: &Pushed, contents: &Contents) -> Result<(), DeliveryError> {
    for name in &contents.names {
        let from = format!("docker-archive:{}:{name}", contents.archive.display());
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--quiet", "--insecure-policy"]);
        if without_tls(&place.registry) {
            skopeo.arg("--dest-tls-verify=false");
        }
        skopeo.args([from, format!("docker://{}", place.below(name))]);
        run("skopeo", &mut skopeo)?;
    }
    Ok(())
}

fn without_tls(registry: &str) -> bool {
    let host = registry.split(['/', ':']).next().unwrap_or_default();
    LOOPBACK.contains(&host)
}

/// What docker reads in an archive.
struct Contents<'a> {
    archive: &'a Path,
    /// Of every image.
    names: Vec<String>,
    /// Names each image's configuration by its digest, and that its layers by theirs.
    manifest: Vec<u8>,
}

impl<'a> Contents<'a> {
    fn of(archive: &'a Path) -> Result<Self, DeliveryError> {
        let broken = |message: String| DeliveryError::Archive {
            path: archive.to_owned(),
            message,
        };
        fs::metadata(archive).map_err(|error| broken(error.to_string()))?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--to-stdout", "--file"])
            .arg(archive)
            .arg("manifest.json");
        let manifest = run("tar", &mut tar)?;
        let read: Value = serde_json::from_slice(&manifest).map_err(|error| broken(error.to_string()))?;
        let images = read.as_array().into_iter().flatten();
        let tags = images.flat_map(|image| image["RepoTags"].as_array().into_iter().flatten());
        Ok(Self {
            archive,
            names: tags.filter_map(Value::as_str).map(str::to_owned).collect(),
            manifest,
        })
    }
}

/// The same for the same images, and for no others.
fn revision(contents: &[Contents]) -> String {
    let manifests: Vec<&[u8]> = contents.iter().map(|contents| &*contents.manifest).collect();
    let mut digest = image::hex(&manifests.concat());
    digest.truncate(REVISION_DIGITS);
    digest
}

fn run(program: &'static str, command: &mut Command) -> Result<Vec<u8>, DeliveryError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| DeliveryError::Run { program, source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    Err(DeliveryError::Failed {
        command: words.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_without_a_place_for_the_archive_is_refused() {
        let error = Delivery::by_command("kind load image-archive").unwrap_err();
        assert!(error.to_string().contains("{}"), "{error}");
        assert!(Delivery::by_command("kind load image-archive {}").is_ok());
    }

    #[test]
    fn a_registry_is_a_host_and_a_path() {
        for bad in ["", "host", "https://host/path", "host/a b", "host/'$(x)'"] {
            assert!(Delivery::by_registry(bad).is_err(), "{bad}");
        }
        let good = Delivery::by_registry("localhost:5000/mesh/").unwrap();
        assert_eq!(good, Delivery::Registry("localhost:5000/mesh".to_owned()));
    }

    #[test]
    fn the_archives_path_reaches_the_command_as_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let (archive, copy) = (folder.path().join("it's one.tar"), folder.path().join("copy"));
        fs::write(&archive, "content").unwrap();
        let command = format!("cp {{}} {}", copy.display());
        let delivery = Delivery::by_command(&command).unwrap();
        delivery.deliver(&[archive]).unwrap();
        assert_eq!(fs::read_to_string(copy).unwrap(), "content");
    }

    #[test]
    fn a_command_that_fails_is_told_with_what_it_said() {
        let delivery = Delivery::by_command("echo no such cluster >&2; false {}").unwrap();
        let error = delivery.deliver(&["/a.tar".into()]).unwrap_err().to_string();
        assert!(
            error.contains("/a.tar") && error.contains("no such cluster"),
            "{error}"
        );
    }

    #[test]
    fn images_keep_their_last_name_below_a_registry() {
        let place = Pushed {
            registry: "registry.example.com/team".to_owned(),
            revision: "0123".to_owned(),
        };
        assert_eq!(
            place.below("istio/examples-bookinfo-reviews-v1:1.20.3"),
            "registry.example.com/team/examples-bookinfo-reviews-v1:1.20.3-0123"
        );
        let manifest =
            "image: docker.io/istio/examples-bookinfo-details-v1:1.20.3\nimage: 'aquifer-cluster/app:1'";
        let delivered = Delivered::Pushed(place);
        assert_eq!(
            delivered.rename(manifest),
            "image: registry.example.com/team/examples-bookinfo-details-v1:1.20.3-0123\nimage: 'registry.example.com/team/app:1-0123'"
        );
        assert_eq!(delivered.values("1.0")["tag"], "1.0-0123");
        assert_eq!(Delivered::Loaded.rename(manifest), manifest);
    }

    #[test]
    fn another_build_has_another_tag() {
        let folder = tempfile::tempdir().unwrap();
        let archive = |name: &str, program: &[u8]| {
            let path = folder.path().join(name);
            let image = image::Image {
                name: image::APP,
                path: "app",
                program,
                arguments: &[],
            };
            image.write(fs::File::create(&path).unwrap()).unwrap();
            path
        };
        let revision = |archive: &Path| revision(&[Contents::of(archive).unwrap()]);
        let (one, same, other) = (
            archive("one", b"a"),
            archive("same", b"a"),
            archive("other", b"b"),
        );
        assert_eq!(revision(&one), revision(&same));
        assert_ne!(revision(&one), revision(&other));
        assert_eq!(Contents::of(&one).unwrap().names, [image::APP]);
    }

    #[test]
    fn a_registry_of_this_machine_is_reached_without_tls() {
        assert!(without_tls("localhost:5000/mesh") && !without_tls("localhost.example.com/mesh"));
    }
}
