//! Teams that form by themselves, where no registered agent can do a task alone and several can between them.
//!
//! ```text
//!  Parked (no agent) ─► formed ─► a part begins ─► … ─► Succeeded | Failed | DeadLettered | escalated
//!                         │  the task is Blocked (team), its parts are tasks below it
//!                         └─► disbanded, while nobody has begun ─► Queued
//! ```
//!
//! Everything that happens to a team happens in one group of records with what led to it: the parts are submitted with the
//! step that asks for them, and the end of the last part is the end of the team. So a kill leaves nothing half done. What
//! holds for a task holds for its parts, as they stand below it: who submitted it, its deadline, its budget, its limits, and
//! that they end with it. What it claims, the team has from when it is formed until it ends.
//!
//! No team is formed where one registered agent has all that is needed, whatever state that is in, nor while one of the
//! members could not begin.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::claim::TaskClaim;
use mesh_messages::escalation::GivenUp;
use mesh_messages::events::TaskEvent;
use mesh_messages::record::PAYLOAD_INLINE_MAX;
use mesh_messages::task::{
    TASK_DATA_MAX, Task, TaskContract, TaskSpec, TaskState, WaitReason, WaitingFor,
};
use mesh_messages::team::{
    LEAD, MEMBERS_MAX, TeamPart, TeamPattern, TeamPhase, TeamStep, TeamWish, Teamwork,
};
use mesh_messages::trust::TrustLevel;
use mesh_messages::{AgentId, AttemptNo, Failure, FailureClass, TaskId};
use serde_json::{Map, Value, json};

use super::attempt::conforming;
use super::command::{Context, Live};
use super::config::RetryPolicy;
use super::index::GroupKey;
use super::standing::Ask;
use super::state::{Entry, Tasks};
use super::submit::{
    DEPTH_MAX, LIVE_TASKS_MAX, LIVE_TASKS_OF_ONE_MAX, child_id, digest_of, hold_within,
};
use super::tx::{EVENTS_MAX, Tx, kept_from};
use super::validate::json_len;
use crate::routing::Gate;
use crate::workflow::team::{Candidate, Merit, cover, ranked, reasons};

/// Whether a team has the task now.
pub(crate) fn is_teams(entry: &Entry) -> bool {
    entry.record.is_teams()
}

/// The team that has a task now, of which another one is a part.
pub(crate) fn team_of<'t>(tasks: &'t Tasks, part: &Task) -> Option<(&'t Entry, &'t Teamwork)> {
    let above = tasks.live(part.spec.parent.as_ref()?)?;
    let team = above
        .task()
        .teamwork
        .as_deref()
        .filter(|_| is_teams(above))?;
    let is_its = team.parts.iter().any(|one| one.task == part.id);
    is_its.then_some((above, team))
}

/// What a task says of teams; never, where there can be none.
pub(crate) fn wish(entry: &Entry) -> TeamWish {
    let spec = &entry.task().spec;
    let alone = spec.agent.is_some()
        || spec.approval.is_some()
        || spec.escalates.is_some()
        || entry.needs.len() < 2
        || entry.record.depth >= DEPTH_MAX;
    if alone {
        TeamWish::Never
    } else {
        spec.team.unwrap_or_default()
    }
}

/// What is wrong with what a task says of teams, if anything.
pub(crate) fn misfit(spec: &TaskSpec) -> Option<&'static str> {
    match spec.team {
        None | Some(TeamWish::Auto | TeamWish::Never) => None,
        Some(_) if spec.agent.is_some() => {
            Some("only one agent may have it: leave out one of the two")
        }
        Some(_) if spec.approval.is_some() => Some("a person answers it, and no team"),
        Some(_) => None,
    }
}

/// Who does what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    lead: AgentId,
    leads: bool,
    members: Vec<(AgentId, Vec<String>)>,
    reasons: String,
}

