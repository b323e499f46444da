//! The run itself: blows, load and looks at their time, then waiting until the fleet has come to rest.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_messages::agent::FaultState;
use mesh_messages::chaos::ChaosAnswer;
use mesh_messages::system::SystemStatus;
use mesh_messages::task::Task;
use mesh_messages::{AgentId, Epoch, TaskId, Timestamp};

use super::evidence::{Answers, Dealt, Outcome};
use super::fleet::{Fleet, status};
use super::load::Tasks;
use super::plan::Stroke;
use super::processes::Trees;
use crate::client::{Request, RequestError};
use crate::exit::{Exit, Failure};
use crate::output::Progress;
use crate::session::Session;

/// Time between two looks at the fleet.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most agents at which one look looks: it must not keep the blows waiting.
const LOOKED_AT_MAX: usize = 16;
/// Longest sleep of the loop: how late a blow may be.
const NAP: Duration = Duration::from_millis(20);
/// Time between two looks while the fleet comes to rest.
const REST_EVERY: Duration = Duration::from_millis(250);
/// How much longer tasks are waited for that must end with patience: meshd ends them a moment after their deadline.
const DEADLINE_SLACK: Duration = Duration::from_secs(5);
/// Questions that show how quickly the mesh answers when nobody hurts it.
const QUESTIONS_BEFORE: usize = 50;
/// How often meshd may not be reached in a row before it counts as gone.
const UNREACHABLE_MAX: u32 = 20;

/// A run under way.
pub(super) struct Campaign<'s> {
    pub(super) session: &'s mut Session,
    pub(super) fleet: &'s Fleet,
    /// When the first blow could fall, by meshd's clock, and by ours.
    began: (Timestamp, Instant),
    pub(super) dealt: Vec<Dealt>,
    pub(super) trees: Trees,
    pub(super) answers: Answers,
    next_look: Duration,
    looked_at: usize,
    unreachable: u32,
}

impl<'s> Campaign<'s> {
    /// Begins now, which meshd calls `at`.
    pub(super) fn begin(at: Timestamp, fleet: &'s Fleet, session: &'s mut Session) -> Self {
        let mut campaign = Self {
            session,
            fleet,
            began: (at, Instant::now()),
            dealt: Vec::new(),
            trees: Trees::default(),
            answers: Answers::default(),
            next_look: Duration::ZERO,
            looked_at: 0,
            unreachable: 0,
        };
        for _ in 0..QUESTIONS_BEFORE {
            if let Some(took) = campaign.question() {
                campaign.answers.before.push(took);
            }
        }
        campaign.began.1 = Instant::now();
        campaign
    }

    fn elapsed(&self) -> Duration {
        self.began.1.elapsed()
    }

    /// What meshd's clock says now, as far as we can tell.
    pub(super) fn now(&self) -> Timestamp {
        self.began.0.plus(self.elapsed())
    }

    /// Lets the blows fall and submits the load, until the time is over.
    pub(super) fn run(
        &mut self,
        strokes: Vec<Stroke>,
        tasks: &mut Tasks,
        time: Duration,
    ) -> Result<(), Failure> {
        let progress = self.session.out.progress("chaos");
        let mut strokes = strokes.into_iter().peekable();
        loop {
            while let Some(stroke) = strokes.next_if(|stroke| stroke.at <= self.elapsed()) {
                self.strike(stroke)?;
            }
            tasks.submit(self.elapsed(), self.now(), self.session)?;
            if self.elapsed() >= time && tasks.next().is_none_or(|at| at >= time) {
                return Ok(());
            }
            if self.elapsed() > time * 2 + NAP {
                // meshd takes nothing more; what it never acknowledged need not end.
                return Ok(());
            }
            if self.elapsed() >= self.next_look {
                self.look()?;
                self.next_look = self.elapsed() + LOOK_EVERY;
                self.tell(&progress, time, tasks);
            }
            std::thread::sleep(NAP);
        }
    }

    fn tell(&self, progress: &Progress, time: Duration, tasks: &Tasks) {
        let last = self
            .dealt
            .last()
            .map_or_else(String::new, |dealt| match &dealt.outcome {
                Outcome::Struck(answer) => {
                    format!(", {} {}", answer.blow.action, answer.blow.target)
                }
                Outcome::Refused { code, .. } => format!(", {code}"),
                Outcome::Unknown(_) => ", no answer".to_owned(),
            });
        progress.say(&format!(
            "{} of {} s, {} blows, {} tasks{last}",
            self.elapsed().min(time).as_secs(),
            time.as_secs(),
            self.dealt.len(),
            tasks.acknowledged.len(),
        ));
    }

    fn strike(&mut self, stroke: Stroke) -> Result<(), Failure> {
        if let Some(agent) = &stroke.order.agent {
            // So that its processes are known before they end.
            self.note(&agent.clone())?;
        }
        let at_ms = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        let body = serde_json::to_value(&stroke.order).map_err(|error| {
            Failure::new(Exit::Bug, format!("cannot write the blow as JSON: {error}"))
        })?;
        let sent = self
            .session
            .client()?
            .send(&Request::post(&["v1", "chaos"]).json(&body));
        let outcome = match sent {
            Ok(answer) => Outcome::Struck(Box::new(answer.read::<ChaosAnswer>()?)),
            Err(RequestError::Refused(refusal)) if is_passing(refusal.status) => {
                let (code, detail) = (refusal.code.clone(), refusal.detail.clone());
                Outcome::Refused { code, detail }
            }
            Err(error @ (RequestError::Lost { .. } | RequestError::TimedOut { .. })) => {
                Outcome::Unknown(error.to_string())
            }
            Err(error) => return Err(error.into()),
        };
        self.dealt.push(Dealt {
            at_ms,
            order: stroke.order,
            outcome,
        });
        Ok(())
    }

