//! The cluster's DNS: A and AAAA records of Services and their pods, NXDOMAIN for all else.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

pub(crate) mod message;

const PORT: u16 = 53;
const MAX_TCP_CLIENTS: usize = 64;
/// A TCP client that asks nothing for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// After an error that repeats at once (no descriptors left), a breath.
const PAUSE: Duration = Duration::from_millis(50);

/// Lower-case names without the final dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Zone {
    pub(crate) records: BTreeMap<String, Record>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) addresses: Vec<IpAddr>,
    /// Services of type ExternalName.
    pub(crate) alias: Option<String>,
}

/// Listeners on one address.
///
/// Not the wildcard: an answer must leave from the address that rules translated the question to.
pub(super) struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    pub(super) async fn bind(address: IpAddr) -> io::Result<Self> {
        let address = SocketAddr::new(address, PORT);
        Ok(Self {
            udp: UdpSocket::bind(address).await?,
            tcp: TcpListener::bind(address).await?,
        })
    }

    pub(super) async fn run(self, zone: watch::Receiver<Zone>) {
        tokio::join!(serve_udp(self.udp, zone.clone()), serve_tcp(self.tcp, zone));
    }
}

async fn serve_udp(socket: UdpSocket, zone: watch::Receiver<Zone>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let answer = message::answer(&buffer[..length], &zone.borrow(), message::Transport::Udp);
        if let Some(answer) = answer {
            // A client that is gone needs no answer.
            drop(socket.send_to(&answer, client).await);
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: watch::Receiver<Zone>) {
    let slots = Arc::new(Semaphore::new(MAX_TCP_CLIENTS));
    let mut clients = tokio::task::JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let zone = zone.clone();
                clients.spawn(async move {
                    // Errors end this client alone.
                    drop(tcp_client(stream, zone).await);
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn tcp_client(mut stream: TcpStream, zone: watch::Receiver<Zone>) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut question = vec![0; length.into()];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut question)).await??;
        let answer = message::answer(&question, &zone.borrow(), message::Transport::Tcp);
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(&answer).await?;
    }
}
