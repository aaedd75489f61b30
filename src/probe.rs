//! One check, shown in full: what `alta-auth check` prints.
//!
//! Asked by the same code that the engine uses, on a runtime of its own on the calling thread. Nothing is
//! pooled, coalesced or remembered.

mod explain;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::backend::RequestPlan;
use crate::check::{Check, Question};
use crate::config::{BackendUrl, Config};
use crate::decision::{Decision, Verdict};
use crate::engine::{
    Asking, Attempt, Means, Phrases, Policy, RetryBudget, StartError, SubmitError, UNCORROBORATED, ask,
    backend_decision, doing, is_uncorroborated, outage_decision,
};
use crate::observe::Logger;
use crate::transport::{Stage, Trace, Transport};

pub use self::explain::Explanation;

/// Everything that one check did, for a person to read. Holds secrets, as the bytes are as sent; `Debug` shows none of them.
#[derive(Debug)]
#[non_exhaustive]
pub struct ProbeReport {
    /// What an engine would have decided.
    pub decision: Decision,
    /// Every request, in order: one, or more after a failover or a safe retry.
    pub attempts: Vec<ProbeAttempt>,
    /// Which of `attempts` ended in the outage that decided; `None`: there was an answer.
    pub outage: Option<usize>,
    /// The default action would allow, and an engine denies all the same: `fail_open = corroborated`, and nobody else met
    /// an outage.
    pub uncorroborated: bool,
    /// What the configuration warns of.
    pub warnings: Vec<String>,
    /// Which rules led to the decision.
    pub explanation: Explanation,
}

/// One request to one endpoint. `Debug` shows how long request and reply are.
#[derive(Default)]
#[non_exhaustive]
pub struct ProbeAttempt {
    /// `scheme://host:port`
    pub endpoint: String,
    /// The address connected to.
    pub peer: Option<String>,
    /// e.g. `TLSv1.3, h2`
    pub tls: Option<String>,
    /// `HTTP/1.1` or `HTTP/2`
    pub protocol: &'static str,
    /// The request head, as sent; for HTTP/2 the same request as HTTP/1.1 text.
    pub request: Vec<u8>,
    /// Every byte received; empty for HTTP/2.
    pub reply: Vec<u8>,
    /// That of the final status line, if it came.
    pub status: Option<u16>,
    /// How long the steps took; `None`: not reached, or not needed.
    pub resolve: Option<Duration>,
    /// TCP or Unix connect.
    pub connect: Option<Duration>,
    /// TLS handshake.
    pub tls_handshake: Option<Duration>,
    /// From the request written to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// The whole attempt.
    pub total: Duration,
    /// The same time, step by step: what it was doing, and for how long.
    pub stages: Vec<(&'static str, Duration)>,
    /// What it was doing when it ended without an answer, e.g. `connecting`; empty if there was an answer.
    pub stage: &'static str,
    /// Why there was no answer, or that another was faster and this one not waited for; empty if there was an answer.
    pub failure: String,
}

impl fmt::Debug for ProbeAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeAttempt")
            .field("endpoint", &self.endpoint)
            .field("peer", &self.peer)
            .field("tls", &self.tls)
            .field("protocol", &self.protocol)
            .field("request", &self.request.len())
            .field("reply", &self.reply.len())
            .field("status", &self.status)
            .field("resolve", &self.resolve)
            .field("connect", &self.connect)
            .field("tls_handshake", &self.tls_handshake)
            .field("first_byte", &self.first_byte)
            .field("total", &self.total)
            .field("stages", &self.stages)
            .field("stage", &self.stage)
            .field("failure", &self.failure)
            .finish()
    }
}

