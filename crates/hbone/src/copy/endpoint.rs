//! What can be one side of a copy: sockets, tunnels, and anything that reads and writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::stream::TunnelStream;

/// One side of a copy. Implemented for [`TcpStream`] and [`TunnelStream`]; wrap anything else in [`Plain`].
pub trait Endpoint: AsyncRead + AsyncWrite + Unpin {
    /// The next bytes; empty at the end of input.
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuffer) -> Poll<io::Result<Bytes>>;

    /// Writes the beginning of `chunk` and cuts it off.
    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(self).poll_write(cx, chunk))?;
        chunk.advance(written);
        Poll::Ready(Ok(written))
    }

    /// Called while nobody can take what this side brings. Ready when this side broke.
    fn poll_absorb(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Called while there is nothing to write to this side. Ready when this side broke.
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Makes the peer see a reset instead of a clean end.
    fn abort(&mut self);
}

impl Endpoint for TunnelStream {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, _buffer: &mut ReadBuffer) -> Poll<io::Result<Bytes>> {
        self.poll_chunk(cx)
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        self.poll_send(cx, chunk)
    }

    fn poll_absorb(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        Self::poll_absorb(self, cx)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        Self::poll_broken(self, cx)
    }

    fn abort(&mut self) {
        self.reset();
    }
}

impl Endpoint for TcpStream {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuffer) -> Poll<io::Result<Bytes>> {
        loop {
            if self.poll_read_ready(cx)?.is_pending() {
                buffer.idle();
                return Poll::Pending;
            }
            match self.try_read_buf(buffer.space()) {
                Ok(_) => return Poll::Ready(Ok(buffer.take())),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn abort(&mut self) {
        // Closing then sends RST; on a socket that is gone already there is nothing to do.
        let _ = self.set_zero_linger();
    }
}

/// Makes any stream a side of a copy; its reset cannot be told from its end.
pub struct Plain<T>(pub T);

impl<T: AsyncRead + AsyncWrite + Unpin> Endpoint for Plain<T> {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuffer) -> Poll<io::Result<Bytes>> {
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.0), cx, buffer.space());
        if read.is_pending() {
            buffer.idle();
        }
        ready!(read)?;
        Poll::Ready(Ok(buffer.take()))
    }

    fn abort(&mut self) {}
}

impl<T: AsyncRead + Unpin> AsyncRead for Plain<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Plain<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The sizes that a read buffer grows through.
const SIZES: [usize; 3] = [16 * 1024, 64 * 1024, 256 * 1024];

/// Space for what is read from a socket: none while idle, more while reads fill it.
///
/// A read that fills little of it is copied out, so that a queue of small chunks does not hold large buffers.
#[derive(Default)]
pub struct ReadBuffer {
    space: BytesMut,
    level: usize,
    /// The last read filled little.
    sparse: bool,
}

impl ReadBuffer {
    fn size(&self) -> usize {
        SIZES[self.level]
    }

    fn space(&mut self) -> &mut BytesMut {
        if self.space.capacity() < self.size() {
            self.space = BytesMut::with_capacity(self.size());
        }
        &mut self.space
    }

    fn take(&mut self) -> Bytes {
        let read = self.space.len();
        self.sparse = read < self.size() / 4;
        if self.sparse {
            let chunk = Bytes::copy_from_slice(&self.space);
            self.space.clear();
            return chunk;
        }
        if read >= self.size() {
            self.level = (self.level + 1).min(SIZES.len() - 1);
        }
        std::mem::take(&mut self.space).freeze()
    }

    /// Nothing to read: gives the memory back, and starts a step smaller if the last step was too large.
    fn idle(&mut self) {
        self.space = BytesMut::new();
        if std::mem::take(&mut self.sparse) {
            self.level = self.level.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut ReadBuffer, bytes: usize) -> Bytes {
        let space = buffer.space();
        let bytes = bytes.min(space.capacity());
        space.extend_from_slice(&vec![7; bytes]);
        buffer.take()
    }

    #[test]
    fn grows_while_reads_fill_it_and_shrinks_when_idle() {
        let mut buffer = ReadBuffer::default();
        let sizes: Vec<_> = (0..5).map(|_| fill(&mut buffer, usize::MAX).len()).collect();
        assert_eq!(sizes, [16384, 65536, 262_144, 262_144, 262_144]);
        fill(&mut buffer, 10);
        buffer.idle();
        assert_eq!(buffer.space.capacity(), 0);
        assert_eq!(fill(&mut buffer, usize::MAX).len(), 65536);
    }

    #[test]
    fn a_small_read_keeps_no_large_buffer_alive() {
        let mut buffer = ReadBuffer::default();
        let chunk = fill(&mut buffer, 10);
        assert_eq!(&chunk[..], [7; 10]);
        assert!(buffer.space.is_empty() && buffer.space.capacity() >= 16384);
    }
}
