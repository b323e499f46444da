//! The directory of agents: which ids are given out, and what the operator decided for them. And that of services.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use mesh_messages::budget::{AMOUNT_MAX, AccountBudget};
use mesh_messages::events::RegistryEvent;
use mesh_messages::governance::GovernanceUpdate;
use mesh_messages::identity::DidKey;
use mesh_messages::limits::LimitChange;
use mesh_messages::policy::PolicyDocument;
use mesh_messages::problem::Problem;
use mesh_messages::{AgentId, Timestamp};

use crate::governance::{Change, Governance};
use crate::service::ServiceBook;

/// Most agents of one node. Each costs an actor, a partition and a place in every listing; the benchmark of memory makes
/// half as many.
pub const AGENTS_MAX: usize = 200_000;

/// Longest name of an account that agents share.
const ACCOUNT_BYTES_MAX: usize = 160;

/// The ids that are given out, the operator's policy, and the services.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegistryState {
    /// The ids.
    pub agents: BTreeSet<AgentId>,
    /// The policy in force. Invariant: no empty scope, and no agent that is not in `agents`.
    #[serde(default)]
    pub policy: PolicyDocument,
    /// Who may change it by signatures.
    #[serde(default)]
    pub governance: Governance,
    /// The services.
    #[serde(default)]
    pub services: ServiceBook,
}

/// The directory is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{AGENTS_MAX} agents are registered, which is the most; remove one first")]
pub struct Full;

/// Why a policy is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    /// It names an agent that is not registered. Deploy it first.
    #[error("agents.{0}: no such agent is registered; deploy it first, or leave it out")]
    Unlisted(AgentId),
    /// A rule cannot be meant as it is written. Correct it.
    #[error("{field}: {why}")]
    Rule {
        /// Where.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// It bounds what is no shared account, or bounds nothing of it.
    #[error("budgets.{account}: {why}")]
    Budget {
        /// Which account.
        account: String,
        /// What is wrong with its bounds.
        why: String,
    },
}

impl RegistryState {
    /// Takes an event in.
    pub fn apply(&mut self, event: &RegistryEvent) {
        match event {
            RegistryEvent::Listed { agent } => {
                self.agents.insert(agent.clone());
            }
            RegistryEvent::Unlisted { agent } => {
                self.agents.remove(agent);
                if !self.governance.has_signed_for(agent) {
                    self.policy.agents.remove(agent);
                }
            }
            RegistryEvent::Governed { update, signers } => {
                self.governance.apply(update, signers);
            }
            RegistryEvent::BudgetApplied { account, budget } => {
                match budget {
                    Some(budget) => self.policy.budgets.insert(account.clone(), Some(*budget)),
                    None => self.policy.budgets.remove(account),
                };
            }
            RegistryEvent::PolicyApplied { agent, policy } => {
                let policy = Some(policy.clone()).filter(|policy| !policy.is_empty());
                match (agent, policy) {
                    (None, policy) => self.policy.default = policy,
                    (Some(agent), Some(policy)) => {
                        self.policy.agents.insert(agent.clone(), policy);
                    }
                    (Some(agent), None) => {
                        self.policy.agents.remove(agent);
                    }
                }
            }
            RegistryEvent::ServiceRegistered { .. }
            | RegistryEvent::ServiceUpdated { .. }
            | RegistryEvent::ServiceRemoved { .. }
            | RegistryEvent::ServiceUnhealthy { .. }
            | RegistryEvent::ServiceRecovered { .. }
            | RegistryEvent::ServiceCalled(_) => self.services.apply(event),
        }
    }

    /// What giving out this id leads to; nothing when it is given out already.
    ///
    /// # Errors
    /// [`Full`].
    pub fn list(&self, agent: &AgentId) -> Result<Option<RegistryEvent>, Full> {
        if self.agents.contains(agent) {
            return Ok(None);
        }
        if self.agents.len() >= AGENTS_MAX {
            return Err(Full);
        }
        Ok(Some(RegistryEvent::Listed {
            agent: agent.clone(),
        }))
    }

    /// What taking this id back leads to; nothing when it is not given out.
    pub fn unlist(&self, agent: &AgentId) -> Option<RegistryEvent> {
        self.agents
            .contains(agent)
            .then(|| RegistryEvent::Unlisted {
                agent: agent.clone(),
            })
    }

