//! Objects that are wrong, among others that are not.

use std::fs;

use crate::world::{World, eventually};

/// Answers itself: whoever sees the answer sees that the object is followed.
fn route(status: u16) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: mesh}}
spec:
  hosts: [web]
  http:
  - match: [{{uri: {{prefix: /answer}}}}]
    directResponse: {{status: {status}}}
  - match: [{{uri: {{prefix: /missing}}}}]
    route: [{{destination: {{host: web, subset: nobody}}}}]
  - route: [{{destination: {{host: web}}}}]
"
    )
}

const WRONG: &[(&str, &str)] = &[
    (
        "cut.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: cut",
    ),
    (
        "types.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: types, namespace: mesh}\nspec: {hosts: web, http: 5}\n",
    ),
    (
        "fields.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: fields, namespace: mesh}\nspec: {hosts: [web], http: [{rout: []}]}\n",
    ),
    (
        "port.json",
        r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"port","namespace":"mesh"},"spec":{"clusterIP":"x","ports":[{"port":99999999}]}}"#,
    ),
    (
        "name.json",
        r#"{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"../../escaped","namespace":"../.."},"spec":{"hosts":["x"]}}"#,
    ),
    (
        "policy.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: wrong, namespace: mesh}\nspec: {selector: {matchLabels: {app: nobody}}, action: DENNY, rules: [{}]}\n",
    ),
    ("itself.yaml", "a: &a [*a]\n"),
    ("number.yaml", "5\n"),
    ("empty.json", ""),
];

fn junk() -> Vec<(String, Vec<u8>)> {
    let bombs: Vec<String> = ('a'..'i')
        .zip('b'..='i')
        .map(|(inner, outer)| {
            let eight = [format!("*{inner}"), ",".to_owned()].concat().repeat(8);
            format!("{outer}: &{outer} [{}]\n", eight.trim_end_matches(','))
        })
        .collect();
    let mut files: Vec<(String, Vec<u8>)> = WRONG
        .iter()
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect();
    files.extend([
        (
            "random.yaml".to_owned(),
            (0..1_000_000u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect(),
        ),
        ("deep.yaml".to_owned(), "[".repeat(100_000).into_bytes()),
        ("deep.json".to_owned(), r#"{"a":"#.repeat(100_000).into_bytes()),
        ("many.yaml".to_owned(), "---\n{}\n".repeat(20_000).into_bytes()),
        ("huge.yaml".to_owned(), vec![b'a'; 9 << 20]),
        (
            "bomb.yaml".to_owned(),
            format!("a: &a [x,x,x,x,x,x,x,x]\n{}", bombs.concat()).into_bytes(),
        ),
    ]);
    files
}

#[test]
fn one_wrong_object_never_stops_the_others() {
    let Some(world) = World::new("objects") else {
        return;
    };
    let client = world.client("mesh", &world.pod("mesh/server").node, false);
    let answers = |status: u16| {
        let told = format!("HTTP/1.1 {status}");
        eventually(
            "the route is followed",
            || world.get(&client, "web:80/answer").err(),
            |error| error.as_ref().is_some_and(|error| error.contains(&told)),
        );
    };
    world.apply("default", &route(418));
    answers(418);
    // Names of files that the lab never writes, and takes down with everything else.
    let folder = world.lab.objects_dir();
    for (name, content) in junk() {
        fs::write(folder.join(name), content).unwrap();
    }
    world.apply("default", &route(419));
    answers(419);
    let missing = world.get(&client, "web:80/missing").unwrap_err();
    assert!(
        missing.contains("HTTP/1.1 503") && missing.contains("cluster_not_found"),
        "{missing}"
    );
    world.get(&client, "web:80").unwrap();

    // The control plane takes the files in the order of their names: the route comes before what is wrong.
    let logs = || world.lab.logs("istio-system/istiod", 1 << 20).unwrap();
    for named in [
        "random.yaml",
        "cut.yaml",
        "mesh/types",
        "mesh/fields",
        "mesh/port",
        "mesh/wrong",
        "bomb.yaml",
        "huge.yaml",
    ] {
        eventually(named, logs, |logs| logs.contains(named));
    }
    for (name, _) in junk() {
        fs::remove_file(folder.join(name)).unwrap();
    }
    world.apply("default", &route(420));
    answers(420);
    world.get(&client, "web:80").unwrap();
    world.assert_nobody_died();
}
