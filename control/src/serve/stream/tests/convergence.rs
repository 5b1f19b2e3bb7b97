//! Whatever happens on the way, a client ends with what the server has.

use std::collections::VecDeque;

use aquifer_xds::delta::{Batch, DeltaState};
use aquifer_xds::handler::Rejected;
use aquifer_xds::pb::envoy::config::core::v3::Node;
use proptest::prelude::*;

use super::*;

const TYPES: [&str; 3] = [CLUSTER, ROUTES, ADDRESS];
/// A version that the client rejects.
const BAD: u8 = 0;

#[derive(Clone, Debug)]
enum Step {
    /// The model changes: type, name and version of everything there is.
    Publish(Vec<(usize, u8, u8)>),
    /// The server sends all it may.
    Send,
    /// One response reaches the client, and its answer the server.
    Deliver,
    /// The connection is lost with all that was under way.
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => proptest::collection::vec((0..TYPES.len(), 0u8..6, 0u8..4), 0..12).prop_map(Step::Publish),
        3 => Just(Step::Send),
        5 => Just(Step::Deliver),
        1 => Just(Step::Reconnect),
    ]
}

type Model = BTreeMap<(usize, u8), u8>;

struct World {
    model: Model,
    generation: u64,
    server: StreamState,
    client: DeltaState,
    /// What the client's handlers hold.
    held: Model,
    flying: VecDeque<DeltaDiscoveryResponse>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            model: Model::new(),
            generation: 1,
            server: StreamState::new(snapshot(1, &[])),
            client: DeltaState::new(Node::default(), TYPES),
            held: Model::new(),
            flying: VecDeque::new(),
        };
        world.reconnect();
        world
    }

    fn snapshot(&self) -> Arc<ResourceSnapshot> {
        let texts: Vec<(usize, String, String)> = self
            .model
            .iter()
            .map(|((url, name), version)| (*url, name.to_string(), version.to_string()))
            .collect();
        let content: Vec<(&'static str, &str, &str)> = texts
            .iter()
            .map(|(url, name, version)| (TYPES[*url], name.as_str(), version.as_str()))
            .collect();
        snapshot(self.generation, &content)
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Publish(content) => {
                self.model = content
                    .into_iter()
                    .map(|(url, name, version)| ((url, name), version))
                    .collect();
                self.generation += 1;
                self.server.replace(self.snapshot());
            }
            Step::Send => self.send(),
            Step::Deliver => self.deliver(),
            Step::Reconnect => self.reconnect(),
        }
    }

    fn reconnect(&mut self) {
        self.flying.clear();
        self.server = StreamState::new(self.snapshot());
        for request in self.client.connected() {
            self.server.request(request).unwrap();
        }
    }

    fn send(&mut self) {
        while let Some(outgoing) = self.server.next() {
            self.flying.push_back(read(&outgoing.response, outgoing.added));
        }
    }

    fn deliver(&mut self) {
        let Some(response) = self.flying.pop_front() else {
            return;
        };
        let batch = self.client.received(response).unwrap();
        let outcome = self.apply(&batch);
        let answer = self.client.applied(batch, outcome);
        self.server.request(answer).unwrap();
    }

    fn apply(&mut self, batch: &Batch) -> Result<(), Vec<Rejected>> {
        let url = TYPES.iter().position(|url| *url == batch.type_url).unwrap();
        let mut bad = Vec::new();
        for update in &batch.updates {
            let version: u8 = String::from_utf8(update.resource.value.clone())
                .unwrap()
                .parse()
                .unwrap();
            if version == BAD {
                bad.push(Rejected::new(&update.name, "bad"));
            } else {
                self.held.insert((url, update.name.parse().unwrap()), version);
            }
        }
        for name in &batch.removals {
            assert!(
                self.held.remove(&(url, name.parse().unwrap())).is_some(),
                "removed what was not held"
            );
        }
        if bad.is_empty() { Ok(()) } else { Err(bad) }
    }

    fn settle(&mut self) {
        self.send();
        while !self.flying.is_empty() {
            self.deliver();
            self.send();
        }
    }

    /// Good resources are held as published, bad ones at an older version or not at all, and nothing else.
    fn check(&mut self) {
        for (key, version) in &self.model {
            if *version != BAD {
                assert_eq!(self.held.get(key), Some(version), "{key:?}");
            }
        }
        for key in self.held.keys() {
            assert!(self.model.contains_key(key), "{key:?} is gone but held");
        }
        let rejects = self.model.values().any(|version| *version == BAD);
        assert!(rejects || self.server.settled());
    }
}

proptest! {
    #[test]
    fn client_ends_with_what_the_server_has(steps in proptest::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        world.settle();
        world.check();
    }
}
