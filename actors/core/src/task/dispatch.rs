//! Handing tasks out: whose turn it is, and whose task stands first in line, gets the best free slot that it can have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::events::TaskEvent;
use mesh_messages::task::{TaskAssignment, TaskState, WaitReason, WaitingFor};
use mesh_messages::trust::TrustLevel;
use mesh_messages::{AgentId, AttemptNo, TaskId, Timestamp};

use super::command::{Context, Delivery, Effect, Live};
use super::config::TaskConfig;
use super::decline::declined_by_all;
use super::index::{GroupKey, attempt_ends_at, judges};
use super::standing::Ask;
use super::state::{Entry, Tasks};
use super::turns::Turns;
use super::tx::{Accounts, EVENTS_MAX, Slots, Tx, kept_from};
use crate::access::tells_people_apart;
use crate::routing::{Choice, Chosen, Demand, FleetAgent, InstanceKey, Needed, Outlook, choose};

/// Agents named in one explanation: more would not be read.
const AGENTS_NAMED_MAX: usize = 8;

impl Tx<'_> {
    /// Brings everything that the last events changed to rest: follow-ups, assignments, reasons for waits.
    pub(crate) fn settle(&mut self) {
        self.carry_on();
        if self.disband_teams() {
            self.carry_on();
        }
        self.serve_claims();
        self.serve_claimants();
        self.pay();
        self.dispatch();
        self.mark_waits();
        // Whoever stood before others may have found that it cannot go, after all.
        while self.serve_claimants() {
            self.dispatch();
            self.mark_waits();
        }
        while self.form_teams() {
            self.carry_on();
            self.dispatch();
            self.mark_waits();
        }
        self.withdraw_questions();
        self.live.window_due = self.tasks.budgets().next_end(self.ctx.now);
    }

    fn dispatch(&mut self) {
        let mut free = free_slots(self.tasks, self.ctx.config);
        if free == 0 {
            return;
        }
        let mut turns = Turns::new(self.tasks);
        let mut kept = BTreeSet::new();
        let mut exhausted = BTreeSet::new();
        let mut hopeful: BTreeMap<GroupKey, bool> = BTreeMap::new();
        // Counted anew for each attempt that is begun, and not for each task that looks for a slot.
        let mut accounts = Accounts::default();
        // Where nothing is bounded, who could have nobody's slot can have nobody's still: they only become fewer in this loop.
        // Which agents the operator's rules leave to a task is the same for a whole line, unless they tell people apart.
        let alike = self.tasks.budgets().is_empty() && !tells_people_apart(&self.ctx.config.policy);
        while free > 0
            && let Some(turn) = turns.next()
        {
            if self.is_full() {
                return;
            }
            let id = turn.rank.2.clone();
            let (tasks, live, ctx) = (&*self.tasks, &*self.live, self.ctx);
            let hopeful = hopeful.entry(turn.key.clone());
            let hopeful =
                *hopeful.or_insert_with_key(|key| outlook(tasks, live, ctx, key).is_none());
            // It leaves the line, and holds up nobody behind it. Where nobody could have it, that is what it waits for.
            if hopeful && self.park_if_claimed(&id) {
                turns.left(self.tasks, turn);
                continue;
            }
            let choice = if exhausted.contains(&turn.key) {
                Choice::Nobody
            } else {
                self.choose_for(&id, &kept, &accounts)
            };
            match choice {
                // Somebody can have it all the same.
                Choice::Take(..) if !hopeful && self.park_if_claimed(&id) => {
                    turns.left(self.tasks, turn);
                    continue;
                }
                Choice::Take(chosen, candidates) => {
                    self.assign(&id, *chosen, candidates);
                    accounts = Accounts::default();
                    free = free_slots(self.tasks, self.ctx.config);
                    turns.left(self.tasks, turn);
                    continue;
                }
                Choice::Keep(instance) => {
                    kept.insert(instance);
                    // One is kept for all of them.
                    if !turn.key.child {
                        exhausted.insert(turn.key.clone());
                    }
                }
                // It leaves the line, and holds up nobody behind it whose budget is another one.
                Choice::Nobody if self.park_if_short(&id) => {
                    turns.left(self.tasks, turn);
                    continue;
                }
                Choice::Nobody => {
                    if alike && !turn.key.child {
                        exhausted.insert(turn.key.clone());
                    }
                }
            }
            turns.waits(self.tasks, turn);
        }
    }

    fn choose_for(&self, id: &TaskId, kept: &BTreeSet<InstanceKey>, accounts: &Accounts) -> Choice {
        let Some(entry) = self.tasks.entry(id) else {
            return Choice::Nobody;
        };
        let slots = Slots::new((self.tasks, self.live, self.ctx), kept, Some(id));
        let slots = slots.counted(accounts);
        let demand = demand(self.tasks, entry, self.ctx);
        choose(
            &self.live.fleet,
            &slots,
            self.tasks.stats(),
            &demand,
            self.ctx.now,
        )
    }

    fn assign(
        &mut self,
        id: &TaskId,
        chosen: Chosen,
        candidates: Vec<mesh_messages::task::CandidateReport>,
    ) {
        let now = self.ctx.now;
        let Some(entry) = self.tasks.entry(id) else {
            return;
        };
        let attempt: AttemptNo = entry.record.last_attempt.next();
        let (agent_id, instance, epoch) = chosen.key.clone();
        let agent = self.live.fleet.agent(&agent_id);
        let declared = agent.and_then(|agent| agent.time_for(&entry.needs));
        let limit_ms = declared.filter(|_| entry.task().spec.timeout_ms.is_none());
        let assignment = TaskAssignment {
            task_id: id.clone(),
            agent_id,
            instance,
            epoch,
            attempt,
            confidence: chosen.confidence,
            reasoning: chosen.reasoning,
            estimated_duration: chosen.estimated_duration,
            risk_factors: chosen.risk_factors,
            assigned_at: now,
            expected_completion: chosen
                .estimated_duration
                .map(|ms| now.plus(Duration::from_millis(ms))),
        };
        self.emit(
            id,
            TaskEvent::Assigned {
                assignment: assignment.clone(),
                candidates,
                limit_ms,
            },
        );
        self.reserve(id, &chosen.key.0, attempt);
        let mut claims = self.take_claims(id, attempt);
        claims.extend(self.team_claims(id));
        self.team_begins(id);
        let Some(entry) = self.tasks.entry(id) else {
            return;
        };
        let deadline_at = entry.task().deadline_at;
        let delivery = Delivery {
            key: chosen.key,
            task: id.clone(),
            attempt,
            spec: entry.task().spec.clone(),
            assignment,
            claims,
            ends_at: attempt_ends_at(entry).map_or(deadline_at, |at| at.min(deadline_at)),
        };
        self.effect(Effect::Deliver(Box::new(delivery)));
    }

    /// Journals why tasks wait, where the reason has changed: not while meshd starts, when nobody knows it yet, and every task
    /// that waits for long would be noted twice at each start.
    fn mark_waits(&mut self) {
        if !self.live.fleet.is_complete() {
            return;
        }
        let mut wrong: Vec<(TaskId, Option<WaitingFor>)> = Vec::new();
        let mut trust_due = None;
        for (key, group) in &self.tasks.index().ready {
            let waiting_for = outlook(self.tasks, self.live, self.ctx, key);
            let mark = waiting_for.as_ref().map(|waiting| waiting.reason);
            // Also while it waits for those who have enough already: others may come to it in the meantime.
            let until = trust_comes(self.tasks, self.live, self.ctx, key);
            trust_due = trust_due.into_iter().chain(until).min();
            for (_, ranks) in group.iter().filter(|(other, _)| **other != mark) {
                // One more than fits, so that it is noticed that there is more.
                let some = ranks.iter().take(EVENTS_MAX + 1);
                wrong.extend(some.map(|(_, _, id)| (id.clone(), waiting_for.clone())));
            }
        }
        self.live.trust_due = trust_due;
        for (id, waiting_for) in wrong {
            if self.is_full() {
                return;
            }
            let state = if waiting_for.is_some() {
                TaskState::Parked
            } else {
                TaskState::Queued
            };
            self.emit(&id, TaskEvent::Waiting { state, waiting_for });
        }
    }
}

