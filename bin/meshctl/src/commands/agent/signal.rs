//! `meshctl agent signal`: a signal to an agent's own process.

use mesh_messages::signal::{AgentSignal, SignalSent};
use serde_json::json;

use super::Id;
use crate::client::Request;
use crate::exit::Failure;
use crate::output::Screen;
use crate::session::Session;

/// Which signal, and to whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Signal {
    #[command(flatten)]
    agent: Id,
    /// HUP, INT, QUIT, TERM, USR1, USR2 or WINCH; SIGHUP is the same
    #[arg(value_name = "SIGNAL", value_parser = named)]
    signal: AgentSignal,
    /// To this instance alone
    #[arg(long, value_name = "NUMBER")]
    instance: Option<u32>,
}

fn named(text: &str) -> Result<AgentSignal, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(signal) = AgentSignal::ALL
        .into_iter()
        .find(|signal| signal.name() == name)
    {
        return Ok(signal);
    }
    Err(match name {
        "KILL" => "`meshctl agent restart` and `stop` end processes".to_owned(),
        "STOP" | "TSTP" => "`meshctl agent pause` freezes processes".to_owned(),
        "CONT" => "`meshctl agent resume` lets processes go on".to_owned(),
        _ => {
            let all = AgentSignal::ALL.map(AgentSignal::name).join(", ");
            format!("it is one of {all}")
        }
    })
}

pub(super) fn signal(arguments: &Signal, session: &mut Session) -> Result<(), Failure> {
    let id = &arguments.agent.id;
    let mut body = json!({ "signal": arguments.signal });
    if let Some(instance) = arguments.instance {
        body["instance"] = instance.into();
    }
    let request = Request::post(&["v1", "agents", id, "signal"]).json(&body);
    let answer = session.send(&request)?;
    session.out.show(&answer, || {
        let sent: SignalSent = answer.read()?;
        let whom: Vec<String> = sent
            .instances
            .iter()
            .map(|one| one.instance.to_string())
            .collect();
        let sentence = format!(
            "{id} got {} (instance {})",
            sent.signal.name(),
            whom.join(", ")
        );
        Ok(Screen::confirmation(sentence, id))
    })
}
