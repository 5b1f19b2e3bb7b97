//! The newest model, as each proxy should hold it, and the pods behind the tokens.

mod accounts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::auth::pods::{PodFacts, Pods};
use crate::compile::Compiled;
use crate::compile::discovery::WAYPOINT_CLASS;
use crate::compile::waypoints::{GATEWAY_NAME_LABEL, WaypointKey};
use crate::proxies::{Picture, ProxyKey, Types, ambient};
use crate::serve::{ClientIdentity, Denied, ProxyType, ResourceSnapshot, ResourceSnapshots};
use accounts::Accounts;

/// One writer publishes; every stream reads.
#[derive(Default)]
pub struct Snapshots {
    /// Held while resources are made, never over an await. Protects the clients against a publication in between.
    published: Mutex<Published>,
    compiled: ArcSwapOption<Compiled>,
    accounts: ArcSwapOption<Accounts>,
}

#[derive(Default)]
struct Published {
    generation: u64,
    changed_at: Option<Instant>,
    ambient: Types,
    clients: BTreeMap<ProxyKey, Client>,
}

/// What the proxies of one kind share.
struct Client {
    picture: Picture,
    snapshots: watch::Sender<Arc<ResourceSnapshot>>,
}

impl Snapshots {
    /// Makes the resources of every connected proxy; gives the new generation. Models are published one after the other,
    /// each made from the one before, and none is left out.
    pub fn publish(&self, compiled: &Arc<Compiled>, changed_at: Instant) -> u64 {
        let before = self.compiled();
        let mut accounts = self.accounts.load().as_deref().cloned().unwrap_or_default();
        accounts.update(before.as_ref().map(|b| &b.inputs.pods), &compiled.inputs.pods);
        self.accounts.store(Some(Arc::new(accounts)));
        let mut published = self.published.lock();
        let published = &mut *published;
        published.generation += 1;
        published.changed_at = Some(changed_at);
        let previous = std::mem::take(&mut published.ambient);
        published.ambient = ambient(compiled, previous, before.as_deref());
        self.compiled.store(Some(compiled.clone()));
        published
            .clients
            .retain(|_, client| client.snapshots.receiver_count() > 0);
        let mut clients = std::mem::take(&mut published.clients);
        for (key, client) in &mut clients {
            client.picture = std::mem::take(&mut client.picture).next(compiled, key);
            client.snapshots.send_replace(published.snapshot(&client.picture));
        }
        published.clients = clients;
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
    fn snapshot(&self, picture: &Picture) -> Arc<ResourceSnapshot> {
        Arc::new(ResourceSnapshot {
            generation: self.generation,
            changed_at: self.changed_at.unwrap_or_else(Instant::now),
            types: picture.types(&self.ambient),
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
        if let Some(client) = published.clients.get(&key) {
            return Ok(client.snapshots.subscribe());
        }
        let picture = Picture::of(&compiled, &key);
        let (snapshots, receiver) = watch::channel(published.snapshot(&picture));
        published.clients.insert(key, Client { picture, snapshots });
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
            uid: client.caller.pod_uid.clone(),
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
        let compiled = self.compiled.load();
        let entry = compiled.as_ref()?.inputs.pods.get(namespace, name)?;
        (*entry.meta.uid == *uid && !uid.is_empty()).then(|| accounts::facts(entry))
    }

    fn service_account_on_node(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        let accounts = self.accounts.load();
        accounts
            .as_ref()
            .is_some_and(|accounts| accounts.run_on(node, namespace, service_account))
    }
}
