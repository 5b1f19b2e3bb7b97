//! A listener of this machine's loopback whose connections continue inside a member.
//!
//! The listener was made outside; threads of the member's first process serve it, so what they open is inside. Nothing
//! of the machine's own network is touched, and all of it ends with the member.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Watches of a few hundred clients; more is a leak.
const MAX_CONNECTIONS: usize = 2000;
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Serves the listener as long as the process lives.
pub(super) fn start(listener: TcpListener, to: SocketAddr) -> io::Result<()> {
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for client in listener.incoming().flatten() {
            if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
                continue;
            }
            let slot = Slot::take(&open);
            // Without a thread the client sees its connection closed.
            drop(thread::Builder::new().spawn(move || {
                let _slot = slot;
                drop(serve(&client, to));
            }));
        }
    };
    thread::Builder::new().name("forward".to_owned()).spawn(accept)?;
    Ok(())
}

/// One of the connections that may be open.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(client: &TcpStream, to: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&to, CONNECT_PATIENCE)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

/// Half-closes are passed on; a broken direction breaks both.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let broken = io::copy(&mut from, &mut to).is_err();
    let _ = to.shutdown(if broken { Shutdown::Both } else { Shutdown::Write });
    if broken {
        let _ = from.shutdown(Shutdown::Both);
    }
}
