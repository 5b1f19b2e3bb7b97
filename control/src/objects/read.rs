//! Reading JSON into types: unknown fields and wrong types come back with their path.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ObjectKey, RawObject, Rejection};

/// The metadata that the mesh reads.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub uid: Arc<str>,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// RFC 3339 in UTC, so that the text sorts as the time does; empty where the source has none.
    #[serde(deserialize_with = "or_default")]
    pub creation_timestamp: Arc<str>,
    pub generation: Option<i64>,
    pub deletion_timestamp: Option<Arc<str>>,
    #[serde(deserialize_with = "or_default")]
    pub owner_references: Vec<OwnerReference>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct OwnerReference {
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub controller: Option<bool>,
}

impl Meta {
    pub(super) fn read(raw: &RawObject) -> Result<Self, Rejection> {
        let mut meta: Self = lenient(raw.value.get("metadata").unwrap_or(&Value::Null), "metadata")?;
        // The key has the namespace that was filled in for an object without one.
        meta.namespace = raw.key.namespace.clone();
        meta.name = raw.key.name.clone();
        Ok(meta)
    }

    pub(super) fn of_key(key: &ObjectKey) -> Self {
        Self {
            name: key.name.clone(),
            namespace: key.namespace.clone(),
            ..Self::default()
        }
    }

    /// Whether the object is to be looked at and not enforced.
    pub fn is_dry_run(&self) -> bool {
        let annotation = self.annotations.get("istio.io/dry-run");
        annotation.is_some_and(|value| &**value == "true")
    }
}

/// Kubernetes writes `null` where a client left a list or map out.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads the part of an object below `prefix`; fields that are not known are nobody's business.
pub(super) fn lenient<T: DeserializeOwned + Default>(value: &Value, prefix: &str) -> Result<T, Rejection> {
    if value.is_null() {
        return Ok(T::default());
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = join(prefix, &error.path().to_string());
        Rejection::invalid(path, error.into_inner().to_string())
    })
}

/// Reads `spec` of an Istio object; an unknown field rejects it.
pub(super) fn strict<T: DeserializeOwned>(raw: &RawObject) -> Result<T, Rejection> {
    const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    let unknown = raw
        .value
        .as_object()
        .and_then(|o| o.keys().find(|k| !TOP.contains(&k.as_str())));
    if let Some(key) = unknown {
        return Err(Rejection::invalid(
            key.as_str(),
            format!("unknown field; an object has {}", TOP.join(", ")),
        ));
    }
    let empty = Value::Object(serde_json::Map::new());
    let spec = match raw.value.get("spec") {
        None | Some(Value::Null) => &empty,
        Some(spec) => spec,
    };
    strict_value(spec, "spec")
}

fn strict_value<T: DeserializeOwned>(value: &Value, prefix: &str) -> Result<T, Rejection> {
    let (parsed, unknown) = tracked(value, prefix)?;
    match unknown.split_first() {
        None => Ok(parsed),
        Some((first, [])) => Err(Rejection::invalid(first.as_str(), UNKNOWN)),
        Some((first, rest)) => Err(Rejection::invalid(
            first.as_str(),
            format!("{UNKNOWN} (also unknown: {})", rest.join(", ")),
        )),
    }
}

/// Reads the part of an object below `prefix`, and names the first fields that are not known.
pub(super) fn noting<T: DeserializeOwned + Default>(
    value: &Value,
    prefix: &str,
) -> Result<(T, Vec<String>), Rejection> {
    if value.is_null() {
        return Ok((T::default(), Vec::new()));
    }
    tracked(value, prefix)
}

fn tracked<T: DeserializeOwned>(value: &Value, prefix: &str) -> Result<(T, Vec<String>), Rejection> {
    let mut track = serde_path_to_error::Track::new();
    let mut unknown = Vec::new();
    let reader = serde_path_to_error::Deserializer::new(value, &mut track);
    let read = serde_ignored::deserialize(reader, |path| {
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(join(prefix, &plain_path(&path)));
        }
    });
    let parsed: T = read.map_err(|error: serde_json::Error| {
        Rejection::invalid(join(prefix, &track.path().to_string()), error.to_string())
    })?;
    Ok((parsed, unknown))
}

const UNKNOWN: &str = "unknown field; check its spelling and indentation";
/// An object with more unknown fields than this names only the first ones.
const MAX_UNKNOWN: usize = 10;

fn join(prefix: &str, path: &str) -> String {
    match path {
        "" | "." => prefix.to_owned(),
        index if index.starts_with('[') => format!("{prefix}{index}"),
        field => format!("{prefix}.{field}"),
    }
}

/// `serde_ignored` prints an optional as `?` and an index as `.0`; people read `[0]`.
fn plain_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", plain_path(parent)),
        Path::Map { parent, key } => {
            let parent = plain_path(parent);
            if parent.is_empty() {
                key.clone()
            } else {
                format!("{parent}.{key}")
            }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            plain_path(parent)
        }
    }
}
