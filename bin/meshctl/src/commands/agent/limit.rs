//! `meshctl agent limit`: limits of an agent while it runs.

use mesh_messages::limits::{InstanceLimits, LimitsInForce};
use serde_json::{Map, Value, json};

use super::Id;
use crate::client::Request;
use crate::exit::{Exit, Failure};
use crate::output::{Screen, Table};
use crate::session::Session;

/// Which limits, and what they are to be. What is not named stays as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Limit {
    #[command(flatten)]
    pub(super) agent: Id,
    /// Processor time: 500m or 0.5 is half a core
    #[arg(long, value_name = "CORES")]
    cpu: Option<String>,
    /// Memory, such as 256MB
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Processes and threads
    #[arg(long, value_name = "NUMBER")]
    pids: Option<u32>,
    /// What its home may hold, such as 1GB
    #[arg(long, value_name = "BYTES")]
    disk: Option<String>,
    /// Read from disks in a second, and as much written, such as 20MB
    #[arg(long, value_name = "BYTES")]
    io: Option<String>,
    /// Connections to the outside at once
    #[arg(long, value_name = "NUMBER")]
    connections: Option<u32>,
    /// To and from the outside in a second, such as 500KB
    #[arg(long, value_name = "BYTES")]
    bandwidth: Option<String>,
    /// Take back what was said of these: cpu, memory, pids, disk, io, connections, bandwidth
    #[arg(long, value_name = "LIMIT", value_delimiter = ',')]
    reset: Vec<String>,
}

impl Limit {
    fn body(&self) -> Value {
        let mut body = Map::new();
        let texts = [
            ("cpu", &self.cpu),
            ("memory", &self.memory),
            ("disk", &self.disk),
            ("io", &self.io),
            ("bandwidth", &self.bandwidth),
        ];
        for (name, text) in texts {
            let Some(text) = text else { continue };
            // A bare number is one, as in a policy: of cores, or of megabytes.
            let value = serde_json::from_str::<serde_json::Number>(text);
            body.insert(
                name.to_owned(),
                value.map_or_else(|_| json!(text), Value::Number),
            );
        }
        for (name, number) in [("pids", self.pids), ("connections", self.connections)] {
            if let Some(number) = number {
                body.insert(name.to_owned(), json!(number));
            }
        }
        if !self.reset.is_empty() {
            body.insert("reset".to_owned(), json!(self.reset));
        }
        Value::Object(body)
    }
}

pub(super) fn limit(limit: &Limit, session: &mut Session) -> Result<(), Failure> {
    let body = limit.body();
    if body.as_object().is_some_and(Map::is_empty) {
        return Err(Failure::new(Exit::Usage, "no limit is named")
            .hint("name at least one, such as --memory 256MB"));
    }
    let request = Request::post(&["v1", "agents", &limit.agent.id, "limit"]).json(&body);
    let answer = session.send(&request)?;
    session.out.show(&answer, || {
        let LimitsInForce { limits } = answer.read()?;
        Ok(screen(&limits))
    })
}

fn screen(limits: &InstanceLimits) -> Screen {
    let mut table = Table::new(&["LIMIT", "VALUE"]);
    let rows = [
        ("cpu, millicores", limits.cpu_millicores.map(u64::from)),
        ("memory, bytes", limits.memory_bytes),
        ("pids", limits.pids.map(u64::from)),
        ("disk, bytes", limits.disk_bytes),
        ("io, bytes a second", limits.io_bytes_per_second),
        ("connections", limits.connections.map(u64::from)),
        (
            "bandwidth, bytes a second",
            limits.bytes_per_second.map(u64::from),
        ),
    ];
    let shown = rows
        .iter()
        .filter_map(|(name, value)| Some((name, (*value)?)));
    for (name, value) in shown.clone() {
        table.row([(*name).into(), value.to_string().into()]);
    }
    Screen::new()
        .table(table)
        .named(shown.map(|(name, _)| *name))
}
