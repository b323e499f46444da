//! The choice of an instance for one task, and its explanation.

use std::collections::BTreeSet;

use mesh_messages::agent::FaultState;
use mesh_messages::task::{CandidateReport, RiskFactor};
use mesh_messages::trust::TrustLevel;
use mesh_messages::{AgentId, InstanceNo, Timestamp};

use super::fleet::{Fleet, FleetAgent, FleetInstance, Gate, InstanceKey};
use super::stats::{Stats, TypeRecord};
use crate::trust::Trust;

/// Most candidates that one explanation lists: it is stored with every assignment, and nobody reads more.
pub const CANDIDATES_MAX: usize = 32;

/// Weight of "did not fail this very task before".
const WEIGHT_FRESH: f64 = 0.5;
/// Weight of the free share of the instance's slots.
const WEIGHT_FREE: f64 = 0.49;
/// Weight of recent success. Shares of slots differ by at least 1/1024², so this decides between equal loads alone.
const WEIGHT_RECENT: f64 = 1e-7;

/// Share of recent failures from which an assignment is called risky.
const RECENT_FAILURES_RISKY: f64 = 0.25;

/// Why an agent cannot have the check of its own work.
const DID_THE_WORK: &str = "did the work that is checked";

/// What a task asks for.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The kind of work, for the statistics.
    pub kind: &'a str,
    /// The capabilities that the agent must have.
    pub needs: &'a [String],
    /// The one agent that may have it, if there is a restriction.
    pub only: Option<&'a AgentId>,
    /// Agents that failed it before: taken only when no other can have it now.
    pub avoid: &'a BTreeSet<AgentId>,
    /// Who is among them only because the submitter would rather have another.
    pub shuns: Option<&'a AgentId>,
    /// Whose work it checks: that agent never gets it.
    pub judges: Option<&'a AgentId>,
    /// Who goes before all others, unless it has failed it.
    pub prefer: Option<&'a AgentId>,
    /// Whether it must be alone on its instance.
    pub alone: bool,
    /// When it must have ended.
    pub deadline_at: Timestamp,
    /// The trust that it needs.
    pub trust: Needed<'a>,
}

/// The trust that a task needs of its agent, and who has how much.
#[derive(Debug, Clone, Copy)]
pub struct Needed<'a> {
    /// The least that will do.
    pub least: TrustLevel,
    /// Who has how much.
    pub table: &'a Trust,
    /// As of now.
    pub now: Timestamp,
}

impl Demand<'_> {
    /// Whether another agent is preferred that has not failed it.
    fn prefers_another(&self, agent: &AgentId) -> bool {
        let preferred = self.prefer.filter(|id| !self.avoid.contains(*id));
        preferred.is_some_and(|id| id != agent)
    }

    /// Whether an agent is avoided because it failed it.
    fn has_failed(&self, agent: &AgentId) -> bool {
        self.avoid.contains(agent) && self.shuns != Some(agent)
    }

    /// How far an agent is trusted with this.
    pub(crate) fn trust_in(&self, agent: &AgentId) -> TrustLevel {
        self.trust.table.level(agent, self.needs, self.trust.now)
    }
}

/// What an instance has in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Attempts that hold a slot.
    pub at_work: u32,
    /// Whether the instance is kept for, or has, a task that must be alone.
    pub kept: bool,
}

/// Who has what in hand.
pub trait Occupancy {
    /// What one incarnation has in hand.
    fn on_instance(&self, key: &InstanceKey) -> Load;
    /// Whether an incarnation declined the task that looks for one.
    fn has_declined(&self, _key: &InstanceKey) -> bool {
        false
    }
    /// How many attempts hold a slot on an agent, over all its incarnations.
    fn on_agent(&self, agent: &AgentId) -> u32;
    /// Whether a task that must be alone is being tried on one of the agent's instances.
    fn has_suspect(&self, agent: &AgentId) -> bool;
    /// Why its provider's gate lets nobody through now; `None` when it does.
    fn barred(&self, id: &AgentId, agent: &FleetAgent) -> Option<String>;
}

/// The instance that is to have the task.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The incarnation.
    pub key: InstanceKey,
    /// Estimated probability of success.
    pub confidence: f64,
    /// Why this one.
    pub reasoning: Vec<String>,
    /// What may go wrong.
    pub risk_factors: Vec<RiskFactor>,
    /// Mean milliseconds of past successes.
    pub estimated_duration: Option<u64>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// This one, and all that were looked at.
    Take(Box<Chosen>, Vec<CandidateReport>),
    /// Nobody can have it now; this instance should be kept free for it (it must be alone).
    Keep(InstanceKey),
    /// Nobody can have it now.
    Nobody,
}

