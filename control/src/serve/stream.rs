//! The server's half of the incremental xDS protocol for one stream, without I/O.
//!
//! A stream holds, per type, the map of what its client was told; the difference to the newest snapshot is what is
//! sent next. One response per type is outstanding until it is answered, so that newer snapshots coalesce and a client
//! that never answers costs one response per type and delays nobody else.
//!
//! Order is make before break, as Envoy's documentation of ADS asks: clusters and endpoints before the listeners and
//! routes that name them, policies before the workloads that name them, and removals last, in the opposite order.

mod order;
mod subscription;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_xds::pb::envoy::config::core::v3::ControlPlane;
use aquifer_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::message::Additions;
use super::{ResourceSnapshot, Resources, Version, VersionedResource};
use subscription::Subscription;

/// Types that one stream may ask for; Envoy has about ten.
const MAX_TYPES: usize = 32;
/// Names that one stream may subscribe to explicitly, over all types.
const MAX_NAMES: usize = 500_000;
const MAX_TYPE_URL: usize = 256;

/// What a client did that ends its stream, as `INVALID_ARGUMENT` or `RESOURCE_EXHAUSTED`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("type_url {0:?} is not type.googleapis.com/MESSAGE")]
    TypeUrl(String),
    #[error("more than {MAX_TYPES} resource types on one stream")]
    Types,
    #[error("more than {MAX_NAMES} resource names subscribed to on one stream")]
    Names,
}

/// The answer to a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Acknowledged,
    Rejected { message: String },
}

/// What a request meant, for the registry and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) type_url: Arc<str>,
    pub(super) nonce: String,
    pub(super) answer: Answer,
}

/// A response with what the registry records of it.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Without its resources.
    pub(super) response: DeltaDiscoveryResponse,
    pub(super) added: Additions,
    /// Resources that the client holds once it has applied this.
    pub(super) resources: usize,
}

struct TypeStream {
    subscription: Subscription,
    /// What the client was told, and with it what it holds if it rejected nothing. Once that is all of a snapshot it is
    /// the snapshot's own map, so that the next difference costs what has changed and not what there is.
    sent: Resources,
    /// The client waits for an answer, be it empty: after its first request and for names that do not exist.
    owed: bool,
    /// Names that were asked for and do not exist; told once.
    absent: Vec<String>,
    /// Nonce of the response that was not answered yet.
    outstanding: Option<String>,
    rejected: bool,
    /// The difference to the snapshot; none until it is computed, and again when either side changed.
    changes: Option<Changes>,
}

#[derive(Default)]
struct Changes {
    added: Additions,
    removed: Vec<Arc<str>>,
    /// What the client holds once it was told of both.
    wanted: Resources,
}

pub(super) struct StreamState {
    snapshot: Arc<ResourceSnapshot>,
    types: BTreeMap<Arc<str>, TypeStream>,
    responses: u64,
}

impl StreamState {
    pub(super) fn new(snapshot: Arc<ResourceSnapshot>) -> Self {
        Self {
            snapshot,
            types: BTreeMap::new(),
            responses: 0,
        }
    }

    pub(super) fn snapshot(&self) -> &Arc<ResourceSnapshot> {
        &self.snapshot
    }

    /// The version of a resource that the client was told, and holds if it rejected nothing.
    pub(super) fn held(&self, url: &str, name: &str) -> Option<Version> {
        Some(self.types.get(url)?.sent.get(name)?.version())
    }

    /// Takes a newer snapshot; what it changes is sent as answers come in.
    pub(super) fn replace(&mut self, snapshot: Arc<ResourceSnapshot>) {
        self.snapshot = snapshot;
        for stream in self.types.values_mut() {
            stream.changes = None;
        }
    }

    /// Reads a request: a subscription, an answer, or both.
    pub(super) fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Option<Answered>, Violation> {
        let url = type_url(&request.type_url)?;
        let names = self
            .types
            .values()
            .map(|stream| stream.subscription.len())
            .sum::<usize>();
        if names + request.resource_names_subscribe.len() > MAX_NAMES {
            return Err(Violation::Names);
        }
        if let Some(stream) = self.types.get_mut(url) {
            let answered = stream.answer(url, &request);
            stream.resubscribe(request);
            return Ok(answered);
        }
        if self.types.len() >= MAX_TYPES {
            return Err(Violation::Types);
        }
        self.types.insert(url.into(), TypeStream::new(request));
        Ok(None)
    }

    /// The next response that may be sent now; asked until there is none.
    pub(super) fn next(&mut self) -> Option<Outgoing> {
        let chain = order::chains(self.types.keys())
            .into_iter()
            .find_map(|chain| self.step(&chain))?;
        let (url, which) = chain;
        let nonce = self.nonce();
        let version = self.snapshot.generation.to_string();
        let stream = self.types.get_mut(&url)?;
        Some(stream.send(&url, which, nonce, version))
    }

    /// Whether the client has answered everything, accepted it, and nothing is left to send: its snapshot is in effect.
    pub(super) fn settled(&mut self) -> bool {
        let snapshot = self.snapshot.clone();
        !self.types.is_empty()
            && self.types.iter_mut().all(|(url, stream)| {
                stream.outstanding.is_none()
                    && !stream.rejected
                    && !stream.owed
                    && stream.changes(url, &snapshot).is_empty()
            })
    }

    /// What one chain of dependent types may send: additions from its front, then removals from its back.
    fn step(&mut self, chain: &[Arc<str>]) -> Option<(Arc<str>, Which)> {
        let states: Vec<order::State> = chain.iter().map(|url| self.state(url)).collect();
        let (index, which) = order::next(&states)?;
        Some((chain[index].clone(), which))
    }

