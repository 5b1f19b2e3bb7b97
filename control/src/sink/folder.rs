//! `objects/` and `status/` with one file per object, and `root-cert.pem`; replaced by renaming.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::Value;

use crate::objects::ObjectKey;
use crate::sink::{Batch, Left, ObjectSink, SinkError};

pub struct FolderSink {
    folder: PathBuf,
}

impl FolderSink {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    fn statuses(&self) -> PathBuf {
        self.folder.join("status")
    }
}

#[async_trait]
impl ObjectSink for FolderSink {
    async fn load(&mut self) -> Result<Left, SinkError> {
        for folder in [self.objects(), self.statuses()] {
            std::fs::create_dir_all(&folder).map_err(|e| write_error(&folder, e))?;
        }
        Ok(Left {
            objects: read_all(&self.objects())?,
            statuses: read_all(&self.statuses())?,
        })
    }

    // Files of a few kilobytes on a local disk: not worth a hop to another thread.
    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        for (folder, changes) in [
            (self.objects(), &batch.objects),
            (self.statuses(), &batch.statuses),
        ] {
            for (key, value) in changes {
                let path = folder.join(file_name(key));
                match value {
                    Some(value) => replace(&path, &serde_json::to_vec_pretty(value).unwrap_or_default())?,
                    None => remove(&path)?,
                }
            }
        }
        Ok(())
    }
}

/// Puts the roots into the sink, from where the lab hands them to every namespace.
pub(crate) fn publish_root(folder: &Path, pem: &str) -> Result<(), SinkError> {
    std::fs::create_dir_all(folder).map_err(|e| write_error(folder, e))?;
    replace(&folder.join("root-cert.pem"), pem.as_bytes())
}

/// `KIND.NAMESPACE.NAME.json`; bytes that could mean something to a file system are written as `%XX`.
fn file_name(key: &ObjectKey) -> String {
    let plain = |text: &str| -> String {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let escape = |b: u8| {
            if safe(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        };
        text.bytes().map(escape).collect()
    };
    format!(
        "{}.{}.{}.json",
        plain(&key.kind),
        plain(&key.namespace),
        plain(&key.name)
    )
}

pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), SinkError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    std::fs::write(&temporary, content).map_err(|e| write_error(&temporary, e))?;
    std::fs::rename(&temporary, path).map_err(|e| write_error(path, e))
}

fn remove(path: &Path) -> Result<(), SinkError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(write_error(path, error)),
        _ => Ok(()),
    }
}

fn write_error(path: &Path, source: std::io::Error) -> SinkError {
    SinkError::Write {
        path: path.display().to_string(),
        source,
    }
}

/// What is no object any more is left alone and not known.
fn read_all(folder: &Path) -> Result<std::collections::BTreeMap<ObjectKey, Value>, SinkError> {
    let read_error = |source| SinkError::Read {
        path: folder.display().to_string(),
        source,
    };
    let mut all = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(read_error)? {
        let path = entry.map_err(read_error)?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let value = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        if let Some(value) = value
            && let Some(key) = key_of(&value)
        {
            all.insert(key, value);
        }
    }
    Ok(all)
}

fn key_of(value: &Value) -> Option<ObjectKey> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let group = text("/apiVersion")?
        .split_once('/')
        .map_or("", |(group, _)| group);
    let namespace = text("/metadata/namespace").unwrap_or_default();
    Some(ObjectKey::new(
        group,
        text("/kind")?,
        namespace,
        text("/metadata/name")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_later_run_finds_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = FolderSink::new(folder.path());
        sink.load().await.unwrap();
        let key = ObjectKey::new("apps", "Deployment", "bookinfo", "waypoint");
        let value = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "bookinfo", "name": "waypoint"}});
        let mut batch = Batch::default();
        batch.objects.insert(key.clone(), Some(value.clone()));
        sink.write(&batch).await.unwrap();
        assert!(
            folder
                .path()
                .join("objects/Deployment.bookinfo.waypoint.json")
                .exists()
        );
        assert_eq!(
            FolderSink::new(folder.path()).load().await.unwrap().objects,
            [(key.clone(), value)].into()
        );
        batch.objects.insert(key, None);
        sink.write(&batch).await.unwrap();
        assert!(sink.load().await.unwrap().objects.is_empty());
    }

    #[test]
    fn names_stay_inside_the_folder() {
        let name = file_name(&ObjectKey::new("", "Pod", "..", "../../x/\u{e9}"));
        assert_eq!(
            name,
            "Pod....%2E".replace("%2E", "") + "..%2F..%2Fx%2F%C3%A9.json"
        );
        assert!(!name.contains('/'));
    }
}
