//! Choosing an endpoint: least requests of two, round robin, or random. Weights count in all three.

use super::cluster::{BalancePolicy, Endpoint};

/// What the choice depends on beside the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    pub random: u64,
    /// Grows by one with each choice in this cluster.
    pub turn: u64,
}

/// Index into `endpoints` of the one to use; `None` where none is healthy.
///
/// Only the lowest priority that has a healthy endpoint counts. Endpoints for which `avoid` holds are passed over while
/// there is another. `active` is the number of requests in flight to an endpoint.
pub fn choose(
    policy: BalancePolicy,
    endpoints: &[Endpoint],
    draw: Draw,
    active: impl Fn(usize) -> u32,
    avoid: impl Fn(usize) -> bool,
) -> Option<usize> {
    let healthy = |e: &Endpoint| e.healthy && e.weight > 0;
    let priority = endpoints
        .iter()
        .filter(|e| healthy(e))
        .map(|e| e.priority)
        .min()?;
    let eligible = |i: usize| healthy(&endpoints[i]) && endpoints[i].priority == priority;
    let wanted = |i: usize| eligible(i) && !avoid(i);
    if total(endpoints, wanted) > 0 {
        choose_among(policy, endpoints, draw, active, wanted)
    } else {
        choose_among(policy, endpoints, draw, active, eligible)
    }
}

fn choose_among(
    policy: BalancePolicy,
    endpoints: &[Endpoint],
    draw: Draw,
    active: impl Fn(usize) -> u32,
    allowed: impl Fn(usize) -> bool + Copy,
) -> Option<usize> {
    let total = total(endpoints, allowed);
    match policy {
        BalancePolicy::RoundRobin => round_robin(endpoints, draw.turn, total, allowed),
        BalancePolicy::Random => at(endpoints, draw.random % total.max(1), allowed),
        BalancePolicy::LeastRequest => least_of_two(endpoints, draw.random, total, active, allowed),
    }
}

/// The sum of the weights of the allowed endpoints.
fn total(endpoints: &[Endpoint], allowed: impl Fn(usize) -> bool) -> u64 {
    let weights = endpoints.iter().enumerate().filter(|(i, _)| allowed(*i));
    weights.map(|(_, e)| u64::from(e.weight)).sum()
}

/// The endpoint at `point` of a line on which each allowed endpoint takes as much room as it has weight.
fn at(endpoints: &[Endpoint], mut point: u64, allowed: impl Fn(usize) -> bool) -> Option<usize> {
    for (i, endpoint) in endpoints.iter().enumerate().filter(|(i, _)| allowed(*i)) {
        let weight = u64::from(endpoint.weight);
        if point < weight {
            return Some(i);
        }
        point -= weight;
    }
    None
}

fn round_robin(
    endpoints: &[Endpoint],
    turn: u64,
    total: u64,
    allowed: impl Fn(usize) -> bool + Copy,
) -> Option<usize> {
    let mut list = (0..endpoints.len()).filter(|&i| allowed(i));
    let first = endpoints[list.next()?].weight;
    let count = 1 + list.clone().count() as u64;
    if list.all(|i| endpoints[i].weight == first) {
        return at(endpoints, turn % count * u64::from(first), allowed);
    }
    at(endpoints, spread(turn, total), allowed)
}

