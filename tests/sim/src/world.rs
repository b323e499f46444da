//! The world that is simulated: one life of meshd after the other over one log, with its clients and its operator.
//!
//! Everything that decides is real code; what performs (actors, mailboxes, timers, processes, the disk) is here, and
//! fails here. Each file is one part of it:
//!
//! - [`tree`] and [`forest`]: the actors and their supervisors;
//! - [`parts`]: what it takes to own a partition of the log, and how a part starts and ends;
//! - [`agents`]: the actors that hold the agents' machines; [`processes`]: what agents run;
//! - [`orchestrator`]: the task machine's actor; [`access`]: registry and tokens;
//! - [`clients`]: who submits tasks and gives orders; [`lives`]: kill -9, power cuts, new starts.

pub(crate) mod access;
pub(crate) mod agents;
pub(crate) mod clients;
pub(crate) mod forest;
pub(crate) mod lives;
pub(crate) mod orchestrator;
pub(crate) mod parts;
pub(crate) mod processes;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::{AgentId, Epoch, Timestamp};
use mesh_supervision_core::supervisor::{ExitReason, Input, RequestId};

pub(crate) use forest::Part;

use crate::checkers::starts::Starts;
use crate::checkers::tasks::Ledger;
use crate::checkers::{Breach, Verdict, ensure};
use crate::edges::Edges;
use crate::journal::Log;
use crate::queue::Queue;
use crate::random::Random;
use crate::replica::Replica;
use crate::trace::Trace;
use access::{Registry, Sentinel};
use agents::{Seat, ToAgent};
use clients::Clients;
use orchestrator::{Orchestrator, ToOrchestrator};
use processes::{Process, ProcessEvent};
use tree::{NodeId, Tree, Tried};

/// When the simulation begins, in milliseconds since 1970.
const START: u64 = 1_800_000_000_000;
/// Steps between two audits of the whole.
const AUDIT_EVERY: u64 = 64;
/// Most events that may be planned at one time: more is a queue without a bound.
const PLANNED_MAX: usize = 50_000;
/// Steps after which a run that does not end is given up.
const STEPS_MAX: u64 = 20_000_000;

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A supervisor hears something.
    Supervisor { node: NodeId, input: Input },
    /// A start in the tree comes to its end.
    Tried { node: NodeId, tried: Tried },
    /// An actor ends.
    Exit { node: NodeId, reason: ExitReason },
    /// A part looks whether all that its last owner appended is on the disk.
    Load { part: Part, node: NodeId },
    /// A sync comes to its end.
    Synced { opened: u64 },
    /// An agent's actor is told something.
    Agent { agent: usize, message: ToAgent },
    /// A timer of an agent's actor is due.
    AgentTimer {
        agent: usize,
        actor: u64,
        token: u64,
    },
    /// A rest of an agent's actor is over.
    AgentRested { agent: usize, actor: u64, rest: u64 },
    /// The task machine's actor is told something.
    Orchestrator { message: ToOrchestrator },
    /// The task machine's timer is due.
    Due { actor: u64, armed: u64 },
    /// Something happens to a process, or it does something.
    Process {
        agent: usize,
        epoch: Epoch,
        event: ProcessEvent,
    },
    /// Somebody wants a token for an agent, or all of its tokens gone.
    Token { agent: usize, issue: bool },
    /// A client submits something.
    Submit,
    /// Something goes wrong.
    Fault,
    /// meshd is started.
    Start,
}

impl Event {
    /// Whether it happens outside of meshd, and so whatever becomes of meshd.
    const fn is_outside(&self) -> bool {
        matches!(self, Self::Submit | Self::Fault | Self::Start)
    }
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    /// Milliseconds since the beginning, on a clock that nobody sets.
    pub(crate) now: u64,
    /// How far the clock on the wall is ahead of it.
    pub(crate) skew: i64,
    pub(crate) queue: Queue<Event>,
    pub(crate) trace: Trace,
    pub(crate) edges: Edges,
    /// For what is counted already.
    pub(crate) uncounted: Edges,
    pub(crate) steps: u64,

    pub(crate) log: Log,
    pub(crate) replica: Replica,
    pub(crate) ids: Vec<AgentId>,

    pub(crate) tree: Tree,
    pub(crate) wanted_agents: BTreeSet<RequestId>,
    pub(crate) complete: bool,
    pub(crate) journal_up: bool,
    pub(crate) seats: Vec<Seat>,
    pub(crate) processes: BTreeMap<(usize, Epoch), Process>,
    pub(crate) orchestrator: Option<Orchestrator>,
    pub(crate) sentinel: Option<Sentinel>,
    pub(crate) registry: Option<Registry>,
    pub(crate) actors: u64,
    pub(crate) lives: u64,

