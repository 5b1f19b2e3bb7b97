//! The end of a connection that waited for another request and got none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::task::TaskTracker;

use super::UpstreamIo;

/// For the service to close its side after we have closed ours.
const PATIENCE: Duration = Duration::from_secs(5);
/// What it may still say meanwhile; nobody listens.
const LAST_WORDS: u64 = 64 * 1024;

/// A stream to an endpoint which, closed for writing and dropped, waits for the other side to close as well.
///
/// hyper drops a stream that it has shut down. Of a socket nothing is seen of that; a tunnel's stream is reset, and the
/// agent at its other end takes that for a connection that has failed.
pub(super) struct Ending {
    /// Always there, but in `drop`.
    io: Option<UpstreamIo>,
    shut: bool,
    ended: bool,
    tasks: TaskTracker,
}

impl Ending {
    pub(super) fn new(io: UpstreamIo, tasks: &TaskTracker) -> Self {
        Self {
            io: Some(io),
            shut: false,
            ended: false,
            tasks: tasks.clone(),
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut UpstreamIo>> {
        self.io
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let is_open = self.shut && !self.ended;
        if let Some(io) = self.io.take()
            && is_open
            && matches!(io, UpstreamIo::Tunnel(_))
        {
            self.tasks.spawn(async move {
                let (mut rest, mut nobody) = (io.take(LAST_WORDS), tokio::io::sink());
                let drained = tokio::io::copy(&mut rest, &mut nobody);
                // However it ends: the stream is given up afterwards.
                drop(tokio::time::timeout(PATIENCE, drained).await);
            });
        }
    }
}

impl AsyncRead for Ending {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = ready!(self.io()?.poll_read(cx, buf));
        self.ended |= read.is_err() || (room > 0 && buf.filled().len() == before);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Ending {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = ready!(self.io()?.poll_shutdown(cx));
        self.shut |= closed.is_ok();
        Poll::Ready(closed)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}
