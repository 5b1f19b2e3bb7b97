//! DestinationRule: subsets and load balancing of a host, validated.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::host::HostPattern;
use crate::model::virtual_service::CLUSTER_DOMAIN;
use crate::model::visibility::Visibility;
use crate::objects::istio as raw;
use crate::objects::{Meta, Notice, Rejection};

#[derive(Clone, Debug)]
pub struct DestinationRule {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub host: HostPattern,
    pub visibility: Visibility,
    pub policy: TrafficPolicy,
    pub subsets: Vec<Subset>,
    /// Rules may lead to each of thousands.
    by_name: Places,
    /// Whether any of its policies asks for TLS.
    has_tls: bool,
    /// Asks for something that only a proxy that sees requests can do.
    pub needs_waypoint: bool,
}

/// Where subsets are in their list, by name.
type Places = BTreeMap<Arc<str>, usize>;

#[derive(Clone, Debug)]
pub struct Subset {
    pub name: Arc<str>,
    /// Matched against the pods' raw labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub policy: TrafficPolicy,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    pub balance: Option<Balance>,
    /// Replaces the policy wholesale for a service port.
    pub ports: BTreeMap<u16, Option<Balance>>,
    /// Asks for TLS to endpoints.
    pub tls: bool,
    /// Ports of which that is said, and what.
    pub tls_ports: BTreeMap<u16, bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balance {
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
}

impl TrafficPolicy {
    /// Whether connections to endpoints of a port, or of any, are to be TLS that the mesh begins.
    pub fn asks_tls(&self, port: Option<u16>) -> bool {
        match port {
            Some(port) => self.tls_ports.get(&port).copied().unwrap_or(self.tls),
            None => self.tls || self.tls_ports.values().any(|asks| *asks),
        }
    }

    /// The balancing for a port where this policy says something about it.
    pub fn balance_for(&self, port: u16) -> Option<Balance> {
        match self.ports.get(&port) {
            Some(balance) => *balance,
            None => self.balance,
        }
    }
}

impl DestinationRule {
    pub fn parse(
        spec: &raw::DestinationRule,
        meta: &Meta,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        if spec.host.is_empty() {
            return Err(Rejection::invalid("spec.host", "is missing"));
        }
        if spec.workload_selector.is_some() {
            let reason = "rules for some clients only are not supported by this version";
            return Err(Rejection::unsupported("spec.workloadSelector", reason));
        }
        let mut reader = PolicyReader {
            notices,
            needs_waypoint: false,
        };
        let policy = reader.read(spec.traffic_policy.as_ref(), "spec.trafficPolicy")?;
        let (subsets, by_name) = reader.subsets(&spec.subsets)?;
        let policies = || subsets.iter().map(|s| &s.policy).chain([&policy]);
        let has_tls = policies().any(|p| p.asks_tls(None));
        Ok(Self {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            host: HostPattern::parse(&spec.host, "spec.host")?.qualify(&meta.namespace, CLUSTER_DOMAIN),
            visibility: Visibility::parse(&spec.export_to, &meta.namespace)?,
            policy,
            subsets,
            by_name,
            has_tls,
            needs_waypoint: reader.needs_waypoint,
        })
    }

    /// Whether the rule asks for TLS to endpoints of a port, or of any.
    pub fn asks_tls(&self, port: Option<u16>) -> bool {
        let subsets = self.subsets.iter().map(|s| &s.policy);
        self.has_tls && subsets.chain([&self.policy]).any(|p| p.asks_tls(port))
    }

    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.get(*self.by_name.get(name)?)
    }
}

struct PolicyReader<'a> {
    notices: &'a mut Vec<Notice>,
    needs_waypoint: bool,
}

