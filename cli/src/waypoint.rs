//! `aquifer waypoint`: a Gateway of class istio-waypoint, applied, listed, watched until it serves, deleted.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::kubectl::{Kubectl, require_cluster};
use crate::table::{Output, print, say, structured};

const CLASS: &str = "istio-waypoint";
const KIND: &str = "gateways.gateway.networking.k8s.io";
const FOR: &str = "istio.io/waypoint-for";
const USE: &str = "istio.io/use-waypoint";
const MANAGER: &str = "--field-manager=aquifer-waypoint";

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Makes a waypoint, or changes what it is for.
    Apply(Apply),
    /// Deletes waypoints; what they served goes back to layer 4.
    Delete(Delete),
    /// Waypoints and whether they serve.
    List {
        #[command(flatten)]
        scope: Scope,
        /// In every namespace.
        #[arg(short = 'A', long)]
        all_namespaces: bool,
    },
    /// Waits until a waypoint serves, and says what it lacks otherwise.
    Status {
        #[arg(default_value = "waypoint")]
        name: String,
        #[command(flatten)]
        scope: Scope,
        /// How long it may take, in seconds; 0 only looks.
        #[arg(long, default_value_t = 60)]
        timeout: u32,
    },
}

#[derive(clap::Args)]
pub(crate) struct Scope {
    /// Namespace of the waypoint; the context's where it is not given.
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(clap::Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    scope: Scope,
    #[arg(long, default_value = "waypoint")]
    name: String,
    /// What goes through it, of those that name it by the label istio.io/use-waypoint.
    #[arg(long = "for", value_enum, default_value_t = For::Service)]
    serves: For,
    /// Let the namespace use it, by the label istio.io/use-waypoint.
    #[arg(long)]
    enroll_namespace: bool,
    /// Wait until it serves.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 60, requires = "wait")]
    timeout: u32,
    /// Print what would be applied, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    scope: Scope,
    /// Names of waypoints.
    names: Vec<String>,
    /// All waypoints of the namespace.
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum For {
    /// Traffic to Services.
    Service,
    /// Traffic to pods' own addresses.
    Workload,
    /// Both.
    All,
    /// Nothing.
    None,
}

impl For {
    fn label(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

pub(crate) fn run(action: &Action, kubectl: &Kubectl, output: Output) -> anyhow::Result<ExitCode> {
    match action {
        Action::Apply(apply) => apply.run(kubectl)?,
        Action::Delete(delete) => delete.run(kubectl)?,
        Action::List {
            scope,
            all_namespaces,
        } => list(kubectl, scope, *all_namespaces, output)?,
        Action::Status { name, scope, timeout } => return status(kubectl, name, scope, *timeout),
    }
    Ok(ExitCode::SUCCESS)
}

impl Scope {
    fn namespace(&self, kubectl: &Kubectl) -> anyhow::Result<String> {
        if let Some(namespace) = &self.namespace {
            return Ok(namespace.clone());
        }
        let minified = kubectl.text(&["config", "view", "--minify", "-o", "jsonpath={..namespace}"]);
        // In a pod there is no file; its own namespace would be a surprise.
        let namespace = minified.unwrap_or_default();
        Ok(if namespace.is_empty() {
            "default".to_owned()
        } else {
            namespace
        })
    }
}

impl Apply {
    fn run(&self, kubectl: &Kubectl) -> anyhow::Result<()> {
        if self.dry_run {
            let namespace = self.scope.namespace.as_deref().unwrap_or("default");
            say(
                &serde_json::to_string_pretty(&gateway(&self.name, namespace, self.serves))
                    .context("cannot write JSON")?,
            );
            return Ok(());
        }
        require_kind(kubectl)?;
        let namespace = self.scope.namespace(kubectl)?;
        let manifest = gateway(&self.name, &namespace, self.serves).to_string();
        kubectl.with_input(&["apply", "--server-side", MANAGER, "-f", "-"], Some(&manifest))?;
        say(&format!("waypoint {namespace}/{} applied", self.name));
        if self.enroll_namespace {
            enroll(kubectl, &namespace, &self.name)?;
        }
        if self.wait && !wait(kubectl, &self.name, &namespace, self.timeout)? {
            bail!(
                "waypoint {namespace}/{} does not serve yet; `aquifer waypoint status` says what it lacks",
                self.name
            );
        }
        Ok(())
    }
}

fn enroll(kubectl: &Kubectl, namespace: &str, name: &str) -> anyhow::Result<()> {
    let label = format!("{USE}={name}");
    kubectl.text(&["label", "namespace", namespace, &label, "--overwrite"])?;
    say(&format!("namespace {namespace} labeled {label}"));
    let labels = kubectl
        .object(&["namespace", namespace])?
        .map(|n| n["metadata"]["labels"].clone());
    if labels.is_some_and(|l| l["istio.io/dataplane-mode"] != "ambient") {
        say(&format!(
            "note: the namespace is not in the mesh; `kubectl label namespace {namespace} istio.io/dataplane-mode=ambient`"
        ));
    }
    Ok(())
}

fn gateway(name: &str, namespace: &str, serves: For) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": { "name": name, "namespace": namespace, "labels": { FOR: serves.label() } },
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{ "name": "mesh", "port": 15008, "protocol": "HBONE" }],
        },
    })
}

fn require_kind(kubectl: &Kubectl) -> anyhow::Result<()> {
    require_cluster(kubectl)?;
    let definition = kubectl.object(&["customresourcedefinition", KIND])?;
    if definition.is_none() {
        bail!(
            "the cluster has no Gateway API, by which a waypoint is asked for; install its definitions by `aquifer upgrade --set gatewayApi.install=true`, or from gateway-api.sigs.k8s.io. Without it a namespace gets a waypoint as soon as a VirtualService needs one"
        );
    }
    Ok(())
}

