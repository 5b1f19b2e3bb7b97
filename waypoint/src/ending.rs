//! The end of a tunnel whose other side is expected to end as well.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::task::TaskTracker;

/// For the other side to end after ours has.
const PATIENCE: Duration = Duration::from_secs(5);
/// What it may still say meanwhile; nobody listens.
const LAST_WORDS: u64 = 64 * 1024;

/// A stream which, closed for writing and dropped, waits for the other side to close as well.
///
/// hyper drops a stream that it has shut down. Of a socket nothing is seen of that; a tunnel's stream is reset. An agent
/// takes the reset of its connection to an application for a failure. Of a client's connection (`connection: close`) the
/// reset meets what the client sends at that moment, and h2 cuts a connection, all its tunnels with it, when enough
/// frames have arrived for streams that it has reset and forgotten.
pub(crate) struct Ending<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> {
    /// Always there, but in `drop`.
    io: Option<S>,
    shut: bool,
    ended: bool,
    /// Who waits; nobody for a socket, of which the kernel sees to the end.
    tasks: Option<TaskTracker>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Ending<S> {
    pub(crate) fn new(io: S, tasks: Option<&TaskTracker>) -> Self {
        Self {
            io: Some(io),
            shut: false,
            ended: false,
            tasks: tasks.cloned(),
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut S>> {
        self.io
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Drop for Ending<S> {
    fn drop(&mut self) {
        let is_open = self.shut && !self.ended;
        if let (Some(io), Some(tasks)) = (self.io.take(), &self.tasks)
            && is_open
        {
            tasks.spawn(async move {
                let (mut rest, mut nobody) = (io.take(LAST_WORDS), tokio::io::sink());
                let drained = tokio::io::copy(&mut rest, &mut nobody);
                // However it ends: the stream is given up afterwards.
                drop(tokio::time::timeout(PATIENCE, drained).await);
            });
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for Ending<S> {
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

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Ending<S> {
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
        self.io.as_ref().is_some_and(S::is_write_vectored)
    }
}
