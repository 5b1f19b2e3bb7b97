//! The demo in the lab.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::bookinfo::part;
use crate::demo::Options;
use crate::demo::client;
use crate::demo::failure::{Failure, OrFailed};
use crate::demo::namespace::Namespace;
use crate::demo::progress::Progress;
use crate::demo::story::{GATEWAY, NAMESPACE, SYSTEM, steps};
use crate::lab::layout::{LabName, Layout};
use crate::lab::status::{NodeStatus, PodStatus, Status};
use crate::lab::{self, Lab, LabOptions};

use super::{METRICS_PATH, METRICS_PORT, Place};

const HTTP_PORT: u16 = 80;

pub(super) struct LabPlace {
    lab: Lab,
    layout: Layout,
}

impl LabPlace {
    pub(super) fn build(options: &Options, progress: Progress) -> Result<Self, Failure> {
        let name: LabName = options.name.parse().or_failed(steps::LAB)?;
        // Most likely kept by an earlier run; it is this program's own name.
        if Lab::attach(&options.name).is_ok_and(|lab| lab.status().is_ok()) {
            progress.say(format_args!("taking down the lab {name} that is still there"));
            lab::take_down(&name).or_failed(steps::LAB)?;
        }
        progress.say("lab: two nodes, control plane, node agents, ingress gateway");
        let mut lab_options = LabOptions::named(&options.name);
        lab_options.images = part::image_mappings(&options.bookinfo);
        let mut lab = Lab::up(&lab_options).or_failed(steps::LAB)?;
        if options.keep {
            lab.keep();
        }
        Ok(Self {
            lab,
            layout: Layout::new(&name),
        })
    }
}

impl Place for LabPlace {
    fn status(&self) -> Result<Status, String> {
        self.lab.status().map_err(text)
    }

    fn apply(&self, namespace: &str, manifests: &str) -> Result<(), String> {
        self.lab.apply(namespace, manifests).map(drop).map_err(text)
    }

    fn apply_path(&self, namespace: &str, path: &Path) -> Result<(), String> {
        self.lab.apply_path(namespace, path).map(drop).map_err(text)
    }

    fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        wanted: &dyn Fn(&Status) -> bool,
    ) -> Result<Status, String> {
        self.lab.wait_until(what, timeout, wanted).map_err(text)
    }

    fn wait_ready(&self, timeout: Duration) -> Result<Status, String> {
        self.lab.wait_ready(timeout).map_err(text)
    }

    fn outside(&self) -> Namespace {
        Namespace::of(&self.layout, "world")
    }

    fn nodes(&self, status: &Status) -> Vec<Namespace> {
        let of = |node: &NodeStatus| Namespace::of(&self.layout, &node.name);
        status.nodes.iter().map(of).collect()
    }

    /// From a node, as a collector of metrics would ask.
    fn metrics(&self, proxy: &PodStatus) -> Result<String, String> {
        let node = self.nodes(&self.status()?).pop().ok_or("there is no node")?;
        let ip = proxy.ip.ok_or("it has no address")?;
        client::fetch(&node, SocketAddr::new(ip, METRICS_PORT), METRICS_PATH)
    }

    fn entry(&mut self, status: &Status) -> Result<SocketAddr, String> {
        let service = status.service(SYSTEM, GATEWAY);
        let address = service.and_then(|service| service.addresses.first());
        address
            .map(|address| SocketAddr::new(*address, HTTP_PORT))
            .ok_or_else(|| format!("Service {SYSTEM}/{GATEWAY} has no address for clients outside"))
    }

    fn routing_status(&self) -> String {
        let folder = self.lab.sink_dir().join("status");
        let mut text = String::new();
        for name in ["reviews", "ratings", "bookinfo"] {
            let path = folder.join(format!("VirtualService.{NAMESPACE}.{name}.json"));
            if let Ok(status) = std::fs::read_to_string(path) {
                text.push_str(&format!("\n  status of VirtualService {name}: {}", status.trim()));
            }
        }
        text
    }

    fn remedy(&self) -> Option<&'static str> {
        None
    }

    fn down(self: Box<Self>) -> Result<(), String> {
        self.lab.down().map_err(text)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
