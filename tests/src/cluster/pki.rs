//! The certificates and kubeconfigs of a cluster's parts, as kubeadm would make them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;
use thiserror::Error;

use super::layout::{API_PORT, API_SERVICE, ClusterName, Member};

/// A cluster on one machine does not live that long.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Dated back, should the clock be set meanwhile.
const SKEW: Duration = Duration::from_secs(3600);

#[derive(Debug, Error)]
pub enum PkiError {
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Names and contents of all files, for every member together.
#[derive(Clone, Debug, Default)]
pub(super) struct Pki {
    files: Vec<File>,
}

#[derive(Clone, Debug)]
struct File {
    owner: Owner,
    name: String,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Everyone,
    Member(Member),
    /// Of whoever works with the cluster from this machine.
    Administrator,
}

/// A key and what signs with it.
struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Who a certificate is for.
struct Subject<'a> {
    name: &'a str,
    group: Option<&'a str>,
    addresses: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

struct Credentials {
    certificate: String,
    key: String,
}

impl Pki {
    /// Makes everything for a cluster whose API server this machine reaches at `port` of its loopback.
    pub(super) fn new(
        cluster: &ClusterName,
        nodes: u8,
        port: u16,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let mut pki = Self::default();
        let authority = Authority::new(&format!("aquifer-cluster-{cluster}"), now)?;
        pki.put(Owner::Everyone, "ca.crt", &authority.certificate);
        pki.control(&authority, now)?;
        for node in (1..=nodes).map(Member::Node) {
            pki.node(&authority, node, now)?;
        }
        let admin = authority.client("kubernetes-admin", Some("system:masters"), now)?;
        let server = format!("https://127.0.0.1:{port}");
        let text = kubeconfig(cluster.as_str(), &server, &authority.certificate, &admin);
        pki.put(Owner::Administrator, "kubeconfig", &text);
        Ok(pki)
    }

    /// The kubeconfig for this machine's root.
    pub(super) fn kubeconfig(&self) -> &str {
        let file = self.files.iter().find(|file| file.owner == Owner::Administrator);
        file.map_or("", |file| &file.text)
    }

    fn control(&mut self, authority: &Authority, now: SystemTime) -> Result<(), PkiError> {
        let owner = Owner::Member(Member::Control);
        self.put(owner, "ca.key", &authority.key);
        self.put_pair(owner, "apiserver", &authority.server("kube-apiserver", now)?);
        let kubelets = authority.client("kube-apiserver-kubelet-client", Some("system:masters"), now)?;
        self.put_pair(owner, "apiserver-kubelet", &kubelets);
        let front = Authority::new("front-proxy-ca", now)?;
        self.put(owner, "front-proxy-ca.crt", &front.certificate);
        self.put_pair(
            owner,
            "front-proxy-client",
            &front.client("front-proxy-client", None, now)?,
        );
        let tokens = KeyPair::generate()?;
        self.put(owner, "service-account.key", &tokens.serialize_pem());
        self.put(owner, "service-account.pub", &tokens.public_key_pem());
        for part in ["controller-manager", "scheduler"] {
            let user = authority.client(&format!("system:kube-{part}"), None, now)?;
            self.put_kubeconfig(owner, part, authority, &user);
        }
        Ok(())
    }

    fn node(&mut self, authority: &Authority, node: Member, now: SystemTime) -> Result<(), PkiError> {
        let owner = Owner::Member(node);
        let user = format!("system:node:{node}");
        let usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let kubelet = authority.sign(
            Subject {
                name: &user,
                group: Some("system:nodes"),
                addresses: vec![ip(node.address()), dns(&node.to_string())?],
                usages,
            },
            now,
        )?;
        self.put_pair(owner, "kubelet", &kubelet);
        self.put_kubeconfig(owner, "kubelet", authority, &kubelet);
        let proxy = authority.client("system:kube-proxy", None, now)?;
        self.put_kubeconfig(owner, "kube-proxy", authority, &proxy);
        Ok(())
    }

