//! The control plane's process as its cluster sees it: behind the chart's Service, with what the chart tells it.

use aquifer_tests::cluster::layout::Member;
use serde_json::{Value, json};

use crate::control::{Control, Ports, free_port};
use crate::way::Way;
use crate::world::{World, helm_template};

/// The pods' ports of the chart's Service.
const XDS: u16 = 15012;
const WEBHOOK: u16 = 15017;

pub(crate) struct Beside<'a> {
    world: &'a World,
    grpc: u16,
    webhook: u16,
    _ways: [Way; 2],
}

impl<'a> Beside<'a> {
    pub(crate) fn of(world: &'a World) -> Self {
        let (grpc, webhook) = (free_port(), free_port());
        let service = [
            "aquifer",
            "-n",
            "istio-system",
            "-s",
            "templates/control/service.yaml",
        ];
        world.apply(&helm_template("deploy/chart", &service));
        world.apply(&endpoints().to_string());
        Self {
            world,
            grpc,
            webhook,
            _ways: [Way::open(world, XDS, grpc), Way::open(world, WEBHOOK, webhook)],
        }
    }

    /// Starts it with these values of the chart, and waits until it is ready.
    pub(crate) fn start(&self, name: &str, values: &[&str]) -> Control {
        let control = self.begin(name, values);
        control.ready();
        control
    }

    /// Starts it with these values of the chart.
    pub(crate) fn begin(&self, name: &str, values: &[&str]) -> Control {
        let mut variables = variables(values);
        let listen = format!("127.0.0.1:{}", self.webhook);
        variables.push(("AQUIFER_WEBHOOK_LISTEN".to_owned(), listen));
        let ports = Ports {
            grpc: self.grpc,
            monitoring: free_port(),
        };
        Control::start_with(self.world, name, ports, &[], &variables)
    }
}

/// Where the chart's pods would be.
fn endpoints() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": "istiod-beside", "namespace": "istio-system",
            "labels": {"kubernetes.io/service-name": "istiod"},
        },
        "ports": [
            {"name": "https-dns", "port": XDS, "protocol": "TCP"},
            {"name": "https-webhook", "port": WEBHOOK, "protocol": "TCP"},
        ],
        "endpoints": [{"addresses": [Member::Control.address()], "conditions": {"ready": true}}],
    })
}

/// The environment of the chart's Deployment, without what a pod's own fields say.
fn variables(values: &[&str]) -> Vec<(String, String)> {
    let mut arguments = vec![
        "aquifer",
        "-n",
        "istio-system",
        "-s",
        "templates/control/deployment.yaml",
    ];
    // The images are on the node, and nowhere else.
    arguments.extend(["--set", "global.imagePullPolicy=Never"]);
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    let text = helm_template("deploy/chart", &arguments);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let deployment = documents.iter().find(|d| d["kind"] == "Deployment").unwrap();
    let list = deployment
        .pointer("/spec/template/spec/containers/0/env")
        .unwrap();
    let variable = |one: &Value| {
        let text = |field: &str| one[field].as_str().map(str::to_owned);
        Some((text("name")?, text("value")?))
    };
    list.as_array().unwrap().iter().filter_map(variable).collect()
}
