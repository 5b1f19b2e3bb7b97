//! The metric handles that the requests of one connection use, found without building their labels again.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_telemetry::http::{RequestProtocol, RequestSeries};
use parking_lot::Mutex;

/// Handles kept per connection; most connections need one or two.
const CAPACITY: usize = 16;

/// What tells one label set of a connection from another. Labels follow from it and from the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeriesKey {
    /// Of the mesh that the labels come from: any change of it makes new labels.
    pub(crate) generation: u64,
    pub(crate) cluster: Arc<str>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) protocol: RequestProtocol,
    pub(crate) code: u16,
    pub(crate) flags: &'static str,
    pub(crate) grpc_status: Option<u8>,
}

#[derive(Default)]
pub(crate) struct SeriesCache {
    // Guards a short list; held for a scan. Requests of one HTTP/1 connection never contend for it.
    entries: Mutex<Vec<(SeriesKey, Arc<RequestSeries>)>>,
}

impl SeriesCache {
    pub(crate) fn get(
        &self,
        key: &SeriesKey,
        find: impl FnOnce() -> Arc<RequestSeries>,
    ) -> Arc<RequestSeries> {
        let mut entries = self.entries.lock();
        if let Some((_, series)) = entries.iter().find(|(k, _)| k == key) {
            return series.clone();
        }
        let series = find();
        if entries.len() >= CAPACITY {
            entries.clear();
        }
        entries.push((key.clone(), series.clone()));
        series
    }
}
