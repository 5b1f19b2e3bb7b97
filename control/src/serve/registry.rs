//! Every connected proxy and what it has of its configuration: for `/debug/syncz`, `aquifer status` and the
//! "in effect at N of M" of an object's status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::stream::{Answer, Answered, Outgoing};
use super::{ClientIdentity, ProxyType, ResourceSnapshot, Version};
use crate::compile::report::PodName;

/// So many characters of a proxy's words are kept: they are said in statuses.
const MAX_REFUSAL: usize = 300;

/// Where one type of one proxy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SyncState {
    /// Everything that was sent was acknowledged.
    Synced,
    /// A response waits for its answer.
    #[default]
    Stale,
    /// The last response was rejected, in part or as a whole.
    Rejected,
}

/// One type of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeSync {
    pub state: SyncState,
    /// The generation of the model that the last response was made from.
    pub sent_version: String,
    pub sent_nonce: String,
    pub acked_version: String,
    pub acked_nonce: String,
    /// Resources that the proxy was told of.
    pub resources: usize,
    /// The last rejection, as the proxy worded it: it names the resources.
    pub last_error: Option<String>,
}

/// One connected proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    pub node_id: Arc<str>,
    pub proxy_type: ProxyType,
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub node: Arc<str>,
    pub connected_since: SystemTime,
    /// The newest generation that is wholly in effect at this proxy.
    pub generation_in_effect: Option<u64>,
    /// What it said when it first refused something, shortened; none once a later generation is wholly in effect there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Arc<str>>,
    /// The version of the roots that it trusts; none where it has not acknowledged any.
    pub trusts: Option<Version>,
    /// By type URL.
    pub types: BTreeMap<Arc<str>, TypeSync>,
}

impl ProxyStatus {
    fn brief(&self) -> Self {
        Self {
            node_id: self.node_id.clone(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            node: self.node.clone(),
            refusal: self.refusal.clone(),
            types: BTreeMap::new(),
            ..*self
        }
    }
}

struct Record {
    status: ProxyStatus,
    snapshot: Arc<ResourceSnapshot>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// By number of the stream: a reconnecting proxy has two for a moment.
    records: BTreeMap<u64, Record>,
}

/// The connected proxies; clones share them.
#[derive(Clone)]
pub struct ProxyRegistry {
    /// Bounded by the number of streams that are let in. Held for a lookup, never over an await.
    inner: Arc<Mutex<Inner>>,
    /// Counts up whenever the answer to [`ProxyRegistry::in_effect`] may have changed.
    changes: Arc<watch::Sender<u64>>,
}

impl Default for ProxyRegistry {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl ProxyRegistry {
    /// Every proxy, in the order in which they connected.
    pub fn list(&self) -> Vec<ProxyStatus> {
        self.inner
            .lock()
            .records
            .values()
            .map(|record| record.status.clone())
            .collect()
    }

    /// Every proxy, without the state of its types: what is asked for many times a second.
    pub fn present(&self) -> Vec<ProxyStatus> {
        let inner = self.inner.lock();
        inner
            .records
            .values()
            .map(|record| record.status.brief())
            .collect()
    }

    /// The waypoints among the proxies, without the state of their types.
    pub fn waypoints(&self) -> Vec<ProxyStatus> {
        let inner = self.inner.lock();
        let statuses = inner.records.values().map(|record| &record.status);
        statuses
            .filter(|status| status.proxy_type == ProxyType::Waypoint)
            .map(ProxyStatus::brief)
            .collect()
    }

    /// The newest stream of a proxy by node id or `POD.NAMESPACE`, and the snapshot that it is being brought to.
    pub fn find(&self, proxy: &str) -> Option<(ProxyStatus, Arc<ResourceSnapshot>)> {
        let inner = self.inner.lock();
        let named = |status: &ProxyStatus| {
            *status.node_id == *proxy || proxy == format!("{}.{}", status.pod, status.namespace)
        };
        let record = inner
            .records
            .values()
            .rev()
            .find(|record| named(&record.status))?;
        Some((record.status.clone(), record.snapshot.clone()))
    }

    /// At how many proxies `generation` is in effect, and how many there are.
    pub fn in_effect(&self, generation: u64) -> (usize, usize) {
        let inner = self.inner.lock();
        let reached = |record: &&Record| {
            record
                .status
                .generation_in_effect
                .is_some_and(|has| has >= generation)
        };
        (
            inner.records.values().filter(reached).count(),
            inner.records.len(),
        )
    }

