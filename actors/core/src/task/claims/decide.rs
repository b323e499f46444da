//! What becomes of a claim that is asked for, and of those whose time is over.

use std::time::Duration;

use mesh_messages::claim::{
    CLAIM_TTL_DEFAULT_MS, CLAIM_TTL_MAX_MS, CLAIM_WAIT_MAX_MS, ClaimMode, ClaimStep, not_a_resource,
};
use mesh_messages::events::TaskEvent;
use mesh_messages::klp::{ClaimCode, ClaimOp, ClaimOpKind, ClaimReply};
use mesh_messages::{AttemptNo, TaskId, Timestamp};

use super::{CLAIMS_OF_TASK_MAX, Due, Holder, RESOURCES_MAX, WAITERS_MAX};
use crate::task::attempt::current;
use crate::task::command::{Answer, Asker, Effect, Refusal};
use crate::task::tx::Tx;

/// Decides on what an attempt asks of a resource.
pub(crate) fn claim(tx: &mut Tx<'_>, asker: Asker, op: &ClaimOp) -> Result<Answer, Refusal> {
    if current(tx, &asker.parent, Some(&asker.key)).is_none() {
        return Err(Refusal::Stale(asker.parent));
    }
    if let Some(text) = nonsense(op) {
        let reply = ClaimReply::refused(&op.resource, ClaimCode::Invalid, text);
        return Ok(Answer::Claim(Some(Box::new(reply))));
    }
    expire(tx);
    let reply = match op.op {
        ClaimOpKind::Acquire => acquire(tx, asker, op),
        ClaimOpKind::Renew => Some(renew(tx, &asker, op)),
        ClaimOpKind::Release => Some(release(tx, &asker, op)),
    };
    // What was given back, or had expired, goes to whoever stands first in line.
    tx.serve_claims();
    Ok(Answer::Claim(reply.map(Box::new)))
}

/// What makes no sense about a request, if anything.
fn nonsense(op: &ClaimOp) -> Option<String> {
    if let Some(wrong) = not_a_resource(&op.resource) {
        return Some(format!("payload.resource: {wrong}"));
    }
    let ttl = 1..=CLAIM_TTL_MAX_MS;
    if op.ttl_ms.is_some_and(|ms| !ttl.contains(&ms)) {
        return Some(format!(
            "payload.ttlMs: expected 1 to {CLAIM_TTL_MAX_MS}; renew it to hold it for longer"
        ));
    }
    op.wait_ms
        .is_some_and(|ms| ms > CLAIM_WAIT_MAX_MS)
        .then(|| format!("payload.waitMs: expected at most {CLAIM_WAIT_MAX_MS}"))
}

fn ends_at(now: Timestamp, ms: u64) -> Timestamp {
    now.plus(Duration::from_millis(ms))
}

/// The claim of this very attempt on the resource, if it has it.
fn held<'t>(tx: &'t Tx<'_>, asker: &Asker, op: &ClaimOp) -> Option<&'t Holder> {
    let resource = tx.tasks.claims().get(&op.resource)?;
    let holder = resource.held_by(&asker.parent.task)?;
    let own = holder.attempt == asker.parent.attempt;
    (own && op.token.is_none_or(|token| token == holder.token)).then_some(holder)
}

fn acquire(tx: &mut Tx<'_>, asker: Asker, op: &ClaimOp) -> Option<ClaimReply> {
    let name = &op.resource;
    let ttl_ms = op.ttl_ms.unwrap_or(CLAIM_TTL_DEFAULT_MS);
    let own = ClaimOp {
        token: None,
        ..op.clone()
    };
    if let Some(holder) = held(tx, &asker, &own) {
        // Two who share it and both want it alone would wait for each other.
        if op.mode.is_exclusive() && !holder.mode.is_exclusive() {
            let text = "the attempt shares it; release it first, then ask for it alone";
            return Some(ClaimReply::refused(name, ClaimCode::Invalid, text));
        }
        return Some(renew(tx, &asker, &own));
    }
    let claims = tx.tasks.claims();
    let task = &asker.parent.task;
    let resource = claims.get(name);
    let known = resource.and_then(|r| r.waiting.iter().find(|w| w.task == *task));
    let earlier = known.map(|waiter| waiter.request.clone());
    let too_many = |text: String| Some(ClaimReply::refused(name, ClaimCode::TooMany, text));
    if earlier.is_none() && claims.count_of(task) >= CLAIMS_OF_TASK_MAX {
        return too_many(format!(
            "the task holds or waits for {CLAIMS_OF_TASK_MAX} resources, and no more are allowed"
        ));
    }
    if resource.is_none() && claims.len() >= RESOURCES_MAX {
        return too_many(format!(
            "{RESOURCES_MAX} resources are claimed, and no more are held; ask again later"
        ));
    }
    // Also who would share it stands behind those who wait, so that nobody waits for ever.
    let Some(resource) = resource.filter(|r| !r.waiting.is_empty() || !r.admits(op.mode)) else {
        let until = ends_at(tx.ctx.now, ttl_ms);
        let token = tx.grant(task, asker.parent.attempt, (name, op.mode), until);
        return Some(ClaimReply::done(name, token, Some(until)));
    };
    let (line, holder) = (resource.waiting.len(), resource.holder().cloned());
    let wait_ms = op.wait_ms.unwrap_or_default();
    if wait_ms == 0 && earlier.is_none() {
        let who = holder.as_ref().map_or_else(
            || format!("{line} attempts wait for {name:?}"),
            |holder| format!("task {} holds {name:?} until {}", holder.task, holder.until),
        );
        let mut reply = ClaimReply::refused(name, ClaimCode::Held, who);
        reply.holder = holder.as_ref().map(Holder::view);
        return Some(reply);
    }
    if earlier.is_none() && line >= WAITERS_MAX {
        return too_many(format!("{line} attempts wait for {name:?} already"));
    }
    // The same request said again, lest its answer was lost, is no news.
    if earlier.as_ref() == Some(&asker.request) && wait_ms > 0 {
        return None;
    }
    let until = ends_at(tx.ctx.now, wait_ms);
    let step = ClaimStep::Waiting {
        request: asker.request.clone(),
        ttl_ms,
        until,
        mode: op.mode,
    };
    let task = asker.parent.task.clone();
    tx.claim_step(&task, asker.parent.attempt, name, step);
    // Whoever asked before under another id shall not wait for an answer that comes here.
    if let Some(request) = earlier.filter(|earlier| *earlier != asker.request) {
        let text = "the attempt has asked again, and gets its answer there";
        let reply = ClaimReply::refused(name, ClaimCode::Superseded, text);
        let asker = Asker { request, ..asker };
        tx.effect(Effect::ClaimAnswered {
            asker,
            reply: Box::new(reply),
        });
    }
    None
}

