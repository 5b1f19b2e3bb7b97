//! What is left out on a machine that lacks something: said aloud, and in CI a failure.

use std::io::Write as _;

/// Whether this process is root; without it a test is left out.
///
/// # Panics
/// In CI, where it is not.
pub fn unless_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    root || because("it needs root")
}

/// Says so past the harness, which keeps to itself what a test prints that passes; never true.
///
/// # Panics
/// In CI.
pub fn because(reason: &str) -> bool {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    assert!(
        std::env::var_os("CI").is_none(),
        "{test} may not be left out in CI: {reason}"
    );
    // Nobody listens: then nobody is told.
    drop(writeln!(std::io::stderr(), "LEFT OUT: {test}: {reason}"));
    false
}
