//! What a user lays over an object that the control plane makes, as a strategic merge patch.

use serde_json::{Map, Value};

/// Lists whose entries are told apart by a field; others are replaced as a whole.
const KEYED: [(&str, &str); 9] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("volumeMounts", "mountPath"),
    ("topologySpreadConstraints", "topologyKey"),
    ("ports", "containerPort"),
    ("ports", "port"),
];
/// `$patch: delete` takes an entry out.
const DIRECTIVE: &str = "$patch";

/// Lays `over` over `base`; null takes a field out.
pub(super) fn lay(over: &Value, base: &mut Value) {
    match (over, base) {
        (Value::Object(over), Value::Object(base)) => lay_fields(over, base),
        (over, base) => *base = over.clone(),
    }
}

fn lay_fields(over: &Map<String, Value>, base: &mut Map<String, Value>) {
    for (name, value) in over {
        match (value, base.get_mut(name)) {
            (Value::Null, _) => drop(base.remove(name)),
            (Value::Array(over), Some(Value::Array(base))) => lay_list(name, over, base),
            (value, Some(there)) => lay(value, there),
            (value, None) => drop(base.insert(name.clone(), value.clone())),
        }
    }
}

fn lay_list(name: &str, over: &[Value], base: &mut Vec<Value>) {
    let key = KEYED.iter().find(|(list, key)| {
        *list == name && !over.is_empty() && over.iter().all(|entry| entry.get(*key).is_some())
    });
    let Some((_, key)) = key else {
        *base = over.to_vec();
        return;
    };
    for entry in over {
        let at = base.iter().position(|there| there.get(*key) == entry.get(*key));
        let goes = entry.get(DIRECTIVE).is_some_and(|d| d == "delete");
        match at {
            Some(at) if goes => drop(base.remove(at)),
            Some(at) => lay(entry, &mut base[at]),
            None if goes => {}
            None => base.push(entry.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_merged_by_their_keys() {
        let mut base = json!({"replicas": 1, "gone": 1, "containers": [{"name": "a", "image": "i", "env": [{"name": "X", "value": "1"}], "args": ["x"]}], "ports": [{"port": 80, "name": "http"}, {"port": 81}]});
        let over = json!({"replicas": 3, "gone": null, "containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}], "args": ["y", "z"]}, {"name": "b"}], "ports": [{"port": 80, "nodePort": 30080}, {"port": 81, "$patch": "delete"}], "tolerations": [{"operator": "Exists"}]});
        lay(&over, &mut base);
        let wanted = json!({"replicas": 3, "containers": [{"name": "a", "image": "i", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}], "args": ["y", "z"]}, {"name": "b"}], "ports": [{"port": 80, "name": "http", "nodePort": 30080}], "tolerations": [{"operator": "Exists"}]});
        assert_eq!(base, wanted);
    }
}
