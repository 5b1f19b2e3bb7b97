//! The images that ship: what is in them, what they say of themselves, and who can read and run them.
//!
//! `cargo xtask test images` makes them first, static and by the same code as for a release, but of the profile `lab`,
//! which builds in a fraction of the time. `AQUIFER_IMAGES=target/images` looks at those of `cargo xtask image`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on says so by panicking"
)]

mod archive;
mod content;
mod format;
mod peers;
mod running;
