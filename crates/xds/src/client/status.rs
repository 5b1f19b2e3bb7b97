//! What the client shows of itself: for readiness, the admin port and the command line.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::delta::{DeltaState, TypeState};
use crate::type_url::short_name;

/// Rejected resources shown per type.
const SHOWN: usize = 100;

#[derive(Clone, Debug, Default, Serialize)]
pub struct AdsStatus {
    pub connected: bool,
    /// When the present stream began.
    pub connected_since: Option<SystemTime>,
    /// How many streams were established.
    pub streams: u64,
    /// Why the last stream ended or could not be made; none while connected.
    pub last_error: Option<String>,
    /// By type URL.
    pub types: BTreeMap<&'static str, TypeStatus>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TypeStatus {
    pub name: String,
    /// A whole picture was received at least once.
    pub synced: bool,
    pub resources: usize,
    pub nonce: String,
    pub version: String,
    pub responses: u64,
    pub bytes: u64,
    /// Resources whose newest version was rejected, and why.
    pub rejected: BTreeMap<String, String>,
}

impl AdsStatus {
    /// Whether every type that has been asked for was acknowledged at least once.
    pub fn synced(&self) -> bool {
        !self.types.is_empty() && self.types.values().all(|status| status.synced)
    }

    /// Types that are still awaited, by short name.
    pub fn awaited(&self) -> Vec<&str> {
        self.types
            .values()
            .filter(|status| !status.synced)
            .map(|status| status.name.as_str())
            .collect()
    }

    /// Lists what is subscribed to, before anything has come in.
    pub(super) fn expect(&mut self, state: &DeltaState) {
        for (url, _) in state.types() {
            self.types.entry(url).or_default().name = short_name(url).to_owned();
        }
    }

    pub(super) fn set_connected(&mut self) {
        self.connected = true;
        self.connected_since = Some(SystemTime::now());
        self.streams += 1;
        self.last_error = None;
    }

    pub(super) fn set_lost(&mut self, error: String) {
        self.connected = false;
        self.connected_since = None;
        self.last_error = Some(error);
    }

    /// Takes over what changed with a response of `type_url`.
    pub(super) fn update(&mut self, type_url: &str, state: &DeltaState, bytes: u64) {
        for (url, known) in state.types().filter(|(url, _)| *url == type_url) {
            let status = self.types.entry(url).or_default();
            status.bytes += bytes;
            status.take(known);
        }
    }
}

impl TypeStatus {
    fn take(&mut self, known: &TypeState) {
        self.synced = known.synced;
        self.resources = known.resources();
        self.nonce.clone_from(&known.nonce);
        self.version.clone_from(&known.version);
        self.responses = known.responses;
        self.rejected = known
            .rejected
            .iter()
            .take(SHOWN)
            .map(|(n, r)| (n.clone(), r.clone()))
            .collect();
    }
}
