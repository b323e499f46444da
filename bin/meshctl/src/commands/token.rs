//! `meshctl token`: who may do what.

use std::error::Error as _;

use clap::Subcommand;
use mesh_messages::system::{IssuedToken, Role, TokenInfo};
use mesh_messages::units::Span;
use mesh_persistence::{RevocationError, order_revocation};
use serde_json::{Map, Value, json};

use crate::client::{Answer, Request};
use crate::exit::{Exit, Failure};
use crate::output::{Screen, Table};
use crate::session::Session;

mod narrow;

/// Commands about tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Issue a token and print it, this once
    #[command(
        after_help = "Examples:\n  meshctl token issue --role viewer --ttl 1h\n  \
        meshctl token issue --role operator --subject ci > ci.token"
    )]
    Issue {
        /// What its bearer may do: viewer, operator, admin, agent or publisher
        #[arg(long, value_name = "ROLE")]
        role: Role,
        /// Its bearer's name in the audit
        #[arg(long, value_name = "NAME")]
        subject: Option<String>,
        /// How long it is valid
        #[arg(long, value_name = "TIME")]
        ttl: Option<Span>,
        /// Let its holder narrow it, offline, with `meshctl token narrow`
        #[arg(long)]
        attenuable: bool,
    },
    /// Print a token that does less than the one given; needs no daemon, and the one given stays as it is
    #[command(
        after_help = "Examples:\n  meshctl token narrow @ci.token --verb task.submit --task-type 'billing.*' --ttl 1h\n  \
        meshctl token narrow - --agent echo --hops 0 < ci.token\n\n\
        A token that limits tasks or agents and names no verbs is for these alone. No narrowed token issues tokens,\n\
        changes keys or policy, or starts workflows, plans and schedules."
    )]
    Narrow(Box<narrow::Narrow>),
    /// Show what a token of `--attenuable` says, and whether its signatures hold; needs no daemon
    #[command(after_help = "Example:\n  meshctl token inspect @ci.token")]
    Inspect(Box<narrow::Inspect>),
    /// List tokens, without their secrets
    #[command(after_help = "Example:\n  meshctl token list")]
    List,
    /// Void a token; with the id of a block, all that was derived from that block
    #[command(after_help = "Examples:\n  meshctl token revoke 01932c07aa10b2f4\n  \
        meshctl token revoke 01932c07aa10b2f4 --offline --data /var/lib/meshd\n\n\
        A token that an agent was given with its handshake ends the agent's incarnation, too, which is begun anew.")]
    Revoke {
        /// The token's id, as the list shows it, or a block's, as `token inspect` does
        id: String,
        /// Leave the order in the data directory (--data), where no daemon runs; it is carried out at the next start
        #[arg(long)]
        offline: bool,
    },
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::List)
    }
}

/// Runs one of them.
pub(super) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Issue {
            role,
            subject,
            ttl,
            attenuable,
        } => issue(*role, subject.as_deref(), (*ttl, *attenuable), session),
        Command::Narrow(order) => narrow::narrow(order, session),
        Command::Inspect(asked) => narrow::inspect(&asked.token, asked.node.as_ref(), session),
        Command::List => list(session),
        Command::Revoke { id, offline: true } => revoke_offline(id, session),
        Command::Revoke { id, offline: false } => {
            let answer = session.send(&Request::delete(&["v1", "tokens", id]))?;
            session.out.show(&answer, || {
                Ok(Screen::confirmation(format!("token {id} revoked"), id))
            })
        }
    }
}

/// Orders it where no daemon runs.
fn revoke_offline(id: &str, session: &mut Session) -> Result<(), Failure> {
    let data = session.data_dir();
    order_revocation(&data, id).map_err(|error| {
        let mut message = error.to_string();
        if let Some(source) = error.source() {
            message = format!("{message}: {source}");
        }
        match error {
            RevocationError::NoId(_) => {
                Failure::new(Exit::Usage, message).hint("`meshctl token list` shows the ids")
            }
            RevocationError::NoData(_) => {
                Failure::new(Exit::Usage, message).hint("name the data directory with --data")
            }
            RevocationError::InUse(_) => Failure::new(Exit::Conflict, message)
                .hint("leave --offline out: the daemon voids it at once"),
            RevocationError::Full => Failure::new(Exit::Conflict, message),
            _ => Failure::new(Exit::Failed, message),
        }
    })?;
    let answer = Answer::from_value(&json!({ "id": id, "revoked": false, "ordered": true }));
    session.out.show(&answer, || {
        let sentence = format!("token {id} is void from the next start of meshd on");
        Ok(Screen::confirmation(sentence, id))
    })
}

fn issue(
    role: Role,
    subject: Option<&str>,
    (ttl, attenuable): (Option<Span>, bool),
    session: &mut Session,
) -> Result<(), Failure> {
    let mut body = Map::new();
    body.insert("role".to_owned(), role.name().into());
    body.extend(subject.map(|subject| ("subject".to_owned(), subject.into())));
    body.extend(ttl.map(|ttl| ("ttl".to_owned(), ttl.to_string().into())));
    if attenuable {
        body.insert("attenuable".to_owned(), true.into());
    }
    let answer = session.send(&Request::post(&["v1", "tokens"]).json(&Value::Object(body)))?;
    let issued: IssuedToken = answer.read()?;
    let until = issued
        .expires
        .map_or_else(|| "for good".to_owned(), |end| format!("until {end}"));
    session.out.note(&format!(
        "token {} for the role {}, valid {until}; it is not shown again",
        issued.id,
        issued.role.name()
    ));
    session.out.show(&answer, || {
        Ok(Screen::new()
            .line(&issued.token)
            .named([issued.id.as_str()]))
    })
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "tokens"]), usize::MAX)?;
    session.out.show(&answer, || {
        let tokens: Vec<TokenInfo> = answer.rows()?;
        let mut table = Table::new(&["ID", "KIND", "ROLE", "SUBJECT", "EXPIRES", "REVOKED"]);
        for token in &tokens {
            table.row([
                token.id.as_str().into(),
                token.kind.name().into(),
                token.role.name().into(),
                token.subject.as_str().into(),
                token.expires.into(),
                if token.revoked { "yes" } else { "no" }.into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(tokens.iter().map(|token| token.id.as_str())))
    })
}
