//! The agent's end of the socket: asks who knows the pods, and answers the plugin.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::exchange::{AGENT_PATIENCE, Arrival, MAX_LINE, Verdict};
use super::folder::Folder;

/// Pods that a kubelet starts at one time; more wait for a place.
const MOST_CALLS: usize = 256;
/// For the plugin to say which pod it is.
const FIRST_LINE: Duration = Duration::from_secs(5);
/// Beyond the time after which whoever knows the pods gives a verdict of its own.
const MARGIN: Duration = Duration::from_secs(5);

/// A pod that waits for a verdict.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) arrival: Arrival,
    pub(crate) verdict: oneshot::Sender<Verdict>,
}

/// Answers plugins; ends only by being dropped, or where the socket cannot be made.
///
/// A later agent of the node takes the socket's place, so the one that ends leaves it.
pub(crate) async fn serve(configurations: &Path, arrivals: mpsc::Sender<Arriving>) -> io::Result<()> {
    let listener = listen(&Folder::below(configurations))?;
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if calls.len() < MOST_CALLS => match accepted {
                Ok((stream, _)) => drop(calls.spawn(answer(stream, arrivals.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a CNI call cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = calls.join_next() => {}
        }
    }
}

fn listen(folder: &Folder) -> io::Result<UnixListener> {
    folder.make()?;
    let next = folder.socket().with_extension("next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&next)?;
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600))?;
    fs::rename(&next, folder.socket())?;
    Ok(listener)
}

async fn answer(mut stream: UnixStream, arrivals: mpsc::Sender<Arriving>) {
    let asked = tokio::time::timeout(FIRST_LINE, read(&mut stream)).await;
    let verdict = match asked {
        Ok(Ok(arrival)) => judge(arrival, &arrivals).await,
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
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await?;
    Ok(serde_json::from_str(&line)?)
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

    #[tokio::test]
    async fn a_call_gets_the_verdict_and_garbage_gets_none() {
        let place = tempfile::tempdir().unwrap();
        let (sender, mut arrivals) = mpsc::channel(1);
        let path = place.path().to_owned();
        let server = tokio::spawn(async move { serve(&path, sender).await });
        let socket = Folder::below(place.path()).socket();
        while !socket.exists() {
            tokio::task::yield_now().await;
        }
        let mut garbage = UnixStream::connect(&socket).await.unwrap();
        garbage.write_all(b"{}\n").await.unwrap();
        let mut nothing = String::new();
        garbage.read_to_string(&mut nothing).await.unwrap();
        assert_eq!(nothing, "");

        let mut plugin = UnixStream::connect(&socket).await.unwrap();
        plugin
            .write_all(b"{\"namespace\":\"shop\",\"name\":\"web\",\"ips\":[\"10.0.0.1\"]}\n")
            .await
            .unwrap();
        let arriving = arrivals.recv().await.unwrap();
        assert_eq!(arriving.arrival.uid, None);
        arriving.verdict.send(Verdict::Start).unwrap();
        let mut told = String::new();
        plugin.read_to_string(&mut told).await.unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&told).unwrap(), Verdict::Start);
        server.abort();
    }

    #[tokio::test]
    async fn a_later_agent_takes_the_sockets_place() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::below(place.path());
        let earlier = listen(&folder).unwrap();
        let later = listen(&folder).unwrap();
        let _call = UnixStream::connect(folder.socket()).await.unwrap();
        later.accept().await.unwrap();
        drop(earlier);
        assert!(folder.socket().exists());
    }
}
