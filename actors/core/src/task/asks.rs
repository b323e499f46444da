//! What asks a person: who may answer, and what the operator's policy answers itself.
//!
//! An agent says what it wants to know; who may answer, and whether anybody has to be asked, is the operator's to say. So
//! whatever an agent writes into `role` does not count.

use mesh_messages::AgentId;
use mesh_messages::escalation::ESCALATION;
use mesh_messages::inbox::{ANSWER_BYTES_MAX, AnswerRole, AskKind, RuleDecision, Ruling};
use mesh_messages::policy::PolicyDocument;
use mesh_messages::workflow::ApprovalSpec;

/// Most questions of one agent that wait for an answer. A person reads some tens a day; more than this is an agent that
/// runs in circles, and would hide the questions of all others.
pub const OPEN_ASKS_MAX: usize = 100;

/// Who is named as having answered when policy did.
pub const POLICY: &str = "policy";

/// What the policy says of a request that somebody makes; of an `escalated` task, whoever submitted that one.
pub(crate) fn ruling(
    policy: &PolicyDocument,
    by: &str,
    ask: &ApprovalSpec,
    escalated: bool,
) -> Ruling {
    let Some(agent) = by.strip_prefix("agent:") else {
        // A person who writes a workflow says who may approve it.
        return Ruling {
            role: ask.role.unwrap_or_default(),
            ..Ruling::default()
        };
    };
    let name = match (ask.kind, &ask.permission) {
        _ if escalated => ESCALATION,
        (AskKind::Permission, Some(permission)) => permission.action.as_str(),
        (kind, _) => kind.name(),
    };
    let own = AgentId::new(agent)
        .ok()
        .and_then(|id| policy.agents.get(&id))
        .map(|scope| (format!("agents.{agent}"), scope));
    let all = policy
        .default
        .as_ref()
        .map(|scope| ("default".to_owned(), scope));
    for (place, scope) in own.into_iter().chain(all) {
        let found = scope.approvals.iter().position(|rule| rule.matches(name));
        if let Some(index) = found {
            let rule = &scope.approvals[index];
            return Ruling {
                role: rule.role.unwrap_or_default(),
                verdict: match rule.decision {
                    // A question needs an answer, which no rule has.
                    RuleDecision::Allow => (ask.kind != AskKind::Question).then_some(true),
                    RuleDecision::Deny => Some(false),
                    RuleDecision::Ask => None,
                },
                rule: Some(format!("{place}.approvals[{index}]")),
            };
        }
    }
    Ruling::default()
}

/// The answer that a rule gave, and the words for it.
pub(crate) fn verdict_of(ruling: &Ruling) -> Option<(bool, String)> {
    let rule = ruling.rule.as_deref().unwrap_or(POLICY);
    let approve = ruling.verdict?;
    Some((approve, format!("by the rule {rule}")))
}

/// What is wrong with an answer, if anything; whether its giver may give it is another matter.
pub(crate) fn misfit(ask: &ApprovalSpec, approve: bool, answer: Option<&str>) -> Option<String> {
    let is_question = ask.kind == AskKind::Question;
    match answer {
        Some(_) if !is_question => Some(format!(
            "only a question takes one; this is a {}",
            ask.kind.name()
        )),
        Some(_) if !approve => Some("a question that is declined has none".to_owned()),
        Some(text) if text.len() > ANSWER_BYTES_MAX => {
            Some(format!("must have at most {ANSWER_BYTES_MAX} bytes"))
        }
        Some(text) if !ask.choices.is_empty() && !ask.choices.iter().any(|one| one == text) => {
            Some(format!("must be one of {}", ask.choices.join(", ")))
        }
        None if is_question && approve => Some("the question needs one".to_owned()),
        Some(_) | None => None,
    }
}

/// Whether a role suffices.
pub(crate) fn suffices(held: AnswerRole, needed: AnswerRole) -> bool {
    held >= needed
}

#[cfg(test)]
mod tests {
    use mesh_messages::inbox::{ApprovalRule, PermissionAsked};
    use mesh_messages::policy::OperatorPolicy;

