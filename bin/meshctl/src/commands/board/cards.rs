//! Cards as a file: taken from a board, and put onto another one.
//!
//! A line for each card, JSON: `{"id", "column", "task"}`, where `task` is what was submitted. A line of another tool needs
//! `task` alone. Cards are put onto a board in the order of what they depend on, each under a key that is made of its id, so
//! importing a file twice makes no second card.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use mesh_messages::TaskId;
use mesh_messages::task::{Task, TaskReceipt, TaskSpec, TaskState};
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
ended. Left out are tasks below others, since whoever works on those delegates again, and what meshd asks; and of
what a card depends on, what has succeeded and is not in the file.

Examples:
  meshctl board export --out cards.jsonl
  meshctl board export --column Backlog --out backlog.jsonl";

pub(super) const IMPORT_HELP: &str = "\
Submits a task for each line of FILE, or of standard input (-), in the order of what they depend on. A line is what
`board export` writes; of another tool's card `task` is enough, in the form of a submission. Importing a file again, as
the same caller, makes no second card of the same id. A line that is no card is refused before any card is made.

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
    let mut written = BTreeSet::new();
    let mut met: BTreeMap<TaskId, bool> = BTreeMap::new();
    // The newest come first; whoever reads the file wants the order of submission, in which what is depended on comes first.
    for mut task in answer.rows::<Task>()?.into_iter().rev() {
        met.insert(task.id.clone(), task.state == TaskState::Succeeded);
        let own = task.spec.parent.is_none() && task.submitted_by != "meshd";
        if !own || (task.state.is_terminal() && !arguments.all) {
            continue;
        }
        let mut needed = Vec::new();
        for id in std::mem::take(&mut task.spec.depends_on) {
            if written.contains(&id) || !has_succeeded(&id, &mut met, session)? {
                needed.push(id);
            }
        }
        task.spec.depends_on = needed;
        written.insert(task.id.clone());
        let card = Card {
            column: Some(task.column().to_owned()),
            id: Some(task.id),
            task: task.spec,
        };
        serde_json::to_writer(&mut lines, &card).map_err(unwritable)?;
        lines.push(b'\n');
    }
    let Some(path) = arguments.out.as_deref() else {
        return Ok(session.out.write(&lines)?);
    };
    write_whole(path, MODE_OWN, |file| {
        file.write_all(&lines).map_err(|e| Failure::file(path, &e))
    })?;
    let sentence = format!("{} cards in {}", written.len(), path.display());
    let name = path.display().to_string();
    session.out.screen(&Screen::confirmation(sentence, name))
}

/// Whether a task has succeeded, asked once.
fn has_succeeded(
    id: &TaskId,
    met: &mut BTreeMap<TaskId, bool>,
    session: &Session,
) -> Result<bool, Failure> {
    if let Some(known) = met.get(id) {
        return Ok(*known);
    }
    let task: Task = session
        .send(&Request::get(&["v1", "tasks", id.as_str()]))?
        .read()?;
    let succeeded = task.state == TaskState::Succeeded;
    met.insert(id.clone(), succeeded);
    Ok(succeeded)
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
        let answer = session.send(&request);
        let answer = answer.map_err(|failure| {
            let lines: Vec<usize> = now.iter().map(|(line, _)| *line).collect();
            by_line(failure, &name, &lines)
        });
        let receipts: Vec<TaskReceipt> = answer?.read()?;
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

/// A refusal of an array of tasks, told by the lines that they come from.
fn by_line(mut failure: Failure, name: &str, lines: &[usize]) -> Failure {
    let told = |text: &str| {
        let (place, rest) = text.strip_prefix('[')?.split_once("].")?;
        let line = lines.get(place.parse::<usize>().ok()?)?;
        Some(format!("{name}, line {line}: {rest}"))
    };
    if let Some(text) = told(&failure.message) {
        failure.message = text;
    } else if let [line] = lines {
        // A single task is not counted.
        failure.message = format!("{name}, line {line}: {}", failure.message);
    }
    for detail in &mut failure.details {
        if let Some(text) = told(detail) {
            *detail = text;
        }
    }
    failure
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
    fn what_meshd_refuses_is_told_by_its_line() {
        let failure = Failure::new(Exit::Failed, "2 errors (invalid_task)").details(vec![
            "[1].priority: is none".to_owned(),
            "elsewhere".to_owned(),
        ]);
        let told = by_line(failure, "cards", &[4, 7]);
        assert_eq!(
            told.details,
            ["cards, line 7: priority: is none", "elsewhere"]
        );
        let one = Failure::new(Exit::Failed, "requirements: is empty");
        let told = by_line(one, "cards", &[3]).message;
        assert_eq!(told, "cards, line 3: requirements: is empty");
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
