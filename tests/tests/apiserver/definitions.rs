//! The definitions' own texts, as `kubectl explain` shows them.

use crate::world::World;

const TEXTS: [(&str, &str); 7] = [
    (
        "virtualservice.spec.http.route",
        "Services that get the requests, by weight.",
    ),
    (
        "virtualservice.spec.http.route.weight",
        "Share of requests, in proportion to the sum of all weights.",
    ),
    (
        "destinationrule.spec.subsets.labels",
        "Labels that its pods have; without any it is the whole service.",
    ),
    (
        "gateways.networking.istio.io.spec.servers.tls.mode",
        "SIMPLE presents a certificate, MUTUAL also requires one from the client",
    ),
    (
        "peerauthentication.spec.mtls.mode",
        "STRICT refuses plaintext, PERMISSIVE accepts it beside mutual TLS",
    ),
    (
        "authorizationpolicy.spec.action",
        "What happens to requests that match a rule; ALLOW where nothing is said.",
    ),
    (
        "serviceentry.spec.resolution",
        "How endpoints are found: NONE goes where the client dialled",
    ),
];

pub(crate) fn are_explained(world: &World) {
    for (field, text) in TEXTS {
        // The API server describes a definition a little after it serves it.
        let explained = world.until_kubectl(&["explain", field]);
        // It breaks lines where they are long.
        let words: Vec<&str> = explained.split_whitespace().collect();
        assert!(words.join(" ").contains(text), "{explained}");
    }
}
