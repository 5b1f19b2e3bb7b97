//! MeshConfig: the key `mesh` of the ConfigMap `istio` in the control plane's namespace.
//!
//! `accessLogFile` is acted on, for the proxies that the control plane deploys. What flags say already is compared with
//! them. Every other key that a user set is answered for, instead of being ignored in silence.

use serde_json::{Map, Value};

use crate::compile::Settings;
use crate::compile::inputs::Inputs;
use crate::objects::Notice;

pub const CONFIG_MAP: &str = "istio";
const KEY: &str = "mesh";
const ACCESS_LOG: &str = "accessLogFile";
/// The one file that proxies write access logs to.
const STDOUT: &str = "/dev/stdout";
/// MeshConfig has some sixty keys.
const MOST_NOTICES: usize = 100;

#[derive(Clone, Debug, Default)]
pub struct MeshConfig {
    /// Whether proxies write access logs; none where nothing is said, or nothing that can be done.
    pub access_log: Option<bool>,
    /// One for each key that has no effect, within reason; also where the text is no YAML mapping.
    pub notices: Vec<Notice>,
}

/// A key whose value the control plane was started with.
struct Given<'a> {
    key: &'static str,
    value: &'a str,
    /// Where it is said instead.
    said: &'static str,
}

impl MeshConfig {
    pub fn of(inputs: &Inputs, settings: &Settings) -> Self {
        let is_mesh = |m: &crate::objects::Meta| &*m.name == CONFIG_MAP && m.namespace == settings.namespace;
        let map = inputs.config_maps.iter().find(|c| is_mesh(&c.meta));
        match map.and_then(|c| c.spec.data.get(KEY)) {
            Some(text) => Self::parse(text, &given(settings)),
            None => Self::default(),
        }
    }

    fn parse(text: &str, given: &[Given<'_>]) -> Self {
        let field = format!("data.{KEY}");
        match serde_saphyr::from_str::<Value>(text) {
            Ok(Value::Object(keys)) => Self {
                access_log: keys.get(ACCESS_LOG).and_then(access_log),
                notices: answers(&field, &keys, given),
            },
            Ok(Value::Null) => Self::default(),
            Ok(_) => Self::unusable(field, "is not a YAML mapping; nothing of it is in effect"),
            Err(error) => {
                let line = error.to_string().lines().next().unwrap_or_default().to_owned();
                Self::unusable(
                    field,
                    &format!("is not YAML ({line}); nothing of it is in effect"),
                )
            }
        }
    }

    fn unusable(field: String, why: &str) -> Self {
        Self {
            access_log: None,
            notices: vec![Notice::warning(field, why)],
        }
    }
}

fn given(settings: &Settings) -> [Given<'_>; 3] {
    [
        Given {
            key: "enableAutoMtls",
            value: "true",
            said: "between pods of the mesh TLS is always mutual",
        },
        Given {
            key: "rootNamespace",
            value: &settings.root_namespace,
            said: "the control plane's ROOT_NAMESPACE decides, which the chart sets from this key",
        },
        Given {
            key: "trustDomain",
            value: settings.trust_domain.as_str(),
            said: "the control plane's TRUST_DOMAIN decides; with the chart set global.trustDomain",
        },
    ]
}

fn access_log(value: &Value) -> Option<bool> {
    match value.as_str()? {
        "" => Some(false),
        STDOUT => Some(true),
        _ => None,
    }
}

/// One for each key up to a number that people read, and one for the rest.
fn answers(field: &str, keys: &Map<String, Value>, given: &[Given<'_>]) -> Vec<Notice> {
    let mut all = keys
        .iter()
        .filter_map(|(key, value)| notice(field, key, value, given));
    let mut notices: Vec<Notice> = all.by_ref().take(MOST_NOTICES).collect();
    let rest = all.count();
    if rest > 0 {
        let message = format!("{rest} more keys are not read by this version either");
        notices.push(Notice::warning(field.to_owned(), message));
    }
    notices
}

fn notice(field: &str, key: &str, value: &Value, given: &[Given<'_>]) -> Option<Notice> {
    let field = format!("{field}.{key}");
    if key == ACCESS_LOG {
        let message = "can be /dev/stdout or empty in this version; proxies log as if it were not set";
        return access_log(value)
            .is_none()
            .then(|| Notice::not_supported(field, message));
    }
    let Some(given) = given.iter().find(|given| given.key == key) else {
        return Some(Notice::not_supported(field, "is not read by this version"));
    };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let differs = || {
        let (value, said) = (given.value, given.said);
        Notice::warning(
            field,
            format!("has no effect: it is {value} in this mesh, since {said}"),
        )
    };
    (text != given.value).then(differs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: [Given<'_>; 2] = [
        Given {
            key: "enableAutoMtls",
            value: "true",
            said: "x",
        },
        Given {
            key: "trustDomain",
            value: "corp.example",
            said: "TRUST_DOMAIN decides",
        },
    ];

    #[test]
    fn answers_for_every_key_that_has_no_effect() {
        let text =
            "enableAutoMtls: true\ntrustDomain: corp.example\naccessLogFile: /dev/stdout\nfoo: {bar: 1}\n";
        let config = MeshConfig::parse(text, &GIVEN);
        let fields: Vec<&str> = config.notices.iter().map(|n| n.field.as_str()).collect();
        assert_eq!(fields, ["data.mesh.foo"]);
        assert_eq!(config.access_log, Some(true));
        assert!(
            MeshConfig::parse(": : :", &GIVEN).notices[0]
                .message
                .contains("not YAML")
        );
        assert!(MeshConfig::parse("", &GIVEN).notices.is_empty());
    }

    #[test]
    fn a_value_that_the_control_plane_was_not_started_with_is_named() {
        let config = MeshConfig::parse("trustDomain: cluster.local\n", &GIVEN);
        let message = &config.notices[0].message;
        assert_eq!(
            message,
            "has no effect: it is corp.example in this mesh, since TRUST_DOMAIN decides"
        );
    }

    #[test]
    fn access_logs_are_on_or_off_or_as_they_were() {
        let log = |text: &str| MeshConfig::parse(text, &GIVEN).access_log;
        assert_eq!(log("accessLogFile: ''"), Some(false));
        assert_eq!(log("{}"), None);
        for odd in ["/var/log/x", "7", "null"] {
            let config = MeshConfig::parse(&format!("accessLogFile: {odd}"), &GIVEN);
            assert_eq!((config.access_log, config.notices.len()), (None, 1), "{odd}");
        }
    }

    #[test]
    fn a_megabyte_of_nonsense_is_answered_for_and_breaks_nothing() {
        let keys: String = (0..20_000)
            .map(|n| format!("key{n}: [{{a: {n}}}, true, \"x\"]\n"))
            .collect();
        let many = MeshConfig::parse(&keys, &GIVEN);
        assert_eq!(many.notices.len(), MOST_NOTICES + 1);
        let last = &many.notices[MOST_NOTICES].message;
        assert!(last.starts_with("19900 more keys"), "{last}");
        let wrong = MeshConfig::parse(
            "enableAutoMtls: [1]\ntrustDomain: {a: b}\nrootNamespace: 7\n",
            &GIVEN,
        );
        assert_eq!(wrong.notices.len(), 3, "of a known key too: {:?}", wrong.notices);
        for text in [
            "[".repeat(1 << 20),
            "a: &a [*a, *a]".repeat(50_000),
            "- 1\n".repeat(300_000),
            "\u{0}".to_owned(),
        ] {
            assert_eq!(MeshConfig::parse(&text, &GIVEN).notices.len(), 1);
        }
    }
}
