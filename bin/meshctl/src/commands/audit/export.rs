//! Exporting the log.

use std::path::PathBuf;

use crate::client::Request;
use crate::commands::export;
use crate::exit::Failure;
use crate::session::Session;

/// What to export, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Only the records of this agent, each with its proof
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// The file to write; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Export, session: &mut Session) -> Result<(), Failure> {
    let request =
        Request::get(&["v1", "audit", "export"]).query("agent", arguments.agent.as_deref());
    export::save(&request, arguments.out.as_deref(), session)
}
