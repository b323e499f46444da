//! `meshctl claim`: named resources that agents have claimed.

use std::num::NonZeroUsize;

use clap::Subcommand;
use mesh_messages::claim::Claim;

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Screen, Table};
use crate::session::Session;

/// Waiters that a row names; how many more there are stands behind them.
const WAITERS_SHOWN: usize = 3;

/// Commands about claims.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List claimed resources: who holds each, until when, and who waits
    #[command(after_help = "Examples:\n  meshctl claim list\n  meshctl claim list --watch")]
    List {
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
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
    let Command::List { limit } = command;
    let answer = session.pages(&Request::get(&["v1", "claims"]), limit.get())?;
    session.out.show(&answer, || {
        let claims: Vec<Claim> = answer.rows()?;
        if claims.is_empty() {
            return Ok(Screen::new()
                .line("nothing is claimed")
                .named(Vec::<String>::new()));
        }
        let mut table = Table::new(&["RESOURCE", "HELD BY", "TASK", "TOKEN", "UNTIL", "WAITING"]);
        for claim in &claims {
            let holder = claim.holder.as_ref();
            let others = match claim.others.len() {
                0 => String::new(),
                several => format!(" and {several} more who share it"),
            };
            let by = holder.map(|holder| format!("{}#{}{others}", holder.agent, holder.instance));
            let task = holder.map(|holder| holder.task.to_string());
            let token = holder.map(|holder| holder.token.to_string());
            let until = holder.map(|holder| holder.until.to_string());
            table.row([
                claim.resource.as_str().into(),
                by.unwrap_or_default().into(),
                task.unwrap_or_default().into(),
                token.unwrap_or_default().into(),
                until.unwrap_or_default().into(),
                line(claim).into(),
            ]);
        }
        let names = claims.iter().map(|claim| claim.resource.as_str());
        Ok(Screen::new().table(table).named(names))
    })
}

/// Who waits, the first to get it first.
fn line(claim: &Claim) -> String {
    let attempts = claim.waiting.iter();
    let shown =
        attempts.map(|waiter| format!("{}#{} ({})", waiter.agent, waiter.instance, waiter.task));
    // Those that have no agent before they can have it.
    let tasks = claim.tasks.iter().map(ToString::to_string);
    let shown: Vec<_> = shown.chain(tasks).take(WAITERS_SHOWN).collect();
    let more = (claim.waiting.len() + claim.tasks.len()).saturating_sub(WAITERS_SHOWN);
    let more = (more > 0).then(|| format!(" and {more} more"));
    format!("{}{}", shown.join(", "), more.unwrap_or_default())
}
