//! `aquifer uninstall`: the release and what the control plane made beside it.

use std::process::ExitCode;

use serde_json::Value;

use crate::install::helm::Helm;
use crate::install::{NAMESPACE, RELEASE};
use crate::kubectl::{Kubectl, require_cluster};
use crate::table::say;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Namespace of the control plane.
    #[arg(short, long, default_value = NAMESPACE)]
    namespace: String,
    /// Also delete the definitions of Istio's kinds that came with it, and with them ALL objects of these kinds, and the
    /// certificate authority's own key.
    #[arg(long)]
    purge: bool,
    /// Print what would be deleted, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long pods may take to end, in seconds.
    #[arg(long, default_value_t = 120)]
    timeout: u32,
}

/// Kinds that the chart renders, by whether they are in a namespace.
const NAMESPACED: &str = "deployments,daemonsets,services,serviceaccounts,configmaps,roles,rolebindings,poddisruptionbudgets,horizontalpodautoscalers,resourcequotas";
const CLUSTER_WIDE: &str = "clusterroles,clusterrolebindings,validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings";
/// What the control plane deploys.
const MANAGED: &str = "gateway.istio.io/managed=istio.io-mesh-controller";
const MANAGED_KINDS: &str =
    "deployments,services,serviceaccounts,poddisruptionbudgets,horizontalpodautoscalers";
/// The root certificate, which the control plane puts into every namespace.
const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
const OURS: &str = "app.kubernetes.io/part-of=aquifer";

pub(crate) fn run(options: &Options, kubectl: &Kubectl) -> anyhow::Result<ExitCode> {
    require_cluster(kubectl)?;
    let uninstall = Uninstall { options, kubectl };
    let helm = Helm::find(kubectl);
    match helm {
        Some(helm) if helm.is_installed(&options.namespace)? => {
            say(&format!("release {RELEASE} in namespace {}", options.namespace));
            if !options.dry_run {
                helm.uninstall(&options.namespace, options.timeout)?;
            }
        }
        _ => uninstall.release()?,
    }
    uninstall.left_behind()?;
    if options.purge {
        uninstall.purge()?;
    } else {
        say(
            "kept: the definitions of Istio's kinds with your objects, and Secret istio-ca-secret (--purge deletes them)",
        );
    }
    if !options.dry_run {
        uninstall.wait();
        say("Pods of the mesh talk plainly now; none was restarted.");
    }
    Ok(ExitCode::SUCCESS)
}

struct Uninstall<'a> {
    options: &'a Options,
    kubectl: &'a Kubectl,
}

impl Uninstall<'_> {
    /// Installed without helm: everything that carries our labels.
    fn release(&self) -> anyhow::Result<()> {
        let instance = format!("{OURS},app.kubernetes.io/instance={RELEASE}");
        // Webhooks and admission policies first: nothing may be refused because what asks is going.
        self.delete(&[CLUSTER_WIDE, "-l", &instance])?;
        self.delete(&[NAMESPACED, "-n", &self.options.namespace, "-l", &instance])
    }

    fn left_behind(&self) -> anyhow::Result<()> {
        self.delete(&[MANAGED_KINDS, "--all-namespaces", "-l", MANAGED])?;
        self.delete(&["lease", "aquifer-leader", "-n", &self.options.namespace])?;
        let field = format!("metadata.name={ROOT_CONFIG_MAP}");
        self.delete(&["configmaps", "--all-namespaces", "--field-selector", &field])
    }

    /// Until the mesh's own pods have ended: agents clean up while they end.
    fn wait(&self) {
        let timeout = format!("--timeout={}s", self.options.timeout);
        let arguments = [
            "wait",
            "--for=delete",
            "pods",
            "-l",
            OURS,
            "-n",
            &self.options.namespace,
            &timeout,
        ];
        let ended = self
            .kubectl
            .spawn(&arguments)
            .and_then(|mut child| Ok(child.wait()?));
        if !ended.is_ok_and(|status| status.success()) {
            say(&format!(
                "pods of the mesh are still ending: `kubectl -n {} get pods -l {OURS}`",
                self.options.namespace
            ));
        }
    }

    fn purge(&self) -> anyhow::Result<()> {
        self.delete(&["secret", "istio-ca-secret", "-n", &self.options.namespace])?;
        self.delete(&["customresourcedefinitions", "-l", OURS])
    }

    /// Deletes what `kubectl get` finds with these arguments, and names each.
    fn delete(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let found = match arguments {
            [kind, name, rest @ ..] if !name.starts_with('-') => {
                let one = self.kubectl.object(&[&[*kind, *name], rest].concat())?;
                one.into_iter().collect()
            }
            _ => self.kubectl.items(arguments)?,
        };
        for object in &found {
            self.delete_one(object)?;
        }
        Ok(())
    }

    fn delete_one(&self, object: &Value) -> anyhow::Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (
            text(&object["kind"]).to_ascii_lowercase(),
            text(&object["metadata"]["name"]),
        );
        let namespace = text(&object["metadata"]["namespace"]);
        let target = format!("{kind}/{name}");
        let verb = if self.options.dry_run {
            "would delete"
        } else {
            "deleting"
        };
        if namespace.is_empty() {
            say(&format!("{verb} {target}"));
        } else {
            say(&format!("{verb} {target} in {namespace}"));
        }
        if self.options.dry_run {
            return Ok(());
        }
        let mut arguments = vec!["delete", &target, "--ignore-not-found", "--timeout=50s"];
        if !namespace.is_empty() {
            arguments.extend(["-n", &namespace]);
        }
        self.kubectl.text(&arguments).map(drop)
    }
}
