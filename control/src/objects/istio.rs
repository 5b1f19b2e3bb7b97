//! Istio's objects, field by field, as their API defines them.
//!
//! A field that is missing here rejects the objects that use it, so every field of the API is listed, also those that
//! have no effect yet: the model says so in the object's status.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

type Text = Arc<str>;
type Labels = BTreeMap<Text, Text>;

macro_rules! raw {
    ($name:ident { $($field:ident : $kind:ty),* $(,)? }) => {
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(default, rename_all = "camelCase", remote = "Self")]
        pub struct $name { $(pub $field: $kind,)* }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct FromMap;
                impl<'de> serde::de::Visitor<'de> for FromMap {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a mapping")
                    }
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        $name::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    }
                }
                // Serde itself would take a list of the fields' values as well.
                deserializer.deserialize_map(FromMap)
            }
        }
    };
}

pub(super) use raw;

raw!(VirtualService {
    hosts: Vec<Text>,
    gateways: Vec<Text>,
    http: Vec<HttpRoute>,
    tls: Vec<TlsRoute>,
    tcp: Vec<TcpRoute>,
    export_to: Vec<Text>,
});

raw!(HttpRoute {
    name: Text,
    r#match: Vec<HttpMatch>,
    route: Vec<HttpDestination>,
    redirect: Option<Redirect>,
    direct_response: Option<DirectResponse>,
    delegate: Option<Delegate>,
    rewrite: Option<Rewrite>,
    timeout: Option<Text>,
    retries: Option<Retries>,
    fault: Option<Fault>,
    mirror: Option<Destination>,
    mirrors: Vec<Mirror>,
    mirror_percent: Option<u32>,
    mirror_percentage: Option<Percent>,
    cors_policy: Option<CorsPolicy>,
    headers: Option<Headers>,
});

raw!(HttpMatch {
    name: Text,
    uri: Option<StringMatch>,
    scheme: Option<StringMatch>,
    method: Option<StringMatch>,
    authority: Option<StringMatch>,
    headers: BTreeMap<Text, StringMatch>,
    port: Option<u16>,
    source_labels: Labels,
    gateways: Vec<Text>,
    query_params: BTreeMap<Text, StringMatch>,
    ignore_uri_case: bool,
    without_headers: BTreeMap<Text, StringMatch>,
    source_namespace: Text,
    stat_prefix: Text,
});

raw!(StringMatch {
    exact: Option<Text>,
    prefix: Option<Text>,
    regex: Option<Text>,
});

raw!(HttpDestination {
    destination: Option<Destination>,
    weight: Option<i64>,
    headers: Option<Headers>,
});

raw!(Destination {
    host: Text,
    subset: Text,
    port: Option<PortSelector>,
});

raw!(PortSelector { number: Option<u16>, });

raw!(Headers {
    request: Option<HeaderOperations>,
    response: Option<HeaderOperations>,
});

raw!(HeaderOperations {
    set: Labels,
    add: Labels,
    remove: Vec<Text>,
});

raw!(Redirect {
    uri: Option<Text>,
    authority: Option<Text>,
    port: Option<u16>,
    derive_port: Option<Text>,
    scheme: Option<Text>,
    redirect_code: Option<u32>,
});

raw!(DirectResponse {
    status: u32,
    body: Option<ResponseBody>,
});

raw!(ResponseBody {
    string: Option<Text>,
    bytes: Option<Text>,
});

raw!(Delegate {
    name: Text,
    namespace: Text,
});

raw!(Rewrite {
    uri: Option<Text>,
    authority: Option<Text>,
    uri_regex_rewrite: Option<RegexRewrite>,
});

raw!(RegexRewrite {
    r#match: Text,
    rewrite: Text,
});

raw!(Retries {
    attempts: Option<i64>,
    per_try_timeout: Option<Text>,
    retry_on: Text,
    retry_remote_localities: Option<bool>,
    retry_ignore_previous_hosts: Option<bool>,
    backoff: Option<Text>,
});

raw!(Fault {
    delay: Option<Delay>,
    abort: Option<Abort>,
});

raw!(Delay {
    fixed_delay: Option<Text>,
    exponential_delay: Option<Text>,
    percent: Option<u32>,
    percentage: Option<Percent>,
});

raw!(Abort {
    http_status: Option<u32>,
    grpc_status: Option<Text>,
    http2_error: Option<Text>,
    percentage: Option<Percent>,
});

raw!(Percent { value: f64 });

raw!(Mirror {
    destination: Option<Destination>,
    percentage: Option<Percent>,
    headers: Option<Headers>,
});

raw!(CorsPolicy {
    allow_origin: Vec<Text>,
    allow_origins: Vec<StringMatch>,
    allow_methods: Vec<Text>,
    allow_headers: Vec<Text>,
    expose_headers: Vec<Text>,
    max_age: Option<Text>,
    allow_credentials: Option<bool>,
    unmatched_preflights: Text,
});

raw!(TlsRoute {
    r#match: Vec<TlsMatch>,
    route: Vec<RouteDestination>,
});

raw!(TlsMatch {
    sni_hosts: Vec<Text>,
    destination_subnets: Vec<Text>,
    port: Option<u16>,
    source_labels: Labels,
    gateways: Vec<Text>,
    source_namespace: Text,
});

raw!(TcpRoute {
    r#match: Vec<TcpMatch>,
    route: Vec<RouteDestination>,
});

raw!(TcpMatch {
    destination_subnets: Vec<Text>,
    port: Option<u16>,
    source_subnet: Text,
    source_labels: Labels,
    gateways: Vec<Text>,
    source_namespace: Text,
});

