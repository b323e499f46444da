//! `meshctl service`: what is called over HTTP beside the agents.

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Subcommand;
use mesh_messages::service::{ServiceReply, ServiceStatus, ServiceView};
use serde_json::json;

use crate::client::Request;
use crate::exit::Failure;
use crate::input;
use crate::output::{Cell, Screen, Table};
use crate::session::Session;

const ADD_HELP: &str = "\
FILE is a definition in YAML or JSON, or - for standard input:

  id: geocoder
  name: Geocoder
  type: utility                # llm, image, vector or utility
  capabilities: [geocode]
  endpoints:
    - {name: find, url: 'https://geo.example/find', method: GET}
  auth: {type: bearer, secret: geo-key}   # or header, basic, query; none when absent
  health: {url: 'https://geo.example/health', intervalMs: 30000}

A definition that makes no sense is refused as a whole. One whose service does not answer is
registered, in status error, and called as soon as a check passes. The secret is set apart:
meshctl secret set geo-key --service geocoder < key

Examples:
  meshctl service add geocoder.yaml
  meshctl service add geocoder.yaml --replace";

const CALL_HELP: &str = "\
What the service answers is printed alone. GET and DELETE take an object, which becomes the query; the
others send what they are given as JSON.

Examples:
  meshctl service call geocoder find --params '{\"q\": \"Vienna\"}'
  meshctl service call summarizer run --params @text.json
  echo '{\"text\": \"…\"}' | meshctl service call summarizer run --params -";

/// Commands about services.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List services, with how each stands
    #[command(
        after_help = "Examples:\n  meshctl service list\n  meshctl service list --capability geocode --watch"
    )]
    List {
        /// Only those with this capability
        #[arg(long, value_name = "NAME")]
        capability: Option<String>,
        /// Only those that stand so: active, inactive or error
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        /// Rows to show at most
        #[arg(long, default_value = "100", value_name = "N")]
        limit: NonZeroUsize,
    },
    /// Show a service: its endpoints, its latest check, its circuit breaker
    #[command(after_help = "Example:\n  meshctl service show geocoder")]
    Show {
        /// Its id
        id: String,
    },
    /// Register a service, check it, and print how it stands
    #[command(after_help = ADD_HELP)]
    Add {
        /// The definition
        file: PathBuf,
        /// Replace the definition of the service that has its id
        #[arg(long)]
        replace: bool,
    },
    /// Remove a service
    #[command(after_help = "Example:\n  meshctl service remove geocoder")]
    Remove {
        /// Its id
        id: String,
    },
    /// Check a service now
    #[command(after_help = "Example:\n  meshctl service check geocoder")]
    Check {
        /// Its id
        id: String,
    },
    /// Call an endpoint of a service and print its answer
    #[command(after_help = CALL_HELP)]
    Call(Call),
}

/// What to call.
#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The service
    id: String,
    /// The endpoint
    endpoint: String,
    /// What it is called with: JSON, @FILE with JSON, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    params: Option<String>,
    /// Sent as Idempotency-Key; a new one for each call when absent
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. })
    }
}

/// Runs one of them.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::List {
            capability,
            status,
            limit,
        } => {
            let request = Request::get(&["v1", "services"])
                .query("capability", capability.as_deref())
                .query("status", status.as_deref());
            list(&request, limit.get(), session)
        }
        Command::Show { id } => {
            let answer = session.send(&Request::get(&["v1", "services", id]))?;
            session.out.show(&answer, || Ok(screen(&answer.read()?)))
        }
        Command::Add { file, replace } => {
            let definition = input::yaml(file, &mut io::stdin())?;
            let id = definition["id"].as_str().unwrap_or_default().to_owned();
            let request = if *replace {
                Request::put(&["v1", "services", &id])
            } else {
                Request::post(&["v1", "services"])
            };
            standing(&request.json(&definition), session)
        }
        Command::Remove { id } => {
            let answer = session.send(&Request::delete(&["v1", "services", id]))?;
            session.out.show(&answer, || {
                Ok(Screen::confirmation(format!("service {id} removed"), id))
            })
        }
        Command::Check { id } => {
            standing(&Request::post(&["v1", "services", id, "check"]), session)
        }
        Command::Call(arguments) => call(arguments, session),
    }
}

