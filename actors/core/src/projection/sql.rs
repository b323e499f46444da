//! The view as an SQL script: four tables that `SQLite` and `PostgreSQL` both load.
//!
//! The script is made page by page, so that no more of the view than a page is ever held. Every row is as of the moment it
//! was read; the whole is one transaction, so a script that was cut off loads nothing.
//!
//! | in the schema's original form | here | because |
//! |---|---|---|
//! | `UUID` | `TEXT` | agents are named by people, and a delegated task's id is derived |
//! | `VARCHAR(n)` | `TEXT` | a longer name must not fail the load; `SQLite` does not count anyway |
//! | `JSONB` | `JSONB` | `SQLite` keeps it as the text it is |
//! | `TIMESTAMP DEFAULT NOW()` | `TIMESTAMP DEFAULT CURRENT_TIMESTAMP` | `SQLite` has no `now()`; values are UTC |
//! | `INTEGER` | `BIGINT` | milliseconds and counts go beyond 2^31 |
//! | `FLOAT`, `BOOLEAN` | the same | |
//!
//! `DEFAULT (gen_random_uuid())` is `PostgreSQL`'s; `SQLite` accepts the table, and asks for an id in each further row.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mesh_messages::{AgentId, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::history::{self, AssignmentRow, LessonRow, RelationRow};
use super::read::Slice;
use super::{ProjectFailure, Reader, TaskRow, key, read_back, tree};
use crate::agent::AgentState;

/// Rows of the view that one chunk of the script is made of: a few hundred kilobytes of text.
const ROWS_PER_CHUNK: usize = 256;

/// Begins the script: the tables with their columns and defaults.
const SCHEMA: &str = "\
BEGIN;

