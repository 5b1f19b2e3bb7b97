use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use super::*;

const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1";

fn call(folder: &Path, command: &str, arguments: &str) -> Result<String, Refusal> {
    let input = json!({
        "cniVersion": "1.0.0", "name": "k8s", "type": NAME, "folder": folder,
        "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24"}, {"address": "fd00::1/64"}], "dns": {}},
    });
    let environment = |key: &str| match key {
        "CNI_COMMAND" => Some(command.to_owned()),
        "CNI_ARGS" => Some(arguments.to_owned()),
        "CNI_NETNS" => Some("/proc/self/ns/net".to_owned()),
        _ => None,
    };
    run(environment, input.to_string().as_bytes()).map_err(|(_, refusal)| refusal)
}

/// An agent that is asked once.
fn agent(folder: &Folder, verdict: &Verdict) -> thread::JoinHandle<Arrival> {
    folder.make().unwrap();
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let answer = serde_json::to_string(verdict).unwrap() + "\n";
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut line)
            .unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        serde_json::from_str(&line).unwrap()
    })
}

#[test]
fn a_pod_starts_with_the_networks_result_when_the_agent_says_so() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::below(place.path());
    let agent = agent(&folder, &Verdict::Start);
    let result: Value = serde_json::from_str(&call(folder.path(), "ADD", ARGS).unwrap()).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.0.0.1/24");
    let arrival = agent.join().unwrap();
    assert_eq!((&*arrival.namespace, &*arrival.name), ("shop", "web-0"));
    assert_eq!(arrival.uid.as_deref(), Some("u1"));
    assert_eq!(arrival.ips.len(), 2);
    assert_eq!(
        arrival.netns,
        NetnsFile::of(Path::new("/proc/self/ns/net")).unwrap()
    );
}

#[test]
fn a_pod_that_is_held_says_why() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::below(place.path());
    let because = "no certificate".to_owned();
    let agent = agent(&folder, &Verdict::Hold { because });
    let refusal = call(folder.path(), "ADD", ARGS).unwrap_err();
    assert_eq!(refusal.code, Code::TryAgain);
    assert!(refusal.message.contains("shop/web-0") && refusal.message.contains("no certificate"));
    agent.join().unwrap();
}

#[test]
fn without_an_agent_pods_of_the_mesh_wait_and_others_start() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::below(place.path());
    assert!(call(folder.path(), "ADD", ARGS).is_ok(), "no agent was ever here");
    folder.make().unwrap();
    folder.note(&["shop".to_owned()].into()).unwrap();
    let refusal = call(folder.path(), "ADD", ARGS).unwrap_err();
    assert!(refusal.message.contains("aquifer-agent"), "{refusal}");
    let other = ARGS.replace("shop", "plain");
    assert!(call(folder.path(), "ADD", &other).is_ok());
    // An agent that was killed leaves its socket behind.
    drop(UnixListener::bind(folder.socket()).unwrap());
    assert!(call(folder.path(), "ADD", ARGS).is_err());
    assert!(call(folder.path(), "ADD", &other).is_ok());
}

#[test]
fn what_is_no_pod_and_every_other_command_pass() {
    let nowhere = Path::new("/nonexistent");
    assert!(call(nowhere, "ADD", "IgnoreUnknown=1").is_ok());
    for command in ["DEL", "CHECK", "GC", "STATUS"] {
        assert_eq!(call(nowhere, command, ARGS).unwrap(), "");
    }
    assert!(call(nowhere, "VERSION", "").unwrap().contains("1.1.0"));
}

#[test]
fn a_wrong_call_is_refused_by_the_specifications_codes() {
    let add = |input: &str| {
        let environment = |key: &str| (key == "CNI_COMMAND").then(|| "ADD".to_owned());
        run(environment, input.as_bytes()).unwrap_err().1.code
    };
    assert_eq!(add("{"), Code::Decode);
    assert_eq!(add(r#"{"cniVersion":"1.0.0"}"#), Code::Decode);
    assert_eq!(
        add(r#"{"cniVersion":"1.0.0","folder":"/f"}"#),
        Code::Configuration
    );
    assert_eq!(run(|_| None, &b""[..]).unwrap_err().1.code, Code::Environment);
}

#[test]
fn where_the_addresses_are_not_told_only_pods_of_the_mesh_wait() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::below(place.path());
    folder.make().unwrap();
    folder.note(&["shop".to_owned()].into()).unwrap();
    let old = json!({"folder": folder.path(), "prevResult": {"ip4": {"ip": "10.0.0.1/24"}}}).to_string();
    let call = |arguments: &str| {
        let environment = |key: &str| match key {
            "CNI_COMMAND" => Some("ADD".to_owned()),
            "CNI_NETNS" => Some("/proc/self/ns/net".to_owned()),
            _ => Some(arguments.to_owned()),
        };
        run(environment, old.as_bytes())
    };
    let refusal = call(ARGS).unwrap_err().1;
    assert!(refusal.message.contains("`ips`"), "{refusal}");
    assert!(call(&ARGS.replace("shop", "plain")).is_ok());
}
