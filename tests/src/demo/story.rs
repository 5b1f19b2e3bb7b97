//! The order of events.

mod change;
mod steps;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use regex::bytes::Regex;

use crate::bookinfo::{CONNECTION_AGE, part};
use crate::lab::layout::{LabName, Layout};
use crate::lab::status::{PodStatus, Status};
use crate::lab::{self, Lab, LabOptions};

use super::Options;
use super::capture::{Capture, Edge, Seen};
use super::client::Client;
use super::failure::{Failure, OrFailed};
use super::identities::Proved;
use super::manifests::{self, Manifests};
use super::namespace::Namespace;
use super::progress::Progress;
use super::report::{Hop, PodLine, Report};
use super::tally::Tally;

pub(crate) const NAMESPACE: &str = "bookinfo";
const SYSTEM: &str = "istio-system";
const GATEWAY: &str = "istio-ingressgateway";
const WAYPOINT: &str = "waypoint";
const HTTP_PORT: u16 = 80;
/// Text of the application's answers: of the page, of the JSON between its parts, of the database.
const TEXTS: &str = r"Simple Bookstore App|Reviewer1|servedBy|ISBN-1|x-served-by";
const PARALLEL: usize = 4;
const UNLABELLED_REQUESTS: usize = 40;
/// Pages that must all obey the canary before it counts as in force: each could obey by chance.
const TRIAL_REQUESTS: usize = 40;
const READY: Duration = Duration::from_secs(90);
const SETTLE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

/// A lab with bookinfo in it, and a client outside.
struct Story<'a> {
    options: &'a Options,
    progress: Progress,
    start: Instant,
    lab: Lab,
    manifests: Manifests,
    client: Client,
    nodes: Vec<Namespace>,
    edge: Edge,
}

pub(crate) fn tell(options: &Options) -> Result<Report, Failure> {
    let start = Instant::now();
    let progress = Progress::new(start);
    let story = Story::begin(options, progress, start)?;
    let result = story.go_on();
    if options.keep {
        return result;
    }
    progress.say("taking the lab down");
    let down = story.lab.down();
    // The story's own failure says more than that of the clean-up.
    let report = result?;
    down.or_failed(steps::DOWN)?;
    Ok(report)
}