    /// What applying a document leads to: an event for each scope that it changes, so none when it says what holds.
    ///
    /// # Errors
    /// [`PolicyRefusal`]; nothing of the document is applied then.
    pub fn apply_policy(
        &self,
        document: PolicyDocument,
    ) -> Result<Vec<RegistryEvent>, PolicyRefusal> {
        if let Some(unknown) = document.agents.keys().find(|id| !self.agents.contains(*id)) {
            return Err(PolicyRefusal::Unlisted(unknown.clone()));
        }
        let all = document
            .default
            .iter()
            .map(|scope| ("default".to_owned(), scope));
        let own = document.agents.iter();
        let own = own.map(|(agent, scope)| (format!("agents.{agent}"), scope));
        for (place, scope) in all.chain(own) {
            if let Some((field, why)) = scope.misfit() {
                let field = format!("{place}.{field}");
                return Err(PolicyRefusal::Rule { field, why });
            }
        }
        for (account, budget) in &document.budgets {
            if let Some(why) = misfit(account, budget.as_ref()) {
                let account = account.clone();
                return Err(PolicyRefusal::Budget { account, why });
            }
        }
        let mut events = Vec::new();
        if let Some(policy) = document.default
            && policy != self.policy.default.clone().unwrap_or_default()
        {
            let agent = None;
            events.push(RegistryEvent::PolicyApplied { agent, policy });
        }
        for (agent, policy) in document.agents {
            let held = self.policy.agents.get(&agent).cloned().unwrap_or_default();
            if policy != held {
                let agent = Some(agent);
                events.push(RegistryEvent::PolicyApplied { agent, policy });
            }
        }
        for (account, budget) in document.budgets {
            let held = self.policy.budgets.get(&account).copied().flatten();
            if budget != held {
                events.push(RegistryEvent::BudgetApplied { account, budget });
            }
        }
        Ok(events)
    }

    /// What changing limits of one agent leads to: nothing when they are so already.
    ///
    /// # Errors
    /// The agent is not registered.
    pub fn change_limits(
        &self,
        agent: AgentId,
        change: &LimitChange,
    ) -> Result<Vec<RegistryEvent>, PolicyRefusal> {
        let held = self.policy.agents.get(&agent).cloned().unwrap_or_default();
        let agents = BTreeMap::from([(agent, change.onto(&held))]);
        self.apply_policy(PolicyDocument {
            agents,
            ..PolicyDocument::default()
        })
    }

    /// What an update leads to that admins signed: the update itself, and the policy that it brings.
    ///
    /// # Errors
    /// It does not count, or names an agent that is not registered; nothing of it is applied then.
    pub fn govern(
        &self,
        now: Timestamp,
        mesh: &DidKey,
        update: GovernanceUpdate,
    ) -> Result<Vec<RegistryEvent>, Problem> {
        let accepted = self.governance.decide(now, mesh, &update)?;
        let policy = match accepted.change {
            Change::Policy(document) => self.apply_policy(*document).map_err(Problem::from)?,
            Change::Admins(_) | Change::Shutdown(_) | Change::Lift(_) => Vec::new(),
        };
        let (update, signers) = (Box::new(update), accepted.signers);
        let mut events = vec![RegistryEvent::Governed { update, signers }];
        events.extend(policy);
        Ok(events)
    }
}

/// What is wrong with a bound on an account, if anything.
fn misfit(account: &str, budget: Option<&AccountBudget>) -> Option<String> {
    let shared = account
        .split_once(':')
        .is_some_and(|(kind, name)| matches!(kind, "provider" | "team") && !name.is_empty());
    if !shared || account.len() > ACCOUNT_BYTES_MAX {
        return Some(format!(
            "must be provider:<name> or team:<name>, of at most {ACCOUNT_BYTES_MAX} bytes"
        ));
    }
    let budget = budget?;
    if budget.limits().is_empty() || !(1..=AMOUNT_MAX).contains(&budget.per_ms) {
        return Some(format!(
            "name at least one limit, and perMs of 1 to {AMOUNT_MAX}"
        ));
    }
    let (dimension, why) = budget.limits().misfit()?;
    Some(format!("{dimension} {why}"))
}

