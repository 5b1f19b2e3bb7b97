//! `aquifer check`: what stands in the way of the mesh, one line each with its remedy.

mod agents;
mod asked;
mod causes;
mod certificates;
mod cgroup;
mod cluster;
mod installer;
mod mesh;
mod network;
mod node;
mod nodes;
mod report;
mod webhook;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::kubectl::{Access, Kubectl, require_cluster};
use crate::reach::Reach;
use crate::table::{Output, say, structured};
use report::Report;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only what must hold before an installation.
    #[arg(long)]
    pre: bool,
    /// Check this machine instead of the cluster: run it on the node, or in a pod that sees the node.
    #[arg(long, conflicts_with = "pre")]
    node: bool,
    /// With --node: where the node's root file system is mounted (/host in a pod of `kubectl debug node/NAME`).
    #[arg(long, requires = "node", default_value = "/")]
    host_root: PathBuf,
    /// Namespace of the control plane.
    #[arg(short, long, default_value = crate::install::NAMESPACE)]
    namespace: String,
}

/// How the mesh's own pages are reached, for what only they know.
pub(crate) struct Ways<'a> {
    pub(crate) control: Option<String>,
    pub(crate) exec: Option<&'a str>,
    pub(crate) access: &'a Access,
}

pub(crate) fn run(
    options: &Options,
    kubectl: &Kubectl,
    ways: Ways<'_>,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    if options.node {
        node::check(&options.host_root, &mut report);
    } else {
        whole_cluster(options, kubectl, ways, &mut report)?;
    }
    if !structured(output, &report.lines)? {
        report.lines.iter().for_each(|line| say(&line.to_string()));
        say(&report.summary());
    }
    Ok(if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn whole_cluster(
    options: &Options,
    kubectl: &Kubectl,
    ways: Ways<'_>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let version = require_cluster(kubectl)?;
    cluster::check(kubectl, &version, &options.namespace, report)?;
    nodes::check(kubectl, report)?;
    network::check(kubectl, report)?;
    cgroup::check(kubectl, &options.namespace, report)?;
    if options.pre {
        return installer::check(kubectl, &options.namespace, report);
    }
    if !mesh::check(kubectl, &options.namespace, report)? {
        return installer::check(kubectl, &options.namespace, report);
    }
    certificates::check(kubectl, &options.namespace, report)?;
    let reach = Reach::new(ways.control, ways.exec, ways.access, &options.namespace)?;
    mesh::check_proxies(&reach, &options.namespace, report);
    agents::check(kubectl, &reach, &options.namespace, mesh::AGENTS, report)
}

/// What is checked before an installation: prints what is wrong; whether nothing stands in the way.
pub(crate) fn before(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<bool> {
    let mut report = Report::default();
    let version = require_cluster(kubectl)?;
    cluster::check(kubectl, &version, namespace, &mut report)?;
    nodes::check(kubectl, &mut report)?;
    network::check(kubectl, &mut report)?;
    cgroup::check(kubectl, namespace, &mut report)?;
    installer::check(kubectl, namespace, &mut report)?;
    report
        .lines
        .iter()
        .filter(|line| !line.is_ok())
        .for_each(|line| say(&line.to_string()));
    say(&format!("checked before: {}", report.summary()));
    Ok(!report.failed())
}
