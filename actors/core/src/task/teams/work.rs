//! A team's way: it is formed, its parts are submitted, and the end of one leads to the next.

use std::collections::BTreeMap;

use mesh_messages::claim::TaskClaim;
use mesh_messages::escalation::GivenUp;
use mesh_messages::events::TaskEvent;
use mesh_messages::record::PAYLOAD_INLINE_MAX;
use mesh_messages::task::{TASK_DATA_MAX, Task, TaskSpec, TaskState, WaitReason};
use mesh_messages::team::{LEAD, TeamPart, TeamPattern, TeamPhase, TeamStep, TeamWish, Teamwork};
use mesh_messages::{AgentId, Failure, FailureClass, TaskId};
use serde_json::{Map, Value, json};

use super::{part_name, shape_for, team_of};
use crate::task::attempt::conforming;
use crate::task::config::RetryPolicy;
use crate::task::index::GroupKey;
use crate::task::submit::{
    LIVE_TASKS_MAX, LIVE_TASKS_OF_ONE_MAX, child_id, digest_of, hold_within,
};
use crate::task::tx::{EVENTS_MAX, Tx};
use crate::task::validate::json_len;

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
        let team = entry.task().teamwork.as_deref()?;
        if team.split {
            // By order, whoever there is.
            return None;
        }
        if let Some((agent, _)) = fleet.capable(&entry.needs, None).next() {
            return Some(format!("{agent} is registered, and has all that is needed"));
        }
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

    pub(crate) fn team_step(&mut self, id: &TaskId, step: TeamStep) {
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
            agent: Some(agent.clone()),
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
            split: false,
            lead: Some(shape.lead),
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
                envelope: None,
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
            let (failure, otherwise) = failure_of(team, of_team, ended);
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
fn failure_of(team: &Teamwork, part: &TeamPart, ended: &Task) -> (Failure, GivenUp) {
    let otherwise = match ended.state {
        TaskState::DeadLettered => GivenUp::DeadLettered,
        _ => GivenUp::Failed,
    };
    let last = ended.attempts.last().map(|attempt| &attempt.agent_id);
    let last = last
        .or(part.agent.as_ref())
        .map_or("nobody", AgentId::as_str);
    let (class, why) = match &ended.error {
        Some(error) => (error.class, error.message.as_str()),
        None => (FailureClass::Cancelled, ended.state.name()),
    };
    let whose = if team.split { "parts" } else { "team" };
    let message = format!(
        "{} of its {whose} ({last}, task {}): {why}",
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
        let key = if team.split {
            part.name.clone()
        } else {
            part.capabilities.join("+")
        };
        (key, made.remove(&part.name).unwrap_or_default())
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
        prefer: part.agent.clone(),
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