impl<'a> Story<'a> {
    fn begin(options: &'a Options, progress: Progress, start: Instant) -> Result<Self, Failure> {
        let name: LabName = options.name.parse().or_failed(steps::LAB)?;
        // Most likely kept by an earlier run; it is this program's own name.
        if Lab::attach(&options.name).is_ok_and(|lab| lab.status().is_ok()) {
            progress.say(format_args!("taking down the lab {name} that is still there"));
            lab::take_down(&name).or_failed(steps::LAB)?;
        }
        progress.say("lab: two nodes, control plane, node agents, ingress gateway");
        let mut lab_options = LabOptions::named(&options.name);
        lab_options.images = part::image_mappings(&options.bookinfo);
        let mut lab = Lab::up(&lab_options).or_failed(steps::LAB)?;
        if options.keep {
            lab.keep();
        }
        let manifests = Manifests::in_folder(&options.samples);
        progress.say("bookinfo, its gateway and the canary, in a namespace that is not in the mesh");
        let status = deploy(&lab, &manifests)?;
        let (client, nodes, edge) = places(&name, &status)?;
        Ok(Self {
            options,
            progress,
            start,
            lab,
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
        self.enrol()?;
        self.canary_in_force()?;
        let (tally, after) = self.requests()?;
        let (proved, unproved) = self.identities()?;
        let change = self.change_weights()?;
        let status = self.lab.status().or_failed(steps::REQUESTS)?;
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

    fn unlabelled(&self) -> Result<Seen, Failure> {
        self.progress.say(format_args!(
            "{UNLABELLED_REQUESTS} requests without the mesh, capturing packets"
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
        self.progress.say(format_args!(
            "  {} packets held text of the answers",
            seen.mesh().plaintext
        ));
        Ok(seen)
    }

    fn enrol(&self) -> Result<(), Failure> {
        self.progress.say(format_args!(
            "labelling namespace {NAMESPACE}: istio.io/dataplane-mode=ambient"
        ));
        let labelled = Instant::now();
        self.lab
            .apply("default", &manifests::namespace(NAMESPACE, true))
            .or_failed(steps::ENROL)?;
        let all_enrolled = |status: &Status| application(status).all(|pod| pod.enrolled);
        self.lab
            .wait_until("every bookinfo pod is enrolled", READY, all_enrolled)
            .or_failed(steps::ENROL)?;
        self.progress.say(format_args!(
            "  all pods enrolled after {} ms",
            labelled.elapsed().as_millis()
        ));
        let waypoint = |status: &Status| status.pods_of(NAMESPACE, WAYPOINT).any(|pod| pod.ready);
        self.lab
            .wait_until("a waypoint is ready", READY, waypoint)
            .or_failed(steps::WAYPOINT)?;
        self.lab.wait_ready(READY).or_failed(steps::WAYPOINT)?;
        self.progress.say(format_args!(
            "  waypoint ready after {} ms",
            labelled.elapsed().as_millis()
        ));
        Ok(())
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
            .map_err(|why| format!("{why}{}", change::routing_status(&self.lab)))
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
        match seen.mesh().plaintext {
            0 => Ok(()),
            packets => Err(format!("{packets} packets held text of the answers")),
        }
    }

    fn requests(&self) -> Result<(Tally, Seen), Failure> {
        let count = self.options.requests;
        self.progress
            .say(format_args!("{count} requests in the mesh, capturing packets"));
        let result = self.captured(count, steps::REQUESTS)?;
        self.progress.say(format_args!("  {} failed", result.0.failures));
        Ok(result)
    }

    fn captured(&self, requests: usize, step: super::failure::Step) -> Result<(Tally, Seen), Failure> {
        let texts = Regex::new(TEXTS).or_failed(step)?;
        let capture = Capture::start(&self.nodes, &self.edge, &texts).or_failed(step)?;
        let outcomes = self.client.pages(requests, PARALLEL);
        let seen = capture.stop().or_failed(step)?;
        Ok((Tally::of(&outcomes.or_failed(step)?), seen))
    }

    /// What the proxies' metrics say, and which of the application's identities they do not name.
    fn identities(&self) -> Result<(Proved, Vec<String>), Failure> {
        self.progress
            .say("reading who proved to be whom from the proxies' metrics");
        let status = self.lab.status().or_failed(steps::IDENTITIES)?;
        let node = self
            .nodes
            .first()
            .ok_or_else(|| steps::IDENTITIES.failed("the lab has no node"))?;
        let (proved, problems) = Proved::read(&status, node);
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
        Ok(application(&self.lab.status().or_failed(steps::ENROL)?)
            .cloned()
            .collect())
    }
}

/// Applies everything and returns the status once all is ready.
fn deploy(lab: &Lab, manifests: &Manifests) -> Result<Status, Failure> {
    let status = lab.status().or_failed(steps::DEPLOY)?;
    let gateway_node = status.pods_of(SYSTEM, GATEWAY).map(|pod| pod.node.clone()).next();
    let gateway_node = gateway_node.ok_or_else(|| steps::DEPLOY.failed("the lab runs no ingress gateway"))?;
    let other_node = status
        .nodes
        .iter()
        .map(|node| &node.name)
        .find(|name| **name != gateway_node);
    let other_node = other_node.ok_or_else(|| steps::DEPLOY.failed("the lab has no second node"))?;
    lab.apply("default", &manifests::namespace(NAMESPACE, false))
        .or_failed(steps::DEPLOY)?;
    let application = manifests
        .application(&gateway_node, other_node)
        .or_failed(steps::DEPLOY)?;
    lab.apply(NAMESPACE, &application).or_failed(steps::DEPLOY)?;
    for path in manifests.routing() {
        lab.apply_path(NAMESPACE, &path).or_failed(steps::DEPLOY)?;
    }
    lab.wait_ready(READY).or_failed(steps::DEPLOY)
}

/// The client outside, the nodes' namespaces, and what marks the client's own link.
fn places(name: &LabName, status: &Status) -> Result<(Client, Vec<Namespace>, Edge), Failure> {
    let layout = Layout::new(name);
    let entry: Vec<IpAddr> = status
        .service(SYSTEM, GATEWAY)
        .map(|service| service.addresses.clone())
        .unwrap_or_default();
    let first = *entry.first().ok_or_else(|| {
        steps::FIRST_PAGE.failed(format!(
            "Service {SYSTEM}/{GATEWAY} has no address for clients outside"
        ))
    })?;
    let client = Client {
        namespace: Namespace::of(&layout, "world"),
        address: SocketAddr::new(first, HTTP_PORT),
    };
    let nodes = status
        .nodes
        .iter()
        .map(|node| Namespace::of(&layout, &node.name))
        .collect();
    let gateway_pods = status
        .pods_of(SYSTEM, GATEWAY)
        .flat_map(|pod| pod.ips.clone())
        .collect();
    Ok((client, nodes, Edge { entry, gateway_pods }))
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
