//! A response's body on its way to the client, watched to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::record::Record;
use super::upload::UploadCounter;
use crate::upstream::connection::Http1Sender;
use crate::upstream::endpoint::{ActiveRequest, EndpointState};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body, its limits in time, and the record that is reported when it ends.
pub(crate) struct ResponseBody {
    content: Content,
    /// Absent where somebody else reports.
    record: Option<Record>,
}

enum Content {
    Local(Option<Bytes>),
    Upstream(Box<Streaming>),
}

/// A body that comes from an endpoint.
pub(crate) struct Streaming {
    pub(crate) incoming: Incoming,
    /// When the route's timeout is over.
    pub(crate) deadline: Option<Pin<Box<Sleep>>>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) idle: Option<Pin<Box<Sleep>>>,
    pub(crate) lease: Option<Lease>,
    /// The request in flight; it ends when this is dropped.
    pub(crate) _active: ActiveRequest,
}

/// A connection that goes back to its endpoint when the body has ended.
pub(crate) struct Lease {
    pub(crate) sender: Http1Sender,
    pub(crate) endpoint: Arc<EndpointState>,
    pub(crate) upload: UploadCounter,
}

impl Lease {
    /// Only a connection whose request was sent in full can carry another.
    fn give_back(self) {
        if self.upload.is_finished() {
            self.endpoint.put_http1(self.sender, Instant::now());
        }
    }
}

impl ResponseBody {
    pub(crate) fn local(body: Bytes, mut record: Record) -> Self {
        // Hyper does not ask for the frames of an answer to HEAD: what there is to send is said here.
        record.complete = true;
        Self {
            content: Content::Local((!body.is_empty()).then_some(body)),
            record: Some(record),
        }
    }

    /// No body; the record is in other hands.
    pub(crate) fn unreported() -> Self {
        Self {
            content: Content::Local(None),
            record: None,
        }
    }

    pub(crate) fn upstream(streaming: Streaming, record: Record) -> Self {
        let mut body = Self {
            content: Content::Upstream(Box::new(streaming)),
            record: Some(record),
        };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Some(record) = &mut self.record {
            record.complete = true;
        }
        if let Content::Upstream(streaming) = &mut self.content
            && let Some(lease) = streaming.lease.take()
        {
            lease.give_back();
        }
    }

    fn fail(&mut self, flags: &'static str, details: &'static str, cause: &str) {
        let Some(record) = &mut self.record else { return };
        record.complete = true;
        record.flags = flags;
        record.details = details;
        record.upstream_failure = cause.to_owned();
    }
}

enum Ended {
    Deadline,
    Idle,
    Broken(hyper::Error),
}

impl Streaming {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.idle = None;
                Poll::Ready(frame.map(|f| f.map_err(Ended::Broken)))
            }
            Poll::Pending => self.poll_limits(cx).map(|ended| Some(Err(ended))),
        }
    }

    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ended::Deadline);
        }
        let Some(limit) = self.idle_timeout else {
            return Poll::Pending;
        };
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        idle.as_mut().poll(cx).map(|()| Ended::Idle)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = match &mut this.content {
            Content::Local(bytes) => bytes.take().map(|b| Ok(Frame::data(b))),
            Content::Upstream(streaming) => ready!(streaming.poll(cx)),
        };
        match polled {
            None => {
                this.finish();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                this.note(&frame);
                if this.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(ended)) => Poll::Ready(Some(Err(this.ended(ended)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Local(bytes) => bytes.is_none(),
            Content::Upstream(streaming) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Content::Upstream(streaming) => streaming.incoming.size_hint(),
        }
    }
}

impl ResponseBody {
    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(record) = &mut self.record else { return };
        record.bytes_sent += frame.data_ref().map_or(0, |d| d.len() as u64);
        if let Some(trailers) = frame.trailers_ref() {
            record.note_grpc(trailers);
        }
    }

    fn ended(&mut self, ended: Ended) -> BoxError {
        match ended {
            Ended::Deadline => {
                self.fail("UT", "response_timeout", "");
                "upstream request timeout".into()
            }
            Ended::Idle => {
                self.fail("SI", "stream_idle_timeout", "");
                "stream timeout".into()
            }
            Ended::Broken(error) => {
                let cause = error.to_string();
                self.fail(
                    "UC",
                    "upstream_reset_after_response_started{connection_termination}",
                    &cause,
                );
                error.into()
            }
        }
    }
}
