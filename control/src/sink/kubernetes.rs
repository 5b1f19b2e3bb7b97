//! Objects and statuses on the API server, by server-side apply.
//!
//! Level-triggered: a [`Desk`] knows what is wanted and what was seen, and a [`Writer`] writes the difference while this
//! replica leads. What another replica wrote alike is not written again; what somebody deleted comes back.

mod compare;
mod desk;
pub(crate) mod event;
mod left;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;

use crate::compile::report::bound_waypoint;
use crate::mesh_config;
use crate::objects::{ObjectKey, is_mesh_kind};
use crate::sink::{Batch, Left, ObjectSink, SinkError};
pub use desk::Desk;
use desk::{Place, Who};
pub use writer::Writer;

/// How long a publication waits for a binding to be written down. With the API server away it goes on without.
const SETTLE: Duration = Duration::from_secs(2);

pub struct KubernetesSink {
    client: Client,
    desk: Arc<Desk>,
}

impl KubernetesSink {
    pub fn new(client: Client, desk: Arc<Desk>) -> Self {
        Self { client, desk }
    }
}

#[async_trait]
impl ObjectSink for KubernetesSink {
    async fn load(&mut self) -> Result<Left, SinkError> {
        left::load(&self.client).await.map_err(SinkError::Api)
    }

    /// Never fails: what cannot be written now is written later.
    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        for (key, value) in &batch.objects {
            self.desk
                .want(Place::Object(key.clone()), value.clone(), Who::Leader);
        }
        let told = |key: &ObjectKey| has_status(key) || is_told_by_events(key);
        for (key, value) in batch.statuses.iter().filter(|(key, _)| told(key)) {
            // Any replica may see that a waypoint serves a service; the others have to learn it, and never forget it.
            let bound = value
                .as_ref()
                .is_some_and(|status| bound_waypoint(status).is_some());
            // And one that has never accepted the mesh's settings does not lead.
            let anyones = bound || is_told_by_events(key);
            let who = if anyones { Who::Anyone } else { Who::Leader };
            self.desk.want(Place::Status(key.clone()), value.clone(), who);
        }
        Ok(())
    }

    async fn settle(&mut self) {
        if tokio::time::timeout(SETTLE, self.desk.settled()).await.is_err() {
            tracing::warn!(
                "a service's waypoint is in effect before the API server knows of it; it is written later"
            );
        }
    }
}

/// Kinds whose status is the mesh's to write: its own, and whether a Service is behind a waypoint.
fn has_status(key: &ObjectKey) -> bool {
    is_mesh_kind(key) || (key.group.is_empty() && &*key.kind == "Service")
}

/// The mesh's settings, of which a status is kept here alone: a ConfigMap has none.
fn is_told_by_events(key: &ObjectKey) -> bool {
    key.group.is_empty() && &*key.kind == "ConfigMap" && &*key.name == mesh_config::CONFIG_MAP
}
