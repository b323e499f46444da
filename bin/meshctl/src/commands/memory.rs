//! `meshctl memory`: what agents remember.

use std::io;
use std::num::NonZeroUsize;

use clap::Subcommand;
use mesh_messages::system::{MemoryEntry, MemoryStats};
use mesh_messages::units::Span;
use serde_json::json;

use crate::client::Request;
use crate::exit::Failure;
use crate::input;
use crate::output::{Format, Screen, Table, compact, megabytes};
use crate::session::Session;

/// Commands about memory.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what an agent remembers
    #[command(after_help = "Example:\n  meshctl memory list echo")]
    List {
        /// The agent's id
        agent: String,
        /// Rows to show at most
        #[arg(long, default_value = "1000", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Print the value under a key, as JSON
    #[command(after_help = "Example:\n  meshctl memory get echo greeting")]
    Get {
        /// The agent's id
        agent: String,
        /// The key
        key: String,
    },
    /// Write a value
    #[command(
        after_help = "Examples:\n  meshctl memory set echo greeting '\"hello\"'\n  \
        meshctl memory set echo prices @prices.json --ttl 1h"
    )]
    Set {
        /// The agent's id
        agent: String,
        /// The key
        key: String,
        /// The value: JSON, @FILE with JSON, or - for standard input
        value: String,
        /// How long it can be read; for good when absent
        #[arg(long, value_name = "TIME")]
        ttl: Option<Span>,
    },
    /// Delete a value
    #[command(after_help = "Example:\n  meshctl memory delete echo greeting")]
    Delete {
        /// The agent's id
        agent: String,
        /// The key
        key: String,
    },
    /// Show an agent's memory in numbers
    #[command(after_help = "Example:\n  meshctl memory stats echo")]
    Stats {
        /// The agent's id
        agent: String,
    },
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(
            self,
            Self::List { .. } | Self::Get { .. } | Self::Stats { .. }
        )
    }
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::List { agent, limit } => list(agent, limit.get(), session),
        Command::Get { agent, key } => {
            let answer = session.send(&Request::get(&["v1", "memory", agent, key]))?;
            if session.out.format() == Format::Table {
                let entry: MemoryEntry = answer.read()?;
                return session.out.value(&entry.value);
            }
            session.out.show(&answer, || Ok(Screen::new().named([key])))
        }
        Command::Set {
            agent,
            key,
            value,
            ttl,
        } => {
            let value = input::document(value, &mut io::stdin())?;
            let ttl = ttl.map(|ttl| ttl.to_string());
            let body = match ttl {
                Some(ttl) => json!({ "value": value, "ttl": ttl }),
                None => json!({ "value": value }),
            };
            let answer = session.send(&Request::put(&["v1", "memory", agent, key]).json(&body))?;
            session.out.show(&answer, || {
                Ok(Screen::confirmation(
                    format!("{agent} remembers {key}"),
                    key,
                ))
            })
        }
        Command::Delete { agent, key } => {
            let answer = session.send(&Request::delete(&["v1", "memory", agent, key]))?;
            session.out.show(&answer, || {
                Ok(Screen::confirmation(format!("{agent} forgot {key}"), key))
            })
        }
        Command::Stats { agent } => stats(agent, session),
    }
}

fn list(agent: &str, limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "memory", agent]), limit)?;
    session.out.show(&answer, || {
        let entries: Vec<MemoryEntry> = answer.rows()?;
        if entries.is_empty() {
            return Ok(Screen::new()
                .line("nothing remembered")
                .named(Vec::<String>::new()));
        }
        let mut table = Table::new(&["KEY", "VALUE", "UPDATED", "EXPIRES", "ON DISK"]);
        for entry in &entries {
            table.row([
                entry.key.as_str().into(),
                compact(&entry.value).into(),
                entry.updated_at.to_string().into(),
                entry.expires_at.into(),
                if entry.persistent { "yes" } else { "no" }.into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(entries.iter().map(|entry| entry.key.as_str())))
    })
}

fn stats(agent: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "agents", agent, "memory"]))?;
    session.out.show(&answer, || {
        let stats: MemoryStats = answer.read()?;
        let mut table = Table::new(&[]);
        table.row(["agent".into(), stats.id.as_str().into()]);
        table.row(["type".into(), stats.kind.into()]);
        table.row(["backend".into(), stats.backend.into()]);
        table.row(["entries".into(), stats.entry_count.to_string().into()]);
        table.row(["size".into(), megabytes(Some(stats.size)).into()]);
        table.row(["last used".into(), stats.last_accessed.into()]);
        Ok(Screen::new().table(table).named([agent]))
    })
}
