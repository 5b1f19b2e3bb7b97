//! Who uses the machine's processors: they are shared, so that a delay holds the cost of all.

use std::time::Duration;

use super::process::ControlProcess;
use crate::bench::usage;

/// The API server's and its store's programs.
const API_SERVER: [&str; 2] = ["kube-apiserver", "etcd"];

/// Seconds of processor time; processors' worth after [`Shares::since`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    pub(super) control: f64,
    pub(super) api_server: f64,
    /// This program with its clients.
    pub(super) clients: f64,
}

impl Shares {
    pub(super) fn now(control: &ControlProcess) -> Self {
        let own = usage::of_process(std::process::id());
        Self {
            control: control.cpu_seconds(),
            api_server: usage::cpu_seconds_of(&API_SERVER),
            clients: own.map_or(0.0, |share| share.cpu_seconds),
        }
    }

    pub(super) fn since(&self, before: &Self, time: Duration) -> Self {
        let share = |now: f64, before: f64| (now - before) / time.as_secs_f64().max(f64::EPSILON);
        Self {
            control: share(self.control, before.control),
            api_server: share(self.api_server, before.api_server),
            clients: share(self.clients, before.clients),
        }
    }
}
