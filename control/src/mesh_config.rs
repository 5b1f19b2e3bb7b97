//! MeshConfig: the key `mesh` of the ConfigMap `istio` in the root namespace.
//!
//! Nothing of it is in effect in this version beyond what flags already say. It is read so that every key that a user
//! set is answered for, instead of being ignored in silence.

use serde_json::Value;

use crate::compile::inputs::Inputs;
use crate::objects::Notice;

pub const CONFIG_MAP: &str = "istio";
const KEY: &str = "mesh";

#[derive(Clone, Debug, Default)]
pub struct MeshConfig {
    /// One for each key that is set, within reason; also where the text is no YAML mapping.
    pub notices: Vec<Notice>,
}

/// MeshConfig has some sixty keys.
const MOST_NOTICES: usize = 100;

/// Values that say what the mesh does anyway.
const MATCHING_DEFAULTS: [(&str, &str); 3] = [
    ("enableAutoMtls", "true"),
    ("rootNamespace", "istio-system"),
    ("trustDomain", "cluster.local"),
];

impl MeshConfig {
    pub fn of(inputs: &Inputs, root_namespace: &str) -> Self {
        let is_mesh = |m: &crate::objects::Meta| &*m.name == CONFIG_MAP && &*m.namespace == root_namespace;
        let map = inputs.config_maps.iter().find(|c| is_mesh(&c.meta));
        match map.and_then(|c| c.spec.data.get(KEY)) {
            Some(text) => Self::parse(text),
            None => Self::default(),
        }
    }

    fn parse(text: &str) -> Self {
        let field = format!("data.{KEY}");
        let notices = match serde_saphyr::from_str::<Value>(text) {
            Ok(Value::Object(keys)) => answers(&field, &keys),
            Ok(Value::Null) => Vec::new(),
            Ok(_) => vec![Notice::warning(
                field,
                "is not a YAML mapping; nothing of it is in effect",
            )],
            Err(error) => {
                let line = error.to_string().lines().next().unwrap_or_default().to_owned();
                vec![Notice::warning(
                    field,
                    format!("is not YAML ({line}); nothing of it is in effect"),
                )]
            }
        };
        Self { notices }
    }
}

/// One for each key up to a number that people read, and one for the rest.
fn answers(field: &str, keys: &serde_json::Map<String, Value>) -> Vec<Notice> {
    let mut all = keys.iter().filter_map(|(key, value)| notice(field, key, value));
    let mut notices: Vec<Notice> = all.by_ref().take(MOST_NOTICES).collect();
    let rest = all.count();
    if rest > 0 {
        let message = format!("{rest} more keys are not read by this version either");
        notices.push(Notice::warning(field.to_owned(), message));
    }
    notices
}

fn notice(field: &str, key: &str, value: &Value) -> Option<Notice> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let expected = MATCHING_DEFAULTS.iter().any(|(k, v)| *k == key && *v == text);
    let field = format!("{field}.{key}");
    (!expected).then(|| Notice::not_supported(field, "is not read by this version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_for_every_key() {
        let config = MeshConfig::parse("enableAutoMtls: true\naccessLogFile: /dev/stdout\nfoo: {bar: 1}\n");
        let fields: Vec<&str> = config.notices.iter().map(|n| n.field.as_str()).collect();
        assert_eq!(fields, ["data.mesh.accessLogFile", "data.mesh.foo"]);
        assert!(MeshConfig::parse(": : :").notices[0].message.contains("not YAML"));
        assert!(MeshConfig::parse("").notices.is_empty());
    }

    #[test]
    fn a_megabyte_of_nonsense_is_answered_for_and_breaks_nothing() {
        let keys: String = (0..20_000)
            .map(|n| format!("key{n}: [{{a: {n}}}, true, \"x\"]\n"))
            .collect();
        let many = MeshConfig::parse(&keys);
        assert_eq!(many.notices.len(), MOST_NOTICES + 1);
        let last = &many.notices[MOST_NOTICES].message;
        assert!(last.starts_with("19900 more keys"), "{last}");
        let wrong = MeshConfig::parse("enableAutoMtls: [1]\ntrustDomain: {a: b}\nrootNamespace: 7\n");
        assert_eq!(wrong.notices.len(), 3, "of a known key too: {:?}", wrong.notices);
        for text in [
            "[".repeat(1 << 20),
            "a: &a [*a, *a]".repeat(50_000),
            "- 1\n".repeat(300_000),
            "\u{0}".to_owned(),
        ] {
            assert_eq!(MeshConfig::parse(&text).notices.len(), 1);
        }
    }
}
