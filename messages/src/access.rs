//! Rules on who may do what, beyond and below what roles say; and the limits that a narrowed token carries.
//!
//! Both are data: what follows from them is decided in one place, `mesh-actors-core`'s `access`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::escalation::ESCALATION;
use crate::ids::AgentId;
use crate::system::Role;
use crate::task::TaskSpec;
use crate::workflow::{SubWorkflow, WorkflowDocument};

/// Most rules of one scope of the operator's policy: each decision goes through them in turn.
pub const ACCESS_RULES_MAX: usize = 256;
/// Most names in one list of a rule or a limit.
pub const ACCESS_NAMES_MAX: usize = 64;
/// Longest of them, in bytes.
pub const ACCESS_NAME_BYTES_MAX: usize = 256;

/// What is asked for, as the audit names it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum AccessVerb {
    /// See anything that is not a secret.
    #[serde(rename = "read")]
    Read,
    /// Submit tasks, in whatever form.
    #[serde(rename = "task.submit")]
    TaskSubmit,
    /// Cancel and retry tasks, report outcomes; run workflows, plans and schedules.
    #[serde(rename = "task.control")]
    TaskControl,
    /// Answer what people are asked.
    #[serde(rename = "inbox.answer")]
    InboxAnswer,
    /// Send messages.
    #[serde(rename = "message.send")]
    MessageSend,
    /// Subscribe; take and acknowledge what subscriptions hold.
    #[serde(rename = "message.receive")]
    MessageReceive,
    /// Put dead letters back and give them up.
    #[serde(rename = "bus.control")]
    BusControl,
    /// Register agents and versions.
    #[serde(rename = "agent.register")]
    AgentRegister,
    /// Start, stop, restart, pause, resume, scale.
    #[serde(rename = "agent.control")]
    AgentControl,
    /// Quarantine, recover, terminate, remove, upgrade, roll back.
    #[serde(rename = "agent.govern")]
    AgentGovern,
    /// Agents' memory.
    #[serde(rename = "memory")]
    Memory,
    /// Tokens.
    #[serde(rename = "tokens")]
    Tokens,
    /// Keys.
    #[serde(rename = "keys")]
    Keys,
    /// Secrets.
    #[serde(rename = "secrets")]
    Secrets,
    /// Which services there are.
    #[serde(rename = "services")]
    Services,
    /// Calls and checks of services.
    #[serde(rename = "service.call")]
    ServiceCall,
    /// Faults on purpose.
    #[serde(rename = "chaos")]
    Chaos,
    /// The operator's policy.
    #[serde(rename = "policy")]
    Policy,
    /// What admins sign.
    #[serde(rename = "governance")]
    Governance,
    /// Erasure.
    #[serde(rename = "erase")]
    Erase,
    /// Backups.
    #[serde(rename = "backup")]
    Backup,
}

impl AccessVerb {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Read,
        Self::TaskSubmit,
        Self::TaskControl,
        Self::InboxAnswer,
        Self::MessageSend,
        Self::MessageReceive,
        Self::BusControl,
        Self::AgentRegister,
        Self::AgentControl,
        Self::AgentGovern,
        Self::Memory,
        Self::Tokens,
        Self::Keys,
        Self::Secrets,
        Self::Services,
        Self::ServiceCall,
        Self::Chaos,
        Self::Policy,
        Self::Governance,
        Self::Erase,
        Self::Backup,
    ];

    /// The name on the wire and in the audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::TaskSubmit => "task.submit",
            Self::TaskControl => "task.control",
            Self::InboxAnswer => "inbox.answer",
            Self::MessageSend => "message.send",
            Self::MessageReceive => "message.receive",
            Self::BusControl => "bus.control",
            Self::AgentRegister => "agent.register",
            Self::AgentControl => "agent.control",
            Self::AgentGovern => "agent.govern",
            Self::Memory => "memory",
            Self::Tokens => "tokens",
            Self::Keys => "keys",
            Self::Secrets => "secrets",
            Self::Services => "services",
            Self::ServiceCall => "service.call",
            Self::Chaos => "chaos",
            Self::Policy => "policy",
            Self::Governance => "governance",
            Self::Erase => "erase",
            Self::Backup => "backup",
        }
    }

    /// The verb of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }

    /// Whether it is about tasks, so that it can depend on what they are.
    pub const fn is_about_tasks(self) -> bool {
        matches!(self, Self::TaskSubmit | Self::TaskControl)
    }

    /// Whether it is done to something that has an owner.
    pub const fn is_about_owned(self) -> bool {
        matches!(
            self,
            Self::TaskControl | Self::AgentControl | Self::AgentGovern
        )
    }

    /// Whether a rule may give it to those whose role does not have it. What only admins have stays theirs: whoever had it
    /// could give themselves everything else.
    pub const fn can_be_given(self) -> bool {
        matches!(
            self,
            Self::Read
                | Self::TaskSubmit
                | Self::TaskControl
                | Self::InboxAnswer
                | Self::MessageSend
                | Self::MessageReceive
                | Self::BusControl
                | Self::AgentRegister
                | Self::AgentControl
        )
    }

    /// Whether a rule may take it away. The two by which rules are changed cannot: nobody could take that back.
    pub const fn can_be_denied(self) -> bool {
        !matches!(self, Self::Policy | Self::Governance)
    }
}

