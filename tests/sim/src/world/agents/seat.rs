//! The agents of a run, each with the account that is kept of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::agent::AgentState;
use mesh_actors_core::routing::{FleetAgent, FleetInstance};
use mesh_messages::agent::Lifecycle;
use mesh_messages::manifest::{AgentManifest, ManifestFormat, parse_manifest};
use mesh_messages::team::LEAD;
use mesh_messages::{AgentId, AttemptNo, Epoch, InstanceNo, TaskId};
use mesh_supervision_core::fault::{FaultConfig, Ladder};

use super::{CAPABILITIES, Shell};
use crate::checkers::fault_table::FaultTable;
use crate::random::Random;

/// Agents of the fleet.
const AGENTS: usize = 12;

/// An agent, whether its actor is there or not.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: AgentId,
    pub(super) capabilities: Vec<&'static str>,
    pub(super) concurrency: u32,
    pub(super) replicas: u32,
    pub(crate) config: FaultConfig,
    pub(crate) shell: Option<Shell>,
    pub(crate) table: FaultTable,
    /// The table as it was when the log had so many records: a crash goes back to one of these.
    tables: VecDeque<(usize, FaultTable)>,
    /// What everybody sees: the last durable state.
    pub(crate) published: Arc<AgentState>,
    /// Since when it shows a quarantine.
    pub(crate) isolated_since: Option<u64>,
    pub(crate) live: BTreeMap<InstanceNo, Epoch>,
    pub(super) stopping: BTreeSet<Epoch>,
    /// Attempts that were given out and are not settled.
    pub(crate) open: BTreeSet<(Epoch, TaskId, AttemptNo)>,
    pub(crate) actor_no: u64,
}

pub(super) fn manifest(
    id: &AgentId,
    version: &str,
    seat: (&[&str], u32, u32),
) -> Option<AgentManifest> {
    let (capabilities, concurrency, replicas) = seat;
    let text = serde_json::json!({
        "id": id, "version": version, "capabilities": capabilities, "entry": "run.sh",
        "replicas": replicas, "concurrency": concurrency,
    });
    let parsed = parse_manifest(text.to_string().as_bytes(), ManifestFormat::Json);
    parsed.ok().map(|parsed| parsed.manifest)
}

/// Policies of some variety: meshd's own, and shorter ones, so that every row is met.
pub(super) fn config(random: &mut Random) -> FaultConfig {
    let second = Duration::from_secs(1);
    let mut config = FaultConfig {
        essential: random.percent(10),
        auto_restart: !random.percent(12),
        ..FaultConfig::default()
    };
    match random.between(0, 3) {
        0 => {}
        1 => {
            config.max_crashes = u32::try_from(random.between(0, 3)).unwrap_or(3);
            config.crash_window = second * 5;
            config.quarantine_threshold = u32::try_from(random.between(2, 9)).unwrap_or(5);
            config.stable_min = second * 4;
        }
        2 => {
            config.max_crashes = 2;
            config.crash_window = second * 10;
            config.quarantine_threshold = 40;
            config.hourly_max = u32::try_from(random.between(6, 14)).unwrap_or(12);
            config.cool_down = Ladder {
                base: second,
                cap: second * 5,
            };
        }
        _ => {
            config.stable_min = second * 6;
            config.recovering = second * 5;
            config.half_open_idle = second * 2;
            config.quarantine_threshold = 4;
        }
    }
    config
}

/// The agents of a run.
pub(crate) fn cast(random: &mut Random) -> (Vec<AgentId>, Vec<Seat>) {
    let mut ids = Vec::new();
    let mut seats = Vec::new();
    for no in 0..AGENTS {
        let Ok(id) = AgentId::new(format!("agent-{no}")) else {
            continue;
        };
        let mut capabilities = vec![CAPABILITIES[no % CAPABILITIES.len()]];
        let other = CAPABILITIES[random.index(CAPABILITIES.len())];
        if !capabilities.contains(&other) {
            capabilities.push(other);
        }
        if no % 5 == 4 && random.percent(50) {
            capabilities.push(LEAD);
        }
        let config = config(random);
        ids.push(id.clone());
        seats.push(Seat {
            id,
            capabilities,
            concurrency: u32::try_from(random.between(1, 3)).unwrap_or(1),
            replicas: u32::try_from(random.between(1, 3)).unwrap_or(1),
            table: FaultTable::new(config.clone(), 0),
            tables: VecDeque::new(),
            config,
            shell: None,
            published: Arc::default(),
            isolated_since: None,
            live: BTreeMap::new(),
            stopping: BTreeSet::new(),
            open: BTreeSet::new(),
            actor_no: 0,
        });
    }
    (ids, seats)
}

impl Seat {
    /// What the task machine is told of it.
    pub(crate) fn fleet(&self) -> FleetAgent {
        let state = &self.published;
        let concurrency = state.manifest().map_or(1, |m| m.concurrency.get());
        let instances = state
            .ready()
            .filter(|(no, i)| self.live.get(no) == Some(&i.epoch))
            .map(|(no, i)| {
                let closed = if self.stopping.contains(&i.epoch) {
                    Some("it is being stopped".to_owned())
                } else if state.stage() == Lifecycle::Upgrading {
                    Some("its version is being exchanged".to_owned())
                } else {
                    None
                };
                let instance = FleetInstance {
                    epoch: i.epoch,
                    concurrency,
                    closed,
                };
                (no, instance)
            });
        FleetAgent {
            capabilities: self.capabilities.iter().map(|c| (*c).to_owned()).collect(),
            fault: state.fault_state(),
            reason: state.fault.as_ref().and_then(|f| f.reason.clone()),
            next_attempt_at: state.fault.as_ref().and_then(|f| f.next_attempt_at),
            paused: state.paused,
            account: None,
            limits: None,
            team: None,
            prices: BTreeMap::new(),
            times: BTreeMap::new(),
            instances: instances.collect(),
            digest: state.version().map(|version| version.digest.clone()),
            misdeeds: state.misdeeds.clone(),
        }
    }

    /// Keeps the table as it is now that the log has so many records.
    pub(super) fn remember(&mut self, records: usize, durable: usize) {
        self.tables.push_back((records, self.table.clone()));
        while self.tables.get(1).is_some_and(|(at, _)| *at <= durable) {
            self.tables.pop_front();
        }
    }

    /// Goes back to the table of the last step that is on the disk.
    pub(super) fn recall(&mut self, durable: usize) {
        self.lose(durable);
        self.table = match self.tables.back() {
            Some((_, table)) => table.clone(),
            None => FaultTable::new(self.config.clone(), 0),
        };
        self.table.reborn(self.config.clone());
    }

    /// Forgets the tables of steps that the log has lost, before others take their places in it.
    pub(crate) fn lose(&mut self, durable: usize) {
        while self.tables.back().is_some_and(|(at, _)| *at > durable) {
            self.tables.pop_back();
        }
    }

    /// Nothing of it is known any more: meshd has ended.
    pub(crate) fn forget(&mut self) {
        self.shell = None;
        self.published = Arc::default();
        self.isolated_since = None;
        self.live.clear();
        self.stopping.clear();
        self.open.clear();
    }
}
