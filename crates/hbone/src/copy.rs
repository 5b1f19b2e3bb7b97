//! Copies between two byte streams, the one loop that all forwarding of the mesh uses.
//!
//! Both directions run in one task. An end of input is passed on as an end of input, a reset as a reset. Data from a
//! tunnel goes to the socket as it came, without a copy; data from a socket is read into a buffer that exists only
//! while there is something to read and grows with the traffic, so that an idle connection holds none.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::fault::{Fault, Retry};
use crate::stream::{is_left, is_reset};

mod endpoint;
#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, Plain, ReadBuffer};

/// Bytes copied so far; readable while the connection lives.
#[derive(Debug, Default)]
pub struct ByteCounters {
    a_to_b: AtomicU64,
    b_to_a: AtomicU64,
}

impl ByteCounters {
    pub fn a_to_b(&self) -> u64 {
        self.a_to_b.load(Ordering::Relaxed)
    }

    pub fn b_to_a(&self) -> u64 {
        self.b_to_a.load(Ordering::Relaxed)
    }
}

/// One of the two sides of a copy, by its place in the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

/// Which side failed and how. What was copied until then is in the counters.
#[derive(Debug, thiserror::Error)]
#[error("connection broke while {} side {side:?}", .step.describe())]
pub struct CopyError {
    pub side: Side,
    pub step: Step,
    #[source]
    pub source: io::Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Read,
    Write,
    Shutdown,
}

impl Step {
    fn describe(self) -> &'static str {
        match self {
            Self::Read => "reading from",
            Self::Write => "writing to",
            Self::Shutdown => "ending",
        }
    }
}

impl CopyError {
    /// Whether the side was cut by its peer, as opposed to a failure of ours.
    pub fn is_reset(&self) -> bool {
        is_reset(&self.source)
    }

    /// Side A is who opened the connection, side B where it leads.
    pub fn fault(&self) -> Fault {
        match self.side {
            Side::A => Fault::Client,
            Side::B => Fault::Upstream,
        }
    }

    /// Bytes may have been delivered.
    pub fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// Copies both ways until both sides have ended, and answers how much went from `a` to `b` and from `b` to `a`.
///
/// When either side fails, both are reset: an application sees a reset where there was one, never a clean end. Dropping
/// the future drops both sides without shutting them down.
pub async fn copy_bidirectional<A: Endpoint, B: Endpoint>(
    mut a: A,
    mut b: B,
    counters: &ByteCounters,
) -> Result<(u64, u64), CopyError> {
    let mut forth = Direction::default();
    let mut back = Direction::default();
    let result = poll_fn(|cx| {
        let forth = forth.poll(cx, &mut a, &mut b, &counters.a_to_b);
        let forth = forth.map_err(|failure| failure.named(Side::A, Side::B))?;
        let back = back.poll(cx, &mut b, &mut a, &counters.b_to_a);
        let back = back.map_err(|failure| failure.named(Side::B, Side::A))?;
        match (forth, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await;
    if let Err(error) = result {
        a.abort();
        b.abort();
        return Err(error);
    }
    Ok((counters.a_to_b(), counters.b_to_a()))
}

/// Where in a direction something failed.
enum Failure {
    Source(io::Error),
    Sink(Step, io::Error),
}

impl Failure {
    fn named(self, from: Side, to: Side) -> CopyError {
        let (side, step, source) = match self {
            Self::Source(error) => (from, Step::Read, error),
            Self::Sink(step, error) => (to, step, error),
        };
        CopyError { side, step, source }
    }
}

#[derive(Default)]
enum Phase {
    #[default]
    Copy,
    Flush,
    Shutdown,
    Done,
}

#[derive(Default)]
struct Direction {
    phase: Phase,
    chunk: Bytes,
    buffer: ReadBuffer,
    unflushed: bool,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Endpoint,
        to: &mut impl Endpoint,
        counter: &AtomicU64,
    ) -> Poll<Result<(), Failure>> {
        loop {
            match self.phase {
                Phase::Copy if self.chunk.is_empty() => ready!(self.poll_fill(cx, from, to))?,
                Phase::Copy => ready!(self.poll_drain(cx, from, to, counter))?,
                Phase::Flush => match ready!(Pin::new(&mut *to).poll_flush(cx)) {
                    Ok(()) => self.phase = Phase::Shutdown,
                    Err(error) => self.untaken(Step::Write, error)?,
                },
                Phase::Shutdown => match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                    Ok(()) => self.phase = Phase::Done,
                    Err(error) => self.untaken(Step::Shutdown, error)?,
                },
                Phase::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Gets the next chunk. While there is none, what was written is flushed and a reset of the other side is noticed.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Endpoint,
        to: &mut impl Endpoint,
    ) -> Poll<Result<(), Failure>> {
        match from.poll_read_chunk(cx, &mut self.buffer) {
            Poll::Ready(Ok(chunk)) => {
                if chunk.is_empty() {
                    self.phase = Phase::Flush;
                }
                self.chunk = chunk;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Failure::Source(error))),
            Poll::Pending => {
                if self.unflushed {
                    let flushed = ready!(Pin::new(&mut *to).poll_flush(cx));
                    self.unflushed = false;
                    if let Err(error) = flushed {
                        return Poll::Ready(self.untaken(Step::Write, error));
                    }
                }
                to.poll_broken(cx).map(|error| self.untaken(Step::Write, error))
            }
        }
    }

    /// Writes the chunk. While that is not possible, the source is kept from harming its neighbours.
    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Endpoint,
        to: &mut impl Endpoint,
        counter: &AtomicU64,
    ) -> Poll<Result<(), Failure>> {
        match to.poll_write_chunk(cx, &mut self.chunk) {
            Poll::Ready(Ok(0)) => {
                let error = io::ErrorKind::WriteZero.into();
                Poll::Ready(Err(Failure::Sink(Step::Write, error)))
            }
            Poll::Ready(Ok(written)) => {
                counter.fetch_add(written as u64, Ordering::Relaxed);
                self.unflushed = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(self.untaken(Step::Write, error)),
            Poll::Pending => from.poll_absorb(cx).map(|error| Err(Failure::Source(error))),
        }
    }

    /// The sink takes nothing more, not even the end. One that has left in order ends this direction; what it sent before
    /// goes on.
    fn untaken(&mut self, step: Step, error: io::Error) -> Result<(), Failure> {
        if !is_left(&error) {
            return Err(Failure::Sink(step, error));
        }
        self.chunk = Bytes::new();
        self.phase = Phase::Done;
        Ok(())
    }
}
