//! When an agent counts as getting nowhere: what its manifest says over what the configuration says.

use serde_json::{Value, json};

use mesh_actors_core::liveness::Limits;
use mesh_messages::agent::PolicyValue;
use mesh_messages::manifest::{AgentManifest, LivenessPolicy};
use mesh_messages::units::Span;

use crate::context::Settings;

/// The limits that hold for an agent, and each value with its origin.
pub(crate) fn bounds(
    manifest: Option<&AgentManifest>,
    settings: &Settings,
) -> (Limits, Vec<PolicyValue>) {
    let said = manifest.map_or_else(LivenessPolicy::default, |m| m.policy.liveness);
    let base = settings.liveness;
    let span = |said: Option<Span>| said.map(Span::duration);
    let limits = Limits {
        silence: span(said.silence.limit).or(base.silence),
        on_silence: said.silence.action.unwrap_or(base.on_silence),
        stall: span(said.stall.limit).unwrap_or(base.stall),
        on_stall: said.stall.action.unwrap_or(base.on_stall),
        repetition: said.repetition.limit.unwrap_or(base.repetition),
        repetition_over: span(said.repetition.over).unwrap_or(base.repetition_over),
        on_repetition: said.repetition.action.unwrap_or(base.on_repetition),
        call_max: span(said.overrun.max).unwrap_or(base.call_max),
        on_overrun: said.overrun.action.unwrap_or(base.on_overrun),
    };
    let ms = |time: std::time::Duration| json!(time.as_millis());
    let silence: Option<Value> = limits.silence.map(ms);
    let shown = [
        (
            "liveness.silence_ms",
            json!(silence),
            said.silence.limit.is_some(),
        ),
        (
            "liveness.silence_action",
            json!(limits.on_silence),
            said.silence.action.is_some(),
        ),
        (
            "liveness.stall_ms",
            ms(limits.stall),
            said.stall.limit.is_some(),
        ),
        (
            "liveness.stall_action",
            json!(limits.on_stall),
            said.stall.action.is_some(),
        ),
        (
            "liveness.repetition",
            json!(limits.repetition),
            said.repetition.limit.is_some(),
        ),
        (
            "liveness.repetition_over_ms",
            ms(limits.repetition_over),
            said.repetition.over.is_some(),
        ),
        (
            "liveness.repetition_action",
            json!(limits.on_repetition),
            said.repetition.action.is_some(),
        ),
        (
            "liveness.call_max_ms",
            ms(limits.call_max),
            said.overrun.max.is_some(),
        ),
        (
            "liveness.overrun_action",
            json!(limits.on_overrun),
            said.overrun.action.is_some(),
        ),
    ];
    let values = shown.into_iter().map(|(key, value, by_manifest)| {
        let set = settings.policy_origins.get(key).filter(|_| !by_manifest);
        let origin = match (by_manifest, set) {
            (true, _) => "manifest".to_owned(),
            (false, Some(origin)) => origin.clone(),
            (false, None) => "default".to_owned(),
        };
        let key = key.to_owned();
        PolicyValue { key, value, origin }
    });
    (limits, values.collect())
}