fn free_slots(tasks: &Tasks, config: &TaskConfig) -> usize {
    let limit = usize::try_from(config.max_parallel_tasks).unwrap_or(usize::MAX);
    limit.saturating_sub(tasks.at_work())
}

/// The one agent that may have a task: the one that it names, or without fallback the one that failed it.
fn only<'a>(
    named: Option<&'a AgentId>,
    failed_on: Option<&'a AgentId>,
    config: &TaskConfig,
) -> Option<&'a AgentId> {
    named.or(failed_on.filter(|_| !config.fallback_on_error))
}

/// For what the tasks of a group are parked; `None` when they are queued.
pub(crate) fn outlook(
    tasks: &Tasks,
    live: &Live,
    ctx: Context<'_>,
    key: &GroupKey,
) -> Option<WaitingFor> {
    let only = only(key.agent.as_ref(), key.failed_on.as_ref(), ctx.config);
    let (trust, least) = (tasks.trust(), key.trust.least(ctx.config.trust_threshold));
    let trusted = |agent: &AgentId| {
        let enough = least == TrustLevel::NONE || trust.level(agent, &key.needs, ctx.now) >= least;
        enough && key.judges.as_ref() != Some(agent)
    };
    let outlook = live
        .fleet
        .outlook_among(&key.needs, only, tasks.gates(), &trusted);
    match outlook {
        Outlook::Soon => None,
        Outlook::Parked(waiting_for) if waiting_for.reason == WaitReason::NoAgent => {
            let mut capable: Vec<_> = live.fleet.capable(&key.needs, only).collect();
            capable.retain(|(id, _)| key.judges.as_ref() != Some(*id));
            if capable.is_empty() {
                let detail = match &key.judges {
                    Some(author) => no_judge(author, &key.needs),
                    None => waiting_for.detail,
                };
                return Some(WaitingFor {
                    detail,
                    ..waiting_for
                });
            }
            Some(untrusted(tasks, ctx, key, least, &capable))
        }
        Outlook::Parked(waiting_for) => Some(waiting_for),
    }
}

