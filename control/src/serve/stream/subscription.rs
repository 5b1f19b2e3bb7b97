//! Which resources of a type a client wants: all, or some by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::serve::Resources;

/// The name that stands for everything.
pub(super) const WILDCARD: &str = "*";

pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
}

impl Subscription {
    /// A first request without names asks for everything, as one for `*` does.
    pub(super) fn first(names: &[String]) -> Self {
        let mut subscription = Self {
            wildcard: names.is_empty(),
            names: BTreeSet::new(),
        };
        subscription.change(names, &[]);
        subscription
    }

    pub(super) fn change(&mut self, subscribe: &[String], unsubscribe: &[String]) {
        for name in unsubscribe {
            self.wildcard &= name != WILDCARD;
            self.names.remove(name.as_str());
        }
        for name in subscribe {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                self.names.insert(name.as_str().into());
            }
        }
    }

    /// Names held, for the stream's bound.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The part of `all` that is wanted; for the wildcard the very same map, which costs nothing.
    pub(super) fn select(&self, all: &Resources) -> Resources {
        if self.wildcard {
            return all.clone();
        }
        let found = |name: &Arc<str>| Some((name.clone(), all.get(name)?.clone()));
        self.names.iter().filter_map(found).collect()
    }
}
