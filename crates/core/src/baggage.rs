//! The `baggage` header of an HBONE request or response: what the sender says of its workload.
//!
//! W3C Baggage with Istio's keys. Only telemetry reads it; authorisation never does.

use std::sync::Arc;

use crate::workload::{Workload, WorkloadType};

/// A longer header is ignored: W3C Baggage section 3.3.2 asks for at least 8192 bytes.
const MAX_BAGGAGE: usize = 8192;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: Option<Arc<str>>,
    pub namespace: Option<Arc<str>>,
    pub workload_type: WorkloadType,
    pub workload_name: Option<Arc<str>>,
    pub service_name: Option<Arc<str>>,
    pub revision: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}

impl Baggage {
    pub fn of(workload: &Workload) -> Self {
        let some = |s: &Arc<str>| (!s.is_empty()).then(|| s.clone());
        Self {
            cluster: some(&workload.cluster),
            namespace: some(&workload.namespace),
            workload_type: workload.workload_type,
            workload_name: some(&workload.workload_name),
            service_name: some(&workload.canonical_name),
            revision: some(&workload.canonical_revision),
            region: some(&workload.region),
            zone: some(&workload.zone),
        }
    }

    /// Reads the keys that are known; what is unknown, empty or malformed is left out.
    pub fn parse(header: &str) -> Self {
        let mut baggage = Self::default();
        if header.len() > MAX_BAGGAGE {
            return baggage;
        }
        for (key, value) in header.split(',').filter_map(|member| member.split_once('=')) {
            let value = value.trim();
            if !value.is_empty() {
                baggage.set(key.trim(), value.into());
            }
        }
        baggage
    }

    fn set(&mut self, key: &str, value: Arc<str>) {
        let workload_type = match key {
            "k8s.cluster.name" => return self.cluster = Some(value),
            "k8s.namespace.name" => return self.namespace = Some(value),
            "service.name" => return self.service_name = Some(value),
            "service.version" => return self.revision = Some(value),
            "cloud.region" => return self.region = Some(value),
            "cloud.availability_zone" => return self.zone = Some(value),
            "k8s.deployment.name" => WorkloadType::Deployment,
            "k8s.cronjob.name" => WorkloadType::CronJob,
            "k8s.pod.name" => WorkloadType::Pod,
            "k8s.job.name" => WorkloadType::Job,
            _ => return,
        };
        self.workload_type = workload_type;
        self.workload_name = Some(value);
    }

    /// The header's value; empty members are left out, and so is a value that would break the header.
    pub fn to_header(&self) -> String {
        let kind = match self.workload_type {
            WorkloadType::Deployment => "k8s.deployment.name",
            WorkloadType::CronJob => "k8s.cronjob.name",
            WorkloadType::Pod => "k8s.pod.name",
            WorkloadType::Job => "k8s.job.name",
        };
        [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (kind, &self.workload_name),
            ("service.name", &self.service_name),
            ("service.version", &self.revision),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ]
        .into_iter()
        .filter_map(|(key, value)| {
            value
                .as_ref()
                .filter(|v| is_safe(v))
                .map(|v| format!("{key}={v}"))
        })
        .collect::<Vec<_>>()
        .join(",")
    }
}

fn is_safe(value: &str) -> bool {
    value
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'=' | b';' | b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_istio_writes() {
        let b = Baggage::parse(
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=bookinfo,k8s.deployment.name=reviews-v1,service.name=reviews,service.version=v1,x=,y",
        );
        assert_eq!(b.namespace.as_deref(), Some("bookinfo"));
        assert_eq!(b.workload_name.as_deref(), Some("reviews-v1"));
        assert_eq!(b.revision.as_deref(), Some("v1"));
        assert_eq!(b.region, None);
    }

    proptest! {
        #[test]
        fn baggage_round_trips(ns in "[a-z0-9-]{1,20}", name in "[a-z0-9-]{1,20}", rev in "[a-z0-9.]{1,9}") {
            let b = Baggage {
                namespace: Some(ns.as_str().into()),
                workload_type: WorkloadType::Job,
                workload_name: Some(name.as_str().into()),
                revision: Some(rev.as_str().into()),
                ..Baggage::default()
            };
            prop_assert_eq!(Baggage::parse(&b.to_header()), b);
        }

        #[test]
        fn never_panics_and_never_breaks_the_header(text in "\\PC{0,100}") {
            let header = Baggage::parse(&text).to_header();
            prop_assert!(header.bytes().all(|b| b.is_ascii_graphic()));
        }
    }
}