    /// Looks at some of those in scope, in turn, and asks something about somebody who is not.
    fn look(&mut self) -> Result<(), Failure> {
        match self.question() {
            Some(took) => self.answers.during.push(took),
            None => self.answers.failed += 1,
        }
        let count = self.fleet.watched.len();
        for _ in 0..count.min(LOOKED_AT_MAX) {
            let agent = &self.fleet.watched[self.looked_at % count];
            self.looked_at += 1;
            self.note(agent)?;
        }
        Ok(())
    }

    /// How long meshd took to answer about somebody out of scope, in microseconds.
    fn question(&self) -> Option<u64> {
        let request = match self.fleet.siblings.first() {
            Some(sibling) => Request::get(&["v1", "agents", sibling.as_str(), "status"]),
            None => Request::get(&["healthz"]),
        };
        let asked = Instant::now();
        self.session.client().ok()?.send(&request).ok()?;
        u64::try_from(asked.elapsed().as_micros()).ok()
    }

    /// Takes note of an agent's processes. Whoever does not answer just now is looked at another time.
    fn note(&mut self, agent: &AgentId) -> Result<(), Failure> {
        match status(agent, self.session) {
            Ok(seen) => {
                self.unreachable = 0;
                for instance in seen.instances.iter().flatten() {
                    if let Some(pid) = instance.pid {
                        self.trees.note(agent, instance.epoch, pid);
                    }
                }
                Ok(())
            }
            Err(failure) if failure.exit == Exit::Unreachable => {
                self.unreachable += 1;
                if self.unreachable < UNREACHABLE_MAX {
                    std::thread::sleep(NAP);
                    return Ok(());
                }
                Err(failure.hint(format!(
                    "meshd has gone after {} blows; its log and exit code say why",
                    self.dealt.len()
                )))
            }
            Err(failure) if matches!(failure.exit, Exit::Denied | Exit::Bug) => Err(failure),
            Err(_) => Ok(()),
        }
    }

    /// Waits until these tasks have ended and those in scope are at rest, or patience runs out; who is not at rest.
    pub(super) fn rest(
        &mut self,
        mut tasks: BTreeSet<TaskId>,
        patience: Duration,
    ) -> Result<Vec<String>, Failure> {
        let progress = self
            .session
            .out
            .progress("waiting until the fleet is at rest");
        let until = Instant::now() + patience;
        loop {
            let mut restless = Vec::new();
            for agent in &self.fleet.watched {
                self.note(agent)?;
                let state = status(agent, self.session).ok().and_then(|s| s.fault);
                match state.map(|fault| fault.state) {
                    Some(
                        FaultState::Running
                        | FaultState::Stopped
                        | FaultState::Quarantined
                        | FaultState::Terminated,
                    ) => {}
                    Some(state) => restless.push(format!("{agent} is {}", state.name())),
                    None => restless.push(format!("{agent} does not answer")),
                }
            }
            tasks.retain(|task| !self.has_ended(task));
            let slack = if tasks.is_empty() {
                Duration::ZERO
            } else {
                DEADLINE_SLACK
            };
            let late = Instant::now() > until + slack;
            if late || (tasks.is_empty() && restless.is_empty()) {
                return Ok(restless);
            }
            progress.say(&format!(
                "waiting until the fleet is at rest: {} tasks, {} agents",
                tasks.len(),
                restless.len()
            ));
            std::thread::sleep(REST_EVERY);
        }
    }

    fn has_ended(&self, task: &TaskId) -> bool {
        let answer = self
            .session
            .send(&Request::get(&["v1", "tasks", task.as_str()]));
        match answer.and_then(|answer| answer.read::<Task>()) {
            Ok(task) => task.state.is_terminal(),
            // There is nothing to wait for; the verdict will say so.
            Err(failure) => failure.exit == Exit::NotFound,
        }
    }

    /// Incarnations that run now.
    pub(super) fn running(&self) -> Result<BTreeSet<(AgentId, Epoch)>, Failure> {
        let mut running = BTreeSet::new();
        for agent in &self.fleet.watched {
            let seen = status(agent, self.session)?;
            let instances = seen.instances.into_iter().flatten();
            running.extend(instances.map(|instance| (agent.clone(), instance.epoch)));
        }
        Ok(running)
    }

    /// Whether meshd answers and takes work.
    pub(super) fn alive(&self) -> Result<(), String> {
        let answer = self.session.send(&Request::get(&["status"]));
        match answer.and_then(|answer| answer.read::<SystemStatus>()) {
            Ok(status) if status.accepting => Ok(()),
            Ok(status) => Err(status
                .refusing_because
                .unwrap_or_else(|| "it takes no work".to_owned())),
            Err(failure) => Err(failure.message),
        }
    }
}

/// Whether a refusal only says that this blow cannot fall just now; any other is about us, and would come again.
fn is_passing(status: u16) -> bool {
    matches!(status, 404 | 409 | 429 | 503 | 504)
}