struct Candidate<'a> {
    id: &'a AgentId,
    agent: &'a FleetAgent,
    no: InstanceNo,
    instance: &'a FleetInstance,
    load: Load,
    record: TypeRecord,
    trust: TrustLevel,
}

impl Candidate<'_> {
    fn key(&self) -> InstanceKey {
        (self.id.clone(), self.no, self.instance.epoch)
    }

    fn free_share(&self) -> f64 {
        let slots = f64::from(self.instance.concurrency.max(1));
        1.0 - f64::from(self.load.at_work) / slots
    }

    /// Its score, or why it cannot have the task.
    fn weigh(&self, demand: &Demand<'_>, occupancy: &dyn Occupancy) -> Result<f64, String> {
        if demand.judges == Some(self.id) {
            return Err(DID_THE_WORK.to_owned());
        }
        match self.agent.gate() {
            Gate::Free => {}
            // It would be judged by what the task does, and the task is under suspicion itself.
            Gate::Permit if demand.alone => {
                return Err(format!(
                    "{}, and a suspected task is no fair trial",
                    self.agent.condition()
                ));
            }
            Gate::Permit if occupancy.on_agent(self.id) == 0 => {}
            Gate::Permit => {
                return Err(format!(
                    "{}, and its one permit is taken",
                    self.agent.condition()
                ));
            }
            Gate::Broken | Gate::Down => return Err(self.agent.condition()),
        }
        if let Some(why) = &self.instance.closed {
            return Err(why.clone());
        }
        if self.trust < demand.trust.least {
            return Err(format!(
                "trust {}, and the task needs {}",
                self.trust, demand.trust.least
            ));
        }
        if demand.alone && occupancy.has_suspect(self.id) {
            // One after the other, so that each is acquitted or convicted before the agent pays for several.
            return Err("another suspected task is being tried on this agent".to_owned());
        }
        if self.load.kept {
            return Err("kept for a task that has to run alone".to_owned());
        }
        if demand.alone && self.load.at_work > 0 {
            return Err("the task has to run alone, and this instance has other work".to_owned());
        }
        if self.load.at_work >= self.instance.concurrency {
            return Err(format!(
                "all of its {} slots are taken",
                self.instance.concurrency
            ));
        }
        if occupancy.has_declined(&self.key()) {
            return Err("declined this task".to_owned());
        }
        // Last, as it takes the longest to find out.
        if let Some(why) = occupancy.barred(self.id, self.agent) {
            return Err(why);
        }
        let fresh = if demand.avoid.contains(self.id) || demand.prefers_another(self.id) {
            0.0
        } else {
            WEIGHT_FRESH
        };
        let recent = 1.0 - self.record.recent_failures();
        Ok(fresh + WEIGHT_FREE * self.free_share() + WEIGHT_RECENT * recent)
    }

    fn reasons(&self, demand: &Demand<'_>) -> Vec<String> {
        let mut reasons = vec![
            format!("has {}", demand.needs.join(", ")),
            format!(
                "{} of {} slots taken",
                self.load.at_work, self.instance.concurrency
            ),
            match self.record.attempts() {
                0 => format!("no past attempts at {}", demand.kind),
                n => format!(
                    "succeeded in {} of {n} attempts at {}",
                    self.record.succeeded, demand.kind
                ),
            },
        ];
        if demand.trust.least > TrustLevel::NONE {
            reasons.push(format!(
                "trust {}, of {} that the task needs",
                self.trust, demand.trust.least
            ));
        }
        if demand.prefer == Some(self.id) {
            reasons.push("the task prefers it".to_owned());
        }
        if demand.has_failed(self.id) {
            reasons.push("failed this task before".to_owned());
        } else if demand.avoid.contains(self.id) {
            reasons.push("the task asks for another".to_owned());
        }
        reasons
    }

    fn risks(&self, demand: &Demand<'_>, now: Timestamp) -> Vec<RiskFactor> {
        let mut risks = Vec::new();
        let mut risk = |factor: &str, detail: String| {
            risks.push(RiskFactor {
                factor: factor.to_owned(),
                detail,
            });
        };
        if self.record.attempts() == 0 {
            risk(
                "unproven",
                format!("{} has no past attempts at {}", self.id, demand.kind),
            );
        }
        if self.record.recent_failures() >= RECENT_FAILURES_RISKY {
            let percent = (self.record.recent_failures() * 100.0).round();
            risk(
                "recent_failures",
                format!("about {percent} % of its latest attempts failed"),
            );
        }
        if self.agent.fault != FaultState::Running {
            risk("fault_state", self.agent.condition());
        }
        if demand.has_failed(self.id) {
            risk(
                "failed_before",
                format!("{} failed this task before", self.id),
            );
        }
        if demand.alone {
            risk(
                "suspect_task",
                "an instance ended while it had this task".to_owned(),
            );
        }
        if let Some(ms) = self.record.mean_duration_ms()
            && now.plus(std::time::Duration::from_millis(ms)) > demand.deadline_at
        {
            risk(
                "deadline",
                format!("takes {ms} ms on average, which is past the deadline"),
            );
        }
        risks
    }
}

