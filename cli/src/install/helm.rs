//! The carried chart by the user's helm.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::chart;
use crate::install::{Options, RELEASE, Verb};
use crate::kubectl::{Kubectl, run};

pub(crate) struct Helm {
    program: String,
    access: Vec<String>,
}

impl Helm {
    /// `None` where helm is not installed.
    pub(crate) fn find(kubectl: &Kubectl) -> Option<Self> {
        let helm = Self {
            program: std::env::var("HELM").unwrap_or_else(|_| "helm".to_owned()),
            access: kubectl.helm_access(),
        };
        helm.run(&["version".to_owned(), "--short".to_owned()])
            .is_ok()
            .then_some(helm)
    }

    fn run(&self, arguments: &[String]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(&self.access).args(arguments);
        let outcome = run(&mut command, None).with_context(|| format!("cannot run {:?}", self.program))?;
        outcome.map_err(|message| anyhow::anyhow!("helm {}: {message}", arguments.first().map_or("", |a| a)))
    }

    pub(crate) fn render(&self, options: &Options) -> anyhow::Result<String> {
        let chart = chart::unpack()?;
        // Hooks are helm's to run, at an uninstallation.
        let arguments = ["template", RELEASE, "--no-hooks"].map(str::to_owned).to_vec();
        self.run(
            &[
                arguments,
                values(options, &chart.path().display().to_string(), true),
            ]
            .concat(),
        )
    }

    pub(crate) fn apply(&self, options: &Options, verb: Verb) -> anyhow::Result<()> {
        let there = self.is_installed(&options.namespace)?;
        let chart = chart::unpack()?;
        let folder = chart.path().display().to_string();
        let (words, fresh): (&[&str], bool) = match (verb, there) {
            (Verb::Install, true) => bail!(
                "release {RELEASE} is in namespace {} already; `aquifer upgrade` changes it",
                options.namespace
            ),
            (Verb::Upgrade, false) => bail!(
                "no release {RELEASE} in namespace {}; `aquifer install` makes it (releases of other names are upgraded by helm)",
                options.namespace
            ),
            (Verb::Install, false) => (&["install", RELEASE], true),
            // A new profile starts anew; otherwise what was set before stays, over the new chart's defaults.
            (Verb::Upgrade, true) if options.profile.is_some() => {
                (&["upgrade", RELEASE, "--reset-values"], true)
            }
            (Verb::Upgrade, true) => (&["upgrade", RELEASE, "--reset-then-reuse-values"], false),
        };
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        self.run(&[words, values(options, &folder, fresh)].concat())
            .map(drop)
    }

    pub(crate) fn is_installed(&self, namespace: &str) -> anyhow::Result<bool> {
        match self.run(&["status", RELEASE, "-n", namespace].map(str::to_owned)) {
            Ok(_) => Ok(true),
            Err(error) if error.to_string().contains("not found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn uninstall(&self, namespace: &str, timeout: u32) -> anyhow::Result<()> {
        let timeout = format!("{timeout}s");
        let arguments = [
            "uninstall",
            RELEASE,
            "-n",
            namespace,
            "--wait",
            // What they remove is removed by this program, which needs no image for that.
            "--no-hooks",
            "--timeout",
            &timeout,
        ];
        self.run(&arguments.map(str::to_owned)).map(drop)
    }
}

/// Chart and values, in the order in which later ones win.
fn values(options: &Options, chart: &str, with_profile: bool) -> Vec<String> {
    let mut arguments = vec![chart.to_owned(), "-n".to_owned(), options.namespace.clone()];
    if with_profile {
        let profile = options.profile.unwrap_or_default().name();
        arguments.extend(["-f".to_owned(), format!("{chart}/profiles/{profile}.yaml")]);
    }
    for file in &options.files {
        arguments.extend(["-f".to_owned(), file.clone()]);
    }
    arguments.extend([
        "--set".to_owned(),
        format!("global.istioNamespace={}", options.namespace),
    ]);
    for set in &options.set {
        arguments.extend(["--set".to_owned(), set.clone()]);
    }
    arguments
}
