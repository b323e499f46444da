//! Hurting the mesh on purpose, as its admin orders: one bounded blow at a time, on the record before it falls.
//!
//! ```text
//!  order ─► switched on? ─► makes sense? ─► target found ─► recorded, durable ─► the blow ─► what came of it
//! ```
//!
//! What lasts ends by itself: a pause is thawed, a silence is broken, memory is given back, whoever asked for it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::ActorCell;
use tokio::time::Instant;

use mesh_messages::chaos::{
    CHAOS_DURATION_MAX_MS, CHAOS_DURATION_MS, CHAOS_FLOOD_LINES, CHAOS_GARBAGE_LINES,
    CHAOS_LINES_MAX, ChaosAction, ChaosAnswer, ChaosBlow, ChaosOrder, ChaosTarget,
};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;
use mesh_messages::{AgentId, Epoch};

use super::Mesh;
use crate::agents::agent::AgentMessage;
use crate::agents::instance::Strike;
use crate::agents::policy::effective;
use crate::clock::{now, random};
use crate::directory::AgentEntry;
use crate::names::registered;
use crate::tree::{PARTS, ROOT};

mod blows;
mod lines;

use blows::{gone, kill, leak, pause, prey};

/// Blows at the tree within [`PARTS_PERIOD`]. Below what any one group bears, so that chaos alone never reaches the root,
/// whose end would be meshd's.
const PARTS_MAX: usize = 8;
const PARTS_PERIOD: Duration = Duration::from_secs(61);
/// Blows that last at one time: each holds a thread or a sandbox's memory.
const LASTING_MAX: usize = 64;
/// How long an instance may take to take a blow in; its actor never waits for anything.
const STRIKE_MAX: Duration = Duration::from_secs(5);
/// What names an agent's own actor among the parts.
const AGENT_PART: &str = "agent:";

/// What chaos has under way.
#[derive(Debug, Default)]
pub(crate) struct Chaos {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    parts: VecDeque<Instant>,
    lasting: BTreeSet<Lasting>,
}

/// A blow that lasts: another one of its kind at the same incarnation would be ended by its end.
type Lasting = (AgentId, Epoch, ChaosAction);

/// Forgets a blow when it is over.
#[derive(Debug)]
struct UnderWay {
    chaos: Arc<Chaos>,
    blow: Lasting,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.chaos.with(|inner| inner.lasting.remove(&self.blow));
    }
}

impl Chaos {
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a blow at the tree, unless it is one too many.
    fn admit_part(&self, at: Instant) -> Result<(), Problem> {
        self.with(|inner| {
            while inner
                .parts
                .front()
                .is_some_and(|then| at.duration_since(*then) >= PARTS_PERIOD)
            {
                inner.parts.pop_front();
            }
            let Some(oldest) = inner.parts.front().filter(|_| inner.parts.len() >= PARTS_MAX)
            else {
                inner.parts.push_back(at);
                return Ok(());
            };
            let left = PARTS_PERIOD.saturating_sub(at.duration_since(*oldest));
            let seconds = u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
            let text = format!(
                "the tree bears {PARTS_MAX} blows a minute; one more could reach the root, and end meshd"
            );
            let problem = Problem::new(ProblemKind::RateLimited, "chaos_too_fast", text);
            Err(problem.retry_after(seconds))
        })
    }

    /// Enters a blow that lasts, unless there is one like it.
    fn begin(self: &Arc<Self>, blow: Lasting) -> Result<UnderWay, Problem> {
        self.with(|inner| {
            let conflict =
                |text: String| Problem::new(ProblemKind::Conflict, "chaos_under_way", text);
            if inner.lasting.len() >= LASTING_MAX {
                let text = format!("{LASTING_MAX} blows are under way; wait for one to end");
                return Err(conflict(text));
            }
            if !inner.lasting.insert(blow.clone()) {
                let (agent, epoch, action) = &blow;
                let text = format!("a {action} of {agent} epoch {epoch} is under way already");
                return Err(conflict(text));
            }
            Ok(UnderWay {
                chaos: Arc::clone(self),
                blow,
            })
        })
    }
}

fn invalid(field: &str, text: impl Into<String>) -> Problem {
    Problem::invalid("invalid_chaos", field, text)
}

