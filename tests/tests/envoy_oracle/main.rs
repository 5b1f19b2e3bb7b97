//! A real Envoy as the oracle of routing: the same RouteConfiguration to both, the same requests, the same outcome.
//!
//! Needs Envoy's binary, by `AQUIFER_ENVOY` or where `cargo xtask test` installs it. Without it the test is skipped, or
//! fails where `CI` is set.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod envoy;
mod generate;
mod ours;
mod upstream;

use std::borrow::Cow;
use std::path::PathBuf;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use aquifer_core::http::listener::PathHandling;
use aquifer_core::http::normalize::normalize;
use aquifer_core::http::table::RouteTable;
use aquifer_tests::skip;
use aquifer_xds::envoy::Resource;

/// Route tables, each with its own set of requests.
const TABLES: usize = 40;
const REQUESTS: usize = 60;
const PATHS: usize = 600;

/// Whether Envoy brings paths into their normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paths {
    AsTheyAre,
    Normalised,
}

/// The answer to a cross-origin request: who gave it, and what it grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CrossOrigin {
    /// The service was asked.
    pub(crate) forwarded: bool,
    pub(crate) status: u16,
    /// The `access-control-…` headers, sorted.
    pub(crate) grants: Vec<(String, String)>,
}

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

/// Where the random choices begin; `AQUIFER_ORACLE_SEED` looks elsewhere.
fn seed() -> u64 {
    let asked = std::env::var("AQUIFER_ORACLE_SEED").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(20_261_123)
}

/// The binary; `None` where the test is to be skipped.
fn binary() -> Option<PathBuf> {
    let found = envoy::binary();
    if found.is_none() {
        skip::because("there is no Envoy; set AQUIFER_ENVOY or run `cargo xtask test`, which installs it");
    }
    found
}

fn check(differences: &[String], all: usize) {
    let different = differences.len();
    let shown = differences[..different.min(5)].join("\n");
    assert!(
        different == 0,
        "{different} of {all} differ (seed {})\n{shown}",
        seed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_as_envoy_does() {
    let Some(binary) = binary() else { return };
    let mut random = SmallRng::seed_from_u64(seed());
    let configurations: Vec<_> = (0..TABLES)
        .map(|i| generate::configuration(&mut random, i))
        .collect();
    let tables: Vec<_> = configurations
        .iter()
        .map(|c| RouteTable::from_wire(c).unwrap())
        .collect();
    let envoy = envoy::start(&binary, &configurations, Paths::AsTheyAre).await;
    let mut differences = Vec::new();
    for (i, table) in tables.iter().enumerate() {
        for _ in 0..REQUESTS {
            let sent = generate::request(&mut random);
            let theirs = envoy.send(i, &sent).await;
            let ours = ours::outcome(table, &sent);
            if ours != theirs {
                let hosts = table.virtual_hosts();
                differences.push(format!(
                    "table {i}\n{sent:?}\nours   {ours:?}\nenvoy  {theirs:?}\n{hosts:#?}"
                ));
            }
        }
    }
    check(&differences, TABLES * REQUESTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn normalises_paths_as_envoy_does() {
    let Some(binary) = binary() else { return };
    let how = PathHandling {
        normalize: true,
        merge_slashes: true,
    };
    let envoy = envoy::start(&binary, &[generate::everything_to("a")], Paths::Normalised).await;
    let mut random = SmallRng::seed_from_u64(seed());
    let mut differences = Vec::new();
    for _ in 0..PATHS {
        let path = generate::crooked_path(&mut random);
        let theirs = envoy.send(0, &generate::get(&path)).await;
        let ours = normalize(&path, how).map(Cow::into_owned);
        let theirs = (theirs.status == 200).then_some(theirs.target);
        // Envoy makes two of a path that is slashes only, which a policy about `/` would then miss.
        let theirs = theirs.map(|path| if path == "//" { "/".to_owned() } else { path });
        if ours != theirs {
            differences.push(format!("{path}\nours   {ours:?}\nenvoy  {theirs:?}"));
        }
    }
    check(&differences, PATHS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_cross_origin_requests_as_envoy_does() {
    let Some(binary) = binary() else { return };
    let configurations: Vec<_> = [true, false].map(generate::cross_origin).into();
    let envoy = envoy::start(&binary, &configurations, Paths::AsTheyAre).await;
    let mut differences = Vec::new();
    for (i, configuration) in configurations.iter().enumerate() {
        let table = RouteTable::from_wire(configuration).unwrap();
        for sent in generate::cross_origin_requests() {
            let theirs = envoy.cross_origin(i, &sent).await;
            let ours = ours::cross_origin(&table, &sent);
            if ours != theirs {
                differences.push(format!("table {i}\n{sent:?}\nours   {ours:?}\nenvoy  {theirs:?}"));
            }
        }
    }
    check(&differences, 2 * generate::cross_origin_requests().len());
}
