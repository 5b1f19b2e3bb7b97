//! What everything that talks to the API server shares: the client, the kinds, and words for its errors.

pub mod authority;
pub mod backoff;
pub mod election;
pub mod kinds;

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// The name under which fields belong to the control plane in server-side apply.
pub const FIELD_MANAGER: &str = "aquifer";
/// The label and its value on every object that the control plane makes: what lacks it is never deleted.
pub const MADE_BY_LABEL: &str = "app.kubernetes.io/managed-by";
pub const MADE_BY: &str = "aquifer";
/// A call that takes longer is given up; watches are not calls.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot use the kubeconfig {path}: {source}")]
    Kubeconfig {
        path: String,
        source: kube::config::KubeconfigError,
    },
    #[error(
        "no API server to connect to: {0}; run in a pod with a service account, give --kubeconfig FILE, or a folder with --objects DIR"
    )]
    InCluster(#[from] kube::config::InClusterError),
    #[error("cannot make a client of the API server: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// A client by the kubeconfig, or by the service account of the pod that this runs in.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // What is worth trying again is tried again by whoever asked, with a back-off of its own.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}

async fn from_file(path: &Path) -> Result<Config, ConnectError> {
    let failed = |source| ConnectError::Kubeconfig {
        path: path.display().to_string(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}

/// Why the API server did not do what was asked, in one line that names the remedy where there is one.
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "{}; is a rule missing from the role aquifer-control?",
                status.message
            )
        }
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                let inner = error.to_string();
                if !text.contains(&inner) {
                    text = format!("{text}: {inner}");
                }
                cause = error.source();
            }
            text
        }
    }
}

/// The HTTP status of an answer of the API server.
pub fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
