//! What the mesh's proxies know of the lab, as they show it themselves.
//!
//! A status says of a pod what its own node's agent has done. The control plane hears of that, and the agents of the other
//! nodes, waypoints and gateways from the control plane, each in its time: who asks one of them earlier has another mesh
//! before him. Nobody tells when the last of them has heard, so they are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::netns;
use super::spec::GATEWAY_NAME;
use super::status::{PodStatus, ServiceStatus, Status};

const SYSTEM: &str = "istio-system";
const AGENT: &str = "ztunnel";
const CONTROL_PLANE: &str = "istiod";
const AGENT_DUMP: (u16, &str) = (15000, "/config_dump");
const CONTROL_PLANE_PROXIES: (u16, &str) = (15014, "/debug/syncz");
/// For one answer; generous, since machines are busy.
const DEADLINE: Duration = Duration::from_secs(30);

/// More than any lab's dump has; one that is cut is no JSON, and so an error.
const MAX_PAGE: u64 = 64 << 20;

/// An agent's dump, as far as it matters here.
#[derive(Debug, Deserialize)]
struct View {
    workloads: Vec<Workload>,
    services: Vec<Service>,
    /// What became of its own node's pods.
    pods: Vec<Report>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    uid: String,
    namespace: String,
    name: String,
    workload_ips: Vec<IpAddr>,
    protocol: String,
    native_tunnel: bool,
    status: String,
}

#[derive(Debug, Deserialize)]
struct Service {
    hostname: String,
    endpoints: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    status: String,
}

#[derive(Debug, Deserialize)]
struct Report {
    uid: String,
    state: String,
}

/// A proxy as the control plane sees it.
#[derive(Debug, Deserialize)]
struct Proxy {
    namespace: String,
    pod: String,
    /// The newest model is in effect there.
    synced: bool,
}

/// What some proxy has not heard of yet, one sentence each; nothing without a mesh.
///
/// The control plane is asked last: what agents know it knows, so that a proxy which is level with it knows that too.
pub(super) fn unheard(status: &Status) -> Vec<String> {
    let mut unheard: Vec<String> = status
        .pods_of(SYSTEM, AGENT)
        .flat_map(|agent| at_agent(agent, status))
        .collect();
    if unheard.is_empty() {
        unheard.extend(
            status
                .pods_of(SYSTEM, CONTROL_PLANE)
                .flat_map(|control_plane| at_proxies(control_plane, status)),
        );
    }
    unheard
}

fn at_agent(agent: &PodStatus, status: &Status) -> Vec<String> {
    match ask::<View>(agent, AGENT_DUMP) {
        Ok(view) => view.lacks(&agent.node, status),
        Err(error) => vec![format!("the agent of {} does not answer: {error}", agent.node)],
    }
}

fn at_proxies(control_plane: &PodStatus, status: &Status) -> Vec<String> {
    match ask::<Vec<Proxy>>(control_plane, CONTROL_PLANE_PROXIES) {
        Ok(proxies) => behind(&proxies, status),
        Err(error) => vec![format!("the control plane does not answer: {error}")],
    }
}

fn behind(proxies: &[Proxy], status: &Status) -> Vec<String> {
    let lack = |pod: &PodStatus| {
        let own = |proxy: &&Proxy| proxy.pod == pod.name && proxy.namespace == pod.namespace;
        let mut streams = proxies.iter().filter(own).peekable();
        let is_agent = pod.namespace == SYSTEM && pod.workload == AGENT;
        let is_proxy = is_agent || pod.labels.contains_key(GATEWAY_NAME);
        if streams.peek().is_none() {
            return (is_proxy && pod.ready).then_some("has no stream");
        }
        // One that has just come again has two for a moment.
        let synced = streams.any(|stream| stream.synced);
        (!synced).then_some("lacks the newest model")
    };
    let alive = status.pods.iter().filter(|pod| pod.phase != "Terminating");
    let lacking = alive.filter_map(|pod| Some((pod, lack(pod)?)));
    lacking
        .map(|(pod, lack)| format!("{}/{} {lack}", pod.namespace, pod.name))
        .collect()
}