/// The agents that have any of these, as far as a task's demand for trust lets them.
fn candidates(
    tasks: &Tasks,
    live: &Live,
    ctx: Context<'_>,
    of: &[String],
    trust: Ask,
) -> Vec<Candidate> {
    let least = trust.least(ctx.config.trust_threshold);
    let mut names: BTreeSet<&AgentId> = BTreeSet::new();
    for need in of {
        names.extend(live.fleet.having(need));
    }
    let candidate = |id: &AgentId| {
        let agent = live.fleet.agent(id)?;
        let quality = tasks.qualities().agent(id);
        let mut merits = BTreeMap::new();
        for need in of.iter().filter(|need| agent.capabilities.contains(*need)) {
            let trust = tasks.trust().level(id, std::slice::from_ref(need), ctx.now);
            if least != TrustLevel::NONE && trust < least {
                continue;
            }
            let seen = quality.and_then(|known| known.capabilities.get(need));
            let quality = seen.copied().unwrap_or_default();
            merits.insert(need.clone(), Merit { trust, quality });
        }
        let open = matches!(agent.gate(), Gate::Free | Gate::Permit);
        let held_up = tasks.gates().held_up(id, agent.account.as_deref());
        Some(Candidate {
            agent: id.clone(),
            capabilities: merits.keys().cloned().collect(),
            serves: open && held_up.is_none(),
            merits,
        })
    };
    names.into_iter().filter_map(candidate).collect()
}

/// The team that these agents make, or why there is none.
fn shape(
    needs: &[String],
    wish: TeamWish,
    needs_lead: bool,
    fleet: &[Candidate],
) -> Result<Shape, String> {
    let serving: Vec<_> = fleet.iter().filter(|one| one.serves).cloned().collect();
    let found = cover(needs, &serving);
    if !found.missing.is_empty() {
        let missing = found.missing.iter().map(|need| {
            let away = fleet.iter().filter(|one| one.capabilities.contains(need));
            let away: Vec<_> = away.take(8).map(|one| one.agent.as_str()).collect();
            match away.as_slice() {
                [] => format!("nobody has {need}"),
                some => format!(
                    "{need} is had by {} alone, and none of them serves",
                    some.join(", ")
                ),
            }
        });
        return Err(missing.collect::<Vec<_>>().join("; "));
    }
    if found.members.len() > MEMBERS_MAX {
        let count = found.members.len();
        return Err(format!(
            "it would take {count} agents, and a team has at most {MEMBERS_MAX}"
        ));
    }
    let leads = [LEAD.to_owned()];
    let leader = ranked(&leads, &serving)
        .first()
        .map(|one| one.agent.clone());
    let leader = leader.filter(|_| wish != TeamWish::CrossFunctional);
    if leader.is_none() && (wish == TeamWish::Hierarchical || needs_lead) {
        let why = if needs_lead {
            "its result is checked where its lead works, and "
        } else {
            ""
        };
        return Err(format!("{why}nobody who serves has {LEAD}"));
    }
    let Some(lead) = leader
        .clone()
        .or_else(|| found.members.first().map(|(agent, _)| agent.clone()))
    else {
        return Err("it needs nothing".to_owned());
    };
    let mut named = Vec::new();
    if leader.is_some() {
        named.push(("lead".to_owned(), lead.clone(), leads.to_vec()));
    }
    let numbered = found.members.iter().enumerate();
    named.extend(
        numbered.map(|(nth, (agent, needs))| (part_name(nth), agent.clone(), needs.clone())),
    );
    Ok(Shape {
        leads: leader.is_some(),
        lead,
        reasons: reasons(&named, &serving).trim().to_owned(),
        members: found.members,
    })
}

fn part_name(nth: usize) -> String {
    format!("part-{}", nth + 1)
}

/// Everybody who can be asked, and the one who leads.
fn fleet_for(tasks: &Tasks, live: &Live, ctx: Context<'_>, entry: &Entry) -> Vec<Candidate> {
    let mut wanted = entry.task().spec.needs();
    wanted.push(LEAD.to_owned());
    let mut fleet = candidates(tasks, live, ctx, &wanted, Ask::of(entry));
    fleet.retain(|one| {
        let agent = live.fleet.agent(&one.agent);
        agent.is_some_and(|agent| kept_from(ctx, entry.task(), (&one.agent, agent)).is_none())
    });
    fleet
}

fn shape_for(tasks: &Tasks, live: &Live, ctx: Context<'_>, entry: &Entry) -> Result<Shape, String> {
    let spec = &entry.task().spec;
    let checked = |contract: &TaskContract| !contract.checks.is_empty();
    let needs_lead = spec.contract.as_ref().is_some_and(checked);
    let fleet = fleet_for(tasks, live, ctx, entry);
    shape(&spec.needs(), wish(entry), needs_lead, &fleet)
}

