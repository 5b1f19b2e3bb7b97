//! The byte stream to an endpoint: a tunnel, or a socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use aquifer_hbone::TunnelStream;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub(crate) enum UpstreamIo {
    Tunnel(Box<TunnelStream>),
    Plain(TcpStream),
}

impl UpstreamIo {
    /// Our own address; a tunnel shares its connection and has none to show.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tunnel(_) => None,
            Self::Plain(tcp) => tcp.local_addr().ok(),
        }
    }
}

/// Calls a method of whichever stream it is, pinned.
macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            UpstreamIo::Tunnel($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
            UpstreamIo::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
        }
    };
}

impl AsyncRead for UpstreamIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for UpstreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tunnel(stream) => stream.is_write_vectored(),
            Self::Plain(tcp) => tcp.is_write_vectored(),
        }
    }
}

impl aquifer_hbone::Endpoint for UpstreamIo {
    fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut aquifer_hbone::copy::ReadBuffer,
    ) -> Poll<io::Result<Bytes>> {
        match self {
            Self::Tunnel(stream) => stream.poll_read_chunk(cx, buffer),
            Self::Plain(tcp) => tcp.poll_read_chunk(cx, buffer),
        }
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        match self {
            Self::Tunnel(stream) => stream.poll_write_chunk(cx, chunk),
            Self::Plain(tcp) => tcp.poll_write_chunk(cx, chunk),
        }
    }

    fn poll_absorb(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Tunnel(stream) => aquifer_hbone::Endpoint::poll_absorb(stream.as_mut(), cx),
            Self::Plain(tcp) => tcp.poll_absorb(cx),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Tunnel(stream) => aquifer_hbone::Endpoint::poll_broken(stream.as_mut(), cx),
            Self::Plain(tcp) => tcp.poll_broken(cx),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Tunnel(stream) => stream.abort(),
            Self::Plain(tcp) => tcp.abort(),
        }
    }
}
