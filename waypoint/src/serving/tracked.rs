//! Runs a connection's requests as tasks that end with it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinSet;

/// An executor for hyper whose tasks are aborted when its last clone is dropped.
#[derive(Clone, Default)]
pub(super) struct TrackedExecutor {
    // Guards the set of tasks; held to start one, never across an await.
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut tasks = self.tasks.lock();
        // Forget those that have ended, so that the set holds what runs and no more.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            future.await;
        });
    }
}
