//! What can be done with an agent.

use mesh_actors::operations::{
    Action, AgentVerb, QuarantineOrder, UpgradeRequest, UpgradeResult, VerbOutcome,
};
use mesh_messages::agent::{AgentStatus, RecoveryResult};
use mesh_messages::dependency::{StartOrder, StopOrder};
use mesh_messages::limits::{LimitChange, LimitsInForce};
use mesh_messages::signal::{SignalOrder, SignalSent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Nothing;
use crate::problem::{Answer, Refusal};
use crate::route::{BodySize, Call, Route, ok};

/// The body of `recover`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RecoverOrder {
    /// Also when its automatic recoveries are used up.
    #[serde(default)]
    force: bool,
}

/// The body of `scale`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScaleOrder {
    /// How many replicas.
    replicas: u32,
}

pub(super) fn routes() -> Vec<Route> {
    let mut all = plain_verbs();
    all.extend(verbs_of_size());
    all.extend(verbs_with_orders());
    all.push(signal_route());
    all
}

/// Those that say nothing but themselves.
fn plain_verbs() -> Vec<Route> {
    vec![
        plain(
            "/v1/agents/{id}/start",
            "startAgent",
            "Runs an agent",
            start,
        )
        .may_take::<StartOrder>()
        .needs(Action::AgentControl),
        plain(
            "/v1/agents/{id}/stop",
            "stopAgent",
            "Stops an agent in order; refused while others that run need it, unless the body says what becomes of them",
            stop,
        )
        .may_take::<StopOrder>()
        .needs(Action::AgentControl),
        plain(
            "/v1/agents/{id}/restart",
            "restartAgent",
            "Stops an agent, then starts it",
            |call| verb(call, AgentVerb::Restart),
        )
        .needs(Action::AgentControl),
        plain(
            "/v1/agents/{id}/pause",
            "pauseAgent",
            "Gives an agent no work, and freezes its processes",
            |call| verb(call, AgentVerb::Pause),
        )
        .needs(Action::AgentControl),
        plain(
            "/v1/agents/{id}/resume",
            "resumeAgent",
            "Lets an agent's processes go on, and gives it work again",
            |call| verb(call, AgentVerb::Resume),
        )
        .needs(Action::AgentControl),
        plain(
            "/v1/agents/{id}/terminate",
            "terminateAgent",
            "Ends an agent for good",
            |call| verb(call, AgentVerb::Terminate),
        )
        .needs(Action::AgentGovern),
    ]
}

/// Those that say how many, or how much.
fn verbs_of_size() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/agents/{id}/scale",
            "scaleAgent",
            "Changes the number of replicas",
            scale,
        )
        .needs(Action::AgentControl)
        .takes::<ScaleOrder>(BodySize::Small)
        .answers::<AgentStatus>(200, "The status afterwards.")
        .refuses(&[409]),
        Route::post(
            "/v1/agents/{id}/limit",
            "limitAgent",
            "Changes limits of an agent while it runs",
            limit,
        )
        .needs(Action::Policy)
        .takes::<LimitChange>(BodySize::Small)
        .answers::<LimitsInForce>(
            200,
            "The limits from now on. It is durable; `limits.changed` says what only holds from an instance's next start on.",
        ),
    ]
}

/// What any process can be sent.
fn signal_route() -> Route {
    Route::post(
        "/v1/agents/{id}/signal",
        "signalAgent",
        "Sends a signal to an agent's own process",
        signal,
    )
    .needs(Action::AgentControl)
    .takes::<SignalOrder>(BodySize::Small)
    .answers::<SignalSent>(200, "Who got it.")
    .refuses(&[409])
}

