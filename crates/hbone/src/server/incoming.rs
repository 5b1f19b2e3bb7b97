//! One CONNECT request: checked, then accepted or rejected by the handler.

use std::net::SocketAddr;

use aquifer_core::authority::Authority;
use aquifer_core::identity::SpiffeId;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::Peer;
use crate::proxy_status;
use crate::stream::TunnelStream;

/// A tunnel that a peer wants opened. Dropped without an answer, its stream is reset.
pub struct IncomingTunnel {
    /// Who asks, proved by its certificate.
    pub peer_identity: SpiffeId,
    /// Where the connection comes from.
    pub peer_addr: SocketAddr,
    /// Where the connection arrived.
    pub local_addr: SocketAddr,
    /// Where the tunnel should lead.
    pub authority: Authority,
    pub headers: HeaderMap,
    respond: SendResponse<Bytes>,
    recv: RecvStream,
}

/// The peer was gone before it could be answered.
#[derive(Debug, thiserror::Error)]
#[error("the peer gave the tunnel up before it was accepted: {0}")]
pub struct AcceptError(String);

impl IncomingTunnel {
    /// Opens the tunnel: answers 200 with `headers`.
    pub fn accept(mut self, headers: HeaderMap) -> Result<TunnelStream, AcceptError> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = self
            .respond
            .send_response(response, false)
            .map_err(|e| AcceptError(e.to_string()))?;
        Ok(TunnelStream::new(send, self.recv, None))
    }

    /// Refuses the tunnel; `reason` goes to the peer in the `proxy-status` header.
    pub fn reject(self, status: StatusCode, reason: &str) {
        refuse(self.respond, status, reason);
    }
}

impl std::fmt::Debug for IncomingTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingTunnel")
            .field("peer_identity", &self.peer_identity)
            .field("peer_addr", &self.peer_addr)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// Lets a well-formed CONNECT through and answers everything else.
pub(super) fn admit(
    peer: &Peer,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Option<IncomingTunnel> {
    match destination(&request) {
        Ok(authority) => {
            let (parts, recv) = request.into_parts();
            Some(IncomingTunnel {
                peer_identity: peer.identity.clone(),
                peer_addr: peer.address,
                local_addr: peer.local,
                authority,
                headers: parts.headers,
                respond,
                recv,
            })
        }
        Err(reason) => {
            tracing::debug!(peer = %peer.identity, %reason, "malformed tunnel request");
            refuse(respond, StatusCode::BAD_REQUEST, &reason);
            None
        }
    }
}

fn destination(request: &Request<RecvStream>) -> Result<Authority, String> {
    if request.method() != Method::CONNECT {
        return Err(format!("only CONNECT is served here, not {}", request.method()));
    }
    if request.extensions().get::<h2::ext::Protocol>().is_some() {
        return Err("extended CONNECT is not served here".to_owned());
    }
    let authority = request
        .uri()
        .authority()
        .map_or("", |authority| authority.as_str());
    Authority::parse(authority).map_err(|e| e.to_string())
}

fn refuse(mut respond: SendResponse<Bytes>, status: StatusCode, reason: &str) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(proxy_status::HEADER, proxy_status::encode(reason));
    // It fails when the peer has gone meanwhile, who then needs no answer.
    let _ = respond.send_response(response, true);
}
