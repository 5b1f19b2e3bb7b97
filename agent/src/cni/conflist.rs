//! The runtime's network configuration with our plugin at the end of its chain, and without it.
//!
//! Pure: text in, text out. The formats are those of the CNI specification 1.1, section 1: a list of plugins, or, in
//! files that end in `.conf`, one plugin alone.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::plugin::NAME;

/// No version means the first (section 1.2 of older editions).
const OLD: [&str; 3] = ["", "0.1.0", "0.2.0"];

/// Why a file is no network configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is not JSON: {0}")]
    Json(String),
    #[error("it has neither `plugins` nor `type`")]
    Shape,
    #[error("its cniVersion is {0:?}; results tell addresses from 0.3.0 on")]
    Version(String),
}

/// With our plugin last; a single plugin becomes a list.
pub(super) fn with_plugin(text: &str, folder: &Path) -> Result<String, Unusable> {
    let mut list = into_list(parse(text)?)?;
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if OLD.contains(&version) {
        return Err(Unusable::Version(version.to_owned()));
    }
    let ours = json!({ "type": NAME, "folder": folder });
    let plugins = plugins_of(&mut list)?;
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.push(ours);
    Ok(print(&list))
}

/// Without our plugin; none where it is not there.
pub(super) fn without_plugin(text: &str) -> Result<Option<String>, Unusable> {
    let mut list = parse(text)?;
    let Ok(plugins) = plugins_of(&mut list) else {
        return Ok(None);
    };
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    let is_changed = plugins.len() < before;
    Ok(is_changed.then(|| print(&list)))
}

/// Whether two texts say the same.
pub(super) fn same(one: &str, other: &str) -> bool {
    match (parse(one), parse(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn parse(text: &str) -> Result<Map<String, Value>, Unusable> {
    serde_json::from_str(text).map_err(|error| Unusable::Json(error.to_string()))
}

fn print(list: &Map<String, Value>) -> String {
    let mut text = serde_json::to_string_pretty(list).unwrap_or_default();
    text.push('\n');
    text
}

fn into_list(conf: Map<String, Value>) -> Result<Map<String, Value>, Unusable> {
    if conf.contains_key("plugins") {
        return Ok(conf);
    }
    if !conf.contains_key("type") {
        return Err(Unusable::Shape);
    }
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        if let Some(value) = conf.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), json!([conf]));
    Ok(list)
}

fn plugins_of(list: &mut Map<String, Value>) -> Result<&mut Vec<Value>, Unusable> {
    list.get_mut("plugins")
        .and_then(Value::as_array_mut)
        .ok_or(Unusable::Shape)
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"k8s","disableCheck":true,"plugins":[{"type":"bridge","x":1},{"type":"portmap"}]}"#;

    fn types(text: &str) -> Vec<String> {
        let mut list = parse(text).unwrap();
        let plugins = plugins_of(&mut list).unwrap();
        plugins
            .iter()
            .map(|p| p["type"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn our_plugin_is_last_once_and_the_rest_stays() {
        let once = with_plugin(LIST, Path::new("/etc/cni/net.d/aquifer")).unwrap();
        assert_eq!(types(&once), ["bridge", "portmap", NAME]);
        assert!(once.contains("\"disableCheck\": true") && once.contains("/etc/cni/net.d/aquifer"));
        let twice = with_plugin(&once, Path::new("/etc/cni/net.d/aquifer")).unwrap();
        assert_eq!(once, twice);
    }

    #[test]
    fn taken_out_again_it_is_what_it_was() {
        let with = with_plugin(LIST, Path::new("/f")).unwrap();
        let without = without_plugin(&with).unwrap().unwrap();
        assert!(same(&without, LIST));
        assert_eq!(without_plugin(&without).unwrap(), None);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = r#"{"cniVersion":"0.3.1","name":"old","type":"bridge","bridge":"cni0"}"#;
        let list = with_plugin(single, Path::new("/f")).unwrap();
        assert_eq!(types(&list), ["bridge", NAME]);
        let parsed = parse(&list).unwrap();
        assert_eq!(
            (&parsed["name"], &parsed["cniVersion"]),
            (&json!("old"), &json!("0.3.1"))
        );
        assert_eq!(without_plugin(single).unwrap(), None);
    }

    #[test]
    fn what_is_no_configuration_is_left_alone_with_a_reason() {
        let old = r#"{"cniVersion":"0.2.0","name":"x","plugins":[]}"#;
        for bad in [
            "",
            "[]",
            "{",
            r#"{"name":"x"}"#,
            r#"{"plugins":{}}"#,
            r#"{"name":"x","type":"y"}"#,
            old,
        ] {
            assert!(with_plugin(bad, Path::new("/f")).is_err(), "{bad}");
        }
        assert!(without_plugin("{").is_err());
    }
}