impl Delete {
    fn run(&self, kubectl: &Kubectl) -> anyhow::Result<()> {
        let namespace = self.scope.namespace(kubectl)?;
        let found = waypoints(kubectl, &["-n", &namespace])?;
        let there: Vec<&str> = found
            .iter()
            .filter_map(|g| g["metadata"]["name"].as_str())
            .collect();
        if self.names.is_empty() && !self.all {
            bail!(
                "say which waypoint, or --all; in namespace {namespace} there are: {}",
                there.join(", ")
            );
        }
        if let Some(wrong) = self.names.iter().find(|name| !there.contains(&name.as_str())) {
            bail!("no waypoint {namespace}/{wrong}; there are: {}", there.join(", "));
        }
        for name in there
            .iter()
            .filter(|name| self.all || self.names.iter().any(|n| n == *name))
        {
            kubectl.text(&["delete", KIND, name, "-n", &namespace])?;
            say(&format!("waypoint {namespace}/{name} deleted"));
        }
        Ok(())
    }
}

fn waypoints(kubectl: &Kubectl, scope: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut found = kubectl.items(&[&[KIND], scope].concat())?;
    found.retain(|gateway| gateway["spec"]["gatewayClassName"] == CLASS);
    Ok(found)
}

fn list(kubectl: &Kubectl, scope: &Scope, all: bool, output: Output) -> anyhow::Result<()> {
    let found = match all {
        true => waypoints(kubectl, &["--all-namespaces"])?,
        false => waypoints(kubectl, &["-n", &scope.namespace(kubectl)?])?,
    };
    if structured(output, &found)? {
        return Ok(());
    }
    if found.is_empty() {
        say("No waypoint is here (those that VirtualServices brought about have no Gateway object).");
        return Ok(());
    }
    print(
        &["NAMESPACE", "NAME", "FOR", "PROGRAMMED", "ADDRESS"],
        found.iter().map(row).collect(),
    );
    Ok(())
}

fn row(gateway: &Value) -> Vec<String> {
    let text = |value: &Value, default: &str| value.as_str().unwrap_or(default).to_owned();
    let metadata = &gateway["metadata"];
    let programmed = condition(gateway, "Programmed").map_or(&Value::Null, |c| &c["status"]);
    vec![
        text(&metadata["namespace"], ""),
        text(&metadata["name"], ""),
        text(&metadata["labels"][FOR], "service"),
        text(programmed, "Unknown"),
        text(&gateway["status"]["addresses"][0]["value"], "-"),
    ]
}

fn condition<'g>(gateway: &'g Value, kind: &str) -> Option<&'g Value> {
    gateway["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind)
}

/// Whether the waypoint serves before the time is over.
fn wait(kubectl: &Kubectl, name: &str, namespace: &str, timeout: u32) -> anyhow::Result<bool> {
    let (target, timeout) = (format!("{KIND}/{name}"), format!("--timeout={timeout}s"));
    let mut child = kubectl.spawn(&[
        "wait",
        "--for=condition=Programmed",
        &target,
        "-n",
        namespace,
        &timeout,
    ])?;
    Ok(child.wait().context("kubectl was lost")?.success())
}

fn status(kubectl: &Kubectl, name: &str, scope: &Scope, timeout: u32) -> anyhow::Result<ExitCode> {
    let namespace = scope.namespace(kubectl)?;
    let look = || {
        waypoints(kubectl, &["-n", &namespace])
            .map(|all| all.into_iter().find(|g| g["metadata"]["name"] == name))
    };
    if look()?.is_none() {
        bail!(
            "no waypoint {namespace}/{name}; `aquifer waypoint apply -n {namespace} --name {name}` makes it"
        );
    }
    let serves = timeout > 0 && wait(kubectl, name, &namespace, timeout)?;
    let gateway = look()?.with_context(|| format!("waypoint {namespace}/{name} was deleted meanwhile"))?;
    let conditions = gateway["status"]["conditions"].as_array();
    let rows: Vec<Vec<String>> = conditions
        .into_iter()
        .flatten()
        .map(|c| {
            ["type", "status", "reason", "message"]
                .map(|k| c[k].as_str().unwrap_or("-").to_owned())
                .to_vec()
        })
        .collect();
    if rows.is_empty() {
        say(&format!(
            "waypoint {namespace}/{name}: nobody has taken it up; does the control plane run (`aquifer check`)?"
        ));
        return Ok(ExitCode::FAILURE);
    }
    print(&["CONDITION", "STATUS", "REASON", "MESSAGE"], rows);
    let programmed = serves || condition(&gateway, "Programmed").is_some_and(|c| c["status"] == "True");
    Ok(if programmed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_a_waypoint_as_istioctl_does() {
        let made = gateway("w", "shop", For::All);
        assert_eq!(made["spec"]["gatewayClassName"], "istio-waypoint");
        assert_eq!(made["metadata"]["labels"]["istio.io/waypoint-for"], "all");
        assert_eq!(made["spec"]["listeners"][0]["protocol"], "HBONE");
    }

    #[test]
    fn a_waypoint_that_nobody_took_up_is_unknown() {
        let mut made = gateway("w", "shop", For::Service);
        assert_eq!(row(&made), ["shop", "w", "service", "Unknown", "-"]);
        made["status"] = json!({
            "conditions": [{ "type": "Programmed", "status": "True" }],
            "addresses": [{ "value": "10.96.0.9" }],
        });
        assert_eq!(row(&made), ["shop", "w", "service", "True", "10.96.0.9"]);
    }
}
