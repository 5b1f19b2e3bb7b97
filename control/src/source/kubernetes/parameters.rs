//! ConfigMaps that Gateways name (`spec.infrastructure.parametersRef`): each watched on its own, for as long as a Gateway
//! names it. A cluster has many ConfigMaps, and large ones, that are nobody's business here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::ORIGIN;
use super::follow::Follower;
use crate::kubernetes::kinds::{CONFIG_MAP, Kind, Reader, Watch, Which};
use crate::objects::{GATEWAY_API, ObjectKey};
use crate::sink::kubernetes::Desk;
use crate::store::SourceEvent;

/// Namespace and name.
type Name = (Arc<str>, Arc<str>);
/// What each Gateway names.
pub(super) type Named = BTreeMap<ObjectKey, Name>;

/// More than this are not watched; the Gateways that name them say that they are not there.
const MOST: usize = 1000;

/// Notes what a Gateway names now; `None` where it is gone.
pub(super) fn note(named: &watch::Sender<Named>, kind: &Kind, key: &ObjectKey, gateway: Option<&Value>) {
    if kind.group != GATEWAY_API || kind.kind != "Gateway" {
        return;
    }
    let reference = gateway.and_then(|g| g.pointer("/spec/infrastructure/parametersRef"));
    let is_one = |r: &&Value| r.get("kind").is_some_and(|kind| kind == "ConfigMap");
    let name = reference.filter(is_one).and_then(|r| r.get("name")?.as_str());
    let name = name.map(|name| (key.namespace.clone(), Arc::from(name)));
    named.send_if_modified(|all| match name {
        Some(name) => all.insert(key.clone(), name.clone()).as_ref() != Some(&name),
        None => all.remove(key).is_some(),
    });
}

/// Makes a follower of one ConfigMap; `first` is set once it has been looked for.
type Start = Box<dyn Fn(Watch, &Arc<str>, watch::Sender<bool>) -> Follower + Send + Sync>;

pub(super) struct Parameters {
    pub(super) named: watch::Receiver<Named>,
    pub(super) start: Start,
    pub(super) desk: Arc<Desk>,
    pub(super) events: mpsc::Sender<SourceEvent>,
    pub(super) definitions: watch::Receiver<u64>,
    /// The ConfigMap that is watched in any case.
    pub(super) settings: Name,
    pub(super) tasks: JoinSet<()>,
    pub(super) followed: BTreeMap<Name, AbortHandle>,
}

impl Parameters {
    /// Waits until everything that is named now has been looked for once.
    pub(super) async fn catch_up(&mut self) {
        for mut begun in self.follow_named().await {
            let _ = begun.wait_for(|begun| *begun).await;
        }
    }

    /// Ends only when nobody names anything any more.
    pub(super) async fn run(mut self) {
        while self.named.changed().await.is_ok() {
            self.follow_named().await;
        }
    }

    async fn follow_named(&mut self) -> Vec<watch::Receiver<bool>> {
        let mut wanted: BTreeSet<Name> = self.named.borrow_and_update().values().cloned().collect();
        wanted.remove(&self.settings);
        let gone = self.followed.keys().filter(|name| !wanted.contains(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.leave(&name).await;
        }
        wanted.retain(|name| !self.followed.contains_key(name));
        let free = MOST.saturating_sub(self.followed.len());
        if wanted.len() > free {
            tracing::warn!(
                most = MOST,
                "Gateways name too many ConfigMaps; the others are not read"
            );
        }
        wanted
            .into_iter()
            .take(free)
            .map(|name| self.begin(name))
            .collect()
    }

    fn begin(&mut self, name: Name) -> watch::Receiver<bool> {
        let (first, begun) = watch::channel(false);
        let watch = Watch {
            kind: CONFIG_MAP,
            which: Which::Given,
            reader: Reader::Model,
        };
        let mut follower = (self.start)(watch, &name.0, first).only(&name.1);
        let definitions = self.definitions.clone();
        let task = self.tasks.spawn(async move { follower.run(definitions).await });
        self.followed.insert(name, task);
        begun
    }

    async fn leave(&mut self, name: &Name) {
        if let Some(task) = self.followed.remove(name) {
            task.abort();
        }
        let key = ObjectKey::new("", "ConfigMap", &name.0, &name.1);
        self.desk.saw(&key, None);
        let origin = ORIGIN.into();
        let _ = self.events.send(SourceEvent::Deleted { origin, key }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::kinds;
    use serde_json::json;

    #[test]
    fn what_gateways_name_is_noted_and_forgotten() {
        let (named, seen) = watch::channel(Named::new());
        let key = ObjectKey::new(GATEWAY_API, "Gateway", "shop", "g");
        let kind = kinds::of(&key).unwrap();
        let gateway = |name: &str| json!({"spec": {"infrastructure": {"parametersRef": {"group": "", "kind": "ConfigMap", "name": name}}}});
        note(&named, &kind, &key, Some(&gateway("one")));
        assert_eq!(seen.borrow().get(&key), Some(&("shop".into(), "one".into())));
        note(&named, &kind, &key, Some(&gateway("two")));
        assert_eq!(seen.borrow().get(&key).unwrap().1.as_ref(), "two");
        note(
            &named,
            &kind,
            &key,
            Some(&json!({"spec": {"infrastructure": {"parametersRef": {"kind": "Secret", "name": "x"}}}})),
        );
        assert!(seen.borrow().is_empty());
        note(&named, &kind, &key, Some(&gateway("one")));
        note(&named, &kind, &key, None);
        assert!(seen.borrow().is_empty());
    }
}