/// Those that go on with an order, or may.
fn verbs_with_orders() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/agents/{id}/quarantine",
            "quarantineAgent",
            "Isolates an agent",
            quarantine,
        )
        .needs(Action::AgentGovern)
        .may_take::<QuarantineOrder>()
        .answers::<AgentStatus>(200, "The status afterwards.")
        .refuses(&[409]),
        Route::post(
            "/v1/agents/{id}/recover",
            "recoverAgent",
            "Brings an agent back from quarantine",
            recover,
        )
        .needs(Action::AgentGovern)
        .may_take::<RecoverOrder>()
        .answers::<RecoveryResult>(200, "Whether it was started again.")
        .refuses(&[409]),
        Route::post(
            "/v1/agents/{id}/upgrade",
            "upgradeAgent",
            "Exchanges an agent's version",
            upgrade,
        )
        .needs(Action::AgentGovern)
        .may_take::<UpgradeRequest>()
        .answers::<UpgradeResult>(200, "Whether the new version runs.")
        .refuses(&[409]),
        Route::post(
            "/v1/agents/{id}/rollback",
            "rollbackAgent",
            "Goes back to an earlier version",
            rollback,
        )
        .needs(Action::AgentGovern)
        .may_take::<UpgradeRequest>()
        .answers::<UpgradeResult>(200, "Whether the earlier version runs.")
        .refuses(&[409]),
    ]
}

/// A verb that has nothing to say but itself.
fn plain<F>(
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    run: fn(Call) -> F,
) -> Route
where
    F: Future<Output = Answer> + Send + 'static,
{
    Route::post(path, id, summary, run)
        .may_take::<Nothing>()
        .answers::<AgentStatus>(200, "The status afterwards.")
        .refuses(&[409])
}

async fn verb(call: Call, verb: AgentVerb) -> Answer {
    let Nothing {} = call.json_or_empty()?;
    apply(&call, verb).await
}

async fn start(call: Call) -> Answer {
    let order = call.json_or_empty()?;
    apply(&call, AgentVerb::Start(order)).await
}

async fn stop(call: Call) -> Answer {
    let order = call.json_or_empty()?;
    apply(&call, AgentVerb::Stop(order)).await
}

async fn scale(call: Call) -> Answer {
    let ScaleOrder { replicas } = call.json()?;
    apply(&call, AgentVerb::Scale { replicas }).await
}

async fn limit(call: Call) -> Answer {
    let change: LimitChange = call.json()?;
    let id = call.param("id");
    ok(&call.ops().change_limits(&call.caller, id, change).await?)
}

async fn signal(call: Call) -> Answer {
    let order: SignalOrder = call.json()?;
    let id = call.param("id");
    ok(&call.ops().signal_agent(&call.caller, id, order).await?)
}

async fn quarantine(call: Call) -> Answer {
    let order = call.json_or_empty()?;
    apply(&call, AgentVerb::Quarantine(order)).await
}

async fn recover(call: Call) -> Answer {
    let RecoverOrder { force } = call.json_or_empty()?;
    apply(&call, AgentVerb::Recover { force }).await
}

async fn upgrade(call: Call) -> Answer {
    let request = upgrade_request(&call)?;
    apply(&call, AgentVerb::Upgrade(request)).await
}

async fn rollback(call: Call) -> Answer {
    let request = upgrade_request(&call)?;
    apply(&call, AgentVerb::Rollback(request)).await
}

fn upgrade_request(call: &Call) -> Result<UpgradeRequest, Refusal> {
    let request: UpgradeRequest = call.json_or_empty()?;
    match &request.agent_id {
        Some(named) if named.as_str() != call.param("id") => {
            let detail = format!("the body names {named}, the path {}", call.param("id"));
            Err(Refusal::new("agent_id_mismatch", detail).field("agentId"))
        }
        _ => Ok(request),
    }
}

async fn apply(call: &Call, verb: AgentVerb) -> Answer {
    match call
        .ops()
        .agent_verb(&call.caller, call.param("id"), verb)
        .await?
    {
        VerbOutcome::Status(status) => ok(&*status),
        VerbOutcome::Recovery(result) => ok(&result),
        VerbOutcome::Upgrade(result) => ok(&result),
    }
}