impl View {
    fn lacks(&self, node: &str, status: &Status) -> Vec<String> {
        let nodes: BTreeSet<&str> = status.nodes.iter().map(|node| node.netns.as_str()).collect();
        let pods = status.pods.iter().filter(|pod| {
            let ended = ["Succeeded", "Failed", "Terminating"].contains(&pod.phase.as_str());
            !ended && !nodes.contains(pod.netns.as_str())
        });
        let of_pods = pods
            .clone()
            .filter_map(|pod| Some((pod, self.pod(pod)?)))
            .map(|(pod, lack)| format!("{node}: pod {}/{}: {lack}", pod.namespace, pod.name));
        let own = pods
            .filter(|pod| pod.node == node)
            .filter_map(|pod| Some((pod, self.own_pod(pod)?)))
            .map(|(pod, state)| format!("{node}: its own pod {}/{} is {state}", pod.namespace, pod.name));
        let services = status
            .services
            .iter()
            .filter(|service| !self.has(service, status));
        let services = services.map(|s| format!("{node}: Service {}/{} has other pods", s.namespace, s.name));
        of_pods.chain(own).chain(services).collect()
    }

    /// What is different about a pod's record.
    fn pod(&self, pod: &PodStatus) -> Option<&'static str> {
        // One of the same name that is no more has had other addresses.
        let own = |w: &&Workload| {
            let is_named = w.namespace == pod.namespace && w.name == pod.name;
            is_named && pod.ips.iter().all(|ip| w.workload_ips.contains(ip))
        };
        let Some(workload) = self.workloads.iter().find(own) else {
            return Some("not known");
        };
        let has_tunnel = workload.protocol == "HBONE";
        if pod.wanted && !has_tunnel {
            return Some("no tunnel");
        }
        if !pod.wanted && has_tunnel && !workload.native_tunnel {
            return Some("still with a tunnel");
        }
        (pod.ready && workload.status != "Healthy").then_some("not ready")
    }

    /// The state of a pod of the agent's own node, where it is not the last one.
    fn own_pod(&self, pod: &PodStatus) -> Option<&str> {
        let wanted = if pod.wanted { "enrolled" } else { "not-wanted" };
        let report = self.pods.iter().find(|report| report.uid == pod.uid);
        let state = report.map_or("not known", |report| report.state.as_str());
        (state != wanted).then_some(state)
    }

    /// Whether the Service has the same pods behind it.
    fn has(&self, service: &ServiceStatus, status: &Status) -> bool {
        let hostname = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
        let known = self.services.iter().find(|known| known.hostname == hostname);
        let Some(known) = known else {
            // One without an address need not have a record.
            return service.vips.is_empty();
        };
        let of_endpoints = |workload: &&Workload| {
            let endpoint = known.endpoints.get(&workload.uid);
            endpoint.is_some_and(|endpoint| endpoint.status == "Healthy")
        };
        let workloads = self.workloads.iter().filter(of_endpoints);
        let told: BTreeSet<IpAddr> = workloads.flat_map(|w| w.workload_ips.iter().copied()).collect();
        let wanted: BTreeSet<IpAddr> = service.endpoints.iter().copied().collect();
        pods_with(&told, status) == pods_with(&wanted, status)
    }
}

fn pods_with<'a>(addresses: &BTreeSet<IpAddr>, status: &'a Status) -> BTreeSet<&'a str> {
    let has = |pod: &&PodStatus| pod.ips.iter().any(|ip| addresses.contains(ip));
    status
        .pods
        .iter()
        .filter(has)
        .map(|pod| pod.uid.as_str())
        .collect()
}

/// A page of JSON that a process in a pod shows to its own network.
fn ask<T: DeserializeOwned>(pod: &PodStatus, (port, path): (u16, &str)) -> Result<T, String> {
    let netns = Path::new(&pod.netns);
    let fetch = || {
        netns::enter_path(netns).map_err(|error| error.to_string())?;
        get(port, path).map_err(|error| error.to_string())
    };
    let fetched = std::thread::scope(|scope| scope.spawn(fetch).join());
    let text = fetched.unwrap_or_else(|_| Err("the thread inside its network panicked".to_owned()))?;
    serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))
}

