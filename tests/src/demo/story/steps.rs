//! The demo's steps, and what helps when one fails.

use crate::demo::failure::Step;

/// Service accounts of the application; each must have proved to be itself.
pub(crate) const ACCOUNTS: [&str; 6] = [
    "bookinfo-productpage",
    "bookinfo-details",
    "bookinfo-reviews",
    "bookinfo-ratings",
    "bookinfo-ratings-v2",
    "default",
];

const LOOK: &str = "run `cargo xtask demo --keep`, then `cargo xtask lab --name demo status` and \
                    `cargo xtask lab --name demo logs NAMESPACE/POD`";

pub(crate) const LAB: Step = Step {
    name: "lab",
    remedy: "run it as root on Linux 6.1 or later with cgroup2 mounted; `cargo xtask lab --name demo up` shows more",
};
pub(crate) const DEPLOY: Step = Step {
    name: "deploy",
    remedy: LOOK,
};
pub(crate) const FIRST_PAGE: Step = Step {
    name: "first page",
    remedy: "look whether the gateway has its configuration: run `cargo xtask demo --keep`, then \
             `cargo xtask lab --name demo logs istio-system/istio-ingressgateway` and `... logs istio-system/istiod`",
};
pub(crate) const UNLABELLED: Step = Step {
    name: "requests without the mesh",
    remedy: LOOK,
};
pub(crate) const ENROL: Step = Step {
    name: "enrol",
    remedy: "look at the node agents: run `cargo xtask demo --keep`, then `cargo xtask lab --name demo status` \
             and `cargo xtask lab --name demo logs istio-system/ztunnel-...`",
};
pub(crate) const WAYPOINT: Step = Step {
    name: "waypoint",
    remedy: "look at what the control plane rendered: run `cargo xtask demo --keep`, then \
             `cargo xtask lab --name demo logs istio-system/istiod` and `... logs bookinfo/waypoint`",
};
pub(crate) const CANARY: Step = Step {
    name: "canary",
    remedy: "look at the status of the VirtualServices and at the waypoint: run `cargo xtask demo --keep`, then \
             `cargo xtask lab --name demo logs bookinfo/waypoint`",
};
pub(crate) const REQUESTS: Step = Step {
    name: "requests in the mesh",
    remedy: LOOK,
};
pub(crate) const IDENTITIES: Step = Step {
    name: "identities",
    remedy: LOOK,
};
pub(crate) const WEIGHTS: Step = Step {
    name: "change of weights",
    remedy: LOOK,
};
pub(crate) const DOWN: Step = Step {
    name: "clean-up",
    remedy: "`cargo xtask lab --name demo down` removes the rest of a lab, `cargo xtask cluster --name demo down` that of a \
             made cluster",
};
