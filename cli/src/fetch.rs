//! One HTTP GET with a deadline: all that the command line needs of HTTP.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const DEADLINE: Duration = Duration::from_secs(30);
/// The largest page that is read, in bytes: a dump of a large mesh.
pub(crate) const DUMP: usize = 512 << 20;
/// The largest that says something of one thing.
pub(crate) const NOTE: usize = 64 << 10;

/// The text of the page at `http://HOST:PORT/PATH`, which may be so many bytes long.
pub(crate) fn get(url: &str, longest: usize) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match tokio::time::timeout(DEADLINE, get_page(url, longest)).await {
            Ok(page) => page.with_context(|| format!("cannot read {url}")),
            Err(_) => bail!("no answer from {url} within {} s", DEADLINE.as_secs()),
        }
    })
}

async fn get_page(url: &str, longest: usize) -> anyhow::Result<String> {
    let uri: Uri = url.parse().context("not a URL")?;
    let authority = uri.authority().context("the URL names no host")?.clone();
    let stream = TcpStream::connect(authority.as_str())
        .await
        .context("cannot connect; does the process run?")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), longest).collect().await;
        let body = body.map_err(|e| anyhow::anyhow!("the page was cut off: {e}"))?;
        Ok::<_, anyhow::Error>((status, body.to_bytes()))
    };
    let (status, body) = tokio::select! {
        exchange = exchange => exchange?,
        Err(e) = connection => return Err(e.into()),
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    if !status.is_success() {
        bail!("{status}: {}", text.trim());
    }
    Ok(text)
}
