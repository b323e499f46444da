//! Exporting the log.

use std::path::{Path, PathBuf};

use mesh_persistence::witnessed_size;

use super::verify::read_witness;
use crate::client::Request;
use crate::commands::export;
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// What to export, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Only the records of this agent, each with its proof
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// With --agent: checkpoints that somebody else kept; the export then proves that the log continues the largest of them
    #[arg(long, value_name = "FILE", requires = "agent")]
    witness: Option<PathBuf>,
    /// The file to write; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Export, session: &mut Session) -> Result<(), Failure> {
    let witnessed = arguments.witness.as_deref().map(seen).transpose()?;
    let witnessed = witnessed.flatten().map(|size| size.to_string());
    let request = Request::get(&["v1", "audit", "export"])
        .query("agent", arguments.agent.as_deref())
        .query("witnessed", witnessed.as_deref());
    export::save(&request, arguments.out.as_deref(), session)
}

fn seen(path: &Path) -> Result<Option<u64>, Failure> {
    let size = witnessed_size(&read_witness(path)?);
    size.map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))
}
