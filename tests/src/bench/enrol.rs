//! How long agents take to enrol what is there when they start.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::usage::Usage;
use super::{BenchError, say};
use crate::lab::status::Status;
use crate::lab::{Lab, LabOptions};

/// A node of the lab has 254 addresses, and the mesh's own pods take some.
pub const PODS_PER_NODE: u32 = 240;
const NAMESPACE: &str = "many";
const AGENTS: &str = "istio-system/ztunnel";
const SIGKILL: i32 = 9;
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    pub nodes: u8,
    /// Over all nodes.
    pub pods: u32,
}

#[derive(Clone, Debug)]
pub struct Report {
    nodes: u8,
    pods: u32,
    start: Duration,
    agents_megabytes: f64,
    agents_cpu: f64,
    release: Duration,
}

/// Brings up a lab, measures, and takes it down, whatever happens.
pub fn run(options: &Options) -> Result<Report, BenchError> {
    say(format_args!(
        "lab: {} nodes, {} pods",
        options.nodes, options.pods
    ));
    let lab = Lab::up(&LabOptions::named(&options.name).nodes(options.nodes))?;
    let result = measure(&lab, options);
    let down = lab.down();
    let report = result?;
    down?;
    Ok(report)
}

fn measure(lab: &Lab, options: &Options) -> Result<Report, BenchError> {
    lab.apply("default", &namespace(false))?;
    lab.apply(NAMESPACE, &deployment(options.pods))?;
    lab.wait_until("all pods run", PATIENCE, |status| {
        pods(status).filter(|pod| pod.ready).count() == options.pods as usize
    })?;
    say(format_args!("agents start, with the label in place"));
    lab.kill(AGENTS, SIGKILL, true)?;
    lab.apply("default", &namespace(true))?;
    let started = Instant::now();
    lab.release(AGENTS)?;
    let status = wait_for(lab, options.pods, true)?;
    let start = started.elapsed();
    let agents = Usage::read(&status).agents;
    say(format_args!("the label is taken off"));
    let released = Instant::now();
    lab.apply("default", &namespace(false))?;
    wait_for(lab, options.pods, false)?;
    Ok(Report {
        nodes: options.nodes,
        pods: options.pods,
        start,
        agents_megabytes: agents.rss_megabytes,
        agents_cpu: agents.cpu_seconds,
        release: released.elapsed(),
    })
}

fn wait_for(lab: &Lab, count: u32, enrolled: bool) -> Result<Status, BenchError> {
    Ok(lab.wait_until("all pods follow the label", PATIENCE, |status| {
        pods(status).filter(|pod| pod.enrolled == enrolled).count() == count as usize
    })?)
}

fn pods(status: &Status) -> impl Iterator<Item = &crate::lab::status::PodStatus> {
    status.pods.iter().filter(|pod| pod.namespace == NAMESPACE)
}

fn namespace(is_in: bool) -> String {
    let labels = if is_in {
        json!({"istio.io/dataplane-mode": "ambient"})
    } else {
        json!({})
    };
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
        .to_string()
}

fn deployment(replicas: u32) -> String {
    let labels = json!({"app": "idle"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "idle"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "idle", "image": "bench/idle", "command": ["sleep", "infinity"]}]},
            },
        },
    })
    .to_string()
}

impl Report {
    pub fn to_json(&self) -> Value {
        json!({
            "nodes": self.nodes,
            "pods": self.pods,
            "start_to_enrolled_seconds": self.start.as_secs_f64(),
            "label_off_to_released_seconds": self.release.as_secs_f64(),
            "agents_megabytes": self.agents_megabytes,
            "agents_cpu_seconds": self.agents_cpu,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} running pods on {} nodes of one machine",
            self.pods, self.nodes
        )?;
        writeln!(
            f,
            "agents started to all enrolled:   {:.2} s ({:.1} processor seconds, {:.0} MB in {} agents)",
            self.start.as_secs_f64(),
            self.agents_cpu,
            self.agents_megabytes,
            self.nodes
        )?;
        writeln!(
            f,
            "label taken off to all released:  {:.2} s",
            self.release.as_secs_f64()
        )
    }
}
