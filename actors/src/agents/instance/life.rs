//! The life of an instance: its start, its end, and what is due meanwhile.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use mesh_actors_core::liveness::Input;
use mesh_messages::klp::ControlVerb;
use mesh_messages::{Failure, FailureClass, Timestamp};
use mesh_sandbox::ExitStatus;

use super::handover::Hand;
use super::{
    Asked, InstanceMessage, KILL_AGAIN, LAST_WORDS_MAX, Launched, MUTE_MAX, Phase, Process, Session,
};
use crate::agents::agent::AgentMessage;
use crate::agents::lines::{LINES_OUT_MAX, WRITE_STALL_MAX, read_lines, read_log, write_lines};
use crate::agents::process::{exit_failure, launch};
use crate::agents::spawn::{Start, plan_launch};
use crate::clock::now;
use crate::outbound::{Traveller, serve};
use crate::secrets::Blotter;

impl Session {
    pub(super) fn start_process(&mut self) {
        let (ctx, me) = (Arc::clone(&self.args.ctx), self.me.clone());
        let (manifest, digest) = (Arc::clone(&self.args.manifest), self.args.digest.clone());
        let (instance, epoch) = (self.args.instance, self.args.epoch);
        let live = Arc::clone(&self.args.live);
        self.process = Process::Launching;
        self.spawn(async move {
            let planned = {
                let ctx = Arc::clone(&ctx);
                tokio::task::spawn_blocking(move || {
                    let start = Start {
                        manifest: &manifest,
                        digest: &digest,
                        instance,
                        epoch,
                        process: 0,
                    };
                    plan_launch(&ctx, start)
                })
            };
            let result = match planned.await {
                Ok(Ok(plan)) => {
                    let (plan, bounds) = plan;
                    let uid = plan.spec().ids.map(|ids| ids.uid);
                    live.plan_limits(0, bounds);
                    launch(&ctx.launcher, plan)
                        .await
                        .map(|(child, pipes)| (child, pipes, uid))
                }
                Ok(Err(refusal)) => Err(Failure::from(refusal)),
                Err(_) => Err(Failure::new(FailureClass::Start, "the start was given up")),
            };
            // A dropped answer drops the child, which ends it.
            let _gone = me.cast(InstanceMessage::Launched(Box::new(Launched(result))));
        });
    }

    pub(super) fn launched(&mut self, Launched(result): Launched) {
        self.process = Process::Absent;
        let (mut child, pipes, uid) = match result {
            Ok(started) => started,
            Err(failure) => {
                // Who was told to end while it started has ended as it was told.
                if self.phase == Phase::Starting {
                    self.verdict = Some(failure);
                }
                return self.conclude();
            }
        };
        let handle = child.handle();
        self.args.live.add_process(0, handle.clone(), uid);
        let way_out = self.way_out(child.listener.take());
        self.spawn(way_out);
        self.process = Process::Running(child);
        let (tx, rx) = mpsc::channel(LINES_OUT_MAX);
        self.out = Some(tx);
        self.stdin = Some(pipes.stdin.clone());
        let me = self.me.clone();
        self.spawn(async move {
            let end = write_lines(pipes.stdin, rx, WRITE_STALL_MAX).await;
            let _gone = me.cast(InstanceMessage::WriterEnded(end));
        });
        let (me, lines) = (self.me.clone(), Arc::clone(&self.lines));
        let rate = self.args.ctx.settings.agent_rate;
        self.spawn(read_lines(pipes.stdout, lines, rate, move |input| {
            me.cast(InstanceMessage::Line(input)).is_ok()
        }));
        self.spawn(read_log(
            pipes.stderr,
            self.args.ctx.settings.agent_rate,
            self.log_sink(),
        ));
        let me = self.me.clone();
        self.spawn(async move {
            let status = handle.wait().await;
            let _gone = me.cast(InstanceMessage::Exited(status));
        });
        if self.phase != Phase::Starting {
            self.kill(None);
        }
    }

    /// Serves a process's way out, where it has one, as long as the returned future is polled.
    pub(super) fn way_out(
        &self,
        listener: Option<OwnedFd>,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let who = Traveller {
            agent: self.args.agent.clone(),
            instance: self.args.instance,
            epoch: self.args.epoch,
        };
        serve(
            &self.args.ctx,
            &self.args.services,
            &self.args.manifest,
            who,
            (listener, self.args.live.egress()),
        )
    }