/// Why no team does a task for which no registered agent has all that it needs; `None` when a team could, or may not.
pub(crate) fn why_no_team(
    tasks: &Tasks,
    live: &Live,
    ctx: Context<'_>,
    entry: &Entry,
) -> Option<String> {
    if wish(entry) == TeamWish::Never {
        return None;
    }
    let known = entry
        .needs
        .iter()
        .any(|need| live.fleet.having(need).next().is_some());
    let why = shape_for(tasks, live, ctx, entry).err().filter(|_| known)?;
    Some(format!(
        "no registered agent has {} alone, and no team can be formed: {why}",
        entry.needs.join(", ")
    ))
}

/// For what a team's task waits, as it is now.
pub(crate) fn team_wait(
    tasks: &Tasks,
    live: &Live,
    ctx: Context<'_>,
    entry: &Entry,
) -> Option<WaitingFor> {
    let team = entry.task().teamwork.as_deref()?;
    let mut waits = waiting_for_team(team);
    waits.agents.clear();
    waits.tasks.clear();
    let mut held_up = Vec::new();
    for part in team.current() {
        let Some(part_entry) = tasks.live(&part.task) else {
            continue;
        };
        waits.tasks.push(part.task.clone());
        match part_entry.record.attempt() {
            Some(attempt) => waits.agents.push(attempt.agent_id.clone()),
            None => waits.agents.push(part.agent.clone()),
        }
        let why = tasks
            .view(live, ctx, &part.task)
            .and_then(|task| task.waiting_for);
        if let Some(why) = why {
            held_up.push(format!("{} waits: {}", part.name, why.detail));
        }
    }
    waits.agents.sort();
    waits.agents.dedup();
    if !held_up.is_empty() {
        waits.detail = format!("{}; {}", waits.detail, held_up.join("; "));
    }
    Some(waits)
}

/// A wait for a team.
pub(crate) fn waiting_for_team(team: &Teamwork) -> WaitingFor {
    let members = team.parts.iter().map(|part| {
        let needs = part.capabilities.join(", ");
        format!("{} {} ({needs})", part.name, part.agent)
    });
    let members: Vec<_> = members.collect();
    let mut agents: Vec<_> = team.current().map(|part| part.agent.clone()).collect();
    agents.sort();
    agents.dedup();
    WaitingFor {
        reason: WaitReason::Team,
        detail: format!(
            "a team does it, led by {}: {}",
            team.lead,
            members.join("; ")
        ),
        until: None,
        agents,
        tasks: team.current().map(|part| part.task.clone()).collect(),
    }
}

