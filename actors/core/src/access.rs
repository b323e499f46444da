//! Whether somebody may do something: what a role says, changed by the operator's rules, within the limits of a token.
//!
//! - A rule that denies and matches wins over everything.
//! - Else the role, or ownership, decides; where neither suffices, a rule that allows.
//! - What is not known yet, such as the tasks of a request whose body is still to be read, is asked about again when it
//!   is: until then such a rule neither allows nor denies, and a request that only such a rule could allow goes on.

pub mod limits;
pub mod needs;

use std::collections::BTreeSet;

use mesh_messages::access::{
    AccessDecision, AccessOwner, AccessRule, AccessVerb, TaskFacts, speaks_of,
};
use mesh_messages::policy::PolicyDocument;
use mesh_messages::system::Role;

/// Who does it.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// As in the audit: `user:ada`, `agent:echo`.
    pub name: &'a str,
    /// The role; `None` for what goes on in somebody's name long after they were there. Rules that name roles spoke when
    /// it began.
    pub role: Option<Role>,
}

/// Which tasks it is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum About {
    /// None at all.
    #[default]
    Nothing,
    /// Some that are not known yet.
    Later,
    /// Some that cannot be found out. Every rule that denies some tasks is taken to mean them.
    Unknown,
    /// These.
    Tasks(Vec<TaskFacts>),
}

/// Whom a message, or a task, reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// An agent, with what it can do.
    Agent(String, BTreeSet<String>),
    /// Whoever subscribed to a topic.
    Topic(String),
    /// A person.
    Person(String),
}

impl Recipient {
    /// Whether a name of a rule speaks of it.
    fn is_named(&self, pattern: &str) -> bool {
        let (kind, names) = pattern.split_once(':').unwrap_or_default();
        match (self, kind) {
            (Self::Agent(id, _), "agent") => speaks_of(names, id),
            (Self::Agent(_, can), "capability") => can.iter().any(|one| speaks_of(names, one)),
            (Self::Topic(topic), "topic") => speaks_of(names, topic),
            (Self::Person(name), "user") => speaks_of(names, name),
            _ => false,
        }
    }

    /// Whether a rule about recipients speaks of it.
    fn is_meant(&self, rule: &AccessRule) -> bool {
        let named = |patterns: &[String]| patterns.iter().any(|one| self.is_named(one));
        (rule.to.is_empty() || named(&rule.to)) && !named(&rule.to_others_than)
    }
}

/// What is done.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// What.
    pub verb: AccessVerb,
    /// To which tasks.
    pub about: &'a About,
    /// Whether it is the caller's own; `None` where nobody owns it.
    pub own: Option<bool>,
    /// Whom it reaches, where that is known. A rule about recipients does not speak of what reaches nobody.
    pub to: Option<&'a Recipient>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may be done.
    Allowed,
    /// Only what is not known yet can tell: ask again when it is.
    Open,
    /// It may not be done; by which rule, or by none that allows it.
    Denied(Option<String>),
}

/// Whether anything but roles has a say.
pub fn has_rules(policy: &PolicyDocument) -> bool {
    let mut scopes = policy.default.iter().chain(policy.agents.values());
    scopes.any(|scope| !scope.access.is_empty())
}

/// Decides. `permitted` is what role and ownership say.
pub fn decide(policy: &PolicyDocument, permitted: bool, who: Who<'_>, act: Act<'_>) -> Verdict {
    let rules = || rules_for(policy, who.name).filter(|(_, rule)| concerns(rule, who, act));
    let denies = |rule: &AccessRule| rule.decision == AccessDecision::Deny;
    if let Some((place, _)) = rules().find(|(_, rule)| denies(rule) && hits(rule, act)) {
        return Verdict::Denied(Some(place.name()));
    }
    if permitted {
        return Verdict::Allowed;
    }
    let allows = |fact: Option<&TaskFacts>| {
        let mut rules = rules().filter(|(_, rule)| !denies(rule));
        rules.any(|(_, rule)| match fact {
            Some(fact) => covers(rule, fact),
            None => !depends_on_tasks(rule),
        })
    };
    let allowed = match act.about {
        About::Nothing | About::Unknown => allows(None),
        About::Tasks(tasks) => {
            allows(None) || (!tasks.is_empty() && tasks.iter().all(|task| allows(Some(task))))
        }
        About::Later => {
            if !allows(None) && rules().any(|(_, rule)| !denies(rule)) {
                return Verdict::Open;
            }
            allows(None)
        }
    };
    if allowed {
        Verdict::Allowed
    } else {
        Verdict::Denied(None)
    }
}

/// Whether rules about recipients may keep the tasks of somebody from some agents.
pub fn has_recipients(policy: &PolicyDocument, by: &str) -> bool {
    rules_for(policy, by).any(|(_, rule)| is_of_recipients(rule))
}

/// Whether such rules tell people apart: then those of two people who wait for the same may not have the same agents.
pub fn tells_people_apart(policy: &PolicyDocument) -> bool {
    let mut rules = policy.default.iter().flat_map(|scope| &scope.access);
    rules.any(|rule| is_of_recipients(rule) && !rule.subjects.is_empty())
}

