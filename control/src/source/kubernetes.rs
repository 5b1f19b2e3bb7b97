//! The objects of an API server, watched.
//!
//! Each kind is listed and watched on its own, so that one that cannot be read (no such definition, no permission) stops
//! none of the others: it is named in the log and in `/debug/objects`, and tried again. What is there at the start has
//! been delivered when every kind has been listed or turned out not to be readable; the kinds that the model cannot do
//! without are waited for however long it takes, policies, Gateways and the mesh's settings too where it is a permission
//! that lacks.

mod follow;
mod parameters;
mod secrets;
mod trim;
mod watched;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::kinds::{self, DEFINITIONS};
use crate::sink::kubernetes::Desk;
use crate::source::{ObjectSource, SecretsWanted, SourceError};
use crate::store::SourceEvent;
use follow::Follower;
use parameters::{Named, Parameters};
use secrets::SecretFollowers;

/// Where objects stand, in reports.
pub const ORIGIN: &str = "kubernetes";
/// A definition that was just made is served a little later.
const AFTER_DEFINITION: Duration = Duration::from_millis(500);

pub struct KubernetesSource {
    client: Client,
    /// The namespace of the control plane itself.
    namespace: Arc<str>,
    desk: Arc<Desk>,
    secrets: SecretsWanted,
}

impl KubernetesSource {
    pub fn new(client: Client, namespace: &str, desk: Arc<Desk>, secrets: SecretsWanted) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            desk,
            secrets,
        }
    }
}

#[async_trait]
impl ObjectSource for KubernetesSource {
    async fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        cancel: CancellationToken,
    ) -> Result<(), SourceError> {
        let (definitions, _) = watch::channel(0_u64);
        let named = Arc::new(watch::Sender::new(Named::new()));
        let mut tasks = JoinSet::new();
        let mut started = Vec::new();
        for watch in kinds::watches() {
            let (first, begun) = watch::channel(false);
            started.push((watch.kind.name(), begun));
            let mut follower = Follower::new(
                watch,
                self.client.clone(),
                self.namespace.clone(),
                self.desk.clone(),
                events.clone(),
                first,
            )
            .noting(&named);
            let definitions = definitions.subscribe();
            tasks.spawn(async move { follower.run(definitions).await });
        }
        let mut parameters = self.parameters(&named, &events, definitions.subscribe());
        let secrets = SecretFollowers {
            client: self.client.clone(),
            desk: self.desk.clone(),
            events: events.clone(),
            definitions: definitions.subscribe(),
        };
        tasks.spawn(secrets.run(self.secrets));
        tasks.spawn(follow::definitions(
            self.client.clone(),
            definitions,
            AFTER_DEFINITION,
        ));
        let first = async {
            for (kind, mut begun) in started {
                let waited = begun.wait_for(|begun| *begun).await.is_ok();
                tracing::debug!(kind, waited, "first look at a kind is over");
            }
            // Without them, what is deployed would be changed twice.
            parameters.catch_up().await;
            self.desk.complete();
            let _ = events.send(SourceEvent::Synced).await;
            parameters.run().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cancel.cancelled() => Ok(()),
            // Ended by a closed channel: nobody listens any more.
            _ = tasks.join_next() => if events.is_closed() { Ok(()) } else { Err(SourceError::Stopped { path: ORIGIN.to_owned() }) },
            () = first => Ok(()),
        }
    }
}

impl KubernetesSource {
    fn parameters(
        &self,
        named: &Arc<watch::Sender<Named>>,
        events: &mpsc::Sender<SourceEvent>,
        definitions: watch::Receiver<u64>,
    ) -> Parameters {
        let (client, desk, to) = (self.client.clone(), self.desk.clone(), events.clone());
        Parameters {
            named: named.subscribe(),
            start: Box::new(move |watch, namespace, first| {
                let (client, namespace) = (client.clone(), namespace.clone());
                Follower::new(watch, client, namespace, desk.clone(), to.clone(), first)
            }),
            desk: self.desk.clone(),
            events: events.clone(),
            definitions,
            settings: (self.namespace.clone(), crate::mesh_config::CONFIG_MAP.into()),
            tasks: JoinSet::new(),
            followed: BTreeMap::new(),
        }
    }
}

/// The API resource of definitions, whose changes make it worth looking for a kind again.
fn definition_resource() -> kube::core::ApiResource {
    DEFINITIONS.resource("v1")
}
