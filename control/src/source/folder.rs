//! A folder of manifests, watched.
//!
//! Every `.yaml`, `.yml` and `.json` below the folder is read; names that start with a dot are not, so that a writer
//! can replace files by renaming. Notifications say where to look; a slow full comparison finds what they missed.
//!
//! A file that cannot be read, or not as a whole, takes nothing out of effect: what it held before and does not hold now
//! counts until it can be read again or is removed. A bracket that is missing must not switch a policy off.

mod file;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::objects::{ObjectKey, RawObject};
use crate::source::document;
use crate::source::folder::file::Stamp;
use crate::source::{ObjectSource, SourceError};
use crate::store::SourceEvent;

/// The full comparison, in case a notification was lost (a full queue, a race with a new folder).
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// After a change of folders, once the watcher follows them.
const COMPARE_SOON: Duration = Duration::from_millis(200);
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 200_000;
/// More changed paths than this between two looks mean "look everywhere".
const MAX_DIRTY: usize = 10_000;

pub struct FolderSource {
    folder: PathBuf,
}

impl FolderSource {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    fn path(&self) -> String {
        self.folder.display().to_string()
    }
}

#[async_trait]
impl ObjectSource for FolderSource {
    async fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        cancel: CancellationToken,
    ) -> Result<(), SourceError> {
        let changes = Arc::new(Changes::default());
        // Watch first, then list: what changes in between is seen twice instead of never.
        let watcher = watch(&self.folder, changes.clone());
        let _watcher = watcher.map_err(|source| SourceError::Watch {
            path: self.path(),
            source,
        })?;
        std::fs::read_dir(&self.folder).map_err(|source| SourceError::Read {
            path: self.path(),
            source,
        })?;
        let mut folder = Folder {
            root: self.folder.clone(),
            ..Folder::default()
        };
        let mut dirty = Dirty::Everything;
        let mut last = Some(SourceEvent::Synced);
        loop {
            let wait = if matches!(dirty, Dirty::Everything) {
                COMPARE_SOON
            } else {
                COMPARE_EVERY
            };
            let refresh = tokio::task::spawn_blocking(move || {
                let found = folder.refresh(&dirty);
                (folder, found)
            });
            let (refreshed, found) = refresh
                .await
                .map_err(|_| SourceError::Stopped { path: self.path() })?;
            folder = refreshed;
            for event in found.into_iter().chain(last.take()) {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            dirty = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = changes.notify.notified() => changes.take(),
                () = tokio::time::sleep(wait) => Dirty::Stale,
            };
        }
    }
}

/// Paths that changed since the last look. The mutex protects the set between the watcher's thread and the reader.
#[derive(Default)]
struct Changes {
    paths: Mutex<BTreeSet<PathBuf>>,
    everything: std::sync::atomic::AtomicBool,
    notify: Notify,
}

impl Changes {
    fn add(&self, event: notify::Result<notify::Event>) {
        use std::sync::atomic::Ordering::Relaxed;
        match event {
            Ok(event) if is_unfinished(&event) => return,
            Ok(event) if event.need_rescan() => self.everything.store(true, Relaxed),
            Ok(event) => {
                let mut paths = self.paths.lock();
                for path in event.paths {
                    if is_manifest(&path) {
                        paths.insert(path);
                    } else if !is_hidden(&path) {
                        self.everything.store(true, Relaxed);
                    }
                }
                if paths.len() > MAX_DIRTY {
                    self.everything.store(true, Relaxed);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watching the objects failed; looking everywhere");
                self.everything.store(true, Relaxed);
            }
        }
        self.notify.notify_one();
    }

    fn take(&self) -> Dirty {
        let paths = std::mem::take(&mut *self.paths.lock());
        if self.everything.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return Dirty::Everything;
        }
        Dirty::Paths(paths)
    }
}

/// Reads, and writes before the file is closed: half a manifest is not worth reading.
fn is_unfinished(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)) => true,
        _ => false,
    }
}

fn watch(folder: &Path, changes: Arc<Changes>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event| changes.add(event))?;
    watcher.watch(folder, RecursiveMode::Recursive)?;
    Ok(watcher)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    !is_hidden(path) && matches!(extension, Some("yaml" | "yml" | "json"))
}

