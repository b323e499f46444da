//! Which blow falls on whom, and when: a pure function of the seed and the fleet.

use std::time::Duration;

use mesh_messages::chaos::{CHAOS_DURATION_MAX_MS, ChaosAction, ChaosOrder};
use mesh_messages::{AgentId, InstanceNo};

/// Most blows of one run: more than a day of one a second would need another tool.
pub(super) const STROKES_MAX: usize = 100_000;
/// Most lines of garbage in one blow: below what counts as flooding, so that several are borne.
const GARBAGE_LINES_MAX: u64 = 50;
/// Lines of one flood.
const FLOOD_LINES: std::ops::Range<u64> = 1_000..5_000;

/// An agent in scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prey {
    /// Who.
    pub(super) agent: AgentId,
    /// How many replicas it is to have.
    pub(super) replicas: u32,
}

/// All that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) seed: u64,
    pub(super) actions: Vec<ChaosAction>,
    pub(super) agents: Vec<Prey>,
    /// Actors of the tree; they can only be killed.
    pub(super) parts: Vec<String>,
    /// From one blow to the next.
    pub(super) every: Duration,
    /// How long blows fall.
    pub(super) time: Duration,
    /// How long one of them lasts at most.
    pub(super) hold: Duration,
}

/// A blow, and when it falls, counted from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stroke {
    pub(super) at: Duration,
    pub(super) order: ChaosOrder,
}

/// `SplitMix64`: one word of state, the same numbers on every machine.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..below`; 0 when that is empty.
    fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.below(from.len() as u64);
        from.get(usize::try_from(index).unwrap_or(0))
    }
}

