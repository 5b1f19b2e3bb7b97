//! `cargo xtask image`: OCI images of everything that a cluster runs, without a container engine.
//!
//! Static programs on an empty base. The same commit gives the same digests, wherever it is built with
//! the same compilers: paths are mapped away, nothing carries a time but the commit's.

mod build;
mod catalogue;
mod pack;
mod revision;
mod sbom;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::build::StaticBuild;
use self::catalogue::{CATALOGUE, Image};
use self::pack::Packing;
use self::revision::Revision;
use crate::ebpf;
use crate::setup::{self, Needs};
use crate::workspace::Workspace;

/// Where suites and the demo find the archives to run. Set by a person, it names the folder of theirs.
pub(crate) const FOLDER_VARIABLE: &str = "AQUIFER_IMAGES";

/// More would slow every roll-out; a program that grows past it links something by mistake.
const MOST_COMPRESSED: u64 = 30_000_000;

#[derive(Args)]
pub(crate) struct Options {
    /// Images to make (default: all): agent, waypoint, control, cli, bookinfo
    names: Vec<String>,
    /// How to compile: `release` is what ships, `lab` is quick
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Registry and organisation before the images' names
    #[arg(long, default_value = "aquifer")]
    hub: String,
    /// Tag of the images [default: the version]
    #[arg(long)]
    tag: Option<String>,
    /// Folder of the archives [default: target/images]
    #[arg(long)]
    output: Option<PathBuf>,
    /// Only leave the programs there, for the Dockerfile
    #[arg(long)]
    programs_only: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Release,
    Lab,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Lab => "lab",
        }
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let images = select(&options.names)?;
    setup::install(Needs::Build)?;
    ebpf::build()?;
    let output = match &options.output {
        Some(folder) => std::path::absolute(folder).context("the output folder has no absolute path")?,
        None => workspace.target().join("images"),
    };
    let build = StaticBuild::run(workspace, &images, options.profile.name())?;
    let programs = output.join("programs");
    build.strip_into(&images, &programs)?;
    if options.programs_only {
        return Ok(());
    }
    let packing = Packing {
        workspace,
        triple: build.triple(),
        programs: &programs,
        output: &output,
        hub: &options.hub,
        tag: options.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION")),
        revision: Revision::of(workspace)?,
    };
    make(&packing, &images)
}

/// The folder that `AQUIFER_IMAGES` names; without it, of archives made now, like those that ship but for the profile,
/// which is the quick one.
pub(crate) fn for_tests(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(FOLDER_VARIABLE) {
        return std::path::absolute(given)
            .with_context(|| format!("the folder of {FOLDER_VARIABLE} has no absolute path"));
    }
    let folder = workspace.target().join("images-lab");
    let options = Options {
        names: Vec::new(),
        profile: Profile::Lab,
        hub: "aquifer".to_owned(),
        tag: None,
        output: Some(folder.clone()),
        programs_only: false,
    };
    run(workspace, &options)?;
    Ok(folder)
}

fn select(names: &[String]) -> Result<Vec<&'static Image>> {
    let known = || {
        let names: Vec<&str> = CATALOGUE.iter().map(|image| image.name).collect();
        names.join(", ")
    };
    if let Some(unknown) = names
        .iter()
        .find(|name| CATALOGUE.iter().all(|image| image.name != name.as_str()))
    {
        bail!("no image is named {unknown}; there are {}", known());
    }
    Ok(CATALOGUE
        .iter()
        .filter(|image| names.is_empty() || names.iter().any(|name| name == image.name))
        .collect())
}

/// Archive, bill of materials and one line on the terminal for each.
fn make(packing: &Packing<'_>, images: &[&Image]) -> Result<()> {
    let packages = sbom::Packages::read(packing.workspace, packing.triple)?;
    for image in images {
        let packed = packing.pack(image)?;
        let bill = packages.bill(image, &packing.revision)?;
        write(&packing.output.join(format!("{}.cdx.json", image.name)), &bill)?;
        for line in &packed {
            announce(line, &packing.archive(image));
            if line.compressed > MOST_COMPRESSED {
                bail!(
                    "{} is {} bytes compressed, more than {MOST_COMPRESSED}; what does it link that it does not need?",
                    line.reference,
                    line.compressed
                );
            }
        }
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the list is this command's output")]
fn announce(image: &pack::Packed, archive: &Path) {
    println!(
        "{:<56} {:>5.1} MB  {}  {}",
        image.reference,
        image.compressed as f64 / 1e6,
        image.digest,
        archive.display()
    );
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_selects_every_image() {
        assert_eq!(select(&[]).unwrap().len(), CATALOGUE.len());
    }

    #[test]
    fn an_unknown_image_is_refused_with_those_that_exist() {
        let error = select(&["agnet".to_owned()]).err().unwrap().to_string();
        assert!(
            error.contains("agnet") && error.contains("agent, waypoint"),
            "{error}"
        );
    }
}
