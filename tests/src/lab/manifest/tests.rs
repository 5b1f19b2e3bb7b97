use super::*;

fn document(text: &str) -> Document {
    Document {
        origin: "web.yaml".to_owned(),
        text: text.to_owned(),
    }
}

fn problem(text: &str) -> String {
    let images = ImageMap::default();
    match read(&[document(text)], "default") {
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
        Ok(objects) => {
            let errors = objects.iter().filter_map(|object| check(object, &images).err());
            errors.map(|error| error.to_string()).collect()
        }
    }
}

fn deployment(container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  \
         template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      containers:\n      - {container}\n"
    )
}

#[test]
fn reads_many_documents_and_lists_with_namespaces_first() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\n---\n---\n\
                apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n\
                - {apiVersion: v1, kind: ServiceAccount, metadata: {name: b}}\n";
    let objects = read(&[document(text)], "team").unwrap();
    let keys: Vec<String> = objects.iter().map(|object| object.key.to_string()).collect();
    assert_eq!(
        keys,
        [
            "namespace/shop",
            "service/a in namespace shop",
            "serviceaccount/b in namespace team"
        ]
    );
}

#[test]
fn errors_name_file_object_field_and_cause() {
    for (text, parts) in [
        ("a: [", vec!["web.yaml", "not YAML"]),
        ("just text", vec!["web.yaml", "document 1", "expected an object"]),
        ("kind: Service", vec!["apiVersion"]),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: ../x}",
            vec!["metadata.name", "../x"],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: 1}}",
            vec!["Pod p", "metadata.labels"],
        ),
    ] {
        let message = problem(text);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn wrong_types_are_told_with_their_path() {
    let message = problem(&deployment("{name: c, image: x, ports: [{containerPort: many}]}"));
    for part in [
        "Deployment web",
        "spec.template.spec.containers[0].ports[0].containerPort",
        "many",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_image_without_mapping_is_named() {
    let message = problem(&deployment("{name: c, image: 'docker.io/x:1'}"));
    assert!(
        message.contains("containers[0].image") && message.contains("docker.io/x:1"),
        "{message}"
    );
    assert_eq!(problem(&deployment("{name: c, image: x, command: [cat]}")), "");
}

#[test]
fn other_kinds_pass_as_they_are() {
    assert_eq!(
        problem("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: 3"),
        ""
    );
}
