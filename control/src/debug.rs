//! What operators and the command line read on the monitoring port.

mod dump;
mod objects;
mod pods;
mod syncz;

use std::sync::Arc;

use aquifer_telemetry::admin::{Query, Reply, Routes};
use http::StatusCode;
use parking_lot::RwLock;

use crate::authority::Views;
use crate::peers;
use crate::pipeline::View;
use crate::serve::registry::ProxyRegistry;
use crate::snapshots::Snapshots;

#[derive(Clone)]
pub struct DebugState {
    pub view: Arc<RwLock<View>>,
    pub snapshots: Arc<Snapshots>,
    pub registry: ProxyRegistry,
    pub authority: Views,
    pub cluster_id: Arc<str>,
}

/// `/version` and everything below `/debug`.
pub fn routes(state: &DebugState) -> Routes {
    let with = |handler: fn(&DebugState, &Query) -> Reply| {
        let state = state.clone();
        move |query: Query| {
            let reply = handler(&state, &query);
            async move { reply }
        }
    };
    Routes::new()
        .add(
            "/version",
            with(|_, _| Reply::text(concat!(env!("CARGO_PKG_VERSION"), "\n"))),
        )
        .add(
            "/debug/syncz",
            with(|state, _| Reply::json(&syncz::proxies(state))),
        )
        .add(
            "/debug/objects",
            with(|state, _| Reply::json(&objects::all(state))),
        )
        .add(peers::PATH, with(|state, _| Reply::json(&peers::of(state))))
        .add("/debug/ca", with(|state, _| authority(state)))
        .add("/debug/pods", with(|state, _| Reply::json(&pods::all(state))))
        .add("/debug/config_dump", with(config_dump))
}

fn authority(state: &DebugState) -> Reply {
    match state.authority.load_full() {
        Some(view) => Reply::json(&*view),
        None => Reply::error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the certificate authority has not been read yet\n",
        ),
    }
}

fn config_dump(state: &DebugState, query: &Query) -> Reply {
    let Some(proxy) = query.query.get("proxyID") else {
        return Reply::error(StatusCode::BAD_REQUEST, "name a proxy: ?proxyID=POD.NAMESPACE\n");
    };
    match dump::of(state, proxy) {
        Some(dump) => Reply::json(&dump),
        None => Reply::error(
            StatusCode::NOT_FOUND,
            format!("no proxy {proxy:?} is connected; /debug/syncz lists all\n"),
        ),
    }
}
