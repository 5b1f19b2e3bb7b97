//! What clients ask for, beside applying and deleting: ways in, logs, signals.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::super::enter::{Bind, Entry, Mounts};
use super::super::layout::netns_path;
use super::super::network::WORLD;
use super::super::protocol::{LogFile, Request, Response};
use super::super::status::Status;
use super::super::store::update_file;
use super::Reply;
use super::cluster::Cluster;
use super::environment::log_file;
use super::kubelet::PodCommand;
use super::nodes::helper_log;
use super::pod::{Pod, Stage};

impl Cluster {
    pub(super) fn answer(&mut self, request: Request) -> Reply {
        let result = match request {
            Request::Apply { namespace, documents } => self
                .apply(&namespace, &documents)
                .map(|lines| Response::Done { lines }),
            Request::Delete { namespace, documents } => return self.delete(&namespace, &documents),
            Request::Exec { target } => self.exec_entry(&target),
            Request::Node { node } => self.node_entry(&node),
            Request::Logs { target } => self.log_files(&target),
            Request::Kill { target, signal, hold } => self.kill(&target, signal, hold),
            Request::Release { target } => self.command(&target, || PodCommand::Release),
            Request::Status => Ok(Response::Status {
                status: Box::new(Status::clone(&self.status.borrow())),
            }),
            Request::Watch { .. } | Request::NodeLink { .. } | Request::Shutdown => {
                Err("not for the cluster".to_owned())
            }
        };
        Reply::Now(result.unwrap_or_else(|message| Response::Error { message }))
    }

    /// Pods by NAMESPACE/POD or NAMESPACE/WORKLOAD; without a namespace in `default`. Ready ones first.
    fn targets(&self, target: &str) -> Result<Vec<&Pod>, String> {
        let (namespace, name) = target.split_once('/').unwrap_or(("default", target));
        let named = |pod: &&Pod| pod.namespace == namespace && (pod.name == name || pod.workload() == name);
        let mut pods: Vec<&Pod> = self
            .pods
            .values()
            .filter(named)
            .filter(|pod| !pod.is_stopping())
            .collect();
        pods.sort_by_key(|pod| !pod.ready());
        if pods.is_empty() {
            return Err(format!(
                "no pod or workload {name} in namespace {namespace}: see `status`"
            ));
        }
        Ok(pods)
    }

    fn exec_entry(&self, target: &str) -> Result<Response, String> {
        let pods = self.targets(target)?;
        let Some(pod) = pods.iter().find(|pod| pod.has_place()) else {
            return Err(format!("{target} does not run yet: {}", pods[0].reason()));
        };
        let container = pod.spec.containers.first().ok_or("the pod has no container")?;
        let entry = Box::new(self.entry(pod, container)?);
        Ok(Response::Entry { entry })
    }

    /// A node's own namespace and cgroup; the machine's files, but for the resolver.
    fn node_entry(&self, node: &str) -> Result<Response, String> {
        let known = node == WORLD || self.nodes.iter().any(|number| number.name() == node);
        if !known {
            let names: Vec<String> = self.nodes.iter().map(|node| node.name()).collect();
            return Err(format!(
                "no node {node}: there are {} and {WORLD}",
                names.join(", ")
            ));
        }
        let layout = self.layout();
        let env = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let entry = Entry {
            netns: netns_path(&layout.netns(node)),
            cgroup: self.cgroup.join(node).join("system"),
            hostname: node.to_owned(),
            env: env.collect(),
            working_dir: None,
            mounts: Mounts {
                staging: None,
                kept: Vec::new(),
                binds: vec![Bind {
                    source: self.node_resolver(node),
                    target: PathBuf::from("/etc/resolv.conf"),
                }],
            },
        };
        Ok(Response::Entry {
            entry: Box::new(entry),
        })
    }

    fn node_resolver(&self, node: &str) -> PathBuf {
        self.layout().run_dir().join(format!("resolv.{node}.conf"))
    }

    /// A node asks its own DNS server, the world that of the first node.
    pub(super) fn write_node_files(&self, name: &str) -> std::io::Result<()> {
        let node = self
            .nodes
            .iter()
            .find(|node| node.name() == name)
            .unwrap_or(&self.nodes[0]);
        let families = self.config.families.list().iter();
        let servers: String = families
            .map(|family| format!("nameserver {}\n", node.address(*family)))
            .collect();
        update_file(&self.node_resolver(name), servers.as_bytes())
    }

    fn log_files(&self, target: &str) -> Result<Response, String> {
        let layout = self.layout();
        let file = |title: String, path: PathBuf| LogFile { title, path };
        if target == "daemon" {
            let files = vec![file("daemon".to_owned(), layout.daemon_log())];
            return Ok(Response::Logs { files });
        }
        if self.nodes.iter().any(|node| node.name() == target) {
            let files = vec![file(target.to_owned(), helper_log(&layout, target))];
            return Ok(Response::Logs { files });
        }
        let pods = self.targets(target)?.into_iter();
        let files = pods.flat_map(|pod| {
            pod.spec.containers.iter().map(|container| {
                let title = format!("{}/{} {}", pod.namespace, pod.name, container.name);
                file(title, log_file(pod, &container.name))
            })
        });
        Ok(Response::Logs {
            files: files.collect(),
        })
    }

    fn kill(&self, target: &str, number: i32, hold: bool) -> Result<Response, String> {
        let signal = Signal::try_from(number).map_err(|_| format!("no signal {number}"))?;
        self.command(target, || PodCommand::Signal { signal, hold })
    }

    fn command(&self, target: &str, command: impl Fn() -> PodCommand) -> Result<Response, String> {
        let mut lines = Vec::new();
        for pod in self.targets(target)? {
            if let Stage::Started(commands) = &pod.stage {
                commands
                    .try_send(command())
                    .map_err(|_| format!("pod {} takes no commands now", pod.name))?;
                lines.push(format!("{}/{}", pod.namespace, pod.name));
            }
        }
        Ok(Response::Done { lines })
    }
}
