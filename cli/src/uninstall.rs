//! `aquifer uninstall`: the release and what the control plane made beside it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

use crate::install::helm::Helm;
use crate::install::{MADE_BY, NAMESPACE, RELEASE};
use crate::kubectl::{Kubectl, require_cluster};
use crate::table::say;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Namespace of the control plane.
    #[arg(short, long, default_value = NAMESPACE)]
    namespace: String,
    /// Also delete the definitions of Istio's kinds that came with it, and with them ALL objects of these kinds, and the
    /// certificate authority's own key, and the namespace where `aquifer install` made it and nothing else is in it.
    #[arg(long)]
    purge: bool,
    /// Print what would be deleted, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long pods may take to end, in seconds.
    #[arg(long, default_value_t = 120)]
    timeout: u32,
}

/// First: nothing may be refused because what asks is going.
const GATES: &str =
    "validatingwebhookconfigurations,validatingadmissionpolicybindings,validatingadmissionpolicies";
/// Then what runs; it needs its rights until it has ended.
const WORKLOADS: &str = "deployments,daemonsets,poddisruptionbudgets,horizontalpodautoscalers";
const REST: &str = "services,serviceaccounts,configmaps,roles,rolebindings,resourcequotas";
const RIGHTS: &str = "clusterroles,clusterrolebindings";
/// What the control plane deploys.
const MADE: &str = "app.kubernetes.io/managed-by=aquifer";
const MANAGED: &str = "app.kubernetes.io/managed-by=aquifer,gateway.istio.io/managed";
/// The classes of the Gateway API, where the cluster has it.
const CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";
const MANAGED_KINDS: &str =
    "deployments,services,serviceaccounts,poddisruptionbudgets,horizontalpodautoscalers";
/// The root certificate, which the control plane puts into every namespace.
const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
const AGENTS: &str = "aquifer-agent";
/// Tells the agents that they are not to come back.
const LEAVE: &str = "aquifer.io/leave=true";
/// In every namespace.
const BY_KUBERNETES: [&str; 2] = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
/// What Kubernetes makes of other objects, and takes away a moment after them.
const DERIVED: [&str; 3] = ["events", "endpoint", "controllerrevisions"];
/// Names that a line shows.
const SHOWN: usize = 5;
const REDIRECTION: &str = "ambient.istio.io/redirection";
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const OURS: &str = "app.kubernetes.io/part-of=aquifer";

