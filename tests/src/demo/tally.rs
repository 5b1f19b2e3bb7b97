//! What a number of answered pages tells: who served them, and across which nodes.

use std::collections::BTreeMap;

use crate::bookinfo::answer::ServedBy;

use super::client::Outcome;

/// Examples of failures that are worth showing.
const MAX_EXAMPLES: usize = 3;

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) examples: Vec<String>,
    /// Pages by the version of reviews.
    pub(crate) reviews: BTreeMap<String, u64>,
    /// Pages by the versions of reviews and of the ratings it asked.
    pub(crate) ratings: BTreeMap<(String, String), u64>,
    /// Calls between two pods of the application, outermost first.
    pub(crate) calls: BTreeMap<Call, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Tally {
    pub(crate) fn of(outcomes: &[Outcome]) -> Self {
        let mut tally = Self::default();
        for outcome in outcomes {
            tally.add(outcome);
        }
        tally
    }

    fn add(&mut self, outcome: &Outcome) {
        self.requests += 1;
        let chain = match &outcome.result {
            Ok(chain) => chain,
            Err(why) => return self.add_failure(why),
        };
        let Some(reviews) = find(chain, "reviews") else {
            return self.add_failure("no version of reviews took part in the answer");
        };
        *self.reviews.entry(reviews.version.clone()).or_default() += 1;
        if let Some(ratings) = find(chain, "ratings") {
            *self
                .ratings
                .entry((reviews.version.clone(), ratings.version.clone()))
                .or_default() += 1;
        }
        for (from, to) in [
            ("productpage", "details"),
            ("productpage", "reviews"),
            ("reviews", "ratings"),
            ("ratings", "mongodb"),
        ] {
            if let (Some(from), Some(to)) = (find(chain, from), find(chain, to)) {
                *self
                    .calls
                    .entry(Call {
                        from: from.pod.clone(),
                        to: to.pod.clone(),
                    })
                    .or_default() += 1;
            }
        }
        if let Some(page) = find(chain, "productpage") {
            *self
                .calls
                .entry(Call {
                    from: String::new(),
                    to: page.pod.clone(),
                })
                .or_default() += 1;
        }
    }

    fn add_failure(&mut self, why: &str) {
        self.failures += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(why.to_owned());
        }
    }

    pub(crate) fn reviews(&self, version: &str) -> u64 {
        self.reviews.get(version).copied().unwrap_or_default()
    }

    /// Pages for which that version of reviews asked ratings at all.
    pub(crate) fn ratings_asked_by(&self, reviews: &str) -> u64 {
        self.ratings
            .iter()
            .filter(|((by, _), _)| by == reviews)
            .map(|(_, count)| count)
            .sum()
    }

    pub(crate) fn ratings(&self, reviews: &str, ratings: &str) -> u64 {
        self.ratings
            .get(&(reviews.to_owned(), ratings.to_owned()))
            .copied()
            .unwrap_or_default()
    }
}

pub(crate) fn find<'a>(chain: &'a [ServedBy], service: &str) -> Option<&'a ServedBy> {
    chain.iter().find(|entry| entry.service == service)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn page(chain: &str) -> Outcome {
        let chain = chain.split(' ').map(|entry| entry.parse().unwrap()).collect();
        Outcome {
            finished: Instant::now(),
            result: Ok(chain),
        }
    }

    #[test]
    fn versions_and_calls_are_counted() {
        let v1 = page("productpage/v1@p details/v1@d reviews/v1@r1");
        let v3 = page("productpage/v1@p details/v1@d reviews/v3@r3 ratings/v2@t2 mongodb/v1@m");
        let tally = Tally::of(&[v1, v3.clone(), v3]);
        assert_eq!((tally.requests, tally.failures), (3, 0));
        assert_eq!(
            (tally.reviews("v1"), tally.reviews("v2"), tally.reviews("v3")),
            (1, 0, 2)
        );
        assert_eq!(
            (
                tally.ratings_asked_by("v3"),
                tally.ratings("v3", "v2"),
                tally.ratings("v3", "v1")
            ),
            (2, 2, 0)
        );
        let call = |from: &str, to: &str| Call {
            from: from.to_owned(),
            to: to.to_owned(),
        };
        assert_eq!(tally.calls[&call("p", "d")], 3);
        assert_eq!(tally.calls[&call("t2", "m")], 2);
        assert_eq!(tally.calls[&call("", "p")], 3);
    }

    #[test]
    fn failures_are_counted_and_some_are_shown() {
        let failed = Outcome {
            finished: Instant::now(),
            result: Err("503".to_owned()),
        };
        let tally = Tally::of(&vec![failed; 5]);
        assert_eq!((tally.failures, tally.examples.len()), (5, 3));
    }
}
