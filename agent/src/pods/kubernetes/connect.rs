//! The client, and words for its errors.

use std::time::Duration;

use kube::{Client, Config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "no API server to connect to: {0}; run in a pod with a service account, or give a folder with --pods-dir DIR"
    )]
    InCluster(#[from] kube::config::InClusterError),
    #[error("cannot make a client of the API server: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// A client by the service account of the pod that this runs in.
pub(super) fn connect() -> Result<Client, ConnectError> {
    let mut config = Config::incluster()?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // What is worth trying again is tried again by whoever asked, with a back-off of its own.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}

/// Why the API server did not do what was asked, in one line that names the remedy where there is one.
pub(super) fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    if text.contains("forbidden") {
        text.push_str("; is a rule missing from the role aquifer-agent?");
    }
    text
}
