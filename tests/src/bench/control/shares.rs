//! Who uses the machine's processors: they are shared, also with strangers, so that a time holds the cost of all and
//! processor seconds hold the cost of each.

use std::time::{Duration, Instant};

use super::process::ControlProcess;
use crate::bench::usage;

/// The API server's and its store's programs.
const API_SERVER: [&str; 2] = ["kube-apiserver", "etcd"];

/// Seconds of processor time, at a moment or between two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    at: Instant,
    pub(super) control: f64,
    pub(super) api_server: f64,
    /// This program with its clients.
    pub(super) clients: f64,
    /// Processes that ran or wanted to, on average over a minute: more than the machine's processors are too many.
    pub(super) load: f64,
}

impl Shares {
    /// Before the control plane has started.
    pub(super) fn before() -> Self {
        Self::with(0.0)
    }

    pub(super) fn now(control: &ControlProcess) -> Self {
        Self::with(control.cpu_seconds())
    }

    fn with(control: f64) -> Self {
        let own = usage::of_process(std::process::id());
        Self {
            at: Instant::now(),
            control,
            api_server: usage::cpu_seconds_of(&API_SERVER),
            clients: own.map_or(0.0, |share| share.cpu_seconds),
            load: usage::load(),
        }
    }

    /// What was used since then, and how long that took.
    pub(super) fn since(&self, before: &Self) -> (Self, Duration) {
        let used = Self {
            at: before.at,
            control: self.control - before.control,
            api_server: self.api_server - before.api_server,
            clients: self.clients - before.clients,
            load: self.load,
        };
        (used, self.at.saturating_duration_since(before.at))
    }
}