    fn state(&mut self, url: &Arc<str>) -> order::State {
        let snapshot = self.snapshot.clone();
        let Some(stream) = self.types.get_mut(url) else {
            return order::State::default();
        };
        let outstanding = stream.outstanding.is_some();
        let owed = stream.owed;
        let changes = stream.changes(url, &snapshot);
        order::State {
            outstanding,
            adds: owed || !changes.added.is_empty(),
            removes: !changes.removed.is_empty(),
        }
    }

    fn nonce(&mut self) -> String {
        self.responses += 1;
        format!("{:x}", self.responses)
    }
}

pub(super) use order::Which;

impl Changes {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl TypeStream {
    fn new(request: DeltaDiscoveryRequest) -> Self {
        Self {
            subscription: Subscription::first(&request.resource_names_subscribe),
            sent: held(request.initial_resource_versions),
            owed: true,
            absent: request.resource_names_subscribe,
            outstanding: None,
            rejected: false,
            changes: None,
        }
    }

    /// Settles the outstanding response, if this is the answer to it; a stale nonce answers nothing.
    fn answer(&mut self, url: &str, request: &DeltaDiscoveryRequest) -> Option<Answered> {
        if request.response_nonce.is_empty() || self.outstanding.as_ref() != Some(&request.response_nonce) {
            return None;
        }
        self.outstanding = None;
        self.rejected = request.error_detail.is_some();
        let answer = match &request.error_detail {
            None => Answer::Acknowledged,
            Some(status) => Answer::Rejected {
                message: status.message.chars().take(2000).collect(),
            },
        };
        Some(Answered {
            type_url: url.into(),
            nonce: request.response_nonce.clone(),
            answer,
        })
    }

    fn resubscribe(&mut self, request: DeltaDiscoveryRequest) {
        if request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty() {
            return;
        }
        for name in &request.resource_names_subscribe {
            // Asked for again, it is sent again: the client may have dropped it.
            self.sent.remove(name.as_str());
        }
        self.owed |= !request.resource_names_subscribe.is_empty();
        self.subscription.change(
            &request.resource_names_subscribe,
            &request.resource_names_unsubscribe,
        );
        self.absent.extend(request.resource_names_subscribe);
        // The client forgets what it unsubscribes from without being told.
        self.sent = self.subscription.select(&self.sent);
        self.changes = None;
    }

    fn changes(&mut self, url: &str, snapshot: &ResourceSnapshot) -> &mut Changes {
        if self.changes.is_none() {
            let all = snapshot.types.get(url);
            let wanted = all.map(|all| self.subscription.select(all)).unwrap_or_default();
            let absent = &mut self.absent;
            absent.retain(|name| name != subscription::WILDCARD && !wanted.contains_key(name.as_str()));
            self.changes = Some(difference(&self.sent, wanted));
        }
        self.changes.get_or_insert_default()
    }

    fn send(&mut self, url: &str, which: Which, nonce: String, version: String) -> Outgoing {
        let mut changes = self.changes.take().unwrap_or_default();
        let (mut added, mut removed) = (Additions::default(), Vec::new());
        if which != Which::Removals {
            self.owed = false;
            removed = std::mem::take(&mut self.absent);
            added = std::mem::take(&mut changes.added);
            note_added(&mut self.sent, &added);
        }
        if which != Which::Additions {
            for name in std::mem::take(&mut changes.removed) {
                self.sent.remove(&name);
                removed.push(name.to_string());
            }
        }
        if changes.is_empty() {
            self.sent = changes.wanted.clone();
        }
        self.changes = Some(changes);
        self.outstanding = Some(nonce.clone());
        let response = DeltaDiscoveryResponse {
            system_version_info: version,
            resources: Vec::new(),
            type_url: url.to_owned(),
            nonce,
            removed_resources: removed,
            control_plane: Some(ControlPlane {
                identifier: "aquifer".to_owned(),
            }),
        };
        Outgoing {
            response,
            added,
            resources: self.sent.len(),
        }
    }
}

fn type_url(url: &str) -> Result<&str, Violation> {
    let message = url.strip_prefix("type.googleapis.com/").unwrap_or_default();
    if message.is_empty() || url.len() > MAX_TYPE_URL {
        return Err(Violation::TypeUrl(url.chars().take(100).collect()));
    }
    Ok(url)
}

/// What a reconnecting client says it has.
fn held(versions: BTreeMap<String, String>) -> Resources {
    let resource = |version: String| Arc::new(VersionedResource::claimed(&version));
    versions
        .into_iter()
        .map(|(name, version)| (Arc::from(name), resource(version)))
        .collect()
}

fn note_added(sent: &mut Resources, added: &Additions) {
    match added {
        Additions::Whole(all) => *sent = all.clone(),
        Additions::Some(list) => sent.extend(list.iter().cloned()),
    }
}

fn difference(sent: &Resources, wanted: Resources) -> Changes {
    use imbl::ordmap::DiffItem;
    if sent.is_empty() {
        return Changes {
            added: Additions::Whole(wanted.clone()),
            removed: Vec::new(),
            wanted,
        };
    }
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for item in sent.diff(&wanted) {
        match item {
            DiffItem::Add(name, resource)
            | DiffItem::Update {
                new: (name, resource),
                ..
            } => added.push((name.clone(), resource.clone())),
            DiffItem::Remove(name, _) => removed.push(name.clone()),
        }
    }
    Changes {
        added: Additions::Some(added),
        removed,
        wanted,
    }
}
