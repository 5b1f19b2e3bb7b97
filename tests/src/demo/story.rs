//! The order of events.

mod change;
pub(super) mod steps;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use regex::bytes::Regex;

use crate::bookinfo::CONNECTION_AGE;
use crate::lab::status::{PodStatus, Status};

use super::Options;
use super::capture::{Capture, Edge, Seen, TEXTS};
use super::client::Client;
use super::failure::{Failure, OrFailed};
use super::identities::Proved;
use super::manifests::{self, Manifests};
use super::namespace::Namespace;
use super::place::{self, Place};
use super::progress::Progress;
use super::report::{Hop, PodLine, Report};
use super::tally::Tally;

pub(crate) const NAMESPACE: &str = "bookinfo";
pub(crate) const SYSTEM: &str = "istio-system";
pub(crate) const GATEWAY: &str = "istio-ingressgateway";
const WAYPOINT: &str = "waypoint";
const PARALLEL: usize = 4;
const UNLABELLED_REQUESTS: usize = 40;
/// Pages that must all obey the canary before it counts as in force: each could obey by chance.
const TRIAL_REQUESTS: usize = 40;
const READY: Duration = Duration::from_secs(180);
const SETTLE: Duration = Duration::from_secs(180);
/// For a page. Whoever waits for longer has been failed by what it asked.
const PAGE: Duration = Duration::from_secs(10);
/// Pages under way at once while the weights change.
const MAX_PENDING: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);

/// A place with bookinfo in it, and a client outside.
struct Story<'a> {
    options: &'a Options,
    progress: Progress,
    start: Instant,
    place: Box<dyn Place>,
    manifests: Manifests,
    client: Client,
    nodes: Vec<Namespace>,
    edge: Edge,
}

pub(crate) fn tell(options: &Options) -> Result<Report, Failure> {
    let start = Instant::now();
    let progress = Progress::new(start);
    let place = place::build(options, progress)?;
    let remedy = place.remedy();
    let advise = |failure: Failure| Failure {
        remedy: remedy.unwrap_or(failure.remedy),
        ..failure
    };
    let story = Story::begin(options, progress, start, place).map_err(advise)?;
    let result = story.go_on().map_err(advise);
    if options.keep {
        return result;
    }
    progress.say("taking everything down");
    let down = story.place.down();
    // The story's own failure says more than that of the clean-up.
    let report = result?;
    down.or_failed(steps::DOWN)?;
    Ok(report)
}

impl<'a> Story<'a> {
    fn begin(
        options: &'a Options,
        progress: Progress,
        start: Instant,
        mut place: Box<dyn Place>,
    ) -> Result<Self, Failure> {
        let manifests = Manifests::in_folder(&options.samples);
        progress.say("bookinfo, its gateway and the canary, in a namespace that is not in the mesh");
        let status = deploy(&*place, &manifests)?;
        let (client, nodes, edge) = places(&mut *place, &status)?;
        Ok(Self {
            options,
            progress,
            start,
            place,
            manifests,
            client,
            nodes,
            edge,
        })
    }

    fn go_on(&self) -> Result<Report, Failure> {
        self.first_page()?;
        let before = self.unlabelled()?;
        let pods_before = self.application_pods()?;
        let enrolled = self.enrol()?;
        self.canary_in_force()?;
        let (tally, after) = self.requests()?;
        let (proved, unproved) = self.identities()?;
        let change = self.change_weights()?;
        let status = self.place.status().or_failed(steps::REQUESTS)?;
        Ok(Report {
            nodes: nodes(&status),
            pods: pods(&status),
            hops: hops(&tally, &status),
            restarts: restarts(&pods_before, &status),
            took: self.start.elapsed(),
            tally,
            before,
            after,
            proved,
            unproved,
            change,
            enrolled,
        })
    }

