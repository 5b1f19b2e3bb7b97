//! A way from inside the cluster to a process beside it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use aquifer_tests::cluster::layout::Member;
use aquifer_tests::demo::namespace::Namespace;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::world::World;

/// Dropping it closes the way, and what is under way on it.
pub(crate) struct Way(Option<Runtime>);

impl Way {
    /// From a port at the API server's address to one of this machine's loopback.
    pub(crate) fn open(world: &World, port: u16, to: u16) -> Self {
        let at = SocketAddr::from((Member::Control.address(), port));
        let inside = Namespace::named(&world.netns_of_the_api_server());
        let listener = inside.run(move || TcpListener::bind(at)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let runtime = Runtime::new().unwrap();
        runtime.spawn(serve(listener, to));
        Self(Some(runtime))
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, to: u16) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut open = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        open.spawn(async move {
            // Nobody there: the client sees its connection closed.
            if let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await {
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            }
        });
        while open.try_join_next().is_some() {}
    }
}
