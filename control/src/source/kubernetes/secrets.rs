//! The Secrets of the namespaces that have gateways with TLS, each namespace followed on its own.
//!
//! A right that is given for one namespace says nothing of another, and a list of all would need the right to read every
//! Secret of the cluster.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::follow::Follower;
use crate::kubernetes::kinds::SECRETS;
use crate::sink::kubernetes::Desk;
use crate::source::SecretsWanted;
use crate::store::SourceEvent;

pub(super) struct SecretFollowers {
    pub(super) client: Client,
    pub(super) desk: Arc<Desk>,
    pub(super) events: mpsc::Sender<SourceEvent>,
    pub(super) definitions: watch::Receiver<u64>,
}

impl SecretFollowers {
    /// Follows what is wanted until nobody wants anything any more.
    pub(super) async fn run(self, mut secrets: SecretsWanted) {
        let looked = Arc::new(secrets.looked);
        let mut followed: BTreeMap<Arc<str>, CancellationToken> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let wanted = secrets.namespaces.borrow_and_update().clone();
            followed.retain(|namespace, stop| keep(namespace, stop, &wanted));
            for namespace in wanted {
                if let Entry::Vacant(place) = followed.entry(namespace) {
                    let stop = CancellationToken::new();
                    tasks.spawn(self.follow(place.key(), stop.clone(), looked.clone()));
                    place.insert(stop);
                }
            }
            while tasks.try_join_next().is_some() {}
            if secrets.namespaces.changed().await.is_err() {
                // The source ends with its other tasks, and these with it.
                return std::future::pending().await;
            }
        }
    }

    fn follow(
        &self,
        namespace: &Arc<str>,
        stop: CancellationToken,
        looked: Arc<watch::Sender<BTreeSet<Arc<str>>>>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (first, mut begun) = watch::channel(false);
        let (client, desk, events) = (self.client.clone(), self.desk.clone(), self.events.clone());
        let mut follower = Follower::new(SECRETS, client, namespace.clone(), desk, events, first);
        let (namespace, definitions) = (namespace.clone(), self.definitions.clone());
        async move {
            let seen = async {
                if begun.wait_for(|begun| *begun).await.is_ok() {
                    looked.send_modify(|all| {
                        all.insert(namespace.clone());
                    });
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = follower.run(definitions) => return,
                () = seen => {}
                () = stop.cancelled() => {}
            }
            looked.send_modify(|all| {
                all.remove(&namespace);
            });
            follower.forget().await;
        }
    }
}

fn keep(namespace: &Arc<str>, stop: &CancellationToken, wanted: &BTreeSet<Arc<str>>) -> bool {
    let keep = wanted.contains(namespace);
    if !keep {
        stop.cancel();
    }
    keep
}
