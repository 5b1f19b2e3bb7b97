//! Bodies of requests, within a budget of memory that all connections share.
//!
//! Who sends slowly holds no more of it than what it has sent: anybody in the cluster can reach the port, and must not
//! keep the API server from being answered.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An object and the one before it, of 1.5 MiB at most each, as JSON.
pub(super) const MAX_BODY: usize = 8 << 20;
/// What is held of all bodies together.
const BUDGET: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the body is larger than {} MiB", MAX_BODY >> 20)]
    TooLarge,
    #[error("the body was cut off: {0}")]
    Cut(#[from] hyper::Error),
    #[error("the control plane is stopping")]
    Stopping,
}

/// Clones share the budget.
#[derive(Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET)))
    }
}

/// A body with its share of the budget, which it gives back when it is dropped.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// Waits while the budget is used up.
    pub(super) async fn read(&self, mut body: Incoming) -> Result<Held, BodyError> {
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Err(BodyError::TooLarge);
        }
        let (mut bytes, mut share) = (BytesMut::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY {
                return Err(BodyError::TooLarge);
            }
            let size = u32::try_from(data.len()).map_err(|_| BodyError::TooLarge)?;
            let more = self.0.clone().acquire_many_owned(size).await;
            let more = more.map_err(|_| BodyError::Stopping)?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Held {
            bytes: bytes.freeze(),
            _share: share,
        })
    }
}
