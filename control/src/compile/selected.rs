//! Which pods the selectors of Gateways select: kept, since looking at every pod for each rule would cost the mesh.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile::inputs::{Entry, Inputs, Labels, selects};
use crate::compile::report::PodName;
use crate::objects::kube::Pod;

/// The pods of each selector. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Selected(imbl::OrdMap<Arc<Labels>, imbl::OrdMap<PodName, State>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Finished,
}

impl Selected {
    /// Brings everything from `before` to `inputs`; whether any selector's pods are different.
    pub fn update(&mut self, before: &Inputs, inputs: &Inputs) -> bool {
        let mut changed = false;
        for (old, new) in before.pods.changes(&inputs.pods) {
            changed |= self.turn(old, new);
        }
        if before.gateways.changes(&inputs.gateways).next().is_some() {
            changed |= self.set_selectors(inputs);
        }
        changed
    }

    fn turn(&mut self, old: Option<&Entry<Pod>>, new: Option<&Entry<Pod>>) -> bool {
        let selectors: Vec<_> = self.0.keys().cloned().collect();
        let mut changed = false;
        for selector in selectors {
            let Some(pods) = self.0.get_mut(&selector) else {
                continue;
            };
            if let Some(entry) = old.filter(|e| selects(&selector, &e.meta.labels)) {
                pods.remove(&name(entry));
                changed = true;
            }
            if let Some(entry) = new.filter(|e| selects(&selector, &e.meta.labels)) {
                pods.insert(name(entry), state(entry));
                changed = true;
            }
        }
        changed
    }

    fn set_selectors(&mut self, inputs: &Inputs) -> bool {
        let wanted: BTreeSet<&Labels> = inputs.gateways.iter().map(|g| &g.spec.selector).collect();
        let superfluous: Vec<_> = self
            .0
            .keys()
            .filter(|s| !wanted.contains(&***s))
            .cloned()
            .collect();
        for selector in superfluous {
            self.0.remove(&selector);
        }
        let mut changed = false;
        for selector in wanted {
            if self.0.get(selector).is_none() {
                self.0.insert(Arc::new(selector.clone()), scan(inputs, selector));
                changed = true;
            }
        }
        changed
    }

    /// Running pods that the selector selects; looked for where no Gateway of the model has it.
    pub fn running(&self, inputs: &Inputs, selector: &Labels) -> BTreeSet<PodName> {
        let found = self.0.get(selector).cloned();
        let pods = found.unwrap_or_else(|| scan(inputs, selector));
        let running = pods.iter().filter(|(_, state)| **state == State::Running);
        running.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the selector selects a pod, running or not.
    pub fn any(&self, inputs: &Inputs, selector: &Labels) -> bool {
        match self.0.get(selector) {
            Some(pods) => !pods.is_empty(),
            None => inputs.pods.iter().any(|p| selects(selector, &p.meta.labels)),
        }
    }
}

fn scan(inputs: &Inputs, selector: &Labels) -> imbl::OrdMap<PodName, State> {
    let selected = inputs.pods.iter().filter(|p| selects(selector, &p.meta.labels));
    selected.map(|entry| (name(entry), state(entry))).collect()
}

fn name(entry: &Entry<Pod>) -> PodName {
    (entry.meta.namespace.clone(), entry.meta.name.clone())
}

fn state(entry: &Entry<Pod>) -> State {
    match entry.spec.is_finished() {
        true => State::Finished,
        false => State::Running,
    }
}
