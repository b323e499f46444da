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

use mesh_messages::task::{Task, TaskContract, TaskSpec, WaitReason, WaitingFor};
use mesh_messages::team::{LEAD, MEMBERS_MAX, TeamWish, Teamwork};
use mesh_messages::trust::TrustLevel;
use mesh_messages::{AgentId, AttemptNo, Epoch, InstanceNo};

use super::command::{Context, Live};
use super::record::TaskRecord;
use super::standing::Ask;
use super::state::{Entry, Tasks};
use super::submit::DEPTH_MAX;
use super::tx::kept_from;
use crate::routing::{Gate, InstanceKey};
use crate::workflow::team::{Candidate, Merit, cover, ranked, reasons};

mod work;

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
            None => waits.agents.extend(part.agent.clone()),
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
        match &part.agent {
            Some(agent) => format!("{} {agent} ({needs})", part.name),
            None => format!("{} ({needs})", part.name),
        }
    });
    let members = members.collect::<Vec<_>>().join("; ");
    let mut agents: Vec<_> = team
        .current()
        .filter_map(|part| part.agent.clone())
        .collect();
    agents.sort();
    agents.dedup();
    let detail = match &team.lead {
        Some(lead) => format!("a team does it, led by {lead}: {members}"),
        None => format!("it is split into {members}"),
    };
    WaitingFor {
        reason: WaitReason::Team,
        detail,
        until: None,
        agents,
        tasks: team.current().map(|part| part.task.clone()).collect(),
    }
}

/// As what a team holds what its task claims: its lead stands for it, in no incarnation. What is split claims nothing.
pub(crate) fn stands_for(team: &Teamwork) -> Option<InstanceKey> {
    Some((team.lead.clone()?, InstanceNo(0), Epoch(0)))
}

/// Whether an attempt number is the one under which a team holds what its task claims.
pub(crate) fn holds_as(entry: &TaskRecord, attempt: AttemptNo) -> bool {
    entry.is_teams() && entry.last_attempt == attempt
}
