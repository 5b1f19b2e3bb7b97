//! The agent's end of the socket: asks who knows the pods, and answers the plugin.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::exchange::{AGENT_PATIENCE, Arrival, MAX_LINE, Verdict};
use super::folder::{Folder, absent_is_fine};

/// Pods that a kubelet starts at one time; more wait for a place.
const MOST_CALLS: usize = 256;
/// For the plugin to say which pod it is.
const FIRST_LINE: Duration = Duration::from_secs(5);
/// Between two looks whether the socket is still where plugins find it.
const LOOK: Duration = Duration::from_secs(1);
/// Beyond the time after which whoever knows the pods gives a verdict of its own.
const MARGIN: Duration = Duration::from_secs(5);

/// A pod that waits for a verdict.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) arrival: Arrival,
    pub(crate) verdict: oneshot::Sender<Verdict>,
}

/// The agent's socket.
///
/// A later agent of the node takes its place, so the one that ends leaves it there; and the one that stays takes it
/// back where nobody answers any more, as after an update that was undone.
pub(crate) struct Socket {
    folder: Folder,
    listener: UnixListener,
    inode: u64,
}

impl Socket {
    /// In the folder of network configurations. Must be called inside a tokio runtime.
    pub(crate) fn open(configurations: &Path) -> io::Result<Self> {
        Self::listen(Folder::below(configurations))
    }

    fn listen(folder: Folder) -> io::Result<Self> {
        folder.make()?;
        let next = folder.socket().with_extension("next");
        absent_is_fine(fs::remove_file(&next))?;
        let listener = UnixListener::bind(&next)?;
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600))?;
        let inode = fs::metadata(&next)?.ino();
        fs::rename(&next, folder.socket())?;
        Ok(Self {
            folder,
            listener,
            inode,
        })
    }

    /// Answers plugins; ends only by being dropped.
    pub(crate) async fn serve(mut self, arrivals: mpsc::Sender<Arriving>) {
        let mut calls = JoinSet::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if calls.len() < MOST_CALLS => match accepted {
                    Ok((stream, _)) => drop(calls.spawn(answer(stream, arrivals.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "a CNI call cannot be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = calls.join_next() => {}
                _ = look.tick() => self.keep_place().await,
            }
        }
    }

    async fn keep_place(&mut self) {
        let socket = self.folder.socket();
        let is_ours = fs::metadata(&socket).is_ok_and(|there| there.ino() == self.inode);
        if is_ours || UnixStream::connect(&socket).await.is_ok() {
            return;
        }
        match Self::listen(self.folder.clone()) {
            Ok(again) => *self = again,
            Err(error) => tracing::warn!(%error, "the CNI plugin cannot reach this agent; trying again"),
        }
    }
}

async fn answer(mut stream: UnixStream, arrivals: mpsc::Sender<Arriving>) {
    let asked = tokio::time::timeout(FIRST_LINE, read(&mut stream)).await;
    let verdict = match asked {
        Ok(Ok(arrival)) => judge(arrival, &arrivals).await,
        // Another agent that looks whether somebody is here.
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return,
        Ok(Err(error)) => return tracing::warn!(%error, "a CNI call cannot be read"),
        Err(_) => return tracing::warn!("a CNI call said nothing"),
    };
    let mut line = serde_json::to_vec(&verdict).unwrap_or_default();
    line.push(b'\n');
    if let Err(error) = stream.write_all(&line).await {
        tracing::debug!(%error, "a CNI call was given up by its runtime");
    }
}

async fn read(stream: &mut UnixStream) -> io::Result<Arrival> {
    let mut line = String::new();
    if BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn judge(arrival: Arrival, arrivals: &mpsc::Sender<Arriving>) -> Verdict {
    let (pod, namespace) = (arrival.name.clone(), arrival.namespace.clone());
    let (sender, receiver) = oneshot::channel();
    let arriving = Arriving {
        arrival,
        verdict: sender,
    };
    let asked = async {
        arrivals.send(arriving).await.ok()?;
        receiver.await.ok()
    };
    let verdict = tokio::time::timeout(AGENT_PATIENCE + MARGIN, asked).await;
    let verdict = verdict.ok().flatten().unwrap_or_else(|| Verdict::Hold {
        because: "the agent is busy or about to end".to_owned(),
    });
    if let Verdict::Hold { because } = &verdict {
        tracing::warn!(%pod, %namespace, %because, "pod held");
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: &[u8] =
        b"{\"namespace\":\"shop\",\"name\":\"web\",\"ips\":[\"10.0.0.1\"],\"netns\":{\"name\":\"cni-1\",\"inode\":7}}\n";

    #[tokio::test]
    async fn a_call_gets_the_verdict_and_garbage_gets_none() {
        let place = tempfile::tempdir().unwrap();
        let (sender, mut arrivals) = mpsc::channel(1);
        let server = tokio::spawn(Socket::open(place.path()).unwrap().serve(sender));
        let socket = Folder::below(place.path()).socket();
        let mut garbage = UnixStream::connect(&socket).await.unwrap();
        garbage.write_all(b"{}\n").await.unwrap();
        let mut nothing = String::new();
        garbage.read_to_string(&mut nothing).await.unwrap();
        assert_eq!(nothing, "");

        let mut plugin = UnixStream::connect(&socket).await.unwrap();
        plugin.write_all(CALL).await.unwrap();
        let arriving = arrivals.recv().await.unwrap();
        assert_eq!(arriving.arrival.uid, None);
        arriving.verdict.send(Verdict::Start).unwrap();
        let mut told = String::new();
        plugin.read_to_string(&mut told).await.unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&told).unwrap(), Verdict::Start);
        server.abort();
    }

    #[tokio::test]
    async fn a_later_agent_takes_the_sockets_place_and_the_earlier_takes_it_back() {
        let place = tempfile::tempdir().unwrap();
        let mut earlier = Socket::open(place.path()).unwrap();
        let later = Socket::open(place.path()).unwrap();
        let socket = earlier.folder.socket();
        earlier.keep_place().await;
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&socket), later.inode);
        drop(later);
        earlier.keep_place().await;
        assert_eq!(inode(&socket), earlier.inode);
        let _call = UnixStream::connect(&socket).await.unwrap();
        earlier.listener.accept().await.unwrap();
    }
}
