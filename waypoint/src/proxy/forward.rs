//! Sends a request to its cluster: endpoints, attempts, time limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::http::action::{Destination, Forward};
use aquifer_core::http::cors::CorsDecision;
use aquifer_core::http::decision::Decision;
use aquifer_core::http::retry::{Attempt, RetryPolicy};
use aquifer_core::http::rewrite::HostRewrite;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::sleep;

use super::attempt::{Answer, Template};
use super::failure::Failure;
use super::head::{Head, join};
use super::headers::{ORIGINAL_PATH, UPSTREAM_TIME, X_FORWARDED_HOST, ask_for_websocket, strip_hop_by_hop};
use super::record::{Record, UpstreamFacts};
use super::request::Downstream;
use super::response::{ResponseBody, Streaming};
use super::upgrade::Offer;
use super::upload::Upload;
use super::{local, upgrade};
use crate::policy;
use crate::state::ClusterState;

/// A request that has a destination.
pub(crate) struct Forwarding<'a> {
    pub(crate) downstream: &'a Downstream,
    pub(crate) decision: Decision<'a>,
    pub(crate) forward: &'a Forward,
    pub(crate) destination: &'a Destination,
    pub(crate) upload: Upload,
}

/// What the attempts have come to.
#[derive(Default)]
struct Progress {
    retries: u32,
    tried: Vec<SocketAddr>,
}

