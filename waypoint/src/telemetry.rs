//! The seam to metrics and access logs.

use aquifer_telemetry::access_log::AccessLog;
use aquifer_telemetry::http::HttpMetrics;
use aquifer_telemetry::peer::Reporter;
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::tcp::TcpMetrics;

pub(crate) struct Telemetry {
    pub(crate) http: HttpMetrics,
    pub(crate) tcp: TcpMetrics,
    pub(crate) log: AccessLog,
    pub(crate) reporter: Reporter,
}

impl Telemetry {
    pub(crate) fn new(registry: &Registry, log: AccessLog, reporter: Reporter) -> Self {
        Self {
            http: HttpMetrics::new(registry),
            tcp: TcpMetrics::new(registry),
            log,
            reporter,
        }
    }
}
