//! What the tree is made of: the groups of meshd itself, and pods of workers with every strategy, restart type and
//! manner of ending. Four levels of supervisors; some two hundred actors.

use std::sync::Arc;
use std::time::Duration;

use mesh_supervision_core::supervisor::{
    AutoShutdown, ChildKind, ChildSpec, Flags, Restart, Shutdown, Strategy,
};

use crate::random::Random;

/// A part of meshd that is an actor in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Owns the log.
    Journal,
    /// Tokens.
    Sentinel,
    /// Which agents there are.
    Registry,
    /// The task machine.
    Orchestrator,
    /// The actor of an agent, by its number.
    Agent(usize),
}

/// What is started when a child is.
#[derive(Debug, Clone)]
pub(crate) enum Recipe {
    /// A worker that does nothing but live and die.
    Worker,
    /// A part of meshd.
    Part(Part),
    /// A supervisor.
    Group(Arc<Group>),
}

/// A supervisor's specification, with what its children are.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) flags: Flags,
    pub(crate) children: Vec<(ChildSpec, Recipe)>,
}

/// How often a part of meshd may fail, and within what time: as in the real tree.
const INTENSITY: u32 = 10;
const PERIOD: Duration = Duration::from_mins(1);

fn flags(strategy: Strategy) -> Flags {
    Flags {
        strategy,
        intensity: INTENSITY,
        period: PERIOD,
        ..Flags::default()
    }
}

fn part(name: &str, part: Part) -> (ChildSpec, Recipe) {
    (ChildSpec::worker(name), Recipe::Part(part))
}

fn group(name: &str, group: Group) -> (ChildSpec, Recipe) {
    (ChildSpec::supervisor(name), Recipe::Group(Arc::new(group)))
}

/// The whole tree.
pub(crate) fn mesh(random: &mut Random) -> Group {
    let core = Group {
        flags: flags(Strategy::OneForOne),
        children: vec![
            part("sentinel", Part::Sentinel),
            part("registry", Part::Registry),
        ],
    };
    let agents = Group {
        flags: flags(Strategy::Dynamic),
        children: Vec::new(),
    };
    let work = Group {
        flags: flags(Strategy::OneForOne),
        children: vec![
            group("agents", agents),
            part("orchestrator", Part::Orchestrator),
        ],
    };
    let zones = (0..6).map(|zone| group(&format!("zone-{zone}"), self::zone(zone, random)));
    let edge = Group {
        flags: Flags {
            intensity: 60,
            ..flags(Strategy::OneForOne)
        },
        children: zones.collect(),
    };
    Group {
        flags: flags(Strategy::RestForOne),
        children: vec![
            part("journal", Part::Journal),
            group("core", core),
            group("work", work),
            group("edge", edge),
        ],
    }
}

const STRATEGIES: [Strategy; 4] = [
    Strategy::OneForOne,
    Strategy::OneForAll,
    Strategy::RestForOne,
    Strategy::Dynamic,
];
/// On the same grid as what happens in the tree, so that the edges of windows are met.
const PERIODS: [u64; 4] = [500, 1000, 3000, 10_000];

fn zone(number: usize, random: &mut Random) -> Group {
    let strategy = STRATEGIES[number % STRATEGIES.len()];
    let mut flags = some_flags(strategy, random);
    flags.intensity = flags.intensity.max(2);
    let pods = (0..4).map(|pod| {
        let (mut spec, recipe) = group(&format!("pod-{pod}"), self::pod(number + pod, random));
        if random.percent(30) {
            spec.restart = Restart::Transient;
            spec.significant = flags.auto_shutdown != AutoShutdown::Never;
        }
        if random.percent(20) {
            spec.shutdown = Shutdown::Timeout(Duration::from_millis(300));
        }
        (spec, recipe)
    });
    let children = pods.collect();
    Group { flags, children }
}

fn pod(number: usize, random: &mut Random) -> Group {
    let strategy = STRATEGIES[number % STRATEGIES.len()];
    let flags = some_flags(strategy, random);
    let workers = random.between(4, 9);
    let children = (0..workers).map(|worker| {
        let spec = worker_spec(&format!("w{worker}"), &flags, random);
        (spec, Recipe::Worker)
    });
    let children = children.collect();
    Group { flags, children }
}

fn some_flags(strategy: Strategy, random: &mut Random) -> Flags {
    let auto_shutdown = match random.between(0, 5) {
        0 => AutoShutdown::AnySignificant,
        1 | 2 => AutoShutdown::AllSignificant,
        _ => AutoShutdown::Never,
    };
    Flags {
        strategy,
        intensity: u32::try_from(random.between(0, 5)).unwrap_or(1),
        period: Duration::from_millis(random.pick(&PERIODS).copied().unwrap_or(1000)),
        auto_shutdown,
        children_max: 16,
        infinity_cap: Duration::from_secs(20),
        kill_limit: Duration::from_secs(1),
    }
}

/// A worker of some kind.
pub(crate) fn worker_spec(name: &str, flags: &Flags, random: &mut Random) -> ChildSpec {
    let restart = match random.between(0, 4) {
        0 => Restart::Transient,
        1 => Restart::Temporary,
        _ => Restart::Permanent,
    };
    let shutdown = match random.between(0, 5) {
        0 => Shutdown::BrutalKill,
        1 => Shutdown::Infinity,
        2 => Shutdown::Timeout(Duration::ZERO),
        _ => Shutdown::Timeout(Duration::from_millis(random.between(1, 5) * 100)),
    };
    let significant = flags.auto_shutdown != AutoShutdown::Never
        && restart != Restart::Permanent
        && random.percent(60);
    ChildSpec {
        restart,
        shutdown,
        significant,
        kind: ChildKind::Worker,
        ..ChildSpec::worker(name)
    }
}
