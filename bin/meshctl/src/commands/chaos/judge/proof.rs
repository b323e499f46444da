//! Promises about what is left behind: records, processes, the log, a mesh that answers.

use super::super::evidence::{Evidence, Log, Processes, What};
use super::{Against, Finding, Verdict};

/// Every blow is on record, as it was answered, under a name, and none fell outside the scope.
pub(super) fn blows_are_audited(evidence: &Evidence) -> Finding {
    let what = (
        "blows-are-audited",
        "every blow is in the audit log with who ordered it, and none fell outside the scope",
    );
    let mut against = Against::default();
    let recorded: Vec<_> = evidence
        .facts
        .iter()
        .filter_map(|fact| match &fact.what {
            What::Struck { user, blow } => Some((fact, user, blow)),
            What::Agent(_) | What::Task(_) | What::Other => None,
        })
        .collect();
    let mut blows = 0_u64;
    for answer in evidence.struck() {
        blows += 1;
        let blow = &answer.blow;
        match recorded.iter().find(|(_, _, known)| known.id == blow.id) {
            None => against.add(format!("{} is not in the log", blow.id)),
            Some((fact, _, known)) if ***known != *blow => {
                against.add(format!(
                    "record {} tells {} otherwise",
                    fact.position, blow.id
                ));
            }
            Some((fact, user, _)) if user.is_empty() || fact.actor != **user => {
                against.add(format!(
                    "record {} does not say who ordered it",
                    fact.position
                ));
            }
            Some(_) => {}
        }
        let target = &blow.target;
        let allowed = match (&target.part, &target.agent) {
            (Some(part), _) => evidence.parts.contains(part),
            (None, Some(agent)) => evidence.scope.contains(agent),
            (None, None) => false,
        };
        if !allowed {
            against.add(format!("{} fell on {target}", blow.id));
        }
    }
    let otherwise = if blows == 0 {
        Verdict::NotTested
    } else {
        Verdict::Held
    };
    against.finding(
        what,
        otherwise,
        format!("{blows} blows, {} records", recorded.len()),
    )
}

/// No process of an incarnation that ended is still there.
pub(super) fn nothing_survives(evidence: &Evidence) -> Finding {
    let what = (
        "nothing-survives",
        "no process of an ended incarnation is left",
    );
    let mut against = Against::default();
    let (otherwise, text) = match &evidence.processes {
        Processes::NotHere(why) => (Verdict::NotTested, why.clone()),
        Processes::Looked { ended, left } => {
            for process in left {
                against.add(process.as_str());
            }
            let otherwise = if *ended == 0 {
                Verdict::NotTested
            } else {
                Verdict::Held
            };
            (otherwise, format!("{ended} process trees were seen to end"))
        }
    };
    against.finding(what, otherwise, text)
}

/// The log verifies offline and continues what it was before the first blow.
pub(super) fn log_verifies(evidence: &Evidence) -> Finding {
    let what = (
        "log-verifies",
        "the audit log verifies offline and continues the one from before",
    );
    let mut against = Against::default();
    let (otherwise, text) = match &evidence.log {
        Log::NotRead(why) => (Verdict::NotTested, why.clone()),
        Log::Wrong(why) => {
            against.add(why.as_str());
            (Verdict::Held, "the export does not verify".to_owned())
        }
        Log::Verified {
            records,
            witnessed: None,
            ..
        } => {
            against.add("the checkpoint from before is not continued");
            (Verdict::Held, format!("{records} records"))
        }
        Log::Verified {
            records,
            root,
            witnessed: Some(size),
        } => (
            Verdict::Held,
            format!("{records} records, root {root}, continuing {size} from before"),
        ),
    };
    against.finding(what, otherwise, text)
}

/// The mesh answers and takes work when all is over.
pub(super) fn mesh_answers(evidence: &Evidence) -> Finding {
    let what = (
        "mesh-answers",
        "meshd answers and takes work when all is over",
    );
    let mut against = Against::default();
    let otherwise = match &evidence.answers.after {
        Some(Ok(())) => Verdict::Held,
        Some(Err(why)) => {
            against.add(why.as_str());
            Verdict::Held
        }
        None => Verdict::NotTested,
    };
    let mut text = format!(
        "{} questions had no answer meanwhile",
        evidence.answers.failed
    );
    if !evidence.unsettled.is_empty() {
        let who = evidence.unsettled.join(", ");
        text = format!("{text}; not at rest yet: {who}");
    }
    against.finding(what, otherwise, text)
}
