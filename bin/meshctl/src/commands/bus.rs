//! `meshctl bus`: who gets what, durable subscriptions, dead letters, and the ways of messages.

use std::time::Duration;

use clap::Subcommand;
use mesh_messages::bus::{AckOutcome, DeadLetter, MessageTrace, Pulled, Route, SubscriptionView};
use serde_json::{Map, Value, json};

use crate::client::Request;
use crate::exit::Failure;
use crate::output::{Screen, Table, compact};
use crate::session::Session;

/// Rows of a list that are asked for.
const ROWS_MAX: usize = 1000;

/// Commands about the bus.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List who gets what, and what waits for them
    #[command(after_help = "Examples:\n  meshctl bus routes\n  meshctl bus routes --watch")]
    Routes,
    /// Show the way of a message, and of its conversation when that is traced
    #[command(after_help = "Examples:\n  meshctl bus trace 0190a1b2-0000-7000-8000-000000000001")]
    Trace {
        /// The envelope's id
        #[arg(value_name = "MESSAGE")]
        message: String,
    },
    /// See and settle messages that nobody got, or nobody acknowledged
    #[command(subcommand)]
    Dead(Dead),
    /// Make, use and remove durable subscriptions
    #[command(subcommand)]
    Subscription(Box<Subscription>),
}

/// Commands about dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List them, oldest first
    #[command(after_help = "Examples:\n  meshctl bus dead list")]
    List,
    /// Put one back into its subscription
    #[command(after_help = "Examples:\n  meshctl bus dead retry 1234")]
    Retry {
        /// The letter, as `bus dead list` names it
        #[arg(value_name = "ID")]
        id: u64,
    },
    /// Give one up for good
    #[command(after_help = "Examples:\n  meshctl bus dead drop 1234")]
    Drop {
        /// The letter, as `bus dead list` names it
        #[arg(value_name = "ID")]
        id: u64,
    },
}

/// Commands about durable subscriptions.
#[derive(Debug, Subcommand)]
pub(crate) enum Subscription {
    /// List them, with what waits in them
    #[command(after_help = "Examples:\n  meshctl bus subscription list")]
    List,
    /// Make one
    #[command(
        after_help = "Examples:\n  meshctl bus subscription create 'orders.*' --name orders --from earliest"
    )]
    Create {
        /// The topic, * standing for one segment and a last > for the rest
        #[arg(value_name = "TOPIC")]
        topic: String,
        /// Its name; the topic when absent
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Where it begins: now, earliest, or the position of a record
        #[arg(long, value_name = "WHERE", default_value = "now")]
        from: String,
        /// Milliseconds until what was not acknowledged comes again
        #[arg(long, value_name = "MS")]
        ack_timeout_ms: Option<u64>,
        /// Messages in hand at once, at most
        #[arg(long, value_name = "N")]
        max_unacked: Option<u32>,
        /// Deliveries of one message before it is a dead letter
        #[arg(long, value_name = "N")]
        max_deliver: Option<u32>,
        /// Messages that it holds
        #[arg(long, value_name = "N")]
        max_queue: Option<u32>,
        /// Refuse publishers when it is full, rather than drop the oldest message
        #[arg(long)]
        reject: bool,
    },
    /// Remove one, and what waits in it
    #[command(after_help = "Examples:\n  meshctl bus subscription delete orders")]
    Delete {
        /// Its id, or the name of one of one's own
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Take messages, and acknowledge them when asked to
    #[command(
        after_help = "Examples:\n  meshctl bus subscription pull orders --max 10 --wait-seconds 30 --ack"
    )]
    Pull {
        /// Its id, or the name of one of one's own
        #[arg(value_name = "ID")]
        id: String,
        /// Messages at most
        #[arg(long, value_name = "N", default_value = "1")]
        max: u32,
        /// Seconds to wait for the first one
        #[arg(long, value_name = "SECONDS", default_value = "0")]
        wait_seconds: u64,
        /// Acknowledge them at once: they do not come again, whatever becomes of the output
        #[arg(long)]
        ack: bool,
    },
    /// Acknowledge messages by their tokens
    #[command(after_help = "Examples:\n  meshctl bus subscription ack orders 1234-1 1240-2")]
    Ack {
        /// Its id, or the name of one of one's own
        #[arg(value_name = "ID")]
        id: String,
        /// The tokens that came with them
        #[arg(value_name = "TOKEN", required = true)]
        tokens: Vec<String>,
    },
    /// Give messages back: they come again
    #[command(
        after_help = "Examples:\n  meshctl bus subscription nack orders 1234-1 --delay-ms 5000"
    )]
    Nack {
        /// Its id, or the name of one of one's own
        #[arg(value_name = "ID")]
        id: String,
        /// The tokens that came with them
        #[arg(value_name = "TOKEN", required = true)]
        tokens: Vec<String>,
        /// Milliseconds until they come again
        #[arg(long, value_name = "MS")]
        delay_ms: Option<u64>,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

impl Command {
    /// Whether it shows a state.
    pub(crate) fn is_watchable(&self) -> bool {
        match self {
            Self::Routes | Self::Trace { .. } | Self::Dead(Dead::List) => true,
            Self::Subscription(command) => matches!(**command, Subscription::List),
            Self::Dead(_) => false,
        }
    }
}

/// Runs one of them.
pub(crate) fn run(command: &Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Routes => routes(session),
        Command::Trace { message } => trace(message, session),
        Command::Dead(Dead::List) => dead(session),
        Command::Dead(Dead::Retry { id }) => {
            let id = id.to_string();
            let request = Request::post(&["v1", "bus", "dead", &id, "retry"]);
            confirm(
                &request,
                &format!("dead letter {id} put back"),
                &id,
                session,
            )
        }
        Command::Dead(Dead::Drop { id }) => {
            let id = id.to_string();
            let request = Request::delete(&["v1", "bus", "dead", &id]);
            confirm(&request, &format!("dead letter {id} dropped"), &id, session)
        }
        Command::Subscription(command) => subscription(command, session),
    }
}

