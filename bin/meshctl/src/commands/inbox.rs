//! `meshctl inbox`: what people are asked, and their answers.

use std::num::NonZeroUsize;

use clap::{Subcommand, ValueEnum};
use mesh_messages::inbox::{InboxAnswer, InboxItem};
use serde_json::Value;

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Screen, Table, compact};
use crate::session::Session;

/// Commands about the inbox.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what people are asked, newest first
    #[command(after_help = "Examples:\n  meshctl inbox list --watch\n  \
        meshctl inbox list --state all --kind permission")]
    List {
        /// Only requests in this state: open, approved, denied, expired, withdrawn, or all
        #[arg(
            long,
            value_enum,
            default_value_t,
            value_name = "STATE",
            hide_possible_values = true
        )]
        state: State,
        /// Only requests of this kind: approval, question or permission
        #[arg(long, value_enum, value_name = "KIND", hide_possible_values = true)]
        kind: Option<Kind>,
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Show one request: who asks what, until when, and the answer when there is one
    #[command(after_help = "Example:\n  meshctl inbox show c-5b1f6d2a")]
    Show(Id),
    /// Approve a request; the first answer counts
    #[command(after_help = "Example:\n  meshctl inbox approve c-5b1f6d2a --comment 'looks right'")]
    Approve {
        #[command(flatten)]
        item: Id,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Deny a request, or decline a question
    #[command(after_help = "Example:\n  meshctl inbox deny c-5b1f6d2a --comment 'not on Fridays'")]
    Deny {
        #[command(flatten)]
        item: Id,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Answer a question
    #[command(after_help = "Example:\n  meshctl inbox answer c-5b1f6d2a 'the blue one'")]
    Answer {
        #[command(flatten)]
        item: Id,
        /// The answer; one of the choices, if the question has any
        #[arg(value_name = "TEXT")]
        answer: String,
        /// Why, in words
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
}

/// The request meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Id {
    /// The request's id, as the list shows it
    id: String,
}

/// States that can be listed.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum State {
    /// Waits for an answer
    #[default]
    Open,
    /// Answered with yes
    Approved,
    /// Answered with no
    Denied,
    /// Not answered in time
    Expired,
    /// Not asked any more
    Withdrawn,
    /// Any
    All,
}

/// Kinds that can be listed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// Yes or no
    Approval,
    /// In words
    Question,
    /// Leave to do something
    Permission,
}

/// The name on the wire, which is the one on the command line.
fn name(value: &impl ValueEnum) -> Option<String> {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show(_))
    }
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    let yes = |answer: Option<&String>, comment: &Option<String>| InboxAnswer {
        approve: true,
        answer: answer.cloned(),
        comment: comment.clone(),
    };
    match command {
        Command::List { state, kind, limit } => list(*state, *kind, limit.get(), session),
        Command::Show(Id { id }) => {
            let answer = session.send(&Request::get(&["v1", "inbox", id]))?;
            session.out.show(&answer, || Ok(one(&answer.read()?)))
        }
        Command::Approve { item, comment } => give(&item.id, &yes(None, comment), session),
        Command::Deny { item, comment } => {
            let no = InboxAnswer {
                approve: false,
                answer: None,
                comment: comment.clone(),
            };
            give(&item.id, &no, session)
        }
        Command::Answer {
            item,
            answer,
            comment,
        } => give(&item.id, &yes(Some(answer), comment), session),
    }
}

fn give(id: &str, given: &InboxAnswer, session: &mut Session) -> Result<(), Failure> {
    let body = serde_json::to_value(given).unwrap_or_default();
    let answer = session.send(&Request::post(&["v1", "inbox", id, "answer"]).json(&body))?;
    session.out.show(&answer, || {
        let item: InboxItem = answer.read()?;
        Ok(Screen::confirmation(format!("{id} {}", item.state), id))
    })
}

fn list(
    state: State,
    kind: Option<Kind>,
    limit: usize,
    session: &mut Session,
) -> Result<(), Failure> {
    let request = Request::get(&["v1", "inbox"])
        .query("state", name(&state))
        .query("kind", kind.as_ref().and_then(name));
    let answer = session.pages(&request, limit)?;
    session.out.show(&answer, || {
        let items: Vec<InboxItem> = answer.rows()?;
        let mut table = Table::new(&["ID", "KIND", "STATE", "FROM", "ROLE", "EXPIRES", "QUESTION"]);
        for item in &items {
            table.row([
                item.id.as_str().into(),
                item.kind.name().into(),
                item.state.name().into(),
                item.asked_by.as_str().into(),
                item.role.name().into(),
                Some(item.expires_at).into(),
                question(item).into(),
            ]);
        }
        let ids = items.iter().map(|item| item.id.as_str());
        Ok(Screen::new().table(table).named(ids))
    })
}

/// What is asked, in one line.
fn question(item: &InboxItem) -> String {
    let wanted = item.permission.as_ref().map(|permission| {
        format!("{} {}", permission.action, permission.resource)
            .trim_end()
            .to_owned()
    });
    match (wanted, item.message.is_empty()) {
        (None, _) => item.message.clone(),
        (Some(wanted), true) => wanted,
        (Some(wanted), false) => format!("{wanted}: {}", item.message),
    }
}

fn one(item: &InboxItem) -> Screen {
    let mut table = Table::new(&["", ""]);
    let mut row = |key: &str, value: String| {
        if !value.is_empty() {
            table.row([key.into(), value.into()]);
        }
    };
    row("id", item.id.to_string());
    row("state", item.state.to_string());
    row("kind", item.kind.name().to_owned());
    row("question", question(item));
    row("choices", item.choices.join(", "));
    if item.about != Value::Null {
        row("about", compact(&item.about));
    }
    row("from", item.asked_by.clone());
    let parent = item.parent.as_ref();
    row(
        "for task",
        parent.map_or_else(String::new, ToString::to_string),
    );
    row("may answer", item.role.name().to_owned());
    row("rule", item.rule.clone().unwrap_or_default());
    row("asked", item.asked_at.to_string());
    row("expires", item.expires_at.to_string());
    if let Some(answered) = &item.answered {
        row("answered", format!("{} by {}", answered.at, answered.by));
        row("answer", answered.answer.clone().unwrap_or_default());
        row("comment", answered.comment.clone().unwrap_or_default());
    }
    Screen::new().table(table).named([item.id.as_str()])
}
