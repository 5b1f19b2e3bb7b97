//! The agent's listeners in a pod.
//!
//! All on loopback: nothing outside can reach them but through the inbound program, and no port of
//! the pod's own addresses is taken.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use aquifer_ebpf_abi::{INBOUND_PORT, OUTBOUND_PORT};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// As the kernel's own default limit; `net.core.somaxconn` of the pod may lower it.
const BACKLOG: i32 = 4096;

/// Listeners in a pod's network namespace, non-blocking.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) outbound: Vec<TcpListener>,
    pub(crate) inbound_v4: Option<TcpListener>,
    pub(crate) inbound_v6: Option<TcpListener>,
}

#[derive(Debug, Error)]
#[error(
    "cannot listen on {address} in the pod; does a container use the port, or is the pod's loopback device down?"
)]
pub(crate) struct ListenError {
    pub(crate) address: SocketAddr,
    pub(crate) source: io::Error,
}

/// Opens them; the caller is in the pod's namespace.
///
/// A family in which the pod has no address may be absent from the namespace altogether.
pub(crate) fn open(addresses: &[IpAddr]) -> Result<Listeners, ListenError> {
    let v4 = Family {
        loopback: Ipv4Addr::LOCALHOST.into(),
        needed: addresses.iter().any(IpAddr::is_ipv4),
    };
    let v6 = Family {
        loopback: Ipv6Addr::LOCALHOST.into(),
        needed: addresses.iter().any(IpAddr::is_ipv6),
    };
    let outbound = [v4.listen(OUTBOUND_PORT)?, v6.listen(OUTBOUND_PORT)?];
    Ok(Listeners {
        outbound: outbound.into_iter().flatten().collect(),
        inbound_v4: v4.listen(INBOUND_PORT)?,
        inbound_v6: v6.listen(INBOUND_PORT)?,
    })
}

struct Family {
    loopback: IpAddr,
    needed: bool,
}

impl Family {
    fn listen(&self, port: u16) -> Result<Option<TcpListener>, ListenError> {
        let address = SocketAddr::new(self.loopback, port);
        match listen(address) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if !self.needed && family_is_absent(&error) => Ok(None),
            Err(source) => Err(ListenError { address, source }),
        }
    }
}

fn family_is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
    )
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a killed agent may linger on the port, and an agent that takes over listens
    // beside the one that drains.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
