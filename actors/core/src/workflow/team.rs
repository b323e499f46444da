//! Teams, drafted as workflows.
//!
//! | pattern | steps | what decides |
//! |---|---|---|
//! | hierarchical | `brief` → a part per member → `decide` | the lead |
//! | peer | `peer-1` … `peer-n`, in each round | majority or all; else a person |
//! | cross-functional | a part per member, at once | every part has to succeed |
//! | swarm | rounds of tries at once | the best score |
//! | debate | `side-1` … `side-n`, in each round → `decide` | the judge |
//! | auction | `bid-1` … `bid-n` → the winner's `work-…` | the lowest bid |
//!
//! Members of a hierarchical or cross-functional team are found by greedy set cover (Chvátal, 1979): again and again the
//! agent that has most of what is still needed; of equal ones the one that stands best by [what was measured](merit), and
//! those that stand badly only for what nobody else has. Members are preferred, not bound: where one has no free slot, has
//! failed the task or is gone, the router takes another one that can do the same. Only peers are bound to agents, because
//! they must be different ones. Why each was taken stands in the draft's description, and so in the log.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::AgentId;
use mesh_messages::plan::GOAL_BYTES_MAX;
use mesh_messages::schema::FieldError;
use mesh_messages::team::{Agreement, ROUNDS_MAX, SIZE_MAX, TeamOrder, TeamPattern};
use serde_json::{Map, Value, json};

mod contest;
pub mod merit;

pub use merit::Merit;

/// Most capabilities that a team covers.
pub const REQUIREMENTS_MAX: usize = 64;

/// Bytes of the reasons in a draft, about: it is stored with every run.
const REASONS_BYTES_MAX: usize = 4096;

const SIZE_DEFAULT: u32 = 3;
const SWARM_ROUNDS_DEFAULT: u32 = 5;

/// An agent that may become a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub agent: AgentId,
    /// What it can do.
    pub capabilities: BTreeSet<String>,
    /// Whether it takes tasks now. Those that do not are asked last.
    pub serves: bool,
    /// What was measured of it, by capability; of what is missing, nothing was.
    pub merits: BTreeMap<String, Merit>,
}

/// Which agents have a set of capabilities between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cover {
    /// Members, with what each is there for.
    pub members: Vec<(AgentId, Vec<String>)>,
    /// What nobody has.
    pub missing: Vec<String>,
}

/// Covers capabilities with few agents: with such that serve and stand well; what is left then with such that serve, and at
/// last with others.
///
/// Of equal agents the one that stands best is taken, then in the order of their names.
pub fn cover(requirements: &[String], fleet: &[Candidate]) -> Cover {
    let mut open: Vec<&String> = Vec::new();
    for requirement in requirements {
        if !open.contains(&requirement) {
            open.push(requirement);
        }
    }
    let mut members = Vec::new();
    for (serving, poor) in [(true, false), (true, true), (false, true)] {
        let some: Vec<_> = fleet.iter().filter(|one| one.serves == serving).collect();
        while let Some(best) = of_most(&open, &some, poor) {
            let (taken, rest): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|one| best.offers(one, poor));
            members.push((best.agent.clone(), taken.into_iter().cloned().collect()));
            open = rest;
        }
    }
    Cover {
        members,
        missing: open.into_iter().cloned().collect(),
    }
}

impl Candidate {
    /// Whether it would do this; what it does badly only where that is wanted.
    fn offers(&self, capability: &String, poor: bool) -> bool {
        self.capabilities.contains(capability) && (poor || !self.is_poor([capability]))
    }
}

/// Who has most of what is still open, if anybody has any of it.
fn of_most<'a>(open: &[&String], some: &[&'a Candidate], poor: bool) -> Option<&'a Candidate> {
    let offered = |candidate: &Candidate| -> Vec<&String> {
        let all = open.iter().copied();
        all.filter(|one| candidate.offers(one, poor)).collect()
    };
    let rank = |candidate: &&&'a Candidate| {
        let offered = offered(candidate);
        (offered.len(), candidate.standing(offered))
    };
    let able = some.iter().filter(|one| !offered(one).is_empty());
    able.max_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| b.agent.cmp(&a.agent)))
        .copied()
}

/// Who has all of these and goes first: those that serve, then those that stand better, then by name.
pub(crate) fn ranked<'a>(needs: &[String], fleet: &'a [Candidate]) -> Vec<&'a Candidate> {
    let has = |candidate: &&Candidate| needs.iter().all(|one| candidate.capabilities.contains(one));
    let mut able: Vec<_> = fleet.iter().filter(has).collect();
    let rank = |one: &Candidate| (!one.serves, std::cmp::Reverse(one.standing(needs)));
    able.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.agent.cmp(&b.agent)));
    able
}

