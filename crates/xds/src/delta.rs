//! The client's half of the incremental xDS protocol, without I/O.
//!
//! One [`DeltaState`] outlives all streams of a client: it remembers what was applied, so that a reconnect asks only
//! for differences. The caller moves messages: [`DeltaState::connected`] makes the first requests of a stream,
//! [`DeltaState::received`] reads a response, [`DeltaState::applied`] makes the answer to it.
//!
//! Bad resources are rejected one by one: the rest of their response is applied, and the negative acknowledgement
//! names them. A rejected resource keeps its last good version, and a reconnect claims that version only.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::handler::{Rejected, Update};
use crate::pb::envoy::config::core::v3::Node;
use crate::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::pb::google::rpc::Status;

/// `INVALID_ARGUMENT`: what a rejected response is answered with.
const INVALID_ARGUMENT: i32 = 3;
/// Longest `error_detail`, in bytes: a response may hold thousands of bad resources.
const MAX_ERROR_DETAIL: usize = 16 * 1024;
/// Rejected resources remembered per type, for display.
const MAX_REJECTED: usize = 1000;

/// Why a response cannot be answered at all; the stream is given up and made anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("xDS server sent resources of type {0:?}, which was not asked for")]
    UnknownType(String),
    #[error("xDS server sent a response of type {0} without a nonce; it cannot be acknowledged")]
    NoNonce(String),
}

/// One response, sorted; the caller applies it and hands it back to [`DeltaState::applied`].
#[derive(Debug)]
pub struct Batch {
    pub type_url: &'static str,
    pub updates: Vec<Update>,
    /// Only names that were held.
    pub removals: Vec<String>,
    /// Resources that could not be handed to anyone.
    malformed: Vec<Rejected>,
    /// Name to version of `updates`.
    versions: BTreeMap<String, String>,
    removed: Vec<String>,
    nonce: String,
}

/// What is known of one type.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TypeState {
    /// A response was acknowledged at least once, on any stream: what is held is a whole picture.
    pub synced: bool,
    /// The last nonce seen on the present stream.
    pub nonce: String,
    /// The server's own name for the last response's state.
    pub version: String,
    pub responses: u64,
    /// What the server sent last for these names was rejected, and why.
    pub rejected: BTreeMap<String, String>,
    /// Versions of what was applied.
    held: BTreeMap<String, String>,
}

impl TypeState {
    /// How many resources are applied.
    pub fn resources(&self) -> usize {
        self.held.len()
    }
}

/// The protocol state of one client over all of its streams.
#[derive(Debug)]
pub struct DeltaState {
    node: Node,
    /// In the order of subscription.
    types: Vec<(&'static str, TypeState)>,
}

impl DeltaState {
    /// Subscribes to everything of each type.
    pub fn new(node: Node, wildcard_types: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            node,
            types: wildcard_types
                .into_iter()
                .map(|url| (url, TypeState::default()))
                .collect(),
        }
    }

    pub fn types(&self) -> impl Iterator<Item = (&'static str, &TypeState)> {
        self.types.iter().map(|(url, state)| (*url, state))
    }

    /// The first requests of a new stream, which name what is held already.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let node = &self.node;
        let initial = |(index, (url, state)): (usize, &mut (&'static str, TypeState))| {
            state.nonce.clear();
            // The server sends again whatever differs from what is claimed; what is still bad is rejected again.
            state.rejected.clear();
            DeltaDiscoveryRequest {
                node: (index == 0).then(|| node.clone()),
                type_url: (*url).to_owned(),
                initial_resource_versions: state.held.clone(),
                ..DeltaDiscoveryRequest::default()
            }
        };
        self.types.iter_mut().enumerate().map(initial).collect()
    }

