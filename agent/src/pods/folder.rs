//! Pods from a folder: `pods.json` in, `enrolled.json` out, both replaced by rename.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use super::{MalformedPod, NodePod, NodePods, PodList, PodReport, PodsError};
use crate::watched::WatchedFolder;

const PODS: &str = "pods.json";
const ENROLLED: &str = "enrolled.json";
/// More than any node's pods.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// The folder of one node.
pub struct FolderPods {
    folder: PathBuf,
    changes: WatchedFolder,
    /// The file may be new: it is read before the first event.
    fresh: bool,
    /// The last list told; an unchanged one is not told again.
    last: Option<PodList>,
}

impl FolderPods {
    /// Watches an existing folder; `pods.json` may come later. Must be called inside a tokio runtime.
    pub fn open(folder: &Path) -> Result<Self, PodsError> {
        let changes = WatchedFolder::open(folder).map_err(|source| PodsError::Watch {
            path: folder.display().to_string(),
            source,
        })?;
        Ok(Self {
            folder: folder.to_path_buf(),
            changes,
            fresh: true,
            last: None,
        })
    }

    async fn read(&self) -> Option<PodList> {
        let path = self.folder.join(PODS);
        let text = match read_bounded(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "pods cannot be read; the last list stays");
                return None;
            }
        };
        match parse(&text) {
            Ok(list) => Some(list),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "pods cannot be parsed; the last list stays");
                None
            }
        }
    }
}

async fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(MAX_FILE).read_to_string(&mut text).await?;
    Ok(text)
}

#[derive(serde::Deserialize)]
struct PodsFile {
    pods: Vec<serde_json::Value>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    uid: String,
    namespace: String,
    name: String,
    service_account: String,
    ips: Vec<std::net::IpAddr>,
    netns: PathBuf,
    cgroup: PathBuf,
    wanted: bool,
    #[serde(default)]
    reason: String,
}

/// One bad entry does not spoil the others.
fn parse(text: &str) -> Result<PodList, serde_json::Error> {
    let file: PodsFile = serde_json::from_str(text)?;
    let mut list = PodList::default();
    for value in file.pods {
        let uid: Arc<str> = value.get("uid").and_then(|u| u.as_str()).unwrap_or("?").into();
        match serde_json::from_value::<Entry>(value) {
            Ok(entry) => list.pods.push(entry.into()),
            Err(error) => list.malformed.push(MalformedPod {
                uid,
                reason: error.to_string(),
            }),
        }
    }
    Ok(list)
}

impl From<Entry> for NodePod {
    fn from(entry: Entry) -> Self {
        Self {
            uid: entry.uid.into(),
            namespace: entry.namespace.into(),
            name: entry.name.into(),
            service_account: entry.service_account.into(),
            ips: entry.ips.into_iter().map(|ip| ip.to_canonical()).collect(),
            netns: entry.netns,
            cgroup: entry.cgroup,
            turn: 0,
            served: false,
            wanted: entry.wanted,
            reason: entry.reason,
        }
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct EnrolledFile {
    pods: Vec<PodReport>,
}

#[async_trait]
impl NodePods for FolderPods {
    async fn last_report(&mut self) -> Vec<PodReport> {
        let Ok(text) = read_bounded(&self.folder.join(ENROLLED)).await else {
            return Vec::new();
        };
        serde_json::from_str::<EnrolledFile>(&text).map_or_else(|_| Vec::new(), |file| file.pods)
    }

    async fn next(&mut self) -> Result<PodList, PodsError> {
        loop {
            if !self.fresh {
                self.changes.changed().await.map_err(|source| PodsError::Watch {
                    path: self.folder.display().to_string(),
                    source,
                })?;
                // Stays set while the file is read: a caller that gives up meanwhile loses no change.
                self.fresh = true;
            }
            let read = self.read().await;
            self.fresh = false;
            if let Some(list) = read
                && self.last.as_ref() != Some(&list)
            {
                self.last = Some(list.clone());
                return Ok(list);
            }
        }
    }

    async fn report(&mut self, pods: &[PodReport]) -> Result<(), PodsError> {
        let path = self.folder.join(ENROLLED);
        let file = EnrolledFile { pods: pods.to_vec() };
        write_atomically(&path, &file)
            .await
            .map_err(|source| PodsError::Report {
                path: path.display().to_string(),
                source,
            })
    }
}

async fn write_atomically(path: &Path, file: &EnrolledFile) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(file)?;
    let next = path.with_extension("json.next");
    tokio::fs::write(&next, text).await?;
    tokio::fs::rename(&next, path).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::PodState;

    const ONE: &str = r#"{"uid":"u1","namespace":"ns","name":"a","serviceAccount":"sa","ips":["10.0.0.1","::ffff:10.0.0.2"],
        "netns":"/run/netns/x","cgroup":"/c","wanted":true,"reason":"label"}"#;

    fn put(folder: &Path, text: &str) {
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join(PODS)).unwrap();
    }

    #[test]
    fn one_bad_entry_does_not_spoil_the_others() {
        let list = parse(&format!(r#"{{"pods":[{ONE},{{"uid":"u2","name":7}},{{}}]}}"#)).unwrap();
        assert_eq!(list.pods.len(), 1);
        assert_eq!(list.pods[0].ips[1].to_string(), "10.0.0.2");
        let uids: Vec<&str> = list.malformed.iter().map(|m| &*m.uid).collect();
        assert_eq!(uids, ["u2", "?"]);
    }

    #[tokio::test]
    async fn tells_each_change_once_and_keeps_the_last_good_list() {
        let folder = tempfile::tempdir().unwrap();
        let mut pods = FolderPods::open(folder.path()).unwrap();
        put(folder.path(), r#"{"pods":[]}"#);
        assert_eq!(pods.next().await.unwrap(), PodList::default());
        put(folder.path(), "nonsense");
        put(folder.path(), &format!(r#"{{"pods":[{ONE}]}}"#));
        assert_eq!(pods.next().await.unwrap().pods.len(), 1);
    }

    #[tokio::test]
    async fn reports_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut pods = FolderPods::open(folder.path()).unwrap();
        assert!(pods.last_report().await.is_empty());
        let report = PodReport {
            uid: "u1".into(),
            state: PodState::NotWanted,
            reason: "no label".into(),
            captured: None,
        };
        pods.report(std::slice::from_ref(&report)).await.unwrap();
        let text = std::fs::read_to_string(folder.path().join(ENROLLED)).unwrap();
        assert!(text.contains("\"not-wanted\""), "{text}");
        let mut again = FolderPods::open(folder.path()).unwrap();
        assert_eq!(again.last_report().await, vec![report]);
    }
}