raw!(RouteDestination {
    destination: Option<Destination>,
    weight: Option<i64>,
});

raw!(DestinationRule {
    host: Text,
    traffic_policy: Option<TrafficPolicy>,
    subsets: Vec<Subset>,
    export_to: Vec<Text>,
    workload_selector: Option<Selector>,
});

raw!(Subset {
    name: Text,
    labels: Labels,
    traffic_policy: Option<TrafficPolicy>,
});

raw!(TrafficPolicy {
    load_balancer: Option<LoadBalancer>,
    connection_pool: Option<Value>,
    outlier_detection: Option<Value>,
    tls: Option<ClientTls>,
    port_level_settings: Vec<PortPolicy>,
    tunnel: Option<Value>,
    proxy_protocol: Option<Value>,
    retry_budget: Option<Value>,
});

raw!(PortPolicy {
    port: Option<PortSelector>,
    load_balancer: Option<LoadBalancer>,
    connection_pool: Option<Value>,
    outlier_detection: Option<Value>,
    tls: Option<ClientTls>,
});

raw!(LoadBalancer {
    simple: Option<Text>,
    consistent_hash: Option<Value>,
    locality_lb_setting: Option<Value>,
    zone_aware_lb_setting: Option<Value>,
    backend_utilization: Option<Value>,
    warmup_duration_secs: Option<Value>,
    warmup: Option<Value>,
});

raw!(ClientTls {
    mode: Text,
    client_certificate: Option<Text>,
    private_key: Option<Text>,
    ca_certificates: Option<Text>,
    credential_name: Option<Text>,
    ca_cert_credential_name: Option<Text>,
    subject_alt_names: Vec<Text>,
    sni: Option<Text>,
    insecure_skip_verify: Option<bool>,
    ca_crl: Option<Text>,
});

raw!(Selector { match_labels: Labels });

raw!(Gateway {
    selector: Labels,
    servers: Vec<Server>,
});

raw!(Server {
    name: Text,
    port: Option<ServerPort>,
    bind: Text,
    hosts: Vec<Text>,
    tls: Option<ServerTls>,
    default_endpoint: Option<Text>,
});

raw!(ServerPort {
    number: Option<u16>,
    protocol: Text,
    name: Text,
    target_port: Option<u16>,
});

raw!(ServerTls {
    https_redirect: bool,
    mode: Text,
    credential_name: Option<Text>,
    credential_names: Vec<Text>,
    ca_cert_credential_name: Option<Text>,
    server_certificate: Option<Text>,
    private_key: Option<Text>,
    ca_certificates: Option<Text>,
    ca_crl: Option<Text>,
    tls_certificates: Vec<Value>,
    subject_alt_names: Vec<Text>,
    verify_certificate_spki: Vec<Text>,
    verify_certificate_hash: Vec<Text>,
    min_protocol_version: Option<Text>,
    max_protocol_version: Option<Text>,
    cipher_suites: Vec<Text>,
    ecdh_curves: Vec<Text>,
    alpn_protocols: Vec<Text>,
    insecure_skip_verify: Option<bool>,
});

raw!(ServiceEntry {
    hosts: Vec<Text>,
    addresses: Vec<Text>,
    ports: Vec<EntryPort>,
    location: Text,
    resolution: Text,
    endpoints: Vec<EntryEndpoint>,
    workload_selector: Option<EntrySelector>,
    export_to: Vec<Text>,
    subject_alt_names: Vec<Text>,
});

raw!(EntryPort {
    number: Option<u16>,
    protocol: Text,
    name: Text,
    target_port: Option<u16>,
});

raw!(EntryEndpoint {
    address: Text,
    ports: BTreeMap<Text, u16>,
    labels: Labels,
    network: Text,
    locality: Text,
    weight: Option<u32>,
    service_account: Text,
});

raw!(EntrySelector { labels: Labels });

raw!(PeerAuthentication {
    selector: Option<Selector>,
    mtls: Option<MutualTls>,
    port_level_mtls: BTreeMap<Text, MutualTls>,
});

raw!(MutualTls { mode: Text });

raw!(AuthorizationPolicy {
    selector: Option<Selector>,
    target_ref: Option<PolicyTarget>,
    target_refs: Vec<PolicyTarget>,
    rules: Vec<PolicyRule>,
    action: Text,
    provider: Option<Provider>,
});

raw!(PolicyTarget {
    group: Text,
    kind: Text,
    name: Text,
    namespace: Option<Text>,
});

raw!(Provider { name: Text });

raw!(PolicyRule {
    from: Vec<From>,
    to: Vec<To>,
    when: Vec<Condition>,
});

raw!(From { source: Option<Source>, });

raw!(Source {
    principals: Vec<Text>,
    not_principals: Vec<Text>,
    request_principals: Vec<Text>,
    not_request_principals: Vec<Text>,
    namespaces: Vec<Text>,
    not_namespaces: Vec<Text>,
    service_accounts: Vec<Text>,
    not_service_accounts: Vec<Text>,
    ip_blocks: Vec<Text>,
    not_ip_blocks: Vec<Text>,
    remote_ip_blocks: Vec<Text>,
    not_remote_ip_blocks: Vec<Text>,
});

raw!(To { operation: Option<Operation>, });

raw!(Operation {
    hosts: Vec<Text>,
    not_hosts: Vec<Text>,
    ports: Vec<Text>,
    not_ports: Vec<Text>,
    methods: Vec<Text>,
    not_methods: Vec<Text>,
    paths: Vec<Text>,
    not_paths: Vec<Text>,
});

raw!(Condition {
    key: Text,
    values: Vec<Text>,
    not_values: Vec<Text>,
});
