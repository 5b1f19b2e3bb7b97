//! Who proved to be whom, as the proxies' own metrics tell it.

use std::collections::BTreeMap;

use crate::lab::status::{PodStatus, Status};

/// Connections at the node agents, requests at waypoints and gateways.
const METRICS: [&str; 2] = ["istio_tcp_connections_opened_total", "istio_requests_total"];

/// Two identities that met over mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) source: String,
    pub(crate) destination: String,
}

/// How often each pair met, over every proxy of the lab.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proved(pub(crate) BTreeMap<Pair, u64>);

impl Proved {
    /// Reads the metrics of every agent, waypoint and gateway that `metrics` shows; says what was not readable.
    pub(crate) fn read(
        status: &Status,
        metrics: impl Fn(&PodStatus) -> Result<String, String>,
    ) -> (Self, Vec<String>) {
        let (mut proved, mut problems) = (Self::default(), Vec::new());
        for pod in status.pods.iter().filter(|pod| is_proxy(pod)) {
            match metrics(pod) {
                Ok(text) => proved.add(&text),
                Err(why) => problems.push(format!("metrics of {}/{}: {why}", pod.namespace, pod.name)),
            }
        }
        (proved, problems)
    }

    fn add(&mut self, text: &str) {
        for (pair, count) in text.lines().filter_map(pair) {
            *self.0.entry(pair).or_default() += count;
        }
    }

    /// Every identity that was proved by either side, in order.
    pub(crate) fn identities(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .0
            .keys()
            .flat_map(|pair| [pair.source.clone(), pair.destination.clone()])
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

fn is_proxy(pod: &PodStatus) -> bool {
    let label = |key: &str| pod.labels.get(key).map(String::as_str);
    label("app") == Some("ztunnel")
        || label("istio") == Some("ingressgateway")
        || label("gateway.networking.k8s.io/gateway-name").is_some()
}

/// The pair of a sample line, if both sides proved who they are and something was counted.
fn pair(line: &str) -> Option<(Pair, u64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once('}')?;
    let count = value.split_whitespace().next()?.parse::<f64>().ok()?;
    if !METRICS.contains(&name) || count < 1.0 || label(labels, "connection_security_policy")? != "mutual_tls"
    {
        return None;
    }
    let principal = |key: &str| label(labels, key).filter(|value| value.starts_with("spiffe://"));
    let pair = Pair {
        source: principal("source_principal")?.to_owned(),
        destination: principal("destination_principal")?.to_owned(),
    };
    // Counters are whole numbers far below what a float holds exactly.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at least 1, see above"
    )]
    Some((pair, count as u64))
}

/// The value of one label; values of ours hold neither quotes nor commas.
fn label<'a>(labels: &'a str, key: &str) -> Option<&'a str> {
    labels.split(',').find_map(|label| {
        let (name, value) = label.split_once('=')?;
        (name.trim() == key).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"istio_tcp_connections_opened_total{reporter="destination",source_principal="spiffe://td/ns/a/sa/b",destination_principal="spiffe://td/ns/a/sa/c",connection_security_policy="mutual_tls"} 7"#;

    #[test]
    fn a_mutual_connection_is_a_pair() {
        let (pair, count) = pair(LINE).unwrap();
        assert_eq!((pair.source.as_str(), count), ("spiffe://td/ns/a/sa/b", 7));
        assert_eq!(pair.destination, "spiffe://td/ns/a/sa/c");
    }

    #[test]
    fn plaintext_unknown_peers_and_other_metrics_are_none() {
        assert!(pair(&LINE.replace("mutual_tls", "none")).is_none());
        assert!(pair(&LINE.replace("spiffe://td/ns/a/sa/b", "unknown")).is_none());
        assert!(pair(&LINE.replace("_opened_", "_closed_")).is_none());
        assert!(pair(&LINE.replace("} 7", "} 0")).is_none());
        assert!(pair("# TYPE istio_requests_total counter").is_none());
    }
}
