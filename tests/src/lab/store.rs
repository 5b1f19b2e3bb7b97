//! The objects of the lab and the folder that mirrors them: what etcd and the API server are elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::names;

/// What identifies an object. `namespace` is empty for objects of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: String,
    /// The API group: Istio and the Gateway API both have a kind Gateway.
    pub(super) group: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn core(kind: &str, namespace: &str, name: &str) -> Self {
        Self::new(kind, "", namespace, name)
    }

    pub(super) fn new(kind: &str, group: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            group: group.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn file_name(&self) -> String {
        let Self {
            kind,
            namespace,
            name,
            ..
        } = self;
        let twin = if self.kind == "Gateway" && self.group == "gateway.networking.k8s.io" {
            ".gateway-api"
        } else {
            ""
        };
        format!("{kind}.{namespace}.{name}{twin}.json")
    }
}

/// As kubectl prints it: `deployment/reviews-v1`.
impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.to_lowercase(), self.name)?;
        if !self.namespace.is_empty() {
            write!(f, " in namespace {}", self.namespace)?;
        }
        Ok(())
    }
}

/// All objects, each mirrored in a file that is replaced by rename.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    objects: BTreeMap<Key, Value>,
    version: u64,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Created,
    Configured,
    Unchanged,
}

impl Change {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

impl Store {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            objects: BTreeMap::new(),
            version: 0,
        })
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Value> {
        self.objects.get(key)
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.objects.contains_key(key)
    }

    /// The objects of a kind, of any API group.
    pub(super) fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a Key, &'a Value)> {
        let first = Key::core(kind, "", "");
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.kind == kind)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.objects.keys()
    }

    /// Writes an object as it should be; identity (uid, creation time) stays, versions are counted.
    ///
    /// `status` of the stored object stays when the new one has none.
    pub(super) fn put(&mut self, key: &Key, mut value: Value, now: SystemTime) -> io::Result<Change> {
        let old = self.objects.get(key);
        carry_identity(&mut value, old, key, now);
        if let Some(old) = old
            && same_but_version(old, &value)
        {
            return Ok(Change::Unchanged);
        }
        let change = if old.is_some() {
            Change::Configured
        } else {
            Change::Created
        };
        self.version += 1;
        value["metadata"]["resourceVersion"] = Value::String(self.version.to_string());
        replace_file(&self.folder.join(key.file_name()), value.to_string().as_bytes())?;
        self.objects.insert(key.clone(), value);
        Ok(change)
    }

    pub(super) fn remove(&mut self, key: &Key) -> io::Result<Option<Value>> {
        let removed = self.objects.remove(key);
        if removed.is_some() {
            match fs::remove_file(self.folder.join(key.file_name())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(removed)
    }
}

fn carry_identity(value: &mut Value, old: Option<&Value>, key: &Key, now: SystemTime) {
    let old_meta = old.map(|old| &old["metadata"]);
    let kept = |field: &str| {
        old_meta
            .and_then(|meta| meta.get(field))
            .filter(|field| !field.is_null())
            .cloned()
    };
    let same_spec = old.is_some_and(|old| old.get("spec") == value.get("spec"));
    let generation = kept("generation").and_then(|value| value.as_u64()).unwrap_or(0);
    let meta = object_field(value, "metadata");
    meta.insert("name".to_owned(), json!(key.name));
    if !key.namespace.is_empty() {
        meta.insert("namespace".to_owned(), json!(key.namespace));
    }
    let given = meta.get("uid").cloned().filter(Value::is_string);
    meta.insert(
        "uid".to_owned(),
        kept("uid").or(given).unwrap_or_else(|| json!(names::uid())),
    );
    let created = kept("creationTimestamp").unwrap_or_else(|| json!(names::timestamp(now)));
    meta.insert("creationTimestamp".to_owned(), created);
    meta.insert(
        "generation".to_owned(),
        json!(if same_spec { generation } else { generation + 1 }),
    );
    meta.remove("resourceVersion");
    if value.get("status").is_none()
        && let Some(status) = old.and_then(|old| old.get("status"))
    {
        value["status"] = status.clone();
    }
}

/// The object below `field`, made when it is missing or something else.
pub(super) fn object_field<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[field];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("an object: made one above")
}

fn same_but_version(old: &Value, new: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        object_field(&mut value, "metadata").remove("resourceVersion");
        value
    };
    strip(old) == strip(new)
}

/// Reads a part of a stored object, for example `/spec`; the manifest reader has checked it before.
pub(super) fn part<T: DeserializeOwned>(value: &Value, pointer: &str) -> Option<T> {
    T::deserialize(value.pointer(pointer)?).ok()
}

/// Replaces a file in one step: readers see the old text or the new one.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)
}

/// `replace_file`, unless the file already says so.
pub(super) fn update_file(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    replace_file(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str) -> Store {
        let folder = std::env::temp_dir().join(format!("aq-store-{name}-{}", std::process::id()));
        Store::new(&folder).unwrap()
    }

    impl Drop for Store {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.folder).ok();
        }
    }

    #[test]
    fn identity_stays_and_generation_counts_specs() {
        let mut store = store("identity");
        let key = Key::core("Service", "default", "web");
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(
            store.put(&key, json!({"spec": {"a": 1}}), now).unwrap(),
            Change::Created
        );
        let uid = store.get(&key).unwrap()["metadata"]["uid"].clone();
        assert_eq!(
            store.put(&key, json!({"spec": {"a": 1}}), now).unwrap(),
            Change::Unchanged
        );
        assert_eq!(
            store.put(&key, json!({"spec": {"a": 2}}), now).unwrap(),
            Change::Configured
        );
        let meta = &store.get(&key).unwrap()["metadata"];
        assert_eq!(meta["uid"], uid);
        assert_eq!(meta["generation"], 2);
        assert!(store.folder.join("Service.default.web.json").is_file());
        store.remove(&key).unwrap();
        assert!(!store.folder.join("Service.default.web.json").exists());
    }

    #[test]
    fn gateways_of_both_apis_have_files_of_their_own() {
        let istio = Key::new("Gateway", "networking.istio.io", "a", "b");
        let gateway_api = Key::new("Gateway", "gateway.networking.k8s.io", "a", "b");
        assert_ne!(istio.file_name(), gateway_api.file_name());
    }
}
