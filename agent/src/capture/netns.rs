//! Network namespaces of pods: naming them and making sockets in them.
//!
//! A socket belongs to the namespace its creator was in, so the calling thread enters the pod's for
//! the two system calls it takes and comes back. The pair costs about three microseconds, less
//! than handing the work to another thread; nothing is awaited in between.

use std::{
    fmt,
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    process,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

use crate::capture::sockopt;

/// The kernel's name for a network namespace; never reused until the next boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsCookie(u64);

impl NetnsCookie {
    pub(crate) const fn new(cookie: u64) -> Self {
        Self(cookie)
    }

    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NetnsCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An open network namespace. Cheap to clone; the namespace lives as long as a clone does.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    cookie: NetnsCookie,
}

impl Netns {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Arc::new(File::open(path)?);
        let cookie = inside(file.as_fd(), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
            sockopt::netns_cookie(&socket)
        })?;
        Ok(Self { file, cookie })
    }

    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// A TCP socket in this namespace of the family of `ip`: non-blocking, not yet bound.
    ///
    /// For dialling out of the pod; towards the pod itself use [`super::Capture::upstream_socket`].
    pub fn socket(&self, ip: IpAddr) -> io::Result<TcpSocket> {
        self.run(|| match ip {
            IpAddr::V4(_) => TcpSocket::new_v4(),
            IpAddr::V6(_) => TcpSocket::new_v6(),
        })
    }

    /// Runs `work` in this namespace, on this thread. `work` must neither block for long nor call
    /// `run` again.
    pub fn run<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        inside(self.file.as_fd(), work)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

thread_local! {
    /// The namespace this thread belongs to, opened the first time it leaves it.
    static HOME: io::Result<File> = File::open("/proc/thread-self/ns/net");
}

fn inside<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    HOME.with(|home| {
        let home = home
            .as_ref()
            .map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let _return = ReturnHome(home.as_fd());
        work()
    })
}

/// Goes back when dropped, after a panic too.
struct ReturnHome<'a>(BorrowedFd<'a>);

impl Drop for ReturnHome<'_> {
    fn drop(&mut self) {
        if setns(self.0, CloneFlags::CLONE_NEWNET).is_err() {
            // Everything this thread does from here on would happen inside a pod.
            process::abort();
        }
    }
}
