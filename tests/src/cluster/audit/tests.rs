use super::*;

const AGENT: &str = "system:serviceaccount:mesh:agent";

/// One line of the log; the moment is its place in time.
fn line(moment: u32, user: &str, verb: &str, object: &Value, code: u16, more: &Value) -> String {
    let mut event = json!({
        "verb": verb,
        "user": {"username": user},
        "requestURI": "/asked?for=it",
        "objectRef": object,
        "responseStatus": {"code": code, "message": "as it is"},
        "requestReceivedTimestamp": format!("2030-01-01T00:00:{moment:02}.000000Z"),
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        event[field] = value.clone();
    }
    format!("{event}\n")
}

fn by_agent(moment: u32, verb: &str, object: &Value, code: u16) -> String {
    line(moment, AGENT, verb, object, code, &Value::Null)
}

fn by_admin(moment: u32, verb: &str, object: &Value, written: &Value) -> String {
    line(
        moment,
        "admin",
        verb,
        object,
        201,
        &json!({"responseObject": written}),
    )
}

fn of_rbac(resource: &str, namespace: &str) -> Value {
    json!({"apiGroup": rights::GROUP, "resource": resource, "namespace": namespace, "name": "agent"})
}

/// A role and its binding; in all namespaces without one.
fn gives(moment: u32, namespace: &str, rules: &Value, account_in: &str) -> String {
    let (role, binding, kind) = match namespace {
        "" => ("clusterroles", "clusterrolebindings", "ClusterRole"),
        _ => ("roles", "rolebindings", "Role"),
    };
    let bound = json!({
        "roleRef": {"apiGroup": rights::GROUP, "kind": kind, "name": "agent"},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": account_in}],
    });
    [
        by_admin(
            moment,
            "create",
            &of_rbac(role, namespace),
            &json!({"rules": rules}),
        ),
        by_admin(moment, "create", &of_rbac(binding, namespace), &bound),
    ]
    .concat()
}

fn rights(lines: &[String]) -> Rights {
    Rights::of(events(&lines.concat()).unwrap()).unwrap()
}

fn shown<T: ToString>(of: &std::collections::BTreeSet<T>) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

fn pods(name: &str) -> Value {
    json!({"resource": "pods", "namespace": "shop", "name": name})
}

#[test]
fn a_right_is_used_by_what_it_reaches_and_by_nothing_else() {
    let everywhere = json!([
        {"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["list", "patch"]},
        {"nonResourceURLs": ["/asked", "/other"], "verbs": ["get"]},
    ]);
    let names = ["a", "b"];
    let here = json!([{"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": names, "verbs": ["get"]}]);
    let daemonset = |namespace: &str, name: &str| {
        let resource = "daemonsets";
        json!({"apiGroup": "apps", "resource": resource, "namespace": namespace, "name": name})
    };
    let found = rights(&[
        gives(0, "", &everywhere, "mesh"),
        gives(0, "mesh", &here, "mesh"),
        by_agent(1, "list", &pods(""), 200),
        by_agent(
            1,
            "patch",
            &json!({"resource": "pods", "subresource": "status", "name": "x"}),
            404,
        ),
        by_agent(1, "get", &daemonset("mesh", "a"), 200),
        by_agent(1, "get", &daemonset("shop", "b"), 200),
        by_agent(1, "get", &Value::Null, 200),
        line(
            1,
            "system:serviceaccount:mesh:other",
            "list",
            &json!({"resource": "pods/status"}),
            200,
            &Value::Null,
        ),
    ]);
    assert_eq!(found.given.len(), 8);
    assert_eq!(
        shown(&found.unused),
        [
            "mesh/agent get /other",
            "mesh/agent get daemonsets.apps b in mesh",
            "mesh/agent list pods/status",
            "mesh/agent patch pods",
        ]
    );
    assert!(found.refused.is_empty());
}

#[test]
fn applying_what_is_not_there_creates_it() {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "patch"]}]);
    let applied = |code| {
        rights(&[
            gives(0, "", &rules, "mesh"),
            by_agent(1, "patch", &pods("x"), code),
        ])
    };
    assert_eq!(shown(&applied(200).unused), ["mesh/agent create pods"]);
    assert!(applied(201).unused.is_empty());
}

