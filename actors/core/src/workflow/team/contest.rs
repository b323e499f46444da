//! Teams whose members stand against each other.
//!
//! - *Debate* (Du et al., 2023, with a judge as in Irving et al., 2018): in each round everybody states their case, knowing what
//!   all said in the round before; then a judge decides over the last statements.
//! - *Auction*: the Contract Net (Smith, 1980) with sealed bids: everybody is asked once what the work would take, and who
//!   says least does it.
//!
//! Both are of different agents, so each seat is bound to its own.

use mesh_messages::AgentId;
use mesh_messages::schema::FieldError;
use mesh_messages::team::TeamOrder;
use serde_json::{Map, Value, json};

use super::{Candidate, outputs, ranked, reasons};

pub(super) const SIDES_DEFAULT: usize = 2;
pub(super) const DEBATE_ROUNDS_DEFAULT: u32 = 2;
/// Without a size, as many are asked as there are, up to this.
const BIDDERS_DEFAULT: usize = 3;

/// The names of seats, who has each, and with which capabilities.
type Seats = Vec<(String, AgentId, Vec<String>)>;

fn seats(name: &str, count: usize, order: &TeamOrder, able: &[&Candidate]) -> Seats {
    let numbered = able.iter().take(count).enumerate();
    numbered
        .map(|(nth, one)| {
            let seat = format!("{name}-{}", nth + 1);
            (seat, one.agent.clone(), order.requirements.clone())
        })
        .collect()
}

pub(super) fn bidders(order: &TeamOrder, able: usize) -> usize {
    match order.size {
        Some(size) => size as usize,
        None => able.clamp(2, BIDDERS_DEFAULT),
    }
}

pub(super) fn debate(
    order: &TeamOrder,
    able: &[&Candidate],
    fleet: &[Candidate],
) -> Result<Value, Vec<FieldError>> {
    let judge = order.lead.clone().unwrap_or_default();
    let judging = [judge.clone()];
    let Some(first) = ranked(&judging, fleet).first().map(|one| one.agent.clone()) else {
        let message = format!("no registered agent has {judge}");
        return Err(vec![FieldError::new("lead", message)]);
    };
    let count = order.size.map_or(SIDES_DEFAULT, |size| size as usize);
    let rounds = order.rounds.unwrap_or(DEBATE_ROUNDS_DEFAULT);
    let sides = seats("side", count, order, able);
    let steps: Vec<_> = sides
        .iter()
        .map(|(side, agent, needs)| {
            json!({
                "id": side, "agent": agent, "requirements": needs, "onError": "continue",
                "input": {
                    "phase": "argue", "input": "${input.input}", "round": "${input.round}", "you": side,
                    "statements": "${input.statements}",
                },
            })
        })
        .collect();
    let said = |side: &String| Value::from(format!("${{steps.{side}.output}}"));
    let statements: Map<_, _> = sides
        .iter()
        .map(|(side, ..)| (side.clone(), said(side)))
        .collect();
    let round = json!({"name": "round", "steps": steps, "output": {"statements": statements}});
    let mut all = vec![("judge".to_owned(), first.clone(), judging.to_vec())];
    all.extend(sides);
    Ok(json!({
        "description": format!(
            "{count} agents argue in {rounds} rounds, each knowing what all said in the round before; a judge decides.{}",
            reasons(&all, fleet)
        ),
        "steps": [
            {
                "id": "debate",
                "workflow": round,
                "input": {
                    "input": "${input}",
                    "round": "${round}",
                    "statements": "${steps.debate.output == null ? {} : steps.debate.output.statements}",
                },
                "repeat": {"max": rounds},
            },
            {
                "id": "decide",
                "requirements": [judge],
                "prefer": first,
                "input": {
                    "phase": "decide", "input": "${input}", "statements": "${steps.debate.output.statements}",
                },
            },
        ],
        "output": "${steps.decide.output}",
    }))
}

pub(super) fn auction(order: &TeamOrder, able: &[&Candidate], fleet: &[Candidate]) -> Value {
    let seats = seats("bid", bidders(order, able.len()), order, able);
    let names: Vec<String> = seats.iter().map(|(name, ..)| name.clone()).collect();
    let mut steps: Vec<Value> = seats
        .iter()
        .map(|(name, agent, needs)| {
            json!({
                "id": name, "agent": agent, "requirements": needs, "onError": "continue",
                "input": {"phase": "bid", "input": "${input}"},
                "contract": {"outputSchema": {
                    "type": "object", "required": ["bid"], "properties": {"bid": {"type": "number"}},
                }},
            })
        })
        .collect();
    let mut works = Vec::new();
    for (nth, (name, agent, needs)) in seats.iter().enumerate() {
        let work = name.replacen("bid", "work", 1);
        steps.push(json!({
            "id": work, "agent": agent, "requirements": needs, "when": wins(&names, nth),
            "input": {"phase": "work", "input": "${input}", "bid": format!("${{steps.{name}.output}}")},
        }));
        works.push(work);
    }
    // One of them was done; where nobody bid there is nothing to choose from, and the run fails.
    let done = format!("{}.filter(x, x != null)[0]", outputs(&works, ""));
    json!({
        "description": format!(
            "{} agents say what the work would take, and the one with the lowest bid does it.{}",
            seats.len(),
            reasons(&seats, fleet)
        ),
        "steps": steps,
        "output": format!("${{{done}}}"),
    })
}

/// Whether this seat's bid is the lowest, and the first of those. Who gave none has not bid.
fn wins(names: &[String], nth: usize) -> String {
    let (name, before) = (&names[nth], &names[..nth]);
    // Whole and other numbers are not compared with each other by CEL.
    let own = format!("double(steps.{name}.output.bid)");
    let lowest = format!(
        "steps.{name}.output != null && {}.all(y, y == null || {own} <= double(y.bid))",
        outputs(names, "")
    );
    if before.is_empty() {
        return lowest;
    }
    let earlier = outputs(before, "");
    format!("{lowest} && {earlier}.all(y, y == null || {own} < double(y.bid))")
}
