//! `aquifer install` and `aquifer upgrade`: the carried chart, by helm or as it was rendered, until all of it is ready.

pub(crate) mod conflicts;
pub(crate) mod helm;
pub(crate) mod plain;
pub(crate) mod rollout;

use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use crate::chart::Profile;
use crate::check;
use crate::kubectl::{Kubectl, require_cluster};
use crate::table::say;
use helm::Helm;

/// Name of the helm release.
pub(crate) const RELEASE: &str = "aquifer";
pub(crate) const NAMESPACE: &str = "istio-system";
/// On a namespace that `aquifer install` made.
pub(crate) const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "aquifer");

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Set of values to start from; an upgrade keeps what was chosen before unless this is given.
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,
    /// A value, such as control.replicas=3; later ones win.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// File of values over the profile's.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Namespace of the control plane; people's objects and tools count on the default.
    #[arg(short, long, default_value = NAMESPACE)]
    pub(crate) namespace: String,
    /// Print what would be applied, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until all is ready.
    #[arg(long)]
    no_wait: bool,
    /// How long all may take to get ready, in seconds.
    #[arg(long, default_value_t = 300)]
    timeout: u32,
    /// Go on although a check failed.
    #[arg(long)]
    skip_checks: bool,
    /// Apply the rendering of the profile that this program carries, also where helm is there.
    #[arg(long)]
    no_helm: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Install,
    Upgrade,
}

pub(crate) fn run(options: &Options, kubectl: &Kubectl, verb: Verb) -> anyhow::Result<ExitCode> {
    let helm = if options.no_helm {
        None
    } else {
        Helm::find(kubectl)
    };
    if helm.is_none() {
        plain::refuse_settings(options)?;
    }
    if options.dry_run {
        say(&match &helm {
            Some(helm) => helm.render(options)?,
            None => plain::manifest(options.profile.unwrap_or_default()),
        });
        return Ok(ExitCode::SUCCESS);
    }
    require_cluster(kubectl)?;
    conflicts::refuse(kubectl, &options.namespace)?;
    if !options.skip_checks && !check::before(kubectl, &options.namespace)? {
        bail!(
            "not {}: a check failed, see above; --skip-checks goes on all the same",
            participle(verb)
        );
    }
    if verb == Verb::Install {
        make_namespace(kubectl, &options.namespace)?;
    }
    match &helm {
        Some(helm) => helm.apply(options, verb)?,
        None => plain::apply(options, kubectl, verb)?,
    }
    say(&format!("applied to namespace {}", options.namespace));
    if options.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    rollout::wait(kubectl, &options.namespace, options.timeout)?;
    say("\nTake a namespace into the mesh; its pods keep running, none restarts:");
    say("  kubectl label namespace NAMESPACE istio.io/dataplane-mode=ambient");
    let there = match options.namespace.as_str() {
        NAMESPACE => String::new(),
        other => format!(" -n {other}"),
    };
    say(&format!(
        "See that all is well, now and later:\n  aquifer check{there}\n  aquifer status{there}"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Where it is not there: marked, so that `uninstall --purge` knows that nobody else made it.
fn make_namespace(kubectl: &Kubectl, name: &str) -> anyhow::Result<()> {
    if kubectl.object(&["namespace", name])?.is_some() {
        return Ok(());
    }
    let (key, value) = MADE_BY;
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": { (key): value } },
    });
    kubectl
        .with_input(&["create", "-f", "-"], Some(&namespace.to_string()))
        .map(drop)
}

fn participle(verb: Verb) -> &'static str {
    match verb {
        Verb::Install => "installed",
        Verb::Upgrade => "upgraded",
    }
}
