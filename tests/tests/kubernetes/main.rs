//! The mesh on a cluster of real parts: installed by helm, joined by running pods, lived with, and left again.
//!
//! One cluster for everything, since each takes its half minute: the chapters of one life, in order.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod gateways;
mod ground;
mod joining;
mod leaving;
mod living;
mod nodes;
mod policies;
mod starting;
mod trials;
mod workloads;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use world::World;

type Chapter = (&'static str, fn(&World));

/// In order: each begins where the one before has left the cluster.
const CHAPTERS: [Chapter; 20] = [
    (
        "joining",
        joining::running_pods_join_without_a_restart_or_a_failed_request,
    ),
    ("canary", joining::a_canary_is_served_by_a_waypoint),
    (
        "probes",
        policies::probes_pass_under_strict_and_plaintext_does_not,
    ),
    ("ways in", policies::what_is_masqueraded_to_a_node_is_no_probe),
    ("coming and going", policies::pods_that_come_and_go_are_followed),
    ("gateway of its own", gateways::a_gateway_of_its_own_serves_pages),
    (
        "waypoint by command",
        gateways::a_waypoint_is_made_watched_and_deleted_by_the_command,
    ),
    ("first call", starting::a_pods_first_call_is_in_the_mesh),
    (
        "no agent",
        starting::without_an_agent_pods_of_the_mesh_wait_and_others_start,
    ),
    ("no eBPF", nodes::an_agent_whose_kernel_has_no_ebpf_says_so),
    (
        "kinds of workloads",
        workloads::every_kind_of_workload_is_in_the_mesh_from_its_first_connection,
    ),
    ("deletion", workloads::a_pod_that_goes_takes_no_request_with_it),
    ("nonsense", trials::nonsense_and_floods_disturb_nobody),
    (
        "rolling update",
        living::a_rolling_update_of_the_agents_fails_no_request,
    ),
    (
        "absences",
        living::the_control_plane_and_the_api_server_may_be_away,
    ),
    (
        "kills",
        living::a_killed_agent_comes_back_and_nothing_was_plain_meanwhile,
    ),
    (
        "kubelet, containerd",
        nodes::kubelet_and_container_runtime_may_restart,
    ),
    (
        "power cut",
        nodes::a_node_that_loses_its_power_comes_back_into_the_mesh,
    ),
    ("leaving", leaving::a_namespace_that_leaves_talks_plainly),
    (
        "uninstalling",
        leaving::an_uninstalled_mesh_leaves_nothing_on_the_nodes,
    ),
];

/// Those that ask the API server alone. The others capture packets on the nodes, enter them, or stop parts of the
/// cluster: they are left out on somebody's own.
const WITHOUT_NODES: [&str; 11] = [
    "joining",
    "canary",
    "probes",
    "coming and going",
    "gateway of its own",
    "waypoint by command",
    "first call",
    "kinds of workloads",
    "deletion",
    "leaving",
    "uninstalling",
];

#[test]
fn the_life_of_a_mesh() {
    let Some(world) = World::build() else { return };
    let (chapters, left_out) = chosen(&world);
    // One that fails does not hide what the others have to say.
    let failed: Vec<&str> = chapters
        .into_iter()
        .filter(|chapter| !passes(&world, *chapter))
        .map(|(name, _)| name)
        .collect();
    let left_out = [left_out, world.left_out()].concat();
    world.down();
    assert!(failed.is_empty(), "failed: {failed:?}");
    if !left_out.is_empty() {
        eprintln!("LEFT OUT, since the nodes are not ours: {}", left_out.join("; "));
        assert!(
            std::env::var_os("CI").is_none(),
            "in CI nothing may be left out: {left_out:?}"
        );
    }
}

/// What is told of this cluster, and the names of what is not.
fn chosen(world: &World) -> (Vec<Chapter>, Vec<&'static str>) {
    let is_told = |chapter: &Chapter| world.ours().is_some() || WITHOUT_NODES.contains(&chapter.0);
    let (told, left_out): (Vec<Chapter>, Vec<Chapter>) = CHAPTERS.into_iter().partition(is_told);
    (told, left_out.into_iter().map(|(name, _)| name).collect())
}

#[test]
fn every_chapter_without_nodes_is_one() {
    for name in WITHOUT_NODES {
        assert!(CHAPTERS.iter().any(|chapter| chapter.0 == name), "{name}");
    }
}

fn passes(world: &World, (name, chapter): Chapter) -> bool {
    eprintln!("==> {name}");
    let start = Instant::now();
    let passed = catch_unwind(AssertUnwindSafe(|| chapter(world))).is_ok();
    let how = if passed { "passed" } else { "FAILED" };
    eprintln!("    {name} {how} in {:.1} s", start.elapsed().as_secs_f64());
    passed
}
