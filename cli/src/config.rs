//! `aquifer config`: what a proxy has been told, section by section, with istioctl's columns where it has them.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::fetch;
use crate::reach::Reach;
use crate::table::{Output, print, structured};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Section {
    Workloads,
    Services,
    Policies,
    Certificates,
    Routes,
    Clusters,
}

/// The two kinds of proxies: their dumps have different shapes, ztunnel's and Envoy's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Agent,
    Layer7,
}

struct Proxy {
    namespace: String,
    pod: String,
    kind: Kind,
}

pub(crate) fn run(reach: &Reach, proxy: &str, section: Section, output: Output) -> anyhow::Result<()> {
    let proxy = find(reach, proxy)?;
    let (head, rows, raw) = match (section, proxy.kind) {
        (Section::Certificates, Kind::Layer7) => certificates(&proxy.page(reach, "/certs")?["certificates"]),
        (Section::Routes, Kind::Layer7) => routes(&proxy.page(reach, "/config_dump")?),
        (Section::Clusters, Kind::Layer7) => clusters(&proxy.page(reach, "/config_dump")?),
        (Section::Routes | Section::Clusters, Kind::Agent) => {
            bail!(
                "{} is a node agent: it has no routes or clusters; ask a waypoint or gateway",
                proxy.pod
            )
        }
        (section, _) => from_dump(&proxy.page(reach, "/config_dump")?, section),
    };
    if structured(output, &raw)? {
        return Ok(());
    }
    print(head, rows);
    Ok(())
}

impl Proxy {
    fn page(&self, reach: &Reach, path: &str) -> anyhow::Result<Value> {
        reach.proxy(&self.namespace, &self.pod, path, fetch::DUMP)
    }
}

/// The connected proxy that is called `POD` or `POD.NAMESPACE`.
fn find(reach: &Reach, name: &str) -> anyhow::Result<Proxy> {
    let proxies = reach.proxies()?;
    let all = proxies
        .as_array()
        .context("the control plane's /debug/syncz is not a list")?;
    let is_it = |p: &&Value| p["pod"] == name || p["proxy"] == name;
    let Some(found) = all.iter().find(is_it) else {
        let names: Vec<&str> = all.iter().filter_map(|p| p["proxy"].as_str()).collect();
        bail!("no proxy {name:?} is connected; there are: {}", names.join(", "));
    };
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    let kind = if found["proxy_type"] == "ztunnel" {
        Kind::Agent
    } else {
        Kind::Layer7
    };
    Ok(Proxy {
        namespace: text("namespace"),
        pod: text("pod"),
        kind,
    })
}

type Answer = (&'static [&'static str], Vec<Vec<String>>, Value);

/// A section that both kinds of proxies have in the same shape.
fn from_dump(dump: &Value, section: Section) -> Answer {
    match section {
        Section::Workloads => workloads(&dump["workloads"]),
        Section::Services => services(&dump["services"]),
        Section::Policies => policies(&dump["policies"]),
        Section::Certificates | Section::Routes | Section::Clusters => certificates(&dump["certificates"]),
    }
}

fn workloads(list: &Value) -> Answer {
    let row = |w: &Value| {
        vec![
            text(&w["namespace"]),
            text(&w["name"]),
            join(&w["workloadIps"]),
            text(&w["node"]),
            gateway(&w["waypoint"]),
            text(&w["protocol"]),
        ]
    };
    (
        &["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"],
        each(list, row),
        list.clone(),
    )
}

fn services(list: &Value) -> Answer {
    let row = |s: &Value| {
        let endpoints = s["endpoints"].as_object();
        let healthy = endpoints
            .into_iter()
            .flatten()
            .filter(|(_, e)| e["status"] == "Healthy")
            .count();
        let known = endpoints.map_or(0, serde_json::Map::len);
        vec![
            text(&s["namespace"]),
            text(&s["name"]),
            join(&s["vips"]),
            gateway(&s["waypoint"]),
            format!("{healthy}/{known}"),
        ]
    };
    (
        &[
            "NAMESPACE",
            "SERVICE NAME",
            "SERVICE VIP",
            "WAYPOINT",
            "ENDPOINTS",
        ],
        each(list, row),
        list.clone(),
    )
}

fn policies(list: &Value) -> Answer {
    let row = |p: &Value| {
        vec![
            text(&p["namespace"]),
            text(&p["name"]),
            text(&p["action"]),
            text(&p["scope"]),
        ]
    };
    (
        &["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"],
        each(list, row),
        list.clone(),
    )
}

fn certificates(list: &Value) -> Answer {
    let row = |c: &Value| {
        // Agents nest the leaf in its chain, as ztunnel does; waypoints and gateways do not.
        let field = |nested: &str, flat: &str| {
            text(if c["certChain"].is_array() {
                &c["certChain"][0][nested]
            } else {
                &c[flat]
            })
        };
        vec![
            text(&c["identity"]),
            text(&c["state"]),
            field("serialNumber", "serial_number"),
            field("expirationTime", "expiration_time"),
            field("validFrom", "valid_from"),
        ]
    };
    (
        &["IDENTITY", "STATE", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"],
        each(list, row),
        list.clone(),
    )
}

/// The part of an Envoy dump whose type ends in `suffix`.
fn part<'a>(dump: &'a Value, suffix: &str) -> &'a Value {
    let parts = dump["configs"].as_array().into_iter().flatten();
    let typed = |p: &&Value| p["@type"].as_str().is_some_and(|t| t.ends_with(suffix));
    parts.into_iter().find(typed).unwrap_or(&Value::Null)
}

