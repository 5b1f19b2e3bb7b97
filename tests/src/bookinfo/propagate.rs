//! Headers that a part hands on to those it asks, so that traces and routing by user work.

use http::HeaderMap;

const PROPAGATED: [&str; 22] = [
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "sw8",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
    "baggage",
];

pub(crate) fn propagated(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in PROPAGATED {
        for value in headers.get_all(name) {
            kept.append(name, value.clone());
        }
    }
    kept
}
