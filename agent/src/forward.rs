//! Carries an established connection until it ends, is denied by a later policy, or the pod's proxy ends.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use aquifer_hbone::copy::ReadBuffer;
use aquifer_hbone::{Endpoint, copy_bidirectional};
use aquifer_telemetry::tcp::TcpFlag;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connections::Open;
use crate::telemetry::{FLUSH, Failure, Record};

/// Copies between the client (`a`) and the server (`b`).
///
/// Dropped before the end, or denied, it resets both sides: a cut must not look like the end of the data.
pub(crate) async fn copy(a: impl Endpoint, b: impl Endpoint, mut record: Record, open: &Open) {
    let bytes = record.bytes.clone();
    let cut = Arc::new(AtomicBool::new(false));
    let sides = (Cuttable::new(a, &cut), Cuttable::new(b, &cut));
    let mut copying = pin!(copy_bidirectional(sides.0, sides.1, &bytes));
    // Declared after the copy and so dropped before it.
    let mut unfinished = Unfinished { cut: Some(&cut) };
    let mut flush = tokio::time::interval(FLUSH);
    loop {
        tokio::select! {
            biased;
            denial = open.denied() => {
                let reason = denial.map(|d| d.to_string()).unwrap_or_default();
                record.broke(Failure::new(TcpFlag::Deny, &format!("connection closed due to policy change: {reason}"),
                ));
                return;
            }
            done = &mut copying => {
                unfinished.cut = None;
                if let Err(error) = done {
                    record.broke(Failure::new(TcpFlag::None, &with_source(&error)));
                }
                return;
            }
            _ = flush.tick() => record.flush(),
        }
    }
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

struct Unfinished<'a> {
    cut: Option<&'a AtomicBool>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(cut) = self.cut {
            cut.store(true, Ordering::Relaxed);
        }
    }
}

/// A side of a copy that is reset when it is dropped after `cut` was set.
struct Cuttable<E: Endpoint> {
    side: E,
    cut: Arc<AtomicBool>,
}

impl<E: Endpoint> Cuttable<E> {
    fn new(side: E, cut: &Arc<AtomicBool>) -> Self {
        Self {
            side,
            cut: cut.clone(),
        }
    }
}

impl<E: Endpoint> Drop for Cuttable<E> {
    fn drop(&mut self) {
        if self.cut.load(Ordering::Relaxed) {
            self.side.abort();
        }
    }
}

impl<E: Endpoint> Endpoint for Cuttable<E> {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuffer) -> Poll<io::Result<Bytes>> {
        self.side.poll_read_chunk(cx, buffer)
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        self.side.poll_write_chunk(cx, chunk)
    }

    fn poll_absorb(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.side.poll_absorb(cx)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.side.poll_broken(cx)
    }

    fn abort(&mut self) {
        self.side.abort();
    }
}

impl<E: Endpoint> AsyncRead for Cuttable<E> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_read(cx, buf)
    }
}

impl<E: Endpoint> AsyncWrite for Cuttable<E> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.side).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_shutdown(cx)
    }
}