fn conflict(code: &'static str, text: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::Conflict, code, text)
}

/// Whether the order makes sense by itself.
fn check(order: &ChaosOrder) -> Result<(), Problem> {
    match (&order.agent, &order.part) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                "part",
                "part: an agent is named already; name one of the two",
            ));
        }
        (None, None) => return Err(invalid("agent", "agent: missing; name an agent or a part")),
        (None, Some(_)) if order.action != ChaosAction::Kill => {
            return Err(invalid(
                "action",
                "action: an actor of the tree can only be killed",
            ));
        }
        (None, Some(_)) if order.instance.is_some() => {
            return Err(invalid(
                "instance",
                "instance: an actor of the tree has none",
            ));
        }
        _ => {}
    }
    let action = order.action;
    if order.duration_ms.is_some() && !action.lasts() {
        return Err(invalid(
            "durationMs",
            format!("durationMs: a {action} does not last"),
        ));
    }
    if order.lines.is_some() && !action.writes() {
        return Err(invalid("lines", format!("lines: a {action} writes none")));
    }
    if order.bytes.is_some() && action != ChaosAction::Leak {
        return Err(invalid("bytes", format!("bytes: a {action} eats none")));
    }
    // The schema says so, too; what must hold is checked where it is relied on.
    if order
        .duration_ms
        .is_some_and(|ms| ms == 0 || ms > CHAOS_DURATION_MAX_MS)
    {
        let text = format!("durationMs: from 1 to {CHAOS_DURATION_MAX_MS}");
        return Err(invalid("durationMs", text));
    }
    if order
        .lines
        .is_some_and(|lines| lines == 0 || lines > CHAOS_LINES_MAX)
    {
        return Err(invalid(
            "lines",
            format!("lines: from 1 to {CHAOS_LINES_MAX}"),
        ));
    }
    Ok(())
}

/// The blow that an order is, once its target is known.
fn blow(order: &ChaosOrder, target: ChaosTarget, limit: Option<u64>) -> ChaosBlow {
    let action = order.action;
    let lines = match action {
        ChaosAction::Garbage => Some(order.lines.unwrap_or(CHAOS_GARBAGE_LINES)),
        ChaosAction::Flood => Some(order.lines.unwrap_or(CHAOS_FLOOD_LINES)),
        ChaosAction::Kill | ChaosAction::Pause | ChaosAction::Hang | ChaosAction::Leak => None,
    };
    let bytes = limit.filter(|_| action == ChaosAction::Leak);
    ChaosBlow {
        id: format!("blow-{:016x}", random()),
        action,
        target,
        duration_ms: action
            .lasts()
            .then(|| order.duration_ms.unwrap_or(CHAOS_DURATION_MS)),
        lines,
        bytes: bytes.map(|limit| order.bytes.unwrap_or(limit).min(limit)),
        at: now(),
    }
}

fn duration(blow: &ChaosBlow) -> Duration {
    Duration::from_millis(blow.duration_ms.unwrap_or(CHAOS_DURATION_MS))
}

impl Mesh {
    /// Lets one blow fall, if chaos is switched on here.
    pub(super) async fn strike_once(
        &self,
        caller: &Caller,
        order: ChaosOrder,
    ) -> Result<ChaosAnswer, Problem> {
        if !self.ctx.settings.chaos {
            let text = "chaos is switched off here; set chaos.enabled to true in meshd's configuration (or \
                        MESH_CHAOS__ENABLED=true in its environment) and start it again";
            return Err(Problem::new(ProblemKind::Forbidden, "chaos_disabled", text));
        }
        check(&order)?;
        match order.part.clone() {
            Some(part) => self.strike_part(caller, &order, &part).await,
            None => self.strike_agent(caller, &order).await,
        }
    }

    async fn strike_part(
        &self,
        caller: &Caller,
        order: &ChaosOrder,
        part: &str,
    ) -> Result<ChaosAnswer, Problem> {
        if part == ROOT {
            let text = format!(
                "`{ROOT}` is the root of the tree: its end is meshd's, so chaos never touches it"
            );
            return Err(Problem::new(
                ProblemKind::Forbidden,
                "chaos_root_refused",
                text,
            ));
        }
        let (cell, agent) = self.part(part)?;
        self.chaos.admit_part(Instant::now())?;
        let target = ChaosTarget {
            agent,
            instance: None,
            epoch: None,
            pid: None,
            part: Some(part.to_owned()),
            actor: Some(cell.get_id().to_string()),
        };
        let blow = blow(order, target, None);
        self.sentinel.record_blow(&caller.name, &blow).await?;
        cell.kill();
        let effect = format!("{part} was killed where it stood; its supervisor starts it again");
        Ok(ChaosAnswer { blow, effect })
    }

