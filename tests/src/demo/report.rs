//! What the demo found out, what of it is held to be proved, and how both are written.

mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::capture::Seen;
use super::identities::Proved;
use super::tally::Tally;

/// The canary's split, in percent.
pub(crate) const WANTED: [(&str, u64); 3] = [("v1", 25), ("v2", 25), ("v3", 50)];
/// How far a share may be off, in percent of all pages.
const TOLERANCE: f64 = 10.0;

#[derive(Debug)]
pub struct Report {
    pub(crate) nodes: Vec<String>,
    pub(crate) pods: Vec<PodLine>,
    pub(crate) tally: Tally,
    /// Calls between parts, and how many of them went from one node to another.
    pub(crate) hops: BTreeMap<String, Hop>,
    /// None where no packet could be captured.
    pub(crate) before: Option<Seen>,
    pub(crate) after: Option<Seen>,
    pub(crate) proved: Proved,
    /// Identities that had to be proved and were not.
    pub(crate) unproved: Vec<String>,
    pub(crate) change: Change,
    /// From the label on the namespace to the last of its pods enrolled.
    pub(crate) enrolled: Duration,
    pub(crate) restarts: u64,
    pub(crate) took: Duration,
}

#[derive(Debug)]
pub(crate) struct PodLine {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) ip: String,
    pub(crate) in_mesh: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hop {
    pub(crate) calls: u64,
    pub(crate) across: u64,
}

/// The change of weights under load.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) examples: Vec<String>,
    pub(crate) per_second: u32,
    /// From the change in the folder to the last answer of the old split.
    pub(crate) took: Option<Duration>,
}

