//! `aquifer status`: every proxy and its synchronisation, every pod and its enrolment.

use serde_json::{Value, json};

use crate::reach::Reach;
use crate::table::{Output, print, say, structured};

pub(crate) fn run(reach: &Reach, output: Output) -> anyhow::Result<()> {
    let proxies = reach.proxies()?;
    let pods = reach.control("/debug/pods")?;
    if structured(output, &json!({ "proxies": proxies, "pods": pods }))? {
        return Ok(());
    }
    let rows = rows(&proxies, proxy_row);
    if rows.is_empty() {
        say("No proxy is connected to the control plane.");
    } else {
        print(&["PROXY", "TYPE", "NODE", "SYNC", "RESOURCES", "DETAIL"], rows);
    }
    say("");
    print(
        &["NAMESPACE", "POD", "NODE", "READY", "STATE", "REASON"],
        self::rows(&pods, pod_row),
    );
    Ok(())
}

fn rows(list: &Value, row: fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.as_array().into_iter().flatten().map(row).collect()
}

fn proxy_row(proxy: &Value) -> Vec<String> {
    let types = proxy["types"].as_object();
    let resources: u64 = types
        .into_iter()
        .flatten()
        .filter_map(|(_, t)| t["resources"].as_u64())
        .sum();
    let errors: Vec<&str> = types
        .into_iter()
        .flatten()
        .filter_map(|(_, t)| t["lastError"].as_str())
        .collect();
    let sync = match (errors.is_empty(), proxy["synced"].as_bool()) {
        (false, _) => "REJECTED",
        (true, Some(true)) => "SYNCED",
        (true, _) => "STALE",
    };
    vec![
        text(&proxy["proxy"]),
        text(&proxy["proxy_type"]),
        text(&proxy["node"]),
        sync.to_owned(),
        resources.to_string(),
        errors.join("; "),
    ]
}

fn pod_row(pod: &Value) -> Vec<String> {
    let ready = if pod["ready"].as_bool() == Some(true) {
        "yes"
    } else {
        "no"
    };
    vec![
        text(&pod["namespace"]),
        text(&pod["name"]),
        text(&pod["node"]),
        ready.to_owned(),
        text(&pod["state"]),
        text(&pod["reason"]),
    ]
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}
