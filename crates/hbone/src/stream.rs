//! One tunnelled connection: a byte stream in both directions over an HTTP/2 stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::pool::Slot;

mod inbox;

use inbox::Inbox;

/// What one write copies at most; the rest stays with the caller.
const MAX_WRITE: usize = 256 * 1024;

/// A byte stream to the workload at the other end of a tunnel.
///
/// Reading credits the peer's window as bytes are taken, writing waits for the peer's window. The end of input is clean
/// only if the peer ended its side; a reset or a lost connection is an error ([`is_reset`]). `shutdown` closes the
/// writing half alone. Dropped before both halves have ended, it resets the stream.
pub struct TunnelStream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Taken from the connection, not yet by the reader.
    inbox: Inbox,
    /// How the peer's side ended.
    end: Option<End>,
    write_open: bool,
    /// The place among the streams of a pooled connection; given back last.
    _slot: Option<Slot>,
}

enum End {
    Clean,
    /// The error was reported once; from then on a copy of it.
    Broken(io::ErrorKind, String),
}

/// Whether an error of a [`TunnelStream`] or a socket means that the peer has cut the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}

/// What writing says to a peer that has ended its side and takes nothing more: it has left, nothing was cut.
///
/// A server does so when it drops a stream that it has answered in full (RFC 9113 section 8.1: END_STREAM, then
/// RST_STREAM with NO_ERROR). On a socket that is a FIN, and a reset only for those who go on sending.
#[derive(Debug, thiserror::Error)]
#[error("the peer has ended the stream and takes nothing more")]
struct PeerLeft;

/// Whether an error of writing means that the peer has left in order.
pub(crate) fn is_left(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<PeerLeft>())
}

impl TunnelStream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, slot: Option<Slot>) -> Self {
        Self {
            send,
            recv,
            inbox: Inbox::default(),
            end: None,
            write_open: true,
            _slot: slot,
        }
    }

    /// Resets the stream, as a proxy does when its TCP side was reset (RFC 9113 section 8.5).
    pub fn reset(&mut self) {
        self.write_open = false;
        self.send.send_reset(Reason::CONNECT_ERROR);
    }

    /// The next bytes without copying them; empty at the clean end.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let progress = ready!(coop::poll_proceed(cx));
        let chunk = match self.inbox.pop() {
            Some(chunk) => chunk,
            None => match ready!(self.poll_frame(cx)) {
                Some(chunk) => chunk,
                None => return Poll::Ready(self.at_end()),
            },
        };
        progress.made_progress();
        self.release(chunk.len());
        Poll::Ready(Ok(chunk))
    }

    /// Takes in what has arrived although the reader is not ready for it, so that many small frames cost a neighbour
    /// nothing. Bounded by the stream's window, which is not credited. Ready when the stream broke.
    pub(crate) fn poll_absorb(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while let Poll::Ready(Some(chunk)) = self.poll_frame(cx) {
            self.inbox.push(chunk);
        }
        match &self.end {
            Some(End::Broken(..)) => self.at_end().map_or_else(Poll::Ready, |_| Poll::Pending),
            _ => Poll::Pending,
        }
    }

    /// Ready when the peer has reset the stream, although there is nothing to write now.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.write_open {
            return Poll::Pending;
        }
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(refused(reason)),
            Err(error) => Poll::Ready(error.into_reset()),
        }
    }

    /// Sends as much of `chunk` as the peer's window allows and cuts it off, without copying.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        if chunk.is_empty() {
            // An empty frame that does not end the stream counts against its sender in h2.
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, chunk.len()))?;
        let piece = chunk.split_to(room.min(chunk.len()));
        let sent = piece.len();
        self.send_data(cx, piece, false)?;
        Poll::Ready(Ok(sent))
    }

    /// Ends the writing half.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_open {
            self.write_open = false;
            self.send_data(cx, Bytes::new(), true)?;
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame from the connection; none at the end, which is then noted.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while self.end.is_none() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => return Poll::Ready(Some(chunk)),
                // The end came before it, or h2 has forgotten that it did.
                Some(Err(error)) if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) => {
                    self.end = Some(End::Clean);
                }
                Some(Err(error)) => {
                    let error = error.into_reset();
                    self.end = Some(End::Broken(error.kind(), error.to_string()));
                }
                None => self.end = Some(End::Clean),
            }
        }
        Poll::Ready(None)
    }

    fn at_end(&self) -> io::Result<Bytes> {
        match &self.end {
            Some(End::Broken(kind, text)) => Err(io::Error::new(*kind, text.clone())),
            Some(End::Clean) | None => Ok(Bytes::new()),
        }
    }

    fn release(&mut self, bytes: usize) {
        // It fails only for more than was received, or on a stream that is gone, where no credit is needed.
        let _ = self.recv.flow_control().release_capacity(bytes);
    }

    /// How much of `wanted` may be sent now. A writer that never has to wait yields now and then all the same: it would
    /// leave no time for the task that writes to the socket.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if !self.write_open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let progress = ready!(coop::poll_proceed(cx));
        let room = ready!(self.poll_window(cx, wanted));
        progress.made_progress();
        Poll::Ready(room)
    }

    fn poll_window(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        loop {
            // h2 reports only growth: what was assigned at once, or earlier, must be asked for.
            self.send.reserve_capacity(wanted);
            match self.send.capacity() {
                0 => {}
                room => return Poll::Ready(Ok(room)),
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(room)) => return Poll::Ready(Ok(room)),
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(Err(refused(Reason::NO_ERROR)));
                }
                Some(Err(error)) => return Poll::Ready(Err(error.into_reset())),
                None => return Poll::Ready(Err(self.send_error(cx))),
            }
        }
    }

    fn send_data(&mut self, cx: &mut Context<'_>, data: Bytes, end: bool) -> io::Result<()> {
        match self.send.send_data(data, end) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.send_error(cx)),
        }
    }

    /// Why nothing can be sent any more.
    fn send_error(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => refused(reason),
            Poll::Ready(Err(error)) => error.into_reset(),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// What writing to a stream says that its peer has reset.
fn refused(reason: Reason) -> io::Error {
    if reason == Reason::NO_ERROR {
        return io::Error::new(io::ErrorKind::BrokenPipe, PeerLeft);
    }
    h2::Error::from(reason).into_reset()
}

/// What became of a stream, in the terms of a socket.
trait IntoReset {
    fn into_reset(self) -> io::Error;
}

impl IntoReset for h2::Error {
    fn into_reset(self) -> io::Error {
        match self.get_io().map(io::Error::kind) {
            // TLS tells a cut connection by this kind; it is a cut for the stream too.
            Some(io::ErrorKind::UnexpectedEof) | None => io::Error::new(io::ErrorKind::ConnectionReset, self),
            Some(kind) => io::Error::new(kind, self),
        }
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.inbox.is_empty() {
            match ready!(self.poll_frame(cx)) {
                Some(chunk) => self.inbox.push(chunk),
                None => return Poll::Ready(self.at_end().map(drop)),
            }
        }
        let taken = self.inbox.read(buf);
        self.release(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, buf.len().min(MAX_WRITE)))?;
        let taken = &buf[..room.min(buf.len()).min(MAX_WRITE)];
        self.send_data(cx, Bytes::copy_from_slice(taken), false)?;
        Poll::Ready(Ok(taken.len()))
    }

    /// Nothing to do: the connection's task writes what it was given.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)
    }
}
