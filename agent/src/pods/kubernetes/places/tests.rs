use super::*;

fn sought(uid: &str, ips: &[&str]) -> Sought {
    Sought {
        uid: uid.into(),
        cgroup_uid: uid.into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

fn namespace(name: &str, ips: &[&str]) -> Namespace {
    let folder = std::env::temp_dir();
    Namespace {
        path: name.into(),
        // Any file will do: it is not looked at again here.
        file: FileId::of(&folder).unwrap(),
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
    }
}

fn owner(pod: usize, pods: &[Sought], namespaces: &[Namespace]) -> Result<String, String> {
    let places = Places::new("/run/netns".into(), "/c".into());
    let found = places.namespace_of(&pods[pod], pods, namespaces)?;
    Ok(found.path.display().to_string())
}

#[test]
fn a_namespace_is_the_pods_whose_addresses_it_has() {
    let pods = [sought("a", &["10.0.0.1", "fd00::1"]), sought("b", &["10.0.0.2"])];
    let namespaces = [
        namespace("one", &["10.0.0.1", "fd00::1", "fe80::1"]),
        namespace("two", &["10.0.0.2"]),
    ];
    assert_eq!(owner(0, &pods, &namespaces).unwrap(), "one");
    assert_eq!(owner(1, &pods, &namespaces).unwrap(), "two");
}

#[test]
fn a_pod_that_takes_anothers_address_gains_nothing() {
    let pods = [sought("victim", &["10.0.0.1"]), sought("thief", &["10.0.0.2"])];
    let namespaces = [
        namespace("victims", &["10.0.0.1"]),
        namespace("thiefs", &["10.0.0.2", "10.0.0.1"]),
    ];
    assert_eq!(owner(0, &pods, &namespaces).unwrap(), "victims");
    assert!(owner(1, &pods, &namespaces).is_err());
    // Even where it gives up its own.
    let namespaces = [
        namespace("victims", &["10.0.0.1"]),
        namespace("thiefs", &["10.0.0.1"]),
    ];
    let error = owner(0, &pods, &namespaces).unwrap_err();
    assert!(error.contains("victims") && error.contains("thiefs"), "{error}");
}

#[test]
fn a_pod_without_a_namespace_or_a_cgroup_names_the_setting_to_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let mut places = Places::new(folder.path().into(), folder.path().join("c"));
    let found = places.find(&[sought("a", &["10.0.0.1"])]);
    assert!(found["a"].as_ref().unwrap_err().contains("agent.podNetnsDir"));
    let error = places.cgroup_of(&sought("a", &[]), &HashMap::new()).unwrap_err();
    assert!(error.contains("agent.cgroup.captured"), "{error}");
    let mut places = Places::new(folder.path().join("absent"), "/c".into());
    let found = places.find(&[sought("a", &["10.0.0.1"])]);
    assert!(found["a"].as_ref().unwrap_err().contains("cannot list"));
}