/// Why these members, a sentence for each: what was measured of it, and of the first one that it was taken before.
pub(crate) fn reasons(members: &[(String, AgentId, Vec<String>)], fleet: &[Candidate]) -> String {
    let mut told = Vec::new();
    for (part, agent, needs) in members {
        let able = ranked(needs, fleet);
        let (Some(taken), other) = (
            able.iter().find(|one| one.agent == *agent),
            able.iter().find(|one| one.agent != *agent),
        ) else {
            continue;
        };
        let before = other.map_or_else(String::new, |other| {
            let away = if other.serves {
                ""
            } else {
                ", which does not serve,"
            };
            format!(" before {}{away}", other.told(needs))
        });
        told.push(format!(" {part}: {}{before}.", taken.told(needs)));
        if told.iter().map(String::len).sum::<usize>() > REASONS_BYTES_MAX {
            told.push(" …".to_owned());
            break;
        }
    }
    told.concat()
}

/// The workflow of a team.
///
/// # Errors
/// Everything that is wrong with the order, by its path below it, and what no agent has.
pub fn draft(order: &TeamOrder, goal: &str, fleet: &[Candidate]) -> Result<Value, Vec<FieldError>> {
    let errors = misfits(order);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut document = match order.pattern {
        TeamPattern::Hierarchical => hierarchical(order, goal, &members(order, fleet)?, fleet)?,
        TeamPattern::CrossFunctional => cross_functional(&members(order, fleet)?, fleet),
        TeamPattern::Peer => peers(order, &able(order, fleet)?, fleet),
        TeamPattern::Swarm => {
            able(order, fleet)?;
            swarm(order)
        }
        TeamPattern::Debate => contest::debate(order, &able(order, fleet)?, fleet)?,
        TeamPattern::Auction => contest::auction(order, &able(order, fleet)?, fleet),
    };
    document["name"] = format!("{}-team", order.pattern.name().replace('_', "-")).into();
    Ok(document)
}

pub(super) fn misfits(order: &TeamOrder) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut wrong = |path: &str, message: String| errors.push(FieldError::new(path, message));
    let pattern = order.pattern;
    let is_one_of = |patterns: &[TeamPattern]| patterns.contains(&pattern);
    let is_led = is_one_of(&[TeamPattern::Hierarchical, TeamPattern::Debate]);
    let has_rounds = is_one_of(&[TeamPattern::Peer, TeamPattern::Swarm, TeamPattern::Debate]);
    let has_size = has_rounds || pattern == TeamPattern::Auction;
    if order.requirements.is_empty() || order.requirements.len() > REQUIREMENTS_MAX {
        let message = format!("expected 1 to {REQUIREMENTS_MAX} capabilities");
        wrong("requirements", message);
    }
    match &order.lead {
        None if is_led => {
            let who = match pattern {
                TeamPattern::Debate => "debate needs the capability of its judge",
                _ => "hierarchical team needs the capability of its lead",
            };
            wrong("lead", format!("a {who}"));
        }
        Some(_) if !is_led => wrong("lead", format!("a {} team has none", pattern.name())),
        _ => {}
    }
    if let Some(size) = order.size {
        if !has_size {
            let message = "is what the requirements need; only peers, swarms, debates and auctions are given one";
            wrong("size", message.to_owned());
        } else if !(2..=SIZE_MAX).contains(&size) {
            wrong("size", format!("expected 2 to {SIZE_MAX}"));
        }
    }
    if let Some(rounds) = order.rounds {
        if !has_rounds {
            let message = "only peers, swarms and debates have rounds";
            wrong("rounds", message.to_owned());
        } else if !(1..=ROUNDS_MAX).contains(&rounds) {
            wrong("rounds", format!("expected 1 to {ROUNDS_MAX}"));
        }
    }
    if order
        .goal
        .as_ref()
        .is_some_and(|goal| goal.len() > GOAL_BYTES_MAX)
    {
        wrong("goal", format!("must have at most {GOAL_BYTES_MAX} bytes"));
    }
    if order.goal.is_some() && pattern != TeamPattern::Hierarchical {
        let message =
            "only the lead and the members of a hierarchical team are told; put it into the input";
        wrong("goal", message.to_owned());
    }
    if order.agreement.is_some() && pattern != TeamPattern::Peer {
        wrong("agreement", "only peers have to agree".to_owned());
    }
    match order.target {
        Some(_) if pattern != TeamPattern::Swarm => {
            wrong("target", "only a swarm has a score".to_owned());
        }
        Some(target) if !target.is_finite() => wrong("target", "expected a number".to_owned()),
        _ => {}
    }
    errors
}

type Members = Vec<(AgentId, Vec<String>)>;

