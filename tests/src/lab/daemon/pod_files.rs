//! The files of a pod: resolver, tokens, root certificate, and what its volumes hold.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::super::network::dns_address;
use super::super::spec::{ConfigMapSource, Volume};
use super::super::store::{Key, update_file};
use super::super::tokens::{API_AUDIENCE, MESH_AUDIENCE, REFRESH_AFTER, TokenError, TokenSubject};
use super::cluster::Cluster;
use super::environment::Obstacle;
use super::pod::Pod;

impl Cluster {
    /// Resolver, tokens and root certificate; called again to refresh them.
    pub(super) fn write_pod_files(&self, pod: &Pod) -> io::Result<()> {
        let secrets = pod.sandbox.folder.join("secrets");
        let account = secrets.join("kubernetes.io/serviceaccount");
        for folder in [secrets.join("tokens"), secrets.join("istio"), account.clone()] {
            fs::create_dir_all(folder)?;
        }
        update_file(
            &pod.sandbox.folder.join("resolv.conf"),
            self.resolver(pod).as_bytes(),
        )?;
        let mesh_token = self.token(pod, MESH_AUDIENCE).map_err(io::Error::other)?;
        update_file(&secrets.join("tokens/istio-token"), mesh_token.as_bytes())?;
        let api_token = self.token(pod, API_AUDIENCE).map_err(io::Error::other)?;
        update_file(&account.join("token"), api_token.as_bytes())?;
        update_file(&account.join("namespace"), pod.namespace.as_bytes())?;
        match fs::read(self.layout().root_certificate()) {
            Ok(root) => update_file(&secrets.join("istio/root-cert.pem"), &root),
            Err(_) => Ok(()),
        }
    }

    fn resolver(&self, pod: &Pod) -> String {
        let servers = self.config.families.list().iter();
        let servers: String = servers
            .map(|family| format!("nameserver {}\n", dns_address(*family)))
            .collect();
        format!(
            "search {}.svc.cluster.local svc.cluster.local cluster.local\n{servers}options ndots:5\n",
            pod.namespace
        )
    }

    /// The pod's token, the same until four fifths of its life are over.
    fn token(&self, pod: &Pod, audience: &str) -> Result<String, TokenError> {
        let now = SystemTime::now();
        let key = (pod.uid.clone(), audience.to_owned());
        if let Some((issued, token)) = self.issued.borrow().get(&key)
            && now.duration_since(*issued).is_ok_and(|age| age < REFRESH_AFTER)
        {
            return Ok(token.clone());
        }
        let token = self.sign_token(pod, audience, now)?;
        self.issued.borrow_mut().insert(key, (now, token.clone()));
        Ok(token)
    }

    fn sign_token(&self, pod: &Pod, audience: &str, now: SystemTime) -> Result<String, TokenError> {
        let uid = |key: &Key| {
            self.store
                .get(key)
                .and_then(|value| value["metadata"]["uid"].as_str())
                .unwrap_or_default()
        };
        let account = pod.spec.service_account();
        let node = pod.node.name();
        let subject = TokenSubject {
            namespace: &pod.namespace,
            pod: (&pod.name, &pod.uid),
            service_account: (
                account,
                uid(&Key::core("ServiceAccount", &pod.namespace, account)),
            ),
            node: (&node, uid(&Key::core("Node", "", &node))),
        };
        self.tokens.sign(&subject, audience, now)
    }

    /// Fills the folders behind the pod's volumes; called again when objects change.
    pub(super) fn write_volumes(&self, pod: &Pod) -> Result<(), Obstacle> {
        for volume in &pod.spec.volumes {
            let folder = pod.sandbox.folder.join("volumes").join(&volume.name);
            let files = self.volume_files(pod, volume)?;
            let write = || -> io::Result<()> {
                fs::create_dir_all(&folder)?;
                files.iter().try_for_each(|(name, content)| {
                    let path = folder.join(name);
                    fs::create_dir_all(path.parent().unwrap_or(&folder))?;
                    update_file(&path, content)
                })
            };
            write().map_err(|error| {
                format!(
                    "volume {}: cannot write {}: {error}",
                    volume.name,
                    folder.display()
                )
            })?;
        }
        Ok(())
    }

    fn volume_files(&self, pod: &Pod, volume: &Volume) -> Result<BTreeMap<String, Vec<u8>>, Obstacle> {
        let mut files = BTreeMap::new();
        let map =
            |source: &ConfigMapSource| self.data("ConfigMap", &pod.namespace, &source.name, source.optional);
        if let Some(source) = &volume.config_map {
            files.extend(map(source)?);
        }
        if let Some(source) = &volume.secret {
            files.extend(self.data("Secret", &pod.namespace, &source.secret_name, source.optional)?);
        }
        for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
            if let Some(source) = &source.config_map {
                files.extend(map(source)?);
            }
            if let Some(token) = &source.service_account_token {
                let audience = token.audience.as_deref().unwrap_or(API_AUDIENCE);
                let text = self.token(pod, audience).map_err(|error| error.to_string())?;
                files.insert(token.path.clone(), text.into_bytes());
            }
        }
        let escapes = |name: &String| name.starts_with('/') || name.split('/').any(|part| part == "..");
        match files.keys().find(|name| escapes(name)) {
            Some(name) => Err(format!(
                "volume {}: file name {name:?} leads out of it",
                volume.name
            )),
            None => Ok(files),
        }
    }

    /// The entries of a ConfigMap or a Secret.
    pub(super) fn data(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, Obstacle> {
        let object = self.store.get(&Key::core(kind, namespace, name));
        match object {
            Some(object) => Ok(entries(object)),
            None if optional => Ok(BTreeMap::new()),
            None => Err(format!("no {kind} {name} in namespace {namespace}: apply one")),
        }
    }
}

fn entries(object: &Value) -> BTreeMap<String, Vec<u8>> {
    let is_secret = object["kind"] == "Secret";
    let decode = |value: &str| STANDARD.decode(value.trim()).unwrap_or_default();
    let mut entries = BTreeMap::new();
    for (field, encoded) in [("data", is_secret), ("binaryData", true), ("stringData", false)] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            let value = if encoded {
                decode(value)
            } else {
                value.as_bytes().to_vec()
            };
            entries.insert(key.clone(), value);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_decoded_and_config_maps_are_not() {
        let secret =
            serde_json::json!({ "kind": "Secret", "data": { "a": "aGk=" }, "stringData": { "b": "c" } });
        let map = serde_json::json!({ "kind": "ConfigMap", "data": { "a": "aGk=" } });
        assert_eq!(
            entries(&secret),
            BTreeMap::from([("a".to_owned(), b"hi".to_vec()), ("b".to_owned(), b"c".to_vec())])
        );
        assert_eq!(
            entries(&map),
            BTreeMap::from([("a".to_owned(), b"aGk=".to_vec())])
        );
    }
}