fn renew(tx: &mut Tx<'_>, asker: &Asker, op: &ClaimOp) -> ClaimReply {
    let Some((token, had)) = held(tx, asker, op).map(|holder| (holder.token, holder.until)) else {
        return not_held(tx, op);
    };
    // What came with the attempt is held to its end: saying so again takes nothing away.
    let until = ends_at(tx.ctx.now, op.ttl_ms.unwrap_or(CLAIM_TTL_DEFAULT_MS)).max(had);
    let step = ClaimStep::Renewed { token, until };
    tx.claim_step(&asker.parent.task, asker.parent.attempt, &op.resource, step);
    ClaimReply::done(&op.resource, token, Some(until))
}

fn release(tx: &mut Tx<'_>, asker: &Asker, op: &ClaimOp) -> ClaimReply {
    let Some(token) = held(tx, asker, op).map(|holder| holder.token) else {
        return not_held(tx, op);
    };
    let step = ClaimStep::Released { token };
    tx.claim_step(&asker.parent.task, asker.parent.attempt, &op.resource, step);
    ClaimReply::done(&op.resource, token, None)
}

fn not_held(tx: &Tx<'_>, op: &ClaimOp) -> ClaimReply {
    let text =
        "the attempt does not hold it, or no longer; what it did to it since may be another's now";
    let mut reply = ClaimReply::refused(&op.resource, ClaimCode::NotHeld, text);
    let resource = tx.tasks.claims().get(&op.resource);
    let holder = resource.and_then(|resource| resource.holder());
    reply.holder = holder.map(Holder::view);
    reply
}

/// Ends the claims, and the waits, whose time is over.
pub(crate) fn expire(tx: &mut Tx<'_>) {
    while let Some((name, who)) = tx.tasks.claims().first_due(tx.ctx.now) {
        if tx.is_full() {
            return;
        }
        let Some(resource) = tx.tasks.claims().get(&name) else {
            return;
        };
        match who {
            Due::Claim(task) => {
                let Some(holder) = resource.held_by(&task).cloned() else {
                    return;
                };
                let token = holder.token;
                let step = ClaimStep::Expired { token };
                tx.claim_step(&holder.task, holder.attempt, &name, step);
            }
            Due::Wait(task) => {
                let Some(waiter) = resource.waiting.iter().find(|w| w.task == task).cloned() else {
                    return;
                };
                let holder = resource.holder().map(Holder::view);
                tx.claim_step(&waiter.task, waiter.attempt, &name, ClaimStep::GivenUp);
                let text = "it was not free within the time that it was waited for";
                let mut reply = ClaimReply::refused(&name, ClaimCode::WaitOver, text);
                reply.holder = holder;
                tx.effect(Effect::ClaimAnswered {
                    asker: waiter.asker(),
                    reply: Box::new(reply),
                });
            }
        }
    }
}

impl super::Waiter {
    fn asker(&self) -> Asker {
        Asker {
            parent: crate::task::command::AttemptRef {
                task: self.task.clone(),
                attempt: self.attempt,
                epoch: self.key.2,
            },
            key: self.key.clone(),
            request: self.request.clone(),
        }
    }
}

impl Tx<'_> {
    fn claim_step(&mut self, task: &TaskId, attempt: AttemptNo, name: &str, step: ClaimStep) {
        let event = TaskEvent::Claim {
            attempt,
            at: self.ctx.now,
            resource: name.to_owned(),
            step,
        };
        self.emit(task, event);
    }

    pub(super) fn grant(
        &mut self,
        task: &TaskId,
        attempt: AttemptNo,
        (name, mode): (&str, ClaimMode),
        until: Timestamp,
    ) -> u64 {
        let token = self.tasks.claims().next_token(self.ctx.now);
        let task = task.clone();
        let step = ClaimStep::Granted { token, until, mode };
        self.claim_step(&task, attempt, name, step);
        token
    }

    /// Gives what is free to whoever stands first in line for it, and to those behind who can share it.
    pub(crate) fn serve_claims(&mut self) {
        while let Some(name) = self.tasks.claims().first_free().cloned() {
            if self.is_full() {
                return;
            }
            let resource = self.tasks.claims().get(&name);
            let Some(next) = resource.and_then(|r| r.waiting.front()).cloned() else {
                return;
            };
            let until = ends_at(self.ctx.now, next.ttl_ms);
            let token = self.grant(&next.task, next.attempt, (&name, next.mode), until);
            let reply = Box::new(ClaimReply::done(&name, token, Some(until)));
            let asker = next.asker();
            self.effect(Effect::ClaimAnswered { asker, reply });
        }
    }
}
