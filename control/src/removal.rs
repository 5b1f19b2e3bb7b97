//! `aquifer-control remove`: takes away what control planes made, when the release that they belonged to is gone.
//!
//! A Job of the chart runs this after `helm uninstall`. It begins when nobody of the release is left who would make
//! these objects again, and refuses where the release is not being removed: its manifest may be applied by mistake.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};

use crate::compile::waypoints::MANAGED_LABEL;
use crate::config::Config;
use crate::kubernetes::backoff::Backoff;
use crate::kubernetes::{CALL_TIMEOUT, MADE_BY, MADE_BY_LABEL, code, connect, explain};

/// How long pods of the release may take to end; those of a node that is away never do.
const ENDING: Duration = Duration::from_secs(120);
/// How long all of it is tried: rights that were just given are not in effect at once.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const PAGE: u32 = 500;
/// Control planes and agents of the release.
const PODS: &str = "app in (istiod,ztunnel),app.kubernetes.io/part-of=aquifer";
const CONTROL: &str = "aquifer-control";
const AGENT: &str = "aquifer-agent";

/// A kind of object that the control plane makes, and which of them are its own.
struct Made {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    /// Only those of this name; Kubernetes can give a right for it alone.
    name: Option<&'static str>,
    /// What waypoints and gateways consist of has this label as well.
    deployed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    Everywhere,
    OwnNamespace,
}

const MADE: [Made; 8] = [
    deployed("apps", "v1", "Deployment", "deployments"),
    deployed(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    ),
    deployed("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    deployed("", "v1", "Service", "services"),
    deployed("", "v1", "ServiceAccount", "serviceaccounts"),
    Made {
        scope: Scope::Cluster,
        ..deployed(
            "gateway.networking.k8s.io",
            "v1",
            "GatewayClass",
            "gatewayclasses",
        )
    },
    named(
        "",
        "ConfigMap",
        "configmaps",
        Scope::Everywhere,
        "istio-ca-root-cert",
    ),
    named(
        "coordination.k8s.io",
        "Lease",
        "leases",
        Scope::OwnNamespace,
        "aquifer-leader",
    ),
];

const fn deployed(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Made {
    Made {
        group,
        version,
        kind,
        plural,
        scope: Scope::Everywhere,
        name: None,
        deployed: true,
    }
}

const fn named(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    scope: Scope,
    name: &'static str,
) -> Made {
    Made {
        group,
        version: "v1",
        kind,
        plural,
        scope,
        name: Some(name),
        deployed: false,
    }
}

impl Made {
    fn resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&kind, self.plural)
    }

    fn selection(&self) -> ListParams {
        let labels = match self.deployed {
            true => format!("{MADE_BY_LABEL}={MADE_BY},{MANAGED_LABEL}"),
            false => format!("{MADE_BY_LABEL}={MADE_BY}"),
        };
        let all = ListParams::default().labels(&labels).limit(PAGE);
        match self.name {
            Some(name) => all.fields(&format!("metadata.name={name}")),
            None => all,
        }
    }
}

/// # Errors
/// The release is still there, or the API server did not do what was asked within a minute.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let client = connect(config.kubeconfig.as_deref()).await?;
    let removal = Removal {
        client,
        namespace: &config.namespace,
    };
    removal
        .insist("look for what is left of the release", async || {
            removal.installed().await
        })
        .await?
        .map_or(Ok(()), |what| {
            bail!(
                "{what} is in namespace {}, so the mesh is installed and nothing is removed: this is run by `helm uninstall`",
                config.namespace
            )
        })?;
    removal.until_ended().await;
    for made in &MADE {
        let what = format!("remove {}", made.plural);
        removal.insist(&what, async || removal.remove(made).await).await?;
    }
    tracing::info!("what the control plane had made is gone");
    Ok(())
}

struct Removal<'a> {
    client: Client,
    namespace: &'a str,
}

