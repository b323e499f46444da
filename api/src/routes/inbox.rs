//! The inbox: what people are asked.

use mesh_actors::operations::{Action, InboxQuery};
use mesh_messages::agent::Page;
use mesh_messages::inbox::{AskKind, InboxAnswer, InboxItem, InboxState};

use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT, Param, Shape};
use crate::route::{BodySize, Call, Route, ok};

/// The value of `state` that stands for every state.
const ALL: &str = "all";

const STATE: Param = Param {
    name: "state",
    about: "Only requests in this state; those that are open when absent.",
    shape: Shape::OneOf(&["open", "approved", "denied", "expired", "withdrawn", ALL]),
};
const KIND: Param = Param {
    name: "kind",
    about: "Only requests of this kind.",
    shape: Shape::of::<AskKind>(),
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/inbox",
            "listInbox",
            "Lists what people are asked: approvals, questions and permissions, newest first",
            list,
        )
        .query(&[STATE, KIND, LIMIT, CURSOR])
        .answers::<Page<InboxItem>>(200, "A page of requests."),
        Route::get("/v1/inbox/{id}", "getInboxItem", "Shows one request", show)
            .answers::<InboxItem>(200, "The request, and its answer when there is one."),
        Route::post(
            "/v1/inbox/{id}/answer",
            "answerInboxItem",
            "Answers a request; the first answer counts",
            give,
        )
        .needs(Action::InboxAnswer)
        .takes::<InboxAnswer>(BodySize::Small)
        .answers::<InboxItem>(200, "The request with its answer, which is durable.")
        .refuses(&[409]),
    ]
}

async fn list(call: Call) -> Answer {
    let state = match call.query.name(&STATE)?.as_deref() {
        None => Some(InboxState::Open),
        Some(ALL) => None,
        Some(_) => call.query.read(&STATE)?,
    };
    let query = InboxQuery {
        state,
        kind: call.query.read(&KIND)?,
    };
    ok(&call.ops().inbox(query, call.query.page()?).await?)
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().inbox_item(call.param("id")).await?)
}

async fn give(call: Call) -> Answer {
    let answer: InboxAnswer = call.json()?;
    let id = call.param("id");
    ok(&call.ops().answer_inbox(&call.caller, id, answer).await?)
}
