//! The few socket options no crate in use offers.

use std::{
    ffi::c_int,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::net::TcpSocket;

use crate::capture::NetnsCookie;

/// include/uapi/asm-generic/socket.h. Kernel: 5.14.
const SO_NETNS_COOKIE: c_int = 71;

/// The cookie of the network namespace `socket` was made in.
pub(crate) fn netns_cookie(socket: &impl AsRawFd) -> io::Result<NetnsCookie> {
    let mut cookie = MaybeUninit::<u64>::uninit();
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            cookie.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    // SAFETY: success means that all eight bytes were written.
    Ok(NetnsCookie::new(unsafe { cookie.assume_init() }))
}

/// Binds to an address, leaving the port to connect().
///
/// A port chosen at bind() is taken for every destination at once and stays so for a minute after
/// the connection; chosen at connect() it only has to be free for that destination.
pub(crate) fn bind_source(socket: &TcpSocket, source: IpAddr) -> io::Result<()> {
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(source, 0))
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
