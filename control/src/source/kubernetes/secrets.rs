//! The Secrets of the namespaces that have gateways with TLS, each namespace followed on its own.
//!
//! A right that is given for one namespace says nothing of another, and a list of all would need the right to read every
//! Secret of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::follow::Follower;
use crate::kubernetes::kinds::SECRETS;
use crate::sink::kubernetes::Desk;
use crate::source::SecretsWanted;
use crate::store::SourceEvent;

/// Follows what is wanted until nobody wants anything any more. `follow` follows a namespace until it is told to stop,
/// and has taken back what it delivered when it ends.
pub(super) async fn follow_wanted<F: Future<Output = ()> + Send + 'static>(
    mut wanted: watch::Receiver<BTreeSet<Arc<str>>>,
    follow: impl Fn(&Arc<str>, CancellationToken) -> F,
) {
    let mut followed = Followed::default();
    loop {
        let namespaces = wanted.borrow_and_update().clone();
        followed.stop_others(&namespaces);
        for namespace in &namespaces {
            followed.start(namespace, &follow);
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                // The source ends with its other tasks, and these with it.
                return std::future::pending().await;
            },
            Some(ended) = followed.tasks.join_next_with_id() => followed.ended(ended),
        }
    }
}

/// The namespaces that are followed, or were until now.
#[derive(Default)]
struct Followed {
    tasks: JoinSet<()>,
    namespaces: BTreeMap<Arc<str>, Follow>,
}

struct Follow {
    task: Id,
    stop: CancellationToken,
}

impl Followed {
    fn stop_others(&self, wanted: &BTreeSet<Arc<str>>) {
        let others = self.namespaces.iter().filter(|(n, _)| !wanted.contains(*n));
        others.for_each(|(_, follow)| follow.stop.cancel());
    }

    /// A namespace that is wanted again waits until what was delivered of it has been taken back: otherwise the Secrets
    /// that are delivered anew could be taken back with it.
    fn start<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        namespace: &Arc<str>,
        follow: impl Fn(&Arc<str>, CancellationToken) -> F,
    ) {
        if self.namespaces.contains_key(namespace) {
            return;
        }
        let stop = CancellationToken::new();
        let task = self.tasks.spawn(follow(namespace, stop.clone())).id();
        self.namespaces.insert(namespace.clone(), Follow { task, stop });
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.namespaces.retain(|_, follow| follow.task != id);
    }
}

pub(super) struct SecretFollowers {
    pub(super) client: Client,
    pub(super) desk: Arc<Desk>,
    pub(super) events: mpsc::Sender<SourceEvent>,
    pub(super) definitions: watch::Receiver<u64>,
}

impl SecretFollowers {
    pub(super) async fn run(self, secrets: SecretsWanted) {
        let looked = Arc::new(secrets.looked);
        follow_wanted(secrets.namespaces, |namespace, stop| {
            self.follow(namespace, stop, looked.clone())
        })
        .await;
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
                () = follower.run(definitions) => {
                    // Nobody listens any more: there is nobody to take anything back from, or to follow for.
                    return std::future::pending().await;
                }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    /// Delivers one Secret, and takes it back when told to stop; not before it may, as where the queue is full.
    async fn deliver(
        events: mpsc::Sender<&'static str>,
        stop: CancellationToken,
        may_take_back: Arc<Semaphore>,
    ) {
        let _ = events.send("applied").await;
        stop.cancelled().await;
        if let Ok(permit) = may_take_back.acquire().await {
            permit.forget();
        }
        let _ = events.send("deleted").await;
    }

    /// Namespace `a`, or none.
    fn namespaces(wanted: bool) -> BTreeSet<Arc<str>> {
        wanted.then(|| Arc::from("a")).into_iter().collect()
    }

    /// Lets every task go on as far as it can; the test's runtime has one thread.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    struct World {
        want: watch::Sender<BTreeSet<Arc<str>>>,
        queue: mpsc::Receiver<&'static str>,
        may_take_back: Arc<Semaphore>,
        following: JoinHandle<()>,
    }

    impl World {
        fn start() -> Self {
            let (want, wanted) = watch::channel(namespaces(true));
            let (events, queue) = mpsc::channel(4);
            let may_take_back = Arc::new(Semaphore::new(0));
            let gate = may_take_back.clone();
            let follow = follow_wanted(wanted, move |_, stop| deliver(events.clone(), stop, gate.clone()));
            Self {
                want,
                queue,
                may_take_back,
                following: tokio::spawn(follow),
            }
        }

        async fn next(&mut self) -> Option<&'static str> {
            let next = tokio::time::timeout(DEADLINE, self.queue.recv());
            next.await.expect("an event in time")
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            self.following.abort();
        }
    }

    #[tokio::test]
    async fn a_namespace_that_is_wanted_again_keeps_its_secret() {
        let mut world = World::start();
        assert_eq!(world.next().await, Some("applied"));
        world.want.send_replace(namespaces(false));
        settle().await;
        world.want.send_replace(namespaces(true));
        settle().await;
        let early = world.queue.try_recv();
        assert!(early.is_err(), "{early:?} before the old one is taken back");
        world.may_take_back.add_permits(1);
        assert_eq!(world.next().await, Some("deleted"));
        assert_eq!(world.next().await, Some("applied"));
        settle().await;
        assert!(world.queue.try_recv().is_err(), "nothing is taken back");
    }

    #[tokio::test]
    async fn what_is_not_wanted_any_more_is_taken_back_once() {
        let mut world = World::start();
        assert_eq!(world.next().await, Some("applied"));
        world.want.send_replace(namespaces(true));
        world.want.send_replace(namespaces(false));
        world.may_take_back.add_permits(1);
        assert_eq!(world.next().await, Some("deleted"));
        settle().await;
        assert!(world.queue.try_recv().is_err());
    }
}