fn call(arguments: &Call, session: &mut Session) -> Result<(), Failure> {
    let mut body = json!({ "endpoint": arguments.endpoint });
    if let Some(params) = &arguments.params {
        body["params"] = input::document(params, &mut io::stdin())?;
    }
    if let Some(key) = &arguments.idempotency_key {
        body["idempotencyKey"] = json!(key);
    }
    let request = Request::post(&["v1", "services", &arguments.id, "call"]).json(&body);
    let answer = session.send(&request)?;
    session.out.show(&answer, || {
        let reply: ServiceReply = answer.read()?;
        let text = serde_json::to_string_pretty(&reply.output).unwrap_or_default();
        Ok(Screen::new().line(text).named([reply.service.as_str()]))
    })
}

/// Sends, and says in a line how the service stands.
fn standing(request: &Request, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(request)?;
    session.out.show(&answer, || {
        let service: ServiceView = answer.read()?;
        let text = match (&service.fault, service.status) {
            (Some(fault), ServiceStatus::Error) => {
                format!("service {} is in error: {}", service.id, fault.reason)
            }
            (_, status) => format!("service {} is {}", service.id, status.name()),
        };
        Ok(Screen::confirmation(text, service.id.as_str()))
    })
}

fn list(request: &Request, limit: usize, session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(request, limit)?;
    session.out.show(&answer, || {
        let services: Vec<ServiceView> = answer.rows()?;
        if services.is_empty() {
            return Ok(Screen::new()
                .line("no services")
                .named(Vec::<String>::new()));
        }
        let mut table = Table::new(&[
            "ID",
            "TYPE",
            "STATUS",
            "BREAKER",
            "CAPABILITIES",
            "ENDPOINTS",
        ]);
        for service in &services {
            let endpoints = service
                .endpoints
                .iter()
                .map(|endpoint| endpoint.name.as_str());
            table.row([
                service.id.as_str().into(),
                service.kind.name().into(),
                Cell::state(service.status.name()),
                Cell::state(service.breaker.state.name()),
                service.capabilities.join(" ").into(),
                endpoints.collect::<Vec<_>>().join(" ").into(),
            ]);
        }
        Ok(Screen::new()
            .table(table)
            .named(services.iter().map(|service| service.id.as_str())))
    })
}

fn screen(service: &ServiceView) -> Screen {
    let mut about = Table::new(&[]);
    let mut pair = |name: &str, cell: Cell| about.row([name.into(), cell]);
    pair("id", service.id.as_str().into());
    pair("name", service.name.as_str().into());
    pair("type", service.kind.name().into());
    pair("status", Cell::state(service.status.name()));
    if let Some(fault) = &service.fault {
        pair(
            "fault",
            format!("{}, since {}", fault.reason, fault.since).into(),
        );
    }
    if let Some(at) = service.checked_at {
        let took = service.check_ms.unwrap_or_default();
        pair("checked", format!("{at}, took {took} ms").into());
    }
    pair("breaker", Cell::state(service.breaker.state.name()));
    if let Some(at) = service.breaker.retry_at {
        pair("retry", at.to_string().into());
    }
    pair("capabilities", service.capabilities.join(" ").into());
    let auth = match service.auth.secret() {
        Some(secret) => format!("{}, secret {secret}", service.auth.name()),
        None => "none".to_owned(),
    };
    pair("auth", auth.into());
    if let Some(rate) = service.rate {
        pair("rate", format!("{} a second", rate.per_second).into());
    }
    pair(
        "version",
        format!("{} by {}", service.version, service.by).into(),
    );
    let mut endpoints = Table::new(&["ENDPOINT", "METHOD", "URL", "TRIED AGAIN"]);
    for endpoint in &service.endpoints {
        endpoints.row([
            endpoint.name.as_str().into(),
            endpoint.method.name().into(),
            endpoint.url.as_str().into(),
            if endpoint.is_idempotent() {
                "yes"
            } else {
                "no"
            }
            .into(),
        ]);
    }
    Screen::new()
        .table(about)
        .line("")
        .table(endpoints)
        .named([service.id.as_str()])
}