    pub(crate) clients: Clients,
    pub(crate) ledger: Ledger,
    pub(crate) starts: Starts,
    pub(crate) faults_left: u64,
    pub(crate) calm: bool,
}

impl World {
    pub(crate) fn new(seed: u64, kills: u64, print: Option<fn(&str)>) -> Self {
        let mut random = Random::new(seed);
        let (ids, seats) = agents::cast(&mut random);
        let clients = Clients::new(&mut random);
        let mut world = Self {
            seed,
            random,
            now: 0,
            skew: 0,
            queue: Queue::new(),
            trace: Trace::new(print),
            edges: Edges::default(),
            uncounted: Edges::default(),
            steps: 0,
            log: Log::default(),
            replica: Replica::default(),
            ids,
            tree: Tree::default(),
            wanted_agents: BTreeSet::new(),
            complete: false,
            journal_up: false,
            seats,
            processes: BTreeMap::new(),
            orchestrator: None,
            sentinel: None,
            registry: None,
            actors: 0,
            lives: 0,
            clients,
            ledger: Ledger::default(),
            starts: Starts::default(),
            faults_left: kills,
            calm: false,
        };
        world.queue.at(0, Event::Start);
        world.queue.at(1000, Event::Submit);
        world.queue.at(2000, Event::Fault);
        world
    }

    /// The time that a clock on the wall shows.
    pub(crate) fn wall(&self) -> Timestamp {
        let at = i64::try_from(START + self.now).unwrap_or(i64::MAX) + self.skew;
        Timestamp::from_millis(u64::try_from(at).unwrap_or(0))
    }

    /// The moment at which a timer fires that is to fire at `at` on the wall: never before, and a millisecond more,
    /// because the clock counts whole ones.
    pub(crate) fn moment(&mut self, at: Timestamp) -> u64 {
        let wait = at.since(self.wall()).as_millis();
        let late = if self.random.percent(10) {
            self.random.between(1, 300)
        } else {
            0
        };
        self.now + u64::try_from(wait).unwrap_or(u64::MAX / 4) + 1 + late
    }

    /// Lets everything happen, until all faults have happened and all tasks have ended.
    pub(crate) fn live(&mut self) -> Verdict {
        while self.step()? {
            if self.faults_left == 0 && self.is_over() {
                return self.at_the_end();
            }
        }
        ensure(false, "nothing waits without a deadline", || {
            "nothing is planned any more, and tasks have not ended".to_owned()
        })
    }

    /// Lets the next thing happen; false when nothing is planned.
    pub(crate) fn step(&mut self) -> Result<bool, Breach> {
        let Some((at, event)) = self.queue.next() else {
            return Ok(false);
        };
        self.now = at.max(self.now);
        self.steps += 1;
        self.happen(event)?;
        if self.steps.is_multiple_of(AUDIT_EVERY) {
            self.audit()?;
        }
        Ok(true)
    }

    fn happen(&mut self, event: Event) -> Verdict {
        match event {
            Event::Supervisor { node, input } => self.tell(node, input),
            Event::Tried { node, tried } => {
                self.tried(node, tried);
                Ok(())
            }
            Event::Exit { node, reason } => self.exit(node, reason),
            Event::Load { part, node } => self.load(part, node),
            Event::Synced { opened } => self.synced(opened),
            Event::Agent { agent, message } => self.agent_hears(agent, message),
            Event::AgentTimer {
                agent,
                actor,
                token,
            } => self.agent_timer(agent, actor, token),
            Event::AgentRested { agent, actor, rest } => self.agent_rested(agent, actor, rest),
            Event::Orchestrator { message } => self.orchestrator_hears(message),
            Event::Due { actor, armed } => self.due(actor, armed),
            Event::Process {
                agent,
                epoch,
                event,
            } => {
                self.process_event(agent, epoch, event);
                Ok(())
            }
            Event::Token { agent, issue } => self.token(agent, issue),
            Event::Submit => {
                self.submit();
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::Start => self.start(),
        }
    }

    /// What holds for the whole at any time.
    fn audit(&mut self) -> Verdict {
        ensure(
            self.queue.len() <= PLANNED_MAX,
            "every queue is bounded: messages under way",
            || format!("{} are planned", self.queue.len()),
        )?;
        ensure(self.steps <= STEPS_MAX, "the simulation ends", || {
            "too many steps".to_owned()
        })?;
        self.audit_agents()?;
        self.audit_processes()?;
        self.audit_tasks()?;
        self.audit_access()?;
        self.compare_with_replica()
    }

    fn at_the_end(&mut self) -> Verdict {
        self.audit()?;
        self.replay_everything()?;
        self.ledger.at_the_end()
    }
}
