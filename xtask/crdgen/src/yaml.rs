//! Writes JSON values as YAML, with one extension: a value may be written once and referred to after.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

const ANCHOR: &str = "&";
const ALIAS: &str = "*";

/// `value`, to be referred to as `name` further down.
pub(crate) fn anchor(name: &str, value: &Value) -> Value {
    json!({ANCHOR: name, "value": value})
}

/// What was anchored as `name`.
pub(crate) fn alias(name: &str) -> Value {
    json!({ALIAS: name})
}

pub(crate) fn document(value: &Value) -> String {
    let mut text = String::new();
    if let Value::Object(map) = value {
        write_map(map, 0, &mut text);
    }
    text
}

/// Writes what stands after `key:` or `-`, with the line's end.
fn write_after(value: &Value, indent: usize, text: &mut String) {
    if let Some(name) = value.get(ALIAS).and_then(Value::as_str) {
        text.push_str(&format!(" *{name}\n"));
        return;
    }
    let mut value = value;
    if let Some(name) = value.get(ANCHOR).and_then(Value::as_str) {
        text.push_str(&format!(" &{name}"));
        value = &value["value"];
    }
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            write_map(map, indent, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_list(items, indent, text);
        }
        scalar => text.push_str(&format!(" {}\n", plain(scalar))),
    }
}

fn write_map(map: &Map<String, Value>, indent: usize, text: &mut String) {
    // Sorted here, since serde_json sorts only as long as nothing in the build asks it not to.
    let sorted: BTreeMap<&String, &Value> = map.iter().collect();
    for (key, value) in sorted {
        text.push_str(&" ".repeat(indent));
        text.push_str(&plain(&json!(key)));
        text.push(':');
        write_after(value, indent + 2, text);
    }
}

fn write_list(items: &[Value], indent: usize, text: &mut String) {
    for item in items {
        let mut inner = String::new();
        write_after(item, indent + 2, &mut inner);
        text.push_str(&" ".repeat(indent));
        text.push('-');
        // The first line of a map stands beside the dash.
        match inner.strip_prefix('\n') {
            Some(lines) => text.push_str(&format!(" {}", lines.trim_start())),
            None => text.push_str(&inner),
        }
    }
}

/// Without quotes where YAML 1.1 and 1.2 both read it as the text that it is.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        // JSON's strings are YAML's double-quoted ones.
        other => other.to_string(),
    }
}

fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"];
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./ ,;()'+".contains(c))
        && !text.ends_with(' ')
        && !WORDS.contains(&text.to_lowercase().as_str())
}
