//! The operator's command line without a cluster: what it says, and how it ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod analyze;
mod authority;
mod cluster;
mod program;

use program::aquifer;

#[test]
fn every_command_is_in_the_help() {
    let help = aquifer(&["--help"], "");
    assert_eq!(help.status, 0);
    for command in [
        "install",
        "upgrade",
        "uninstall",
        "check",
        "analyze",
        "waypoint",
        "ca",
        "status",
        "config",
    ] {
        assert!(
            help.stdout.contains(&format!("\n  {command} ")),
            "{command}: {}",
            help.stdout
        );
        assert_eq!(aquifer(&[command, "--help"], "").status, 0, "{command}");
    }
}

#[test]
fn a_wrong_use_is_told_from_a_failure() {
    assert_eq!(aquifer(&["analise"], "").status, 2);
    assert_eq!(aquifer(&["waypoint", "apply", "--for", "pods"], "").status, 2);
    assert_eq!(aquifer(&["install", "--profile", "huge"], "").status, 2);
}
