//! MeshConfig: the key `mesh` of the ConfigMap `istio` in the control plane's namespace.
//!
//! Two keys act: `accessLogFile`, for the proxies that the control plane deploys, and `discoverySelectors`. Some may only
//! repeat what flags say. Every other key that a user set is answered for, instead of being ignored in silence; a key
//! that says what the mesh does anyway draws no warning.

mod scope;

use serde_json::{Map, Value};

use crate::compile::Settings;
use crate::objects::{Notice, Object, ObjectKey};
use crate::store::Store;

pub use scope::Scope;

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
    /// One for each key that is set and does not act, within reason; also where the text is no YAML mapping.
    pub notices: Vec<Notice>,
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

impl MeshConfig {
    pub fn of(store: &Store, settings: &Settings) -> Self {
        let key = ObjectKey::new("", "ConfigMap", &settings.namespace, CONFIG_MAP);
        match store.in_effect_of(&key).map(|object| &object.outcome) {
            Some(Ok(Object::ConfigMap(map))) => match map.data.get(KEY) {
                Some(text) => Self::parse(text, Running::of(settings)),
                None => Self::default(),
            },
            _ => Self::default(),
        }
    }

    fn parse(text: &str, running: Running<'_>) -> Self {
        match serde_saphyr::from_str::<Value>(text) {
            Ok(Value::Object(keys)) => Self::read(&keys, running),
            Ok(Value::Null) => Self::default(),
            Ok(_) => Self::unusable("is not a YAML mapping; nothing of it is in effect"),
            Err(error) => {
                let line = error.to_string().lines().next().unwrap_or_default().to_owned();
                Self::unusable(&format!("is not YAML ({line}); nothing of it is in effect"))
            }
        }
    }

    fn read(keys: &Map<String, Value>, running: Running<'_>) -> Self {
        let mut answers = Answers::default();
        let mut config = Self::default();
        for (key, value) in keys {
            let field = field(key);
            match key.as_str() {
                ACCESS_LOG => match access_log(value) {
                    Ok(on) => config.access_log = Some(on),
                    Err(why) => answers.add(|| Notice::not_supported(field, why)),
                },
                SELECTORS => match Scope::parse(value, [running.namespace, running.root_namespace]) {
                    Ok(scope) => config.scope = scope,
                    Err(why) => answers.add(|| Notice::warning(field, why.to_string())),
                },
                key if running.does(key, value) => {}
                key => answers.add(|| Notice::not_supported(field, running.answer(key))),
            }
        }
        config.notices = answers.finish();
        config
    }

    fn unusable(why: &str) -> Self {
        Self {
            notices: vec![Notice::warning(format!("data.{KEY}"), why)],
            ..Self::default()
        }
    }
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
    fn answers_for_every_key_that_does_not_act() {
        let config = parse("enableAutoMtls: true\naccessLogFile: /dev/stdout\nfoo: {bar: 1}\n");
        let fields: Vec<&str> = config.notices.iter().map(|n| n.field.as_str()).collect();
        assert_eq!(fields, ["data.mesh.foo"]);
        assert!(parse(": : :").notices[0].message.contains("not YAML"));
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
    fn selectors_that_cannot_be_applied_whole_are_refused_whole() {
        let config = parse("discoverySelectors: [{matchLabels: {mesh: a}}, {matchLabel: {mesh: b}}]\n");
        assert_eq!(config.scope, Scope::default());
        let message = &config.notices[0].message;
        assert!(
            message.contains("matchLabel") && message.contains("every namespace"),
            "{message}"
        );
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
