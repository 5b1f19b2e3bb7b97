//! A finding: which object, which field, how bad, why, and what to do.

use std::fmt;

use serde::Serialize;

use crate::compile::Compiled;
use crate::compile::gateway_api::ownership::{self, Ownership};
use crate::objects::{Notice, NoticeKind, ObjectKey, ParsedObject, Rejection, RejectionKind};
use crate::validate::world::World;
use crate::validate::{View, suggest};

/// How bad a finding is; the worst sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something that was asked for does not happen.
    Error,
    /// Probably not what was meant.
    Warning,
    /// Cannot be told from what was given, or is good to know.
    Info,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    /// `KIND NAMESPACE/NAME`; empty for a text that is no object.
    pub object: String,
    /// The file, or `cluster`.
    pub origin: String,
    /// The path of the field, such as `spec.http[0].route[1].weight`.
    pub field: String,
    /// One word for what is wrong, for scripts.
    pub reason: &'static str,
    pub message: String,
    pub remedy: String,
}

impl Finding {
    pub(super) fn unreadable(origin: &str, problem: &str) -> Self {
        Self {
            level: Level::Error,
            object: String::new(),
            origin: origin.to_owned(),
            field: String::new(),
            reason: "Unreadable",
            message: problem.to_owned(),
            remedy: "correct the text; `kubectl apply --dry-run=client -f FILE` reads it the same way"
                .to_owned(),
        }
    }

    pub(super) fn of(key: &ObjectKey, origin: &str, level: Level, reason: &'static str) -> Self {
        Self {
            level,
            object: key.to_string(),
            origin: origin.to_owned(),
            field: String::new(),
            reason,
            message: String::new(),
            remedy: String::new(),
        }
    }