fn confirm(
    request: &Request,
    said: &str,
    name: &str,
    session: &mut Session,
) -> Result<(), Failure> {
    let answer = session.send(request)?;
    session
        .out
        .show(&answer, || Ok(Screen::confirmation(said, name)))
}

fn subscription(command: &Subscription, session: &mut Session) -> Result<(), Failure> {
    match command {
        Subscription::List => subscriptions(session),
        Subscription::Create { .. } => create(command, session),
        Subscription::Delete { id } => {
            let request = Request::delete(&["v1", "subscriptions", id]);
            confirm(&request, &format!("subscription {id} removed"), id, session)
        }
        Subscription::Pull {
            id,
            max,
            wait_seconds,
            ack,
        } => pull(id, (*max, *wait_seconds), *ack, session),
        Subscription::Ack { id, tokens } => {
            settle((id, "ack"), &json!({ "tokens": tokens }), session)
        }
        Subscription::Nack {
            id,
            tokens,
            delay_ms,
            reason,
        } => {
            let body = json!({ "tokens": tokens, "delayMs": delay_ms, "reason": reason });
            settle((id, "nack"), &body, session)
        }
    }
}

fn create(command: &Subscription, session: &mut Session) -> Result<(), Failure> {
    let Subscription::Create {
        topic,
        name,
        from,
        ack_timeout_ms,
        max_unacked,
        max_deliver,
        max_queue,
        reject,
    } = command
    else {
        return Ok(());
    };
    let from: Value = from
        .parse::<u64>()
        .map_or_else(|_| from.as_str().into(), Value::from);
    let mut body = Map::from_iter([
        ("topic".to_owned(), json!(topic)),
        ("from".to_owned(), from),
    ]);
    let numbers = [
        ("ackTimeoutMs", *ack_timeout_ms),
        ("maxUnacked", max_unacked.map(u64::from)),
        ("maxDeliver", max_deliver.map(u64::from)),
        ("maxQueue", max_queue.map(u64::from)),
    ];
    for (field, number) in numbers {
        body.extend(number.map(|number| (field.to_owned(), json!(number))));
    }
    body.extend(name.as_ref().map(|name| ("name".to_owned(), json!(name))));
    body.extend(reject.then(|| ("overflow".to_owned(), json!("reject"))));
    let answer = session.send(&Request::post(&["v1", "subscriptions"]).json(&body.into()))?;
    session.out.show(&answer, || {
        let view: SubscriptionView = answer.read()?;
        let text = format!("subscription {} on {}", view.terms.id, view.terms.topic);
        Ok(Screen::confirmation(text, &view.terms.id))
    })
}

fn pull(
    id: &str,
    (max, wait): (u32, u64),
    ack: bool,
    session: &mut Session,
) -> Result<(), Failure> {
    let request = Request::post(&["v1", "subscriptions", id, "pull"])
        .query("max", Some(max))
        .query("wait", Some(format!("{wait}s")))
        .wait(Duration::from_secs(wait));
    let answer = session.send(&request)?;
    let pulled: Pulled = answer.read()?;
    if ack && !pulled.messages.is_empty() {
        let tokens: Vec<&str> = pulled.messages.iter().map(|m| &*m.token).collect();
        let body = json!({ "tokens": tokens });
        session.send(&Request::post(&["v1", "subscriptions", id, "ack"]).json(&body))?;
    }
    session.out.show(&answer, || {
        let mut table = Table::new(&["TOKEN", "DELIVERY", "FROM", "TO", "PAYLOAD"]);
        for message in &pulled.messages {
            let field = |name: &str| {
                let value = message.envelope.get(name).and_then(Value::as_str);
                value.unwrap_or_default().to_owned()
            };
            let payload = message.envelope.get("payload").unwrap_or(&Value::Null);
            table.row([
                message.token.as_str().into(),
                message.delivery.to_string().into(),
                field("from").into(),
                field("to").into(),
                compact(payload).into(),
            ]);
        }
        let names = pulled.messages.iter().map(|message| message.token.as_str());
        Ok(Screen::new().table(table).named(names))
    })
}

