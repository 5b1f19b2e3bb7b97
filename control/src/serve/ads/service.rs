//! The gRPC service around a stream: what the generated one does, but with bodies that encode themselves.
//!
//! The generated service puts each response together as a whole, per proxy; see [`crate::serve::message`].

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aquifer_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tonic::body::Body;
use tonic::codec::{Codec, Streaming};
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::{AdsService, AdsStream};
use crate::serve::message::Message;
use crate::serve::stream::Outgoing;
use crate::serve::turns::Turn;

/// A request that reconnects with 300,000 resources still fits.
const MAX_REQUEST: usize = 32 * 1024 * 1024;
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

#[derive(Clone)]
pub(in crate::serve) struct AdsServer(pub(super) AdsService);

impl NamedService for AdsServer {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for AdsServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let answer = match decoded(request) {
                Ok(request) => service.begin(request).await.map(response),
                Err(status) => Err(status),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

fn decoded(request: http::Request<Body>) -> Result<Request<Streaming<DeltaDiscoveryRequest>>, Status> {
    if request.uri().path() != DELTA {
        return Err(Status::unimplemented("only DeltaAggregatedResources is served"));
    }
    let compressed = request.headers().get("grpc-encoding");
    if compressed.is_some_and(|encoding| encoding != "identity") {
        return Err(Status::unimplemented("compressed requests are not served"));
    }
    let (head, body) = request.into_parts();
    let mut codec = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
    let messages = Streaming::new_request(codec.decoder(), body, None, Some(MAX_REQUEST));
    let metadata = MetadataMap::from_headers(head.headers);
    Ok(Request::from_parts(metadata, head.extensions, messages))
}

fn response(stream: AdsStream) -> http::Response<Body> {
    let sending = Sending {
        stream,
        under_way: None,
        ended: false,
    };
    let frames = stream::unfold(sending, |mut sending| async {
        let frame = sending.frame().await?;
        Some((Ok::<_, Infallible>(frame), sending))
    });
    let mut response = http::Response::new(Body::new(StreamBody::new(frames)));
    let content = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, content);
    response
}

/// A stream and the message of it that the connection has not taken whole.
struct Sending {
    stream: AdsStream,
    under_way: Option<(Message, Option<Turn>)>,
    ended: bool,
}

impl Sending {
    /// The next piece of a message, or the trailers; nothing after them.
    async fn frame(&mut self) -> Option<Frame<Bytes>> {
        while !self.ended {
            if let Some((message, _)) = &mut self.under_way {
                if let Some(piece) = message.piece() {
                    return Some(Frame::data(piece));
                }
                self.under_way = None;
            }
            match self.begin_message().await {
                Ok(true) => {}
                Ok(false) => return Some(self.end(&Status::ok(""))),
                Err(status) => return Some(self.end(&status)),
            }
        }
        None
    }

    /// False at the stream's orderly end.
    async fn begin_message(&mut self) -> Result<bool, Status> {
        let Some(Outgoing { response, added, .. }) = self.stream.next().await? else {
            return Ok(false);
        };
        let turn = match added.is_large() {
            true => self.stream.turn().await,
            false => None,
        };
        let message = Message::new(&response, added).map_err(|e| Status::out_of_range(e.to_string()))?;
        self.under_way = Some((message, turn));
        Ok(true)
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            // A message that cannot be a header; the code alone can.
            trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
        }
        Frame::trailers(trailers)
    }
}
