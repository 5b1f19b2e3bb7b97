//! Sockets of the test's own inside other network namespaces: nobody's pod, so nothing captures them.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::world::World;

const DEADLINE: Duration = Duration::from_secs(60);

/// A network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn pod(world: &World, workload: &str) -> Self {
        Self::named(&world.pod(workload).netns)
    }

    /// Outside the cluster, as the clients of a gateway are.
    pub(crate) fn outside(world: &World) -> Self {
        Self::named(&format!("aq-{}.world", world.lab.name()))
    }

    fn named(name: &str) -> Self {
        // A status may tell the name or the path.
        Self(Path::new("/run/netns").join(name))
    }

    /// Runs work on a thread that is inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(&self.0).expect("a namespace");
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter a namespace");
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs work of many tasks on such a thread.
    pub(crate) fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work)
        })
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(stream)
    }
}
