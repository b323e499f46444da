//! `meshctl gate`: providers' accounts whose limit was reached.

use std::num::NonZeroUsize;

use clap::Subcommand;
use mesh_messages::gate::ProviderGate;

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Screen, Table};
use crate::session::Session;

/// Commands about gates.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the accounts that are held up: since when, until when, and what the provider said
    #[command(after_help = "Examples:\n  meshctl gate list\n  meshctl gate list --watch")]
    List {
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Have an account tried now by one attempt, such as after it was topped up
    #[command(after_help = "Examples:\n  meshctl gate try provider:acme")]
    Try {
        /// The account, as `gate list` names it
        #[arg(value_name = "ACCOUNT")]
        account: String,
    },
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::List { .. })
    }
}

/// Runs one of them.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::List { limit } => list(limit.get(), session),
        Command::Try { account } => {
            let answer = session.send(&Request::post(&["v1", "gates", account, "try"]))?;
            session.out.show(&answer, || {
                let gate: ProviderGate = answer.read()?;
                let text = format!("gate {account} {}, {} at a time", gate.state, gate.permits);
                Ok(Screen::confirmation(text, account))
            })
        }
    }
}

fn list(limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "gates"]), limit)?;
    session.out.show(&answer, || {
        let gates: Vec<ProviderGate> = answer.rows()?;
        if gates.is_empty() {
            return Ok(Screen::new()
                .line("no account is held up")
                .named(Vec::<String>::new()));
        }
        let mut table = Table::new(&[
            "ACCOUNT",
            "STATE",
            "SINCE",
            "NEXT STEP",
            "PERMITS",
            "STRIKES",
            "REASON",
        ]);
        for gate in &gates {
            table.row([
                gate.account.as_str().into(),
                gate.state.name().into(),
                gate.since.to_string().into(),
                gate.until.to_string().into(),
                gate.permits.to_string().into(),
                gate.strikes.to_string().into(),
                gate.reason.as_str().into(),
            ]);
        }
        let names = gates.iter().map(|gate| gate.account.as_str());
        Ok(Screen::new().table(table).named(names))
    })
}