impl From<PolicyRefusal> for Problem {
    fn from(refusal: PolicyRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            PolicyRefusal::Unlisted(agent) => {
                Self::invalid("unknown_agent", format!("agents.{agent}"), detail)
            }
            PolicyRefusal::Budget { account, .. } => {
                Self::invalid("invalid_budget", format!("budgets.{account}"), detail)
            }
            PolicyRefusal::Rule { field, .. } => Self::invalid("invalid_value", field, detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    fn document(text: &str) -> PolicyDocument {
        serde_json::from_str(text).unwrap()
    }

    fn with_echo() -> RegistryState {
        let mut state = RegistryState::default();
        let listed = state.list(&id("echo")).unwrap().unwrap();
        state.apply(&listed);
        state
    }

    fn applied(state: &mut RegistryState, text: &str) -> usize {
        let events = state.apply_policy(document(text)).unwrap();
        for event in &events {
            state.apply(event);
        }
        events.len()
    }

    #[test]
    fn a_scope_that_is_named_is_replaced_and_the_others_stay() {
        let mut state = with_echo();
        let first =
            r#"{"default":{"lifecycle":{"max_crashes":1}},"agents":{"echo":{"essential":true}}}"#;
        assert_eq!(applied(&mut state, first), 2);
        assert_eq!(state.policy, document(first));
        let second = r#"{"default":{"lifecycle":{"auto_restart":false}}}"#;
        assert_eq!(applied(&mut state, second), 1);
        assert_eq!(state.policy.default, document(second).default);
        assert_eq!(state.policy.agents, document(first).agents);
    }

    #[test]
    fn what_holds_already_changes_nothing() {
        let mut state = with_echo();
        let text = r#"{"agents":{"echo":{"lifecycle":{"max_crashes":9}}}}"#;
        assert_eq!(applied(&mut state, text), 1);
        assert_eq!(applied(&mut state, text), 0);
        assert_eq!(applied(&mut state, r#"{"default":{}}"#), 0);
    }

    #[test]
    fn an_empty_scope_takes_back_what_was_said() {
        let mut state = with_echo();
        let text = r#"{"default":{"essential":true},"agents":{"echo":{"essential":false}}}"#;
        applied(&mut state, text);
        applied(&mut state, r#"{"default":{},"agents":{"echo":{}}}"#);
        assert_eq!(state, with_echo());
    }

    #[test]
    fn an_unknown_agent_refuses_the_whole_document() {
        let state = with_echo();
        let text = r#"{"default":{"essential":true},"agents":{"nobody":{}}}"#;
        let refused = state.apply_policy(document(text)).unwrap_err();
        assert_eq!(refused, PolicyRefusal::Unlisted(id("nobody")));
    }

    #[test]
    fn a_rule_that_cannot_be_meant_refuses_the_whole_document_and_is_named() {
        let state = with_echo();
        for (rule, at) in [
            (
                r#"{"decision":"allow","verbs":["read","tokens"]}"#,
                "verbs[1]",
            ),
            (r#"{"decision":"deny","verbs":["policy"]}"#, "verbs[0]"),
            (
                r#"{"decision":"deny","verbs":["read"],"taskTypes":["a"]}"#,
                "verbs[0]",
            ),
            (
                r#"{"decision":"deny","verbs":["task.submit"],"owner":"self"}"#,
                "verbs[0]",
            ),
            (
                r#"{"decision":"deny","verbs":["task.submit"],"taskTypes":["a",""]}"#,
                "taskTypes[1]",
            ),
            (r#"{"decision":"deny","verbs":[]}"#, "verbs"),
        ] {
            for scope in ["default", "agents.echo"] {
                let policy =
                    format!(r#"{{"access":[{{"decision":"deny","verbs":["erase"]}},{rule}]}}"#);
                let text = match scope {
                    "default" => format!(r#"{{"default":{policy}}}"#),
                    _ => format!(
                        r#"{{"default":{{"essential":true}},"agents":{{"echo":{policy}}}}}"#
                    ),
                };
                let refused = state.apply_policy(document(&text)).unwrap_err();
                let PolicyRefusal::Rule { field, .. } = &refused else {
                    panic!("{refused:?}");
                };
                assert_eq!(*field, format!("{scope}.access[1].{at}"), "{refused}");
            }
        }
    }

    #[test]
    fn changes_of_limits_are_laid_one_over_the_other_in_their_order() {
        let echo = AgentId::new("echo").unwrap();
        let mut state = RegistryState::default();
        state.apply(&state.list(&echo).unwrap().unwrap());
        let mut take = |text: &str| {
            let change: LimitChange = serde_json::from_str(text).unwrap();
            let events = state.change_limits(echo.clone(), &change).unwrap();
            for event in &events {
                state.apply(event);
            }
            (events.len(), state.policy.clone())
        };
        take(r#"{"pids":8,"cpu":1}"#);
        let (_, both) = take(r#"{"pids":16}"#);
        let expected = r#"{"agents":{"echo":{"resource_limits":{"cpu":1,"pids":16}}}}"#;
        assert_eq!(both, document(expected));
        assert_eq!(take(r#"{"pids":16}"#).0, 0, "it is so already");
        let (_, none) = take(r#"{"reset":["pids","cpu"]}"#);
        assert_eq!(none, PolicyDocument::default(), "and leaves nothing behind");
        let nobody = AgentId::new("nobody").unwrap();
        let change = LimitChange::default();
        assert_eq!(
            state.change_limits(nobody.clone(), &change),
            Err(PolicyRefusal::Unlisted(nobody))
        );
    }

    #[test]
    fn a_removed_agent_takes_its_policy_along() {
        let mut state = with_echo();
        applied(&mut state, r#"{"agents":{"echo":{"essential":true}}}"#);
        let removed = state.unlist(&id("echo")).unwrap();
        state.apply(&removed);
        assert_eq!(state, RegistryState::default());
    }
}