impl Tx<'_> {
    /// Gives up the teams that have become needless before they began; whether there were any.
    pub(crate) fn disband_teams(&mut self) -> bool {
        if !self.live.fleet.is_complete() {
            return false;
        }
        let mut any = false;
        let fresh: Vec<_> = self.tasks.index().fresh_teams.iter().cloned().collect();
        for id in fresh {
            if self.is_full() {
                return any;
            }
            if let Some(why) = self.needless(&id) {
                self.disband(&id, why);
                any = true;
            }
        }
        any
    }

    /// Forms teams for the tasks that nobody can do alone; whether there were any.
    pub(crate) fn form_teams(&mut self) -> bool {
        if !self.live.fleet.is_complete() {
            return false;
        }
        let mut moved = false;
        for id in self.teamless() {
            if self.is_full() {
                return false;
            }
            moved |= self.form(&id);
        }
        moved
    }

    /// The tasks that wait for an agent, none of which any registered agent could do alone.
    fn teamless(&self) -> Vec<TaskId> {
        let alone = |key: &GroupKey| {
            key.team == TeamWish::Never
                || self.live.fleet.capable(&key.needs, None).next().is_some()
        };
        let covered = |key: &GroupKey| {
            let mut needs = key.needs.iter();
            needs.all(|need| self.live.fleet.having(need).next().is_some())
        };
        let mut all = Vec::new();
        for (key, group) in &self.tasks.index().ready {
            let Some(ranks) = group.get(&Some(WaitReason::NoAgent)) else {
                continue;
            };
            if alone(key) || !covered(key) {
                continue;
            }
            all.extend(
                ranks
                    .iter()
                    .take(EVENTS_MAX + 1)
                    .map(|(_, _, id)| id.clone()),
            );
        }
        all
    }

    /// Why a team that has not begun is given up.
    fn needless(&self, id: &TaskId) -> Option<String> {
        let entry = self.tasks.live(id)?;
        let fleet = &self.live.fleet;
        if let Some((agent, _)) = fleet.capable(&entry.needs, None).next() {
            return Some(format!("{agent} is registered, and has all that is needed"));
        }
        let team = entry.task().teamwork.as_deref()?;
        let gone = team
            .parts
            .iter()
            .find(|part| fleet.capable(&part.capabilities, None).next().is_none());
        gone.map(|part| {
            format!(
                "no registered agent has {} any more",
                part.capabilities.join(", ")
            )
        })
    }

    fn team_step(&mut self, id: &TaskId, step: TeamStep) {
        let (at, step) = (self.ctx.now, Box::new(step));
        self.emit(id, TaskEvent::Team { at, step });
    }

    fn disband(&mut self, id: &TaskId, why: String) {
        let parts = self.tasks.get(id).and_then(|task| task.teamwork.clone());
        self.team_step(id, TeamStep::Disbanded { why });
        for part in parts.iter().flat_map(|team| &team.parts) {
            if self.tasks.live(&part.task).is_some() {
                self.cancel(&part.task, format!("the team of task {id} was disbanded"));
            }
        }
    }

    fn form(&mut self, id: &TaskId) -> bool {
        let Some(entry) = self.tasks.live(id) else {
            return false;
        };
        let Ok(shape) = shape_for(self.tasks, self.live, self.ctx, entry) else {
            return false;
        };
        let first = if shape.leads { 1 } else { shape.members.len() };
        let tenant = self.tasks.live_of(&entry.tenant);
        let full = self.tasks.live_count() + first > LIVE_TASKS_MAX
            || tenant + first > LIVE_TASKS_OF_ONE_MAX;
        if full || self.park_if_claimed(id) {
            return false;
        }
        let Some(entry) = self.tasks.live(id) else {
            return false;
        };
        let number = entry.task().teamwork.as_ref().map_or(0, |team| team.number) + 1;
        let round = entry.record.round;
        let part = |name: &str, agent: &AgentId, capabilities: &[String]| TeamPart {
            name: name.to_owned(),
            agent: agent.clone(),
            capabilities: capabilities.to_vec(),
            // No agent can write such a request, so none can have asked for this child.
            task: child_id(id, round, &format!("team\n{number}\n{name}")),
        };
        let leads = [LEAD.to_owned()];
        let mut parts: Vec<_> = shape
            .members
            .iter()
            .enumerate()
            .map(|(nth, (agent, needs))| part(&part_name(nth), agent, needs))
            .collect();
        if shape.leads {
            parts.insert(0, part("brief", &shape.lead, &leads));
            parts.push(part("decide", &shape.lead, &leads));
        }
        let team = Teamwork {
            number,
            pattern: if shape.leads {
                TeamPattern::Hierarchical
            } else {
                TeamPattern::CrossFunctional
            },
            lead: shape.lead,
            parts,
            reasons: shape.reasons,
            phase: if shape.leads {
                TeamPhase::Brief
            } else {
                TeamPhase::Parts
            },
            formed_at: self.ctx.now,
            began_at: None,
            end: None,
        };
        // Whoever may not hand its parts on has no team.
        let task = entry.task();
        let held = team.current().map(|part| {
            let mut spec = part_spec(task, &team, part, Value::Null);
            hold_within(self, &mut spec, false).is_ok()
        });
        if !held.collect::<Vec<_>>().into_iter().all(|fits| fits) {
            return false;
        }
        let attempt = entry.record.last_attempt;
        self.team_step(id, TeamStep::Formed(Box::new(team)));
        self.take_claims(id, attempt);
        self.submit_parts(id, &BTreeMap::new());
        true
    }

    /// Submits the parts of the phase that a team is in.
    fn submit_parts(&mut self, id: &TaskId, made: &BTreeMap<String, Value>) {
        let Some(entry) = self.tasks.live(id) else {
            return;
        };
        let Some(team) = entry.task().teamwork.clone() else {
            return;
        };
        let (task, by) = (entry.task().clone(), entry.task().submitted_by.clone());
        let depth = entry.record.depth + 1;
        for part in team.current() {
            let mut spec = part_spec(&task, &team, part, input_of(&task, &team, part, made));
            let size = json_len(&spec.input);
            let fits = if size > TASK_DATA_MAX {
                Err(format!(
                    "what {} gets has {size} bytes as JSON; at most {TASK_DATA_MAX} are accepted",
                    part.name
                ))
            } else {
                hold_within(self, &mut spec, false).map_err(|refusal| refusal.to_string())
            };
            if let Err(why) = fits {
                return self.fail_team(
                    id,
                    final_failure(FailureClass::Contract, why),
                    GivenUp::Failed,
                );
            }
            self.grow(if size > PAYLOAD_INLINE_MAX { 0 } else { size });
            let retry: RetryPolicy = self.ctx.config.retry.completed(spec.retry.as_ref());
            let event = TaskEvent::Submitted {
                digest: digest_of(&spec),
                spec: Box::new(spec),
                by: by.clone(),
                at: self.ctx.now,
                deadline_at: task.deadline_at,
                retry: retry.to_spec(),
                depth,
                ruling: None,
            };
            self.emit(&part.task, event);
        }
    }

    /// A part was handed to an agent.
    pub(crate) fn team_begins(&mut self, part: &TaskId) {
        let Some(task) = self.tasks.get(part) else {
            return;
        };
        let fresh = team_of(self.tasks, task).filter(|(_, team)| team.began_at.is_none());
        if let Some(id) = fresh.map(|(above, _)| above.task().id.clone()) {
            self.team_step(&id, TeamStep::Began);
        }
    }

    /// What the team has for whom a part is done: the agent that does it may use that, too.
    pub(crate) fn team_claims(&self, part: &TaskId) -> Vec<TaskClaim> {
        let team = self
            .tasks
            .get(part)
            .and_then(|task| team_of(self.tasks, task));
        let Some((above, _)) = team else {
            return Vec::new();
        };
        let held = above.task().spec.claims.iter().map(|claim| {
            let token = self
                .tasks
                .claims()
                .token_of(&claim.resource, &above.task().id);
            TaskClaim {
                token,
                ..claim.clone()
            }
        });
        held.filter(|claim| claim.token.is_some()).collect()
    }

    /// A part has ended: in the same group, the team goes on, or ends.
    pub(crate) fn team_on(&mut self, part: &TaskId) {
        let Some(ended) = self.tasks.get(part) else {
            return;
        };
        let Some((above, team)) = team_of(self.tasks, ended) else {
            return;
        };
        let (id, phase) = (above.task().id.clone(), team.phase);
        let Some(of_team) = team.current().find(|one| one.task == *part) else {
            return;
        };
        if ended.state != TaskState::Succeeded {
            let (failure, otherwise) = failure_of(of_team, ended);
            return self.fail_team(&id, failure, otherwise);
        }
        let done = |one: &TeamPart| {
            self.tasks
                .get(&one.task)
                .is_some_and(|task| task.state == TaskState::Succeeded)
        };
        if !team.current().all(done) {
            return;
        }
        let mut made = BTreeMap::new();
        for one in &team.parts {
            if let Some(output) = self
                .tasks
                .get(&one.task)
                .and_then(|task| task.output.clone())
            {
                made.insert(one.name.clone(), output);
            }
        }
        let next = match (team.pattern, phase) {
            (TeamPattern::Hierarchical, TeamPhase::Brief) => TeamPhase::Parts,
            (TeamPattern::Hierarchical, TeamPhase::Parts) => TeamPhase::Decide,
            _ => {
                let output = output_of(team, &mut made);
                return self.finish_team(&id, output);
            }
        };
        self.team_step(&id, TeamStep::Phase(next));
        self.submit_parts(&id, &made);
    }

    fn finish_team(&mut self, id: &TaskId, output: Value) {
        match conforming(self, id, output) {
            Ok(output) => self.team_step(id, TeamStep::Done { output }),
            Err(failure) => {
                let failure = final_failure(failure.class, failure.message);
                self.fail_team(id, failure, GivenUp::Failed);
            }
        }
    }

    fn fail_team(&mut self, id: &TaskId, failure: Failure, otherwise: GivenUp) {
        let escalates = self.would_escalate(id, &failure);
        let told = failure.clone();
        self.team_step(
            id,
            TeamStep::Failed {
                failure,
                otherwise,
                escalates,
            },
        );
        if escalates {
            self.escalate(id, 0, otherwise, &told);
        }
    }
}

