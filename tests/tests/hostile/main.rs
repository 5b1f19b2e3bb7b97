//! What may come from anyone: input that is wrong or ill-meant, and upheaval, against a whole mesh in a lab.
//!
//! Nothing here asserts a time. A test says what must never happen while it looks, and waits for what must happen
//! sooner or later. Control planes that send nonsense, and callers of a control plane without a right to, are tried in
//! process (`control/src/serve/tests`), where more of them can be tried. Each test here has a lab of its own; they need root, and without it are skipped, but not in CI.

#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod actor;
mod admission;
mod calls;
mod objects;
mod place;
mod policies;
mod requests;
mod rotation;
mod tokens;
mod transparency;
mod tunnels;
mod upheaval;
mod world;