/// Why nobody can check what an agent did; also where that agent could not, either.
pub(crate) fn no_judge(author: &AgentId, needs: &[String]) -> String {
    format!(
        "nobody but {author} itself, who did the work, has {}",
        needs.join(", ")
    )
}

/// When time alone will have brought the next agent to the trust that the tasks of a group need.
fn trust_comes(tasks: &Tasks, live: &Live, ctx: Context<'_>, key: &GroupKey) -> Option<Timestamp> {
    let least = key.trust.least(ctx.config.trust_threshold);
    if least == TrustLevel::NONE {
        return None;
    }
    let only = only(key.agent.as_ref(), key.failed_on.as_ref(), ctx.config);
    let capable = live.fleet.capable(&key.needs, only);
    let coming =
        capable.filter_map(|(agent, _)| tasks.trust().reaches(agent, &key.needs, least, ctx.now));
    // Those that are there already say `now`, or what is past.
    coming.filter(|at| *at > ctx.now).min()
}

/// A wait for any of these agents to earn the trust that a task needs.
fn untrusted(
    tasks: &Tasks,
    ctx: Context<'_>,
    key: &GroupKey,
    least: TrustLevel,
    capable: &[(&AgentId, &FleetAgent)],
) -> WaitingFor {
    let named = || capable.iter().take(AGENTS_NAMED_MAX).map(|(id, _)| *id);
    let each = named().map(|id| {
        let level = tasks.trust().level(id, &key.needs, ctx.now);
        format!("{id} has {level}")
    });
    let detail = format!(
        "it needs trust {least} at {}; {}",
        key.needs.join(", "),
        each.collect::<Vec<_>>().join("; ")
    );
    let until = capable
        .iter()
        .filter_map(|(id, _)| tasks.trust().reaches(id, &key.needs, least, ctx.now))
        .min();
    WaitingFor {
        reason: WaitReason::Trust,
        detail,
        until,
        agents: named().cloned().collect(),
        tasks: Vec::new(),
    }
}

