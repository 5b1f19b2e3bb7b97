//! The mesh on a cluster of real parts: installed by helm, joined by running pods, lived with, and left again.
//!
//! One cluster for everything, since each takes its half minute: the chapters of one life, in order.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod gateways;
mod joining;
mod leaving;
mod living;
mod policies;
mod starting;
mod world;

use world::World;

#[test]
fn the_life_of_a_mesh() {
    let Some(world) = World::build() else { return };
    joining::running_pods_join_without_a_restart_or_a_failed_request(&world);
    joining::a_canary_is_served_by_a_waypoint(&world);
    policies::probes_pass_under_strict_and_plaintext_does_not(&world);
    policies::pods_that_come_and_go_are_followed(&world);
    gateways::a_gateway_of_its_own_serves_pages(&world);
    gateways::a_waypoint_is_made_watched_and_deleted_by_the_command(&world);
    starting::a_pods_first_call_is_in_the_mesh(&world);
    starting::without_an_agent_pods_of_the_mesh_wait_and_others_start(&world);
    living::a_rolling_update_of_the_agents_fails_no_request(&world);
    living::the_control_plane_and_the_api_server_may_be_away(&world);
    living::a_killed_agent_comes_back_and_nothing_was_plain_meanwhile(&world);
    leaving::a_namespace_that_leaves_talks_plainly(&world);
    leaving::an_uninstalled_mesh_leaves_nothing_on_the_nodes(&world);
    world.down();
}
