//! A real Envoy as the oracle of routing: the same RouteConfiguration to both, the same requests, the same outcome.
//!
//! Needs Envoy's binary, by `AQUIFER_ENVOY` or where `cargo xtask test` installs it. Without it the test is skipped, or
//! fails where `CI` is set.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod envoy;
mod generate;
mod ours;
mod upstream;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use aquifer_core::http::table::RouteTable;
use aquifer_xds::envoy::Resource;

/// Route tables, each with its own set of requests.
const TABLES: usize = 40;
const REQUESTS: usize = 60;

/// What became of a request, as far as it can be seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    pub(crate) route: String,
    /// The cluster that answered; empty where Envoy did itself.
    pub(crate) cluster: String,
    /// As the cluster saw them.
    pub(crate) target: String,
    pub(crate) host: String,
    /// Values of the headers that routes change, sorted by name.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) location: String,
    pub(crate) body: String,
}

/// A request as both sides get it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) method: &'static str,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) labels: Vec<(&'static str, &'static str)>,
    pub(crate) namespace: Option<&'static str>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_as_envoy_does() {
    let Some(binary) = envoy::binary() else {
        let hint = "skipped: no Envoy; set AQUIFER_ENVOY or run `cargo xtask test`, which installs it";
        assert!(std::env::var_os("CI").is_none(), "{hint}");
        eprintln!("{hint}");
        return;
    };
    let seed = 20_261_123;
    let mut random = SmallRng::seed_from_u64(seed);
    let configurations: Vec<_> = (0..TABLES)
        .map(|i| generate::configuration(&mut random, i))
        .collect();
    let tables: Vec<_> = configurations
        .iter()
        .map(|c| RouteTable::from_wire(c).unwrap())
        .collect();
    let envoy = envoy::start(&binary, &configurations).await;
    let mut differences = Vec::new();
    for (i, table) in tables.iter().enumerate() {
        for _ in 0..REQUESTS {
            let sent = generate::request(&mut random);
            let theirs = envoy.send(i, &sent).await;
            let ours = ours::outcome(table, &sent);
            if ours != theirs {
                differences.push(format!(
                    "table {i}\n{sent:?}\nours   {ours:?}\nenvoy  {theirs:?}\n{:#?}",
                    table.virtual_hosts()
                ));
            }
        }
    }
    let (all, different) = (TABLES * REQUESTS, differences.len());
    assert!(
        different == 0,
        "{different} of {all} differ (seed {seed})\n{}",
        differences[..different.min(5)].join("\n")
    );
    eprintln!("{all} requests routed as Envoy does");
}