CREATE TABLE agent_profiles (
  id TEXT PRIMARY KEY DEFAULT (gen_random_uuid()),
  name TEXT NOT NULL,
  type TEXT NOT NULL,
  capabilities JSONB NOT NULL DEFAULT '[]',
  performance_metrics JSONB DEFAULT '{}',
  memory_profile JSONB DEFAULT '{}',
  health_status JSONB DEFAULT '{}',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE task_assignments (
  id TEXT PRIMARY KEY DEFAULT (gen_random_uuid()),
  task_id TEXT NOT NULL,
  agent_id TEXT NOT NULL,
  confidence FLOAT NOT NULL,
  reasoning JSONB DEFAULT '[]',
  estimated_duration BIGINT,
  risk_factors JSONB DEFAULT '[]',
  outcome JSONB,
  assigned_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  completed_at TIMESTAMP
);

CREATE TABLE agent_relationships (
  id TEXT PRIMARY KEY DEFAULT (gen_random_uuid()),
  agent_a_id TEXT NOT NULL,
  agent_b_id TEXT NOT NULL,
  relationship_type TEXT NOT NULL,
  strength FLOAT DEFAULT 1.0,
  context JSONB DEFAULT '{}',
  last_interaction TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE learning_insights (
  id TEXT PRIMARY KEY DEFAULT (gen_random_uuid()),
  agent_id TEXT,
  task_type TEXT,
  insights JSONB NOT NULL,
  generalizable BOOLEAN DEFAULT false,
  applied_count BIGINT DEFAULT 0,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

";

/// What is written next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Schema,
    Agents,
    Assignments,
    Relationships,
    Insights,
    End,
    Done,
}

/// A script on its way. Ask [`next_chunk`](Self::next_chunk) until there is no more.
#[derive(Debug)]
pub struct SqlScript {
    part: Part,
    /// Where the part goes on; `None` at its beginning.
    from: Option<Vec<u8>>,
    rows: BTreeMap<&'static str, u64>,
}

impl Default for SqlScript {
    fn default() -> Self {
        Self {
            part: Part::Schema,
            from: None,
            rows: BTreeMap::new(),
        }
    }
}

impl SqlScript {
    /// The next piece of the script; `None` after the last.
    ///
    /// # Errors
    /// [`ProjectFailure`]; the script ends there.
    pub fn next_chunk<R: Reader>(
        &mut self,
        reader: &R,
    ) -> Result<Option<String>, ProjectFailure<R::Error>> {
        let mut out = String::new();
        match self.part {
            Part::Schema => {
                self.part = Part::Agents;
                out.push_str(SCHEMA);
            }
            Part::Agents => {
                let rows = self.page(reader, tree::AGENT, Part::Assignments)?;
                for (id, bytes) in rows.entries {
                    self.agent(reader, &id, &read_back(&bytes)?, &mut out)?;
                }
            }
            Part::Assignments => {
                let rows = self.page(reader, tree::TASK, Part::Relationships)?;
                for (_, bytes) in rows.entries {
                    self.assignments(reader, &read_back(&bytes)?, &mut out)?;
                }
            }
            Part::Relationships => {
                let rows = self.page(reader, tree::RELATION, Part::Insights)?;
                for (_, bytes) in rows.entries {
                    self.relationship(&read_back(&bytes)?, &mut out);
                }
            }
            Part::Insights => {
                let rows = self.page(reader, tree::LESSON, Part::End)?;
                for (_, bytes) in rows.entries {
                    self.insight(&read_back(&bytes)?, &mut out);
                }
            }
            Part::End => {
                self.part = Part::Done;
                out.push_str("\nCOMMIT;\n");
                for (table, rows) in &self.rows {
                    comment(&mut out, &format!("{table}: {rows} rows"));
                }
            }
            Part::Done => return Ok(None),
        }
        Ok(Some(out))
    }

    /// The next rows of a tree; when they are its last, the script goes on with `then`.
    fn page<R: Reader>(
        &mut self,
        reader: &R,
        tree: &'static str,
        then: Part,
    ) -> Result<Slice, ProjectFailure<R::Error>> {
        let slice = reader
            .scan(tree, &[], self.from.as_deref(), ROWS_PER_CHUNK)
            .map_err(ProjectFailure::View)?;
        self.from.clone_from(&slice.next);
        if slice.next.is_none() {
            self.part = then;
        }
        Ok(slice)
    }

    fn agent<R: Reader>(
        &mut self,
        reader: &R,
        id: &[u8],
        state: &AgentState,
        out: &mut String,
    ) -> Result<(), ProjectFailure<R::Error>> {
        let id = String::from_utf8_lossy(id);
        let manifest = state.manifest();
        let persona = manifest
            .and_then(|manifest| serde_json::to_value(manifest.persona).ok())
            .and_then(|persona| persona.as_str().map(str::to_owned))
            .unwrap_or_default();
        let capabilities = manifest.map(|manifest| manifest.capabilities.clone());
        let memory = manifest.map(|manifest| serde_json::to_value(&manifest.memory));
        let memory = memory.and_then(Result::ok).unwrap_or_else(|| json!({}));
        let health = json!({
            "lifecycle": state.stage(),
            "fault": state.fault_state(),
            "running": state.running,
            "paused": state.paused,
            "instances": state.ready().count(),
            "epoch": state.epoch,
            "errors": state.errors.values().collect::<Vec<_>>(),
        });
        self.insert(
            "agent_profiles",
            &[
                ("id", text(&id)),
                ("name", text(manifest.map_or(&*id, |m| m.display_name()))),
                ("type", text(&persona)),
                (
                    "capabilities",
                    document(&json!(capabilities.unwrap_or_default())),
                ),
                ("performance_metrics", document(&performance(reader, &id)?)),
                ("memory_profile", document(&memory)),
                ("health_status", document(&health)),
                ("created_at", time(state.created_at)),
                ("updated_at", time(state.updated_at)),
            ],
            out,
        );
        Ok(())
    }

    fn assignments<R: Reader>(
        &mut self,
        reader: &R,
        row: &TaskRow,
        out: &mut String,
    ) -> Result<(), ProjectFailure<R::Error>> {
        let task = &row.record.task;
        let Some(latest) = history::latest(task) else {
            return Ok(());
        };
        if latest.assignment.attempt.0 > 1 {
            let prefix = key::prefix(&[task.id.as_str()]);
            each(
                reader,
                tree::ASSIGNMENT,
                &prefix,
                |earlier: AssignmentRow| {
                    // The row may have been read just before its assignment was followed by the next one.
                    if earlier.assignment.attempt < latest.assignment.attempt {
                        self.assignment(&earlier, out);
                    }
                },
            )?;
        }
        self.assignment(&latest, out);
        Ok(())
    }

    fn assignment(&mut self, row: &AssignmentRow, out: &mut String) {
        let AssignmentRow {
            assignment,
            outcome,
        } = row;
        let ended = outcome.as_ref().map(|outcome| {
            let ms = outcome.at.since(assignment.assigned_at).as_millis();
            json!({ "success": outcome.error.is_none(), "error": outcome.error, "durationMs": u64::try_from(ms).ok() })
        });
        let id = format!("{}/{}", assignment.task_id, assignment.attempt);
        let expected = assignment.estimated_duration;
        self.insert(
            "task_assignments",
            &[
                ("id", text(&id)),
                ("task_id", text(assignment.task_id.as_str())),
                ("agent_id", text(assignment.agent_id.as_str())),
                ("confidence", number(assignment.confidence)),
                ("reasoning", document(&json!(assignment.reasoning))),
                (
                    "estimated_duration",
                    or_null(expected.map(|ms| ms.to_string())),
                ),
                ("risk_factors", document(&json!(assignment.risk_factors))),
                ("outcome", or_null(ended.as_ref().map(document))),
                ("assigned_at", time(assignment.assigned_at)),
                (
                    "completed_at",
                    or_null(outcome.as_ref().map(|o| time(o.at))),
                ),
            ],
            out,
        );
    }

    fn relationship(&mut self, row: &RelationRow, out: &mut String) {
        let RelationRow { from, to, .. } = row;
        let context = json!({
            "assigned": row.assigned, "succeeded": row.succeeded, "failed": row.failed,
        });
        // Nothing weighs relationships yet, so `strength` keeps its default.
        self.insert(
            "agent_relationships",
            &[
                ("id", text(&format!("delegation/{from}/{to}"))),
                ("agent_a_id", text(from.as_str())),
                ("agent_b_id", text(to.as_str())),
                ("relationship_type", text("delegation")),
                ("context", document(&context)),
                ("last_interaction", time(row.last)),
                ("created_at", time(row.since)),
            ],
            out,
        );
    }

    fn insight(&mut self, row: &LessonRow, out: &mut String) {
        let LessonRow { agent, kind, .. } = row;
        // What is known of one agent says nothing of others, so `generalizable` keeps its default.
        self.insert(
            "learning_insights",
            &[
                ("id", text(&format!("{agent}/{kind}"))),
                ("agent_id", text(agent.as_str())),
                ("task_type", text(kind)),
                ("insights", document(&numbers(row))),
                ("applied_count", row.applied.to_string()),
                ("created_at", time(row.since)),
            ],
            out,
        );
    }

    fn insert(&mut self, table: &'static str, row: &[(&str, String)], out: &mut String) {
        *self.rows.entry(table).or_default() += 1;
        let columns: Vec<&str> = row.iter().map(|(column, _)| *column).collect();
        let values: Vec<&str> = row.iter().map(|(_, value)| value.as_str()).collect();
        let (columns, values) = (columns.join(", "), values.join(", "));
        // Writing to a String cannot fail.
        let _infallible = writeln!(out, "INSERT INTO {table} ({columns}) VALUES ({values});");
    }
}

/// Reads all entries below a prefix, a page at a time.
fn each<R: Reader, T: DeserializeOwned>(
    reader: &R,
    tree: &'static str,
    prefix: &[u8],
    mut visit: impl FnMut(T),
) -> Result<(), ProjectFailure<R::Error>> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let slice = reader
            .scan(tree, prefix, from.as_deref(), ROWS_PER_CHUNK)
            .map_err(ProjectFailure::View)?;
        for (_, bytes) in slice.entries {
            visit(read_back(&bytes)?);
        }
        match slice.next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

/// An agent's numbers, all types together and one by one, as its insights show them.
fn performance<R: Reader>(reader: &R, agent: &str) -> Result<Value, ProjectFailure<R::Error>> {
    // Whatever else is stored under an id that cannot be, it is nobody's performance.
    let Ok(agent) = AgentId::new(agent) else {
        return Ok(json!({}));
    };
    let (mut attempts, mut succeeded, mut by_type) = (0, 0, Vec::new());
    let prefix = key::prefix(&[agent.as_str()]);
    each(reader, tree::LESSON, &prefix, |lesson: LessonRow| {
        attempts += lesson.record.attempts();
        succeeded += lesson.record.succeeded;
        by_type.push(numbers(&lesson));
    })?;
    Ok(json!({ "attempts": attempts, "succeeded": succeeded, "byType": by_type }))
}

fn numbers(lesson: &LessonRow) -> Value {
    let record = &lesson.record;
    json!({
        "type": lesson.kind,
        "attempts": record.attempts(),
        "succeeded": record.succeeded,
        "confidence": record.confidence(),
        "meanDurationMs": record.mean_duration_ms(),
        "recentFailures": record.recent_failures(),
    })
}

fn comment(out: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(out, "-- {line}");
}

/// A text as a literal. `PostgreSQL` stores no zero, so it becomes the replacement character.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\0', "\u{fffd}").replace('\'', "''"))
}

/// A JSON document as a literal.
fn document(value: &Value) -> String {
    text(&without_zeros(value.clone()).to_string())
}

/// The value without zeros in its texts: `jsonb` takes none, escaped or not.
fn without_zeros(value: Value) -> Value {
    let mend = |text: String| {
        if text.contains('\0') {
            text.replace('\0', "\u{fffd}")
        } else {
            text
        }
    };
    match value {
        Value::String(text) => Value::String(mend(text)),
        Value::Array(items) => items.into_iter().map(without_zeros).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (mend(name), without_zeros(value)))
            .collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}

/// A moment as a literal, in UTC.
fn time(at: Timestamp) -> String {
    let text = at.to_string();
    format!("'{}'", text.trim_end_matches('Z').replacen('T', " ", 1))
}

/// A number as a literal; what is none, such as a quotient by zero, is none there either.
fn number(value: f64) -> String {
    if value.is_finite() {
        format!("{value:?}")
    } else {
        "NULL".to_owned()
    }
}

fn or_null(value: Option<String>) -> String {
    value.unwrap_or_else(|| "NULL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_escapes_its_quotes_and_none_holds_a_zero() {
        assert_eq!(text("it's"), "'it''s'");
        assert_eq!(text("a\0b';--"), "'a\u{fffd}b'';--'");
        let value = json!({ "a\0": ["it's\0", 1, null] });
        assert_eq!(
            document(&value),
            "'{\"a\u{fffd}\":[\"it''s\u{fffd}\",1,null]}'"
        );
    }

    #[test]
    fn moments_are_written_as_both_databases_read_them() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(time(at), "'2023-11-14 22:13:20.123'");
        assert_eq!(number(1.0), "1.0");
        assert_eq!(number(0.5), "0.5");
    }
}