pub(crate) fn run(options: &Options, kubectl: &Kubectl) -> anyhow::Result<ExitCode> {
    require_cluster(kubectl)?;
    let uninstall = Uninstall { options, kubectl };
    uninstall.leave()?;
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
            "kept: the definitions of Istio's kinds with your objects, and the Secrets istio-ca-secret and aquifer-ca-state (--purge deletes them)",
        );
    }
    if !options.dry_run {
        uninstall.wait();
        say("Pods of the mesh talk plainly now; none was restarted.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether an agent reports that it has the pod.
fn is_enrolled(pod: &Value) -> bool {
    pod["metadata"]["annotations"][REDIRECTION] == "enabled" && pod["status"]["phase"] == "Running"
}

struct Uninstall<'a> {
    options: &'a Options,
    kubectl: &'a Kubectl,
}

impl Uninstall<'_> {
    /// Has the agents give their pods back while everything still runs, so that no request fails.
    fn leave(&self) -> anyhow::Result<()> {
        let namespace = &self.options.namespace;
        let agents = self.kubectl.object(&["daemonset", AGENTS, "-n", namespace])?;
        let ready = agents.is_some_and(|agents| agents["status"]["numberReady"].as_u64() > Some(0));
        if !ready || self.options.dry_run {
            return Ok(());
        }
        self.kubectl.text(&[
            "annotate",
            "daemonset",
            AGENTS,
            "-n",
            namespace,
            LEAVE,
            "--overwrite",
        ])?;
        let deadline = Instant::now() + Duration::from_secs(self.options.timeout.into());
        let mut last = 0;
        loop {
            let pods = self.kubectl.items(&["pods", "--all-namespaces"])?;
            let enrolled = pods.iter().filter(|pod| is_enrolled(pod)).count();
            if enrolled == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                say(&format!(
                    "{enrolled} pods are still in the mesh; going on, their open connections may be cut"
                ));
                return Ok(());
            }
            if enrolled != last {
                say(&format!("leaving the mesh: {enrolled} pods"));
                last = enrolled;
            }
            #[allow(
                clippy::disallowed_methods,
                reason = "there is no event to wait for: the API server is asked again"
            )]
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Installed without helm: everything that carries our labels.
    fn release(&self) -> anyhow::Result<()> {
        let instance = format!("{OURS},app.kubernetes.io/instance={RELEASE}");
        let namespace = &self.options.namespace;
        self.delete(&[GATES, "-l", &instance])?;
        self.delete(&[WORKLOADS, "-n", namespace, "-l", &instance])?;
        if !self.options.dry_run {
            self.wait();
        }
        self.delete(&[REST, "-n", namespace, "-l", &instance])?;
        // Helm made it, and is not here any more.
        let release = format!("owner=helm,name={RELEASE}");
        self.delete(&["secrets", "-n", namespace, "-l", &release])?;
        self.delete(&[RIGHTS, "-l", &instance])
    }

    fn left_behind(&self) -> anyhow::Result<()> {
        self.delete(&[MANAGED_KINDS, "--all-namespaces", "-l", MANAGED])?;
        let definition = self.kubectl.object(&["customresourcedefinition", CLASSES])?;
        if definition.is_some() {
            self.delete(&[CLASSES, "-l", MANAGED])?;
        }
        self.delete(&["lease", "aquifer-leader", "-n", &self.options.namespace])?;
        let field = format!("metadata.name={ROOT_CONFIG_MAP}");
        let everywhere = ["configmaps", "--all-namespaces", "-l", MADE];
        self.delete(&[&everywhere[..], &["--field-selector", &field]].concat())
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
        for secret in ["istio-ca-secret", "aquifer-ca-state"] {
            self.delete(&["secret", secret, "-n", &self.options.namespace])?;
        }
        self.delete(&["customresourcedefinitions", "-l", OURS])?;
        if !self.options.dry_run {
            self.wait();
        }
        self.namespace()
    }

    /// The namespace, where `aquifer install` made it and nothing is in it any more.
    fn namespace(&self) -> anyhow::Result<()> {
        let name = &self.options.namespace;
        let Some(namespace) = self.kubectl.object(&["namespace", name])? else {
            return Ok(());
        };
        let (key, value) = MADE_BY;
        if namespace["metadata"]["labels"][key] != value {
            say(&format!(
                "kept: namespace {name}, which `aquifer install` did not make"
            ));
            return Ok(());
        }
        let left = match self.options.dry_run {
            true => Vec::new(),
            false => self.contents(name)?,
        };
        if !left.is_empty() {
            say(&format!(
                "kept: namespace {name}, which holds {}",
                left.join(", ")
            ));
            return Ok(());
        }
        self.delete_one(&namespace)
    }

    /// What is in a namespace beside what Kubernetes puts into each: some names of it.
    fn contents(&self, namespace: &str) -> anyhow::Result<Vec<String>> {
        let kinds = [
            "api-resources",
            "--namespaced",
            "--verbs=list,delete",
            "--output=name",
        ];
        let kinds = self.kubectl.text(&kinds)?;
        let derived = |kind: &str| DERIVED.iter().any(|derived| kind.starts_with(derived));
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !derived(kind)).collect();
        if kinds.is_empty() {
            bail!("the cluster names no kinds of objects; is it going down?");
        }
        // The API server names a kind for a moment after its definition is gone.
        let arguments = [
            "get",
            &kinds.join(","),
            "-n",
            namespace,
            "-o",
            "name",
            "--ignore-not-found",
        ];
        let found = self.kubectl.text(&arguments)?;
        let others = found.lines().filter(|name| !BY_KUBERNETES.contains(name));
        Ok(others.take(SHOWN).map(str::to_owned).collect())
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
