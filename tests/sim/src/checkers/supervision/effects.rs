//! What a supervisor wants done, held against what is due.

use mesh_supervision_core::supervisor::{
    ChildId, Effect, End, Incarnation, Limit, Report, Request, Restart, Strategy,
};

use super::{
    Ending, Kid, OLD, ORDER, REQUESTS, SCOPE, Stand, SupervisionCheck, TYPES, WINDOW, Why,
};
use crate::checkers::{Verdict, breach, ensure};
use crate::edges::Edges;

impl SupervisionCheck {
    /// Checks one thing that the supervisor wants done.
    pub(crate) fn effect(&mut self, effect: &Effect, edges: &mut Edges) -> Verdict {
        if self.step.stale && !matches!(effect, Effect::Reply { .. }) {
            return breach(OLD, format!("a stale input led to {effect:?}"));
        }
        match effect {
            Effect::Start { child, incarnation } => self.start(child, *incarnation, edges),
            Effect::Stop {
                child, incarnation, ..
            } => self.stop(child, *incarnation, Limit::Asked),
            Effect::Kill { child, incarnation } => self.stop(child, *incarnation, Limit::Killed),
            Effect::Adopt { request, child } => {
                let (spec, fresh) = match self.requests.get(request) {
                    Some(Request::Add { spec }) => (Some(spec.clone()), true),
                    Some(Request::Change { specs, .. }) => {
                        let listed = specs.iter().find(|spec| spec.id == *child);
                        (listed.cloned(), false)
                    }
                    _ => (None, false),
                };
                let Some(spec) = spec else {
                    return breach(REQUESTS, format!("{child} was adopted without a request"));
                };
                match self.place(child) {
                    Some(at) => self.kids[at].spec = spec,
                    None => self.kids.push(Kid {
                        fresh,
                        ..Kid::new(spec)
                    }),
                }
                Ok(())
            }
            Effect::Forget { child } => {
                let Some(at) = self.place(child) else {
                    return Ok(());
                };
                let deleted = self.open(|r| matches!(r, Request::Delete { child: c } | Request::Terminate { child: c } if c == child));
                let added = self.open(|r| matches!(r, Request::Add { spec } if spec.id == *child));
                let kid = &self.kids[at];
                let volatile = kid.spec.restart == Restart::Temporary
                    || self.flags.strategy == Strategy::Dynamic;
                let may = volatile || deleted || added || kid.fresh;
                ensure(!kid.is_there() && may, TYPES, || {
                    format!("{child} was forgotten: {kid:?}")
                })?;
                self.kids.remove(at);
                Ok(())
            }
            Effect::Reply { id, result } => {
                let Some(request) = self.requests.remove(id) else {
                    return breach(REQUESTS, format!("request {} has an answer already", id.0));
                };
                self.replied(&request, result.is_ok(), edges);
                Ok(())
            }
            Effect::Report(report) => self.report(report),
            Effect::End(end) => self.end(end),
            Effect::Ready => {
                self.booting = false;
                let awaited = self
                    .kids
                    .iter()
                    .find(|kid| kid.due_start == Some(Why::Boot));
                ensure(awaited.is_none(), ORDER, || {
                    format!("it is up, and {awaited:?} was not started")
                })
            }
            Effect::ArmLimit { .. } | Effect::RetryStart { .. } => Ok(()),
        }
    }

    pub(super) fn replied(&mut self, request: &Request, ok: bool, edges: &mut Edges) {
        let edge = match (request, ok) {
            (Request::Add { .. }, true) => "add a child",
            (Request::Start { .. }, true) => "start a child by request",
            (Request::Restart { .. }, true) => "restart a child by request",
            (Request::Terminate { .. }, true) => "terminate a child",
            (Request::Delete { .. }, true) => "delete a child",
            (Request::Change { .. }, true) => "change a running supervisor",
            (_, false) => "a request is refused",
        };
        edges.hit("supervisor request", edge);
        if let (Request::Terminate { child }, true) = (request, ok)
            && let Some(at) = self.place(child)
            && self.kids[at].stand == Stand::Retrying
        {
            // With the retry goes what would have been started after it.
            self.kids[at].stand = Stand::Down;
        }
        if let Request::Change { flags, specs } = request
            && ok
        {
            self.flags = *flags;
            // From now on the order is that of the list, and whoever is not listed comes after it.
            let listed = |kid: &Kid| specs.iter().position(|spec| spec.id == kid.spec.id);
            self.kids
                .sort_by_key(|kid| listed(kid).unwrap_or(usize::MAX));
        }
    }