#[test]
fn a_refusal_counts_while_nothing_is_taken_away() {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let refused = |moment, name: &str| by_agent(moment, "get", &pods(name), 403);
    let ends = json!({"responseStatus": {"code": 403, "message": "because it is being terminated"}});
    let found = rights(&[
        gives(0, "shop", &rules, "mesh"),
        refused(1, "first"),
        // Written when it ends, and begun before the role was gone.
        by_admin(3, "delete", &of_rbac("roles", "shop"), &Value::Null),
        refused(2, "second"),
        refused(4, "gone"),
        gives(5, "shop", &rules, "mesh"),
        refused(6, "third"),
        line(6, AGENT, "get", &pods("ending"), 0, &ends),
        by_admin(
            7,
            "deletecollection",
            &json!({"apiGroup": rights::GROUP, "resource": "rolebindings", "namespace": "shop"}),
            &Value::Null,
        ),
        refused(8, "gone too"),
    ]);
    assert_eq!(
        shown(&found.refused),
        ["first", "second", "third"].map(|name| format!("mesh/agent get pods shop/{name}: as it is"))
    );
    // A request that failed for something else needed the right.
    assert!(found.unused.is_empty());
}

#[test]
fn a_refusal_of_what_was_given_counts_unless_the_authorizer_had_not_heard_of_it() {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let refused = |verb: &str, message: String| {
        let answer = json!({"responseStatus": {"code": 403, "message": message}});
        line(1, AGENT, verb, &pods("x"), 0, &answer)
    };
    let by_roles = || format!("pods \"x\" is forbidden: User \"{AGENT}\" cannot do that");
    let found = rights(&[
        gives(0, "shop", &rules, "mesh"),
        refused("get", by_roles()),
        refused("list", by_roles()),
        refused("get", "denied by a policy".to_owned()),
    ]);
    let [policy, list] = &shown(&found.refused)[..] else {
        panic!("{found:?}")
    };
    assert!(policy.ends_with("denied by a policy"), "{policy}");
    assert!(list.starts_with("mesh/agent list pods"), "{list}");
}

#[test]
fn what_is_given_counts_though_it_is_taken_back() {
    let rules = |verb: &str| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]);
    let found = rights(&[
        gives(0, "", &rules("get"), "mesh"),
        by_admin(
            1,
            "patch",
            &of_rbac("clusterroles", ""),
            &json!({"rules": rules("list")}),
        ),
        by_admin(2, "delete", &of_rbac("clusterrolebindings", ""), &Value::Null),
    ]);
    assert_eq!(
        shown(&found.unused),
        ["mesh/agent get pods", "mesh/agent list pods"]
    );
}

#[test]
fn dry_runs_failures_and_accounts_of_kubernetes_give_nothing() {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let role = of_rbac("clusterroles", "");
    let ruled = json!({"responseObject": {"rules": rules}});
    let mut tried = ruled.clone();
    tried["requestURI"] = "/asked?dryRun=All".into();
    let found = rights(&[
        gives(0, "", &Value::Null, "mesh"),
        line(1, "admin", "patch", &role, 200, &tried),
        line(2, "admin", "patch", &role, 409, &ruled),
    ]);
    assert!(found.given.is_empty(), "{found:?}");
    assert!(rights(&[gives(0, "", &rules, "kube-system")]).given.is_empty());
}

#[test]
fn a_last_line_that_is_half_written_is_left_out_and_what_is_wrong_is_named() {
    let good = by_agent(0, "get", &pods("x"), 200);
    assert_eq!(events(&format!("{good}{}", &good[..20])).unwrap().len(), 1);
    let error = events(&format!("{good}nonsense\n")).unwrap_err().to_string();
    assert!(error.starts_with("line 2 of"), "{error}");
    let role = by_admin(0, "update", &of_rbac("roles", "mesh"), &json!({"rules": 1}));
    let error = Rights::of(events(&role).unwrap()).unwrap_err().to_string();
    assert!(error.contains("roles mesh/agent"), "{error}");
}
