//! The newest model, as each proxy should hold it, and the pods behind the tokens.

mod pod_index;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::auth::pods::{PodFacts, Pods};
use crate::compile::Compiled;
use crate::compile::discovery::WAYPOINT_CLASS;
use crate::compile::inputs::Labels;
use crate::compile::waypoints::{GATEWAY_NAME_LABEL, WaypointKey};
use crate::proxies::{ProxyKey, Types, ambient, types};
use crate::serve::{ClientIdentity, Denied, ProxyType, ResourceSnapshot, ResourceSnapshots};
use pod_index::PodIndex;

/// One writer publishes; every stream reads.
#[derive(Default)]
pub struct Snapshots {
    /// Held while resources are made, never over an await. Protects the clients against a publication in between.
    published: Mutex<Published>,
    compiled: ArcSwapOption<Compiled>,
    pods: ArcSwapOption<PodIndex>,
}

#[derive(Default)]
struct Published {
    generation: u64,
    changed_at: Option<Instant>,
    ambient: Types,
    clients: BTreeMap<ProxyKey, watch::Sender<Arc<ResourceSnapshot>>>,
}

impl Snapshots {
    /// Makes the resources of every connected proxy; gives the new generation.
    pub fn publish(&self, compiled: &Arc<Compiled>, changed_at: Instant) -> u64 {
        self.pods.store(Some(Arc::new(PodIndex::of(&compiled.inputs))));
        let mut published = self.published.lock();
        published.generation += 1;
        published.changed_at = Some(changed_at);
        let before = self.compiled();
        published.ambient = ambient(compiled, &published.ambient, before.as_deref());
        self.compiled.store(Some(compiled.clone()));
        published.clients.retain(|_, sender| sender.receiver_count() > 0);
        for (key, sender) in &published.clients {
            sender.send_replace(published.snapshot(compiled, key));
        }
        published.generation
    }

    pub fn compiled(&self) -> Option<Arc<Compiled>> {
        self.compiled.load_full()
    }

    pub fn generation(&self) -> u64 {
        self.published.lock().generation
    }
}

impl Published {
    fn snapshot(&self, compiled: &Compiled, key: &ProxyKey) -> Arc<ResourceSnapshot> {
        Arc::new(ResourceSnapshot {
            generation: self.generation,
            changed_at: self.changed_at.unwrap_or_else(Instant::now),
            types: types(compiled, &self.ambient, key),
        })
    }
}

impl ResourceSnapshots for Snapshots {
    fn subscribe(&self, client: &ClientIdentity) -> Result<watch::Receiver<Arc<ResourceSnapshot>>, Denied> {
        let mut published = self.published.lock();
        let Some(compiled) = self.compiled() else {
            return Err(Denied {
                reason: "the control plane has not read its objects yet; try again".to_owned(),
            });
        };
        let key = proxy_key(&compiled, client)?;
        if let Some(sender) = published.clients.get(&key) {
            return Ok(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(published.snapshot(&compiled, &key));
        published.clients.insert(key, sender);
        Ok(receiver)
    }
}

fn proxy_key(compiled: &Compiled, client: &ClientIdentity) -> Result<ProxyKey, Denied> {
    match client.proxy_type {
        ProxyType::Agent => Ok(ProxyKey::Agent),
        ProxyType::Waypoint => waypoint_key(compiled, client).map(ProxyKey::Waypoint),
        ProxyType::Gateway => Ok(ProxyKey::Gateway {
            namespace: client.caller.namespace.clone(),
            pod: client.caller.pod_name.clone(),
            labels: Labels::clone(&client.pod_labels),
        }),
    }
}

fn waypoint_key(compiled: &Compiled, client: &ClientIdentity) -> Result<WaypointKey, Denied> {
    let labels = &client.pod_labels;
    let class = labels
        .get("gateway.networking.k8s.io/gateway-class-name")
        .map(|v| &**v);
    let Some(name) = labels
        .get(GATEWAY_NAME_LABEL)
        .filter(|_| class == Some(WAYPOINT_CLASS))
    else {
        let reason =
            format!("the pod lacks the labels of a waypoint ({GATEWAY_NAME_LABEL}, class {WAYPOINT_CLASS})");
        return Err(Denied { reason });
    };
    let key = WaypointKey::new(&client.caller.namespace, name);
    if compiled.waypoints.all.contains_key(&key) || compiled.carry.rendered.contains(&key) {
        return Ok(key);
    }
    Err(Denied {
        reason: format!("there is no waypoint {key}: no Gateway object and no rule asks for it"),
    })
}

impl Pods for Snapshots {
    fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<PodFacts> {
        self.pods.load().as_ref()?.pod(namespace, name, uid)
    }

    fn service_account_on_node(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        self.pods
            .load()
            .as_ref()
            .is_some_and(|pods| pods.runs_on(node, namespace, service_account))
    }
}
