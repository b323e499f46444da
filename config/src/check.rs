//! What a schema cannot say: how values stand to each other.

use std::net::SocketAddr;

use mesh_messages::schema::FieldError;
use mesh_messages::units::Span;

use crate::config::Config;

/// Bounds of `journal.segment_size`: two of the largest records, and what is read at once when the log is opened.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 128 * 1024..=64 * 1024 * 1024;
/// Least `api.body_size_max`: the largest envelope must fit.
const BODY_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// Everything that contradicts something else.
pub(crate) fn check(config: &Config) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if config.listen.parse::<SocketAddr>().is_err() {
        let message = format!(
            "{:?} is not an address and port such as 127.0.0.1:8080",
            config.listen
        );
        errors.push(FieldError::new("listen", message));
    }
    let segment = config.journal.segment_size;
    if !SEGMENT_BYTES.contains(&segment.bytes()) {
        errors.push(FieldError::new(
            "journal.segment_size",
            format!("{segment} is not from 128KiB to 64MiB"),
        ));
    }
    if config.api.body_size_max.bytes() < BODY_BYTES_MIN {
        let message = format!(
            "{} is below 2MiB, which the largest message needs",
            config.api.body_size_max
        );
        errors.push(FieldError::new("api.body_size_max", message));
    }
    let uids = config.sandbox.uid_range;
    if uids.first.checked_add(uids.count).is_none() {
        errors.push(FieldError::new(
            "sandbox.uid_range.count",
            "first and count together exceed 32 bits",
        ));
    }
    times(config, &mut errors);
    errors
}

fn times(config: &Config, errors: &mut Vec<FieldError>) {
    let (supervision, api) = (&config.supervision, &config.api);
    let liveness = &config.default_policy.liveness;
    let positive: [(&str, Span); 18] = [
        ("supervision.crash_window", supervision.crash_window),
        ("supervision.backoff_base", supervision.backoff_base),
        ("supervision.cool_down_base", supervision.cool_down_base),
        ("supervision.half_open_idle", supervision.half_open_idle),
        ("supervision.stable_after", supervision.stable_after),
        ("supervision.recovering", supervision.recovering),
        ("supervision.start_timeout", supervision.start_timeout),
        ("supervision.stop_timeout", supervision.stop_timeout),
        ("supervision.cancel_timeout", supervision.cancel_timeout),
        ("api.header_timeout", api.header_timeout),
        ("api.body_timeout", api.body_timeout),
        ("api.answer_timeout", api.answer_timeout),
        ("api.ping_interval", api.ping_interval),
        ("api.stall_timeout", api.stall_timeout),
        ("api.drain_timeout", api.drain_timeout),
        ("audit.witness.interval", config.audit.witness.interval),
        ("default_policy.liveness.stall.limit", liveness.stall.limit),
        ("default_policy.liveness.overrun.max", liveness.overrun.max),
    ];
    let silence = liveness.silence.limit;
    let silence = silence.map(|limit| ("default_policy.liveness.silence.limit", limit));
    for (key, _) in positive
        .into_iter()
        .chain(silence)
        .filter(|(_, span)| span.as_millis() == 0)
    {
        errors.push(FieldError::new(key, "must be longer than nothing"));
    }
    let ordered = [
        (
            "supervision.backoff_max",
            supervision.backoff_base,
            supervision.backoff_max,
        ),
        (
            "supervision.cool_down_max",
            supervision.cool_down_base,
            supervision.cool_down_max,
        ),
    ];
    for (key, base, max) in ordered.into_iter().filter(|(_, base, max)| max < base) {
        errors.push(FieldError::new(
            key,
            format!("{max} is below its base, {base}"),
        ));
    }
}
