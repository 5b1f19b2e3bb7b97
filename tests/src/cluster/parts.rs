//! The programs of a cluster: built once from pinned versions, kept outside the work tree.
//!
//! The folder's name is a digest of everything that goes in, so another version is another folder, and a half-built one
//! is never taken: it is renamed to its place when it is complete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256};
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use super::image::{APP, COREDNS, Image, PAUSE};

mod go;
mod tools;

pub use tools::{HELM, KUBECTL, ToolError};

/// Where the cache is, when it is neither in XDG_CACHE_HOME nor in HOME's .cache.
const CACHE_ENV: &str = "AQUIFER_CACHE";

/// The program that holds most of Kubernetes, and the tests' application.
const SOURCES: [(&str, &str); 4] = [
    ("go.mod", include_str!("../../cluster-parts/go.mod")),
    ("go.sum", include_str!("../../cluster-parts/go.sum")),
    ("main.go", include_str!("../../cluster-parts/main.go")),
    ("app/main.go", include_str!("../../cluster-parts/app/main.go")),
];

/// One program or several of the same module.
struct Recipe {
    what: &'static str,
    /// Without a version: packages of our own sources.
    packages: &'static [&'static str],
    version: Option<&'static str>,
    tags: &'static str,
    linker: &'static str,
    cgo: bool,
}

const APPLICATION: Recipe = Recipe {
    what: "the tests' application",
    packages: &["./app"],
    version: None,
    tags: "",
    linker: "-s -w",
    cgo: false,
};

/// No part of a cluster: where one may have its images from.
const REGISTRY: Recipe = Recipe {
    what: "a registry of images",
    packages: &["github.com/google/go-containerregistry/cmd/crane"],
    version: Some("v0.22.1"),
    tags: "",
    linker: "-s -w",
    cgo: false,
};
const REGISTRY_FOLDER: &str = "crane-v0.22.1";

const RECIPES: [Recipe; 5] = [
    APPLICATION,
    Recipe {
        what: "runc",
        packages: &["github.com/opencontainers/runc"],
        version: Some("v1.5.2"),
        tags: "seccomp",
        linker: "-s -w",
        cgo: true,
    },
    Recipe {
        what: "containerd",
        packages: &[
            "github.com/containerd/containerd/v2/cmd/containerd",
            "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            "github.com/containerd/containerd/v2/cmd/ctr",
        ],
        version: Some("v2.4.2"),
        tags: "",
        linker: "-s -w",
        cgo: false,
    },
    Recipe {
        what: "CoreDNS",
        packages: &["github.com/coredns/coredns"],
        version: Some("v1.15.0"),
        tags: "",
        linker: "-s -w",
        cgo: false,
    },
    Recipe {
        what: "etcd and Kubernetes",
        packages: &["."],
        version: None,
        tags: "",
        // Without it the parts say that they are v0.0.0.
        linker: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/client-go/pkg/version.gitVersion=v1.37.2",
        cgo: false,
    },
];

#[derive(Debug, Error)]
pub enum PartsError {
    #[error("no folder for the cluster's parts: set HOME, XDG_CACHE_HOME or {CACHE_ENV}")]
    NoCache,
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("module {module}: `go mod download` gave {got}, expected checksum {expected}")]
    Module {
        module: String,
        got: String,
        expected: String,
    },
    #[error("building {what} failed; the command was `{command}`:\n{output}")]
    Build {
        what: &'static str,
        command: String,
        output: String,
    },
}

