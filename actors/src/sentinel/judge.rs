//! The one decision on who may do what, for every way in which something can be asked for.

use mesh_actors_core::access::limits::{Use, leaves};
use mesh_actors_core::access::{About, Act, Recipient, Verdict, Who, decide, has_rules};
use mesh_messages::access::{AccessVerb, TaskFacts};
use mesh_messages::manifest::Need;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, Role};

use super::door::count;
use super::{SentinelHandle, permits};
use crate::operations::Action;

/// What whoever is refused is told, and the audit, too.
const DETAIL: &str = "Insufficient permissions";

/// What a decision may go by beside who asks for what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Whether the caller may do it as the owner, whatever its role.
    pub owner_may: bool,
    /// Whether it is the caller's own; `None` where nobody owns it.
    pub own: Option<bool>,
    /// The tasks that it is about.
    pub about: About,
    /// The agent that it is done to.
    pub agent: Option<String>,
    /// Whom it reaches.
    pub to: Option<Recipient>,
    /// What of the caller's own manifest does not leave it.
    pub barred: Option<String>,
}

impl SentinelHandle {
    /// Whether the caller may do this: charges its rate, [decides](decide), audits.
    ///
    /// # Errors
    /// `rate_limited`, `forbidden`, or that the audit cannot be written.
    pub async fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem> {
        let nothing = std::future::ready(Ok(Facts::default()));
        self.authorize_about(caller, action, resource, nothing)
            .await
    }

    /// The same where more than the role counts: the facts are asked for only when they could, and only of callers within
    /// their rate.
    ///
    /// # Errors
    /// As [`SentinelHandle::authorize`].
    pub async fn authorize_about(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
        facts: impl Future<Output = Result<Facts, Problem>>,
    ) -> Result<(), Problem> {
        self.door.charge(&caller.name)?;
        let by_role = permits(caller.role, action);
        let roles_suffice = caller.narrowed.is_empty() && !has_rules(&self.policy.load());
        let facts = if by_role && roles_suffice {
            Facts::default()
        } else {
            facts.await?
        };
        self.judge(caller, action, resource, &facts)?;
        if self.audit_all_actions && action != Action::Read {
            self.record_allowed(&caller.name, action.name(), resource)
                .await?;
        }
        Ok(())
    }

