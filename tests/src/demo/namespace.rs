//! Doing something inside a named network namespace.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, setns};
use thiserror::Error;

use crate::lab::layout::Layout;

/// What errors call the network that this process is in.
const HERE: &str = "/proc/self/ns/net";

#[derive(Debug, Error)]
pub enum NamespaceError {
    #[error("cannot enter network namespace {}: {source}; is this root?", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("a thread inside network namespace {} panicked", .0.display())]
    Panicked(PathBuf),
}

/// A member of a lab's network: a node, or the world outside. Or none: where this process is.
#[derive(Clone, Debug)]
pub struct Namespace(Option<PathBuf>);

impl Namespace {
    /// By the name under which it is mounted.
    pub fn named(name: &str) -> Self {
        Self(Some(Path::new("/run/netns").join(name)))
    }

    /// This process's own, which takes no privilege.
    pub fn here() -> Self {
        Self(None)
    }

    pub fn of(layout: &Layout, member: &str) -> Self {
        Self::named(&layout.netns(member))
    }

    /// Runs `inside` on a thread of its own, which alone is in the namespace; sockets made there stay
    /// in it.
    pub fn spawn<T, F>(&self, inside: F) -> Result<Inside<T>, NamespaceError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let open = |path: &PathBuf| {
            File::open(path).map_err(|source| NamespaceError::Enter {
                path: path.clone(),
                source,
            })
        };
        let file = self.0.as_ref().map(open).transpose()?;
        let enter = move || file.map_or(Ok(()), |file| setns(file, CloneFlags::CLONE_NEWNET));
        let thread = std::thread::Builder::new()
            .spawn(move || enter().map(|()| inside()))
            .map_err(NamespaceError::Thread)?;
        Ok(Inside {
            thread,
            path: self.0.clone().unwrap_or_else(|| PathBuf::from(HERE)),
        })
    }

    pub fn run<T, F>(&self, inside: F) -> Result<T, NamespaceError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.spawn(inside)?.join()
    }
}

/// A thread inside a namespace.
#[derive(Debug)]
pub struct Inside<T> {
    thread: JoinHandle<nix::Result<T>>,
    path: PathBuf,
}

impl<T> Inside<T> {
    pub fn join(self) -> Result<T, NamespaceError> {
        let path = self.path;
        match self.thread.join() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(errno)) => Err(NamespaceError::Enter {
                path,
                source: errno.into(),
            }),
            Err(_) => Err(NamespaceError::Panicked(path)),
        }
    }
}
