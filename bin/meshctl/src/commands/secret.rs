//! `meshctl secret`: what agents may use and nobody may see.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Subcommand;
use mesh_messages::secret::SecretInfo;
use serde_json::json;

use crate::client::Request;
use crate::exit::{Exit, Failure};
use crate::output::{Screen, Table};
use crate::session::Session;

/// Largest value that meshd takes.
const VALUE_BYTES_MAX: u64 = 64 * 1024;

/// Commands about secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set a secret, and who may use it; the value is read from standard input or a file, never from an argument
    #[command(
        after_help = "Examples:\n  meshctl secret set weather-key --agent reporter --domain api.weather.example < key\n  \
        meshctl secret set db-password --agent crm --file /root/db-password\n  \
        meshctl secret set geo-key --service geocoder --domain geo.example < key"
    )]
    Set {
        /// Its name, as a manifest refers to it behind `vault:`
        name: String,
        /// A file with the value; standard input without it. One newline at the end is left out
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// An agent that may use it; may be repeated
        #[arg(long = "agent", value_name = "ID")]
        agents: Vec<String>,
        /// A registered service that is called with it; may be repeated
        #[arg(long = "service", value_name = "ID")]
        services: Vec<String>,
        /// Every agent and service may use it
        #[arg(long, conflicts_with_all = ["agents", "services"])]
        any_agent: bool,
        /// A domain to whose requests it is added, and then it is never given as a file; may be repeated
        #[arg(long = "domain", value_name = "DOMAIN")]
        domains: Vec<String>,
    },
    /// List secrets, without their values
    #[command(after_help = "Example:\n  meshctl secret list")]
    List,
    /// Delete a secret
    #[command(after_help = "Example:\n  meshctl secret delete weather-key")]
    Delete {
        /// Its name
        name: String,
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
        Command::Set {
            name,
            file,
            agents,
            services,
            any_agent,
            domains,
        } => {
            let value = value(file.as_ref())?;
            let agents: Vec<String> = if *any_agent {
                vec!["*".to_owned()]
            } else {
                let services = services.iter().map(|id| format!("service:{id}"));
                agents.iter().cloned().chain(services).collect()
            };
            let body = json!({ "value": value, "agents": agents, "domains": domains });
            let answer = session.send(&Request::put(&["v1", "secrets", name]).json(&body))?;
            let info: SecretInfo = answer.read()?;
            if agents.is_empty() {
                session.out.note(
                    "nobody may use it yet: name agents with --agent, services with --service",
                );
            }
            let line = format!("secret {} set, version {}", info.name, info.version);
            session
                .out
                .show(&answer, || Ok(Screen::confirmation(line, name)))
        }
        Command::List => list(session),
        Command::Delete { name } => {
            let answer = session.send(&Request::delete(&["v1", "secrets", name]))?;
            session.out.show(&answer, || {
                Ok(Screen::confirmation(format!("secret {name} deleted"), name))
            })
        }
    }
}

fn value(file: Option<&PathBuf>) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file {
        Some(path) => std::fs::File::open(path)
            .and_then(|file| file.take(VALUE_BYTES_MAX + 2).read_to_string(&mut text))
            .map_err(|error| Failure::file(path, &error))?,
        None => std::io::stdin()
            .take(VALUE_BYTES_MAX + 2)
            .read_to_string(&mut text)
            .map_err(|error| Failure::new(Exit::Failed, format!("standard input: {error}")))?,
    };
    if read == 0 {
        return Err(Failure::usage(
            "the value is empty; give it on standard input or with --file".to_owned(),
        ));
    }
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "secrets"]), usize::MAX)?;
    session.out.show(&answer, || {
        let secrets: Vec<SecretInfo> = answer.rows()?;
        let mut table = Table::new(&["NAME", "AGENTS", "DOMAINS", "VERSION", "UPDATED"]);
        for secret in &secrets {
            table.row([
                secret.name.as_str().into(),
                secret.agents.join(" ").into(),
                secret.domains.join(" ").into(),
                secret.version.to_string().into(),
                Some(secret.updated).into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(secrets.iter().map(|secret| secret.name.as_str())))
    })
}