    /// The gateway's routes arrive a moment after its pod is ready.
    fn first_page(&self) -> Result<(), Failure> {
        self.progress.say(format_args!(
            "waiting for the first page at http://{}/productpage",
            self.client.address
        ));
        let attempt = || {
            let outcomes = self.client.pages(1, 1).map_err(|error| error.to_string())?;
            outcomes
                .into_iter()
                .try_for_each(|outcome| outcome.result.map(drop))
        };
        eventually(SETTLE, attempt).or_failed(steps::FIRST_PAGE)
    }

    fn unlabelled(&self) -> Result<Option<Seen>, Failure> {
        self.progress.say(format_args!(
            "{UNLABELLED_REQUESTS} requests without the mesh, {}",
            self.capturing()
        ));
        let (tally, seen) = self.captured(UNLABELLED_REQUESTS, steps::UNLABELLED)?;
        if tally.failures > 0 {
            let why = format!(
                "{} requests failed without the mesh: {}",
                tally.failures,
                tally.examples.join("; ")
            );
            return Err(steps::UNLABELLED.failed(why));
        }
        if let Some(seen) = &seen {
            self.progress.say(format_args!(
                "  {} packets held text of the answers",
                seen.mesh().plaintext
            ));
        }
        Ok(seen)
    }

    /// How long it took from the label to the last pod enrolled.
    fn enrol(&self) -> Result<Duration, Failure> {
        self.progress.say(format_args!(
            "labelling namespace {NAMESPACE}: istio.io/dataplane-mode=ambient"
        ));
        let labelled = Instant::now();
        self.place
            .apply("default", &manifests::namespace(NAMESPACE, true))
            .or_failed(steps::ENROL)?;
        let all_enrolled = |status: &Status| application(status).all(|pod| pod.enrolled);
        self.place
            .wait_until("every bookinfo pod is enrolled", READY, &all_enrolled)
            .or_failed(steps::ENROL)?;
        let enrolled = labelled.elapsed();
        self.progress.say(format_args!(
            "  all pods enrolled after {} ms",
            enrolled.as_millis()
        ));
        let waypoint = |status: &Status| status.pods_of(NAMESPACE, WAYPOINT).any(|pod| pod.ready);
        self.place
            .wait_until("a waypoint is ready", READY, &waypoint)
            .or_failed(steps::WAYPOINT)?;
        self.place.wait_ready(READY).or_failed(steps::WAYPOINT)?;
        self.progress.say(format_args!(
            "  waypoint ready after {} ms",
            labelled.elapsed().as_millis()
        ));
        Ok(enrolled)
    }

    /// Traffic stays on layer 4 until proxies know of the waypoint, and connections that were opened
    /// before live on as they were: the application closes its own after [`CONNECTION_AGE`].
    fn canary_in_force(&self) -> Result<(), Failure> {
        self.progress
            .say("waiting until the canary's rules are in force and older connections are gone");
        let began = Instant::now();
        let mut obeyed_since = None;
        let attempt = || {
            let trial_began = Instant::now();
            if let Err(why) = self.trial() {
                obeyed_since = None;
                return Err(why);
            }
            let since = *obeyed_since.get_or_insert(trial_began);
            if trial_began.duration_since(since) > CONNECTION_AGE {
                return Ok(since);
            }
            Err("older connections may still be open".to_owned())
        };
        let since = eventually(SETTLE, attempt)
            .map_err(|why| format!("{why}{}", self.place.routing_status()))
            .or_failed(steps::CANARY)?;
        self.progress.say(format_args!(
            "  in force after {} ms",
            since.duration_since(began).as_millis()
        ));
        Ok(())
    }

    /// Some pages, all of which must obey the rules and show no text on the links.
    fn trial(&self) -> Result<(), String> {
        let (tally, seen) = self
            .captured(TRIAL_REQUESTS, steps::CANARY)
            .map_err(|failure| failure.why)?;
        obeys(&tally)?;
        match seen.map_or(0, |seen| seen.mesh().plaintext) {
            0 => Ok(()),
            packets => Err(format!("{packets} packets held text of the answers")),
        }
    }