/// Chooses who is to have a task, and says why.
///
/// Least loaded first, then fewest recent failures, then the smaller id and number; agents that failed this very task
/// before come after all others.
pub fn choose(
    fleet: &Fleet,
    occupancy: &dyn Occupancy,
    stats: &Stats,
    demand: &Demand<'_>,
    now: Timestamp,
) -> Choice {
    let mut best: Option<(f64, &Candidate<'_>)> = None;
    let mut keep: Option<(u32, InstanceKey)> = None;
    let weighed = weighed(fleet, occupancy, stats, demand);
    for (candidate, score) in &weighed {
        match score {
            Ok(score) => {
                if best.as_ref().is_none_or(|(most, _)| score > most) {
                    best = Some((*score, candidate));
                }
            }
            Err(_)
                if demand.alone
                    && candidate.trust >= demand.trust.least
                    && may_be_kept(candidate, demand, occupancy) =>
            {
                let at_work = candidate.load.at_work;
                if keep.as_ref().is_none_or(|(least, _)| at_work < *least) {
                    keep = Some((at_work, candidate.key()));
                }
            }
            Err(_) => {}
        }
    }
    let Some((_, candidate)) = best else {
        return keep.map_or(Choice::Nobody, |(_, key)| Choice::Keep(key));
    };
    let chosen = Chosen {
        key: candidate.key(),
        confidence: candidate.record.confidence(),
        reasoning: candidate.reasons(demand),
        risk_factors: candidate.risks(demand, now),
        estimated_duration: candidate.record.mean_duration_ms(),
    };
    Choice::Take(Box::new(chosen), reports_of(weighed, fleet, demand))
}

/// Whether an instance would take the task if it had nothing else.
fn may_be_kept(candidate: &Candidate<'_>, demand: &Demand<'_>, occupancy: &dyn Occupancy) -> bool {
    demand.judges != Some(candidate.id)
        && candidate.agent.gate() == Gate::Free
        && candidate.instance.closed.is_none()
        && candidate.instance.concurrency > 0
        && !candidate.load.kept
        && !occupancy.has_declined(&candidate.key())
        && occupancy.barred(candidate.id, candidate.agent).is_none()
}

fn candidates<'a>(
    fleet: &'a Fleet,
    occupancy: &'a dyn Occupancy,
    stats: &'a Stats,
    demand: &'a Demand<'a>,
) -> impl Iterator<Item = Candidate<'a>> {
    fleet
        .capable(demand.needs, demand.only)
        .flat_map(move |(id, agent)| {
            let record = stats.of(id, demand.kind);
            // Most tasks ask for none, and then nobody looks at it.
            let trust = match demand.trust.least {
                TrustLevel::NONE => TrustLevel::FULL,
                _ => demand.trust_in(id),
            };
            agent.instances.iter().map(move |(no, instance)| Candidate {
                id,
                agent,
                no: *no,
                instance,
                load: occupancy.on_instance(&(id.clone(), *no, instance.epoch)),
                record,
                trust,
            })
        })
}

/// Everybody who could be asked, best first, at most [`CANDIDATES_MAX`]; when nobody could, those who lack something.
pub(crate) fn reports(
    fleet: &Fleet,
    occupancy: &dyn Occupancy,
    stats: &Stats,
    demand: &Demand<'_>,
) -> Vec<CandidateReport> {
    reports_of(weighed(fleet, occupancy, stats, demand), fleet, demand)
}

type Weighed<'a> = (Candidate<'a>, Result<f64, String>);

