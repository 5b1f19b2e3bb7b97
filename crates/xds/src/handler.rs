//! Where resources go: one handler per type, called in the order of the stream.

use prost_types::Any;

/// A resource that was added or changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub name: String,
    pub version: String,
    /// Its type URL was checked against the stream's type; its bytes were not looked at.
    pub resource: Any,
}

/// A resource that was not applied, and why; sent to the server and kept for display.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct Rejected {
    pub name: String,
    pub reason: String,
}

impl Rejected {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "errors and texts are both given by value"
    )]
    pub fn new(name: impl Into<String>, reason: impl ToString) -> Self {
        Self {
            name: name.into(),
            reason: reason.to_string(),
        }
    }
}

/// Consumer of one resource type.
///
/// Called from the stream's task, one response at a time: the acknowledgement is sent after `apply` returns, so it
/// must not block. A resource keeps its last good state when a new version of it is rejected.
pub trait ResourceHandler: Send {
    /// The type it consumes, one of [`crate::type_url`].
    fn type_url(&self) -> &'static str;

    /// Applies what is good and names what is not.
    ///
    /// # Errors
    /// The resources that were rejected; everything else of the batch has been applied.
    fn apply(&mut self, updates: Vec<Update>, removals: Vec<String>) -> Result<(), Vec<Rejected>>;
}