    fn requests(&self) -> Result<(Tally, Option<Seen>), Failure> {
        let count = self.options.requests;
        self.progress
            .say(format_args!("{count} requests in the mesh, {}", self.capturing()));
        let result = self.captured(count, steps::REQUESTS)?;
        self.progress.say(format_args!("  {} failed", result.0.failures));
        Ok(result)
    }

    /// Pages, and the packets meanwhile, unless there is no node to see them on.
    fn captured(
        &self,
        requests: usize,
        step: super::failure::Step,
    ) -> Result<(Tally, Option<Seen>), Failure> {
        let texts = Regex::new(TEXTS).or_failed(step)?;
        let start = || Capture::start(&self.nodes, &self.edge, &texts);
        let capture = (!self.nodes.is_empty()).then(start).transpose().or_failed(step)?;
        let outcomes = self.client.pages(requests, PARALLEL);
        let seen = capture.map(Capture::stop).transpose().or_failed(step)?;
        Ok((Tally::of(&outcomes.or_failed(step)?), seen))
    }

    fn capturing(&self) -> &'static str {
        if self.nodes.is_empty() {
            "without a capture of packets: the nodes cannot be entered"
        } else {
            "capturing packets"
        }
    }

    /// What the proxies' metrics say, and which of the application's identities they do not name.
    fn identities(&self) -> Result<(Proved, Vec<String>), Failure> {
        self.progress
            .say("reading who proved to be whom from the proxies' metrics");
        let status = self.place.status().or_failed(steps::IDENTITIES)?;
        let (proved, problems) = Proved::read(&status, |pod| self.place.metrics(pod));
        for problem in problems {
            self.progress.say(format_args!("  {problem}"));
        }
        let known = proved.identities();
        let expected = steps::ACCOUNTS.map(|account| format!("/ns/{NAMESPACE}/sa/{account}"));
        let unproved = expected
            .into_iter()
            .filter(|end| !known.iter().any(|known| known.ends_with(end)))
            .collect();
        Ok((proved, unproved))
    }

    fn application_pods(&self) -> Result<Vec<PodStatus>, Failure> {
        Ok(application(&self.place.status().or_failed(steps::ENROL)?)
            .cloned()
            .collect())
    }
}

/// Applies everything and returns the status once all is ready.
fn deploy(place: &dyn Place, manifests: &Manifests) -> Result<Status, Failure> {
    let status = place.status().or_failed(steps::DEPLOY)?;
    let gateway_node = status.pods_of(SYSTEM, GATEWAY).map(|pod| pod.node.clone()).next();
    let gateway_node = gateway_node.ok_or_else(|| steps::DEPLOY.failed("no ingress gateway runs"))?;
    let other_node = status
        .nodes
        .iter()
        .map(|node| &node.name)
        .find(|name| **name != gateway_node);
    let other_node = other_node.ok_or_else(|| steps::DEPLOY.failed("there is no second node"))?;
    place
        .apply("default", &manifests::namespace(NAMESPACE, false))
        .or_failed(steps::DEPLOY)?;
    let application = manifests
        .application(&gateway_node, other_node)
        .or_failed(steps::DEPLOY)?;
    place.apply(NAMESPACE, &application).or_failed(steps::DEPLOY)?;
    for path in manifests.routing() {
        place.apply_path(NAMESPACE, &path).or_failed(steps::DEPLOY)?;
    }
    place.wait_ready(READY).or_failed(steps::DEPLOY)
}

