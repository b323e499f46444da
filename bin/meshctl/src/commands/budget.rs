//! `meshctl budget`: what tasks, agents, teams and providers' accounts may use, and have used.

use std::num::NonZeroUsize;

use clap::Subcommand;
use mesh_messages::budget::{BudgetView, Dimension};
use serde_json::{Map, Value, json};

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Screen, Table};
use crate::session::Session;

/// Commands about budgets.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the accounts that something bounds, and what is left of each
    #[command(after_help = "Examples:\n  meshctl budget list\n  meshctl budget list --watch")]
    List {
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Show one account: what was used, what is set aside, who waits for it
    #[command(after_help = "Examples:\n  meshctl budget show agent:writer\n  \
        meshctl budget show provider:acme")]
    Show {
        /// The account, as `budget list` names it
        #[arg(value_name = "ACCOUNT")]
        account: String,
    },
    /// Bound what may be used on an account that agents share, within each window of time; replaces what bounded it before
    #[command(after_help = "Examples:\n  \
        meshctl budget set provider:acme --per-ms 3600000 --calls 1000 --money 25.5\n  \
        meshctl budget set team:research --per-ms 86400000 --tokens 2000000\n  \
        meshctl budget set team:research --none")]
    Set(Set),
}

/// `meshctl budget set`.
#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// provider:NAME or team:NAME, as manifests name it
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// The window's length in milliseconds
    #[arg(long, value_name = "MS", required_unless_present = "none")]
    per_ms: Option<u64>,
    /// Calls
    #[arg(long, value_name = "N")]
    calls: Option<u64>,
    /// Tokens
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// Money, such as 25.5
    #[arg(long, value_name = "AMOUNT")]
    money: Option<String>,
    /// Milliseconds of work
    #[arg(long, value_name = "MS")]
    wall_time_ms: Option<u64>,
    /// Attempts of tasks
    #[arg(long, value_name = "N")]
    attempts: Option<u64>,
    /// Restarts of agents after failures
    #[arg(long, value_name = "N")]
    restarts: Option<u64>,
    /// Bound nothing any more
    #[arg(long, conflicts_with_all = ["per_ms", "calls", "tokens", "money", "wall_time_ms", "attempts", "restarts"])]
    none: bool,
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. })
    }
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::List { limit } => list(limit.get(), session),
        Command::Show { account } => {
            let answer = session.send(&Request::get(&["v1", "budgets", account]))?;
            session
                .out
                .show(&answer, || Ok(screen(&[answer.read()?], true)))
        }
        Command::Set(set) => {
            let document = json!({ "budgets": { &set.account: set.document() } });
            let answer = session.send(&Request::put(&["v1", "policies"]).json(&document))?;
            session.out.show(&answer, || {
                let done = if set.none {
                    "bounded no more"
                } else {
                    "bounded"
                };
                let text = format!("{} {done}", set.account);
                Ok(Screen::confirmation(text, &set.account))
            })
        }
    }
}

impl Set {
    fn document(&self) -> Value {
        if self.none {
            return Value::Null;
        }
        let numbers = [
            ("perMs", self.per_ms),
            ("calls", self.calls),
            ("tokens", self.tokens),
            ("wallTimeMs", self.wall_time_ms),
            ("attempts", self.attempts),
            ("restarts", self.restarts),
        ];
        let numbers = numbers
            .into_iter()
            .filter_map(|(name, number)| Some((name.to_owned(), Value::from(number?))));
        let money = self.money.as_ref();
        let money = money.map(|money| ("money".to_owned(), Value::from(money.as_str())));
        Value::Object(numbers.chain(money).collect::<Map<_, _>>())
    }
}

fn list(limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "budgets"]), limit)?;
    session.out.show(&answer, || {
        let accounts: Vec<BudgetView> = answer.rows()?;
        if accounts.is_empty() {
            return Ok(Screen::new()
                .line("nothing is bounded")
                .named(Vec::<String>::new()));
        }
        Ok(screen(&accounts, false))
    })
}

fn screen(accounts: &[BudgetView], whole: bool) -> Screen {
    let mut table = Table::new(&[
        "ACCOUNT", "OF", "LIMIT", "USED", "RESERVED", "LEFT", "UNTIL", "WAITING",
    ]);
    for one in accounts {
        for d in Dimension::ALL {
            let Some(limit) = one.limits.get(d) else {
                continue;
            };
            let until = one
                .until
                .map_or_else(|| "-".to_owned(), |at| at.to_string());
            table.row([
                one.account.as_str().into(),
                d.name().into(),
                d.show(limit).into(),
                d.show(one.used.get(d)).into(),
                d.show(one.reserved.get(d)).into(),
                d.show(one.left.get(d).unwrap_or(0)).into(),
                until.into(),
                one.waiting.len().to_string().into(),
            ]);
        }
    }
    let names = accounts.iter().map(|one| one.account.as_str());
    let mut screen = Screen::new().table(table).named(names);
    for one in accounts.iter().filter(|_| whole) {
        for task in &one.waiting {
            screen = screen.line(format!("waits for it: {task}"));
        }
        if let Some(question) = &one.question {
            screen = screen.line(format!("asked in the inbox: {question}"));
        }
    }
    screen
}
