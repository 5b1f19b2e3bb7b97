//! Why a step of the demo did not work, for the person who watches.

use std::fmt;

use thiserror::Error;

#[derive(Debug, Error)]
#[error("step {step:?} failed: {why}\n  what to do: {remedy}")]
pub struct Failure {
    pub step: &'static str,
    pub why: String,
    pub remedy: &'static str,
}

/// A part of the demo, and what helps when it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) remedy: &'static str,
}

impl Step {
    pub(crate) fn failed(self, why: impl fmt::Display) -> Failure {
        Failure {
            step: self.name,
            why: why.to_string(),
            remedy: self.remedy,
        }
    }
}

/// Turns any error into the failure of a step.
pub(crate) trait OrFailed<T> {
    fn or_failed(self, step: Step) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> OrFailed<T> for Result<T, E> {
    fn or_failed(self, step: Step) -> Result<T, Failure> {
        self.map_err(|error| step.failed(error))
    }
}
