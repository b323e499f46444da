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
ended. Left out are tasks below others, since whoever works on those delegates again, steps of workflows (labels
`workflow` and `step`), which a new run makes again, and what meshd asks; and of what a card depends on, what is not
in the file and has succeeded, or is kept no more.

Examples:
  meshctl board export --out cards.jsonl
  meshctl board export --column Backlog --out backlog.jsonl";

pub(super) const IMPORT_HELP: &str = "\
Submits a task for each line of FILE, or of standard input (-), in the order of what they depend on. A line is what
`board export` writes; of another tool's card `task` is enough, in the form of a submission. Importing a file again, as
the same caller, makes no second card of the same id. A line that is no card is refused before any card is made, and so
are cards that depend on each other in a circle.

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
        if !own || is_step(&task.spec.labels) || (task.state.is_terminal() && !arguments.all) {
            continue;
        }
        let mut needed = Vec::new();
        for id in std::mem::take(&mut task.spec.depends_on) {
            if written.contains(&id) || !is_met(&id, &mut met, session)? {
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

/// Whether a task with these labels is a step of a workflow: it would run a second time, and its run would know nothing of it.
fn is_step(labels: &BTreeMap<String, String>) -> bool {
    labels.contains_key("workflow") && labels.contains_key("step")
}

/// Whether a task has succeeded, or ended so long ago that it is not kept; asked once.
fn is_met(
    id: &TaskId,
    met: &mut BTreeMap<TaskId, bool>,
    session: &Session,
) -> Result<bool, Failure> {
    if let Some(known) = met.get(id) {
        return Ok(*known);
    }
    let answer = session.send(&Request::get(&["v1", "tasks", id.as_str()]));
    let is_met = match answer {
        Ok(answer) => answer.read::<Task>()?.state == TaskState::Succeeded,
        Err(failure) if failure.exit == Exit::NotFound => true,
        Err(failure) => return Err(failure),
    };
    met.insert(id.clone(), is_met);
    Ok(is_met)
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::new(Exit::Bug, format!("cannot write a card as JSON: {error}"))
}

pub(super) fn import(arguments: &Import, session: &mut Session) -> Result<(), Failure> {
    let (name, text) = input::lines(&arguments.file, &mut io::stdin())?;
    let arrays = arrays(cards_of(&name, &text)?).map_err(|line| {
        let text = format!("{name}, line {line}: it depends on itself by way of others");
        Failure::new(Exit::Failed, text)
    })?;
    let mut made: BTreeMap<TaskId, TaskId> = BTreeMap::new();
    let mut ids = Vec::new();
    for mut now in arrays {
        rename(&mut now, &made);
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

/// The cards in arrays that are submitted one after the other: each card after those of the file that it depends on. The
/// first line of those that depend on themselves, or on such, when there are any.
fn arrays(cards: Numbered) -> Result<Vec<Numbered>, usize> {
    let mut left: BTreeMap<TaskId, usize> = BTreeMap::new();
    for id in cards.iter().filter_map(|(_, card)| card.id.clone()) {
        *left.entry(id).or_default() += 1;
    }
    let mut dependents: BTreeMap<TaskId, Vec<usize>> = BTreeMap::new();
    let mut lacking = Vec::with_capacity(cards.len());
    for (at, (_, card)) in cards.iter().enumerate() {
        let needed = card.task.depends_on.iter().collect::<BTreeSet<_>>();
        let needed: Vec<_> = needed
            .into_iter()
            .filter(|id| left.contains_key(*id))
            .collect();
        lacking.push(needed.len());
        for id in needed {
            dependents.entry(id.clone()).or_default().push(at);
        }
    }
    let mut open: Vec<_> = cards.into_iter().map(Some).collect();
    let mut wave: Vec<usize> = (0..open.len()).filter(|at| lacking[*at] == 0).collect();
    let mut arrays = Vec::new();
    while !wave.is_empty() {
        let (mut next, mut array, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (line, card) in wave.into_iter().filter_map(|at| open[at].take()) {
            let size = serde_json::to_vec(&card.task).map_or(0, |text| text.len());
            if array.len() >= ARRAY_MAX || (!array.is_empty() && bytes + size > ARRAY_BYTES_MAX) {
                arrays.push(std::mem::take(&mut array));
                bytes = 0;
            }
            bytes += size;
            if let Some((id, left)) = card
                .id
                .as_ref()
                .and_then(|id| Some((id, left.get_mut(id)?)))
            {
                *left -= 1;
                let freed = (*left == 0).then(|| dependents.remove(id)).flatten();
                for dependent in freed.into_iter().flatten() {
                    lacking[dependent] -= 1;
                    if lacking[dependent] == 0 {
                        next.push(dependent);
                    }
                }
            }
            array.push((line, card));
        }
        arrays.push(array);
        next.sort_unstable();
        wave = next;
    }
    match open.into_iter().flatten().next() {
        Some((line, _)) => Err(line),
        None => Ok(arrays),
    }
}

/// Names what cards depend on by its new id, where it has one.
fn rename(cards: &mut Numbered, made: &BTreeMap<TaskId, TaskId>) {
    for id in cards
        .iter_mut()
        .flat_map(|(_, card)| &mut card.task.depends_on)
    {
        if let Some(new) = made.get(id) {
            *id = new.clone();
        }
    }
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
        let mut all = arrays(cards).unwrap();
        assert_eq!(all.iter().map(ids).collect::<Vec<_>>(), [["a"], ["b"]]);
        let id = |text: &str| TaskId::new(text).unwrap();
        rename(&mut all[1], &[(id("a"), id("new"))].into());
        assert_eq!(all[1][0].1.task.depends_on, [id("new"), id("other")]);
    }

    #[test]
    fn many_cards_go_in_arrays_that_are_full_and_none_is_lost() {
        let card = |no: usize| match no % 2 {
            0 => format!(r#"{{"id":"c{no}","task":{{"requirements":["x"]}}}}"#),
            _ => format!(
                r#"{{"id":"c{no}","task":{{"requirements":["x"],"dependsOn":["c{}"]}}}}"#,
                no - 1
            ),
        };
        let text: Vec<String> = (0..5 * ARRAY_MAX).map(card).collect();
        let all = arrays(cards_of("cards", &text.join("\n")).unwrap()).unwrap();
        let sizes: Vec<usize> = all.iter().map(Vec::len).collect();
        let half = ARRAY_MAX / 2;
        let wave = [ARRAY_MAX, ARRAY_MAX, half];
        assert_eq!(sizes, [wave, wave].concat());
        let mut lines: Vec<usize> = all.iter().flatten().map(|(line, _)| *line).collect();
        lines.sort_unstable();
        assert!(lines.into_iter().eq(1..=5 * ARRAY_MAX));
    }

    #[test]
    fn steps_of_workflows_are_no_cards() {
        let labels = |names: &[&str]| {
            let named = names
                .iter()
                .map(|name| ((*name).to_owned(), "x".to_owned()));
            named.collect::<BTreeMap<_, _>>()
        };
        assert!(is_step(&labels(&["step", "workflow"])));
        assert!(!is_step(&labels(&["workflow"])));
        assert!(!is_step(&labels(&["step"])));
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
        assert_eq!(arrays(cards_of("cards", text).unwrap()).unwrap_err(), 1);
        let text = "{\"task\":{}}\n{\"title\":\"x\"}";
        let refused = format!("{:?}", cards_of("cards", text).unwrap_err());
        assert!(refused.contains("cards, line 2"), "{refused}");
    }
}
