//! Cards as a file: taken from a board, and put onto another one.
//!
//! A line for each card, JSON: `{"id", "column", "task"}`, where `task` is what was submitted. A line of another tool needs
//! `task` alone. Cards are put onto a board in the order of what they depend on, each under a key that is made of its id, so
//! importing a file twice makes no second card.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use mesh_messages::TaskId;
use mesh_messages::task::{Task, TaskReceipt, TaskSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::client::Request;
use crate::commands::export::write_whole;
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::Screen;
use crate::session::Session;

/// Cards that are submitted at once: as many as the API takes, or as fit into a request.
const ARRAY_MAX: usize = 1000;
const ARRAY_BYTES_MAX: usize = 512 * 1024;

/// Files of cards hold what agents are given: their owner alone reads them.
const MODE_OWN: u32 = 0o600;

pub(super) const EXPORT_HELP: &str = "\
Writes a line for each card, JSON: {\"id\", \"column\", \"task\"}. Without --all only the cards of tasks that have not
ended. Left out are tasks below others, since whoever works on those delegates again, and what meshd asks.

Examples:
  meshctl board export --out cards.jsonl
  meshctl board export --column Backlog --out backlog.jsonl";

pub(super) const IMPORT_HELP: &str = "\
Submits a task for each line of FILE, or of standard input (-), in the order of what they depend on. A line is what
`board export` writes; of another tool's card `task` is enough, in the form of a submission. Importing a file again makes
no second card of the same id.

Examples:
  meshctl board import cards.jsonl
  meshctl board import -";

/// Which cards, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Only cards of this column
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Also cards of tasks that have ended
    #[arg(long)]
    all: bool,
    /// The file to write; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Cards to write at most
    #[arg(long, default_value = "100000", value_name = "N")]
    limit: NonZeroUsize,
}

/// Where from.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// The cards, a line each; - for standard input
    file: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    task: TaskSpec,
}

pub(super) fn export(arguments: &Export, session: &mut Session) -> Result<(), Failure> {
    let request = Request::get(&["v1", "tasks"]).query("column", arguments.column.as_deref());
    let answer = session.pages(&request, arguments.limit.get())?;
    let mut lines = Vec::new();
    let mut cards = 0_usize;
    // The newest come first; whoever reads the file wants the order of submission.
    for task in answer.rows::<Task>()?.into_iter().rev() {
        let own = task.spec.parent.is_none() && task.submitted_by != "meshd";
        if !own || (task.state.is_terminal() && !arguments.all) {
            continue;
        }
        let card = Card {
            column: Some(task.column().to_owned()),
            id: Some(task.id),
            task: task.spec,
        };
        serde_json::to_writer(&mut lines, &card).map_err(unwritable)?;
        lines.push(b'\n');
        cards += 1;
    }
    let Some(path) = arguments.out.as_deref() else {
        return Ok(session.out.write(&lines)?);
    };
    write_whole(path, MODE_OWN, |file| {
        file.write_all(&lines).map_err(|e| Failure::file(path, &e))
    })?;
    let sentence = format!("{cards} cards in {}", path.display());
    let name = path.display().to_string();
    session.out.screen(&Screen::confirmation(sentence, name))
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Bug, format!("cannot write a card as JSON: {error}"))
}

pub(super) fn import(arguments: &Import, session: &mut Session) -> Result<(), Failure> {
    let (name, text) = input::lines(&arguments.file, &mut io::stdin())?;
    let mut open = cards_of(&name, &text)?;
    let mut made: BTreeMap<TaskId, TaskId> = BTreeMap::new();
    let mut ids = Vec::new();
    while !open.is_empty() {
        let (now, later) = next_array(open, &made);
        if now.is_empty() {
            let stuck = later.first().map_or(0, |(line, _)| *line);
            return Err(Failure::new(
                Exit::Failed,
                format!("{name}, line {stuck}: it depends on itself by way of others"),
            ));
        }
        let specs = now.iter().map(|(_, card)| serde_json::to_value(&card.task));
        let specs: Result<Vec<Value>, _> = specs.collect();
        let body = Value::Array(specs.map_err(unwritable)?);
        let request = Request::post(&["v1", "tasks"]).json(&body);
        let receipts: Vec<TaskReceipt> = session.send(&request)?.read()?;
        for ((_, card), receipt) in now.into_iter().zip(receipts) {
            if let Some(old) = card.id {
                made.insert(old, receipt.id.clone());
            }
            ids.push(receipt.id);
        }
        open = later;
    }
    let sentence = format!("{} cards are on the board", ids.len());
    session.out.screen(
        &Screen::new()
            .line(sentence)
            .named(ids.iter().map(TaskId::as_str)),
    )
}

