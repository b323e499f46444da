//! Erasing content for ever, by order.

use clap::ArgGroup;
use mesh_messages::TaskId;
use mesh_messages::address::Address;
use mesh_messages::erasure::{ErasureOrder, ErasureReport};
use serde_json::json;

use crate::client::Request;
use crate::exit::Failure;
use crate::output::Screen;
use crate::session::Session;

/// What to erase, and why.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").required(true).args(["task", "subject"]))]
pub(crate) struct Erase {
    /// This task, which must have ended, and the messages that name it
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// The ended tasks that this submitter submitted, and the messages from and to it, such as user:ada
    #[arg(long, value_name = "ADDRESS")]
    subject: Option<Address>,
    /// Why, for the log; this is not erased
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) fn run(arguments: &Erase, session: &mut Session) -> Result<(), Failure> {
    let order = ErasureOrder {
        task: arguments.task.clone(),
        subject: arguments.subject.clone(),
        reason: arguments.reason.clone(),
    };
    let answer = session.send(&Request::post(&["v1", "erasures"]).json(&json!(order)))?;
    session.out.show(&answer, || {
        let ErasureReport {
            tasks,
            records,
            pending_tasks,
            pending_messages,
            ..
        } = answer.read()?;
        let mut screen = Screen::new().line(format!("erased {records} records, {tasks} tasks"));
        for task in &pending_tasks {
            screen = screen.line(format!("left as it is: task {task} has not ended"));
        }
        if pending_messages > 0 {
            let text = "messages are too young, or not delivered yet; ask again later";
            screen = screen.line(format!("left as they are: {pending_messages} {text}"));
        }
        Ok(screen.named([records.to_string()]))
    })
}