fn weighed<'a>(
    fleet: &'a Fleet,
    occupancy: &'a dyn Occupancy,
    stats: &'a Stats,
    demand: &'a Demand<'a>,
) -> Vec<Weighed<'a>> {
    candidates(fleet, occupancy, stats, demand)
        .map(|candidate| {
            let score = candidate.weigh(demand, occupancy);
            (candidate, score)
        })
        .collect()
}

fn reports_of(
    mut weighed: Vec<Weighed<'_>>,
    fleet: &Fleet,
    demand: &Demand<'_>,
) -> Vec<CandidateReport> {
    let score_of = |score: &Result<f64, String>| *score.as_ref().unwrap_or(&0.0);
    // The sorts are stable, so equal scores stay in the order of ids. Words are made only for those that are shown.
    weighed.sort_by(|(_, a), (_, b)| score_of(b).total_cmp(&score_of(a)));
    weighed.truncate(CANDIDATES_MAX);
    let mut reports: Vec<_> = weighed
        .into_iter()
        .map(|(candidate, score)| CandidateReport {
            agent_id: candidate.id.clone(),
            instance: Some(candidate.no),
            eligible: score.is_ok(),
            score: score_of(&score),
            reasons: match score {
                Ok(_) => candidate.reasons(demand),
                Err(why) => vec![why],
            },
        })
        .collect();
    let without_instance = fleet
        .capable(demand.needs, demand.only)
        .filter(|(_, agent)| agent.instances.is_empty())
        .map(|(id, agent)| excluded(id, agent.condition()));
    reports.extend(without_instance);
    if reports.is_empty() {
        let lacking = fleet.agents().take(CANDIDATES_MAX).map(|(id, agent)| {
            let missing: Vec<_> = demand
                .needs
                .iter()
                .filter(|need| !agent.capabilities.contains(*need))
                .map(String::as_str)
                .collect();
            match missing.as_slice() {
                [] => excluded(id, "only another agent may have it".to_owned()),
                missing => excluded(id, format!("lacks {}", missing.join(", "))),
            }
        });
        reports.extend(lacking);
    }
    reports.sort_by(|a, b| b.score.total_cmp(&a.score));
    reports.truncate(CANDIDATES_MAX);
    reports
}

