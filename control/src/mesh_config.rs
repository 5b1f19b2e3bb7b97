//! MeshConfig: the key `mesh` of the ConfigMap `istio` in the control plane's namespace.
//!
//! Two keys act: `accessLogFile`, for the proxies that the control plane deploys, and `discoverySelectors`. Some may only
//! repeat what flags say. Every other key that a user set is answered for, instead of being ignored in silence; a key
//! that says what the mesh does anyway draws no warning.
//!
//! A text that cannot be read, or with selectors that cannot be applied, rejects the object as a whole: as of other
//! objects that are rejected, the last accepted version stays in effect, so that no slip of a pen brings namespaces into
//! the mesh that were left out.

mod scope;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::compile::Settings;
use crate::objects::kube::ConfigMap;
use crate::objects::{Notice, Object, ObjectKey, ParsedObject, Rejection};
use crate::store::Store;

pub use scope::Scope;
use scope::Selectors;

pub const CONFIG_MAP: &str = "istio";
const KEY: &str = "mesh";
const ACCESS_LOG: &str = "accessLogFile";
const SELECTORS: &str = "discoverySelectors";
/// The one file that proxies write access logs to.
const STDOUT: &str = "/dev/stdout";

#[derive(Clone, Debug, Default)]
pub struct MeshConfig {
    /// Whether deployed proxies write access logs; none where nothing is said, or nothing that can be done.
    pub access_log: Option<bool>,
    /// The namespaces that the mesh looks at.
    pub scope: Scope,
    /// One for each key that is set and does not act, within reason.
    pub notices: Vec<Notice>,
}

/// Settings that can be in effect, whatever the control plane runs with.
#[derive(Clone, Debug, Default)]
pub struct Written {
    keys: Map<String, Value>,
    selectors: Selectors,
}

/// MeshConfig has some sixty keys.
const MOST_NOTICES: usize = 100;

/// What this control plane runs with, and the settings may only repeat.
#[derive(Clone, Copy)]
struct Running<'a> {
    trust_domain: &'a str,
    root_namespace: &'a str,
    namespace: &'a str,
}

impl<'a> Running<'a> {
    fn of(settings: &'a Settings) -> Self {
        Self {
            trust_domain: settings.trust_domain.as_str(),
            root_namespace: &settings.root_namespace,
            namespace: &settings.namespace,
        }
    }

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

/// The object with the mesh's settings, read as such.
pub fn read(object: ParsedObject) -> ParsedObject {
    let outcome = match object.outcome {
        Ok(Object::ConfigMap(map)) => {
            Written::of(&map).map(|written| Object::MeshSettings(Arc::new(written)))
        }
        other => other,
    };
    ParsedObject { outcome, ..object }
}

/// Where the settings of a control plane in this namespace are.
pub fn key(namespace: &str) -> ObjectKey {
    ObjectKey::new("", "ConfigMap", namespace, CONFIG_MAP)
}

impl Written {
    fn of(map: &ConfigMap) -> Result<Self, Rejection> {
        match map.data.get(KEY) {
            Some(text) => Self::parse(text),
            None => Err(rejection("is missing; write an empty text for the defaults")),
        }
    }

    fn parse(text: &str) -> Result<Self, Rejection> {
        let keys = match serde_saphyr::from_str::<Value>(text) {
            Ok(Value::Object(keys)) => keys,
            Ok(Value::Null) => Map::new(),
            Ok(_) => return Err(rejection("is not a YAML mapping")),
            Err(error) => {
                let line = error.to_string().lines().next().unwrap_or_default().to_owned();
                return Err(rejection(format!("is not YAML ({line})")));
            }
        };
        let selectors = keys.get(SELECTORS).map(Selectors::parse).transpose();
        let selectors = selectors.map_err(|error| Rejection::invalid(field(SELECTORS), error.to_string()))?;
        Ok(Self {
            selectors: selectors.unwrap_or_default(),
            keys,
        })
    }