    /// Sorts a response into what can be applied and what cannot.
    ///
    /// # Errors
    /// [`ProtocolError`] where no answer is possible; nothing has changed then.
    pub fn received(&mut self, response: DeltaDiscoveryResponse) -> Result<Batch, ProtocolError> {
        let Some((type_url, state)) = self.types.iter_mut().find(|(url, _)| *url == response.type_url) else {
            return Err(ProtocolError::UnknownType(
                response.type_url.chars().take(200).collect(),
            ));
        };
        if response.nonce.is_empty() {
            return Err(ProtocolError::NoNonce(response.type_url));
        }
        state.nonce.clone_from(&response.nonce);
        state.version = response.system_version_info;
        state.responses += 1;
        Ok(sort(
            type_url,
            state,
            response.resources,
            response.removed_resources,
            response.nonce,
        ))
    }

    /// Records what became of a batch and makes the acknowledgement, positive or negative.
    pub fn applied(&mut self, batch: Batch, outcome: Result<(), Vec<Rejected>>) -> DeltaDiscoveryRequest {
        let mut rejected = batch.malformed;
        rejected.extend(outcome.err().unwrap_or_default());
        if let Some((_, state)) = self.types.iter_mut().find(|(url, _)| *url == batch.type_url) {
            record(state, batch.versions, &batch.removed, &rejected);
        }
        DeltaDiscoveryRequest {
            type_url: batch.type_url.to_owned(),
            response_nonce: batch.nonce,
            error_detail: error_detail(&rejected),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

fn sort(
    type_url: &'static str,
    state: &TypeState,
    resources: Vec<Resource>,
    removed: Vec<String>,
    nonce: String,
) -> Batch {
    let mut malformed = Vec::new();
    // By name: where a server names a resource twice, the later one counts.
    let mut updates = BTreeMap::new();
    for resource in resources {
        match update(type_url, resource) {
            Ok(update) => {
                updates.insert(update.name.clone(), update);
            }
            Err(rejected) => malformed.push(rejected),
        }
    }
    let removed: Vec<String> = removed
        .into_iter()
        .filter(|name| !updates.contains_key(name))
        .collect();
    Batch {
        type_url,
        removals: removed
            .iter()
            .filter(|name| state.held.contains_key(*name))
            .cloned()
            .collect(),
        malformed,
        versions: updates
            .values()
            .map(|u| (u.name.clone(), u.version.clone()))
            .collect(),
        updates: updates.into_values().collect(),
        removed,
        nonce,
    }
}

fn update(type_url: &str, resource: Resource) -> Result<Update, Rejected> {
    if resource.name.is_empty() {
        return Err(Rejected::new("(unnamed)", "a resource without a name"));
    }
    match resource.resource {
        None => Err(Rejected::new(resource.name, "a resource without content")),
        Some(any) if any.type_url != type_url => Err(Rejected::new(
            resource.name,
            format!(
                "content of type {:?} in a response of type {type_url}",
                any.type_url
            ),
        )),
        Some(any) => Ok(Update {
            name: resource.name,
            version: resource.version,
            resource: any,
        }),
    }
}

fn record(
    state: &mut TypeState,
    versions: BTreeMap<String, String>,
    removed: &[String],
    rejected: &[Rejected],
) {
    state.synced = true;
    for name in removed {
        state.held.remove(name);
        state.rejected.remove(name);
    }
    let bad: BTreeMap<&str, &str> = rejected
        .iter()
        .map(|r| (r.name.as_str(), r.reason.as_str()))
        .collect();
    for (name, version) in versions {
        if !bad.contains_key(name.as_str()) {
            state.rejected.remove(&name);
            state.held.insert(name, version);
        }
    }
    for (name, reason) in bad {
        if state.rejected.len() < MAX_REJECTED || state.rejected.contains_key(name) {
            state.rejected.insert(name.to_owned(), reason.to_owned());
        }
    }
}

fn error_detail(rejected: &[Rejected]) -> Option<Status> {
    if rejected.is_empty() {
        return None;
    }
    let mut message = String::new();
    for (index, one) in rejected.iter().enumerate() {
        let line: String = one.to_string().chars().take(1000).collect();
        if message.len() + line.len() > MAX_ERROR_DETAIL {
            message.push_str(&format!("; and {} more", rejected.len() - index));
            break;
        }
        if index > 0 {
            message.push_str("; ");
        }
        message.push_str(&line);
    }
    Some(Status {
        code: INVALID_ARGUMENT,
        message,
        details: Vec::new(),
    })
}
