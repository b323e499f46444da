//! meshd in virtual time: one seed, one thread, no clock, and every promise checked after every step that can break it.
//!
//! ```text
//!  Plan { seed, kills } ─► World ── events in the order of virtual time ──► real cores (supervision, agents, tasks, …)
//!                            ▲                                                 │ effects
//!                            └── actors, mailboxes, timers, processes, disk ◄──┘
//!                                     faults ──►│             │──► checkers ──► Breach
//! ```
//!
//! What decides is the code of meshd itself: `mesh-supervision-core` and `mesh-actors-core`. What performs is simulated
//! in `world`: it loses what was not synced, delivers late, and dies at any point. `faults` says what goes wrong,
//! `checkers` holds a promise per file, each with an account of its own, and [`edges`] is the table of everything
//! that has to be taken at least once. The same seed gives the same trace, byte for byte.

mod checkers;
pub mod edges;
mod faults;
mod journal;
mod queue;
mod random;
mod replica;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use checkers::Breach;
pub use edges::Edges;

use world::World;

/// What is to be simulated.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many faults there are before everything is put right and what is left of the work is awaited.
    pub kills: u64,
    /// Is handed every line of the trace.
    pub print: Option<fn(&str)>,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// The first promise that was broken, with the time and step at which that was seen.
    pub breach: Option<(Breach, u64, u64)>,
    /// Stands for every byte of the trace.
    pub trace: String,
    /// Lines of the trace.
    pub lines: u64,
    /// Events that happened.
    pub steps: u64,
    /// Virtual milliseconds.
    pub time: u64,
    /// Lives of meshd.
    pub lives: u64,
    /// Tasks that were acknowledged.
    pub tasks: usize,
    /// Records of the log.
    pub records: usize,
    /// What was taken how often.
    pub edges: Edges,
}

/// Simulates.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let mut world = World::new(plan.seed, plan.kills, plan.print);
    // A core that panics has a bug, and the seed that shows it is as good as that of any other.
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    let verdict = lived.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Breach {
            promise: "no core panics",
            what: text.unwrap_or_default(),
        })
    });
    let verdict = verdict.and_then(|()| match world.edges.unknown() {
        None => Ok(()),
        Some(edge) => Err(Breach {
            promise: "every edge that is taken is in the table",
            what: edge,
        }),
    });
    Outcome {
        breach: verdict.err().map(|breach| (breach, world.now, world.steps)),
        trace: world.trace.digest(),
        lines: world.trace.lines(),
        steps: world.steps,
        time: world.now,
        lives: world.lives,
        tasks: world.ledger.acknowledged(),
        records: world.log.records.len(),
        edges: world.edges,
    }
}

/// Stands for a text, as [`Outcome::trace`] does for a trace.
#[must_use]
pub fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
