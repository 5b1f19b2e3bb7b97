//! Lines that tell what happens while it happens, on standard error; the report alone goes to
//! standard output.

use std::fmt;
use std::time::Instant;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start }
    }

    pub(crate) fn say(&self, what: impl fmt::Display) {
        eprintln!("[{:6.1} s] {what}", self.start.elapsed().as_secs_f64());
    }
}