    use super::*;

    fn rule(action: &str, decision: RuleDecision, role: Option<AnswerRole>) -> ApprovalRule {
        ApprovalRule {
            action: action.to_owned(),
            decision,
            role,
        }
    }

    fn policy() -> PolicyDocument {
        let scope = |approvals| OperatorPolicy {
            approvals,
            ..OperatorPolicy::default()
        };
        PolicyDocument {
            budgets: std::collections::BTreeMap::new(),
            default: Some(scope(vec![
                rule("file.read", RuleDecision::Allow, None),
                rule("file.*", RuleDecision::Deny, None),
                rule("question", RuleDecision::Ask, Some(AnswerRole::Admin)),
            ])),
            agents: [(
                AgentId::new("trusted").unwrap(),
                scope(vec![rule(
                    "file.delete",
                    RuleDecision::Ask,
                    Some(AnswerRole::Admin),
                )]),
            )]
            .into(),
        }
    }

    fn permission(action: &str) -> ApprovalSpec {
        ApprovalSpec {
            kind: AskKind::Permission,
            permission: Some(PermissionAsked {
                action: action.to_owned(),
                resource: String::new(),
            }),
            ..ApprovalSpec::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_an_agents_own_come_first() {
        for (by, action, verdict, role, at) in [
            (
                "agent:a",
                "file.read",
                Some(true),
                AnswerRole::Operator,
                Some("default.approvals[0]"),
            ),
            (
                "agent:a",
                "file.delete",
                Some(false),
                AnswerRole::Operator,
                Some("default.approvals[1]"),
            ),
            (
                "agent:trusted",
                "file.delete",
                None,
                AnswerRole::Admin,
                Some("agents.trusted.approvals[0]"),
            ),
            (
                "agent:trusted",
                "file.read",
                Some(true),
                AnswerRole::Operator,
                Some("default.approvals[0]"),
            ),
            ("agent:a", "net.open", None, AnswerRole::Operator, None),
            ("user:ada", "file.delete", None, AnswerRole::Operator, None),
        ] {
            let ruled = ruling(&policy(), by, &permission(action), false);
            assert_eq!(
                (ruled.verdict, ruled.role, ruled.rule.as_deref()),
                (verdict, role, at),
                "{by} {action}"
            );
        }
    }

    #[test]
    fn who_may_answer_an_agent_is_not_the_agents_to_say() {
        let mut ask = permission("net.open");
        ask.role = Some(AnswerRole::Admin);
        assert_eq!(
            ruling(&policy(), "agent:a", &ask, false).role,
            AnswerRole::Operator
        );
        assert_eq!(
            ruling(&policy(), "user:ada", &ask, false).role,
            AnswerRole::Admin
        );
        let question = ApprovalSpec {
            kind: AskKind::Question,
            role: Some(AnswerRole::Operator),
            ..ApprovalSpec::default()
        };
        assert_eq!(
            ruling(&policy(), "agent:a", &question, false).role,
            AnswerRole::Admin
        );
    }

    #[test]
    fn an_answer_fits_its_question() {
        let ask = |kind, choices: &[&str]| ApprovalSpec {
            kind,
            choices: choices.iter().map(|&one| one.to_owned()).collect(),
            ..ApprovalSpec::default()
        };
        let open = ask(AskKind::Question, &[]);
        let chosen = ask(AskKind::Question, &["red", "blue"]);
        let approval = ask(AskKind::Approval, &[]);
        for (ask, approve, answer, fits) in [
            (&open, true, Some("any"), true),
            (&open, true, None, false),
            (&open, false, None, true),
            (&open, false, Some("any"), false),
            (&chosen, true, Some("red"), true),
            (&chosen, true, Some("green"), false),
            (&approval, true, None, true),
            (&approval, false, None, true),
            (&approval, true, Some("yes"), false),
        ] {
            assert_eq!(
                misfit(ask, approve, answer).is_none(),
                fits,
                "{ask:?} {approve} {answer:?}"
            );
        }
    }
}
