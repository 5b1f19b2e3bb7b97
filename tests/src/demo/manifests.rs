//! The sample manifests, with the few changes that the demo makes to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thiserror::Error;

/// What makes bookinfo, in the order of its application.
const APPLICATION: [&str; 3] = [
    "bookinfo/bookinfo.yaml",
    "bookinfo/bookinfo-db.yaml",
    "bookinfo/bookinfo-ratings-v2.yaml",
];
/// How it is reached and split: the seed's canary and what it refers to.
const ROUTING: [&str; 3] = [
    "bookinfo/destination-rule-all-mtls.yaml",
    "bookinfo/bookinfo-gateway.yaml",
    CANARY,
];
const CANARY: &str = "seed/canary.yaml";
/// The VirtualService of the canary whose weights the demo changes.
const WEIGHTED: &str = "reviews";

#[derive(Debug, Error)]
pub(crate) enum ManifestError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Syntax {
        path: PathBuf,
        source: Box<serde_saphyr::Error>,
    },
    #[error("{CANARY} holds no VirtualService {WEIGHTED} with three weighted destinations")]
    NoWeights,
}

#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
        }
    }

    /// Bookinfo with its pods pinned to nodes, so that every call crosses from one node to the other.
    ///
    /// The ingress gateway runs on `gateway_node`; the calls go from there to productpage on the
    /// other node, back to details and reviews, over to ratings, and back to the database.
    pub(crate) fn application(&self, gateway_node: &str, other_node: &str) -> Result<String, ManifestError> {
        let mut documents = Vec::new();
        for file in APPLICATION {
            documents.extend(self.read(file)?);
        }
        for document in &mut documents {
            let node = match document["metadata"]["labels"]["app"].as_str() {
                Some("productpage" | "ratings") => other_node,
                _ => gateway_node,
            };
            if document["kind"] == "Deployment" {
                document["spec"]["template"]["spec"]["nodeName"] = json!(node);
            }
        }
        Ok(to_text(&documents))
    }

    pub(crate) fn routing(&self) -> Vec<PathBuf> {
        ROUTING.iter().map(|file| self.folder.join(file)).collect()
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.folder.join(CANARY)
    }

    /// The canary's split of reviews with other weights, by subset.
    pub(crate) fn weights(&self, weights: &BTreeMap<&str, u32>) -> Result<String, ManifestError> {
        let mut documents = self.read(CANARY)?;
        documents.retain(|document| document["metadata"]["name"] == WEIGHTED);
        let routes = documents
            .first_mut()
            .and_then(|document| document["spec"]["http"][0]["route"].as_array_mut())
            .filter(|routes| routes.len() == weights.len())
            .ok_or(ManifestError::NoWeights)?;
        for route in routes {
            let subset = route["destination"]["subset"].as_str().unwrap_or_default();
            let weight = *weights.get(subset).ok_or(ManifestError::NoWeights)?;
            route["weight"] = json!(weight);
        }
        Ok(to_text(&documents))
    }

    fn read(&self, file: &str) -> Result<Vec<Value>, ManifestError> {
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|source| ManifestError::Read {
            path: path.clone(),
            source,
        })?;
        serde_saphyr::from_multiple(&text).map_err(|source| ManifestError::Syntax {
            path,
            source: Box::new(source),
        })
    }
}

pub(crate) fn namespace(name: &str, in_mesh: bool) -> String {
    let labels = if in_mesh {
        json!({ "istio.io/dataplane-mode": "ambient" })
    } else {
        json!({})
    };
    to_text(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } }),
    ])
}

/// JSON is YAML.
fn to_text(documents: &[Value]) -> String {
    documents
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join("\n---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests() -> Manifests {
        Manifests::in_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples"))
    }

    #[test]
    fn every_call_of_the_application_crosses_the_nodes() {
        let text = manifests().application("a", "b").unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let nodes: BTreeMap<String, String> = documents
            .iter()
            .filter(|document| document["kind"] == "Deployment")
            .map(|document| {
                let node = document["spec"]["template"]["spec"]["nodeName"].as_str().unwrap();
                (
                    document["metadata"]["name"].as_str().unwrap().to_owned(),
                    node.to_owned(),
                )
            })
            .collect();
        let on = |node: &str| {
            nodes
                .iter()
                .filter(|(_, on)| *on == node)
                .map(|(name, _)| name.as_str())
                .collect()
        };
        let (a, b): (Vec<_>, Vec<_>) = (on("a"), on("b"));
        assert_eq!(
            a,
            [
                "details-v1",
                "mongodb-v1",
                "reviews-v1",
                "reviews-v2",
                "reviews-v3"
            ]
        );
        assert_eq!(b, ["productpage-v1", "ratings-v1", "ratings-v2"]);
    }

    #[test]
    fn weights_are_replaced_by_subset() {
        let text = manifests()
            .weights(&BTreeMap::from([("v1", 0), ("v2", 100), ("v3", 0)]))
            .unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let weights: Vec<u64> = documents[0]["spec"]["http"][0]["route"]
            .as_array()
            .unwrap()
            .iter()
            .map(|route| route["weight"].as_u64().unwrap())
            .collect();
        assert_eq!((documents.len(), weights), (1, vec![0, 100, 0]));
    }

    #[test]
    fn an_unknown_subset_is_refused() {
        assert!(
            manifests()
                .weights(&BTreeMap::from([("v1", 1), ("v2", 1), ("v9", 1)]))
                .is_err()
        );
    }
}
