//! What is in effect in the place of an object that was rejected.
//!
//! In a cluster the API server refuses an edit that breaks an object, and the old one stays. A folder has nobody in
//! front of it, and not every cluster checks what the mesh can: an edit that cannot be understood must not switch a
//! policy off, nor spread a canary's traffic evenly, nor bring namespaces into the mesh that its settings leave out. So
//! the last version that was accepted stays in effect. A policy of which none ever was closes what it selects: see
//! [`crate::model::policy::closed`]. For settings of which none ever was nothing stands in: see `crate::pipeline`.

use std::fmt;
use std::sync::Arc;

use aquifer_core::policy::Action;

use crate::model::policy::closed;
use crate::objects::{Object, ParsedObject};

/// An object in effect, which is not the one that its source holds.
#[derive(Clone, Debug)]
pub struct StandIn {
    pub object: Arc<ParsedObject>,
    pub origin: Origin,
}

/// Where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An earlier version of the same object.
    LastAccepted,
    /// What could be read of a policy of which this process has accepted no version.
    FailedClosed,
}

impl StandIn {
    /// What stands in for `rejected`, which replaces `old` and what stood in for that.
    pub(super) fn of(
        rejected: &ParsedObject,
        old: Option<(&Arc<ParsedObject>, Option<&Self>)>,
    ) -> Option<Self> {
        let before = old.filter(|(old, _)| is_same(old, rejected) || is_config_map(rejected));
        let last = before.and_then(|(old, stand_in)| match stand_in {
            None => Self::last_accepted(old),
            Some(stand_in) if stand_in.origin == Origin::LastAccepted => Some(stand_in.clone()),
            Some(_) => None,
        });
        last.or_else(|| Self::failed_closed(rejected))
    }

    fn last_accepted(old: &Arc<ParsedObject>) -> Option<Self> {
        let keeps = matches!(
            old.outcome,
            Ok(Object::AuthorizationPolicy(_)
                | Object::PeerAuthentication(_)
                | Object::VirtualService(_)
                | Object::DestinationRule(_)
                | Object::Gateway(_)
                | Object::ServiceEntry(_)
                | Object::HttpRoute(_)
                | Object::StreamRoute(_)
                | Object::MeshSettings(_))
        );
        keeps.then(|| Self {
            object: old.clone(),
            origin: Origin::LastAccepted,
        })
    }

    fn failed_closed(rejected: &ParsedObject) -> Option<Self> {
        let object = closed::closed(&rejected.raw, &rejected.meta)?;
        Some(Self {
            object: Arc::new(ParsedObject {
                raw: rejected.raw.clone(),
                meta: rejected.meta.clone(),
                outcome: Ok(object),
                notices: Vec::new(),
            }),
            origin: Origin::FailedClosed,
        })
    }

    /// The reason in a condition of the object's status.
    pub fn reason(&self) -> &'static str {
        match self.origin {
            Origin::LastAccepted => "LastAccepted",
            Origin::FailedClosed => "FailedClosed",
        }
    }
}

/// An object that was deleted and made again has another uid; one whose metadata cannot be read has none to compare.
fn is_same(old: &ParsedObject, new: &ParsedObject) -> bool {
    new.meta.uid.is_empty() || old.meta.uid == new.meta.uid
}

/// Of these only the mesh's settings are kept, of which there is one, however often it is made again.
fn is_config_map(object: &ParsedObject) -> bool {
    object.raw.key.group.is_empty() && &*object.raw.key.kind == "ConfigMap"
}

impl fmt::Display for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.origin, self.object.meta.generation) {
            (Origin::LastAccepted, Some(generation)) => {
                write!(
                    f,
                    "the last accepted version (generation {generation}) stays in effect"
                )
            }
            (Origin::LastAccepted, None) => f.write_str("the last accepted version stays in effect"),
            (Origin::FailedClosed, _) => {
                let instead = meaning(&self.object);
                write!(
                    f,
                    "no version was accepted before: {instead} until it is corrected"
                )
            }
        }
    }
}

fn meaning(closed: &ParsedObject) -> &'static str {
    match &closed.outcome {
        Ok(Object::AuthorizationPolicy(policy)) if policy.action == Action::Allow => "it allows nothing",
        Ok(Object::AuthorizationPolicy(_)) => "it denies everything",
        _ => "STRICT is in effect for what it selects",
    }
}