    fn put(&mut self, owner: Owner, name: &str, text: &str) {
        self.files.push(File {
            owner,
            name: name.to_owned(),
            text: text.to_owned(),
        });
    }

    fn put_pair(&mut self, owner: Owner, name: &str, pair: &Credentials) {
        self.put(owner, &format!("{name}.crt"), &pair.certificate);
        self.put(owner, &format!("{name}.key"), &pair.key);
    }

    fn put_kubeconfig(&mut self, owner: Owner, name: &str, authority: &Authority, user: &Credentials) {
        let server = format!("https://{}:{API_PORT}", Member::Control.address());
        let text = kubeconfig(name, &server, &authority.certificate, user);
        self.put(owner, &format!("{name}.kubeconfig"), &text);
    }
}

/// The files of one member.
pub(super) fn files_of(member: Member, pki: &Pki) -> impl Iterator<Item = (&str, &str)> {
    let is_its = move |file: &&File| file.owner == Owner::Everyone || file.owner == Owner::Member(member);
    pki.files
        .iter()
        .filter(is_its)
        .map(|file| (file.name.as_str(), file.text.as_str()))
}

impl Authority {
    fn new(name: &str, now: SystemTime) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = parameters(name, None, now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
            issuer: Issuer::new(params, key),
        })
    }

    fn client(&self, name: &str, group: Option<&str>, now: SystemTime) -> Result<Credentials, PkiError> {
        let subject = Subject {
            name,
            group,
            addresses: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        self.sign(subject, now)
    }

    /// The API server's certificate: for each way that leads to it.
    fn server(&self, name: &str, now: SystemTime) -> Result<Credentials, PkiError> {
        const NAMES: [&str; 5] = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let reached = [Ipv4Addr::LOCALHOST, Member::Control.address(), API_SERVICE];
        let mut addresses = NAMES.into_iter().map(dns).collect::<Result<Vec<_>, _>>()?;
        addresses.extend(reached.map(ip));
        let subject = Subject {
            name,
            group: None,
            addresses,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        self.sign(subject, now)
    }

    fn sign(&self, subject: Subject<'_>, now: SystemTime) -> Result<Credentials, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = parameters(subject.name, subject.group, now);
        params.subject_alt_names = subject.addresses;
        params.extended_key_usages = subject.usages;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(Credentials {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn parameters(name: &str, group: Option<&str>, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now - SKEW).into();
    params.not_after = (now + LIFE).into();
    params
}

fn ip(address: Ipv4Addr) -> SanType {
    SanType::IpAddress(IpAddr::V4(address))
}

fn dns(name: &str) -> Result<SanType, PkiError> {
    Ok(SanType::DnsName(name.try_into()?))
}

/// JSON is YAML.
fn kubeconfig(name: &str, server: &str, authority: &str, user: &Credentials) -> String {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": encode(authority),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encode(&user.certificate),
            "client-key-data": encode(&user.key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    config.to_string()
}

fn encode(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(pki: &Pki, member: Member) -> Vec<&str> {
        files_of(member, pki).map(|(name, _)| name).collect()
    }

    #[test]
    fn the_authoritys_key_stays_in_the_control_plane() {
        let cluster = "test".parse().unwrap();
        let pki = Pki::new(&cluster, 2, 6443, SystemTime::now()).unwrap();
        assert!(names(&pki, Member::Control).contains(&"ca.key"));
        for node in [Member::Node(1), Member::Node(2)] {
            let names = names(&pki, node);
            assert!(
                !names
                    .iter()
                    .any(|name| ["ca.key", "service-account.key"].contains(name)),
                "{names:?}"
            );
            assert!(names.contains(&"kubelet.kubeconfig"), "{names:?}");
        }
        assert!(pki.kubeconfig().contains("https://127.0.0.1:6443"));
    }
}
