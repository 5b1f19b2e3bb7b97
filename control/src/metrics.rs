//! Metrics of the model, by Istio's names.

use std::time::Duration;

use aquifer_telemetry::registry::Registry;

use crate::compile::Compiled;

#[derive(Clone)]
pub struct ModelMetrics {
    registry: Registry,
}

impl ModelMetrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
        }
    }

    pub fn compiled(&self, compiled: &Compiled, took: Duration) {
        let gauge = |name: &'static str, value: usize| self.registry.gauge(name, &[]).set(value as f64);
        gauge("pilot_services", compiled.discovery.services.len());
        gauge("pilot_virt_services", compiled.inputs.virtual_services.len());
        gauge("pilot_no_ip", compiled.discovery.addressless);
        gauge("pilot_total_rejected_configs", compiled.rejected);
        let work = compiled.delta.work;
        let count = |name: &'static str, made: usize| self.registry.counter(name, &[]).increment(made as u64);
        count("aquifer_workloads_compiled_total", work.workloads);
        count("aquifer_objects_judged_total", work.reports);
        self.registry
            .histogram("pilot_pushcontext_init_seconds", &[])
            .record(took.as_secs_f64());
    }
}