    /// Where lines of the agent's log go: to the tail that people look at, and to meshd's own log.
    pub(super) fn log_sink(&self) -> (Blotter, impl FnMut(Vec<u8>) + Send + use<>) {
        let (log, agent) = (Arc::clone(&self.args.log), self.args.agent.clone());
        let (instance, epoch) = (self.args.instance, self.args.epoch);
        let blotter = Blotter::new(&self.args.ctx.secrets, &self.args.manifest);
        let sink = move |line: Vec<u8>| {
            let text = String::from_utf8_lossy(&line);
            tracing::debug!(target: "agent", %agent, %instance, %epoch, "{text}");
            log.push(now(), instance, epoch, &line);
        };
        (blotter, sink)
    }

    pub(super) fn exited(&mut self, status: ExitStatus) {
        self.pass = None;
        if let Process::Running(child) = &self.process {
            self.bell().ended(&self.args.live, 0, &child.handle());
        }
        self.verdict = match (self.verdict.take(), self.phase) {
            (Some(verdict), _) => Some(verdict),
            (None, Phase::Ready) => Some(exit_failure(status)),
            (None, Phase::Starting) => {
                let failure = exit_failure(status);
                let class = if failure.class == FailureClass::Resource {
                    FailureClass::Resource
                } else {
                    FailureClass::Start
                };
                let text = format!("before its handshake: {}", failure.message);
                Some(Failure::new(class, text))
            }
            (None, _) => None,
        };
        let killed = matches!(self.phase, Phase::Killed { .. });
        if !killed {
            self.mark_unread();
        }
        if killed || self.heard_out {
            return self.conclude();
        }
        // Its last lines may still lie in the pipe: a result written right before the exit is a result.
        self.phase = Phase::Exited {
            until: now().plus(LAST_WORDS_MAX),
        };
    }

    /// Its output is at its end.
    pub(super) fn heard_out(&mut self) {
        self.heard_out = true;
        match self.phase {
            Phase::Exited { .. } => self.conclude(),
            Phase::Starting | Phase::Ready | Phase::Draining { .. } => {
                self.muted("closed its output");
            }
            Phase::Stopping { .. } | Phase::Killed { .. } => {}
        }
    }

    /// It cannot be talked with any more. If it does not exit by itself now, it is ended.
    pub(super) fn muted(&mut self, what: &'static str) {
        self.mute.get_or_insert((now().plus(MUTE_MAX), what));
    }

    /// Nothing of it is left.
    pub(super) fn conclude(&mut self) {
        if !self.running.is_empty() {
            // A check runs in a sandbox of its own; its end is told, and concludes.
            self.process = Process::Absent;
            for work in self.running.values_mut() {
                work.cancel();
            }
            self.phase = Phase::Killed {
                again: now().plus(KILL_AGAIN),
            };
            return;
        }
        let verdict = self.verdict.take();
        self.finish(verdict);
    }

    /// Ends, and tells the owner how. Nothing of the process is alive any more.
    pub(super) fn finish(&mut self, failure: Option<Failure>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.pass = None;
        self.args.live.remove_process(0);
        self.args.live.set_tasks(Vec::new());
        self.abandon_flights(failure.as_ref());
        let ended = AgentMessage::InstanceEnded {
            instance: self.args.instance,
            epoch: self.args.epoch,
            failure,
            at: now(),
        };
        let (owner, reports) = (self.args.owner.clone(), self.reports.clone());
        // Outlives this instance.
        ractor::concurrency::spawn(async move {
            reports.finish().await;
            let _owner_gone = owner.cast(ended);
        });
    }

    /// Ends whatever runs, now. With a verdict, that is what it ended for; without one, it was told to.
    pub(super) fn kill(&mut self, verdict: Option<Failure>) {
        self.pass = None;
        if let Some(verdict) = verdict {
            self.verdict.get_or_insert(verdict);
        }
        if matches!(self.phase, Phase::Exited { .. }) {
            return self.conclude();
        }
        self.phase = Phase::Killed {
            again: now().plus(KILL_AGAIN),
        };
        if let Process::Running(child) = &self.process
            && let Err(error) = child.kill()
        {
            tracing::error!(agent = %self.args.agent, epoch = %self.args.epoch, %error, "cannot kill");
        }
        for work in self.running.values_mut() {
            work.cancel();
        }
        // What is still starting is ended when it is there: until then nobody can say that nothing of it lives.
        if matches!(self.process, Process::Absent) && self.running.is_empty() {
            self.conclude();
        }
    }

    pub(super) fn drain(&mut self) {
        // What stands still can neither finish nor end.
        self.go_on();
        match self.phase {
            Phase::Ready if !self.flights.is_empty() => {
                self.phase = Phase::Draining {
                    until: now().plus(self.args.ctx.settings.drain_timeout),
                };
            }
            Phase::Ready => self.shut_down(),
            Phase::Starting => self.kill(None),
            Phase::Draining { .. }
            | Phase::Stopping { .. }
            | Phase::Killed { .. }
            | Phase::Exited { .. } => {}
        }
    }