    /// The running actor of a part's name.
    fn part(&self, part: &str) -> Result<(ActorCell, Option<AgentId>), Problem> {
        let gone = || {
            let text = format!("{part} is not running just now: it is being started again");
            conflict("chaos_no_target", text)
        };
        if let Some(agent) = part.strip_prefix(AGENT_PART) {
            let entry = self.entry(agent)?;
            let actor = entry.slot.current().ok_or_else(gone)?;
            return Ok((actor.get_cell(), Some(entry.id.clone())));
        }
        if !PARTS.contains(&part) {
            let text = format!(
                "part: no actor is called {part:?}; there are {}, and {AGENT_PART}<id> for each agent",
                PARTS.join(", ")
            );
            return Err(invalid("part", text));
        }
        let cell = ractor::registry::where_is(registered(&self.ctx, part)).ok_or_else(gone)?;
        Ok((cell, None))
    }

    async fn strike_agent(
        &self,
        caller: &Caller,
        order: &ChaosOrder,
    ) -> Result<ChaosAnswer, Problem> {
        let id = order.agent.as_ref().map_or("", AgentId::as_str);
        let entry = self.entry(id)?;
        let (instance, live) = prey(&entry, order)?;
        let target = ChaosTarget {
            agent: Some(entry.id.clone()),
            instance: Some(instance),
            epoch: Some(live.epoch),
            pid: live
                .live
                .processes()
                .first()
                .map(mesh_sandbox::ChildHandle::pid),
            part: None,
            actor: None,
        };
        let state = entry.state();
        let limit = state
            .manifest()
            .and_then(|manifest| effective(manifest, &self.ctx).limits.kernel.memory_bytes);
        let blow = blow(order, target, limit);
        let under_way = if blow.action.lasts() {
            let lasting = (entry.id.clone(), live.epoch, blow.action);
            Some(self.chaos.begin(lasting)?)
        } else {
            None
        };
        self.sentinel.record_blow(&caller.name, &blow).await?;
        let effect = match blow.action {
            ChaosAction::Kill => kill(&live),
            ChaosAction::Pause => pause(&live, duration(&blow), under_way).await,
            ChaosAction::Leak => leak(&live, &blow, under_way).await,
            ChaosAction::Hang => {
                let time = duration(&blow);
                let struck = self
                    .converse(&entry, live.epoch, Strike::Deafen(time))
                    .await;
                if struck.is_ok() {
                    ractor::concurrency::spawn(async move {
                        tokio::time::sleep(time).await;
                        drop(under_way);
                    });
                }
                struck.map(|()| format!("meshd does not hear it for {time:?}"))
            }
            ChaosAction::Garbage => {
                let count = blow.lines.unwrap_or(CHAOS_GARBAGE_LINES);
                let said = Strike::Say(lines::garbage(order.seed, count));
                let struck = self.converse(&entry, live.epoch, said).await;
                struck.map(|()| format!("{count} lines that are no envelopes are on their way"))
            }
            ChaosAction::Flood => {
                let count = blow.lines.unwrap_or(CHAOS_FLOOD_LINES);
                let said = Strike::Say(lines::flood(count));
                let struck = self.converse(&entry, live.epoch, said).await;
                struck.map(|()| format!("{count} lines are on their way"))
            }
        }?;
        Ok(ChaosAnswer { blow, effect })
    }