fn settle((id, verb): (&str, &str), body: &Value, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::post(&["v1", "subscriptions", id, verb]).json(body))?;
    session.out.show(&answer, || {
        let outcome: AckOutcome = answer.read()?;
        let mut text = format!("{} settled", outcome.done.len());
        if !outcome.stale.is_empty() {
            text = format!("{text}, not in hand any more: {}", outcome.stale.join(" "));
        }
        Ok(Screen::confirmation(text, id))
    })
}

fn routes(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "bus", "routes"]), ROWS_MAX)?;
    session.out.show(&answer, || {
        let routes: Vec<Route> = answer.rows()?;
        let mut table = Table::new(&["TO", "KIND", "SUBSCRIBER", "QUEUED", "UNACKED", "OLDEST"]);
        for route in &routes {
            let oldest = route.oldest.map(|at| at.to_string()).unwrap_or_default();
            table.row([
                route.pattern.as_str().into(),
                route.kind.name().into(),
                route
                    .subscription
                    .as_deref()
                    .unwrap_or(&route.subscriber)
                    .into(),
                route.queued.to_string().into(),
                route.unacked.to_string().into(),
                oldest.into(),
            ]);
        }
        let names = routes.iter().map(|route| route.pattern.as_str());
        Ok(Screen::new().table(table).named(names))
    })
}

fn subscriptions(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "subscriptions"]), ROWS_MAX)?;
    session.out.show(&answer, || {
        let views: Vec<SubscriptionView> = answer.rows()?;
        let mut table = Table::new(&[
            "ID",
            "TOPIC",
            "QUEUED",
            "UNACKED",
            "DELIVERED",
            "AGAIN",
            "ACKED",
            "DEAD",
        ]);
        for view in &views {
            table.row([
                view.terms.id.as_str().into(),
                view.terms.topic.as_str().into(),
                view.queued.to_string().into(),
                view.unacked.to_string().into(),
                view.delivered.to_string().into(),
                view.redelivered.to_string().into(),
                view.acked.to_string().into(),
                view.dead.to_string().into(),
            ]);
        }
        let names = views.iter().map(|view| view.terms.id.as_str());
        Ok(Screen::new().table(table).named(names))
    })
}

fn dead(session: &mut Session) -> Result<(), Failure> {
    let answer = session.pages(&Request::get(&["v1", "bus", "dead"]), ROWS_MAX)?;
    session.out.show(&answer, || {
        let letters: Vec<DeadLetter> = answer.rows()?;
        let mut table = Table::new(&[
            "ID",
            "AT",
            "REASON",
            "FROM",
            "FOR",
            "DELIVERIES",
            "LAST CAUSE",
        ]);
        for letter in &letters {
            let cause = letter.causes.last().map(|cause| cause.why.as_str());
            table.row([
                letter.id.to_string().into(),
                letter.at.to_string().into(),
                letter.reason.as_str().into(),
                letter.from.as_str().into(),
                letter.subscription.as_deref().unwrap_or(&letter.to).into(),
                letter.deliveries.to_string().into(),
                cause.unwrap_or_default().into(),
            ]);
        }
        let names = letters.iter().map(|letter| letter.id.to_string());
        Ok(Screen::new().table(table).named(names))
    })
}

fn trace(message: &str, session: &mut Session) -> Result<(), Failure> {
    let answer = session.send(&Request::get(&["v1", "messages", message, "trace"]))?;
    session.out.show(&answer, || {
        let trace: MessageTrace = answer.read()?;
        let mut table = Table::new(&[
            "RECORD", "AT", "STEP", "MESSAGE", "FROM", "TO", "BY", "NOTE", "PAYLOAD",
        ]);
        for hop in &trace.hops {
            table.row([
                hop.position.to_string().into(),
                hop.at.to_string().into(),
                hop.kind.as_str().into(),
                hop.message.as_str().into(),
                hop.from.as_str().into(),
                hop.to.as_str().into(),
                hop.by.as_deref().unwrap_or_default().into(),
                hop.note.as_deref().unwrap_or_default().into(),
                hop.payload.as_ref().map(compact).unwrap_or_default().into(),
            ]);
        }
        let names = trace.hops.iter().map(|hop| hop.position.to_string());
        Ok(Screen::new().table(table).named(names))
    })
}