fn final_failure(class: FailureClass, message: String) -> Failure {
    Failure {
        retryable: false,
        ..Failure::new(class, message)
    }
}

/// What the end of a part means for its team.
fn failure_of(part: &TeamPart, ended: &Task) -> (Failure, GivenUp) {
    let otherwise = match ended.state {
        TaskState::DeadLettered => GivenUp::DeadLettered,
        _ => GivenUp::Failed,
    };
    let last = ended
        .attempts
        .last()
        .map_or(&part.agent, |attempt| &attempt.agent_id);
    let (class, why) = match &ended.error {
        Some(error) => (error.class, error.message.as_str()),
        None => (FailureClass::Cancelled, ended.state.name()),
    };
    let message = format!(
        "{} of its team ({last}, task {}): {why}",
        part.name, part.task
    );
    (final_failure(class, message), otherwise)
}

/// What a team hands in.
fn output_of(team: &Teamwork, made: &mut BTreeMap<String, Value>) -> Value {
    if team.pattern == TeamPattern::Hierarchical {
        return made.remove("decide").unwrap_or_default();
    }
    let parts = team.parts.iter();
    let joined = parts.map(|part| {
        (
            part.capabilities.join("+"),
            made.remove(&part.name).unwrap_or_default(),
        )
    });
    Value::Object(joined.collect())
}

