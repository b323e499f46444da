//! Durable subscriptions, dead letters, the routing table and traces.

use std::time::Duration;

use axum::http::StatusCode;
use mesh_actors::operations::Action;
use mesh_messages::Position;
use mesh_messages::agent::Page;
use mesh_messages::bus::{
    AckOp, AckOrder, AckOutcome, BATCH_MAX, DeadLetter, DeadSettlement, MessageTrace, Pulled,
    Route as BusRoute, SubscriptionOrder, SubscriptionView,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page_of;
use super::tasks::{WAIT, wait};
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT, Param, Shape};
use crate::route::{BodySize, Call, Route, json, ok};

/// How long a pull waits at most: the connection is held open for it.
const PULL_WAIT_MAX: Duration = Duration::from_mins(1);

const MAX: Param = Param {
    name: "max",
    about: "Messages that are handed out at most; 1 when absent.",
    shape: Shape::Integer(1, BATCH_MAX as u64),
};

/// The answer to what has none of its own.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Done {
    /// What it was done to.
    id: String,
    /// Always true.
    done: bool,
}

pub(super) fn routes() -> Vec<Route> {
    [subscriptions(), letters()].into_iter().flatten().collect()
}

fn subscriptions() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/subscriptions",
            "createSubscription",
            "Makes a durable subscription of the caller's",
            create,
        )
        .needs(Action::MessageReceive)
        .takes::<SubscriptionOrder>(BodySize::Small)
        .answers::<SubscriptionView>(201, "Made, and durable: what is published from here on is in it.")
        .answers::<SubscriptionView>(200, "The same one was there before.")
        .refuses(&[409]),
        Route::get(
            "/v1/subscriptions",
            "listSubscriptions",
            "Lists durable subscriptions, by id",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<SubscriptionView>>(200, "A page of subscriptions."),
        Route::get(
            "/v1/subscriptions/{id}",
            "getSubscription",
            "Shows a durable subscription, by its id or the name of one's own",
            show,
        )
        .answers::<SubscriptionView>(200, "The subscription."),
        Route::delete(
            "/v1/subscriptions/{id}",
            "deleteSubscription",
            "Removes a durable subscription, and what waits in it",
            remove,
        )
        .needs(Action::MessageReceive)
        .answers::<Done>(200, "It is gone."),
        Route::post(
            "/v1/subscriptions/{id}/pull",
            "pullMessages",
            "Hands out messages; each comes again unless it is acknowledged in time",
            pull,
        )
        .needs(Action::MessageReceive)
        .query(&[WAIT, MAX])
        .answers::<Pulled>(200, "The messages; none when there was none within the wait, which is at most a minute here."),
        Route::post(
            "/v1/subscriptions/{id}/ack",
            "ackMessages",
            "Acknowledges messages: they do not come again",
            |call| settle(call, AckOp::Ack),
        )
        .needs(Action::MessageReceive)
        .takes::<AckOrder>(BodySize::Small)
        .answers::<AckOutcome>(200, "What became of each; durable."),
        Route::post(
            "/v1/subscriptions/{id}/nack",
            "nackMessages",
            "Gives messages back: they come again, at once or later",
            |call| settle(call, AckOp::Nack),
        )
        .needs(Action::MessageReceive)
        .takes::<AckOrder>(BodySize::Small)
        .answers::<AckOutcome>(200, "What became of each; durable."),
        Route::post(
            "/v1/subscriptions/{id}/extend",
            "extendMessages",
            "Asks for more time before messages come again",
            |call| settle(call, AckOp::Extend),
        )
        .needs(Action::MessageReceive)
        .takes::<AckOrder>(BodySize::Small)
        .answers::<AckOutcome>(200, "What became of each; durable."),
    ]
}

fn letters() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/bus/routes",
            "listRoutes",
            "Lists who gets what: topics, subscribers, and what waits for them",
            routing,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<BusRoute>>(200, "A page of routes, by topic and subscriber."),
        Route::get(
            "/v1/bus/dead",
            "listDeadLetters",
            "Lists messages that nobody got, or nobody acknowledged, oldest first",
            dead,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<DeadLetter>>(200, "A page of dead letters, without their content."),
        Route::post(
            "/v1/bus/dead/{id}/retry",
            "retryDeadLetter",
            "Puts a dead letter back into its subscription",
            |call| settle_dead(call, DeadSettlement::Retried),
        )
        .needs(Action::BusControl)
        .answers::<Done>(200, "It stands in its queue again; durable.")
        .refuses(&[409, 503]),
        Route::delete(
            "/v1/bus/dead/{id}",
            "dropDeadLetter",
            "Gives a dead letter up for good",
            |call| settle_dead(call, DeadSettlement::Dropped),
        )
        .needs(Action::BusControl)
        .answers::<Done>(200, "It is gone; durable."),
        Route::get(
            "/v1/messages/{id}/trace",
            "traceMessage",
            "Shows the way of a message, and of its conversation when that is traced",
            trace,
        )
        .answers::<MessageTrace>(
            200,
            "All steps in the order of the log; of an untraced message its head alone.",
        ),
    ]
}

async fn create(call: Call) -> Answer {
    let order: SubscriptionOrder = call.json()?;
    let (view, known) = call.ops().make_subscription(&call.caller, order).await?;
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    json(status, &view)
}

async fn list(call: Call) -> Answer {
    ok(&page_of(
        call.ops().subscriptions().await?,
        call.query.page()?,
    )?)
}

async fn show(call: Call) -> Answer {
    ok(&call
        .ops()
        .subscription(&call.caller, call.param("id"))
        .await?)
}

async fn remove(call: Call) -> Answer {
    let id = call.param("id");
    call.ops().remove_subscription(&call.caller, id).await?;
    done(id)
}

async fn pull(call: Call) -> Answer {
    let wait = wait(&call)?.unwrap_or_default().min(PULL_WAIT_MAX);
    let most = call.query.integer(&MAX)?.unwrap_or(1);
    let most = usize::try_from(most).unwrap_or(BATCH_MAX);
    let id = call.param("id");
    // At the end of meshd, nobody is kept waiting: what was not handed out yet stays where it is.
    tokio::select! {
        pulled = call.ops().pull(&call.caller, id, most, wait) => ok(&pulled?),
        () = call.shared.closed() => ok(&Pulled { messages: Vec::new() }),
    }
}

async fn settle(call: Call, op: AckOp) -> Answer {
    let order: AckOrder = call.json()?;
    let id = call.param("id");
    ok(&call
        .ops()
        .settle_deliveries(&call.caller, id, op, order)
        .await?)
}

async fn routing(call: Call) -> Answer {
    ok(&page_of(call.ops().routes().await?, call.query.page()?)?)
}

async fn dead(call: Call) -> Answer {
    ok(&page_of(
        call.ops().dead_letters().await?,
        call.query.page()?,
    )?)
}

async fn settle_dead(call: Call, how: DeadSettlement) -> Answer {
    let id = call.param("id");
    let letter = id.parse().map(Position).map_err(|_| {
        let detail = format!("there is no dead letter {id}");
        Refusal::new("dead_letter_not_found", detail)
    })?;
    call.ops().settle_dead(&call.caller, letter, how).await?;
    done(id)
}

async fn trace(call: Call) -> Answer {
    ok(&call.ops().message_trace(call.param("id")).await?)
}

fn done(id: &str) -> Answer {
    ok(&Done {
        id: id.to_owned(),
        done: true,
    })
}
