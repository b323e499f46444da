//! Promises about tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_messages::TaskId;
use mesh_messages::events::AgentEvent;

use super::super::evidence::Evidence;
use super::super::stories::Story;
use super::{Against, Finding, IDS_MAX, Verdict};

/// How long after its deadline a task may still be seen unended: a busy mesh ends it a little later.
const DEADLINE_GRACE: Duration = Duration::from_secs(30);

/// Every task that was acknowledged ended, once, and is still known.
pub(super) fn end_once(evidence: &Evidence, stories: &BTreeMap<TaskId, Story>) -> Finding {
    let what = (
        "tasks-end-once",
        "every acknowledged task ended once, and none was lost",
    );
    let mut against = Against::default();
    let mut open = Vec::new();
    let mut ended: BTreeMap<&str, u64> = BTreeMap::new();
    for (task, watched) in &evidence.tasks {
        let ends = stories.get(task).map_or(&[] as &[_], |story| &story.ends);
        if ends.len() > 1 {
            let at: Vec<String> = ends.iter().map(ToString::to_string).collect();
            against.add(format!(
                "{task} ended {} times: records {}",
                ends.len(),
                at.join(", ")
            ));
            continue;
        }
        match (watched.state, ends.first()) {
            (None, _) => against.add(format!("{task} is not known any more")),
            (Some(state), None) if state.is_terminal() => {
                against.add(format!(
                    "{task} is {state}, and no record says how it ended"
                ));
            }
            (Some(state), Some(_)) if state.is_terminal() => {
                *ended.entry(state.name()).or_default() += 1;
            }
            (Some(state), Some(end)) => {
                against.add(format!("{task} is {state} although record {end} ended it"));
            }
            (Some(state), None) if evidence.ended > watched.deadline.plus(DEADLINE_GRACE) => {
                against.add(format!("{task} is {state} after its deadline"));
            }
            (Some(state), None) => open.push(format!("{task} is {state}")),
        }
    }
    let counted: Vec<String> = ended
        .iter()
        .map(|(state, n)| format!("{n} {state}"))
        .collect();
    let mut text = format!("{} tasks", evidence.tasks.len());
    if !counted.is_empty() {
        text = format!("{text}: {}", counted.join(", "));
    }
    if !open.is_empty() {
        text = format!("{text}; {} have not ended yet", open.len());
    }
    let otherwise = match (evidence.tasks.is_empty(), open.is_empty()) {
        (true, _) => Verdict::NotTested,
        (false, true) => Verdict::Held,
        (false, false) => Verdict::Undecided,
    };
    let mut finding = against.finding(what, otherwise, text);
    if finding.verdict == Verdict::Undecided {
        open.truncate(IDS_MAX);
        finding.ids = open;
    }
    finding
}

/// No result was taken from an attempt, or an incarnation, that was over.
pub(super) fn fenced(evidence: &Evidence, stories: &BTreeMap<TaskId, Story>) -> Finding {
    let what = (
        "results-are-fenced",
        "no result was taken from a superseded attempt or incarnation",
    );
    let mut against = Against::default();
    let (mut taken, mut superseded) = (0_u64, 0_u64);
    for (task, story) in stories {
        superseded += story
            .attempts
            .values()
            .filter(|a| a.failed.is_some())
            .count() as u64;
        for (number, position) in &story.accepted {
            // Assigned before the evidence begins: nothing is known of it.
            let Some(attempt) = story.attempts.get(number) else {
                continue;
            };
            taken += 1;
            if story.attempts.keys().any(|later| later > number) {
                against.add(format!(
                    "{task}: record {position} took attempt {number}, not the last"
                ));
            }
            if attempt.failed.is_some_and(|failed| failed < *position) {
                against.add(format!(
                    "{task}: record {position} took attempt {number}, which had failed"
                ));
            }
            let replaced = evidence.life(&attempt.agent).any(|(fact, event)| {
                matches!(event, AgentEvent::Activated { instance, epoch, .. }
                    if *instance == attempt.instance
                        && *epoch > attempt.epoch
                        && fact.position < *position)
            });
            if replaced {
                against.add(format!(
                    "{task}: record {position} took a result of {} epoch {}, which had been replaced",
                    attempt.agent, attempt.epoch
                ));
            }
        }
    }
    let otherwise = if taken == 0 {
        Verdict::NotTested
    } else {
        Verdict::Held
    };
    let text = format!("{taken} results taken, {superseded} attempts superseded");
    against.finding(what, otherwise, text)
}
