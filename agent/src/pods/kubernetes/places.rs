//! Where a node's pods are: their network namespaces and cgroups, found without asking the container runtime.
//!
//! A namespace is a file in the runtime's folder, and a pod's is the one that has the pod's addresses. Without the
//! node's process ids there is no other tie between the two. A pod with NET_ADMIN can give itself addresses of
//! others, so: a namespace that has the addresses of several pods is nobody's, an address in several namespaces is
//! an error, and a namespace that was found for one pod is not another's while both it and the pod are there.

mod cgroups;
mod namespaces;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use namespaces::{FileId, Namespace};

/// A pod to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sought {
    pub(super) uid: Arc<str>,
    /// By which its cgroup is named.
    pub(super) cgroup_uid: Arc<str>,
    pub(super) ips: Vec<IpAddr>,
}

/// Where a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) netns: PathBuf,
    pub(super) cgroup: PathBuf,
}

pub(super) struct Places {
    netns_dir: PathBuf,
    captured_cgroup: PathBuf,
    known: HashMap<Arc<str>, Known>,
}

struct Known {
    file: FileId,
    ips: Vec<IpAddr>,
    place: Place,
}

impl Places {
    pub(super) fn new(netns_dir: PathBuf, captured_cgroup: PathBuf) -> Self {
        Self {
            netns_dir,
            captured_cgroup,
            known: HashMap::new(),
        }
    }

    /// Where each of these pods is, or why that is not known. Blocks; looks anew only for those not found before.
    pub(super) fn find(&mut self, sought: &[Sought]) -> BTreeMap<Arc<str>, Result<Place, String>> {
        self.forget(sought);
        let missing: Vec<&Sought> = sought
            .iter()
            .filter(|pod| !self.known.contains_key(&pod.uid))
            .collect();
        let mut failures = BTreeMap::new();
        if !missing.is_empty() {
            failures = self.search(sought, &missing);
        }
        let place = |pod: &Sought| match self.known.get(&pod.uid) {
            Some(known) => Ok(known.place.clone()),
            None => Err(failures.remove(&pod.uid).unwrap_or_default()),
        };
        let uids = sought.iter().map(|pod| pod.uid.clone());
        uids.zip(sought.iter().map(place)).collect()
    }

    /// Pods that are gone or got other addresses, and namespaces that are gone.
    fn forget(&mut self, sought: &[Sought]) {
        let by_uid: HashMap<&str, &Sought> = sought.iter().map(|pod| (&*pod.uid, pod)).collect();
        self.known.retain(|uid, known| {
            by_uid.get(&**uid).is_some_and(|pod| pod.ips == known.ips)
                && FileId::of(&known.place.netns).is_ok_and(|file| file == known.file)
        });
    }

    fn search(&mut self, sought: &[Sought], missing: &[&Sought]) -> BTreeMap<Arc<str>, String> {
        let taken: HashSet<FileId> = self.known.values().map(|known| known.file).collect();
        let namespaces = match namespaces::list(&self.netns_dir, &taken) {
            Ok(namespaces) => namespaces,
            Err(reason) => {
                return missing
                    .iter()
                    .map(|pod| (pod.uid.clone(), reason.clone()))
                    .collect();
            }
        };
        let cgroups = cgroups::by_uid(&self.captured_cgroup);
        let mut failures = BTreeMap::new();
        for pod in missing {
            let found = self
                .namespace_of(pod, sought, &namespaces)
                .and_then(|namespace| Ok((namespace, self.cgroup_of(pod, &cgroups)?)));
            match found {
                Ok((namespace, cgroup)) => {
                    let known = Known {
                        file: namespace.file,
                        ips: pod.ips.clone(),
                        place: Place {
                            netns: namespace.path.clone(),
                            cgroup,
                        },
                    };
                    self.known.insert(pod.uid.clone(), known);
                }
                Err(reason) => {
                    failures.insert(pod.uid.clone(), reason);
                }
            }
        }
        failures
    }

    fn namespace_of<'a>(
        &self,
        pod: &Sought,
        sought: &[Sought],
        namespaces: &'a [Namespace],
    ) -> Result<&'a Namespace, String> {
        let has_others = |namespace: &Namespace| {
            let mut others = sought.iter().filter(|other| other.uid != pod.uid);
            others.any(|other| other.ips.iter().any(|ip| namespace.has(*ip)))
        };
        let mut candidates = namespaces
            .iter()
            .filter(|namespace| pod.ips.iter().all(|ip| namespace.has(*ip)) && !has_others(namespace));
        let addresses = || join(&pod.ips);
        match (candidates.next(), candidates.next()) {
            (Some(namespace), None) => Ok(namespace),
            (None, _) => Err(format!(
                "no network namespace in {} has the pod's address {} and no other pod's; is the folder where the container runtime keeps them (chart value agent.podNetnsDir)?",
                self.netns_dir.display(),
                addresses()
            )),
            (Some(one), Some(another)) => Err(format!(
                "both {} and {} have the pod's address {}; has a pod with NET_ADMIN taken it?",
                one.path.display(),
                another.path.display(),
                addresses()
            )),
        }
    }

    fn cgroup_of(&self, pod: &Sought, cgroups: &HashMap<String, PathBuf>) -> Result<PathBuf, String> {
        cgroups.get(&*pod.cgroup_uid).cloned().ok_or_else(|| {
            format!(
                "no cgroup below {} is pod {}'s; is that the cgroup above all pods (chart value agent.cgroup.captured)?",
                self.captured_cgroup.display(),
                pod.cgroup_uid
            )
        })
    }
}

fn join(ips: &[IpAddr]) -> String {
    let texts: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
    texts.join(" and ")
}

#[cfg(test)]
mod tests;
