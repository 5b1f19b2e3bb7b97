//! Why a request got no answer from its service, in the words, flags and codes of Envoy.

use aquifer_core::http::fault::Abort;
use aquifer_core::http::retry::Attempt;

use crate::policy::NotAdmitted;
use crate::upstream::dial::DialError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The request cannot be understood.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The request asks for something that this proxy cannot do.
    #[error("{0}")]
    NotImplemented(&'static str),
    #[error("no virtual host or route matches")]
    NotFound,
    /// The host is served on connections with another server name.
    #[error("the host belongs to another server")]
    Misdirected,
    #[error("cluster {name} does not exist")]
    ClusterNotFound { name: String, status: u16 },
    #[error("cluster {0} has no healthy endpoint")]
    NoHealthyUpstream(String),
    #[error("the limit of connections to the endpoint is reached")]
    Overflow,
    #[error(transparent)]
    Connect(#[from] DialError),
    /// The connection ended before a response; `sent` says whether any of the request had left.
    #[error("the endpoint ended the connection before a response: {cause}")]
    Reset { cause: String, sent: bool },
    /// What the endpoint answered is not HTTP, or not what it may answer.
    #[error("the endpoint's answer breaks the protocol: {0}")]
    Protocol(String),
    #[error("no response within the timeout of the route")]
    Timeout,
    #[error("no response within the timeout of one attempt")]
    AttemptTimeout,
    #[error("injected by configuration")]
    Fault(Abort),
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
}

impl Failure {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::NotImplemented(_) => 501,
            Self::Protocol(_) => 502,
            Self::NotFound => 404,
            Self::Misdirected => 421,
            Self::NotAdmitted(NotAdmitted::Denied(_)) => 403,
            Self::NotAdmitted(NotAdmitted::Unknown(_)) => 503,
            Self::ClusterNotFound { status, .. } => *status,
            Self::NoHealthyUpstream(_) | Self::Overflow | Self::Connect(_) | Self::Reset { .. } => 503,
            Self::Timeout | Self::AttemptTimeout => 504,
            Self::Fault(Abort::Http(status)) => *status,
            Self::Fault(Abort::Grpc(_)) => 200,
        }
    }

    /// Envoy's response flags; `retried` where attempts were made again in vain.
    pub(crate) fn flags(&self, retried: bool) -> &'static str {
        match (self, retried) {
            (Self::BadRequest(_) | Self::NotImplemented(_), _) => "DPE",
            (Self::Protocol(_), false) => "UPE",
            (Self::Protocol(_), true) => "UPE,URX",
            (Self::NotFound | Self::Misdirected, _) => "NR",
            (Self::ClusterNotFound { .. }, _) => "NC",
            // As Envoy's RBAC filter: a refusal by policy has details but no flag.
            (Self::NotAdmitted(NotAdmitted::Denied(_)), _) => "-",
            (Self::NotAdmitted(NotAdmitted::Unknown(_)) | Self::NoHealthyUpstream(_), _) => "UH",
            (Self::Overflow, false) => "UO",
            (Self::Overflow, true) => "UO,URX",
            (Self::Connect(_), false) => "UF",
            (Self::Connect(_), true) => "UF,URX",
            (Self::Reset { .. }, false) => "UC",
            (Self::Reset { .. }, true) => "UC,URX",
            (Self::Timeout | Self::AttemptTimeout, false) => "UT",
            (Self::Timeout | Self::AttemptTimeout, true) => "UT,URX",
            (Self::Fault(_), _) => "FI",
        }
    }

    /// What the access log says in its details field.
    pub(crate) fn details(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "http1.codec_error",
            Self::NotImplemented(_) => "http1.unsupported_transfer_encoding",
            Self::Protocol(_) => "upstream_reset_before_response_started{protocol_error}",
            Self::NotFound => "route_not_found",
            Self::Misdirected => "misdirected_request",
            Self::ClusterNotFound { .. } => "cluster_not_found",
            Self::NotAdmitted(NotAdmitted::Denied(_)) => "rbac_access_denied_matched_policy",
            Self::NotAdmitted(NotAdmitted::Unknown(_)) | Self::NoHealthyUpstream(_) => "no_healthy_upstream",
            Self::Overflow => "upstream_reset_before_response_started{overflow}",
            Self::Connect(_) => "upstream_reset_before_response_started{connection_failure}",
            Self::Reset { .. } => "upstream_reset_before_response_started{connection_termination}",
            Self::Timeout => "response_timeout",
            Self::AttemptTimeout => "upstream_per_try_timeout",
            Self::Fault(_) => "fault_filter_abort",
        }
    }

    /// What the client is told: the kind of failure, never an address or an identity of the mesh.
    pub(crate) fn body(&self) -> String {
        const RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason:";
        match self {
            Self::BadRequest(reason) => format!("bad request: {reason}"),
            Self::NotImplemented(what) => format!("not implemented: {what}"),
            Self::Protocol(_) => format!("{RESET} protocol error"),
            Self::NotFound => "no route matches this request (route_not_found)".to_owned(),
            Self::Misdirected => "this host is served on another connection (misdirected_request)".to_owned(),
            Self::ClusterNotFound { .. } => {
                "the route's destination does not exist (cluster_not_found)".to_owned()
            }
            Self::NotAdmitted(NotAdmitted::Denied(_)) => "RBAC: access denied".to_owned(),
            Self::NotAdmitted(NotAdmitted::Unknown(_)) | Self::NoHealthyUpstream(_) => {
                "no healthy upstream".to_owned()
            }
            Self::Overflow => format!("{RESET} overflow"),
            Self::Connect(DialError::Timeout { .. }) => format!("{RESET} connection timeout"),
            Self::Connect(_) => format!("{RESET} remote connection failure"),
            Self::Reset { .. } => format!("{RESET} connection termination"),
            Self::Timeout | Self::AttemptTimeout => "upstream request timeout".to_owned(),
            Self::Fault(_) => "fault filter abort".to_owned(),
        }
    }

    /// How a retry policy sees it; `None` where another attempt would end the same way.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::Connect(_) => Some(Attempt::ConnectFailure),
            Self::Reset { sent, .. } => Some(Attempt::Reset { sent: *sent }),
            Self::Protocol(_) => Some(Attempt::Reset { sent: true }),
            Self::AttemptTimeout => Some(Attempt::TimedOut),
            _ => None,
        }
    }
}
