//! One object that is about to be stored, beside the mesh as it is.
//!
//! Only what is wrong in itself is refused. What names something that is not there yet is let in with a warning:
//! manifests come in any order, and what this version does not support may be meant for another.

use std::sync::Arc;

use crate::compile::gateway_api::ownership::{self, Ownership};
use crate::compile::{Compiled, report};
use crate::objects::{GATEWAY_API, NoticeKind, ObjectKey, ParsedObject, RawObject, Rejection, RejectionKind};

/// The API server shows only so many warnings, each cut.
const MAX_WARNINGS: usize = 16;
const MAX_WARNING: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Admit { warnings: Vec<String> },
    Refuse { reason: String },
}

/// Judges an object; beside `None` alone, before the first model.
pub fn judge(object: Arc<RawObject>, compiled: Option<&Compiled>) -> Verdict {
    let parsed = ParsedObject::parse(object);
    let ownership = whose(&parsed, compiled);
    match &parsed.outcome {
        _ if ownership == Ownership::Others => Verdict::Admit { warnings: Vec::new() },
        Err(rejection) if rejection.kind == RejectionKind::Invalid && ownership == Ownership::Ours => {
            Verdict::Refuse {
                reason: refusal(&parsed.raw.key, rejection),
            }
        }
        Err(rejection) => Verdict::Admit {
            warnings: vec![shortened(&rejection.to_string())],
        },
        Ok(_) => Verdict::Admit {
            warnings: warnings(&parsed, compiled),
        },
    }
}

/// Object, field, reason and remedy, in one line.
fn refusal(key: &ObjectKey, rejection: &Rejection) -> String {
    let kind = key.kind.to_ascii_lowercase();
    format!(
        "{key}: {rejection}; correct it: `kubectl explain {kind}.spec` lists the fields and what they hold"
    )
}

/// Before the first model, nobody knows whose an object of the Gateway API is.
fn whose(parsed: &ParsedObject, compiled: Option<&Compiled>) -> Ownership {
    match compiled {
        Some(compiled) => ownership::of(&compiled.inputs, parsed),
        None if &*parsed.raw.key.group == GATEWAY_API => Ownership::Unclear,
        None => Ownership::Ours,
    }
}

fn warnings(parsed: &ParsedObject, compiled: Option<&Compiled>) -> Vec<String> {
    let report = compiled.and_then(|c| match &*parsed.raw.key.group {
        GATEWAY_API => report::report(&c.supposing(parsed), parsed),
        _ => report::report(c, parsed),
    });
    let notices = report.map_or_else(|| parsed.notices.clone(), |r| r.notices);
    // Which waypoint will serve it is known when it has been stored.
    let of_waypoints = [NoticeKind::Unserved, NoticeKind::NoWaypoint, NoticeKind::Refused];
    let said = notices.iter().filter(|n| !of_waypoints.contains(&n.kind));
    said.map(|n| shortened(&format!("{}: {}", n.field, n.message)))
        .take(MAX_WARNINGS)
        .collect()
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MAX_WARNING {
        return text.to_owned();
    }
    text.chars().take(MAX_WARNING - 1).chain(['…']).collect()
}