/// The folder of a cluster's programs and images.
#[derive(Clone, Debug)]
pub struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// What is already built.
    pub fn find() -> Result<Option<Self>, PartsError> {
        let folder = folder(&cache()?);
        Ok(folder.is_dir().then_some(Self { folder }))
    }

    /// Builds what is missing; minutes the first time, then nothing. `tell` hears of each step.
    pub fn find_or_build(tell: &dyn Fn(&str)) -> Result<Self, PartsError> {
        if let Some(parts) = Self::find()? {
            return Ok(parts);
        }
        let cache = cache()?;
        make_dir(&cache)?;
        let _lock = lock(&cache.join("cluster.lock"))?;
        // Whoever held the lock may have built it.
        if let Some(parts) = Self::find()? {
            return Ok(parts);
        }
        let (folder, fresh) = (folder(&cache), cache.join("cluster-new"));
        remove(&fresh)?;
        build(&fresh, &cache, tell)?;
        fs::rename(&fresh, &folder).map_err(|error| failed("name", &folder, error))?;
        Ok(Self { folder })
    }

    pub(super) fn programs(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// The tests' application, as a program of this machine.
    pub fn app(&self) -> PathBuf {
        self.programs().join("app")
    }

    /// The archives that every node holds from the start.
    pub(super) fn images(&self) -> Vec<PathBuf> {
        ["pause", "coredns", "app"]
            .map(|name| self.folder.join("images").join(format!("{name}.tar")))
            .to_vec()
    }
}

/// kubectl or helm, installed below the cache when this machine has none.
pub fn tool(name: &str) -> Result<PathBuf, PartsError> {
    let cache = cache()?;
    make_dir(&cache)?;
    let _lock = lock(&cache.join("tools.lock"))?;
    Ok(tools::find_or_install(name, &cache)?)
}

/// One file of a Go module, fetched once through the module proxy and kept below the cache; `sum` is the module's checksum
/// as go.sum has it.
pub fn module_file(module: &str, version: &str, sum: &str, file: &str) -> Result<PathBuf, PartsError> {
    let cache = cache()?;
    make_dir(&cache)?;
    let _lock = lock(&cache.join("modules.lock"))?;
    let folder = cache.join(format!("{}-{version}", module.replace('/', "-")));
    let name = Path::new(file).file_name().unwrap_or_default();
    let kept = folder.join(name);
    if kept.is_file() {
        return Ok(kept);
    }
    let source = go::download(&tools::go(&cache)?, module, version, sum, &cache)?.join(file);
    let text = fs::read(&source).map_err(|error| failed("read", &source, error))?;
    let fresh = cache.join("module-new");
    write(&fresh, &text)?;
    make_dir(&folder)?;
    rename(&fresh, &kept)?;
    Ok(kept)
}

/// An archive of the tests' application, [`APP`]: alone where no cluster was ever made.
pub fn app_image(tell: &dyn Fn(&str)) -> Result<PathBuf, PartsError> {
    let folder = match Parts::find()? {
        Some(parts) => parts.folder,
        None => alone(&format!("app-{}", fingerprint()), |fresh, cache| {
            compile(&[APPLICATION], fresh, cache, tell)?;
            write_image(fresh, "app", APP, "app", &[])
        })?,
    };
    Ok(folder.join("images/app.tar"))
}

/// A program that serves images: `crane registry serve --address ADDRESS`.
pub fn registry(tell: &dyn Fn(&str)) -> Result<PathBuf, PartsError> {
    let fill = |fresh: &Path, cache: &Path| compile(&[REGISTRY], fresh, cache, tell);
    Ok(alone(REGISTRY_FOLDER, fill)?.join("bin/crane"))
}

/// A folder of the cache, which appears when it is complete.
fn alone(name: &str, fill: impl Fn(&Path, &Path) -> Result<(), PartsError>) -> Result<PathBuf, PartsError> {
    let cache = cache()?;
    make_dir(&cache)?;
    let _lock = lock(&cache.join("tools.lock"))?;
    let (folder, fresh) = (cache.join(name), cache.join("alone-new"));
    if !folder.is_dir() {
        remove(&fresh)?;
        fill(&fresh, &cache)?;
        rename(&fresh, &folder)?;
    }
    Ok(folder)
}

fn build(fresh: &Path, cache: &Path, tell: &dyn Fn(&str)) -> Result<(), PartsError> {
    compile(&RECIPES, fresh, cache, tell)?;
    let programs = fresh.join("bin");
    rename(&programs.join("cluster-parts"), &programs.join("aquifer-kube"))?;
    write_image(fresh, "pause", PAUSE, "app", &["pause"])?;
    write_image(fresh, "app", APP, "app", &[])?;
    write_image(fresh, "coredns", COREDNS, "coredns", &[])
}

