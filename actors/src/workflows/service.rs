//! Calls of plain HTTP services.
//!
//! A call is made at least once: after a restart it is made again, under the same `Idempotency-Key`, by which a service
//! can tell.

use std::io::Read as _;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Request;

use mesh_actors_core::workflow::Call;
use mesh_messages::FailureClass;
use mesh_messages::json;
use mesh_messages::task::{ATTEMPT_TIMEOUT_DEFAULT_MS, TASK_DATA_MAX};
use mesh_messages::workflow::{ServiceMethod, UnitOutcome};

/// How often a call is made that may pass next time, and the first pause between; it doubles.
const TRIES_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// How one try ended.
enum Tried {
    Ended(UnitOutcome),
    Again(String),
}

/// Calls a service until it answers, or has had its chances.
pub(super) async fn call(call: Call) -> UnitOutcome {
    let mut pause = PAUSE;
    let mut last = String::new();
    for tried in 0..TRIES_MAX {
        if tried > 0 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        let next = call.clone();
        match tokio::task::spawn_blocking(move || once(&next)).await {
            Ok(Tried::Ended(outcome)) => return outcome,
            Ok(Tried::Again(why)) => last = why,
            Err(error) => last = error.to_string(),
        }
    }
    UnitOutcome::failed(
        FailureClass::Unavailable,
        format!("{}: {last}", call.call.url),
    )
}

fn once(call: &Call) -> Tried {
    let limit = Duration::from_millis(call.timeout_ms.unwrap_or(ATTEMPT_TIMEOUT_DEFAULT_MS));
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .timeout_global(Some(limit))
        .build()
        .new_agent();
    let mut request = Request::builder()
        .method(call.call.method.name())
        .uri(&call.call.url)
        .header("Idempotency-Key", call.task.as_str())
        .header("Accept", "application/json");
    for (name, value) in &call.call.headers {
        request = request.header(name, value);
    }
    let bare = matches!(call.call.method, ServiceMethod::Get | ServiceMethod::Delete);
    let sent = if bare {
        request
            .body(())
            .map_err(|e| e.to_string())
            .map(|request| agent.run(request))
    } else {
        let body = call.input.to_string().into_bytes();
        let request = request.header("Content-Type", "application/json");
        request
            .body(body)
            .map_err(|e| e.to_string())
            .map(|request| agent.run(request))
    };
    let answer = match sent {
        Err(unusable) => {
            let outcome = UnitOutcome::failed(FailureClass::Refusal, unusable);
            return Tried::Ended(outcome);
        }
        Ok(Err(error)) => return Tried::Again(error.to_string()),
        Ok(Ok(answer)) => answer,
    };
    let status = answer.status().as_u16();
    let mut bytes = Vec::new();
    let mut body = answer
        .into_body()
        .into_reader()
        .take(TASK_DATA_MAX as u64 + 1);
    if let Err(error) = body.read_to_end(&mut bytes) {
        return Tried::Again(error.to_string());
    }
    match status {
        200..300 if bytes.len() > TASK_DATA_MAX => {
            let why = format!("answered with more than {TASK_DATA_MAX} bytes");
            Tried::Ended(UnitOutcome::failed(FailureClass::Contract, why))
        }
        200..300 => Tried::Ended(UnitOutcome::Succeeded {
            output: output(&bytes),
        }),
        408 | 425 | 429 | 500.. => Tried::Again(format!("answered {status}")),
        _ => {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            let why = format!("{} answered {status}: {text}", call.call.url);
            Tried::Ended(UnitOutcome::failed(FailureClass::Refusal, why))
        }
    }
}

/// JSON as it is, any other text as `{"text": …}`, nothing as null: as programs answer tasks.
fn output(bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    json::parse(bytes)
        .unwrap_or_else(|_| serde_json::json!({ "text": String::from_utf8_lossy(bytes) }))
}
