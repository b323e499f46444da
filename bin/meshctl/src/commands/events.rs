//! `meshctl events`: what happens, as it happens.

use std::io::BufRead;
use std::num::NonZeroU64;

use mesh_messages::system::MeshEvent;
use serde_json::Value;

use crate::client::{EventReader, Request, RequestError};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Screen, compact};
use crate::session::{Pauses, Session};

/// How often in a row a lost stream is opened again, a second apart at last: meshd restarts within that time.
const RECONNECTS_MAX: u32 = 60;

const AFTER_HELP: &str = "\
Goes on until Ctrl-C, over interruptions. With -o json every event is a line of JSON.

Examples:
  meshctl events --topic 'agent.echo.*'
  meshctl events --since 0 --count 10 -o json";

/// Which events.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Events {
    /// Only events of this topic; * stands for one or more segments
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Begin with the events after this position in the log
    #[arg(long, value_name = "POSITION")]
    since: Option<u64>,
    /// End after this many events
    #[arg(long, value_name = "N")]
    count: Option<NonZeroU64>,
}

/// `meshctl events`.
pub(super) fn run(arguments: &Events, session: &mut Session) -> Result<(), Failure> {
    let request = Request::get(&["v1", "events"]).query("topic", arguments.topic.as_deref());
    let mut after = arguments.since.map(|position| position.to_string());
    let mut left = arguments.count.map(NonZeroU64::get);
    let mut pauses = Pauses::new();
    let mut lost = 0;
    loop {
        let opened = session
            .client()?
            .stream(&request.clone().after_event(after.as_deref()));
        let ended = match opened {
            Ok(stream) => {
                if lost > 0 {
                    session.out.note("connected again");
                }
                (lost, pauses) = (0, Pauses::new());
                let mut reader = EventReader::new(stream);
                let ended = print(&mut reader, &mut left, session)?;
                after = reader.last_id().map(str::to_owned).or(after);
                if left == Some(0) {
                    return Ok(());
                }
                ended
            }
            // Whoever was never there is not waited for.
            Err(RequestError::Unreachable { reason, .. }) if lost > 0 => reason,
            Err(RequestError::Lost { reason, .. }) => reason,
            Err(error) => return Err(error.into()),
        };
        if lost == 0 {
            session
                .out
                .note(&format!("the stream ended ({ended}); connecting again"));
        }
        lost += 1;
        if lost > RECONNECTS_MAX {
            return Err(Failure::new(
                Exit::Unreachable,
                format!("the stream ended and stays away: {ended}"),
            ));
        }
        pauses.pause(std::time::Duration::MAX);
    }
}

/// Prints events until there are enough, or until the stream ends; says why it did.
fn print(
    reader: &mut EventReader<impl BufRead>,
    left: &mut Option<u64>,
    session: &mut Session,
) -> Result<String, Failure> {
    for data in reader {
        let data = match data {
            Ok(data) => data,
            Err(error) => return Ok(error.to_string()),
        };
        show(&data, session)?;
        if let Some(left) = left {
            *left -= 1;
            if *left == 0 {
                break;
            }
        }
    }
    Ok("meshd closed it".to_owned())
}

fn show(data: &str, session: &mut Session) -> Result<(), Failure> {
    let unreadable = |error| {
        Failure::new(
            Exit::Bug,
            format!("an event has another form than expected: {error}"),
        )
    };
    match session.out.format() {
        Format::Json | Format::Yaml => {
            let value: Value = serde_json::from_str(data).map_err(unreadable)?;
            if session.out.format() == Format::Json {
                // One line each, on a terminal too: it is a stream.
                session.out.line(&value.to_string())?;
            } else {
                session.out.line("---")?;
                session.out.value(&value)?;
            }
        }
        Format::Table | Format::Name => {
            let event: MeshEvent = serde_json::from_str(data).map_err(unreadable)?;
            let name = event.id.map(|id| id.to_string());
            let line = format!("{} {} {}", event.time, event.topic, compact(&event.data));
            session.out.screen(&Screen::new().line(line).named(name))?;
        }
    }
    session.out.flush()
}
