//! In which order the types of a stream send.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_xds::type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINTS, LISTENER, ROUTES, SECRET};

/// Types that refer to each other, each after what it refers to.
const CHAINS: [&[&str]; 2] = [
    &[SECRET, CLUSTER, ENDPOINTS, LISTENER, ROUTES],
    &[AUTHORIZATION, ADDRESS],
];

/// Which part of a type's difference goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Which {
    Additions,
    Removals,
    /// Both in one response, so that a replacement is one step for the client.
    Everything,
}

/// What one type of a chain has to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// A response waits for its answer; nothing more of this type may go out.
    pub(super) outstanding: bool,
    pub(super) adds: bool,
    pub(super) removes: bool,
}

impl State {
    fn idle(self) -> bool {
        !self.outstanding && !self.adds && !self.removes
    }
}

/// The subscribed types by chain; a type that is in none is one of its own.
pub(super) fn chains<'a>(subscribed: impl Iterator<Item = &'a Arc<str>>) -> Vec<Vec<Arc<str>>> {
    let mut rest: BTreeSet<Arc<str>> = subscribed.cloned().collect();
    let mut chains: Vec<Vec<Arc<str>>> = CHAINS
        .iter()
        .map(|chain| chain.iter().filter_map(|url| rest.take(*url)).collect())
        .collect();
    chains.extend(rest.into_iter().map(|url| vec![url]));
    chains
}

/// Who of a chain sends next; none where the chain has nothing to send or waits for an answer.
///
/// Additions go out from the front. What a type takes away goes out once nothing later in the chain, which is all that
/// can name it, has anything to send or to answer; where that holds already, it goes along with the additions.
pub(super) fn next(chain: &[State]) -> Option<(usize, Which)> {
    if let Some(first) = chain.iter().position(|state| state.adds) {
        if chain[first].outstanding {
            // Whoever comes later may name what this type has not sent yet.
            return None;
        }
        let free = chain[first + 1..].iter().all(|state| state.idle());
        return Some((first, if free { Which::Everything } else { Which::Additions }));
    }
    let last = chain.iter().rposition(|state| state.removes)?;
    let awaited = chain[last..].iter().any(|state| state.outstanding);
    (!awaited).then_some((last, Which::Removals))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: State = State {
        outstanding: false,
        adds: false,
        removes: false,
    };
    const ADDS: State = State { adds: true, ..IDLE };
    const REMOVES: State = State {
        removes: true,
        ..IDLE
    };
    const BOTH: State = State {
        adds: true,
        ..REMOVES
    };
    const WAITS: State = State {
        outstanding: true,
        ..IDLE
    };

    #[test]
    fn additions_go_forward_and_removals_backward() {
        let check =
            |chain: &[State], want: Option<(usize, Which)>| assert_eq!(next(chain), want, "{chain:?}");
        check(&[], None);
        check(&[IDLE, IDLE], None);
        check(&[ADDS, ADDS], Some((0, Which::Additions)));
        check(&[WAITS, ADDS], Some((1, Which::Everything)));
        check(
            &[
                State {
                    outstanding: true,
                    ..ADDS
                },
                ADDS,
            ],
            None,
        );
        check(&[BOTH, BOTH], Some((0, Which::Additions)));
        check(&[REMOVES, BOTH], Some((1, Which::Everything)));
        check(&[REMOVES, REMOVES], Some((1, Which::Removals)));
        check(&[REMOVES, WAITS], None);
        check(&[IDLE, BOTH], Some((1, Which::Everything)));
        check(&[WAITS, BOTH], Some((1, Which::Everything)));
        check(&[WAITS, REMOVES], Some((1, Which::Removals)));
        check(&[BOTH, WAITS], Some((0, Which::Additions)));
        check(&[REMOVES, IDLE], Some((0, Which::Removals)));
    }

    #[test]
    fn types_of_no_chain_wait_for_nobody() {
        let urls: Vec<Arc<str>> = [ROUTES, "type.googleapis.com/x.Y", CLUSTER, ADDRESS]
            .map(Arc::from)
            .into();
        let chains = chains(urls.iter());
        let names: Vec<Vec<&str>> = chains
            .iter()
            .map(|chain| chain.iter().map(|url| &**url).collect())
            .collect();
        assert_eq!(
            names,
            [
                vec![CLUSTER, ROUTES],
                vec![ADDRESS],
                vec!["type.googleapis.com/x.Y"]
            ]
        );
    }
}