impl Report {
    /// What was to be proved and is not; empty when the demo succeeded.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_answers(&mut problems);
        self.check_links(&mut problems);
        self.check_change(&mut problems);
        for (name, hop) in self.hops.iter().filter(|(_, hop)| hop.across == 0) {
            problems.push(format!(
                "none of {} calls {name} went across the nodes",
                hop.calls
            ));
        }
        problems.extend(
            self.unproved
                .iter()
                .map(|identity| format!("nobody proved to be {identity}")),
        );
        if self.restarts > 0 {
            problems.push(format!("{} pods or containers were started anew", self.restarts));
        }
        problems
    }

    fn check_answers(&self, problems: &mut Vec<String>) {
        let tally = &self.tally;
        if tally.failures > 0 {
            let examples = tally.examples.join("; ");
            problems.push(format!(
                "{} of {} requests failed: {examples}",
                tally.failures, tally.requests
            ));
        }
        for (version, wanted) in WANTED {
            let share = self.share(version);
            if (share - wanted as f64).abs() > TOLERANCE {
                problems.push(format!(
                    "reviews {version} served {share:.1} % instead of {wanted} %"
                ));
            }
        }
        for (reviews, ratings) in [("v2", "v1"), ("v3", "v2")] {
            let (asked, right) = (tally.ratings_asked_by(reviews), tally.ratings(reviews, ratings));
            if asked == 0 || right != asked {
                problems.push(format!(
                    "reviews {reviews} called ratings {ratings} in {right} of {asked} cases instead of always"
                ));
            }
        }
    }

    fn check_links(&self, problems: &mut Vec<String>) {
        let (Some(before), Some(after)) = (self.before, self.after) else {
            return;
        };
        if before.nodes.plaintext == 0 || before.pods.plaintext == 0 {
            problems.push("the capture saw no text without the mesh, so it proves nothing".to_owned());
        }
        let plaintext = after.mesh().plaintext;
        if plaintext > 0 {
            problems.push(format!("{plaintext} packets held text of the answers"));
        }
        if after.nodes.hbone == 0 {
            problems.push("no packet between the nodes went to port 15008".to_owned());
        }
        if after.dropped > 0 {
            problems.push(format!("{} packets passed the capture unseen", after.dropped));
        }
    }

    fn check_change(&self, problems: &mut Vec<String>) {
        let change = &self.change;
        if change.failures > 0 {
            let examples = change.examples.join("; ");
            problems.push(format!(
                "{} of {} requests failed while the weights changed: {examples}",
                change.failures, change.requests
            ));
        }
        if change.took.is_none() {
            problems.push("the new weights never showed in the answers".to_owned());
        }
    }

    /// Percent of the pages that `version` of reviews took part in.
    pub(crate) fn share(&self, version: &str) -> f64 {
        let pages = (self.tally.requests - self.tally.failures).max(1);
        self.tally.reviews(version) as f64 * 100.0 / pages as f64
    }

    /// The figures for a machine: counts, no percentages.
    pub fn to_json(&self) -> Value {
        let tally = &self.tally;
        json!({
            "requests": tally.requests,
            "failures": tally.failures,
            "reviews": { "v1": tally.reviews("v1"), "v2": tally.reviews("v2"), "v3": tally.reviews("v3") },
            "ratings": {
                "v2_total": tally.ratings_asked_by("v2"),
                "v2_to_v1": tally.ratings("v2", "v1"),
                "v3_total": tally.ratings_asked_by("v3"),
                "v3_to_v2": tally.ratings("v3", "v2"),
            },
            "link": self.link(),
            "identities": self.proved.identities(),
            "restarts": self.restarts,
            "label_to_enrolled_ms": milliseconds(self.enrolled),
            "weights": {
                "requests": self.change.requests,
                "failures": self.change.failures,
                "change_to_new_split_ms": self.change.took.map(milliseconds),
            },
            "seconds": (self.took.as_secs_f64() * 10.0).round() / 10.0,
        })
    }

    fn link(&self) -> Option<Value> {
        let (before, after) = (self.before?.mesh(), self.after?.mesh());
        Some(json!({
            "packets": after.packets,
            "hbone": after.hbone,
            "plaintext": after.plaintext,
            "plaintext_unlabelled": before.plaintext,
        }))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::demo::capture::Traffic;

    pub(crate) fn good() -> Report {
        let seen = |plaintext| Traffic {
            packets: 100,
            hbone: 50,
            plaintext,
        };
        let ratings = [(("v2", "v1"), 100), (("v3", "v2"), 200)];
        Report {
            nodes: vec!["node-1 172.30.0.11".to_owned()],
            pods: vec![PodLine {
                namespace: "bookinfo".to_owned(),
                name: "details-v1-x".to_owned(),
                node: "node-1".to_owned(),
                ip: "10.244.1.2".to_owned(),
                in_mesh: true,
            }],
            tally: Tally {
                requests: 400,
                reviews: [("v1", 100), ("v2", 100), ("v3", 200)]
                    .map(|(v, n)| (v.to_owned(), n))
                    .into(),
                ratings: ratings
                    .map(|((by, at), n)| ((by.to_owned(), at.to_owned()), n))
                    .into(),
                ..Tally::default()
            },
            hops: BTreeMap::from([(
                "productpage -> details".to_owned(),
                Hop {
                    calls: 400,
                    across: 400,
                },
            )]),
            before: Some(Seen {
                nodes: seen(9),
                pods: seen(9),
                ..Seen::default()
            }),
            after: Some(Seen {
                nodes: seen(0),
                pods: seen(0),
                edge: seen(4),
                dropped: 0,
            }),
            proved: Proved::default(),
            unproved: Vec::new(),
            change: Change {
                requests: 1000,
                failures: 0,
                examples: Vec::new(),
                per_second: 200,
                took: Some(Duration::from_millis(150)),
            },
            enrolled: Duration::from_millis(300),
            restarts: 0,
            took: Duration::from_secs(30),
        }
    }

    fn check(change: impl FnOnce(&mut Report), expected: &str) {
        let mut report = good();
        change(&mut report);
        let problems = report.problems();
        assert!(
            problems.len() == 1 && problems[0].contains(expected),
            "{problems:?}"
        );
    }

    fn before(report: &mut Report) -> &mut Seen {
        report.before.as_mut().unwrap()
    }

    fn after(report: &mut Report) -> &mut Seen {
        report.after.as_mut().unwrap()
    }

    #[test]
    fn what_was_not_captured_is_told_and_is_no_figure() {
        let mut report = good();
        (report.before, report.after) = (None, None);
        assert_eq!(report.problems(), Vec::<String>::new());
        assert_eq!(report.to_json()["link"], Value::Null);
        let text = report.to_string();
        assert!(text.contains("PACKETS: left out"), "{text}");
    }

    #[test]
    fn a_good_run_has_no_problem() {
        assert_eq!(good().problems(), Vec::<String>::new());
    }

    #[test]
    fn every_bar_is_checked() {
        check(|report| report.tally.failures = 1, "1 of 400 requests failed");
        check(
            |report| {
                report.tally.reviews.insert("v3".to_owned(), 120);
            },
            "reviews v3",
        );
        check(
            |report| {
                report.tally.ratings.insert(("v3".to_owned(), "v1".to_owned()), 1);
            },
            "reviews v3 called ratings v2 in 200 of 201 cases",
        );
        check(|report| before(report).nodes.plaintext = 0, "proves nothing");
        check(|report| after(report).pods.plaintext = 1, "1 packets held text");
        check(|report| after(report).nodes.hbone = 0, "15008");
        check(|report| after(report).dropped = 2, "2 packets passed the capture");
        check(
            |report| report.change.failures = 3,
            "3 of 1000 requests failed while",
        );
        check(|report| report.change.took = None, "never showed");
        check(
            |report| {
                report
                    .hops
                    .insert("a -> b".to_owned(), Hop { calls: 3, across: 0 });
            },
            "none of 3 calls",
        );
        check(
            |report| report.unproved.push("spiffe://x".to_owned()),
            "spiffe://x",
        );
        check(|report| report.restarts = 1, "started anew");
    }

    #[test]
    fn the_json_has_counts_under_fixed_names() {
        let json = good().to_json();
        assert_eq!(json["reviews"], json!({ "v1": 100, "v2": 100, "v3": 200 }));
        assert_eq!(
            json["ratings"],
            json!({ "v2_total": 100, "v2_to_v1": 100, "v3_total": 200, "v3_to_v2": 200 })
        );
        let link = json!({ "packets": 200, "hbone": 100, "plaintext": 0, "plaintext_unlabelled": 18 });
        assert_eq!(json["link"], link);
        assert_eq!(
            (&json["requests"], &json["failures"], &json["restarts"]),
            (&json!(400), &json!(0), &json!(0))
        );
        assert_eq!(json["label_to_enrolled_ms"], json!(300));
        assert_eq!(json["weights"]["change_to_new_split_ms"], json!(150));
        assert!(json["identities"].is_array() && json["seconds"].is_number());
    }
}