/// The cards of a file, each with the number of its line.
fn cards_of(name: &str, text: &str) -> Result<Vec<(usize, Card)>, Failure> {
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let wrong =
                |why: String| Failure::new(Exit::Failed, format!("{name}, line {number}: {why}"));
            let value = mesh_messages::json::parse(line.as_bytes())
                .map_err(|error| wrong(error.to_string()))?;
            let mut card: Card =
                serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
            if let Some(id) = &card.id {
                let key = format!("card:{id}");
                card.task.idempotency_key.get_or_insert(key);
            }
            Ok((number, card))
        })
        .collect()
}

type Numbered = Vec<(usize, Card)>;

/// The next cards that depend on none of the file that is not there yet, with what they depend on by its new id; and the rest.
fn next_array(open: Numbered, made: &BTreeMap<TaskId, TaskId>) -> (Numbered, Numbered) {
    let names: Vec<TaskId> = open
        .iter()
        .filter_map(|(_, card)| card.id.clone())
        .collect();
    let (mut now, mut later, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (line, mut card) in open {
        let waits = card.task.depends_on.iter().any(|id| names.contains(id));
        let size = serde_json::to_vec(&card.task).map_or(0, |text| text.len());
        let fits = now.is_empty() || (now.len() < ARRAY_MAX && bytes + size <= ARRAY_BYTES_MAX);
        if waits || !fits {
            later.push((line, card));
            continue;
        }
        for id in &mut card.task.depends_on {
            if let Some(new) = made.get(id) {
                *id = new.clone();
            }
        }
        bytes += size;
        now.push((line, card));
    }
    (now, later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(cards: &Numbered) -> Vec<&str> {
        let ids = cards.iter().filter_map(|(_, card)| card.id.as_ref());
        ids.map(TaskId::as_str).collect()
    }

    #[test]
    fn cards_come_after_those_they_depend_on_and_name_them_by_their_new_ids() {
        let text = r#"{"id":"b","column":"Blocked","task":{"requirements":["x"],"dependsOn":["a","other"]}}

            {"id":"a","task":{"requirements":["x"],"idempotencyKey":"mine"}}"#;
        let cards = cards_of("cards", text).unwrap();
        let keys = cards
            .iter()
            .map(|(_, card)| card.task.idempotency_key.as_deref());
        assert_eq!(keys.collect::<Vec<_>>(), [Some("card:b"), Some("mine")]);
        let (now, later) = next_array(cards, &BTreeMap::new());
        assert_eq!((ids(&now), ids(&later)), (vec!["a"], vec!["b"]));
        let id = |text: &str| TaskId::new(text).unwrap();
        let (now, later) = next_array(later, &[(id("a"), id("new"))].into());
        assert!(later.is_empty());
        assert_eq!(now[0].1.task.depends_on, [id("new"), id("other")]);
    }

    #[test]
    fn a_circle_and_a_line_that_is_no_card_are_told_by_their_line() {
        let text = r#"{"id":"a","task":{"requirements":["x"],"dependsOn":["a"]}}"#;
        let (now, later) = next_array(cards_of("cards", text).unwrap(), &BTreeMap::new());
        assert_eq!((now.len(), later[0].0), (0, 1));
        let text = "{\"task\":{}}\n{\"title\":\"x\"}";
        let refused = format!("{:?}", cards_of("cards", text).unwrap_err());
        assert!(refused.contains("cards, line 2"), "{refused}");
    }
}