fn is_of_recipients(rule: &AccessRule) -> bool {
    rule.names_recipients() && rule.verbs.contains(&AccessVerb::TaskSubmit)
}

/// The rule about recipients that keeps a task from an agent, by who submitted it; `None` when there is none.
pub fn keeps_from(
    policy: &PolicyDocument,
    by: &str,
    task: &TaskFacts,
    to: &Recipient,
) -> Option<String> {
    let who = Who {
        name: by,
        role: by.starts_with("agent:").then_some(Role::Agent),
    };
    let act = Act {
        verb: AccessVerb::TaskSubmit,
        about: &About::Nothing,
        own: None,
        to: Some(to),
    };
    let mut rules = rules_for(policy, by).filter(|(_, rule)| {
        rule.names_recipients() && concerns(rule, who, act) && is_about(rule, task)
    });
    let (place, _) = rules.find(|(_, rule)| to.is_meant(rule))?;
    Some(format!("denied by {}", place.name()))
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    /// The agent whose own it is.
    agent: Option<&'a str>,
    nth: usize,
}

impl Place<'_> {
    fn name(self) -> String {
        match self.agent {
            Some(agent) => format!("agents.{agent}.access[{}]", self.nth),
            None => format!("default.access[{}]", self.nth),
        }
    }
}

/// An agent's own rules, then those for all.
fn rules_for<'a>(
    policy: &'a PolicyDocument,
    name: &'a str,
) -> impl Iterator<Item = (Place<'a>, &'a AccessRule)> {
    let agent = name.strip_prefix("agent:");
    let own = agent.and_then(|agent| policy.agents.get_key_value(agent));
    let own = own.into_iter().flat_map(move |(id, scope)| {
        let agent = Some(id.as_str());
        let rules = scope.access.iter().enumerate();
        rules.map(move |(nth, rule)| (Place { agent, nth }, rule))
    });
    let all = policy.default.iter().flat_map(|scope| {
        let rules = scope.access.iter().enumerate();
        rules.map(|(nth, rule)| (Place { agent: None, nth }, rule))
    });
    own.chain(all)
}

/// Whether all holds that does not depend on tasks.
fn concerns(rule: &AccessRule, who: Who<'_>, act: Act<'_>) -> bool {
    let role = rule.roles.is_empty() || who.role.is_some_and(|role| rule.roles.contains(&role));
    let anybody = rule.subjects.is_empty() && rule.agents.is_empty();
    let named = |names: &[String], prefix: &str| {
        let bare = who.name.strip_prefix(prefix);
        bare.is_some_and(|bare| names.iter().any(|name| speaks_of(name, bare)))
    };
    let somebody = anybody || named(&rule.subjects, "user:") || named(&rule.agents, "agent:");
    let owner = match rule.owner {
        AccessOwner::Any => true,
        AccessOwner::Own => act.own == Some(true),
        AccessOwner::Other => act.own == Some(false),
    };
    role && somebody && owner && rule.verbs.contains(&act.verb)
}

fn depends_on_tasks(rule: &AccessRule) -> bool {
    !rule.task_types.is_empty() || !rule.requirements.is_empty()
}

/// Whether a rule that denies matches one of the tasks.
fn hits(rule: &AccessRule, act: Act<'_>) -> bool {
    if rule.names_recipients() && act.verb == AccessVerb::MessageSend {
        return act.to.is_some_and(|to| to.is_meant(rule));
    }
    if !depends_on_tasks(rule) && !rule.names_recipients() {
        return true;
    }
    match act.about {
        About::Nothing | About::Later => false,
        About::Unknown => true,
        About::Tasks(tasks) => tasks
            .iter()
            .any(|task| is_about(rule, task) && is_for(rule, task)),
    }
}

/// Whether a rule that denies speaks of what a task is.
fn is_about(rule: &AccessRule, task: &TaskFacts) -> bool {
    let kind = rule.task_types.is_empty() || any(&rule.task_types, &task.kind);
    let mut needs = task.needs.iter();
    let needs = rule.requirements.is_empty() || needs.any(|need| any(&rule.requirements, need));
    kind && needs
}

/// Whether it is known at once that a rule speaks of whom a task may go to: it names its one agent, and the rule says no
/// more of agents than their ids. Else the choice of its agent leaves out those of whom the rule speaks.
fn is_for(rule: &AccessRule, task: &TaskFacts) -> bool {
    if !rule.names_recipients() {
        return true;
    }
    let Some(agent) = &task.agent else {
        return false;
    };
    let open = rule.to_others_than.iter();
    let mut open = open.filter(|name| name.starts_with("capability:"));
    let only = Recipient::Agent(agent.to_string(), BTreeSet::new());
    open.next().is_none() && only.is_meant(rule)
}

/// Whether a rule that allows speaks of all that a task is.
fn covers(rule: &AccessRule, task: &TaskFacts) -> bool {
    let kind = rule.task_types.is_empty() || any(&rule.task_types, &task.kind);
    let mut needs = task.needs.iter();
    let needs = rule.requirements.is_empty()
        || (!task.needs.is_empty() && needs.all(|need| any(&rule.requirements, need)));
    kind && needs
}

fn any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| speaks_of(pattern, name))
}

#[cfg(test)]
mod tests;
