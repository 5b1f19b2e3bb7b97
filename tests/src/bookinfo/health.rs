//! gRPC's health service, for the kubelet's probes: whatever is asked for serves.
//!
//! `grpc.health.v1` in <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, framed as in PROTOCOL-HTTP2.md.

use std::convert::Infallible;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;

use super::Body;

pub(super) const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Not compressed, two bytes long: field 1 (status) is 1 (SERVING).
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 0x01];

pub(super) fn serving() -> Response<Body> {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(Bytes::from_static(SERVING))
        .with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) })
        .boxed_unsync();
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}
