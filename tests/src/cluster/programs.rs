//! The product's images for a cluster on this machine, made of what `cargo build` has just left beside this program.
//!
//! `cargo xtask image` makes those that are shipped, static and reproducible, by a build of its own; set
//! `AQUIFER_IMAGES` to their folder to run them instead. These here cost no second build: programs of the shared
//! profile, with the few libraries that they load.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use super::image::{Archive, Layer, Variant};
use crate::bookinfo::part;

/// Folder of archives to run in place of what is built here.
const IMAGES_ENV: &str = "AQUIFER_IMAGES";
/// As the chart's own version: its images' default tag.
pub const TAG: &str = env!("CARGO_PKG_VERSION");
/// What runs as nobody in particular.
const NOT_ROOT: &str = "65532:65532";

#[derive(Debug, Error)]
pub enum ProgramError {
    #[error("program {0} is not built: `cargo build --profile lab --workspace --bins`, or set {IMAGES_ENV}")]
    NotBuilt(PathBuf),
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot tell what {} loads: {message}", path.display())]
    Libraries { path: PathBuf, message: String },
}

/// A program and the images that hold it.
struct Program {
    name: &'static str,
    images: Vec<Variant>,
}

/// Archives with every image that a mesh and its demo run, written into `folder`.
pub fn archives(programs: &Path, folder: &Path) -> Result<Vec<PathBuf>, ProgramError> {
    if let Some(given) = std::env::var_os(IMAGES_ENV) {
        return given_archives(Path::new(&given));
    }
    let all = [
        ours("agent", "aquifer-agent", "0:0"),
        ours("control", "aquifer-control", NOT_ROOT),
        ours("waypoint", "aquifer-waypoint", NOT_ROOT),
        Program {
            name: "bookinfo",
            images: part::NAMES
                .iter()
                .map(|part| variant(part::image_name(part), "bookinfo", &[part], NOT_ROOT))
                .collect(),
        },
    ];
    let path = folder.join("mesh.tar");
    let mut archive = Archive::default();
    let mut libraries = BTreeSet::new();
    for program in &all {
        libraries.extend(libraries_of(&programs.join(program.name))?);
    }
    let put = |source| failed("pack", &path, source);
    let shared = archive.add_layer(layer_of_libraries(&libraries)?).map_err(put)?;
    for program in all {
        let file = programs.join(program.name);
        let content = fs::read(&file).map_err(|source| failed("read", &file, source))?;
        let layer = Layer::of_program(program.name, &content).and_then(|layer| archive.add_layer(layer));
        let layer = layer.map_err(put)?;
        for image in &program.images {
            archive.add_image(image, &[shared, layer]);
        }
    }
    let out = fs::File::create(&path).map_err(|source| failed("make", &path, source))?;
    archive
        .write(io::BufWriter::new(out))
        .map_err(|source| failed("write", &path, source))?;
    Ok(vec![path])
}

fn ours(image: &str, program: &'static str, user: &'static str) -> Program {
    Program {
        name: program,
        images: vec![variant(
            format!("docker.io/aquifer/{image}:{TAG}"),
            program,
            &[],
            user,
        )],
    }
}

fn variant(name: String, program: &str, arguments: &[&str], user: &'static str) -> Variant {
    let mut entrypoint = vec![format!("/{program}")];
    entrypoint.extend(arguments.iter().map(|&argument| argument.to_owned()));
    Variant {
        name,
        entrypoint,
        arguments: Vec::new(),
        user,
    }
}

fn given_archives(folder: &Path) -> Result<Vec<PathBuf>, ProgramError> {
    let entries = fs::read_dir(folder).map_err(|source| failed("list", folder, source))?;
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    paths.sort();
    Ok(paths)
}

fn layer_of_libraries(libraries: &BTreeSet<PathBuf>) -> Result<Layer, ProgramError> {
    let mut layer = Layer::default();
    for path in libraries {
        let content = fs::read(path).map_err(|source| failed("read", path, source))?;
        layer
            .add(path, &content)
            .map_err(|source| failed("pack", path, source))?;
    }
    Ok(layer)
}

/// What the dynamic loader would load, and the loader itself; nothing for a static program.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, ProgramError> {
    if !program.is_file() {
        return Err(ProgramError::NotBuilt(program.to_owned()));
    }
    let libraries = |message: String| ProgramError::Libraries {
        path: program.to_owned(),
        message,
    };
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|error| libraries(format!("ldd: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains("not found") {
        return Err(libraries(text.into_owned()));
    }
    Ok(paths_in(&text))
}

/// `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)`.
fn paths_in(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let place = line.rsplit("=> ").next()?.split_whitespace().next()?;
        place.starts_with('/').then(|| PathBuf::from(place))
    };
    listed.lines().filter_map(path).collect()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> ProgramError {
    ProgramError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_list_is_read() {
        let listed = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let paths = paths_in(listed);
        assert_eq!(
            paths,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(paths_in("\tstatically linked\n").is_empty());
    }
}