fn excluded(id: &AgentId, why: String) -> CandidateReport {
    CandidateReport {
        agent_id: id.clone(),
        instance: None,
        eligible: false,
        score: 0.0,
        reasons: vec![why],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_messages::{Epoch, FailureClass};

    use super::*;

    #[derive(Default)]
    struct Loads(BTreeMap<InstanceKey, Load>);

    impl Occupancy for Loads {
        fn barred(&self, _: &AgentId, _: &FleetAgent) -> Option<String> {
            None
        }

        fn has_suspect(&self, _agent: &AgentId) -> bool {
            false
        }

        fn on_instance(&self, key: &InstanceKey) -> Load {
            self.0.get(key).copied().unwrap_or_default()
        }
        fn on_agent(&self, agent: &AgentId) -> u32 {
            self.0
                .iter()
                .filter(|((id, ..), _)| id == agent)
                .map(|(_, load)| load.at_work)
                .sum()
        }
    }

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    fn key(agent: &str, no: u32) -> InstanceKey {
        (id(agent), InstanceNo(no), Epoch(1))
    }

    fn agent(instances: &[u32]) -> FleetAgent {
        let instances = (0..).zip(instances).map(|(no, concurrency)| {
            let instance = FleetInstance {
                epoch: Epoch(1),
                concurrency: *concurrency,
                closed: None,
            };
            (InstanceNo(no), instance)
        });
        FleetAgent {
            capabilities: BTreeSet::from(["x".to_owned()]),
            fault: FaultState::Running,
            instances: instances.collect(),
            ..FleetAgent::default()
        }
    }

    struct Scene {
        fleet: Fleet,
        loads: Loads,
        stats: Stats,
        avoid: BTreeSet<AgentId>,
        prefer: Option<AgentId>,
        alone: bool,
    }

    impl Scene {
        fn new(agents: &[(&str, FleetAgent)]) -> Self {
            let mut fleet = Fleet::default();
            for (name, agent) in agents {
                fleet.put(id(name), agent.clone());
            }
            Self {
                fleet,
                loads: Loads::default(),
                stats: Stats::default(),
                avoid: BTreeSet::new(),
                prefer: None,
                alone: false,
            }
        }

        fn load(&mut self, agent: &str, no: u32, at_work: u32) -> &mut Self {
            self.loads.0.insert(
                key(agent, no),
                Load {
                    at_work,
                    kept: false,
                },
            );
            self
        }

        fn choose(&self) -> Choice {
            let demand = Demand {
                kind: "x",
                needs: &["x".to_owned()],
                only: None,
                avoid: &self.avoid,
                shuns: None,
                judges: None,
                prefer: self.prefer.as_ref(),
                alone: self.alone,
                deadline_at: Timestamp::from_millis(1000),
                trust: Needed {
                    least: TrustLevel::NONE,
                    table: &Trust::default(),
                    now: Timestamp::ZERO,
                },
            };
            choose(
                &self.fleet,
                &self.loads,
                &self.stats,
                &demand,
                Timestamp::ZERO,
            )
        }

        #[track_caller]
        fn takes(&self, agent: &str, no: u32) -> Chosen {
            match self.choose() {
                Choice::Take(chosen, reports) => {
                    assert_eq!(chosen.key, key(agent, no));
                    assert_eq!(
                        reports[0].agent_id,
                        id(agent),
                        "the winner has the best score"
                    );
                    *chosen
                }
                other => panic!("expected {agent}#{no}, got {other:?}"),
            }
        }
    }

    #[test]
    fn the_least_loaded_instance_wins_and_ties_go_to_the_smaller_id() {
        let mut scene = Scene::new(&[("a", agent(&[4, 2])), ("b", agent(&[4]))]);
        scene.takes("a", 0);
        scene.load("a", 0, 1).load("a", 1, 1);
        scene.takes("b", 0);
        scene.load("b", 0, 2);
        scene.takes("a", 0);
    }

    #[test]
    fn equal_loads_are_decided_by_recent_failures() {
        let mut scene = Scene::new(&[("a", agent(&[1])), ("b", agent(&[1]))]);
        scene.stats.failed(&id("a"), "x", FailureClass::Crash);
        let chosen = scene.takes("b", 0);
        assert!((chosen.confidence - 0.5).abs() < 1e-9);
        assert_eq!(chosen.risk_factors[0].factor, "unproven");
    }

    #[test]
    fn an_agent_that_failed_the_task_is_taken_only_when_no_other_can() {
        let mut scene = Scene::new(&[("a", agent(&[2])), ("b", agent(&[2]))]);
        scene.avoid.insert(id("a"));
        scene.load("b", 0, 1);
        scene.takes("b", 0);
        scene.load("b", 0, 2);
        let chosen = scene.takes("a", 0);
        assert!(
            chosen
                .risk_factors
                .iter()
                .any(|risk| risk.factor == "failed_before")
        );
    }

    #[test]
    fn full_closed_and_barred_instances_get_nothing() {
        let mut scene = Scene::new(&[("a", agent(&[1]))]);
        scene.load("a", 0, 1);
        assert_eq!(scene.choose(), Choice::Nobody);

        let mut closed = agent(&[1]);
        closed.instances.get_mut(&InstanceNo(0)).unwrap().closed = Some("draining".to_owned());
        assert_eq!(Scene::new(&[("a", closed)]).choose(), Choice::Nobody);

        for fault in [
            FaultState::Open,
            FaultState::Quarantined,
            FaultState::Stopped,
        ] {
            let barred = FleetAgent {
                fault,
                ..agent(&[1])
            };
            assert_eq!(
                Scene::new(&[("a", barred)]).choose(),
                Choice::Nobody,
                "{fault:?}"
            );
        }
    }

    #[test]
    fn an_agent_on_probation_gets_one_task_over_all_its_instances() {
        let probation = FleetAgent {
            fault: FaultState::HalfOpen,
            ..agent(&[4, 4])
        };
        let mut scene = Scene::new(&[("a", probation)]);
        scene.takes("a", 0);
        scene.load("a", 1, 1);
        assert_eq!(scene.choose(), Choice::Nobody);
    }

    #[test]
    fn a_task_that_must_be_alone_takes_an_idle_instance_or_keeps_the_least_loaded() {
        let mut scene = Scene::new(&[("a", agent(&[4, 4]))]);
        scene.alone = true;
        scene.load("a", 0, 2);
        scene.takes("a", 1);
        scene.load("a", 1, 1);
        assert_eq!(scene.choose(), Choice::Keep(key("a", 1)));
        scene.loads.0.insert(
            key("a", 1),
            Load {
                at_work: 0,
                kept: true,
            },
        );
        assert_eq!(scene.choose(), Choice::Keep(key("a", 0)));
    }
}
