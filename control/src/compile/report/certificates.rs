//! What is to be said of the certificates that listeners of the Gateway API name.

use std::sync::Arc;

use super::gateway::{not_covered, notice};
use super::{Condition, MAX_FINDINGS};
use crate::compile::Compiled;
use crate::compile::credentials::{CredentialError, of_open};
use crate::compile::gateway_api::listeners::{OpenGateway, OpenListener};
use crate::model::secret::ServerCertificate;
use crate::objects::Notice;

/// The certificates of a listener: those of use, and what is wrong with the others.
pub(super) struct Found<'a> {
    of_use: Vec<&'a Arc<ServerCertificate>>,
    problems: Vec<Problem>,
}

struct Problem {
    /// As the Gateway API calls it.
    reason: &'static str,
    notice: Notice,
}

impl Found<'_> {
    /// Whether TLS is to end there, and cannot.
    pub(super) fn are_lacking(&self) -> bool {
        self.of_use.is_empty() && !self.problems.is_empty()
    }

    /// The condition `ResolvedRefs`, where anything is wrong.
    pub(super) fn resolved(&self) -> Option<Condition> {
        let first = self.problems.first()?;
        let texts = self.problems.iter().take(MAX_FINDINGS);
        let texts: Vec<String> = texts
            .map(|p| format!("{}: {}", p.notice.field, p.notice.message))
            .collect();
        Some(Condition::new(
            "ResolvedRefs",
            false,
            first.reason,
            texts.join("; "),
        ))
    }
}

pub(super) fn of<'a>(compiled: &'a Compiled, gateway: &'a OpenGateway, listener: &OpenListener) -> Found<'a> {
    let mut found = Found {
        of_use: Vec::new(),
        problems: Vec::new(),
    };
    let Some(termination) = listener.termination() else {
        return found;
    };
    let bad = listener.bad_references.iter().map(|bad| Problem {
        reason: "InvalidCertificateRef",
        notice: Notice::bad_secret(bad.field.as_str(), bad.message.as_str()),
    });
    found.problems.extend(bad);
    let credentials = of_open(&compiled.inputs, gateway);
    for reference in &termination.certificates {
        match credentials.certificate(reference) {
            Ok(certificate) => found.of_use.push(certificate),
            Err(error) => found.problems.push(Problem {
                reason: reason(&error),
                notice: notice(&reference.field, &error),
            }),
        }
    }
    found
}

fn reason(error: &CredentialError) -> &'static str {
    match error {
        CredentialError::NotPermitted(_) => "RefNotPermitted",
        CredentialError::Missing(_) | CredentialError::Unreadable(..) | CredentialError::Unusable(..) => {
            "InvalidCertificateRef"
        }
    }
}

pub(super) fn notices(compiled: &Compiled, gateway: &OpenGateway) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (i, listener) in gateway.listeners.iter().enumerate() {
        let found = of(compiled, gateway, listener);
        let uncovered = not_covered(&found.of_use, &listener.hostname);
        notices.extend(found.problems.into_iter().map(|p| p.notice));
        if let Some(message) = uncovered.filter(|_| !found.of_use.is_empty()) {
            notices.push(Notice::warning(format!("spec.listeners[{i}].hostname"), message));
        }
    }
    notices
}