/// The client outside, the nodes' namespaces, and what marks the client's own link.
fn places(place: &mut dyn Place, status: &Status) -> Result<(Client, Vec<Namespace>, Edge), Failure> {
    let gateway_pods: Vec<&PodStatus> = status.pods_of(SYSTEM, GATEWAY).collect();
    let address = place.entry(status).or_failed(steps::FIRST_PAGE)?;
    let client = Client {
        namespace: place.outside(),
        address,
        patience: PAGE,
        most: MAX_PENDING,
    };
    let nodes = place.nodes(status);
    let edge = Edge {
        entry: vec![address.ip()],
        gateway_pods: gateway_pods.iter().flat_map(|pod| pod.ips.clone()).collect(),
    };
    Ok((client, nodes, edge))
}

/// The canary's two rules on ratings, and nothing failed.
fn obeys(tally: &Tally) -> Result<(), String> {
    if tally.failures > 0 {
        return Err(format!(
            "{} of {} trial requests failed: {}",
            tally.failures,
            tally.requests,
            tally.examples.join("; ")
        ));
    }
    for (reviews, ratings) in [("v2", "v1"), ("v3", "v2")] {
        let (asked, right) = (tally.ratings_asked_by(reviews), tally.ratings(reviews, ratings));
        if asked != right {
            return Err(format!(
                "reviews {reviews} called ratings {ratings} in only {right} of {asked} trial requests"
            ));
        }
    }
    Ok(())
}

/// Tries until it works or the time is over; then tells why the last try failed.
fn eventually<T>(within: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + within;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(why) if Instant::now() >= deadline => return Err(format!("still after {within:?}: {why}")),
            Err(_) => std::thread::park_timeout(PAUSE),
        }
    }
}

/// The pods of the application, without the waypoint that the control plane adds.
fn application(status: &Status) -> impl Iterator<Item = &PodStatus> {
    status
        .pods
        .iter()
        .filter(|pod| pod.namespace == NAMESPACE && pod.workload != WAYPOINT)
}

fn nodes(status: &Status) -> Vec<String> {
    let address = |addresses: &[IpAddr]| {
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    status
        .nodes
        .iter()
        .map(|node| format!("{} {}", node.name, address(&node.addresses)))
        .collect()
}

fn pods(status: &Status) -> Vec<PodLine> {
    let line = |pod: &PodStatus| PodLine {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        node: pod.node.clone(),
        ip: pod.ip.map(|ip| ip.to_string()).unwrap_or_default(),
        in_mesh: pod.enrolled,
    };
    status.pods.iter().map(line).collect()
}

/// Calls by the parts that took part, and how many of them crossed the nodes.
fn hops(tally: &Tally, status: &Status) -> BTreeMap<String, Hop> {
    let gateway = status.pods_of(SYSTEM, GATEWAY).next();
    let place = |name: &str| match name {
        "" => gateway,
        name => application(status).find(|pod| pod.name == name),
    };
    let mut hops: BTreeMap<String, Hop> = BTreeMap::new();
    for (call, count) in &tally.calls {
        let (Some(from), Some(to)) = (place(&call.from), place(&call.to)) else {
            continue;
        };
        let hop = hops
            .entry(format!("{} -> {}", from.workload, to.workload))
            .or_default();
        hop.calls += count;
        if from.node != to.node {
            hop.across += count;
        }
    }
    hops
}

/// Containers that were started again, and pods that are gone, since the application came up.
fn restarts(before: &[PodStatus], status: &Status) -> u64 {
    let gone = |old: &&PodStatus| !status.pods.iter().any(|pod| pod.uid == old.uid);
    let replaced = before.iter().filter(gone).count() as u64;
    replaced
        + application(status)
            .map(|pod| u64::from(pod.restarts))
            .sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_repeated_until_it_works() {
        let mut tries = 0;
        let result = eventually(Duration::from_secs(60), || {
            tries += 1;
            if tries < 3 {
                Err("not yet".to_owned())
            } else {
                Ok(tries)
            }
        });
        assert_eq!(result, Ok(3));
    }

    #[test]
    fn the_last_reason_is_told() {
        let result: Result<(), _> = eventually(Duration::ZERO, || Err("never".to_owned()));
        assert!(result.unwrap_err().contains("never"));
    }
}