    pub(super) fn at(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.field = field.into();
        self.message = message.into();
        self
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// Worst first, then by object and field; a finding that two checks make is kept once.
pub(super) fn sort(findings: &mut Vec<Finding>) {
    findings.sort_by(|a, b| {
        let key = |f: &Finding| {
            (
                f.level,
                f.origin.clone(),
                f.object.clone(),
                f.field.clone(),
                f.message.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    findings.dedup();
}

/// What the control plane would say about the object.
pub(super) fn of_object(
    world: &World<'_>,
    compiled: &Compiled,
    origin: &str,
    object: &ParsedObject,
) -> Vec<Finding> {
    let key = &object.raw.key;
    match &object.outcome {
        Err(_) if ownership::of(&compiled.inputs, object) == Ownership::Others => Vec::new(),
        Err(rejection) => vec![of_rejection(key, origin, rejection)],
        Ok(_) => {
            let notices = compiled.reports.get(key).map_or(&[][..], |r| &r.notices);
            let findings = notices
                .iter()
                .map(|n| of_notice(world, compiled, origin, object, n));
            findings.collect()
        }
    }
}

pub(super) fn of_rejection(key: &ObjectKey, origin: &str, rejection: &Rejection) -> Finding {
    let (reason, remedy) = match rejection.kind {
        RejectionKind::Invalid if is_settings(key) => ("Invalid", SETTINGS.to_owned()),
        RejectionKind::Invalid if rejection.reason.starts_with("unknown field") => {
            ("UnknownField", correct_name(key))
        }
        RejectionKind::Invalid => (
            "Invalid",
            "correct the field; until then nothing of the object is in effect".to_owned(),
        ),
        RejectionKind::Unsupported => (
            "Unsupported",
            "do without it, or keep the object for a version that has it; nothing of it is in effect"
                .to_owned(),
        ),
    };
    Finding::of(key, origin, Level::Error, reason)
        .at(&*rejection.field, &*rejection.reason)
        .remedy(remedy)
}

/// Of ConfigMaps the mesh's settings alone are judged.
fn is_settings(key: &ObjectKey) -> bool {
    key.group.is_empty() && &*key.kind == "ConfigMap"
}

fn correct_name(key: &ObjectKey) -> String {
    let kind = key.kind.to_ascii_lowercase();
    format!("correct the name or take it out; `kubectl explain {kind}.spec` lists the fields")
}

fn of_notice(
    world: &World<'_>,
    compiled: &Compiled,
    origin: &str,
    object: &ParsedObject,
    notice: &Notice,
) -> Finding {
    let key = &object.raw.key;
    let (level, reason, remedy) = match notice.kind {
        NoticeKind::NotSupported => (Level::Warning, "NotSupported", NOT_SUPPORTED.to_owned()),
        NoticeKind::Unresolved => {
            let level = world.unresolved(object, &notice.field);
            (
                level,
                "NotFound",
                suggest::for_unresolved(world, compiled, object, notice, level),
            )
        }
        NoticeKind::Warning => (Level::Warning, "Suspicious", SUSPICIOUS.to_owned()),
        NoticeKind::BadSecret => (Level::Error, "BadSecret", BAD_SECRET.to_owned()),
        NoticeKind::Conflict if &*key.kind == "Gateway" => {
            (Level::Error, "Conflict", GATEWAY_CONFLICT.to_owned())
        }
        NoticeKind::Conflict if &*key.kind == "ServiceEntry" => {
            (Level::Error, "Conflict", ENTRY_CONFLICT.to_owned())
        }
        NoticeKind::Conflict => (Level::Error, "Conflict", CONFLICT.to_owned()),
        NoticeKind::Unserved => (Level::Warning, "Unserved", UNSERVED.to_owned()),
        NoticeKind::NoWaypoint => (no_waypoint(world.view), "NoWaypoint", NO_WAYPOINT.to_owned()),
        NoticeKind::Refused => (Level::Warning, "NoWaypoint", REFUSED.to_owned()),
        NoticeKind::UnknownField => (Level::Error, "UnknownField", correct_name(key)),
        NoticeKind::NotPermitted => {
            // Grants are seldom among the manifests that need them.
            let level = match world.view {
                View::Cluster => Level::Error,
                View::Files => Level::Warning,
            };
            (level, "NotPermitted", NOT_PERMITTED.to_owned())
        }
    };
    Finding::of(key, origin, level, reason)
        .at(&*notice.field, &*notice.message)
        .remedy(remedy)
}

/// How bad it is that a waypoint is not there: files may leave its Gateway to others.
pub(super) fn no_waypoint(view: View) -> Level {
    match view {
        View::Cluster => Level::Warning,
        View::Files => Level::Info,
    }
}

const NOT_PERMITTED: &str = "create a ReferenceGrant in the namespace of what is referred to, or refer to something in the object's own namespace";
const NOT_SUPPORTED: &str = "take the field out, or accept that it does nothing";
const SETTINGS: &str = "correct the text; until then the settings that were accepted last stay in effect as a whole, and a control plane that starts serves nobody";
const SUSPICIOUS: &str = "check whether it is meant so";
const BAD_SECRET: &str = "put a certificate and its key into the Secret: `kubectl create secret tls NAME -n NAMESPACE --cert=FILE --key=FILE`";
const GATEWAY_CONFLICT: &str = "use another port or other hosts, or take the server out of the older Gateway";
const CONFLICT: &str =
    "merge the rules into one VirtualService, give them different hosts, or limit each by exportTo";
const ENTRY_CONFLICT: &str = "write another host or address, or take it out of the older object";
const NO_WAYPOINT: &str = "`aquifer waypoint apply` makes it, or correct the labels istio.io/use-waypoint and istio.io/use-waypoint-namespace; where it is in the cluster, --cluster knows it";
const REFUSED: &str =
    "change the waypoint's Gateway as the message says, or name another waypoint by istio.io/use-waypoint";
const UNSERVED: &str =
    "label the namespace istio.io/dataplane-mode=ambient, or take away istio.io/use-waypoint=none";