    /// Every proxy, by namespace and pod, and whether it trusts the roots of this version.
    pub(crate) fn trusting(&self, version: Version) -> impl Iterator<Item = (PodName, bool)> + use<> {
        let has = |status: &ProxyStatus| status.trusts == Some(version);
        let inner = self.inner.lock();
        let statuses = inner.records.values().map(|record| &record.status);
        let proxies = statuses.map(|s| ((s.namespace.clone(), s.pod.clone()), has(s)));
        proxies.collect::<Vec<_>>().into_iter()
    }

    /// Resolves to a new value whenever a proxy came, went, or brought a generation or roots into effect.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many streams are open.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.inner.lock().records.len()
    }

    /// Streams that the pod with this UID has open.
    pub(super) fn streams_of(&self, client: &ClientIdentity) -> usize {
        let same = |record: &&Record| {
            record.status.pod == client.caller.pod_name && record.status.namespace == client.caller.namespace
        };
        self.inner.lock().records.values().filter(same).count()
    }

    /// Enters a stream; dropping the entry takes it out.
    pub(super) fn enter(
        &self,
        client: &ClientIdentity,
        snapshot: Arc<ResourceSnapshot>,
        now: SystemTime,
    ) -> Entry {
        let status = ProxyStatus {
            node_id: client.node_id.clone(),
            proxy_type: client.proxy_type,
            namespace: client.caller.namespace.clone(),
            pod: client.caller.pod_name.clone(),
            node: client.caller.node_name.clone(),
            connected_since: now,
            generation_in_effect: None,
            refusal: None,
            trusts: None,
            types: BTreeMap::new(),
        };
        let mut inner = self.inner.lock();
        inner.next += 1;
        let number = inner.next;
        inner.records.insert(number, Record { status, snapshot });
        drop(inner);
        self.notify();
        Entry {
            registry: self.clone(),
            number,
        }
    }

    fn notify(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// One stream's place in the registry.
pub(super) struct Entry {
    registry: ProxyRegistry,
    number: u64,
}

impl Entry {
    pub(super) fn sent(&self, outgoing: &Outgoing) {
        let response = &outgoing.response;
        self.update_type(&response.type_url, |sync| {
            sync.state = SyncState::Stale;
            sync.sent_version.clone_from(&response.system_version_info);
            sync.sent_nonce.clone_from(&response.nonce);
            sync.resources = outgoing.resources;
        });
    }

    pub(super) fn answered(&self, answered: &Answered) {
        self.update_type(&answered.type_url, |sync| match &answered.answer {
            Answer::Acknowledged => {
                sync.state = SyncState::Synced;
                sync.acked_version.clone_from(&sync.sent_version);
                sync.acked_nonce.clone_from(&answered.nonce);
                sync.last_error = None;
            }
            Answer::Rejected { message } => {
                sync.state = SyncState::Rejected;
                sync.last_error = Some(message.clone());
            }
        });
        if let Answer::Rejected { message } = &answered.answer {
            self.update(|record| {
                let refusal = &mut record.status.refusal;
                refusal.get_or_insert_with(|| shortened(message));
            });
            self.registry.notify();
        }
    }

    pub(super) fn trusts(&self, version: Option<Version>) {
        self.update(|record| record.status.trusts = version);
        self.registry.notify();
    }

    pub(super) fn snapshot(&self, snapshot: &Arc<ResourceSnapshot>) {
        self.update(|record| record.snapshot = snapshot.clone());
    }

    pub(super) fn in_effect(&self, generation: u64) {
        self.update(|record| {
            record.status.generation_in_effect = Some(generation);
            record.status.refusal = None;
        });
        self.registry.notify();
    }

    fn update_type(&self, type_url: &str, change: impl FnOnce(&mut TypeSync)) {
        self.update(|record| change(record.status.types.entry(type_url.into()).or_default()));
    }

    fn update(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.registry.inner.lock().records.get_mut(&self.number) {
            change(record);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.registry.inner.lock().records.remove(&self.number);
        self.registry.notify();
    }
}

fn shortened(said: &str) -> Arc<str> {
    match said.char_indices().nth(MAX_REFUSAL) {
        Some((end, _)) => format!("{}…", &said[..end]).into(),
        None => said.into(),
    }
}
