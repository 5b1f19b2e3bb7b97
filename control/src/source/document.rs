//! One file to objects: YAML or JSON, several documents, each on its own.

use std::sync::Arc;

use serde_json::Value;

use crate::objects::{ObjectKey, RawObject};

/// Larger files are refused; etcd takes 1.5 MiB per object.
pub const MAX_FILE: usize = 8 * 1024 * 1024;
const MAX_DOCUMENTS: usize = 10_000;
/// A `List` may hold lists; nobody nests them deeper.
const MAX_LIST_DEPTH: usize = 3;
const CLUSTER_SCOPED: [&str; 8] = [
    "Namespace",
    "Node",
    "GatewayClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "PersistentVolume",
    "StorageClass",
];

/// The objects of a file, and what of it could not be read.
#[derive(Debug, Default)]
pub struct Parsed {
    pub objects: Vec<Arc<RawObject>>,
    pub problems: Vec<String>,
}

pub fn parse(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    if bytes.len() > MAX_FILE {
        parsed
            .problems
            .push(format!("is larger than {} MiB", MAX_FILE / 1024 / 1024));
        return parsed;
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        parsed
            .problems
            .push("is not UTF-8 text; is it a binary file?".to_owned());
        return parsed;
    };
    for (i, document) in documents(text).into_iter().enumerate() {
        if i >= MAX_DOCUMENTS {
            parsed.problems.push(format!(
                "has more than {MAX_DOCUMENTS} documents; the rest is not read"
            ));
            break;
        }
        let place = format!("document {}", i + 1);
        match value(document) {
            Ok(Value::Null) => {}
            Ok(value) => take(value, &place, 0, &mut parsed),
            Err(reason) => parsed.problems.push(format!("{place}: {reason}")),
        }
    }
    parsed
}

/// Splits at lines that start with `---`, so that a broken document does not take the others with it.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            documents.push(&text[start..at]);
            start = at + 3;
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    documents
}

fn value(document: &str) -> Result<Value, String> {
    let trimmed = document.trim_start_matches('\u{feff}').trim_start();
    if trimmed.is_empty() {
        return Ok(Value::Null);
    }
    if trimmed.starts_with('{') {
        // JSON is YAML too, but its own parser is faster and words errors better.
        if let Ok(value) = serde_json::from_str(trimmed) {
            return Ok(value);
        }
    }
    serde_saphyr::from_str::<Value>(document).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        format!("is not YAML: {}", line.chars().take(300).collect::<String>())
    })
}

fn take(value: Value, place: &str, depth: usize, parsed: &mut Parsed) {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind.ends_with("List") && value.get("items").is_some_and(Value::is_array) && depth < MAX_LIST_DEPTH {
        let Value::Object(mut list) = value else { return };
        let Some(Value::Array(items)) = list.remove("items") else {
            return;
        };
        for (i, item) in items.into_iter().take(MAX_DOCUMENTS).enumerate() {
            take(item, &format!("{place}, item {}", i + 1), depth + 1, parsed);
        }
        return;
    }
    match raw_object(value) {
        Ok(object) => parsed.objects.push(Arc::new(object)),
        Err(reason) => parsed.problems.push(format!("{place}: {reason}")),
    }
}

fn raw_object(value: Value) -> Result<RawObject, String> {
    if !value.is_object() {
        return Err("is not an object with apiVersion, kind and metadata".to_owned());
    }
    let api_version = text(&value, &["apiVersion"])?;
    let kind = text(&value, &["kind"])?;
    let name = text(&value, &["metadata", "name"])?;
    let namespace = match value.pointer("/metadata/namespace") {
        _ if CLUSTER_SCOPED.contains(&kind.as_str()) => String::new(),
        Some(Value::String(namespace)) if !namespace.is_empty() => namespace.clone(),
        None | Some(Value::Null | Value::String(_)) => "default".to_owned(),
        Some(_) => return Err(format!("metadata.namespace of {kind} {name} is not text")),
    };
    if [&name, &namespace]
        .into_iter()
        .any(|n| n.len() > 253 || n.contains('/'))
    {
        return Err(format!(
            "{kind} has a name or namespace that no Kubernetes object can have"
        ));
    }
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let key = ObjectKey::new(group, &kind, &namespace, &name);
    Ok(RawObject {
        key,
        api_version: api_version.as_str().into(),
        value,
    })
}

fn text(value: &Value, path: &[&str]) -> Result<String, String> {
    let found = path.iter().try_fold(value, |value, field| value.get(field));
    match found {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(Value::Null | Value::String(_)) | None => Err(format!("{} is missing", path.join("."))),
        Some(_) => Err(format!("{} is not text", path.join("."))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        parse(text.as_bytes())
            .objects
            .iter()
            .map(|o| o.key.to_string())
            .collect()
    }

    #[test]
    fn one_broken_document_leaves_the_others() {
        let text = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n---\n{ broken: [\n---\n# nothing\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n";
        let parsed = parse(text.as_bytes());
        assert_eq!(names(text), ["ServiceAccount default/a", "Namespace b"]);
        assert_eq!(parsed.problems.len(), 1);
        assert!(
            parsed.problems[0].starts_with("document 2: is not YAML"),
            "{:?}",
            parsed.problems
        );
    }

    #[test]
    fn reads_json_lists() {
        let text = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"x","namespace":"y"}}]}"#;
        assert_eq!(names(text), ["Service y/x"]);
    }

    #[test]
    fn says_what_is_missing() {
        let problem = |text: &str| parse(text.as_bytes()).problems.join("|");
        assert!(problem("kind: Pod\nmetadata: {name: a}").contains("apiVersion is missing"));
        assert!(problem("apiVersion: v1\nkind: [Pod]\nmetadata: {name: a}").contains("kind is not text"));
        assert!(problem("- a\n- b").contains("is not an object"));
        assert!(
            problem("apiVersion: v1\nkind: Pod\nmetadata: {name: ../../etc}")
                .contains("no Kubernetes object")
        );
        assert!(parse(&[0xff, 0xfe, 0x00]).problems[0].contains("not UTF-8"));
        assert!(!parse(&vec![b'x'; 1 << 20]).problems.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn never_panics_on_text(text in "[-a-z{}\\[\\]:&*!|> \\n\"']{0,200}") {
            let _ = parse(text.as_bytes());
        }
    }
}
