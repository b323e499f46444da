//! The fault policy's record, as it is journalled, and as people see it.
//!
//! `mesh_supervision_core` knows neither agents nor our formats; its record is plain data. Here is its stored form.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use mesh_messages::agent::{
    FaultDecision, FaultLimits, FaultState, FaultView, QuarantineKind, QuarantineReason,
    QuarantineRecord,
};
use mesh_messages::{AgentId, Failure, FailureClass, Severity, Timestamp};
use mesh_supervision_core::fault::{self, FaultConfig, FaultInput, FaultRecord};

/// The stored form of a [`FaultRecord`]. Times are milliseconds since the epoch, delays milliseconds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    state: FaultState,
    since: u64,
    epoch: u64,
    up_since: Option<u64>,
    score: u32,
    crashes: Vec<u64>,
    hour: Vec<u64>,
    recovery_attempt: u32,
    worst: Option<Severity>,
    resource_failures: u32,
    backoffs: u32,
    cool_downs: u32,
    last_delay: u64,
    timer: Option<(u64, u64)>,
    token_last: u64,
    permit: Option<StoredPermit>,
    proven: bool,
    quarantine: Option<StoredQuarantine>,
    reason: Option<QuarantineReason>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum StoredPermit {
    Free,
    Taken(u64),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredQuarantine {
    at: u64,
    reason: QuarantineReason,
    retry_count: u32,
    max_retries: u32,
    #[serde(default)]
    counted: bool,
}

type CoreTime = mesh_supervision_core::Timestamp;

/// Our time as supervision's.
pub fn core_time(at: Timestamp) -> CoreTime {
    CoreTime::from_millis(at.as_millis())
}

/// Supervision's time as ours.
pub fn mesh_time(at: CoreTime) -> Timestamp {
    Timestamp::from_millis(at.as_millis())
}

fn state_out(state: fault::FaultState) -> FaultState {
    match state {
        fault::FaultState::Running => FaultState::Running,
        fault::FaultState::Backoff => FaultState::Backoff,
        fault::FaultState::Open => FaultState::Open,
        fault::FaultState::HalfOpen => FaultState::HalfOpen,
        fault::FaultState::Quarantined => FaultState::Quarantined,
        fault::FaultState::Recovering => FaultState::Recovering,
        fault::FaultState::Stopped => FaultState::Stopped,
        fault::FaultState::Terminated => FaultState::Terminated,
    }
}

fn state_in(state: FaultState) -> fault::FaultState {
    match state {
        FaultState::Running => fault::FaultState::Running,
        FaultState::Backoff => fault::FaultState::Backoff,
        FaultState::Open => fault::FaultState::Open,
        FaultState::HalfOpen => fault::FaultState::HalfOpen,
        FaultState::Quarantined => fault::FaultState::Quarantined,
        FaultState::Recovering => fault::FaultState::Recovering,
        FaultState::Stopped => fault::FaultState::Stopped,
        FaultState::Terminated => fault::FaultState::Terminated,
    }
}

/// Our severity as supervision's.
pub const fn severity_in(severity: Severity) -> fault::Severity {
    match severity {
        Severity::Low => fault::Severity::Low,
        Severity::Medium => fault::Severity::Medium,
        Severity::High => fault::Severity::High,
        Severity::Critical => fault::Severity::Critical,
    }
}

const fn severity_out(severity: fault::Severity) -> Severity {
    match severity {
        fault::Severity::Low => Severity::Low,
        fault::Severity::Medium => Severity::Medium,
        fault::Severity::High => Severity::High,
        fault::Severity::Critical => Severity::Critical,
    }
}

/// Our kind of reason as supervision's.
pub const fn kind_in(kind: QuarantineKind) -> fault::ReasonKind {
    match kind {
        QuarantineKind::Crash => fault::ReasonKind::Crash,
        QuarantineKind::ResourceAbuse => fault::ReasonKind::ResourceAbuse,
        QuarantineKind::SecurityViolation => fault::ReasonKind::SecurityViolation,
        QuarantineKind::Manual => fault::ReasonKind::Manual,
    }
}

const fn kind_out(kind: fault::ReasonKind) -> QuarantineKind {
    match kind {
        fault::ReasonKind::Crash => QuarantineKind::Crash,
        fault::ReasonKind::ResourceAbuse => QuarantineKind::ResourceAbuse,
        fault::ReasonKind::SecurityViolation => QuarantineKind::SecurityViolation,
        fault::ReasonKind::Manual => QuarantineKind::Manual,
    }
}

fn reason_out(reason: &fault::QuarantineReason) -> QuarantineReason {
    QuarantineReason {
        kind: kind_out(reason.kind),
        description: reason.description.clone(),
        timestamp: mesh_time(reason.timestamp),
        severity: severity_out(reason.severity),
    }
}

fn reason_in(reason: &QuarantineReason) -> fault::QuarantineReason {
    fault::QuarantineReason {
        kind: kind_in(reason.kind),
        description: reason.description.clone(),
        timestamp: core_time(reason.timestamp),
        severity: severity_in(reason.severity),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A record as it is journalled.
pub fn to_stored(record: &FaultRecord) -> Value {
    let stored = Stored {
        state: state_out(record.state),
        since: record.since.as_millis(),
        epoch: record.epoch,
        up_since: record.up_since.map(CoreTime::as_millis),
        score: record.score,
        crashes: record.crashes.iter().map(|t| t.as_millis()).collect(),
        hour: record.hour.iter().map(|t| t.as_millis()).collect(),
        recovery_attempt: record.recovery_attempt,
        worst: record.worst.map(severity_out),
        resource_failures: record.resource_failures,
        backoffs: record.backoffs,
        cool_downs: record.cool_downs,
        last_delay: ms(record.last_delay),
        timer: record.timer.map(|t| (t.token.0, t.at.as_millis())),
        token_last: record.token_last,
        permit: record.permit.map(|p| match p {
            fault::Permit::Free => StoredPermit::Free,
            fault::Permit::Taken(token) => StoredPermit::Taken(token.0),
        }),
        proven: record.proven,
        quarantine: record.quarantine.as_ref().map(|q| StoredQuarantine {
            at: q.quarantined_at.as_millis(),
            reason: reason_out(&q.reason),
            retry_count: q.retry_count,
            max_retries: q.max_retries,
            counted: q.counted,
        }),
        reason: record.reason.as_ref().map(reason_out),
    };
    serde_json::to_value(stored).unwrap_or_default()
}

/// A record as it was journalled; `None` when it is none.
pub fn from_stored(value: &Value) -> Option<FaultRecord> {
    let stored = Stored::deserialize(value).ok()?;
    let time = CoreTime::from_millis;
    Some(FaultRecord {
        state: state_in(stored.state),
        since: time(stored.since),
        epoch: stored.epoch,
        up_since: stored.up_since.map(time),
        score: stored.score,
        crashes: stored.crashes.into_iter().map(time).collect(),
        hour: stored.hour.into_iter().map(time).collect(),
        recovery_attempt: stored.recovery_attempt,
        worst: stored.worst.map(severity_in),
        resource_failures: stored.resource_failures,
        backoffs: stored.backoffs,
        cool_downs: stored.cool_downs,
        last_delay: Duration::from_millis(stored.last_delay),
        timer: stored.timer.map(|(token, at)| fault::Timer {
            token: fault::Token(token),
            at: time(at),
        }),
        token_last: stored.token_last,
        permit: stored.permit.map(|p| match p {
            StoredPermit::Free => fault::Permit::Free,
            StoredPermit::Taken(token) => fault::Permit::Taken(fault::Token(token)),
        }),
        proven: stored.proven,
        quarantine: stored.quarantine.map(|q| fault::QuarantineRecord {
            quarantined_at: time(q.at),
            reason: reason_in(&q.reason),
            retry_count: q.retry_count,
            max_retries: q.max_retries,
            counted: q.counted,
        }),
        reason: stored.reason.as_ref().map(reason_in),
    })
}

/// The record of the quarantine an agent is in or recovers from.
pub fn quarantine_of(
    agent: &AgentId,
    record: &FaultRecord,
    manifest_digest: &str,
) -> Option<QuarantineRecord> {
    record.quarantine.as_ref().map(|q| QuarantineRecord {
        agent_id: agent.clone(),
        quarantined_at: mesh_time(q.quarantined_at),
        reason: reason_out(&q.reason),
        retry_count: q.retry_count,
        max_retries: q.max_retries,
        manifest_digest: manifest_digest.to_owned(),
    })
}

/// What people see of a record.
pub fn view(
    agent: &AgentId,
    record: &FaultRecord,
    config: &FaultConfig,
    manifest_digest: &str,
    now: Timestamp,
) -> FaultView {
    let since = core_time(now).minus(config.crash_window);
    let in_window = record.crashes.iter().filter(|t| **t >= since).count();
    FaultView {
        state: state_out(record.state),
        score: record.score,
        crashes_in_window: u32::try_from(in_window).unwrap_or(u32::MAX),
        next_attempt_at: record.next_attempt_at().map(mesh_time),
        reason: record.reason.as_ref().map(|r| r.description.clone()),
        quarantine: quarantine_of(agent, record, manifest_digest),
    }
}

/// What the policy was told, for the record.
pub fn told(input: &FaultInput) -> String {
    match input {
        FaultInput::Failure(failure) => {
            let counts = if failure.scored {
                "scored"
            } else {
                "not scored"
            };
            format!("failure: {} ({counts})", failure.description)
        }
        FaultInput::Up { epoch } => format!("up: start {epoch}"),
        FaultInput::Timer { token } => format!("timer: {}", token.0),
        FaultInput::TaskOffered => "task offered".to_owned(),
        FaultInput::TaskEnded { end, .. } => match end {
            fault::TaskEnd::Ok => "task ended: well".to_owned(),
            fault::TaskEnd::Unscored => "task ended: unscored".to_owned(),
        },
        FaultInput::Refund { failures } => format!("refund: {failures}"),
        FaultInput::Order(order) => format!("order: {}", order.name()),
        FaultInput::Configure(_) => "configuration".to_owned(),
    }
}

/// A decision of the policy with what it was made of.
pub fn decision(
    (from, to): (fault::FaultState, fault::FaultState),
    inputs: Vec<String>,
    config: &FaultConfig,
    (at, random): (Timestamp, u64),
) -> FaultDecision {
    let ladder = |ladder: &fault::Ladder| [ms(ladder.base), ms(ladder.cap)];
    FaultDecision {
        inputs,
        from: state_out(from),
        to: state_out(to),
        at,
        random: format!("{random:016x}"),
        limits: FaultLimits {
            max_crashes: config.max_crashes,
            crash_window_ms: ms(config.crash_window),
            quarantine_threshold: config.quarantine_threshold,
            auto_restart: config.auto_restart,
            hourly_max: config.hourly_max,
            backoff_ms: ladder(&config.backoff),
            cool_down_ms: ladder(&config.cool_down),
            essential: config.essential,
        },
    }
}

/// A failure of an instance as the fault policy takes it.
pub fn failure_in(failure: &Failure) -> fault::Failure {
    let kind = match failure.class {
        FailureClass::Resource => fault::ReasonKind::ResourceAbuse,
        FailureClass::Policy => fault::ReasonKind::SecurityViolation,
        _ => fault::ReasonKind::Crash,
    };
    fault::Failure {
        severity: severity_in(failure.class.severity()),
        kind,
        description: failure.to_string(),
        scored: failure.class.is_scored(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_stored() {
        let time = CoreTime::from_millis;
        let reason = fault::QuarantineReason {
            kind: fault::ReasonKind::ResourceAbuse,
            description: "resource: out of memory".into(),
            timestamp: time(5),
            severity: fault::Severity::High,
        };
        let record = FaultRecord {
            state: fault::FaultState::Recovering,
            up_since: Some(time(9)),
            score: 3,
            crashes: vec![time(1), time(2)],
            hour: vec![time(1)],
            worst: Some(fault::Severity::High),
            last_delay: Duration::from_millis(300),
            timer: Some(fault::Timer {
                token: fault::Token(4),
                at: time(70),
            }),
            permit: Some(fault::Permit::Taken(fault::Token(3))),
            quarantine: Some(fault::QuarantineRecord {
                quarantined_at: time(6),
                reason: reason.clone(),
                retry_count: 1,
                max_retries: 1,
                counted: true,
            }),
            reason: Some(reason),
            ..FaultRecord::new(time(1))
        };
        assert_eq!(from_stored(&to_stored(&record)), Some(record));
    }
}
