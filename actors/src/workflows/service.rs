//! Calls of services by steps: plain ones here, registered ones at the [desk](crate::desk).
//!
//! A call is made at least once: after a restart it is made again, under the same `Idempotency-Key`, by which a service
//! can tell.

use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::workflow::Call;
use mesh_egress::Denial;
use mesh_messages::FailureClass;
use mesh_messages::task::{ATTEMPT_TIMEOUT_DEFAULT_MS, TASK_DATA_MAX};
use mesh_messages::workflow::{
    RegisteredCall, ServiceCall, ServiceMethod, ServiceTarget, StepState, UnitOutcome,
};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::desk::http::{Incoming, Outgoing, exchange, output};
use crate::desk::{Ask, Patience, service_call};
use crate::registry::RegistryHandle;

/// How often a call is made that may pass next time, and the first pause between; it doubles.
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// How often a call that is held back looks whether the shutdown was lifted.
const HALTED: Duration = Duration::from_millis(250);

/// How one try ended.
enum Tried {
    Ended(UnitOutcome),
    Again(String),
}

/// Calls a service until it answers, or has had its chances.
pub(super) async fn call(ctx: &Arc<Context>, registry: &RegistryHandle, call: Call) -> UnitOutcome {
    // While a shutdown is in force nothing is done in anybody's name. The step's time goes on.
    while ctx.governance.load().halted.is_some() {
        tokio::time::sleep(HALTED).await;
    }
    match call.call.clone() {
        ServiceTarget::Plain(plain) => call_plain(ctx, call, plain).await,
        ServiceTarget::Registered(registered) => {
            call_registered(ctx, registry, call, registered).await
        }
    }
}

async fn call_registered(
    ctx: &Arc<Context>,
    registry: &RegistryHandle,
    call: Call,
    registered: RegisteredCall,
) -> UnitOutcome {
    let ask = Ask {
        service: registered.id,
        endpoint: registered.endpoint,
        params: call.input,
        key: call.task.as_str().to_owned(),
        by: call.by,
        limit: call.timeout_ms.map(Duration::from_millis),
        patience: Patience::Waits,
    };
    match service_call(ctx, registry, ask).await {
        Ok(reply) => UnitOutcome::Succeeded {
            output: reply.output,
        },
        Err(fault) => UnitOutcome::Failed {
            state: StepState::Failed,
            error: fault.failure(),
        },
    }
}

async fn call_plain(ctx: &Arc<Context>, call: Call, plain: ServiceCall) -> UnitOutcome {
    let mut pause = PAUSE;
    let mut last = String::new();
    for tried in 0..TRIES_MAX {
        if tried > 0 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let (next, to, ctx) = (call.clone(), plain.clone(), Arc::clone(ctx));
        match tokio::task::spawn_blocking(move || once(&ctx, &next, &to)).await {
            Ok(Tried::Ended(outcome)) => return outcome,
            Ok(Tried::Again(why)) => last = why,
            Err(error) => last = error.to_string(),
        }
    }
    UnitOutcome::failed(FailureClass::Unavailable, format!("{}: {last}", plain.url))
}

fn once(ctx: &Context, call: &Call, to: &ServiceCall) -> Tried {
    let plain = |text: &str| Zeroizing::new(text.to_owned());
    let key = ("Idempotency-Key".to_owned(), plain(call.task.as_str()));
    let own = to.headers.iter();
    let own = own.map(|(name, value)| (name.clone(), plain(value)));
    let bare = matches!(to.method, ServiceMethod::Get | ServiceMethod::Delete);
    let outgoing = Outgoing {
        method: to.method,
        url: plain(&to.url),
        headers: std::iter::once(key).chain(own).collect(),
        body: (!bare).then(|| call.input.to_string().into_bytes()),
        limit: Duration::from_millis(call.timeout_ms.unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS)),
    };
    let ended = |class, why| Tried::Ended(UnitOutcome::failed(class, why));
    match exchange(ctx, outgoing) {
        Incoming::Unusable(why) => ended(FailureClass::Refusal, why),
        Incoming::Denied(denial) => ended(FailureClass::Refusal, denied(call, to, &denial)),
        Incoming::Silent { why, .. } => Tried::Again(why),
        Incoming::Answer {
            status,
            bytes,
            is_whole,
        } => match status {
            200..300 if !is_whole => {
                let why = format!("answered with more than {TASK_DATA_MAX} bytes");
                ended(FailureClass::Contract, why)
            }
            200..300 => Tried::Ended(UnitOutcome::Succeeded {
                output: output(&bytes),
            }),
            408 | 425 | 429 | 500.. => Tried::Again(format!("answered {status}")),
            _ => {
                let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
                let why = format!("{} answered {status}: {text}", to.url);
                ended(FailureClass::Refusal, why)
            }
        },
    }
}

fn denied(call: &Call, to: &ServiceCall, denial: &Denial) -> String {
    tracing::warn!(task = %call.task, host = denial.host, port = denial.port, code = denial.code.name(), "a service was not called");
    let rule = denial.rule.as_deref().unwrap_or("services");
    format!("{} is not called: {denial} ({rule})", to.url)
}
