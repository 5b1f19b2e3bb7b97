//! What the control plane stands on: an API server, or folders.

use std::pin::Pin;
use std::sync::Arc;

use aquifer_identity::succession::Pace;
use tokio_util::sync::CancellationToken;

use crate::auth::TokenVerifier;
use crate::authority::Keeper;
use crate::config::Config;
use crate::sink::{Left, ObjectSink};
use crate::source::{ObjectSource, SecretsWatch};

/// A task that runs beside the pipeline until cancelled.
pub(super) type Duty = Box<dyn FnOnce(CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

pub(super) struct Backend {
    pub(super) authority: Keeper,
    pub(super) verifier: Arc<dyn TokenVerifier>,
    pub(super) source: Box<dyn ObjectSource>,
    /// Where the source reads Secrets only when it is told to.
    pub(super) secrets: Option<SecretsWatch>,
    pub(super) sink: Box<dyn ObjectSink>,
    /// What an earlier run left in the sink.
    pub(super) left: Left,
    pub(super) duties: Vec<Duty>,
    /// Whether this replica leads: for one that has a model, where there are several.
    pub(super) election: Option<Duty>,
}

impl Backend {
    /// Returns when the authority is there and what an earlier run left is known.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        match &config.objects {
            Some(objects) => super::folder::open(config, objects).await,
            None => super::kubernetes::open(config).await,
        }
    }
}

/// How fast one authority follows another.
pub(super) fn pace(config: &Config) -> Pace {
    Pace {
        announce: config.root_announce,
        life: config.workload_cert_ttl,
    }
}
