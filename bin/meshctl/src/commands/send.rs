//! `meshctl send`: one KLP envelope.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_messages::Timestamp;
use serde_json::{Map, Value};

use crate::client::Request;
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::{Format, Screen};
use crate::session::Session;

const AFTER_HELP: &str = "\
An envelope without a signature is signed by meshd in your name. What nobody answers within a few seconds gets a receipt.

Examples:
  meshctl send --to kai://agent.echo --type TASK_REQUEST --payload '{\"action\": \"echo\", \"input\": {\"text\": \"hi\"}}'
  meshctl send --to kai://agent.echo --payload '{\"text\": \"hi\"}'
  meshctl send --to topic://news.today --type PUBLISH --payload '{\"topic\": \"news.today\", \"data\": 1}'
  echo '{\"type\": \"MESSAGE\", \"to\": \"kai://agent.echo\", \"payload\": {}}' | meshctl send -";

/// The envelope.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Send {
    /// The whole envelope: JSON, @FILE with JSON, or - for standard input
    #[arg(value_name = "JSON|@FILE|-", required_unless_present = "to", conflicts_with_all = ["to", "from", "kind", "payload", "intent"])]
    envelope: Option<String>,
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "The receiver, such as kai://agent.echo or topic://news.today"
    )]
    to: Option<String>,
    /// The sender, if not yourself; for admins
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "MESSAGE",
        help = "What it is, such as MESSAGE, PUBLISH or TASK_REQUEST"
    )]
    kind: String,
    /// The content: JSON, @FILE with JSON, or - for standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    payload: Option<String>,
    /// What it is for, in a word
    #[arg(long, value_name = "INTENT")]
    intent: Option<String>,
}

/// `meshctl send`.
pub(super) fn run(arguments: &Send, session: &mut Session) -> Result<(), Failure> {
    let envelope = match &arguments.envelope {
        Some(envelope) => input::document(envelope, &mut io::stdin())?,
        None => made(arguments)?,
    };
    let answer = session.send(&Request::post(&["v1", "messages"]).json(&envelope))?;
    if session.out.format() == Format::Table {
        return session.out.value(&answer.value("reply")?);
    }
    session.out.show(&answer, || {
        let reply: Value = answer.read()?;
        Ok(Screen::new().named(reply.get("id").and_then(Value::as_str)))
    })
}

/// An envelope out of the options. Its sender and signature are meshd's to add.
fn made(arguments: &Send) -> Result<Value, Failure> {
    let payload = match &arguments.payload {
        Some(payload) => input::document(payload, &mut io::stdin())?,
        None => Value::Object(Map::new()),
    };
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| {
        Failure::new(
            Exit::Bug,
            format!("the system gives no randomness: {error}"),
        )
    })?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let now = Timestamp::ZERO.plus(now);
    let mut envelope = Map::new();
    let mut field = |name: &str, value: Value| envelope.insert(name.to_owned(), value);
    field("v", 1.into());
    field("id", hex::encode(id).into());
    field("type", arguments.kind.as_str().into());
    field("timestamp", now.to_string().into());
    field("payload", payload);
    let optional = [
        ("to", &arguments.to),
        ("from", &arguments.from),
        ("intent", &arguments.intent),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            field(name, value.as_str().into());
        }
    }
    Ok(Value::Object(envelope))
}
