//! `meshctl board`: what moves, what waits and for whom, and how work flows.

use mesh_messages::AgentId;
use mesh_messages::system::{Board, BoardAgent, BoardCard, BoardFlow};

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Cell, Screen, Table, quality};
use crate::session::Session;

mod cards;

/// What is done with the board's cards; without any, it is shown.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Cards {
    /// Write the cards to a file
    #[command(after_help = cards::EXPORT_HELP)]
    Export(cards::Export),
    /// Put the cards of a file onto the board
    #[command(after_help = cards::IMPORT_HELP)]
    Import(cards::Import),
}

/// Commands about the board.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    cards: Option<Cards>,
}

impl Arguments {
    pub(crate) fn is_watchable(&self) -> bool {
        self.cards.is_none()
    }
}

pub(crate) fn run(arguments: &Arguments, session: &mut Session) -> Result<(), Failure> {
    match &arguments.cards {
        None => board(session),
        Some(Cards::Export(arguments)) => cards::export(arguments, session),
        Some(Cards::Import(arguments)) => cards::import(arguments, session),
    }
}

/// Cards that a column shows on a screen; the API gives more.
const CARDS: u32 = 20;

/// Shows the board.
fn board(session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "board"]).query("cards", Some(CARDS)))?;
    session.out.show(&answer, || Ok(screen(&answer.read()?)))
}

fn screen(board: &Board) -> Screen {
    let mut screen = Screen::new();
    for column in &board.columns {
        let limit = column.wip.map(|wip| format!(" of {wip}"));
        let limit = limit.unwrap_or_default();
        screen = screen.line(format!("{} ({}{limit})", column.name, column.total));
        let mut cards = Table::new(&[]);
        for card in &column.cards {
            cards.row([
                "".into(),
                card.id.as_str().into(),
                Cell::state(card.state.name()),
                card.kind.as_str().into(),
                holder(card).into(),
                told(card).into(),
            ]);
        }
        if !column.cards.is_empty() {
            screen = screen.table(cards);
        }
        let more = column.total.saturating_sub(column.cards.len() as u64);
        if more > 0 {
            screen = screen.line(format!("  and {more} more"));
        }
    }
    screen = screen.line("").line(flow(&board.flow));
    if !board.agents.is_empty() {
        screen = screen.line("").table(agents(&board.agents));
    }
    let cards = board.columns.iter().flat_map(|column| &column.cards);
    screen.named(cards.map(|card| card.id.as_str()))
}

/// Who has it: the replica, and which try it is if not the first.
fn holder(card: &BoardCard) -> String {
    let Some(agent) = &card.agent else {
        return String::new();
    };
    let instance = card.instance.map(|instance| format!("#{instance}"));
    let again = (card.attempt > 1).then(|| format!(" (attempt {})", card.attempt));
    format!(
        "{agent}{}{}",
        instance.unwrap_or_default(),
        again.unwrap_or_default()
    )
}

/// Why it waits and for whom, how far it is, or why it failed.
fn told(card: &BoardCard) -> String {
    let step = match (card.labels.get("workflow"), card.labels.get("step")) {
        (Some(_), Some(step)) => format!("step {step}; "),
        _ => String::new(),
    };
    let rest = if let Some(waiting) = &card.waiting_for {
        let agents: Vec<&str> = waiting.agents.iter().map(AgentId::as_str).collect();
        // Some of them say by themselves whom they wait for.
        let new = agents.iter().any(|agent| !waiting.detail.contains(agent));
        let whom = if new && !agents.is_empty() {
            format!(" [{}]", agents.join(", "))
        } else {
            String::new()
        };
        format!("{}{whom}", waiting.detail)
    } else if let Some(error) = &card.error {
        error.to_string()
    } else {
        let share = card.progress.map(|share| format!("{:.0}%", share * 100.0));
        let said = [share, card.note.clone()].into_iter().flatten();
        said.collect::<Vec<_>>().join(" ")
    };
    let said = card.messages.last().map(|last| {
        let more = match card.messages.len() {
            0 | 1 => "",
            _ => ", and others before it",
        };
        format!(
            "{} from {} to {} at {}{more}",
            last.kind, last.from, last.to, last.at
        )
    });
    let all = [
        format!("{step}{rest}").trim_end_matches("; ").to_owned(),
        said.unwrap_or_default(),
    ];
    let all: Vec<_> = all.into_iter().filter(|text| !text.is_empty()).collect();
    all.join("; ")
}

fn flow(flow: &BoardFlow) -> String {
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    let mut line = format!(
        "the last {}: {} ended, {} succeeded",
        span(flow.window_ms),
        flow.ended,
        flow.succeeded
    );
    if let Some(share) = flow.failure_rate {
        line = format!("{line}, {} failed", percent(share));
    }
    if let (Some(half), Some(most)) = (flow.cycle_time_p50_ms, flow.cycle_time_p95_ms) {
        line = format!("{line}; cycle time p50 {}, p95 {}", span(half), span(most));
    }
    line
}

fn agents(agents: &[BoardAgent]) -> Table {
    let mut table = Table::new(&[
        "AGENT",
        "IN HAND",
        "ATTEMPTS",
        "FAILED",
        "CYCLE TIME",
        "VERIFIED",
        "LATELY",
    ]);
    for agent in agents {
        let in_hand = agent.instances.iter().map(|instance| {
            format!(
                "#{} {}/{}",
                instance.instance,
                instance.tasks.len(),
                instance.wip
            )
        });
        let failed = agent.failure_rate;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a mean of milliseconds, shown in whole ones"
        )]
        let cycle = agent.cycle_time_ms.map(|ms| span(ms as u64));
        table.row([
            agent.agent_id.as_str().into(),
            in_hand.collect::<Vec<_>>().join(" ").into(),
            agent.attempts.to_string().into(),
            failed
                .map(|share| format!("{:.0}%", share * 100.0))
                .unwrap_or_default()
                .into(),
            cycle.unwrap_or_default().into(),
            quality(&agent.quality).into(),
            format!(
                "{} ended in {}",
                agent.flow.ended,
                span(agent.flow.window_ms)
            )
            .into(),
        ]);
    }
    table
}

/// Milliseconds as people say them.
fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_waiting_card_says_why_and_for_whom() {
        let card = |more: serde_json::Value| {
            let mut card = json!({"id": "t", "type": "x", "state": "queued", "agent": null, "waitingFor": null,
                "progress": null});
            for (key, value) in more.as_object().unwrap() {
                card[key] = value.clone();
            }
            serde_json::from_value::<BoardCard>(card).unwrap()
        };
        let full = json!({"waitingFor": {"reason": "capacity", "detail": "all slots are taken", "agents": ["a", "b"]},
            "labels": {"workflow": "w", "step": "s"}});
        assert_eq!(told(&card(full)), "step s; all slots are taken [a, b]");
        let down = json!({"waitingFor": {"reason": "agent_down", "detail": "echo is stopped", "agents": ["echo"]}});
        assert_eq!(told(&card(down)), "echo is stopped");
        let at_work = json!({"agent": "echo", "instance": 1, "attempt": 2, "progress": 0.5, "note": "half way"});
        assert_eq!(told(&card(at_work.clone())), "50% half way");
        assert_eq!(holder(&card(at_work)), "echo#1 (attempt 2)");
    }
}