fn compile(recipes: &[Recipe], fresh: &Path, cache: &Path, tell: &dyn Fn(&str)) -> Result<(), PartsError> {
    let (sources, programs) = (fresh.join("source"), fresh.join("bin"));
    for (name, text) in SOURCES {
        write(&sources.join(name), text.as_bytes())?;
    }
    make_dir(&programs)?;
    let go = tools::go(cache)?;
    for recipe in recipes {
        let start = Instant::now();
        tell(&format!("building {}", recipe.what));
        go::build(recipe, &go, &sources, &programs)?;
        tell(&format!(
            "built {} in {:.0} s",
            recipe.what,
            start.elapsed().as_secs_f64()
        ));
    }
    remove(&sources)
}

/// An archive of the image of one program.
fn write_image(
    fresh: &Path,
    file: &str,
    name: &'static str,
    path: &'static str,
    arguments: &'static [&'static str],
) -> Result<(), PartsError> {
    let program = fresh.join("bin").join(path);
    let program = fs::read(&program).map_err(|error| failed("read", &program, error))?;
    let image = Image {
        name,
        path,
        program: &program,
        arguments,
    };
    let mut archive = Vec::new();
    let target = fresh.join("images").join(format!("{file}.tar"));
    image
        .write(&mut archive)
        .map_err(|error| failed("write", &target, error))?;
    write(&target, &archive)
}

fn cache() -> Result<PathBuf, PartsError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let own = set(CACHE_ENV).map(PathBuf::from);
    let common = || set("XDG_CACHE_HOME").map(|folder| Path::new(&folder).join("aquifer"));
    let home = || set("HOME").map(|folder| Path::new(&folder).join(".cache/aquifer"));
    own.or_else(common).or_else(home).ok_or(PartsError::NoCache)
}

fn folder(cache: &Path) -> PathBuf {
    cache.join(format!("cluster-{}", fingerprint()))
}

/// Everything that decides what is built.
fn fingerprint() -> String {
    let mut context = Context::new(&SHA256);
    let mut add = |text: &str| {
        context.update(text.as_bytes());
        context.update(b"\0");
    };
    for (name, text) in SOURCES {
        add(name);
        add(text);
    }
    for recipe in &RECIPES {
        recipe.packages.iter().for_each(|package| add(package));
        add(recipe.version.unwrap_or_default());
        add(recipe.tags);
        add(recipe.linker);
    }
    for text in [PAUSE, APP, COREDNS, std::env::consts::ARCH] {
        add(text);
    }
    let digest = context.finish();
    digest
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Held until it is dropped; others wait.
fn lock(path: &Path) -> Result<Flock<fs::File>, PartsError> {
    let file = fs::File::create(path).map_err(|error| failed("open", path, error))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed("lock", path, errno.into()))
}

fn make_dir(path: &Path) -> Result<(), PartsError> {
    fs::create_dir_all(path).map_err(|error| failed("make", path, error))
}

fn write(path: &Path, content: &[u8]) -> Result<(), PartsError> {
    path.parent().map_or(Ok(()), make_dir)?;
    fs::write(path, content).map_err(|error| failed("write", path, error))
}

fn rename(from: &Path, to: &Path) -> Result<(), PartsError> {
    fs::rename(from, to).map_err(|error| failed("rename", from, error))
}

fn remove(path: &Path) -> Result<(), PartsError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PartsError {
    PartsError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_named_for_what_goes_in() {
        let name = folder(Path::new("/cache"));
        assert_eq!(name, folder(Path::new("/cache")));
        assert_eq!(
            name.to_string_lossy().len(),
            "/cache/cluster-0123456789abcdef".len()
        );
    }

    #[test]
    fn every_version_is_pinned() {
        for recipe in RECIPES.iter().chain([&REGISTRY]) {
            let own = recipe.packages.iter().all(|package| package.starts_with('.'));
            assert_eq!(own, recipe.version.is_none(), "{}", recipe.what);
            assert_ne!(recipe.version, Some("latest"), "{}", recipe.what);
        }
        assert!(REGISTRY_FOLDER.ends_with(REGISTRY.version.unwrap()));
    }
}
