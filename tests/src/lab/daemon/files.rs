//! Wakes the daemon when the control plane or an agent has written something.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::Event;

/// Watches folders whose files are replaced by rename.
pub(super) fn watch(
    folders: &[PathBuf],
    events: mpsc::Sender<Event>,
) -> std::io::Result<impl Future<Output = ()> + Send + use<>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE;
    for folder in folders {
        inotify.add_watch(folder, flags)?;
    }
    // SAFETY: the descriptor is the instance's own and lives, unchanged, as long as the registration.
    let source = unsafe { AsyncFd::register(Descriptor(inotify)) }.map_err(std::io::Error::from)?;
    Ok(async move {
        while let Ok(mut ready) = source.readable().await {
            // The names do not matter: the folders are small and are read as a whole.
            while source.get_ref().0.read_events().is_ok() {}
            ready.clear_ready();
            drop(ready);
            if events.send(Event::FilesChanged).await.is_err() {
                return;
            }
        }
    })
}

/// What tokio wants to know of an inotify instance.
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