    /// Tells the agent to end; it is ended when it does not.
    pub(super) fn shut_down(&mut self) {
        if self.holds_state() {
            return;
        }
        self.pass = None;
        if !self.converses() {
            return self.kill(None);
        }
        let limit = self.args.ctx.settings.stop_timeout;
        self.phase = Phase::Stopping {
            until: now().plus(limit),
        };
        self.control(
            ControlVerb::Shutdown,
            serde_json::Value::Null,
            None,
            Some(limit),
        );
        // The queue is closed behind the order, so that an agent that reads to the end of its input ends, too.
        self.out = None;
        self.stdin = None;
    }

    pub(super) fn show_flights(&self) {
        let flights = self
            .flights
            .iter()
            .map(|(task, flight)| (task.clone(), flight.attempt));
        self.args.live.set_tasks(flights.collect());
    }

    pub(super) fn after_flight(&mut self) {
        self.show_flights();
        if matches!(self.phase, Phase::Draining { .. }) && self.flights.is_empty() {
            self.shut_down();
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let phase = match self.phase {
            // Nothing else matters any more.
            Phase::Stopping { until } | Phase::Exited { until } => return Some(until),
            Phase::Killed { again } => return Some(again),
            Phase::Starting => Some(self.start_until),
            Phase::Ready => None,
            Phase::Draining { until } => Some(until),
        };
        let gives_up = self
            .flights
            .values()
            .filter_map(|f| f.give_up.as_ref().map(|g| g.until));
        let moves = !self.stands();
        let asked = self.asked.values().map(|a| a.until).filter(|_| moves);
        phase
            .into_iter()
            .chain(gives_up)
            .chain(asked)
            .chain(self.mute.map(|(until, _)| until))
            .chain(self.watch_due())
            .chain(
                self.next_health
                    .filter(|_| self.flights.is_empty() && moves),
            )
            .chain(self.still_due())
            .min()
    }

    pub(super) fn arm(&mut self) {
        self.timer = self.next_due().map(|at| {
            let me = self.me.clone();
            self.args.ctx.alarms.set(at, move || {
                let _gone = me.cast(InstanceMessage::Due);
            })
        });
    }

    pub(super) fn due(&mut self) {
        let at = now();
        match self.phase {
            Phase::Starting if at >= self.start_until => {
                let limit = self.args.ctx.settings.start_timeout;
                let late = format!("was not ready within {limit:?}");
                return self.kill(Some(Failure::new(FailureClass::Start, late)));
            }
            Phase::Draining { until } if at >= until => {
                if self.hand == Hand::Asked {
                    self.hand = Hand::Empty;
                }
                return self.shut_down();
            }
            Phase::Stopping { until } if at >= until => return self.kill(None),
            Phase::Killed { again } if at >= again => {
                tracing::error!(agent = %self.args.agent, epoch = %self.args.epoch, "was killed and is still there");
                return self.kill(None);
            }
            Phase::Exited { until } if at >= until => return self.conclude(),
            Phase::Stopping { .. } | Phase::Killed { .. } | Phase::Exited { .. } => return,
            Phase::Starting | Phase::Ready | Phase::Draining { .. } => {}
        }
        let held = self.flights.iter().find_map(|(task, flight)| {
            let give_up = flight.give_up.as_ref().filter(|g| at >= g.until)?;
            Some((task.clone(), give_up.reason.clone(), give_up.found))
        });
        if let Some((task, reason, found)) = held {
            let text = format!("did not let go of {task} in time ({reason})");
            if found {
                self.land(&task, Err(reason));
            }
            // That attempt is over. What else the instance had in hand is lost with it, by no fault of its own.
            return self.kill(Some(Failure::new(FailureClass::Lost, text)));
        }
        if let Some((_, what)) = self.mute.filter(|(until, _)| at >= *until) {
            let class = match self.phase {
                Phase::Starting => FailureClass::Start,
                _ => FailureClass::Crash,
            };
            return self.kill(Some(Failure::new(class, what)));
        }
        if self.still_due().is_some_and(|until| at >= until) {
            self.stand_still();
        }
        if self.stands() {
            return;
        }
        let late: Vec<Asked> = self
            .asked
            .extract_if(.., |_, asked| at >= asked.until)
            .map(|(_, asked)| asked)
            .collect();
        for asked in late {
            self.unanswered(&asked);
        }
        if self.watch_due().is_some_and(|due| at >= due) {
            self.watched(Input::Due);
            self.settle_condition();
        }
        if self.next_health.is_some_and(|next| at >= next) && self.flights.is_empty() {
            self.ask_health();
        }
    }
}