/// What a part gets.
fn input_of(
    task: &Task,
    team: &Teamwork,
    part: &TeamPart,
    made: &BTreeMap<String, Value>,
) -> Value {
    let input = &task.spec.input;
    if team.pattern != TeamPattern::Hierarchical {
        return input.clone();
    }
    let goal = task.spec.kind.as_deref().unwrap_or_default();
    let brief = made.get("brief");
    match team.phase_of(part) {
        TeamPhase::Brief => {
            let members = team
                .parts
                .iter()
                .filter(|one| team.phase_of(one) == TeamPhase::Parts);
            let members: Vec<_> = members
                .map(|one| json!({"part": one.name, "capabilities": one.capabilities}))
                .collect();
            json!({"phase": "brief", "goal": goal, "input": input, "members": members})
        }
        TeamPhase::Parts => {
            json!({"part": part.name, "goal": goal, "input": input, "brief": brief})
        }
        TeamPhase::Decide => {
            let results: Map<_, _> = made
                .iter()
                .filter(|(name, _)| *name != "brief")
                .map(|(name, output)| (name.clone(), output.clone()))
                .collect();
            json!({"phase": "decide", "goal": goal, "input": input, "brief": brief, "results": results})
        }
    }
}

/// A part as it is submitted. What holds for all below the task is not repeated.
fn part_spec(task: &Task, team: &Teamwork, part: &TeamPart, input: Value) -> TaskSpec {
    let decides = team.phase_of(part) == TeamPhase::Decide;
    TaskSpec {
        requirements: part.capabilities.clone(),
        prefer: Some(part.agent.clone()),
        avoid: task.spec.avoid.clone(),
        input,
        priority: task.spec.priority,
        timeout_ms: task.spec.timeout_ms,
        retry: task.spec.retry.clone(),
        contract: task.spec.contract.clone().filter(|_| decides),
        trust: task.spec.trust,
        labels: task.spec.labels.clone(),
        team: Some(TeamWish::Never),
        parent: Some(task.id.clone()),
        ..TaskSpec::default()
    }
}

/// As what a team holds what its task claims: its lead stands for it, in no incarnation.
pub(crate) fn stands_for(team: &Teamwork) -> crate::routing::InstanceKey {
    (
        team.lead.clone(),
        mesh_messages::InstanceNo(0),
        mesh_messages::Epoch(0),
    )
}

/// Whether an attempt number is the one under which a team holds what its task claims.
pub(crate) fn holds_as(entry: &super::record::TaskRecord, attempt: AttemptNo) -> bool {
    entry.is_teams() && entry.last_attempt == attempt
}
