//! What a CONNECT request says beside where it wants to go.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_core::baggage::Baggage;
use aquifer_core::forwarded::Forwarded;
use aquifer_core::workload::Workload;
use http::{HeaderMap, HeaderValue};
use rand::Rng;

/// `baggage`, `forwarded` and `traceparent`. A value that cannot be a header is left out: none is needed.
pub(super) fn request(
    source: &Workload,
    client: SocketAddr,
    host: Option<&Arc<str>>,
    rng: &mut impl Rng,
) -> HeaderMap {
    let forwarded = Forwarded {
        client: Some(client),
        host: host.cloned(),
    };
    let mut headers = HeaderMap::with_capacity(3);
    put(&mut headers, "baggage", &Baggage::of(source).to_header());
    put(&mut headers, "forwarded", &forwarded.to_header());
    put(&mut headers, "traceparent", &traceparent(rng));
    headers
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// W3C Trace Context; an id of zeros means none and is not allowed.
fn traceparent(rng: &mut impl Rng) -> String {
    let trace: u128 = rng.random_range(1..=u128::MAX);
    let span: u64 = rng.random_range(1..=u64::MAX);
    format!("00-{trace:032x}-{span:016x}-00")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_core::workload::WorkloadUid;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn says_who_asks_and_for_what() {
        let mut source = Workload::empty(WorkloadUid::pod("Kubernetes", "ns", "a"));
        source.namespace = "ns".into();
        let client = "10.0.0.1:40000".parse().unwrap();
        let headers = request(
            &source,
            client,
            Some(&"h.ns".into()),
            &mut SmallRng::seed_from_u64(1),
        );
        assert_eq!(headers["forwarded"], "for=\"10.0.0.1:40000\";host=h.ns");
        assert!(
            headers["baggage"]
                .to_str()
                .unwrap()
                .contains("k8s.namespace.name=ns")
        );
        let trace = headers["traceparent"].to_str().unwrap();
        assert_eq!((trace.len(), &trace[..3], &trace[52..]), (55, "00-", "-00"));
    }
}
