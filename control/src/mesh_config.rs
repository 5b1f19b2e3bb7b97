//! MeshConfig: the key `mesh` of the ConfigMap `istio` in the control plane's namespace.
//!
//! Nothing of it changes what the mesh does in this version: flags do. It is read so that every key that a user set is
//! answered for, instead of being ignored in silence. A key that says what the mesh does anyway draws no warning.

use serde_json::Value;

use crate::compile::Settings;
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

/// What this control plane runs with, and the settings may only repeat.
#[derive(Clone, Copy)]
struct Running<'a> {
    trust_domain: &'a str,
    root_namespace: &'a str,
}

impl Running<'_> {
    /// Whether the key says what the mesh does anyway.
    fn does(&self, key: &str, value: &Value) -> bool {
        match key {
            "enableAutoMtls" => value == &Value::Bool(true),
            "trustDomain" => value == self.trust_domain,
            "rootNamespace" => value == self.root_namespace,
            "outboundTrafficPolicy" => value
                .as_object()
                .is_some_and(|policy| policy.iter().all(|(k, v)| k == "mode" && v == "ALLOW_ANY")),
            _ => false,
        }
    }

    /// Why a key is without effect.
    fn answer(&self, key: &str) -> String {
        match key {
            "trustDomain" => differs(self.trust_domain, "global.trustDomain"),
            "rootNamespace" => differs(self.root_namespace, "meshConfig.rootNamespace"),
            _ => "is not read by this version".to_owned(),
        }
    }
}

fn differs(running: &str, value: &str) -> String {
    format!("is not in effect: the control plane runs with {running}; set it by the chart's value {value}")
}

impl MeshConfig {
    pub fn of(inputs: &Inputs, settings: &Settings) -> Self {
        let running = Running {
            trust_domain: settings.trust_domain.as_str(),
            root_namespace: &settings.root_namespace,
        };
        let is_mesh = |m: &crate::objects::Meta| &*m.name == CONFIG_MAP && m.namespace == settings.namespace;
        let map = inputs.config_maps.iter().find(|c| is_mesh(&c.meta));
        match map.and_then(|c| c.spec.data.get(KEY)) {
            Some(text) => Self::parse(text, running),
            None => Self::default(),
        }
    }

    fn parse(text: &str, running: Running<'_>) -> Self {
        let field = format!("data.{KEY}");
        let notices = match serde_saphyr::from_str::<Value>(text) {
            Ok(Value::Object(keys)) => answers(&field, &keys, running),
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
fn answers(field: &str, keys: &serde_json::Map<String, Value>, running: Running<'_>) -> Vec<Notice> {
    let mut all = keys
        .iter()
        .filter_map(|(key, value)| notice(field, key, value, running));
    let mut notices: Vec<Notice> = all.by_ref().take(MOST_NOTICES).collect();
    let rest = all.count();
    if rest > 0 {
        let message = format!("{rest} more keys are not read by this version either");
        notices.push(Notice::warning(field.to_owned(), message));
    }
    notices
}

fn notice(field: &str, key: &str, value: &Value, running: Running<'_>) -> Option<Notice> {
    let field = format!("{field}.{key}");
    (!running.does(key, value)).then(|| Notice::not_supported(field, running.answer(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Running<'_> = Running {
        trust_domain: "td.example",
        root_namespace: "mesh",
    };

    fn parse(text: &str) -> MeshConfig {
        MeshConfig::parse(text, RUNNING)
    }

    #[test]
    fn what_the_mesh_does_anyway_draws_no_warning() {
        let same = "trustDomain: td.example\nrootNamespace: mesh\nenableAutoMtls: true\n";
        assert!(parse(same).notices.is_empty());
        assert!(
            parse("outboundTrafficPolicy: {mode: ALLOW_ANY}")
                .notices
                .is_empty()
        );
        for other in ["{mode: REGISTRY_ONLY}", "{mode: ALLOW_ANY, x: 1}", "ALLOW_ANY"] {
            let text = format!("outboundTrafficPolicy: {other}");
            assert_eq!(parse(&text).notices.len(), 1, "{other}");
        }
    }

    #[test]
    fn another_domain_or_namespace_is_named_with_the_one_that_runs() {
        let config = parse("trustDomain: cluster.local\nrootNamespace: istio-system\n");
        let mut messages: Vec<&str> = config.notices.iter().map(|n| n.message.as_str()).collect();
        messages.sort_unstable();
        assert_eq!(messages.len(), 2);
        assert!(messages[0].contains("runs with mesh; set it by the chart's value meshConfig.rootNamespace"));
        assert!(messages[1].contains("runs with td.example; set it by the chart's value global.trustDomain"));
    }

    #[test]
    fn answers_for_every_key() {
        let config = parse("enableAutoMtls: true\naccessLogFile: /dev/stdout\nfoo: {bar: 1}\n");
        let fields: Vec<&str> = config.notices.iter().map(|n| n.field.as_str()).collect();
        assert_eq!(fields, ["data.mesh.accessLogFile", "data.mesh.foo"]);
        assert!(parse(": : :").notices[0].message.contains("not YAML"));
        assert!(parse("").notices.is_empty());
    }

    #[test]
    fn a_megabyte_of_nonsense_is_answered_for_and_breaks_nothing() {
        let keys: String = (0..20_000)
            .map(|n| format!("key{n}: [{{a: {n}}}, true, \"x\"]\n"))
            .collect();
        let many = parse(&keys);
        assert_eq!(many.notices.len(), MOST_NOTICES + 1);
        let last = &many.notices[MOST_NOTICES].message;
        assert!(last.starts_with("19900 more keys"), "{last}");
        let wrong = parse("enableAutoMtls: [1]\ntrustDomain: {a: b}\nrootNamespace: 7\n");
        assert_eq!(wrong.notices.len(), 3, "of a known key too: {:?}", wrong.notices);
        for text in [
            "[".repeat(1 << 20),
            "a: &a [*a, *a]".repeat(50_000),
            "- 1\n".repeat(300_000),
            "\u{0}".to_owned(),
        ] {
            assert_eq!(parse(&text).notices.len(), 1);
        }
    }
}
