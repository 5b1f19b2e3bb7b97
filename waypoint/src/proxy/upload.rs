//! A request's body on its way to an endpoint, kept in part so that a failed attempt can be made again.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What is kept of a body for another attempt. A longer one is sent once.
const MAX_KEPT: usize = 64 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Whether a body may be needed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Yes,
    No,
}

/// The body of one request, whose attempts read it in turn.
pub(crate) struct Upload {
    shared: Option<Arc<Shared>>,
    size: SizeHint,
}

struct Shared {
    // Guards the body and what was kept; held while one frame is read, never across an await.
    state: Mutex<State>,
    /// Told once the client has sent everything.
    finished: Notify,
}

struct State {
    incoming: Incoming,
    kept: Option<Kept>,
    ended: bool,
    bytes: u64,
    /// Only the newest attempt may read.
    attempt: u32,
    touched: bool,
    /// The client's own body was malformed, or did not come to its end.
    broken: bool,
}

/// Everything read so far.
#[derive(Default)]
struct Kept {
    frames: VecDeque<Piece>,
    bytes: usize,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Upload {
    pub(crate) fn new(incoming: Incoming, keep: Keep) -> Self {
        let size = incoming.size_hint();
        if incoming.is_end_stream() {
            return Self { shared: None, size };
        }
        let state = State {
            incoming,
            kept: (keep == Keep::Yes).then(Kept::default),
            ended: false,
            bytes: 0,
            attempt: 0,
            touched: false,
            broken: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            finished: Notify::new(),
        });
        Self {
            shared: Some(shared),
            size,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shared.is_none()
    }

    /// Whether another attempt would send the same body.
    pub(crate) fn can_repeat(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            let state = shared.state.lock();
            !state.touched || state.kept.is_some()
        })
    }

    /// Whether the client is to blame for a body that could not be sent.
    pub(crate) fn is_broken(&self) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|shared| shared.state.lock().broken)
    }

    /// The body for the next attempt; earlier attempts can no longer read it.
    pub(crate) fn attempt(&self) -> RequestBody {
        let Some(shared) = &self.shared else {
            return RequestBody { reading: None };
        };
        let mut state = shared.state.lock();
        state.attempt += 1;
        RequestBody {
            reading: Some(Reading {
                shared: shared.clone(),
                attempt: state.attempt,
                next: 0,
                size: self.size,
            }),
        }
    }

    /// Bytes received from the client so far.
    pub(crate) fn counter(&self) -> UploadCounter {
        UploadCounter(self.shared.clone())
    }

    /// Resolves once the client has sent everything.
    pub(crate) async fn finished(&self) {
        let Some(shared) = &self.shared else { return };
        let notified = shared.finished.notified();
        if !shared.state.lock().ended {
            notified.await;
        }
    }
}

/// Reads how much a client has sent.
pub(crate) struct UploadCounter(Option<Arc<Shared>>);

impl UploadCounter {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.state.lock().bytes)
    }

    /// Whether nothing of the body is still to come.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| shared.state.lock().ended)
    }
}

/// The body of one attempt.
pub(crate) struct RequestBody {
    reading: Option<Reading>,
}

struct Reading {
    shared: Arc<Shared>,
    attempt: u32,
    /// Position among the kept pieces.
    next: usize,
    size: SizeHint,
}

impl Reading {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.shared.state.lock();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err("this attempt was given up".into())));
        }
        state.touched = true;
        if let Some(piece) = state.kept.as_ref().and_then(|k| k.frames.get(self.next)) {
            self.next += 1;
            return Poll::Ready(Some(Ok(piece.clone().into_frame())));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(Pin::new(&mut state.incoming).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                self.next += 1;
                state.note(frame);
            }
            Some(Err(_)) => state.broken = true,
            None => {}
        }
        if polled.is_none() || state.incoming.is_end_stream() {
            state.ended = true;
            self.shared.finished.notify_one();
        }
        Poll::Ready(polled.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end(&self) -> bool {
        let state = self.shared.state.lock();
        let kept = state.kept.as_ref().map_or(0, |k| k.frames.len());
        state.ended && (state.kept.is_none() || self.next >= kept)
    }
}

impl State {
    /// Counts a frame, and keeps it as long as there is room.
    fn note(&mut self, frame: &Frame<Bytes>) {
        let length = frame.data_ref().map_or(0, Bytes::len);
        self.bytes += length as u64;
        let Some(kept) = &mut self.kept else { return };
        let piece = frame.data_ref().map(|data| Piece::Data(data.clone()));
        let piece = piece.or_else(|| frame.trailers_ref().map(|t| Piece::Trailers(t.clone())));
        kept.bytes += length;
        kept.frames.extend(piece);
        if kept.bytes > MAX_KEPT {
            self.kept = None;
        }
    }
}

impl Piece {
    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.reading {
            None => Poll::Ready(None),
            Some(reading) => reading.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reading.as_ref().is_none_or(Reading::is_end)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reading {
            None => SizeHint::with_exact(0),
            Some(reading) if reading.next == 0 => reading.size,
            Some(_) => SizeHint::default(),
        }
    }
}