impl PolicyReader<'_> {
    /// The subsets, and their places by name.
    fn subsets(&mut self, subsets: &[raw::Subset]) -> Result<(Vec<Subset>, Places), Rejection> {
        let mut parsed: Vec<Subset> = Vec::with_capacity(subsets.len());
        let mut by_name = Places::new();
        for (i, subset) in subsets.iter().enumerate() {
            let field = format!("spec.subsets[{i}]");
            if subset.name.is_empty() || subset.name.contains('|') {
                return Err(Rejection::invalid(
                    format!("{field}.name"),
                    "is empty or contains '|'",
                ));
            }
            if by_name.insert(subset.name.clone(), i).is_some() {
                let reason = format!("subset {:?} is defined twice", subset.name);
                return Err(Rejection::invalid(format!("{field}.name"), reason));
            }
            let policy = self.read(subset.traffic_policy.as_ref(), &format!("{field}.trafficPolicy"))?;
            parsed.push(Subset {
                name: subset.name.clone(),
                labels: subset.labels.clone(),
                policy,
            });
        }
        Ok((parsed, by_name))
    }

    fn read(&mut self, raw: Option<&raw::TrafficPolicy>, field: &str) -> Result<TrafficPolicy, Rejection> {
        let Some(raw) = raw else {
            return Ok(TrafficPolicy::default());
        };
        let balance = self.section(
            (
                &raw.load_balancer,
                &raw.connection_pool,
                &raw.outlier_detection,
                &raw.tls,
            ),
            field,
        )?;
        for (name, value) in [
            ("tunnel", &raw.tunnel),
            ("proxyProtocol", &raw.proxy_protocol),
            ("retryBudget", &raw.retry_budget),
        ] {
            self.not_supported(value.is_some(), &format!("{field}.{name}"));
        }
        let asks = |tls: &Option<raw::ClientTls>| {
            let mode = tls.as_ref().map(|tls| &*tls.mode);
            matches!(mode, Some("SIMPLE" | "MUTUAL"))
        };
        let mut tls_ports = BTreeMap::new();
        let mut ports = BTreeMap::new();
        for (i, port) in raw.port_level_settings.iter().enumerate() {
            let field = format!("{field}.portLevelSettings[{i}]");
            let Some(number) = port.port.as_ref().and_then(|p| p.number) else {
                return Err(Rejection::invalid(format!("{field}.port.number"), "is missing"));
            };
            let parts = (
                &port.load_balancer,
                &port.connection_pool,
                &port.outlier_detection,
                &port.tls,
            );
            ports.insert(number, self.section(parts, &field)?);
            tls_ports.insert(number, asks(&port.tls));
        }
        Ok(TrafficPolicy {
            balance,
            ports,
            tls: asks(&raw.tls),
            tls_ports,
        })
    }

    /// The part that a policy and its port-level settings share.
    fn section(&mut self, parts: Section<'_>, field: &str) -> Result<Option<Balance>, Rejection> {
        let (balancer, pool, outlier, tls) = parts;
        self.not_supported(pool.is_some(), &format!("{field}.connectionPool"));
        self.not_supported(outlier.is_some(), &format!("{field}.outlierDetection"));
        self.needs_waypoint |= outlier.is_some() || pool.as_ref().is_some_and(|p| p.get("http").is_some());
        if let Some(tls) = tls {
            self.tls(tls, &format!("{field}.tls"))?;
        }
        match balancer {
            Some(balancer) => self.balancer(balancer, &format!("{field}.loadBalancer")),
            None => Ok(None),
        }
    }

    fn balancer(&mut self, raw: &raw::LoadBalancer, field: &str) -> Result<Option<Balance>, Rejection> {
        let unsupported = [
            ("consistentHash", &raw.consistent_hash),
            ("localityLbSetting", &raw.locality_lb_setting),
            ("zoneAwareLbSetting", &raw.zone_aware_lb_setting),
            ("backendUtilization", &raw.backend_utilization),
            ("warmup", &raw.warmup),
            ("warmupDurationSecs", &raw.warmup_duration_secs),
        ];
        for (name, value) in unsupported {
            self.not_supported(value.is_some(), &format!("{field}.{name}"));
        }
        self.needs_waypoint |= raw.consistent_hash.is_some();
        let field = format!("{field}.simple");
        let balance = match raw.simple.as_deref() {
            None | Some("UNSPECIFIED") => return Ok(None),
            Some("LEAST_REQUEST" | "LEAST_CONN") => Balance::LeastRequest,
            Some("ROUND_ROBIN") => Balance::RoundRobin,
            Some("RANDOM") => Balance::Random,
            Some("PASSTHROUGH") => {
                self.not_supported(true, &field);
                return Ok(None);
            }
            Some(other) => {
                let expected = "LEAST_REQUEST, ROUND_ROBIN, RANDOM, PASSTHROUGH or UNSPECIFIED";
                return Err(Rejection::invalid(
                    field,
                    format!("is {other:?}; expected {expected}"),
                ));
            }
        };
        self.needs_waypoint = true;
        Ok(Some(balance))
    }

    /// Between enrolled pods the mesh's own TLS is always there; ISTIO_MUTUAL asks for exactly that.
    fn tls(&mut self, raw: &raw::ClientTls, field: &str) -> Result<(), Rejection> {
        let mode = format!("{field}.mode");
        match &*raw.mode {
            "ISTIO_MUTUAL" => {}
            "DISABLE" | "" => self.notices.push(Notice::warning(
                mode,
                "has no effect between enrolled pods: the mesh's own mutual TLS stays on",
            )),
            "SIMPLE" | "MUTUAL" => self.not_supported(true, &mode),
            other => {
                let expected = "DISABLE, SIMPLE, MUTUAL or ISTIO_MUTUAL";
                return Err(Rejection::invalid(
                    mode,
                    format!("is {other:?}; expected {expected}"),
                ));
            }
        }
        Ok(())
    }

    fn not_supported(&mut self, present: bool, field: &str) {
        if present {
            self.notices.push(Notice::not_supported(
                field,
                "is stored and has no effect in this version",
            ));
        }
    }
}

type Section<'a> = (
    &'a Option<raw::LoadBalancer>,
    &'a Option<serde_json::Value>,
    &'a Option<serde_json::Value>,
    &'a Option<raw::ClientTls>,
);