fn routes(dump: &Value) -> Answer {
    let section = part(dump, "RoutesConfigDump");
    let mut rows = Vec::new();
    for config in items(&section["dynamic_route_configs"]).map(|c| &c["route_config"]) {
        for host in items(&config["virtual_hosts"]) {
            for route in items(&host["routes"]) {
                rows.push(vec![
                    text(&config["name"]),
                    join(&host["domains"]),
                    route_match(&route["match"]),
                    route_action(route),
                    text(&route["name"]),
                ]);
            }
        }
    }
    (
        &["NAME", "DOMAINS", "MATCH", "ACTION", "ROUTE"],
        rows,
        section.clone(),
    )
}

/// The conditions of a route in a few words: the path first, then what else must hold.
fn route_match(found: &Value) -> String {
    let Some(conditions) = found.as_object() else {
        return "/*".to_owned();
    };
    let path = ["path", "prefix", "path_separated_prefix", "safe_regex"]
        .iter()
        .find_map(|kind| Some(format!("{kind} {}", plain(found.get(kind)?))));
    let labels = items(&found["dynamic_metadata"]).map(source_label);
    let lists = ["headers", "query_parameters"]
        .into_iter()
        .flat_map(|kind| items(&found[kind]))
        .map(plain);
    let known = [
        "path",
        "prefix",
        "path_separated_prefix",
        "safe_regex",
        "dynamic_metadata",
        "headers",
        "query_parameters",
    ];
    let rest = conditions
        .iter()
        .filter(|(k, _)| !known.contains(&k.as_str()))
        .map(|(k, v)| format!("{k}={}", plain(v)));
    path.into_iter()
        .chain(labels)
        .chain(lists)
        .chain(rest)
        .collect::<Vec<_>>()
        .join(" and ")
}

/// A condition on the client's workload, as `sourceLabels` writes it.
fn source_label(matcher: &Value) -> String {
    let keys: Vec<&str> = items(&matcher["path"])
        .filter_map(|p| p["key"].as_str())
        .collect();
    let not = if matcher["invert"] == true { "not " } else { "" };
    let wanted = &matcher["value"]["string_match"];
    let value = wanted
        .as_object()
        .and_then(|m| m.values().next())
        .map_or_else(|| plain(wanted), plain);
    format!("{not}source {}={value}", keys.join("."))
}

fn route_action(route: &Value) -> String {
    let action = &route["route"];
    if let Some(cluster) = action["cluster"].as_str() {
        return cluster.to_owned();
    }
    let weighted: Vec<String> = items(&action["weighted_clusters"]["clusters"])
        .map(|c| format!("{} {}", text(&c["name"]), plain(&c["weight"])))
        .collect();
    if !weighted.is_empty() {
        return weighted.join(", ");
    }
    match (&route["direct_response"], &route["redirect"]) {
        (Value::Null, Value::Null) => plain(action),
        (Value::Null, redirect) => format!("redirect {}", plain(redirect)),
        (direct, _) => format!("direct response {}", plain(&direct["status"])),
    }
}

fn clusters(dump: &Value) -> Answer {
    let section = part(dump, "ClustersConfigDump");
    let endpoints = part(dump, "EndpointsConfigDump");
    let rows = items(&section["dynamic_active_clusters"])
        .map(|c| &c["cluster"])
        .map(|cluster| {
            let name = text(&cluster["name"]);
            let found = items(&endpoints["dynamic_endpoint_configs"])
                .map(|e| &e["endpoint_config"])
                .find(|e| e["cluster_name"] == name.as_str());
            let addresses = found.map_or_else(|| "-".to_owned(), endpoint_list);
            vec![name, text(&cluster["lb_policy"]), addresses]
        })
        .collect();
    (
        &["CLUSTER", "LB POLICY", "ENDPOINTS"],
        rows,
        json!({ "clusters": section, "endpoints": endpoints }),
    )
}

fn endpoint_list(config: &Value) -> String {
    let all: Vec<String> = items(&config["endpoints"])
        .flat_map(|locality| items(&locality["lb_endpoints"]))
        .map(|e| {
            let address = &e["endpoint"]["address"]["socket_address"];
            format!("{}:{}", text(&address["address"]), plain(&address["port_value"]))
        })
        .collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

fn each(list: &Value, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    items(list).map(row).collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().filter(|s| !s.is_empty()).unwrap_or("-").to_owned()
}

/// A value in one line, strings without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn join(list: &Value) -> String {
    let all: Vec<&str> = items(list).filter_map(Value::as_str).collect();
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join(",")
    }
}

fn gateway(waypoint: &Value) -> String {
    text(&waypoint["destination"])
}