/// Whom a blow may fall on.
enum Target<'a> {
    Agent(&'a Prey),
    Part(&'a str),
}

/// The blows, in their order. The order in which the fleet was listed does not matter.
pub(super) fn plan(wish: &Wish) -> Vec<Stroke> {
    let (mut agents, mut parts, mut actions) = (
        wish.agents.clone(),
        wish.parts.clone(),
        wish.actions.clone(),
    );
    agents.sort();
    agents.dedup();
    parts.sort();
    parts.dedup();
    actions.sort();
    actions.dedup();
    let mut targets: Vec<Target<'_>> = agents.iter().map(Target::Agent).collect();
    if actions.contains(&ChaosAction::Kill) {
        targets.extend(parts.iter().map(|part| Target::Part(part)));
    }
    let mut random = Random(wish.seed);
    let mut strokes = Vec::new();
    let mut at = Duration::ZERO;
    while at < wish.time && strokes.len() < STROKES_MAX {
        // Every blow draws as many numbers as any other, so that a changed target changes no later one.
        let (jitter, whom) = (random.next(), random.pick(&targets));
        let (how, which) = (random.pick(&actions).copied(), random.next());
        let (much, seed) = (random.next(), random.next());
        let within = wish.every / 2;
        let shift = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let moment = at + Duration::from_millis(jitter % shift.max(1));
        let order = match (whom, how) {
            (Some(Target::Part(part)), _) => Some(ChaosOrder::at_part(*part)),
            (Some(Target::Agent(prey)), Some(action)) => {
                let which = u32::try_from(which % u64::from(prey.replicas.max(1))).unwrap_or(0);
                Some(blow(prey, InstanceNo(which), action, much, seed, wish.hold))
            }
            (None, _) | (_, None) => None,
        };
        strokes.extend(order.map(|order| Stroke { at: moment, order }));
        at += wish.every.max(Duration::from_millis(1));
    }
    strokes
}

fn blow(
    prey: &Prey,
    instance: InstanceNo,
    action: ChaosAction,
    much: u64,
    seed: u64,
    hold: Duration,
) -> ChaosOrder {
    let mut order = ChaosOrder::at_agent(action, prey.agent.clone(), Some(instance));
    // From a quarter of the longest to the longest.
    let longest = u64::try_from(hold.as_millis())
        .unwrap_or(u64::MAX)
        .clamp(1, CHAOS_DURATION_MAX_MS);
    let shortest = (longest / 4).max(1);
    let lines = match action {
        ChaosAction::Garbage => Some(1 + much % GARBAGE_LINES_MAX),
        ChaosAction::Flood => {
            Some(FLOOD_LINES.start + much % (FLOOD_LINES.end - FLOOD_LINES.start))
        }
        ChaosAction::Kill | ChaosAction::Pause | ChaosAction::Hang | ChaosAction::Leak => None,
    };
    order.duration_ms = action
        .lasts()
        .then(|| shortest + much % (longest - shortest + 1));
    order.lines = lines.and_then(|lines| u32::try_from(lines).ok());
    // Numbers beyond 2^53 do not survive JSON.
    order.seed = if action == ChaosAction::Garbage {
        seed >> 11
    } else {
        0
    };
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prey(agent: &str, replicas: u32) -> Prey {
        Prey {
            agent: AgentId::new(agent).unwrap(),
            replicas,
        }
    }

    fn wish(seed: u64) -> Wish {
        Wish {
            seed,
            actions: ChaosAction::ALL.to_vec(),
            agents: vec![prey("a", 1), prey("b", 3), prey("c", 2)],
            parts: vec!["bus".to_owned(), "memory".to_owned()],
            every: Duration::from_millis(500),
            time: Duration::from_secs(100),
            hold: Duration::from_secs(4),
        }
    }

    #[test]
    fn the_same_seed_and_fleet_give_the_same_blows() {
        assert_eq!(plan(&wish(7)), plan(&wish(7)));
        assert_ne!(plan(&wish(7)), plan(&wish(8)));
        let mut listed_otherwise = wish(7);
        listed_otherwise.agents.reverse();
        listed_otherwise.agents.push(prey("a", 1));
        listed_otherwise.parts.reverse();
        listed_otherwise.actions.reverse();
        assert_eq!(plan(&listed_otherwise), plan(&wish(7)));
    }

    #[test]
    fn a_known_seed_gives_the_blows_that_it_gave_when_this_was_written() {
        let first: Vec<String> = plan(&wish(1))
            .iter()
            .take(4)
            .map(|stroke| serde_json::to_string(&stroke.order).unwrap())
            .collect();
        assert_eq!(first, KNOWN);
    }

    #[test]
    fn blows_come_at_their_rate_in_order_and_within_their_time() {
        let strokes = plan(&wish(3));
        assert_eq!(strokes.len(), 200);
        assert!(strokes.is_sorted_by_key(|stroke| stroke.at));
        assert!(
            strokes
                .iter()
                .all(|stroke| stroke.at < Duration::from_secs(100))
        );
    }

    #[test]
    fn over_time_every_action_falls_on_everybody_and_nobody_else() {
        let wish = wish(11);
        let mut seen = std::collections::BTreeSet::new();
        for Stroke { order, .. } in plan(&wish) {
            match (&order.agent, &order.part) {
                (Some(agent), None) => {
                    let known = wish
                        .agents
                        .iter()
                        .find(|prey| prey.agent == *agent)
                        .unwrap();
                    assert!(order.instance.unwrap().0 < known.replicas, "{order:?}");
                    seen.insert(format!("{} {agent}", order.action));
                }
                (None, Some(part)) => {
                    assert_eq!(order.action, ChaosAction::Kill);
                    assert!(wish.parts.contains(part));
                    seen.insert(part.clone());
                }
                both => panic!("{both:?}"),
            }
        }
        assert_eq!(seen.len(), 3 * ChaosAction::ALL.len() + 2, "{seen:?}");
    }

    #[test]
    fn a_blow_carries_only_what_its_action_knows_and_stays_within_bounds() {
        for Stroke { order, .. } in plan(&wish(5)) {
            assert_eq!(
                order.duration_ms.is_some(),
                order.action.lasts(),
                "{order:?}"
            );
            assert_eq!(order.lines.is_some(), order.action.writes(), "{order:?}");
            assert!(
                order
                    .duration_ms
                    .is_none_or(|ms| (1000..=4000).contains(&ms))
            );
            assert!(order.seed < 1 << 53);
        }
    }

    #[test]
    fn parts_are_only_killed_and_an_empty_scope_gets_nothing() {
        let only = |actions| {
            plan(&Wish {
                actions,
                agents: Vec::new(),
                ..wish(2)
            })
        };
        assert_eq!(only(vec![ChaosAction::Pause]), []);
        assert!(
            only(vec![ChaosAction::Kill])
                .iter()
                .all(|s| s.order.part.is_some())
        );
        assert_eq!(
            plan(&Wish {
                agents: Vec::new(),
                parts: Vec::new(),
                ..wish(2)
            }),
            []
        );
    }

    /// A changed plan would make every seed that somebody wrote down worthless.
    const KNOWN: [&str; 4] = [
        r#"{"action":"kill","part":"memory","seed":0}"#,
        r#"{"action":"kill","part":"bus","seed":0}"#,
        r#"{"action":"garbage","agent":"c","instance":1,"lines":6,"seed":7344025166865781}"#,
        r#"{"action":"garbage","agent":"c","instance":0,"lines":36,"seed":1108866274680416}"#,
    ];
}