enum Dirty {
    /// Read these files again.
    Paths(BTreeSet<PathBuf>),
    /// Read every file again.
    Everything,
    /// Read the files whose stamp changed.
    Stale,
}

/// What was read of one file.
#[derive(Default)]
struct FileRecord {
    stamp: Option<Stamp>,
    objects: BTreeMap<ObjectKey, Arc<RawObject>>,
    problems: Vec<String>,
}

/// The folder as it was at the last look.
#[derive(Default)]
struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, FileRecord>,
}

impl Folder {
    fn refresh(&mut self, dirty: &Dirty) -> Vec<SourceEvent> {
        let paths = match dirty {
            Dirty::Paths(paths) => paths.clone(),
            Dirty::Everything => self.everything(),
            Dirty::Stale => self
                .everything()
                .into_iter()
                .filter(|path| self.is_stale(path))
                .collect(),
        };
        let mut events = Vec::new();
        for path in paths {
            self.refresh_file(&path, &mut events);
        }
        events
    }

    /// Every file that is there or was there.
    fn everything(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        list(&self.root, 0, &mut found);
        found.extend(self.files.keys().cloned());
        found
    }

    fn is_stale(&self, path: &Path) -> bool {
        let stamp = Stamp::at(path);
        self.files.get(path).map(|record| record.stamp) != Some(stamp)
    }

    fn refresh_file(&mut self, path: &Path, events: &mut Vec<SourceEvent>) {
        let origin: Arc<str> = path
            .strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
            .into();
        let old = self.files.remove(path).unwrap_or_default();
        let new = read(path, &origin, &old);
        changes(&origin, &old, new.as_ref(), events);
        if let Some(new) = new {
            self.files.insert(path.to_owned(), new);
        }
    }
}

fn list(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if is_hidden(&path) || found.len() >= MAX_FILES {
            continue;
        }
        let is_folder = std::fs::metadata(&path).is_ok_and(|m| m.is_dir());
        if is_folder && depth < MAX_DEPTH {
            list(&path, depth + 1, found);
        } else if !is_folder && is_manifest(&path) {
            found.insert(path);
        }
    }
}

/// `None` where there is no such file (any more).
fn read(path: &Path, origin: &Arc<str>, old: &FileRecord) -> Option<FileRecord> {
    let found = file::read(path)?;
    let mut record = FileRecord {
        stamp: found.stamp,
        ..FileRecord::default()
    };
    let parsed = match found.content {
        Ok(bytes) => document::parse(&bytes),
        Err(problem) => document::Parsed {
            problems: vec![problem],
            ..document::Parsed::default()
        },
    };
    record.problems = parsed.problems;
    let mut doubles = Vec::new();
    for object in parsed.objects {
        match record.objects.entry(object.key.clone()) {
            Entry::Vacant(free) => drop(free.insert(object)),
            Entry::Occupied(first) => {
                let key = first.key();
                doubles.push(format!("{key} is in {origin} twice; the first one is in effect"));
            }
        }
    }
    if !record.problems.is_empty() {
        record.keep(old);
    }
    record.problems.append(&mut doubles);
    Some(record)
}

impl FileRecord {
    /// Keeps what an unreadable part may have been about.
    fn keep(&mut self, old: &Self) {
        for (key, object) in &old.objects {
            if !self.objects.contains_key(key) {
                self.problems
                    .push(format!("{key} stood here before and stays in effect as it was"));
                self.objects.insert(key.clone(), object.clone());
            }
        }
    }
}

fn changes(origin: &Arc<str>, old: &FileRecord, new: Option<&FileRecord>, events: &mut Vec<SourceEvent>) {
    let empty = FileRecord::default();
    let new = new.unwrap_or(&empty);
    for key in old.objects.keys().filter(|key| !new.objects.contains_key(*key)) {
        events.push(SourceEvent::Deleted {
            origin: origin.clone(),
            key: key.clone(),
        });
    }
    for (key, object) in &new.objects {
        if old.objects.get(key) != Some(object) {
            events.push(SourceEvent::Applied {
                origin: origin.clone(),
                object: object.clone(),
            });
        }
    }
    if old.problems != new.problems {
        events.push(SourceEvent::Unreadable {
            origin: origin.clone(),
            problems: new.problems.clone(),
        });
    }
}

#[cfg(test)]
mod tests;