    fn resolve(&self, running: Running<'_>) -> MeshConfig {
        let mut answers = Answers::default();
        let mut config = MeshConfig {
            scope: self.selectors.with([running.namespace, running.root_namespace]),
            ..MeshConfig::default()
        };
        for (key, value) in &self.keys {
            match key.as_str() {
                SELECTORS => {}
                ACCESS_LOG => match access_log(value) {
                    Ok(on) => config.access_log = Some(on),
                    Err(why) => answers.add(|| Notice::not_supported(field(key), why)),
                },
                key if running.does(key, value) => {}
                key => answers.add(|| Notice::not_supported(field(key), running.answer(key))),
            }
        }
        config.notices = answers.finish();
        config
    }
}

impl MeshConfig {
    /// What is in effect; the defaults where there are no settings, and where none were ever accepted.
    pub fn of(store: &Store, settings: &Settings) -> Self {
        let in_effect = store.in_effect_of(&key(&settings.namespace));
        match in_effect.map(|object| &object.outcome) {
            Some(Ok(Object::MeshSettings(written))) => written.resolve(Running::of(settings)),
            _ => Self::default(),
        }
    }
}

fn rejection(reason: impl Into<String>) -> Rejection {
    Rejection::invalid(format!("data.{KEY}"), reason)
}

fn field(key: &str) -> String {
    format!("data.{KEY}.{key}")
}

fn access_log(value: &Value) -> Result<bool, &'static str> {
    match value.as_str() {
        Some("") => Ok(false),
        Some(STDOUT) => Ok(true),
        _ => Err("can be /dev/stdout or empty in this version; proxies log as if it were not set"),
    }
}

/// One for each key up to a number that people read, and one for the rest.
#[derive(Default)]
struct Answers {
    notices: Vec<Notice>,
    rest: usize,
}

impl Answers {
    fn add(&mut self, notice: impl FnOnce() -> Notice) {
        match self.notices.len() < MOST_NOTICES {
            true => self.notices.push(notice()),
            false => self.rest += 1,
        }
    }

    fn finish(mut self) -> Vec<Notice> {
        if self.rest > 0 {
            let message = format!("{} more keys are without effect in this version", self.rest);
            self.notices.push(Notice::warning(format!("data.{KEY}"), message));
        }
        self.notices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Running<'_> = Running {
        trust_domain: "td.example",
        root_namespace: "mesh",
        namespace: "mesh-system",
    };

    fn parse(text: &str) -> MeshConfig {
        Written::parse(text).unwrap().resolve(RUNNING)
    }

    fn rejected(text: &str) -> String {
        Written::parse(text).unwrap_err().to_string()
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
    fn answers_for_every_key_that_does_not_act() {
        let config = parse("enableAutoMtls: true\naccessLogFile: /dev/stdout\nfoo: {bar: 1}\n");
        let fields: Vec<&str> = config.notices.iter().map(|n| n.field.as_str()).collect();
        assert_eq!(fields, ["data.mesh.foo"]);
        assert!(parse("").notices.is_empty());
    }

    #[test]
    fn access_logs_are_on_or_off_or_as_they_were() {
        let log = |value: &str| parse(&format!("accessLogFile: {value}"));
        assert_eq!(log("/dev/stdout").access_log, Some(true));
        assert_eq!(log("''").access_log, Some(false));
        assert_eq!(parse("{}").access_log, None);
        for odd in ["/var/log/x", "7", "null"] {
            let config = log(odd);
            assert_eq!((config.access_log, config.notices.len()), (None, 1), "{odd}");
        }
    }

    #[test]
    fn what_cannot_be_applied_whole_is_rejected_whole() {
        let wrong = "discoverySelectors: [{matchLabels: {mesh: a}}, {matchLabel: {mesh: b}}]\n";
        let said = rejected(&format!("accessLogFile: /dev/stdout\n{wrong}"));
        assert_eq!(
            said,
            "data.mesh.discoverySelectors: selector 1 has the unknown field \"matchLabel\""
        );
        assert!(rejected(": : :").contains("data.mesh: is not YAML ("));
        assert!(rejected("- 1").contains("is not a YAML mapping"));
        assert!(rejected("accessLogFile: ''\naccessLogFile: ''").contains("is not YAML"));
        let missing = Written::of(&ConfigMap::default()).unwrap_err().to_string();
        assert!(missing.contains("data.mesh: is missing"), "{missing}");
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
            assert!(rejected(&text).starts_with("data.mesh: "));
        }
    }
}
