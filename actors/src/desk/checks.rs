//! Whether services are there: looked at again and again, one check of each at a time.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh_actors_core::service::ServiceCommand;
use mesh_messages::problem::Problem;
use mesh_messages::service::{ServiceStatus, place_of};
use mesh_messages::workflow::ServiceMethod;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::auth::Proof;
use super::http::{Incoming, Outgoing, exchange};
use super::rules::may_call;
use super::{Checked, Desk, Served};
use crate::clock::{now, random};
use crate::context::Context;
use crate::partition::Cause;
use crate::registry::RegistryHandle;

/// A check fails when this many looks in a row do, with a pause between: one lost packet is no news.
const LOOKS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(250);
/// As much of a reason as is kept.
const REASON_CHARS_MAX: usize = 300;

/// Begins the checks that are due. Each ends by itself, and is awaited in `under_way`.
pub(crate) fn check_due(
    ctx: &Arc<Context>,
    registry: &RegistryHandle,
    under_way: &mut JoinSet<()>,
) {
    while under_way.try_join_next().is_some() {}
    // While a shutdown is in force nothing is done in anybody's name.
    if ctx.governance.load().halted.is_some() {
        return;
    }
    for served in ctx.desk.all() {
        let due = served.run.due_ms.load(Ordering::Relaxed) <= now().as_millis();
        if !due || served.kept.status() == ServiceStatus::Inactive {
            continue;
        }
        // Until its result is known; a crash of the check does not end its being checked.
        Desk::set_due(&served.run, next_due(&served));
        let (ctx, registry) = (Arc::clone(ctx), registry.clone());
        under_way.spawn(async move {
            if let Err(problem) = check(&ctx, &registry, &served).await {
                tracing::warn!(service = %served.kept.definition.id, %problem, "a check came to nothing");
            }
        });
    }
}

/// When it is checked next: after its interval, give or take a tenth, so that many do not come at once.
fn next_due(served: &Served) -> u64 {
    let interval = served.kept.definition.health.interval();
    let tenth = (interval / 10).max(1);
    let pause = interval - tenth + random() % (2 * tenth);
    now().as_millis().saturating_add(pause)
}

/// Checks one service, and waits until what was found is durable.
///
/// # Errors
/// The registry is not there.
pub(crate) async fn check(
    ctx: &Arc<Context>,
    registry: &RegistryHandle,
    served: &Arc<Served>,
) -> Result<(), Problem> {
    let _alone = served.run.checking.lock().await;
    let _place = ctx.desk.checks.acquire().await;
    let (at, began) = (now(), Instant::now());
    let mut found = Ok(());
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let (ctx, served) = (Arc::clone(ctx), Arc::clone(served));
        let looked = tokio::task::spawn_blocking(move || look_at(&ctx, &served)).await;
        found = looked.unwrap_or_else(|error| Err(error.to_string()));
        if found.is_ok() {
            break;
        }
    }
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    *served
        .run
        .last
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = Some(Checked { at, took_ms });
    Desk::set_due(&served.run, next_due(served));
    let command = ServiceCommand::Checked {
        service: served.kept.definition.id.clone(),
        version: served.kept.version,
        found: found.map_err(|why| why.chars().take(REASON_CHARS_MAX).collect()),
    };
    registry.service(command, Cause::meshd()).await
}

fn look_at(ctx: &Context, served: &Served) -> Result<(), String> {
    let definition = &served.kept.definition;
    let Some(first) = definition.endpoints.first() else {
        return Err("has no endpoint".to_owned());
    };
    let asked = definition.health.url.as_ref().unwrap_or(&first.url);
    may_call(&ctx.settings.services, asked).map_err(|unfit| format!("{asked}: {unfit}"))?;
    // A missing secret is an error of the service, also where this look needs none.
    let proof = Proof::of(ctx, definition, asked)?;
    let (url, proof) = if definition.health.url.is_some() {
        (asked.clone(), proof)
    } else {
        let host = place_of(asked)?.origin;
        (format!("{host}/"), Proof::default())
    };
    let full = match &proof.query {
        Some(query) => format!(
            "{url}{}{}",
            if url.contains('?') { '&' } else { '?' },
            query.as_str()
        ),
        None => url.clone(),
    };
    let outgoing = Outgoing {
        method: ServiceMethod::Get,
        url: Zeroizing::new(full),
        headers: proof.header.clone().into_iter().collect(),
        body: None,
        limit: Duration::from_millis(definition.health.timeout()),
    };
    let is_told = definition.health.url.is_some();
    match exchange(ctx, outgoing) {
        Incoming::Answer {
            status: 200..300, ..
        } => Ok(()),
        Incoming::Answer { status: ..500, .. } if !is_told => Ok(()),
        Incoming::Answer { status, .. } => Err(format!("{url} answered {status}")),
        Incoming::Denied(denial) => {
            let rule = denial.rule.as_deref().unwrap_or("services");
            Err(format!("{url} is not called: {denial} ({rule})"))
        }
        Incoming::Unusable(why) | Incoming::Silent { why, .. } => {
            Err(proof.blotted(format!("{url}: {why}")))
        }
    }
}