    /// The decision alone, for those whose rate is limited elsewhere, such as agents on their own channel; audits a
    /// refusal.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn decide(&self, caller: &Caller, action: Action, resource: &str) -> Result<(), Problem> {
        self.judge(caller, action, resource, &Facts::default())
    }

    /// The same about tasks that are not known yet; they are asked about again when they are.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn decide_later(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem> {
        let facts = Facts {
            about: About::Later,
            ..Facts::default()
        };
        self.judge(caller, action, resource, &facts)
    }

    /// Whether the caller may submit these tasks; charges nothing, as what brought them was charged.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn may_submit(
        &self,
        caller: &Caller,
        resource: &str,
        tasks: Vec<TaskFacts>,
    ) -> Result<(), Problem> {
        let about = About::Tasks(tasks);
        let facts = Facts {
            about,
            ..Facts::default()
        };
        self.judge(caller, Action::TaskSubmit, resource, &facts)
    }

    /// Whether a task may still be submitted in the name of somebody who started what it is part of. Roles had their say
    /// then; rules that name people, agents and tasks are asked again.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn may_go_on(
        &self,
        name: &str,
        resource: &str,
        tasks: Vec<TaskFacts>,
    ) -> Result<(), Problem> {
        let role = name.starts_with("agent:").then_some(Role::Agent);
        let facts = Facts {
            about: About::Tasks(tasks),
            ..Facts::default()
        };
        let action = Action::TaskSubmit;
        match self.verdict(Who { name, role }, true, action, &facts) {
            Verdict::Allowed | Verdict::Open => Ok(()),
            Verdict::Denied(rule) => Err(self.forbid(name, action, resource, rule)),
        }
    }

    /// Decides on facts that are known; audits a refusal.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn judge(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
        facts: &Facts,
    ) -> Result<(), Problem> {
        let permitted = permits(caller.role, action) || facts.owner_may;
        let who = Who {
            name: &caller.name,
            role: Some(caller.role),
        };
        let barred = facts.barred.clone();
        match self.verdict(who, permitted, action, facts) {
            Verdict::Allowed | Verdict::Open => match barred.or(limited(caller, action, facts)) {
                None => Ok(()),
                block => Err(self.forbid(&caller.name, action, resource, block)),
            },
            Verdict::Denied(rule) => Err(self.forbid(&caller.name, action, resource, rule)),
        }
    }

    /// Whether the caller may do this, asked by somebody who shows less otherwise: no act, so nothing is charged or audited.
    #[must_use]
    pub fn would_permit(&self, caller: &Caller, action: Action) -> bool {
        let who = Who {
            name: &caller.name,
            role: Some(caller.role),
        };
        let facts = Facts::default();
        let permitted = permits(caller.role, action);
        let open = matches!(
            self.verdict(who, permitted, action, &facts),
            Verdict::Allowed | Verdict::Open
        );
        open && limited(caller, action, &facts).is_none()
    }

    /// Counts and audits that a task is held to limits that do not leave what was to be done on its behalf, or
    /// that agents give each other none here.
    pub(crate) fn note_confined(&self, caller: &Caller, resource: &str, problem: &Problem) {
        if problem.code == "cross_agent_off" {
            let rule = Some("orchestrator.policies.allow_cross_agent".to_owned());
            let action = Action::TaskSubmit;
            let _told_already = self.forbid(&caller.name, action, resource, rule);
            return;
        }
        if let ("forbidden", [why, ..]) = (problem.code, &problem.errors[..]) {
            let limit = why.strip_prefix("denied by ").unwrap_or(why).to_owned();
            let action = Action::TaskSubmit;
            let _told_already = self.forbid(&caller.name, action, resource, Some(limit));
        }
    }

    /// Refuses what a narrowed token cannot carry along: runs go on by themselves, beyond its end and its limits.
    ///
    /// # Errors
    /// `forbidden`.
    pub(crate) fn not_narrowed(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem> {
        match caller.narrowed.first() {
            None => Ok(()),
            Some(block) => {
                let block = Some(token_of(&block.id));
                Err(self.forbid(&caller.name, action, resource, block))
            }
        }
    }

    fn verdict(&self, who: Who<'_>, permitted: bool, action: Action, facts: &Facts) -> Verdict {
        // An action that no rule can name is decided by roles alone.
        match AccessVerb::named(action.name()) {
            Some(verb) => {
                let act = Act {
                    verb,
                    about: &facts.about,
                    own: facts.own,
                    to: facts.to.as_ref(),
                };
                decide(&self.policy.load(), permitted, who, act)
            }
            None if permitted => Verdict::Allowed,
            None => Verdict::Denied(None),
        }
    }

    /// Counts and audits that somebody may not do this, for a reason that is not their role alone.
    pub(crate) fn refuse(&self, caller: &Caller, action: Action, resource: &str) -> Problem {
        self.forbid(&caller.name, action, resource, None)
    }

    /// The same, and what forbids it.
    pub(crate) fn refuse_by(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
        rule: String,
    ) -> Problem {
        self.forbid(&caller.name, action, resource, Some(rule))
    }

    /// Counts and audits that an agent's own manifest does not have the permission for this.
    pub(crate) fn lacks(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
        need: &Need,
    ) -> Problem {
        self.forbid(&caller.name, action, resource, Some(need.to_string()))
    }

    fn forbid(&self, name: &str, action: Action, resource: &str, rule: Option<String>) -> Problem {
        count(&self.door.counts.forbidden);
        let why = rule.iter().map(|rule| format!("denied by {rule}"));
        let errors = why.collect();
        self.record_denied_by(name, action.name(), resource, (DETAIL, rule));
        Problem::new(ProblemKind::Forbidden, "forbidden", DETAIL).errors(errors)
    }
}

/// The block of the caller's token that does not leave this.
fn limited(caller: &Caller, action: Action, facts: &Facts) -> Option<String> {
    let mut blocks = caller.narrowed.iter();
    let verb = AccessVerb::named(action.name());
    let block = blocks.find(|block| {
        verb.is_none_or(|verb| {
            let act = Use {
                verb,
                about: &facts.about,
                agent: facts.agent.as_deref(),
            };
            !leaves(&block.limits, act)
        })
    })?;
    Some(token_of(&block.id))
}

/// As the audit names what a token's block forbids.
fn token_of(block: &str) -> String {
    format!("token {block}")
}