/// Visits every point of `0..total` once per `total` turns, neighbours far apart, so that a heavy endpoint's turns are
/// not taken in one run.
fn spread(turn: u64, total: u64) -> u64 {
    let near_golden = (total as f64 * 0.618) as u64;
    let stride = (near_golden.max(1)..).find(|&s| gcd(s, total) == 1).unwrap_or(1);
    (u128::from(turn % total) * u128::from(stride) % u128::from(total)) as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn least_of_two(
    endpoints: &[Endpoint],
    random: u64,
    total: u64,
    active: impl Fn(usize) -> u32,
    allowed: impl Fn(usize) -> bool + Copy,
) -> Option<usize> {
    let first = at(endpoints, (random >> 32) % total.max(1), allowed)?;
    let rest = total - u64::from(endpoints[first].weight);
    if rest == 0 {
        return Some(first);
    }
    let second = at(endpoints, (random & 0xffff_ffff) % rest, |i| {
        i != first && allowed(i)
    })?;
    // Load per weight, compared without division.
    let load = |i: usize, other: usize| (u64::from(active(i)) + 1) * u64::from(endpoints[other].weight);
    Some(if load(second, first) < load(first, second) {
        second
    } else {
        first
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::cluster::Transport;
    use proptest::prelude::*;

    fn endpoint(weight: u32, healthy: bool, priority: u32) -> Endpoint {
        Endpoint {
            address: "10.0.0.1:80".parse().unwrap(),
            transport: Transport::Plaintext,
            weight,
            healthy,
            priority,
            workload: "".into(),
        }
    }

    fn draw(n: u64) -> Draw {
        Draw { random: n, turn: n }
    }

    #[test]
    fn round_robin_takes_turns() {
        let list = vec![endpoint(7, true, 0); 3];
        let picks: Vec<_> = (0..6)
            .map(|n| choose(BalancePolicy::RoundRobin, &list, draw(n), |_| 0, |_| false).unwrap())
            .collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn least_request_prefers_the_idle_one() {
        let list = vec![endpoint(1, true, 0); 2];
        for n in 0..100u64 {
            let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let pick = choose(
                BalancePolicy::LeastRequest,
                &list,
                draw(random),
                |i| [5, 0][i],
                |_| false,
            );
            assert_eq!(pick, Some(1));
        }
    }

    #[test]
    fn avoided_endpoints_come_last_and_unhealthy_never() {
        let list = [endpoint(1, true, 0), endpoint(1, true, 0), endpoint(1, false, 0)];
        for n in 0..20 {
            let pick =
                |avoid: &dyn Fn(usize) -> bool| choose(BalancePolicy::Random, &list, draw(n), |_| 0, avoid);
            assert_eq!(pick(&|i| i == 0), Some(1));
            assert!(pick(&|_| true).is_some_and(|i| i < 2));
        }
        assert_eq!(
            choose(BalancePolicy::Random, &list[2..], draw(0), |_| 0, |_| false),
            None
        );
        assert_eq!(
            choose(BalancePolicy::Random, &[], draw(0), |_| 0, |_| false),
            None
        );
    }

    #[test]
    fn lowest_priority_with_a_healthy_endpoint_counts() {
        let list = [endpoint(1, false, 0), endpoint(1, true, 2), endpoint(1, true, 1)];
        assert_eq!(
            choose(BalancePolicy::Random, &list, draw(9), |_| 0, |_| false),
            Some(2)
        );
    }

    fn policies() -> impl Strategy<Value = BalancePolicy> {
        prop_oneof![
            Just(BalancePolicy::RoundRobin),
            Just(BalancePolicy::LeastRequest),
            Just(BalancePolicy::Random)
        ]
    }

    proptest! {
        #[test]
        fn chooses_an_allowed_endpoint_wherever_there_is_one(
            policy in policies(),
            weights in prop::collection::vec((0u32..9, any::<bool>(), 0u32..3), 0..6),
            random: u64, turn: u64, avoid: u8,
        ) {
            let list: Vec<_> = weights.iter().map(|&(w, h, p)| endpoint(w, h, p)).collect();
            let avoided = |i: usize| avoid & (1 << i) != 0;
            let pick = choose(policy, &list, Draw { random, turn }, |i| i as u32, avoided);
            let usable = |i: &usize| list[*i].healthy && list[*i].weight > 0;
            let best = (0..list.len()).filter(usable).map(|i| list[i].priority).min();
            match pick {
                None => prop_assert!(best.is_none()),
                Some(i) => {
                    prop_assert!(usable(&i) && Some(list[i].priority) == best);
                    let other = (0..list.len()).filter(usable).any(|j| Some(list[j].priority) == best && !avoided(j));
                    prop_assert!(!other || !avoided(i));
                }
            }
        }

        #[test]
        fn weighted_turns_are_exact(weights in prop::collection::vec(1u32..20, 1..5)) {
            let list: Vec<_> = weights.iter().map(|&w| endpoint(w, true, 0)).collect();
            let equal = weights.iter().all(|w| *w == weights[0]);
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let mut counts = vec![0u32; list.len()];
            for turn in 0..total {
                counts[choose(BalancePolicy::RoundRobin, &list, draw(turn), |_| 0, |_| false).unwrap()] += 1;
            }
            prop_assert!(equal || counts == weights);
        }
    }
}
