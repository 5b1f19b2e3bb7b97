//! Answers that this proxy gives itself.

use aquifer_core::http::action::DirectResponse;
use aquifer_core::http::cors::CorsDecision;
use aquifer_core::http::decision::Decision;
use aquifer_core::http::fault::Abort;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Response, StatusCode};

use super::failure::Failure;
use super::record::Record;
use super::response::ResponseBody;

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The answer to a request that failed: a code, and a short text that says why.
pub(crate) fn failure(failure: &Failure, mut record: Record, retried: bool) -> Response<ResponseBody> {
    record.code = failure.status();
    record.flags = failure.flags(retried);
    record.details = failure.details();
    if let Failure::Connect(_) | Failure::Reset { .. } | Failure::Protocol(_) = failure {
        record.upstream_failure = failure.to_string();
    }
    if let Failure::BadRequest(reason) | Failure::NotImplemented(reason) = failure {
        record.upstream_failure = (*reason).to_owned();
    }
    if let Failure::Fault(Abort::Grpc(code)) = failure {
        record.grpc_status = u8::try_from(*code).ok();
        return grpc_status(*code, record);
    }
    let code = failure.status();
    text(code, failure.body().into(), record)
}

fn text(code: u16, body: Bytes, record: Record) -> Response<ResponseBody> {
    let plain = (!body.is_empty()).then(|| HeaderValue::from_static("text/plain"));
    let mut response = Response::new(ResponseBody::local(body, record));
    *response.status_mut() = status(code);
    if let Some(plain) = plain {
        response.headers_mut().insert(CONTENT_TYPE, plain);
    }
    response
}

fn grpc_status(code: u32, record: Record) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::local(Bytes::new(), record));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code));
    headers.insert("grpc-message", HeaderValue::from_static("fault filter abort"));
    response
}

pub(crate) fn redirect(
    code: u16,
    location: &str,
    decision: &Decision<'_>,
    mut record: Record,
) -> Response<ResponseBody> {
    record.code = code;
    record.details = "direct_response";
    let mut response = Response::new(ResponseBody::local(Bytes::new(), record));
    *response.status_mut() = status(code);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    mutate(decision, response.headers_mut());
    response
}

pub(crate) fn direct(
    direct: &DirectResponse,
    decision: &Decision<'_>,
    mut record: Record,
) -> Response<ResponseBody> {
    record.code = direct.status;
    record.details = "direct_response";
    let body = Bytes::copy_from_slice(&direct.body);
    let mut response = text(direct.status, body, record);
    mutate(decision, response.headers_mut());
    response
}

pub(crate) fn preflight(headers: HeaderMap, mut record: Record) -> Response<ResponseBody> {
    record.code = 200;
    record.details = "cors_response";
    let mut response = Response::new(ResponseBody::local(Bytes::new(), record));
    *response.headers_mut() = headers;
    response
}

/// The route's changes of response headers, most specific level first.
pub(crate) fn mutate(decision: &Decision<'_>, headers: &mut HeaderMap) {
    for mutations in decision.response_mutations() {
        mutations.apply(headers);
    }
}

/// What a cross-origin grant adds.
pub(crate) fn grant(cors: &CorsDecision, headers: &mut HeaderMap) {
    if let CorsDecision::Grant(grant) = cors {
        headers.extend(grant.clone());
    }
}