    /// Strikes the conversation with an incarnation.
    async fn converse(
        &self,
        entry: &AgentEntry,
        epoch: Epoch,
        strike: Strike,
    ) -> Result<(), Problem> {
        let struck = entry
            .slot
            .call(STRIKE_MAX, |reply| AgentMessage::Strike {
                epoch,
                strike,
                reply,
            })
            .await;
        match struck {
            Ok(Ok(())) => Ok(()),
            Ok(Err(missed)) => Err(conflict("chaos_unsupported", missed.to_string())),
            Err(crate::slot::CallError::NotRunning(_)) => Err(gone(epoch)),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> AgentId {
        AgentId::new("echo").unwrap()
    }

    fn at(action: ChaosAction) -> ChaosOrder {
        ChaosOrder::at_agent(action, agent(), None)
    }

    #[track_caller]
    fn refused(order: &ChaosOrder, field: &str) {
        let problem = check(order).unwrap_err();
        assert_eq!(
            (problem.code, problem.field.as_deref()),
            ("invalid_chaos", Some(field))
        );
    }

    #[test]
    fn an_order_names_one_target_and_only_what_its_action_knows() {
        for action in ChaosAction::ALL {
            assert_eq!(check(&at(action)), Ok(()));
        }
        assert_eq!(check(&ChaosOrder::at_part("bus")), Ok(()));
        refused(
            &ChaosOrder {
                agent: None,
                ..at(ChaosAction::Kill)
            },
            "agent",
        );
        refused(
            &ChaosOrder {
                part: Some("bus".into()),
                ..at(ChaosAction::Kill)
            },
            "part",
        );
        refused(
            &ChaosOrder {
                action: ChaosAction::Pause,
                ..ChaosOrder::at_part("bus")
            },
            "action",
        );
        refused(
            &ChaosOrder {
                duration_ms: Some(1),
                ..at(ChaosAction::Kill)
            },
            "durationMs",
        );
        refused(
            &ChaosOrder {
                lines: Some(1),
                ..at(ChaosAction::Hang)
            },
            "lines",
        );
        refused(
            &ChaosOrder {
                bytes: Some(1),
                ..at(ChaosAction::Flood)
            },
            "bytes",
        );
        for ms in [0, CHAOS_DURATION_MAX_MS + 1] {
            refused(
                &ChaosOrder {
                    duration_ms: Some(ms),
                    ..at(ChaosAction::Hang)
                },
                "durationMs",
            );
        }
        for lines in [0, CHAOS_LINES_MAX + 1] {
            refused(
                &ChaosOrder {
                    lines: Some(lines),
                    ..at(ChaosAction::Flood)
                },
                "lines",
            );
        }
    }

    #[test]
    fn a_leak_never_eats_more_than_the_agent_may_have() {
        let target = || ChaosTarget {
            agent: Some(agent()),
            instance: None,
            epoch: None,
            pid: None,
            part: None,
            actor: None,
        };
        let bytes = |wanted, limit| {
            blow(
                &ChaosOrder {
                    bytes: wanted,
                    ..at(ChaosAction::Leak)
                },
                target(),
                limit,
            )
            .bytes
        };
        assert_eq!(bytes(None, Some(100)), Some(100));
        assert_eq!(bytes(Some(40), Some(100)), Some(40));
        assert_eq!(bytes(Some(400), Some(100)), Some(100));
        assert_eq!(bytes(Some(400), None), None);
    }

    #[tokio::test]
    async fn the_tree_takes_fewer_blows_a_minute_than_a_group_bears() {
        let chaos = Chaos::default();
        let begun = Instant::now();
        for _ in 0..PARTS_MAX {
            chaos.admit_part(begun).unwrap();
        }
        let refused = chaos
            .admit_part(begun + Duration::from_secs(30))
            .unwrap_err();
        assert_eq!(
            (refused.code, refused.retry_after_s),
            ("chaos_too_fast", Some(32))
        );
        chaos.admit_part(begun + PARTS_PERIOD).unwrap();
        assert!(u32::try_from(PARTS_MAX).unwrap() < crate::tree::INTENSITY);
        assert!(PARTS_PERIOD > crate::tree::PERIOD);
    }

    #[test]
    fn a_blow_that_lasts_is_not_dealt_twice_and_is_forgotten_at_its_end() {
        let chaos = Arc::new(Chaos::default());
        let blow = |epoch| (agent(), Epoch(epoch), ChaosAction::Pause);
        let first = chaos.begin(blow(1)).unwrap();
        assert_eq!(chaos.begin(blow(1)).unwrap_err().code, "chaos_under_way");
        let _other = chaos.begin(blow(2)).unwrap();
        drop(first);
        chaos.begin(blow(1)).unwrap();
    }
}