    pub(super) fn start(
        &mut self,
        id: &ChildId,
        incarnation: Incarnation,
        edges: &mut Edges,
    ) -> Verdict {
        let Some(at) = self.place(id) else {
            return breach(SCOPE, format!("{id} was started, which is not a child"));
        };
        ensure(self.ending.is_none(), ORDER, || {
            format!(
                "{id} was started while its supervisor ends: {:?}",
                self.ending
            )
        })?;
        ensure(incarnation.number() > self.last_incarnation, OLD, || {
            format!("incarnation {incarnation} of {id} was given out before")
        })?;
        self.last_incarnation = incarnation.number();
        let kid = &self.kids[at];
        ensure(!kid.is_there(), OLD, || {
            format!("{id} was started while it is there: {kid:?}")
        })?;
        // One that is listed already is not added by a request that is still to be refused for that.
        let added =
            kid.fresh && self.open(|r| matches!(r, Request::Add { spec } if spec.id == *id));
        let ordered = self.open(
            |r| matches!(r, Request::Start { child } | Request::Restart { child } if child == id),
        );
        let why = match kid.due_start {
            // In its very first start a group may have come between.
            Some(Why::Restart) | None if added => Why::Add,
            Some(why) => why,
            None if ordered => Why::Order,
            None => {
                return breach(TYPES, format!("{id} was started for no reason: {kid:?}"));
            }
        };
        if matches!(why, Why::Restart | Why::Boot) {
            let early = self.kids.iter().find(|kid| kid.due_stop);
            ensure(early.is_none(), ORDER, || {
                format!("{id} was started before {early:?} was stopped")
            })?;
        }
        let grouped = matches!(
            self.flags.strategy,
            Strategy::OneForAll | Strategy::RestForOne
        );
        if why == Why::Boot || (why == Why::Restart && grouped) {
            let first = self.kids[..at]
                .iter()
                .find(|kid| kid.due_start.is_some() && !kid.is_there());
            ensure(first.is_none(), ORDER, || {
                format!("{id} was started before {first:?}")
            })?;
        }
        if why == Why::Boot {
            edges.hit("supervisor", "children are started with it");
        }
        let kid = &mut self.kids[at];
        kid.due_start = None;
        kid.incarnation = Some(incarnation);
        kid.stand = Stand::Starting(why);
        Ok(())
    }

    pub(super) fn stop(&mut self, id: &ChildId, incarnation: Incarnation, how: Limit) -> Verdict {
        let Some(at) = self.place(id) else {
            return breach(SCOPE, format!("{id} was stopped, which is not a child"));
        };
        let kid = &self.kids[at];
        ensure(
            kid.incarnation == Some(incarnation) && kid.is_there(),
            OLD,
            || format!("{id}{incarnation} was stopped: {kid:?}"),
        )?;
        let asked_before = matches!(kid.stand, Stand::Asked(_));
        let terminate = self.open(|r| matches!(r, Request::Terminate { child } if child == id));
        let restart = self.open(|r| matches!(r, Request::Restart { child } if child == id));
        let reason = kid.due_stop || self.ending.is_some() || asked_before || terminate || restart;
        ensure(reason, SCOPE, || format!("{id} was stopped for no reason"))?;
        let grouped = !asked_before && (kid.due_stop || self.ending.is_some());
        if grouped && self.flags.strategy != Strategy::Dynamic {
            let later = self.kids[at + 1..].iter().find(|kid| kid.is_there());
            ensure(later.is_none(), ORDER, || {
                format!("{id} was stopped before {later:?}")
            })?;
        }
        let kid = &mut self.kids[at];
        kid.due_stop = false;
        if restart
            && !asked_before
            && kid.due_start.is_none()
            && self.ending.is_none()
            && !terminate
        {
            kid.bounce = true;
        }
        kid.stand = Stand::Asked(how);
        Ok(())
    }

    pub(super) fn report(&self, report: &Report) -> Verdict {
        match report {
            Report::Restarting {
                restarts_in_window, ..
            } => ensure(
                self.step.granted == Some(*restarts_in_window),
                WINDOW,
                || {
                    format!(
                        "a restart was granted as number {restarts_in_window}; by our count {:?}",
                        self.step.granted
                    )
                },
            ),
            Report::LimitExceeded { child, .. } => ensure(self.step.exceeded, WINDOW, || {
                format!("a restart of {child} was refused that the window allows")
            }),
            Report::Started { .. }
            | Report::StartFailed { .. }
            | Report::Exited { .. }
            | Report::Overdue { .. }
            | Report::Stopped { .. }
            | Report::Ended(_) => Ok(()),
        }
    }

    pub(super) fn end(&mut self, end: &End) -> Verdict {
        let there = self.kids.iter().find(|kid| kid.is_there());
        ensure(there.is_none(), ORDER, || {
            format!("the supervisor left {there:?} behind")
        })?;
        let as_due = match (&self.ending, end) {
            (Some(Ending::Stopped), End::Stopped)
            | (Some(Ending::AutoShutdown), End::AutoShutdown) => true,
            (Some(Ending::Escalated(ours)), End::Escalated { child, .. })
            | (Some(Ending::BootFailed(ours)), End::BootFailed { child, .. }) => ours == child,
            _ => false,
        };
        ensure(as_due, SCOPE, || {
            format!("it ended by {end:?}, due was {:?}", self.ending)
        })?;
        self.ended = true;
        ensure(self.requests.is_empty(), REQUESTS, || {
            format!("its end leaves unanswered {:?}", self.requests)
        })
    }
}
