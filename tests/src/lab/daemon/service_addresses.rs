//! The addresses and ports that an API server gives to Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::network::{self, Family};
use super::super::spec::ServiceSpec;
use super::super::store::{self, Key, object_field};
use super::cluster::Cluster;
use super::services::{balancers_of, given_vips};

const FIRST_NODE_PORT: u16 = 30_000;
/// Numbers below are kept for addresses that manifests fix, such as the DNS server's.
const FIRST_SERVICE: u16 = 256;

impl Cluster {
    /// Gives a Service the addresses and ports that an API server would; keeps those it had.
    pub(super) fn complete_service(&self, key: &Key, value: &mut Value) -> Result<(), String> {
        let mut spec: ServiceSpec = store::part(value, "/spec").unwrap_or_default();
        if spec.r#type.as_deref() == Some("ExternalName") {
            return Ok(());
        }
        let old: Option<ServiceSpec> = self.store.get(key).and_then(|old| store::part(old, "/spec"));
        let families = self.service_families(&spec)?;
        let vips = self.service_vips(key, &spec, old.as_ref(), &families)?;
        self.node_ports(key, &mut spec, old.as_ref())?;
        let names: Vec<&str> = families.iter().map(|family| family.kubernetes_name()).collect();
        let policy = if families.len() > 1 {
            "PreferDualStack"
        } else {
            "SingleStack"
        };
        let balancers = self.balancers(key, &spec, &families);
        let fields = object_field(value, "spec");
        fields.insert(
            "type".to_owned(),
            json!(spec.r#type.as_deref().unwrap_or("ClusterIP")),
        );
        fields.insert("clusterIP".to_owned(), json!(vips.first()));
        fields.insert("clusterIPs".to_owned(), json!(vips));
        fields.insert("ipFamilies".to_owned(), json!(names));
        fields.entry("ipFamilyPolicy").or_insert_with(|| json!(policy));
        if let Some(ports) = fields.get_mut("ports").and_then(Value::as_array_mut) {
            for (port, completed) in ports.iter_mut().zip(&spec.ports) {
                port["protocol"] = json!(completed.protocol);
                if let Some(number) = completed.node_port {
                    port["nodePort"] = json!(number);
                }
                if port["targetPort"].is_null() {
                    port["targetPort"] = json!(completed.port);
                }
            }
        }
        if !balancers.is_empty() {
            let ingress: Vec<Value> = balancers.iter().map(|ip| json!({ "ip": ip })).collect();
            value["status"] = json!({ "loadBalancer": { "ingress": ingress } });
        }
        Ok(())
    }

    fn service_families(&self, spec: &ServiceSpec) -> Result<Vec<Family>, String> {
        let mine = self.config.families.list();
        let asked = spec.ip_families.iter().map(|name| {
            let family = mine.iter().find(|family| family.kubernetes_name() == name);
            family
                .copied()
                .ok_or_else(|| format!("spec.ipFamilies: this lab has no {name} (see `up --ip-families`)"))
        });
        let mut families = asked.collect::<Result<Vec<_>, _>>()?;
        let dual = spec
            .ip_family_policy
            .as_deref()
            .is_some_and(|policy| policy != "SingleStack");
        let wanted = if dual { mine.len() } else { families.len().max(1) };
        for family in mine {
            if families.len() < wanted && !families.contains(family) {
                families.push(*family);
            }
        }
        Ok(families)
    }

    fn service_vips(
        &self,
        key: &Key,
        spec: &ServiceSpec,
        old: Option<&ServiceSpec>,
        families: &[Family],
    ) -> Result<Vec<String>, String> {
        if spec.cluster_ip.as_deref() == Some("None") {
            return Ok(vec!["None".to_owned()]);
        }
        let taken = self.taken_vips(key);
        let mut vips = Vec::new();
        for family in families {
            let has_family = |ip: &&IpAddr| Family::of(**ip) == *family;
            let given = given_vips(spec)?;
            let kept = old.map(given_vips).transpose()?.unwrap_or_default();
            let vip = match given
                .iter()
                .find(has_family)
                .or_else(|| kept.iter().find(has_family))
            {
                Some(vip) if taken.contains(vip) => {
                    return Err(format!("spec.clusterIP: {vip} is another Service's"));
                }
                Some(vip) => *vip,
                None => (FIRST_SERVICE..u16::MAX)
                    .map(|number| network::service_address(*family, number))
                    .find(|vip| !taken.contains(vip))
                    .ok_or("spec.clusterIP: no address is free")?,
            };
            vips.push(vip.to_string());
        }
        Ok(vips)
    }

    fn taken_vips(&self, except: &Key) -> BTreeSet<IpAddr> {
        let others = self.store.kind("Service").filter(|(key, _)| *key != except);
        let specs = others.filter_map(|(_, value)| store::part::<ServiceSpec>(value, "/spec"));
        specs
            .flat_map(|spec| given_vips(&spec).unwrap_or_default())
            .collect()
    }

    fn node_ports(&self, key: &Key, spec: &mut ServiceSpec, old: Option<&ServiceSpec>) -> Result<(), String> {
        if !matches!(spec.r#type.as_deref(), Some("NodePort" | "LoadBalancer")) {
            return Ok(());
        }
        let others = self.store.kind("Service").filter(|(other, _)| *other != key);
        let others = others.filter_map(|(_, value)| store::part::<ServiceSpec>(value, "/spec"));
        let mut taken: BTreeSet<u16> = others
            .flat_map(|spec| spec.ports)
            .filter_map(|port| port.node_port)
            .collect();
        taken.extend(spec.ports.iter().filter_map(|port| port.node_port));
        for port in &mut spec.ports {
            let kept = old.and_then(|old| old.ports.iter().find(|was| was.port == port.port)?.node_port);
            let free = || (FIRST_NODE_PORT..u16::MAX).find(|number| !taken.contains(number));
            port.node_port = port.node_port.or(kept).or_else(free);
            taken.extend(port.node_port);
            port.node_port.ok_or("spec.ports: no node port is free")?;
        }
        Ok(())
    }

    fn balancers(&self, key: &Key, spec: &ServiceSpec, families: &[Family]) -> Vec<IpAddr> {
        if spec.r#type.as_deref() != Some("LoadBalancer") {
            return Vec::new();
        }
        let kept = self.store.get(key).map(balancers_of).unwrap_or_default();
        let others = self.store.kind("Service").filter(|(other, _)| *other != key);
        let taken: BTreeSet<IpAddr> = others.flat_map(|(_, value)| balancers_of(value)).collect();
        let address = |family: &Family| {
            let kept = kept.iter().find(|ip| Family::of(**ip) == *family).copied();
            let mut free = (1..=254).map(|number| network::balancer_address(*family, number));
            kept.or_else(|| free.find(|ip| !taken.contains(ip)))
        };
        families.iter().filter_map(address).collect()
    }
}
