//! A folder in which others replace files.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) struct WatchedFolder(AsyncFd<Watch>);

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl WatchedFolder {
    /// From now on. Must be called inside a tokio runtime.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let what = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE;
        inotify.add_watch(folder, what)?;
        // SAFETY: `Watch` owns the descriptor, never replaces it, and always answers with it.
        let watch = unsafe { AsyncFd::register_with_interest(Watch(inotify), Interest::READABLE) };
        Ok(Self(watch?))
    }

    /// Waits until something in the folder was replaced, written or removed since the last time. Cancel safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        self.0
            .async_io(Interest::READABLE, |watch| match watch.0.read_events() {
                Ok(_) => Ok(()),
                Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => Err(error.into()),
            })
            .await
    }
}
