//! One small page of another replica.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PeerReport;

const TIMEOUT: Duration = Duration::from_secs(2);
const MOST: usize = 16 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("no answer in time")]
    Late,
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("broken HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}")]
    Status(http::StatusCode),
    #[error("the answer is cut off or too long: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is not understood; is it another version? {0}")]
    Json(#[from] serde_json::Error),
}

pub(super) async fn get(address: SocketAddr, path: &str) -> Result<PeerReport, AskError> {
    timeout(TIMEOUT, ask(address, path))
        .await
        .map_err(|_| AskError::Late)?
}

async fn ask(address: SocketAddr, path: &str) -> Result<PeerReport, AskError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let request = http::Request::get(path)
            .header("host", address.to_string())
            .body(Empty::<Bytes>::new())
            .unwrap_or_default();
        let answer = sender.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(AskError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        Ok(serde_json::from_slice(&body.map_err(AskError::Body)?.to_bytes())?)
    };
    tokio::select! {
        answer = exchange => answer,
        // It ends with the exchange, and alone only where the other side breaks off.
        ended = connection => Err(match ended {
            Err(error) => AskError::Http(error),
            Ok(()) => AskError::Body("the connection was closed".into()),
        }),
    }
}