/// Asks once; blocks until there is a decision.
pub fn probe(config: &Config, check: &Check<'_>) -> Result<Result<ProbeReport, SubmitError>, StartError> {
    let settings = Arc::new(config.settings().map_err(StartError::Config)?);
    let policy = Policy::new(Arc::clone(&settings), None, &Logger::off())?;
    let policy = Arc::new(policy);
    let question = match policy.accept(check) {
        Ok(question) => Rc::new(question),
        Err(invalid) => return Ok(Err(SubmitError::Invalid(invalid))),
    };
    let runtime = runtime().map_err(StartError::System)?;
    let local = LocalSet::new();
    let asking = Asking::traced();
    let began = Instant::now();
    let result = local.block_on(&runtime, async {
        let transport = Transport::new(Arc::clone(&policy.shared), Arc::clone(&policy.gauges), 0, 1);
        let timeout = question.timeout().map_or(settings.timeout, |wanted| wanted.min(settings.timeout));
        let result = ask(&Means {
            transport: &transport,
            retries: &RetryBudget::default(),
            alarms: None,
            policy: &policy,
            question: &question,
            deadline: began + timeout,
            asking: &asking,
            may_hedge: false,
            random: 0,
        })
        .await;
        transport.close();
        result
    });
    let attempts = asking.attempts();
    let explanation = explain::explanation(&policy, &question, &attempts, &result);
    let (mut outage, mut uncorroborated) = (None, false);
    let mut decision = match result {
        Ok(answer) => {
            // Where nothing is remembered, nothing is reused.
            let ttl = if settings.memory.decisions == 0 { Duration::ZERO } else { answer.ttl };
            backend_decision(answer, ttl)
        }
        Err(decisive) => {
            outage = attempts.iter().rposition(|attempt| attempt.endpoint == decisive.endpoint);
            let mut decision = outage_decision(&policy, &decisive);
            uncorroborated = is_uncorroborated(&policy, &question, &decision);
            let done = if uncorroborated { UNCORROBORATED } else { "default action" };
            if uncorroborated {
                decision.verdict = Verdict::Deny;
            }
            Phrases::default().explain(decision, &decisive.detail, done)
        }
    };
    decision.latency = began.elapsed();
    let attempts = attempts
        .iter()
        .map(|attempt| {
            let endpoint = attempt.endpoint;
            shown(attempt, &settings.backends[endpoint], &policy.plans[endpoint], &question)
        })
        .collect();
    let warnings = settings.warnings.clone();
    Ok(Ok(ProbeReport { decision, attempts, outage, uncorroborated, warnings, explanation }))
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()
}

fn shown(attempt: &Attempt, url: &BackendUrl, plan: &Arc<RequestPlan>, question: &Question) -> ProbeAttempt {
    let trace = attempt.progress.trace.as_ref().expect("a traced asking records every attempt").borrow();
    let ended = attempt.ended.unwrap_or_else(Instant::now);
    let entered = |stage| trace.marks.iter().find(|&&(mark, _)| mark == stage).map(|&(_, at)| at);
    // A step lasts until the next one that was entered.
    let lasted = |stage| {
        let from = entered(stage)?;
        let until = trace.marks.iter().map(|&(_, at)| at).find(|&at| at > from).unwrap_or(ended);
        Some(until - from)
    };
    let failure = if attempt.given_up { explain::NOT_WAITED_FOR } else { &attempt.failure };
    let reached = trace.marks.last().map_or(Stage::Queued, |&(stage, _)| stage);
    let request = if trace.http2 {
        let mut request = Vec::new();
        plan.write_http1(question, &mut request);
        request
    } else {
        trace.sent.clone()
    };
    ProbeAttempt {
        endpoint: url.label(),
        peer: trace.peer.clone(),
        tls: trace.tls.clone(),
        protocol: if trace.http2 { "HTTP/2" } else { "HTTP/1.1" },
        request,
        reply: trace.received.clone(),
        status: attempt.progress.status_line.get(),
        resolve: lasted(Stage::Resolving),
        connect: lasted(Stage::Connecting),
        tls_handshake: lasted(Stage::Handshaking),
        first_byte: entered(Stage::Replying).and(lasted(Stage::Written)),
        total: ended - attempt.began,
        stages: stages(attempt, &trace, ended),
        // Of an attempt that is over, the progress may be in line again.
        stage: if failure.is_empty() { "" } else { doing(reached) },
        failure: failure.to_owned(),
    }
}

fn stages(attempt: &Attempt, trace: &Trace, ended: Instant) -> Vec<(&'static str, Duration)> {
    let (mut stage, mut since) = (Stage::Queued, attempt.began);
    let mut stages = Vec::new();
    for &(next, at) in trace.marks.iter().chain([&(Stage::Replied, ended)]) {
        // The body is waited for only where `verdict.body` wants it.
        let doing = if stage == Stage::Replied { "after the header section" } else { doing(stage) };
        stages.push((doing, at.saturating_duration_since(since)));
        (stage, since) = (next, at);
    }
    stages.retain(|(_, took)| !took.is_zero());
    stages
}
