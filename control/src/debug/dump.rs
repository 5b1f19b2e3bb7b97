//! `/debug/config_dump?proxyID=`: the resources that a proxy is being brought to.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_xds::type_url::short_name;
use serde::Serialize;
use serde_json::Value;

use crate::debug::DebugState;
use crate::proxies::describe::describe;
use crate::serve::Resources;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Dump {
    proxy: Arc<str>,
    generation: u64,
    generation_in_effect: Option<u64>,
    /// By the short name of the type: WDS, WADS, LDS, RDS, CDS, EDS.
    resources: BTreeMap<String, Vec<Dumped>>,
}

#[derive(Serialize)]
struct Dumped {
    name: Arc<str>,
    version: String,
    content: Value,
}

pub(super) fn of(state: &DebugState, proxy: &str) -> Option<Dump> {
    let (status, snapshot) = state.registry.find(proxy)?;
    let types = snapshot
        .types
        .iter()
        .map(|(url, resources)| (short_name(url).to_owned(), dump(url, resources)));
    Some(Dump {
        proxy: status.node_id,
        generation: snapshot.generation,
        generation_in_effect: status.generation_in_effect,
        resources: types.collect(),
    })
}

fn dump(url: &str, resources: &Resources) -> Vec<Dumped> {
    let dumped = resources.iter().map(|(name, resource)| Dumped {
        name: name.clone(),
        version: resource.version().to_string(),
        content: describe(url, name, &resource.any()),
    });
    dumped.collect()
}
