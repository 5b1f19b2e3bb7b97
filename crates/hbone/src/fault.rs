//! The two questions that every error on the data path answers: whose fault, and is another try worth it.

/// Where a failure comes from; the response flag, the metric's label and the log level follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Who asked: not allowed, or nonsense.
    Client,
    /// The workload that was asked for.
    Upstream,
    /// The mesh itself: certificates, limits, proxies.
    Mesh,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It would fail again, or might be done twice.
    Never,
    /// On a new connection only.
    FreshConnection,
    /// Anywhere: nothing was sent.
    Safe,
}