/// What a task asks of the router.
pub(crate) fn demand<'a>(tasks: &'a Tasks, entry: &'a Entry, ctx: Context<'_>) -> Demand<'a> {
    let (record, config) = (&entry.record, ctx.config);
    Demand {
        kind: record.task.spec.action(),
        needs: &entry.needs,
        only: only(
            record.task.spec.agent.as_ref(),
            record.last_failed_on.as_ref(),
            config,
        ),
        avoid: &record.failed_on,
        shuns: record.task.spec.avoid.as_ref(),
        judges: judges(entry),
        prefer: record.task.spec.prefer.as_ref(),
        alone: record.is_suspect(),
        deadline_at: record.task.deadline_at,
        trust: Needed {
            least: Ask::of(entry).least(config.trust_threshold),
            table: tasks.trust(),
            now: ctx.now,
        },
    }
}

/// By which rules a task is kept from each of these agents, in words; `None` when one of them may have it.
fn kept_from_all(
    ctx: Context<'_>,
    entry: &Entry,
    capable: &[(&AgentId, &FleetAgent)],
) -> Option<String> {
    let each = capable.iter().map(|(id, agent)| {
        let why = kept_from(ctx, entry.task(), (id, agent))?;
        Some(format!("{id}: {why}"))
    });
    let all: Vec<_> = each.collect::<Option<_>>()?;
    Some(all[..all.len().min(AGENTS_NAMED_MAX)].join("; "))
}

/// Why a queued task has not been handed out.
pub(crate) fn why_queued(
    tasks: &Tasks,
    live: &Live,
    ctx: Context<'_>,
    entry: &Entry,
) -> WaitingFor {
    let demand = demand(tasks, entry, ctx);
    let fleet = &live.fleet;
    let capable: Vec<_> = fleet
        .capable(demand.needs, demand.only)
        .filter(|(id, _)| demand.judges != Some(*id))
        .filter(|(id, _)| demand.trust_in(id) >= demand.trust.least)
        .collect();
    let agents = capable
        .iter()
        .take(AGENTS_NAMED_MAX)
        .map(|(id, _)| (*id).clone())
        .collect();
    let (reason, detail) = if capable.is_empty() {
        (
            WaitReason::NoAgent,
            "the agents are being started".to_owned(),
        )
    } else if capable.iter().all(|(_, agent)| agent.instances.is_empty()) {
        let each = capable
            .iter()
            .take(AGENTS_NAMED_MAX)
            .map(|(id, agent)| format!("{id} is {}", agent.condition()));
        (WaitReason::AgentDown, each.collect::<Vec<_>>().join("; "))
    } else if let Some(declined) = declined_by_all(tasks, live, ctx, entry) {
        (WaitReason::AgentDown, declined)
    } else if let Some(rules) = kept_from_all(ctx, entry, &capable) {
        (WaitReason::NoAgent, rules)
    } else if free_slots(tasks, ctx.config) == 0 {
        let limit = ctx.config.max_parallel_tasks;
        (
            WaitReason::ParallelLimit,
            format!("{limit} tasks are at work, the mesh's max_parallel_tasks"),
        )
    } else if demand.alone {
        let detail =
            "an instance ended while it had this task; it waits for one without other work";
        (WaitReason::Isolation, detail.to_owned())
    } else {
        (
            WaitReason::Capacity,
            "all slots of the capable instances are taken".to_owned(),
        )
    };
    let until = capable
        .iter()
        .filter_map(|(_, agent)| agent.next_attempt_at)
        .min();
    let until = until.filter(|_| reason == WaitReason::AgentDown);
    WaitingFor {
        reason,
        detail,
        until,
        agents,
        tasks: Vec::new(),
    }
}
