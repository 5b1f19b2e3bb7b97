//! What the kernel programs log, which is only what should not happen.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

/// Hands the kernel programs' records to the `log` facade, which `telemetry` bridges to tracing.
pub struct KernelLog {
    logger: EbpfLogger<&'static dyn log::Log>,
}

impl KernelLog {
    pub(crate) fn take(object: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init(object).ok().map(|logger| Self { logger })
    }

    /// Forwards records for ever. Cancel safe: a record not read now is read by the next call.
    pub async fn forward(self) -> io::Result<()> {
        // SAFETY: the logger owns one descriptor, always the same, and closes it when dropped.
        let mut logger = unsafe { AsyncFd::register(self.logger) }?;
        loop {
            let mut ready = logger.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }
}