impl Removal<'_> {
    /// Tries until it succeeds.
    async fn insist<T>(&self, what: &str, attempt: impl AsyncFn() -> kube::Result<T>) -> anyhow::Result<T> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match timeout(CALL_TIMEOUT, attempt()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => explain(&error),
                Err(_) => "no answer in time".to_owned(),
            };
            if Instant::now() >= deadline {
                bail!("cannot {what}: {error}");
            }
            tracing::info!(what, reason = error, "trying again");
            sleep(backoff.pause()).await;
        }
    }

    /// A workload of the release that nobody is deleting.
    async fn installed(&self) -> kube::Result<Option<&'static str>> {
        let control: Api<Deployment> = Api::namespaced(self.client.clone(), self.namespace);
        if stays(control.get_metadata_opt(CONTROL).await?.map(|o| o.metadata)) {
            return Ok(Some("the Deployment aquifer-control"));
        }
        let agents: Api<DaemonSet> = Api::namespaced(self.client.clone(), self.namespace);
        let stays = stays(agents.get_metadata_opt(AGENT).await?.map(|o| o.metadata));
        Ok(stays.then_some("the DaemonSet aquifer-agent"))
    }

    /// Control planes that end could make again what is deleted, and agents give their pods back.
    async fn until_ended(&self) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let deadline = Instant::now() + ENDING;
        loop {
            let left = timeout(
                CALL_TIMEOUT,
                pods.list_metadata(&ListParams::default().labels(PODS)),
            )
            .await;
            let reason = match left {
                Ok(Ok(left)) if left.items.is_empty() => return,
                Ok(Ok(left)) => format!("{} pods are still ending", left.items.len()),
                Ok(Err(error)) => explain(&error),
                Err(_) => "no answer in time".to_owned(),
            };
            if Instant::now() >= deadline {
                tracing::warn!(
                    reason,
                    "going on: a node that is away loses its kernel objects when it starts"
                );
                return;
            }
            sleep(LONGEST_PAUSE).await;
        }
    }

    async fn remove(&self, made: &Made) -> kube::Result<()> {
        let resource = made.resource();
        let all: Api<DynamicObject> = match made.scope {
            Scope::Cluster | Scope::Everywhere => Api::all_with(self.client.clone(), &resource),
            Scope::OwnNamespace => Api::namespaced_with(self.client.clone(), self.namespace, &resource),
        };
        let mut selection = made.selection();
        loop {
            let page = match all.list_metadata(&selection).await {
                // The cluster does not know the kind.
                Err(error) if code(&error) == Some(404) => return Ok(()),
                page => page?,
            };
            for object in page.items {
                let name = object.metadata.name.unwrap_or_default();
                let namespace = object.metadata.namespace;
                let one: Api<DynamicObject> = match &namespace {
                    Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                    None => all.clone(),
                };
                match one.delete(&name, &DeleteParams::background()).await {
                    Err(error) if code(&error) != Some(404) => return Err(error),
                    _ => {
                        let namespace = namespace.unwrap_or_default();
                        tracing::info!(kind = made.kind, namespace, name, "deleted");
                    }
                }
            }
            selection.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if selection.continue_token.is_none() {
                return Ok(());
            }
        }
    }
}

fn stays(found: Option<ObjectMeta>) -> bool {
    found.is_some_and(|object| object.deletion_timestamp.is_none())
}

/// [`run`] on a runtime of its own.
pub fn main(config: &Config) -> anyhow::Result<()> {
    aquifer_telemetry::logging::init(&config.log, config.log_format)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_selected_by_its_kind_alone() {
        for made in &MADE {
            let labels = made.selection().label_selector.unwrap();
            assert!(
                labels.starts_with("app.kubernetes.io/managed-by=aquifer"),
                "{}",
                made.plural
            );
            assert!(
                made.deployed || made.name.is_some(),
                "Secrets of the authority carry that label too: {}",
                made.plural
            );
        }
    }

    #[test]
    fn what_is_being_deleted_does_not_stay() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
        assert!(!stays(None));
        assert!(stays(Some(ObjectMeta::default())));
        let going = ObjectMeta {
            deletion_timestamp: Some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        };
        assert!(!stays(Some(going)));
    }
}
