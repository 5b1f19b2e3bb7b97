//! Pages at a steady rate while something happens, for suites.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::client::{Client, Outcome};
use super::namespace::{Inside, Namespace, NamespaceError};
use super::tally::find;

/// For a page. Whoever waits for longer has been failed by what it asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pages under way at once.
const MAX_PENDING: usize = 256;
/// Examples of failures that are worth showing.
const MAX_EXAMPLES: usize = 5;

/// Requests for `/productpage` under way, each on a connection of its own.
pub struct Load {
    started: Instant,
    /// Also a load that is given up ends: whoever watches links would wait for quiet for ever.
    stop: DropGuard,
    outcomes: Inside<Vec<Outcome>>,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub struct Pages {
    pub requests: usize,
    pub failures: usize,
    /// Between services, and of the client: what the pages took.
    pub calls: usize,
    /// From the start to the last answer.
    pub took: Duration,
    pub examples: Vec<String>,
    /// By the versions of reviews and of the ratings that it asked, such as `v3/v2`, or `v1/-`.
    pub served: BTreeMap<String, usize>,
    /// Names of the pods that took part.
    pub pods: BTreeSet<String>,
    /// When the first and the last failure were seen, after its start.
    pub failed: Option<(Duration, Duration)>,
}

impl Load {
    pub fn start(from: &Namespace, address: SocketAddr, per_second: u32) -> Result<Self, NamespaceError> {
        let client = Client {
            namespace: from.clone(),
            address,
            patience: PATIENCE,
            most: MAX_PENDING,
        };
        let started = Instant::now();
        let stop = CancellationToken::new();
        let outcomes = client.load(per_second, stop.clone())?;
        Ok(Self {
            started,
            stop: stop.drop_guard(),
            outcomes,
        })
    }

    /// Waits for the answers that are still to come.
    pub fn stop(self) -> Result<Pages, NamespaceError> {
        drop(self.stop);
        let mut outcomes = self.outcomes.join()?;
        outcomes.sort_by_key(|outcome| outcome.finished);
        Ok(Pages::of(&outcomes, self.started))
    }

    /// That many pages, a few at a time.
    pub fn pages(from: &Namespace, address: SocketAddr, count: usize) -> Result<Pages, NamespaceError> {
        const PARALLEL: usize = 4;
        let client = Client {
            namespace: from.clone(),
            address,
            patience: PATIENCE,
            most: MAX_PENDING,
        };
        let started = Instant::now();
        Ok(Pages::of(&client.pages(count, PARALLEL)?, started))
    }
}

impl Pages {
    fn of(outcomes: &[Outcome], started: Instant) -> Self {
        let mut pages = Self::default();
        for outcome in outcomes {
            pages.requests += 1;
            let now = outcome.finished - started;
            pages.took = pages.took.max(now);
            match &outcome.result {
                Ok(chain) => {
                    let version = |service| find(chain, service).map_or("-", |by| by.version.as_str());
                    let served = format!("{}/{}", version("reviews"), version("ratings"));
                    *pages.served.entry(served).or_default() += 1;
                    pages.pods.extend(chain.iter().map(|by| by.pod.clone()));
                    pages.calls += chain.len();
                }
                Err(why) => {
                    pages.failures += 1;
                    pages.failed = Some((pages.failed.map_or(now, |(first, _)| first), now));
                    if pages.examples.len() < MAX_EXAMPLES {
                        pages.examples.push(why.clone());
                    }
                }
            }
        }
        pages
    }
}