impl std::str::FromStr for AccessVerb {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::named(text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("must be one of {}", names.join(", "))
        })
    }
}

/// What a rule says of what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessDecision {
    /// It may be done, even by those whose role does not include it.
    Allow,
    /// It may not be done, whatever else allows it.
    Deny,
}

/// Whose thing it is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessOwner {
    /// Anybody's.
    #[default]
    Any,
    /// The caller's own: a task that it submitted, an agent that it registered.
    #[serde(rename = "self")]
    Own,
    /// Not the caller's own.
    Other,
}

impl AccessOwner {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde asks with a reference"
    )]
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// One rule. It matches when every condition that it names holds; of a list, one name suffices. A name that ends in `*`
/// stands for all that begin like it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessRule {
    /// What it says.
    pub decision: AccessDecision,
    /// Callers of these roles; of any when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub roles: Vec<Role>,
    /// People whose tokens bear these subjects. With neither these nor `agents`, everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub subjects: Vec<String>,
    /// Agents as callers, by their ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub agents: Vec<String>,
    /// What is done.
    #[schemars(length(min = 1, max = ACCESS_NAMES_MAX))]
    pub verbs: Vec<AccessVerb>,
    /// Tasks of these types; for `task.submit` and `task.control` alone. The type of a task that names none is its first
    /// requirement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub task_types: Vec<String>,
    /// Tasks with these requirements; for `task.submit` and `task.control` alone. A rule that denies matches a task of
    /// which one requirement is named here, a rule that allows one of which all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub requirements: Vec<String>,
    /// Whom it reaches, for `message.send` and `task.submit`, of a rule that denies: `agent:` and an id, `capability:` and
    /// what an agent can do, `topic:`, `user:`. Of a task, the agent that it may go to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub to: Vec<String>,
    /// The same, whoever it reaches but these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ACCESS_NAMES_MAX))]
    pub to_others_than: Vec<String>,
    /// Whose it is; for `task.control`, `agent.control` and `agent.govern` alone.
    #[serde(default, skip_serializing_if = "AccessOwner::is_any")]
    pub owner: AccessOwner,
}

impl AccessRule {
    /// What is wrong with it beyond its form: the field, and why.
    pub fn misfit(&self) -> Option<(String, String)> {
        if self.verbs.is_empty() {
            return Some((
                "verbs".to_owned(),
                "a rule names what it is about".to_owned(),
            ));
        }
        let lists = [
            ("subjects", &self.subjects),
            ("agents", &self.agents),
            ("taskTypes", &self.task_types),
            ("requirements", &self.requirements),
            ("to", &self.to),
            ("toOthersThan", &self.to_others_than),
        ];
        for (field, names) in lists {
            if let Some(nth) = names
                .iter()
                .position(|name| name.is_empty() || name.len() > ACCESS_NAME_BYTES_MAX)
            {
                let why = format!("must have 1 to {ACCESS_NAME_BYTES_MAX} bytes");
                return Some((format!("{field}[{nth}]"), why));
            }
        }
        if let Some(wrong) = self.misfit_of_recipients() {
            return Some(wrong);
        }
        let of_tasks = !self.task_types.is_empty() || !self.requirements.is_empty();
        for (nth, verb) in self.verbs.iter().enumerate() {
            let name = verb.name();
            let why = if self.decision == AccessDecision::Allow && !verb.can_be_given() {
                format!("{name} is for admins, and no rule gives it to others")
            } else if self.decision == AccessDecision::Deny && !verb.can_be_denied() {
                format!("{name} cannot be denied: nobody could take the rule back")
            } else if of_tasks && !verb.is_about_tasks() {
                format!(
                    "{name} does not depend on taskTypes or requirements; only task.submit and task.control do"
                )
            } else if self.owner != AccessOwner::Any && !verb.is_about_owned() {
                format!(
                    "{name} does not depend on owner; only task.control, agent.control and agent.govern do"
                )
            } else {
                continue;
            };
            return Some((format!("verbs[{nth}]"), why));
        }
        None
    }

    /// Whether it depends on whom something reaches.
    pub fn names_recipients(&self) -> bool {
        !self.to.is_empty() || !self.to_others_than.is_empty()
    }