fn members(order: &TeamOrder, fleet: &[Candidate]) -> Result<Members, Vec<FieldError>> {
    let found = cover(&order.requirements, fleet);
    if found.missing.is_empty() {
        return Ok(found.members);
    }
    let missing = found.missing.iter().map(|capability| {
        let at = order.requirements.iter().position(|one| one == capability);
        let path = format!("requirements[{}]", at.unwrap_or_default());
        FieldError::new(path, format!("no registered agent has {capability}"))
    });
    Err(missing.collect())
}

/// Those that have all requirements, best first.
fn able<'a>(
    order: &TeamOrder,
    fleet: &'a [Candidate],
) -> Result<Vec<&'a Candidate>, Vec<FieldError>> {
    let able = ranked(&order.requirements, fleet);
    let wanted = match order.pattern {
        // One agent may have many instances, and one instance many tries.
        TeamPattern::Swarm => 1,
        TeamPattern::Debate => order.size.map_or(contest::SIDES_DEFAULT, |n| n as usize),
        TeamPattern::Auction => contest::bidders(order, able.len()),
        _ => size(order),
    };
    if able.len() < wanted {
        let names: Vec<_> = able.iter().map(|one| one.agent.as_str()).collect();
        let have = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        let message = format!(
            "{wanted} different agents with {} are needed; there {} {have}",
            order.requirements.join(" and "),
            if names.len() == 1 { "is" } else { "are" },
        );
        return Err(vec![FieldError::new("requirements", message)]);
    }
    Ok(able)
}

fn size(order: &TeamOrder) -> usize {
    order.size.unwrap_or(SIZE_DEFAULT) as usize
}

fn part(nth: usize) -> String {
    format!("part-{}", nth + 1)
}

fn hierarchical(
    order: &TeamOrder,
    goal: &str,
    members: &Members,
    fleet: &[Candidate],
) -> Result<Value, Vec<FieldError>> {
    let lead = order.lead.clone().unwrap_or_default();
    let leading = [lead.clone()];
    let Some(leader) = ranked(&leading, fleet).first().map(|one| one.agent.clone()) else {
        let message = format!("no registered agent has {lead}");
        return Err(vec![FieldError::new("lead", message)]);
    };
    let mut all = vec![("lead".to_owned(), leader.clone(), leading.to_vec())];
    all.extend(named(members));
    let parts: Vec<_> = members
        .iter()
        .enumerate()
        .map(|(nth, (_, capabilities))| json!({"part": part(nth), "capabilities": capabilities}))
        .collect();
    let mut steps = vec![json!({
        "id": "brief",
        "requirements": [lead],
        "prefer": leader,
        "input": {"phase": "brief", "goal": literal(goal), "input": "${input}", "members": parts},
    })];
    let mut results = Map::new();
    for (nth, (agent, capabilities)) in members.iter().enumerate() {
        steps.push(json!({
            "id": part(nth),
            "requirements": capabilities,
            "prefer": agent,
            "input": {
                "part": part(nth), "goal": literal(goal), "input": "${input}",
                "brief": "${steps.brief.output}",
            },
        }));
        results.insert(part(nth), format!("${{steps.{}.output}}", part(nth)).into());
    }
    steps.push(json!({
        "id": "decide",
        "requirements": [lead],
        "prefer": leader,
        "input": {
            "phase": "decide", "goal": literal(goal), "input": "${input}",
            "brief": "${steps.brief.output}", "results": results,
        },
    }));
    Ok(json!({
        "description": format!(
            "A lead writes a brief, each member does its part by it, and the lead decides.{}",
            reasons(&all, fleet)
        ),
        "steps": steps,
        "output": "${steps.decide.output}",
    }))
}

/// Members by the name of their part.
fn named(members: &Members) -> Vec<(String, AgentId, Vec<String>)> {
    let numbered = members.iter().enumerate();
    numbered
        .map(|(nth, (agent, needs))| (part(nth), agent.clone(), needs.clone()))
        .collect()
}

fn cross_functional(members: &Members, fleet: &[Candidate]) -> Value {
    let mut output = Map::new();
    let mut steps = Vec::new();
    for (nth, (agent, capabilities)) in members.iter().enumerate() {
        let id = part(nth);
        output.insert(
            capabilities.join("+"),
            format!("${{steps.{id}.output}}").into(),
        );
        steps.push(json!({
            "id": id, "requirements": capabilities, "prefer": agent, "input": "${input}",
        }));
    }
    json!({
        "description": format!(
            "Each member does its part at the same time; every part has to succeed.{}",
            reasons(&named(members), fleet)
        ),
        "steps": steps,
        "output": output,
    })
}

