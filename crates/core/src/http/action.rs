//! What a route does with a request that matched.

use std::sync::Arc;
use std::time::Duration;

use super::mutation::HeaderMutations;
use super::retry::RetryPolicy;
use super::rewrite::{HostRewrite, PathRewrite, Redirect};

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Forward(Forward),
    Redirect(Redirect),
    DirectResponse(DirectResponse),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    pub destinations: Destinations,
    /// For the whole request, retries included; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Without a byte in either direction.
    pub idle_timeout: Option<Duration>,
    pub retry: Option<RetryPolicy>,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HostRewrite>,
    /// Say in `x-forwarded-host` what the host was before a rewrite.
    pub append_forwarded_host: bool,
    /// Answered where the chosen cluster does not exist.
    pub cluster_not_found: u16,
}

impl Forward {
    pub fn to(destinations: Destinations) -> Self {
        Self {
            destinations,
            timeout: None,
            idle_timeout: None,
            retry: None,
            path_rewrite: None,
            host_rewrite: None,
            append_forwarded_host: false,
            cluster_not_found: 503,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub cluster: Arc<str>,
    pub weight: u32,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub host_rewrite: Option<HostRewrite>,
}

impl Destination {
    pub fn to(cluster: &str, weight: u32) -> Self {
        Self {
            cluster: cluster.into(),
            weight,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            host_rewrite: None,
        }
    }
}

/// Clusters that share the requests of a route by weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Destinations {
    list: Vec<Destination>,
    /// Upper end of each destination's share of `0..total`.
    ends: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationsError {
    #[error("there is no destination")]
    Empty,
    #[error("the weights add up to 0")]
    NoWeight,
}

impl Destinations {
    pub fn new(list: Vec<Destination>) -> Result<Self, DestinationsError> {
        let mut total = 0u64;
        let ends: Vec<u64> = list
            .iter()
            .map(|d| {
                total += u64::from(d.weight);
                total
            })
            .collect();
        match (list.is_empty(), total) {
            (true, _) => Err(DestinationsError::Empty),
            (false, 0) => Err(DestinationsError::NoWeight),
            _ => Ok(Self { list, ends }),
        }
    }

    /// All requests to one cluster.
    pub fn single(cluster: &str) -> Self {
        Self {
            list: vec![Destination::to(cluster, 1)],
            ends: vec![1],
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Destination> {
        self.list.iter()
    }

    /// Over any run of consecutive values of `random` as long as the total weight, the shares are exact.
    pub fn choose(&self, random: u64) -> &Destination {
        let total = self.ends.last().copied().unwrap_or(1);
        let point = random % total;
        let index = self.ends.partition_point(|&end| end <= point);
        &self.list[index.min(self.list.len() - 1)]
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Arc<[u8]>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_must_say_something() {
        assert_eq!(Destinations::new(vec![]).unwrap_err(), DestinationsError::Empty);
        let zero = vec![Destination::to("a", 0)];
        assert_eq!(Destinations::new(zero).unwrap_err(), DestinationsError::NoWeight);
    }

    proptest! {
        #[test]
        fn shares_are_exact_over_the_total(weights in prop::collection::vec(0u32..50, 1..6), start: u32) {
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            prop_assume!(total > 0);
            let list = weights.iter().enumerate().map(|(i, &w)| Destination::to(&i.to_string(), w)).collect();
            let destinations = Destinations::new(list).unwrap();
            let mut counts = vec![0u32; weights.len()];
            for random in u64::from(start)..u64::from(start) + total {
                let chosen: usize = destinations.choose(random).cluster.parse().unwrap();
                counts[chosen] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }
}