    fn misfit_of_recipients(&self) -> Option<(String, String)> {
        if !self.names_recipients() {
            return None;
        }
        if self.decision == AccessDecision::Allow {
            let why = "a rule that allows does not depend on to and toOthersThan; deny with toOthersThan what shall not be allowed";
            return Some(("decision".to_owned(), why.to_owned()));
        }
        if !self.task_types.is_empty() {
            let why = "exclude to and toOthersThan; name the requirements instead";
            return Some(("taskTypes".to_owned(), why.to_owned()));
        }
        let submits = self.verbs.contains(&AccessVerb::TaskSubmit);
        if submits && self.roles.iter().any(|role| *role != Role::Agent) {
            let why = "must be [\"agent\"] or absent with task.submit, to and toOthersThan: whom a task goes to is chosen later, by who submitted it; name subjects instead";
            return Some(("roles".to_owned(), why.to_owned()));
        }
        for (field, names) in [("to", &self.to), ("toOthersThan", &self.to_others_than)] {
            let known = |name: &String| RECIPIENTS.iter().any(|kind| name.starts_with(kind));
            if let Some(nth) = names.iter().position(|name| !known(name)) {
                let why = format!("must begin with one of {}", RECIPIENTS.join(", "));
                return Some((format!("{field}[{nth}]"), why));
            }
        }
        let mut verbs = self.verbs.iter();
        let nth = verbs
            .position(|verb| !matches!(verb, AccessVerb::MessageSend | AccessVerb::TaskSubmit))?;
        let why = format!(
            "{} does not depend on to and toOthersThan; only message.send and task.submit do",
            self.verbs[nth].name()
        );
        Some((format!("verbs[{nth}]"), why))
    }
}

/// What the names of recipients begin with.
const RECIPIENTS: [&str; 4] = ["agent:", "capability:", "topic:", "user:"];

/// Whether a name of a rule speaks of another name.
pub fn speaks_of(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}

/// What a decision about a task goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFacts {
    /// Its type, else its first requirement.
    pub kind: String,
    /// The capabilities that it needs.
    pub needs: Vec<String>,
    /// The one agent that may get it.
    pub agent: Option<AgentId>,
    /// The resources that it takes for itself; of a step of a workflow as they are written there.
    pub claims: Vec<String>,
    /// It has another agent check a result: whoever submitted the work asked for it, and nobody hands anything on.
    pub check: bool,
}

impl TaskFacts {
    /// Of a task, and of those that its acceptance checks and its escalation to agents lead to.
    pub fn all_of(spec: &TaskSpec) -> Vec<Self> {
        let checks = spec.contract.iter().flat_map(|contract| &contract.checks);
        let by_agents = checks.filter(|check| !check.requirements.is_empty());
        let checks = by_agents.map(|check| Self {
            check: true,
            ..Self::of(&TaskSpec {
                requirements: check.requirements.clone(),
                ..TaskSpec::default()
            })
        });
        let steps = spec.escalate.iter().flatten();
        let to_agents = steps.filter(|step| step.person.is_none());
        let followed = to_agents.map(|step| Self {
            kind: ESCALATION.to_owned(),
            needs: step.requirements.clone(),
            agent: step.agent.clone(),
            claims: Vec::new(),
            check: false,
        });
        let own = std::iter::once(Self::of(spec));
        own.chain(checks).chain(followed).collect()
    }

    /// Of a task alone.
    pub fn of(spec: &TaskSpec) -> Self {
        Self {
            kind: spec.action().to_owned(),
            needs: spec.needs(),
            agent: spec.agent.clone(),
            claims: spec.claims.iter().map(|c| c.resource.clone()).collect(),
            check: false,
        }
    }

    /// Of every task that a workflow can lead to: its steps, what takes them back, and workflows inside it.
    pub fn of_workflow(document: &WorkflowDocument) -> Vec<Self> {
        let mut all = Vec::new();
        gather(document, &mut all);
        all
    }
}

fn gather(document: &WorkflowDocument, all: &mut Vec<TaskFacts>) {
    for step in &document.steps {
        if !step.requirements.is_empty() || step.kind.is_some() {
            all.extend(TaskFacts::all_of(&TaskSpec {
                kind: step.kind.clone(),
                requirements: step.requirements.clone(),
                agent: step.agent.clone(),
                contract: step.contract.clone(),
                escalate: step.escalate.clone(),
                claims: step.claims.clone(),
                ..TaskSpec::default()
            }));
        }
        if let Some(undo) = &step.compensate
            && (!undo.requirements.is_empty() || undo.kind.is_some())
        {
            all.push(TaskFacts::of(&TaskSpec {
                kind: undo.kind.clone(),
                requirements: undo.requirements.clone(),
                ..TaskSpec::default()
            }));
        }
        // Who does which part is drafted later, and looked at again then.
        if let Some(team) = &step.team {
            let each = team.requirements.iter().chain(&team.lead);
            all.extend(each.map(|one| {
                TaskFacts::of(&TaskSpec {
                    requirements: vec![one.clone()],
                    ..TaskSpec::default()
                })
            }));
        }
        // One that is only named was written out before the run was accepted.
        if let Some(SubWorkflow::Inline(inner)) = &step.workflow {
            gather(inner, all);
        }
    }
}