fn peers(order: &TeamOrder, able: &[&Candidate], fleet: &[Candidate]) -> Value {
    let count = size(order);
    let rounds = order.rounds.unwrap_or(1);
    let needed = match order.agreement.unwrap_or_default() {
        Agreement::Majority => count / 2 + 1,
        Agreement::Unanimous => count,
    };
    let names: Vec<String> = (1..=count).map(|nth| format!("peer-{nth}")).collect();
    let seats = names.iter().zip(able);
    let seats: Vec<_> = seats
        .map(|(name, peer)| (name.clone(), peer.agent.clone(), order.requirements.clone()))
        .collect();
    let input = |own: &str| match rounds {
        1 => json!("${input.input}"),
        _ => json!({
            "input": "${input.input}", "round": "${input.round}", "you": own, "answers": "${input.answers}",
        }),
    };
    let steps: Vec<_> = names
        .iter()
        .zip(able)
        .map(|(name, peer)| {
            json!({
                "id": name,
                "agent": peer.agent,
                "requirements": order.requirements,
                "input": input(name),
                "onError": "continue",
            })
        })
        .collect();
    let answers: Map<_, _> = names
        .iter()
        .map(|name| (name.clone(), format!("${{steps.{name}.output}}").into()))
        .collect();
    let all = outputs(&names, "");
    // What they agree on, or an empty list. A peer that failed has no answer, and agrees with nobody.
    let agreed =
        format!("${{{all}.filter(x, x != null && {all}.filter(y, y == x).size() >= {needed})}}");
    let table =
        json!({"name": "round", "steps": steps, "output": {"answers": answers, "agreed": agreed}});
    let has_agreed = "steps.table.output.agreed.size() > 0";
    json!({
        "description": format!(
            "{count} agents answer each for themselves, in {rounds} rounds at most; an answer holds when {needed} give the same. \
             Without one, a person decides.{}",
            reasons(&seats, fleet)
        ),
        "steps": [
            {
                "id": "table",
                "workflow": table,
                "input": {
                    "input": "${input}",
                    "round": "${round}",
                    "answers": "${steps.table.output == null ? {} : steps.table.output.answers}",
                },
                "repeat": {"until": has_agreed, "max": rounds},
            },
            {
                "id": "settle",
                "when": format!("!({has_agreed})"),
                "approval": {
                    "message": "The peers do not agree: whose answer holds?",
                    "kind": "question",
                    "choices": names,
                },
            },
        ],
        "output": format!(
            "${{{has_agreed} ? steps.table.output.agreed[0] : steps.table.output.answers[steps.settle.output.answer]}}"
        ),
    })
}

fn swarm(order: &TeamOrder) -> Value {
    let count = size(order);
    let rounds = order.rounds.unwrap_or(SWARM_ROUNDS_DEFAULT);
    let names: Vec<String> = (1..=count).map(|nth| format!("try-{nth}")).collect();
    let steps: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(nth, name)| {
            json!({
                "id": name,
                "requirements": order.requirements,
                "input": {
                    "input": "${input.input}", "round": "${input.round}", "best": "${input.best}", "seat": nth + 1,
                },
                "contract": {"outputSchema": {
                    "type": "object", "required": ["score"], "properties": {"score": {"type": "number"}},
                }},
                "onError": "continue",
            })
        })
        .collect();
    let all = outputs(&names, "input.best, ");
    // Whole and other numbers are not compared with each other by CEL. A list, because at first there may be none.
    let best = format!(
        "${{{all}.filter(x, x != null && \
         {all}.all(y, y == null || double(y.score) <= double(x.score)))}}"
    );
    let mut repeat = json!({ "max": rounds });
    if let Some(target) = order.target {
        // Written as a number with a point or an exponent, which CEL reads as one that is not whole.
        repeat["until"] = format!("{HAS_BEST} && double({BEST}.score) >= {target:?}").into();
    }
    json!({
        "description": format!(
            "{count} tries at once, each from the best that is known, in {rounds} rounds at most; the highest score wins."
        ),
        "steps": [{
            "id": "swarm",
            "workflow": {"name": "round", "steps": steps, "output": {"best": best}},
            "input": {
                "input": "${input}",
                "round": "${round}",
                "best": format!("${{steps.swarm.output == null ? null : {HAS_BEST} ? {BEST} : null}}"),
            },
            "repeat": repeat,
        }],
        "output": format!("${{{BEST}}}"),
    })
}

/// The best that a swarm knows, and whether there is any.
const BEST: &str = "steps.swarm.output.best[0]";
const HAS_BEST: &str = "steps.swarm.output.best.size() > 0";

/// The outputs of steps, as a list in an expression.
fn outputs(names: &[String], before: &str) -> String {
    let each: Vec<_> = names
        .iter()
        .map(|name| format!("steps.{name}.output"))
        .collect();
    format!("[{before}{}]", each.join(", "))
}

/// A text as it is, whatever it looks like.
fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests;
