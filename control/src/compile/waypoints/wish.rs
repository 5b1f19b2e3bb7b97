//! Which waypoint a service is to have: the one that labels name, or that of its namespace where a rule needs one.

use std::collections::BTreeMap;

use aquifer_core::names::NamespacedHostname;

use crate::compile::discovery::Registered;
use crate::compile::waypoints::{IMPLICIT_NAME, Waypoint, WaypointKey, World, explicit, implicit};

/// The waypoint that a service is to have.
pub(super) struct Wish {
    pub(super) waypoint: WaypointKey,
    /// Because of a rule.
    pub(super) implicit: bool,
}

/// What all services wish; adds the implicit waypoints to `all`.
pub(super) fn all(
    world: &World<'_>,
    all: &mut BTreeMap<WaypointKey, Waypoint>,
) -> Vec<(NamespacedHostname, Wish)> {
    let mut wishes = Vec::new();
    for (service, entry) in &world.discovery.services {
        let Some(wish) = of(world, all, service, entry) else {
            continue;
        };
        if wish.implicit {
            let waypoint = || Waypoint::implicit(&wish.waypoint);
            all.entry(wish.waypoint.clone()).or_insert_with(waypoint);
        }
        wishes.push((service.clone(), wish));
    }
    wishes
}

pub(super) fn of(
    world: &World<'_>,
    all: &BTreeMap<WaypointKey, Waypoint>,
    service: &NamespacedHostname,
    entry: &Registered,
) -> Option<Wish> {
    let meta = &entry.meta;
    // A waypoint's own Service: behind a waypoint nothing would reach it.
    let own = match entry.entry {
        None => all.get(&WaypointKey::new(&meta.namespace, &meta.name)),
        Some(_) => None,
    };
    // Nobody dials what has no address, and a waypoint cannot go on to one that only its client knows.
    if entry.entry.is_some() && (entry.service.vips.is_empty() || entry.goes_as_dialled()) {
        return None;
    }
    if implicit::is_proxy_service(&meta.labels) || own.is_some_and(|w| w.explicit) {
        return None;
    }
    match explicit::choice(world.inputs, meta) {
        explicit::Choice::None => None,
        explicit::Choice::Named(waypoint) => Some(Wish {
            waypoint,
            implicit: false,
        }),
        explicit::Choice::Unsaid if !world.settings.automatic_waypoints => None,
        explicit::Choice::Unsaid => implicit::is_needed(world, service, entry).then(|| Wish {
            waypoint: WaypointKey::new(&service.namespace, IMPLICIT_NAME),
            implicit: true,
        }),
    }
}
