//! What the API server writes down of its callers: the rights that service accounts were given, and those they used.
//!
//! All of it is in the log, also of roles that exist for a minute, as those of a hook of helm: [`rights`] puts it together.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::layout::{Layout, Member};
use rights::Rights;

pub mod rights;

mod roles;

/// Beside the API server's certificates.
pub(super) const POLICY: &str = "audit-policy.yaml";
/// In the control member; files that are full stay beside it under names with their time.
pub(super) const LOG: &str = "/var/log/kubernetes/audit.log";
/// The suite `kubernetes` writes a few of them.
pub(super) const MAX_MEGABYTES: u32 = 64;
pub(super) const MAX_BACKUPS: u32 = 1;

#[derive(Debug, Error)]
pub enum AuditError {
    #[error("cannot read the API server's audit log {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of the API server's audit log is not one of its events: {source}")]
    Line { line: usize, source: serde_json::Error },
    #[error("the API server's audit log does not say what {what} gives: {source}")]
    Rights { what: String, source: serde_json::Error },
}

/// Roles and bindings as they are written, and the requests of all service accounts but Kubernetes' own. JSON is YAML.
pub(super) fn policy() -> String {
    let roles = json!({
        "level": "RequestResponse",
        "verbs": ["create", "update", "patch", "delete", "deletecollection"],
        "resources": [{"group": rights::GROUP}],
    });
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": true,
        "rules": [
            roles,
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    });
    policy.to_string()
}

/// What has been written so far.
pub fn read(layout: &Layout) -> Result<Rights, AuditError> {
    let log = layout.inside(Member::Control, LOG);
    let failed = |source| AuditError::Read {
        path: log.clone(),
        source,
    };
    let folder = log.parent().unwrap_or(&log);
    let mut seen = Vec::new();
    for file in fs::read_dir(folder).map_err(failed)? {
        let text = file.and_then(|file| fs::read_to_string(file.path()));
        seen.extend(events(&text.map_err(failed)?)?);
    }
    Rights::of(seen)
}

fn events(log: &str) -> Result<Vec<Event>, AuditError> {
    // The last line may be half written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    let lines = whole.lines().enumerate();
    let read = lines.map(|(index, line)| {
        serde_json::from_str(line).map_err(|source| AuditError::Line {
            line: index + 1,
            source,
        })
    });
    read.collect()
}

/// One answer of the API server: `audit.k8s.io/v1`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    verb: String,
    user: User,
    #[serde(rename = "requestURI")]
    uri: String,
    object_ref: Option<Object>,
    #[serde(default, rename = "responseStatus")]
    answer: Answer,
    response_object: Option<Value>,
    /// All of one width, so that their order is that of time.
    #[serde(rename = "requestReceivedTimestamp")]
    received: String,
}

#[derive(Debug, Deserialize)]
struct User {
    username: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
    message: String,
}

#[cfg(test)]
mod tests;
