//! What becomes of a task that nobody could do: who is asked to take it up, and what they made of it.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use crate::ids::{AgentId, TaskId};
use crate::inbox::AnswerRole;
use crate::task::{REQUIREMENTS_MAX, TaskState};
use crate::time::Timestamp;

/// Most steps of one escalation: each is somebody who is asked in turn.
pub const ESCALATION_STEPS_MAX: usize = 8;
/// How long a step waits for whoever it goes to, when it does not say.
pub const ESCALATION_WITHIN_DEFAULT_MS: u64 = 24 * 60 * 60 * 1000;
/// Longest that a step may wait: thirty days.
pub const ESCALATION_WITHIN_MAX_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// What an agent sees as `action` of a task that was escalated to it.
pub const ESCALATION: &str = "escalation";
/// The answer of a person that gives the task another round of attempts.
pub const ANSWER_RETRY: &str = "retry";
/// The answer of a person that gives the task up.
pub const ANSWER_DROP: &str = "drop";
/// What an answer begins with that is the task's output: JSON follows.
pub const ANSWER_OUTPUT: &str = "output:";

/// Whom a task goes to that has failed for good: a `person`, or an `agent`, named or by its `requirements`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EscalationStep {
    /// A person of this role at least is asked in the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<AnswerRole>,
    /// This agent gets a follow-up task, whatever it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// An agent with these capabilities gets a follow-up task; with `agent`, that one has to have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = REQUIREMENTS_MAX))]
    pub requirements: Vec<String>,
    /// How long it waits for them, in milliseconds, also beyond the task's own deadline; 24 h when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = ESCALATION_WITHIN_MAX_MS))]
    pub within_ms: Option<u64>,
}

impl EscalationStep {
    /// What is wrong with it beyond its form: the field, and why.
    pub fn misfit(&self) -> Option<(&'static str, String)> {
        let to_agent = self.agent.is_some() || !self.requirements.is_empty();
        let different: BTreeSet<_> = self.requirements.iter().collect();
        if self.person.is_some() == to_agent {
            let why = "must be one of the two: a person, or an agent (agent, requirements)";
            return Some(("", why.to_owned()));
        }
        if self.requirements.len() > REQUIREMENTS_MAX {
            let why = format!("at most {REQUIREMENTS_MAX} are accepted");
            return Some(("requirements", why));
        }
        if different.len() < self.requirements.len() || different.iter().any(|one| one.is_empty()) {
            let why = "each must be a name of its own";
            return Some(("requirements", why.to_owned()));
        }
        match self.within_ms {
            Some(ms) if ms == 0 || ms > ESCALATION_WITHIN_MAX_MS => Some((
                "withinMs",
                format!("must be from 1 to {ESCALATION_WITHIN_MAX_MS}"),
            )),
            _ => None,
        }
    }

    /// What is wrong with steps, the first such thing: where, and why.
    pub fn misfit_of(steps: &[Self]) -> Option<(String, String)> {
        if steps.len() > ESCALATION_STEPS_MAX {
            let why = format!(
                "has {} steps; at most {ESCALATION_STEPS_MAX} are accepted",
                steps.len()
            );
            return Some((String::new(), why));
        }
        steps.iter().enumerate().find_map(|(nth, step)| {
            let (field, why) = step.misfit()?;
            let dot = if field.is_empty() { "" } else { "." };
            Some((format!("[{nth}]{dot}{field}"), why))
        })
    }
}

impl std::fmt::Display for EscalationStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.person, &self.agent) {
            (Some(AnswerRole::Operator), _) => f.write_str("an operator"),
            (Some(AnswerRole::Admin), _) => f.write_str("an admin"),
            (None, Some(agent)) => write!(f, "agent {agent}"),
            (None, None) => write!(f, "an agent that can {}", self.requirements.join(", ")),
        }
    }
}

/// How a task ends that nobody takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GivenUp {
    /// By a failure that trying again cannot mend.
    Failed,
    /// With its attempts, or its time, used up.
    DeadLettered,
}

impl GivenUp {
    /// The state of such a task.
    pub const fn state(self) -> TaskState {
        match self {
            Self::Failed => TaskState::Failed,
            Self::DeadLettered => TaskState::DeadLettered,
        }
    }
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EscalationEnd {
    /// The task got another round of attempts.
    Retried,
    /// What they gave is the task's output.
    Done,
    /// The task was given up.
    Dropped,
}

/// The latest step of a task's escalation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Escalation {
    /// Which step, from 0.
    pub step: usize,
    /// Whom it went to.
    pub to: EscalationStep,
    /// What they got: a question in the inbox, or a follow-up task.
    pub task: TaskId,
    /// Since when.
    pub at: Timestamp,
    /// Until when it waits for them.
    pub until: Timestamp,
    /// How the task ends when nobody takes it up.
    pub otherwise: GivenUp,
    /// What it failed of.
    pub error: Failure,
    /// What became of it; absent while it is waited for, and where the task was ended meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<EscalationEnd>,
    /// Who decided that: a person, or `agent:<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What happens to a task that is escalated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EscalationMove {
    /// Somebody is asked to take it up. They have until the task's new deadline.
    Asked(Box<Escalation>),
    /// It gets another round of attempts.
    Retried {
        /// Who says so; absent when it was retried like any other task.
        by: Option<String>,
        /// Its new deadline.
        deadline_at: Timestamp,
    },
    /// It ended well.
    Done {
        /// Whose result it is.
        by: String,
        /// The result.
        output: Value,
    },
    /// It is given up, as it would have been without an escalation.
    Dropped {
        /// Who says so; absent when nobody did.
        by: Option<String>,
        /// Why.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_goes_to_a_person_or_to_an_agent() {
        for (step, wrong) in [
            (r#"{"person":"operator"}"#, None),
            (r#"{"person":"admin","withinMs":60000}"#, None),
            (r#"{"agent":"senior"}"#, None),
            (r#"{"agent":"senior","requirements":["mend"]}"#, None),
            (r#"{"requirements":["mend"]}"#, None),
            ("{}", Some("")),
            (r#"{"person":"operator","agent":"senior"}"#, Some("")),
            (r#"{"person":"operator","requirements":["mend"]}"#, Some("")),
            (r#"{"requirements":["mend","mend"]}"#, Some("requirements")),
            (r#"{"requirements":[""]}"#, Some("requirements")),
            (r#"{"agent":"senior","withinMs":0}"#, Some("withinMs")),
            (
                r#"{"agent":"senior","withinMs":2592000001}"#,
                Some("withinMs"),
            ),
        ] {
            let read: EscalationStep = serde_json::from_str(step).unwrap();
            assert_eq!(read.misfit().map(|(field, _)| field), wrong, "{step}");
            assert_eq!(serde_json::to_string(&read).unwrap(), step);
        }
        serde_json::from_str::<EscalationStep>(r#"{"person":"viewer"}"#).unwrap_err();
        serde_json::from_str::<EscalationStep>(r#"{"to":"operator"}"#).unwrap_err();
    }

    #[test]
    fn the_step_that_is_wrong_is_named() {
        let step = |text: &str| serde_json::from_str(text).unwrap();
        let steps: Vec<EscalationStep> = vec![step(r#"{"agent":"a"}"#), step("{}")];
        assert_eq!(EscalationStep::misfit_of(&steps).unwrap().0, "[1]");
        let many = vec![steps[0].clone(); ESCALATION_STEPS_MAX + 1];
        assert_eq!(EscalationStep::misfit_of(&many).unwrap().0, "");
        assert_eq!(EscalationStep::misfit_of(&many[1..]), None);
    }
}