impl Forwarding<'_> {
    pub(crate) async fn run(
        self,
        head: Head,
        websocket: Option<Offer>,
        cors: &CorsDecision,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let template = self.template(head, websocket.is_some());
        let mut progress = Progress::default();
        let answer = tokio::select! {
            biased;
            answer = self.attempts(&template, &mut progress, &mut record) => answer,
            () = self.time_is_up() => Err(Failure::Timeout),
        };
        match answer {
            Ok(answer) if websocket.is_none() && is_switch(&answer) => {
                let failure = Failure::Protocol("101 to a request that asked for no upgrade".to_owned());
                local::failure(&failure, record, false)
            }
            Ok(answer) => self.respond(answer, websocket, cors, &progress, record),
            Err(failure) => local::failure(&failure, record, progress.retries > 0),
        }
    }

    /// The route's time runs from the moment that the client has sent everything, as Envoy counts it.
    async fn time_is_up(&self) {
        let Some(timeout) = self.forward.timeout else {
            return std::future::pending().await;
        };
        self.upload.finished().await;
        sleep(timeout).await;
    }

    /// What every attempt sends.
    fn template(&self, mut head: Head, websocket: bool) -> Template {
        if websocket {
            ask_for_websocket(&mut head.headers);
        }
        for mutations in self.decision.request_mutations() {
            mutations.apply(&mut head.headers);
        }
        let host = self.host(&head);
        let path = self.path(&mut head);
        Template {
            target: join(&path, head.query.as_deref()),
            count_attempts: self.decision.virtual_host.is_some_and(|v| v.attempt_count),
            http2: head.is_http2(),
            method: head.method,
            scheme: head.scheme,
            headers: head.headers,
            host,
            websocket,
            client: self.downstream.connection.client.address,
        }
    }

    fn host(&self, head: &Head) -> String {
        let rewrite: Option<&HostRewrite> = self
            .destination
            .host_rewrite
            .as_ref()
            .or(self.forward.host_rewrite.as_ref());
        rewrite
            .and_then(|rewrite| rewrite.apply(&head.headers))
            .unwrap_or_else(|| head.host.clone())
    }

    fn path(&self, head: &mut Head) -> String {
        if self.forward.append_forwarded_host
            && let Ok(value) = HeaderValue::try_from(&head.host)
        {
            head.headers.append(X_FORWARDED_HOST, value);
        }
        let rewritten = match (&self.forward.path_rewrite, self.decision.route) {
            (Some(rewrite), Some(route)) => rewrite.apply(&route.matches.path, &head.path),
            _ => None,
        };
        let Some(path) = rewritten else {
            return head.path.clone();
        };
        if let Ok(original) = HeaderValue::try_from(head.path_and_query()) {
            head.headers.insert(ORIGINAL_PATH, original);
        }
        path
    }

    /// Attempts until one is good, or no other is allowed.
    async fn attempts(
        &self,
        template: &Template,
        progress: &mut Progress,
        record: &mut Record,
    ) -> Result<Answer, Failure> {
        loop {
            let result = self.attempt(template, progress, record).await;
            let Some(policy) = self.another(&result, progress) else {
                return result;
            };
            progress.retries += 1;
            drop(result);
            sleep(policy.back_off.wait(progress.retries, rand::random())).await;
        }
    }

    /// The policy, where it allows another attempt after this one.
    fn another(&self, result: &Result<Answer, Failure>, progress: &Progress) -> Option<&RetryPolicy> {
        let policy = self.forward.retry.as_ref()?;
        let attempt = match result {
            Ok(answer) => Attempt::Response {
                status: answer.response.status().as_u16(),
                grpc_status: grpc_status(&answer.response),
            },
            Err(failure) => failure.attempt()?,
        };
        let allowed =
            progress.retries < policy.attempts && policy.allows(attempt) && self.upload.can_repeat();
        allowed.then_some(policy)
    }

    async fn attempt(
        &self,
        template: &Template,
        progress: &mut Progress,
        record: &mut Record,
    ) -> Result<Answer, Failure> {
        let cluster = self.cluster()?;
        let avoid = self
            .forward
            .retry
            .as_ref()
            .is_some_and(|p| p.avoid_previous_hosts);
        let tried: &[SocketAddr] = if avoid { &progress.tried } else { &[] };
        let chosen = cluster.choose(rand::random(), tried);
        let (endpoint, state) =
            chosen.ok_or_else(|| Failure::NoHealthyUpstream(self.destination.cluster.to_string()))?;
        progress.tried.push(endpoint.address);
        record.upstream = Some(UpstreamFacts {
            endpoint: endpoint.clone(),
            local: None,
        });
        let mesh = self.downstream.proxy.shared.mesh();
        if let Some(pod) = &self.downstream.connection.pod {
            pod.check(&mesh)?;
        }
        policy::admit(&mesh, &self.downstream.connection.client, endpoint)?;
        let sending = template.send(
            &self.downstream.proxy,
            &cluster.cluster,
            state,
            &self.upload,
            progress.retries + 1,
        );
        let limit = self.forward.retry.as_ref().and_then(|p| p.per_try_timeout);
        let answer = within(limit, sending).await?;
        if let Some(upstream) = &mut record.upstream {
            upstream.local = answer.local;
        }
        Ok(answer)
    }

    /// The cluster as it is now: a retry sees endpoints that have come in the meantime.
    fn cluster(&self) -> Result<Arc<ClusterState>, Failure> {
        if let Some(pod) = &self.downstream.connection.pod {
            pod.cluster
                .states
                .iter()
                .for_each(|pod| pod.expire(Instant::now()));
            return Ok(pod.cluster.clone());
        }
        let state = self.downstream.proxy.shared.proxy();
        let cluster = state.clusters.get(&self.destination.cluster).cloned();
        cluster.ok_or_else(|| Failure::ClusterNotFound {
            name: self.destination.cluster.to_string(),
            status: self.forward.cluster_not_found,
        })
    }

    fn respond(
        &self,
        answer: Answer,
        websocket: Option<Offer>,
        cors: &CorsDecision,
        progress: &Progress,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let exhausted = self
            .forward
            .retry
            .as_ref()
            .is_some_and(|p| progress.retries >= p.attempts);
        record.code = answer.response.status().as_u16();
        record.details = "via_upstream";
        if exhausted && progress.retries > 0 && answer.response.status().is_server_error() {
            record.flags = "URX";
        }
        record.note_grpc(answer.response.headers());
        record.upstream_time = Some(answer.took);
        if is_switch(&answer)
            && let Some(websocket) = websocket
        {
            return upgrade::respond(self, answer, websocket, record);
        }
        self.stream(answer, cors, record)
    }

    fn stream(&self, answer: Answer, cors: &CorsDecision, record: Record) -> Response<ResponseBody> {
        let started = record.started();
        let (mut parts, incoming) = answer.response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        parts.version = http::Version::default();
        let millis = HeaderValue::from(u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX));
        parts.headers.insert(UPSTREAM_TIME, millis);
        local::grant(cors, &mut parts.headers);
        local::mutate(&self.decision, &mut parts.headers);
        let streaming = Streaming {
            incoming,
            deadline: self.deadline(started),
            idle_timeout: self
                .forward
                .idle_timeout
                .or(self.downstream.connection.http.stream_idle_timeout),
            idle: None,
            lease: answer.lease,
            _active: answer.active,
        };
        Response::from_parts(parts, ResponseBody::upstream(streaming, record))
    }

    /// The end of the route's time, for the rest of the response.
    fn deadline(&self, started: Instant) -> Option<std::pin::Pin<Box<tokio::time::Sleep>>> {
        let timeout = self.forward.timeout?;
        let from = if self.upload.is_empty() {
            started
        } else {
            Instant::now()
        };
        let until = from.checked_add(timeout)?;
        Some(Box::pin(tokio::time::sleep_until(until.into())))
    }
}

fn is_switch(answer: &Answer) -> bool {
    answer.response.status() == StatusCode::SWITCHING_PROTOCOLS
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or(Err(Failure::AttemptTimeout)),
        None => work.await,
    }
}

fn grpc_status(response: &Response<Incoming>) -> Option<u32> {
    response.headers().get("grpc-status")?.to_str().ok()?.parse().ok()
}
