//! The mesh on a cluster of real parts: installed by helm, joined by running pods, lived with, and left again.
//!
//! One cluster for everything, since each takes its half minute: the chapters of one life, in order.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod authority;
mod command;
mod gateways;
mod inventory;
mod joining;
mod kinds;
mod leaving;
mod living;
mod manifests;
mod nodes;
mod policies;
mod rights;
mod starting;
mod trials;
mod waypoints;
mod workloads;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use aquifer_tests::interrupt;
use world::World;

/// In order: each begins where the one before has left the cluster.
const CHAPTERS: [Chapter; 28] = [
    by_api(
        "joining",
        joining::running_pods_join_without_a_restart_or_a_failed_request,
    ),
    by_api("canary", joining::a_canary_is_served_by_a_waypoint),
    by_api(
        "probes",
        policies::probes_pass_under_strict_and_plaintext_does_not,
    ),
    with_nodes("ways in", policies::what_is_masqueraded_to_a_node_is_no_probe),
    by_api("coming and going", policies::pods_that_come_and_go_are_followed),
    by_api("gateway of its own", gateways::a_gateway_of_its_own_serves_pages),
    by_api(
        "waypoint by command",
        gateways::a_waypoint_is_made_watched_and_deleted_by_the_command,
    ),
    by_api(
        "waypoint by label",
        waypoints::labels_say_which_waypoint_a_service_or_a_pod_has,
    ),
    by_api("https", gateways::a_gateway_ends_tls_with_a_secret_that_changes),
    by_api("first call", starting::a_pods_first_call_is_in_the_mesh),
    with_nodes(
        "no agent",
        starting::without_an_agent_pods_of_the_mesh_wait_and_others_start,
    ),
    with_nodes("no eBPF", nodes::an_agent_whose_kernel_has_no_ebpf_says_so),
    by_api(
        "kinds of workloads",
        workloads::every_kind_of_workload_is_in_the_mesh_from_its_first_connection,
    ),
    by_api("deletion", workloads::a_pod_that_goes_takes_no_request_with_it),
    with_nodes("nonsense", trials::nonsense_and_floods_disturb_nobody),
    with_nodes(
        "rolling update",
        living::a_rolling_update_of_the_agents_fails_no_request,
    ),
    with_nodes(
        "waypoints and gateways",
        living::replaced_waypoints_and_gateways_fail_no_request,
    ),
    with_nodes("another root", authority::another_root_signs_and_no_request_fails),
    with_nodes(
        "absences",
        living::the_control_plane_and_the_api_server_may_be_away,
    ),
    with_nodes(
        "kills",
        living::a_killed_agent_comes_back_and_nothing_was_plain_meanwhile,
    ),
    with_nodes(
        "kubelet, containerd",
        nodes::kubelet_and_container_runtime_may_restart,
    ),
    with_nodes(
        "power cut",
        nodes::a_node_that_loses_its_power_comes_back_into_the_mesh,
    ),
    by_api("every kind", kinds::every_kind_is_answered_for),
    by_api("leaving", leaving::a_namespace_that_leaves_talks_plainly),
    by_api("uninstalling", leaving::an_uninstalled_mesh_leaves_nothing),
    with_nodes(
        "by command",
        command::the_command_installs_upgrades_and_leaves_nothing,
    ),
    with_nodes("without helm", command::the_command_does_it_without_helm),
    with_nodes(
        "rights",
        rights::every_right_that_was_given_was_used_and_no_other_was_wanted,
    ),
];

struct Chapter {
    name: &'static str,
    tell: fn(&World),
    needs: Needs,
}

/// Of the cluster.
#[derive(PartialEq, Eq)]
enum Needs {
    Api,
    /// It captures packets on them, enters them, stops parts of the cluster or reads their logs: left out on somebody's own.
    Nodes,
}

const fn by_api(name: &'static str, tell: fn(&World)) -> Chapter {
    Chapter {
        name,
        tell,
        needs: Needs::Api,
    }
}

const fn with_nodes(name: &'static str, tell: fn(&World)) -> Chapter {
    Chapter {
        name,
        tell,
        needs: Needs::Nodes,
    }
}

/// A program of its own, without the harness of tests: that starts threads before anybody could ask for signals, and keeps
/// to itself what a suite that passes has left out.
fn main() -> ExitCode {
    let Some(world) = World::build() else {
        return ExitCode::SUCCESS;
    };
    let is_told = |chapter: &&Chapter| chapter.needs == Needs::Api || world.ours().is_some();
    let (told, left_out): (Vec<&Chapter>, Vec<&Chapter>) = CHAPTERS.iter().partition(is_told);
    // One that fails does not hide what the others have to say.
    let failed: Vec<&Chapter> = told
        .into_iter()
        .filter(|chapter| !passes(&world, chapter))
        .collect();
    let left_out = [names(&left_out), world.left_out()].concat();
    world.down();
    sum_up(&names(&failed), &left_out)
}

fn names(chapters: &[&Chapter]) -> Vec<&'static str> {
    chapters.iter().map(|chapter| chapter.name).collect()
}

fn sum_up(failed: &[&str], left_out: &[&str]) -> ExitCode {
    let in_ci = std::env::var_os("CI").is_some();
    if !left_out.is_empty() {
        eprintln!("LEFT OUT, since the nodes are not ours: {}", left_out.join("; "));
    }
    if !failed.is_empty() {
        eprintln!("FAILED: {}", failed.join("; "));
    } else if in_ci && !left_out.is_empty() {
        eprintln!("FAILED: in CI nothing may be left out");
    } else {
        eprintln!("every chapter that was told passed");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

fn passes(world: &World, chapter: &Chapter) -> bool {
    let Chapter { name, tell, .. } = chapter;
    interrupt::wait_if_interrupted();
    eprintln!("==> {name}");
    let start = Instant::now();
    let passed = catch_unwind(AssertUnwindSafe(|| tell(world))).is_ok();
    let how = if passed { "passed" } else { "FAILED" };
    eprintln!("    {name} {how} in {:.1} s", start.elapsed().as_secs_f64());
    passed
}