fn get(port: u16, path: &str) -> io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(MAX_PAGE).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(
            answer.lines().next().unwrap_or("no answer").to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Status {
        serde_json::from_value(json!({
            "name": "t", "generation": 1, "ready": true, "notReady": [], "gateways": [],
            "nodes": [{ "name": "node-1", "addresses": ["172.30.0.11"], "netns": "/n1", "ready": true }],
            "pods": [pod("web-1", "10.244.1.2", "node-1"), pod("web-2", "10.244.2.2", "node-2")],
            "services": [{
                "namespace": "mesh", "name": "web", "type": "ClusterIP", "vips": ["10.96.1.0"], "addresses": [],
                "ports": [], "readyEndpoints": 2, "endpoints": ["10.244.1.2", "10.244.2.2"],
            }],
        }))
        .unwrap()
    }

    fn pod(name: &str, ip: &str, node: &str) -> serde_json::Value {
        json!({
            "namespace": "mesh", "name": name, "uid": name, "workload": "web", "labels": {}, "node": node, "ip": ip,
            "ips": [ip], "netns": name, "cgroup": "", "phase": "Running", "ready": true, "enrolled": true,
            "wanted": true, "restarts": 0, "reason": "", "pids": [],
        })
    }

    fn view() -> View {
        let workload = |name: &str, ip: &str| {
            json!({ "uid": name, "namespace": "mesh", "name": name, "workloadIps": [ip], "protocol": "HBONE",
                    "nativeTunnel": false, "status": "Healthy" })
        };
        let endpoint = json!({ "status": "Healthy" });
        let view = json!({
            "workloads": [workload("web-1", "10.244.1.2"), workload("web-2", "10.244.2.2")],
            "services": [{ "hostname": "web.mesh.svc.cluster.local",
                           "endpoints": { "web-1": endpoint, "web-2": endpoint } }],
            "pods": [{ "uid": "web-1", "state": "enrolled" }],
        });
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn a_view_that_is_up_to_date_lacks_nothing() {
        assert_eq!(view().lacks("node-1", &status()), Vec::<String>::new());
    }

    #[test]
    fn what_another_node_has_not_heard_yet_is_named() {
        let told = |change: &dyn Fn(&mut View, &mut Status)| {
            let (mut view, mut status) = (view(), status());
            change(&mut view, &mut status);
            view.lacks("node-1", &status).join("; ")
        };
        let plain = told(&|view, _| view.workloads[1].protocol = "NONE".to_owned());
        assert_eq!(plain, "node-1: pod mesh/web-2: no tunnel");
        let earlier = told(&|view, _| view.workloads[1].workload_ips = vec!["10.244.2.9".parse().unwrap()]);
        assert!(
            earlier.starts_with("node-1: pod mesh/web-2: not known"),
            "{earlier}"
        );
        let left = told(&|_, status| status.pods[1].wanted = false);
        assert_eq!(left, "node-1: pod mesh/web-2: still with a tunnel");
        let leaving = told(&|view, _| view.pods[0].state = "pending".to_owned());
        assert_eq!(leaving, "node-1: its own pod mesh/web-1 is pending");
        let fewer = told(&|view, _| drop(view.services[0].endpoints.pop_first()));
        assert_eq!(fewer, "node-1: Service mesh/web has other pods");
        let more = told(&|_, status| status.services[0].endpoints.truncate(1));
        assert_eq!(more, "node-1: Service mesh/web has other pods");
    }

    #[test]
    fn a_proxy_that_lags_or_is_away_is_named() {
        let proxy = |synced| Proxy {
            namespace: "mesh".to_owned(),
            pod: "web-1".to_owned(),
            synced,
        };
        assert_eq!(
            behind(&[proxy(false)], &status()),
            ["mesh/web-1 lacks the newest model"]
        );
        assert!(behind(&[proxy(true)], &status()).is_empty());
        let mut status = status();
        status.pods[0]
            .labels
            .insert(GATEWAY_NAME.to_owned(), "web".to_owned());
        assert_eq!(behind(&[], &status), ["mesh/web-1 has no stream"]);
    }
}
