//! Sends one CONNECT on a pooled connection and judges the answer.

use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};

use super::{ConnectError, Phase, PoolConfig, PoolKey, Slot, TunnelRequest};
use crate::proxy_status;
use crate::stream::TunnelStream;

pub(super) async fn send(
    mut slot: Slot,
    key: &PoolKey,
    request: &TunnelRequest,
    config: &PoolConfig,
) -> Result<(TunnelStream, HeaderMap), ConnectError> {
    let request = connect_request(request).map_err(|e| ConnectError::Invalid {
        peer: key.peer,
        cause: e.to_string(),
    })?;
    let after = config.response_timeout;
    match tokio::time::timeout(after, exchange(&mut slot, request)).await {
        Ok(Ok((response, send))) => finish(key, slot, response, send),
        Ok(Err(error)) => Err(judge(key, &mut slot, &error)),
        Err(_) => Err(ConnectError::timeout(key, Phase::Response, after)),
    }
}

type Answered = (Response<RecvStream>, h2::SendStream<bytes::Bytes>);

async fn exchange(slot: &mut Slot, request: Request<()>) -> Result<Answered, h2::Error> {
    let mut requests = slot.requests().ready().await?;
    let (response, send): (ResponseFuture, _) = requests.send_request(request, false)?;
    Ok((response.await?, send))
}

fn connect_request(request: &TunnelRequest) -> Result<Request<()>, http::Error> {
    let uri = Uri::builder().authority(request.authority.to_string()).build()?;
    let mut connect = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri(uri)
        .body(())?;
    *connect.headers_mut() = request.headers.clone();
    Ok(connect)
}

fn finish(
    key: &PoolKey,
    slot: Slot,
    response: Response<RecvStream>,
    send: h2::SendStream<bytes::Bytes>,
) -> Result<(TunnelStream, HeaderMap), ConnectError> {
    let (parts, recv) = response.into_parts();
    if parts.status != StatusCode::OK {
        let reason = parts
            .headers
            .get(proxy_status::HEADER)
            .and_then(proxy_status::decode);
        return Err(ConnectError::Refused {
            peer: key.peer,
            status: parts.status,
            reason: reason.unwrap_or_else(|| "no reason given".to_owned()),
        });
    }
    Ok((TunnelStream::new(send, recv, Some(slot)), parts.headers))
}

/// A reset concerns one stream; anything else means that the connection takes no more requests.
fn judge(key: &PoolKey, slot: &mut Slot, error: &h2::Error) -> ConnectError {
    if let (true, Some(cause)) = (error.is_reset(), error.reason()) {
        return ConnectError::Reset {
            peer: key.peer,
            cause,
        };
    }
    slot.discard_connection();
    ConnectError::lost(key, error)
}
