//! `AdmissionReview` in version v1: what the API server asks, and the answer.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::compile::Compiled;
use crate::objects::{ObjectKey, RawObject};
use crate::validate::{Verdict, judge};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// What the API server gives is a UUID.
const MAX_UID: usize = 128;
/// Longer messages help nobody.
const MAX_MESSAGE: usize = 2000;

#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("the body is not JSON of an {KIND}: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the body is {found}; this speaks {API_VERSION} {KIND} only")]
    Version { found: String },
    #[error("the {KIND} has no request with a uid")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Default, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
}

/// The answer to a body, beside the mesh as it is.
///
/// # Errors
/// For a body that asks nothing; the caller answers 400.
pub(super) fn answer(body: &[u8], compiled: Option<&Compiled>) -> Result<Value, ReviewError> {
    let review: Review = serde_json::from_slice(body)?;
    if review.api_version != API_VERSION || review.kind != KIND {
        let found = format!("{:.64} {:.64}", review.api_version, review.kind);
        return Err(ReviewError::Version { found });
    }
    let request = review
        .request
        .filter(|r| !r.uid.is_empty() && r.uid.len() <= MAX_UID);
    let request = request.ok_or(ReviewError::NoRequest)?;
    let uid = request.uid.clone();
    let verdict = if is_of_no_interest(&request) {
        Verdict::Admit { warnings: Vec::new() }
    } else {
        judge(Arc::new(object(request)), compiled)
    };
    Ok(response(&uid, verdict))
}

/// Deletions; objects on their way out; changes that leave the specification as it is, such as those of labels. What
/// was stored before this webhook was there must stay removable.
fn is_of_no_interest(request: &Request) -> bool {
    let creates = request.operation == "CREATE";
    let updates = request.operation == "UPDATE";
    let leaving = !request.object["metadata"]["deletionTimestamp"].is_null();
    let same = updates && request.object["spec"] == request.old_object["spec"];
    !(creates || updates) || leaving || same || !request.object.is_object()
}

fn object(request: Request) -> RawObject {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // An object that gets its name from the API server has none yet.
    let generated = text(&request.object["metadata"]["generateName"]);
    let name = if request.name.is_empty() {
        generated
    } else {
        request.name
    };
    let key = ObjectKey::new(&request.kind.group, &request.kind.kind, &request.namespace, &name);
    RawObject {
        key,
        api_version: text(&request.object["apiVersion"]).into(),
        value: request.object,
    }
}

fn response(uid: &str, verdict: Verdict) -> Value {
    let response = match verdict {
        Verdict::Admit { warnings } if warnings.is_empty() => json!({ "uid": uid, "allowed": true }),
        Verdict::Admit { warnings } => json!({ "uid": uid, "allowed": true, "warnings": warnings }),
        Verdict::Refuse { reason } => {
            let message: String = reason.chars().take(MAX_MESSAGE).collect();
            let status = json!({ "code": 422, "reason": "Invalid", "message": message });
            json!({ "uid": uid, "allowed": false, "status": status })
        }
    };
    json!({ "apiVersion": API_VERSION, "kind": KIND, "response": response })
}
