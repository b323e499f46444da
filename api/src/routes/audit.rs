//! The audit: records, checkpoints, proofs, export.

use axum::http::StatusCode;
use mesh_actors::operations::{Action, ExportOf, WitnessAnswer};
use mesh_messages::agent::Page;
use mesh_messages::system::{AuditEntry, AuditFilter};
use mesh_messages::{AgentId, Position, TaskId};
use serde_json::Value;

use super::export::streamed;
use super::stream::place;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT, Param, Shape, invalid};
use crate::route::{BodySize, Call, Route, ok, text};
use crate::withheld::{sees_memory, withhold};

/// The media type of JSON Lines.
const JSON_LINES: &str = "application/x-ndjson";
/// A tile.
const BYTES: &str = "application/octet-stream";
/// What C2SP has a witness answer when the proof begins elsewhere.
const TREE_SIZE: &str = "text/x.tlog.size";
/// A C2SP note is text.
const NOTE: &str = "text/plain; charset=utf-8";

const AGENT: Param = Param {
    name: "agent",
    about: "Only records of this agent.",
    shape: Shape::of::<AgentId>(),
};
const WITNESSED: Param = Param {
    name: "witnessed",
    about: "With `agent`: how many records a witness saw; the export then proves that the log continues that one.",
    shape: Shape::Integer(1, u64::MAX),
};
const TASK: Param = Param {
    name: "task",
    about: "Only records of this task.",
    shape: Shape::of::<TaskId>(),
};
const KIND: Param = Param {
    name: "kind",
    about: "Only records of this kind; one that ends with a full stop (`task.`) means all that begin so.",
    shape: Shape::Text,
};
const SINCE: Param = Param {
    name: "since",
    about: "Not before this time.",
    shape: Shape::Time,
};
const UNTIL: Param = Param {
    name: "until",
    about: "Not after this time.",
    shape: Shape::Time,
};
const ACTOR: Param = Param {
    name: "actor",
    about: "Only what this caller did, such as `user:admin`, `agent:echo` or `meshd`.",
    shape: Shape::Text,
};
const CAUSE: Param = Param {
    name: "cause",
    about: "Only what the record at this position led to.",
    shape: Shape::Integer(0, u64::MAX),
};
const CORRELATION: Param = Param {
    name: "correlation",
    about: "Only what one request led to: its `X-Request-Id`.",
    shape: Shape::Text,
};
const INDEX: Param = Param {
    name: "index",
    about: "Proves that this record is in the tree.",
    shape: Shape::Integer(0, u64::MAX),
};
const SIZE: Param = Param {
    name: "size",
    about: "With `index`: the size of the tree; the current one when absent.",
    shape: Shape::Integer(1, u64::MAX),
};
const FROM: Param = Param {
    name: "from",
    about: "Proves that the tree of this size is the beginning of the one of size `to`.",
    shape: Shape::Integer(0, u64::MAX),
};
const TO: Param = Param {
    name: "to",
    about: "With `from`: the size of the larger tree; the current one when absent.",
    shape: Shape::Integer(0, u64::MAX),
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/audit", "listAudit", "Lists audit records", list)
            .query(&[
                AGENT,
                TASK,
                KIND,
                ACTOR,
                CAUSE,
                CORRELATION,
                SINCE,
                UNTIL,
                LIMIT,
                CURSOR,
            ])
            .answers::<Page<AuditEntry>>(200, "A page of records, oldest first."),
        Route::get(
            "/v1/audit/checkpoint",
            "getCheckpoint",
            "A fresh signed checkpoint",
            checkpoint,
        )
        .answers_as(NOTE, "A C2SP note."),
        Route::get(
            "/v1/audit/successions",
            "getSuccessions",
            "Which keys took over from the log's first one",
            successions,
        )
        .answers_as(NOTE, "A note for each, one after the other; nothing while the first key signs."),
        Route::get(
            "/v1/audit/proof",
            "getProof",
            "Proves that a record is in the tree, or that a tree grew",
            proof,
        )
        .query(&[INDEX, SIZE, FROM, TO])
        .answers::<Value>(200, "`{index, size, path, root}`, or `{from, to, path}`.")
        .refuses(&[404, 422]),
        Route::get(
            "/v1/audit/tile/{*path}",
            "getTile",
            "A tile of the log, as C2SP tlog-tiles names them: `<level>/<index>[.p/<width>]` or `entries/<index>[.p/<width>]`",
            tile,
        )
        .answers_as(BYTES, "Hashes of 32 bytes, or record headers after their length in two bytes.")
        .refuses(&[404]),
        Route::post(
            "/v1/audit/witness/add-checkpoint",
            "witnessCheckpoint",
            "Co-signs another log's checkpoint that continues the last one (C2SP tlog-witness)",
            witness,
        )
        .needs(Action::MessageSend)
        .takes_text(BodySize::Checkpoint)
        .answers_as(NOTE, "The line of the co-signature. 409 has, as text, the size from which to prove.")
        .refuses(&[400, 403, 404, 409, 422]),
        Route::post(
            "/v1/audit/witness/add-succession",
            "witnessSuccession",
            "Takes in that another key signs for another log: a request as for a checkpoint, with the succession as its note",
            witness_succession,
        )
        .needs(Action::MessageSend)
        .takes_text(BodySize::Checkpoint)
        .answers_as(NOTE, "The line of the co-signature. 409 has, as text, the size from which to prove.")
        .refuses(&[400, 403, 404, 409, 422]),
        Route::get(
            "/v1/audit/export",
            "exportAudit",
            "The log for checking offline",
            export,
        )
        .query(&[AGENT, WITNESSED])
        .answers_as(
            JSON_LINES,
            "A record each; the last line is the checkpoint. Without it, the export broke off. What agents remember is left out for whoever may not read memory; the proofs hold all the same.",
        )
        .refuses(&[404]),
    ]
}

async fn list(call: Call) -> Answer {
    let filter = AuditFilter {
        agent: call.query.read(&AGENT)?,
        task: call.query.read(&TASK)?,
        kind: call.query.name(&KIND)?,
        since: call.query.read(&SINCE)?,
        until: call.query.read(&UNTIL)?,
        actor: call.query.name(&ACTOR)?,
        cause: call.query.integer(&CAUSE)?.map(Position),
        correlation: call.query.name(&CORRELATION)?,
    };
    if let (Some(since), Some(until)) = (filter.since, filter.until)
        && since > until
    {
        return Err(invalid(
            SINCE.name,
            format!("{since} is after until, {until}"),
        ));
    }
    let mut page = call.ops().audit(filter, call.query.page()?).await?;
    withhold(call.ops(), &call.caller, &mut page.items);
    ok(&page)
}

async fn checkpoint(call: Call) -> Answer {
    text(NOTE, call.ops().checkpoint().await?)
}

async fn successions(call: Call) -> Answer {
    text(NOTE, call.ops().successions())
}

async fn proof(call: Call) -> Answer {
    let (index, size) = (call.query.integer(&INDEX)?, call.query.integer(&SIZE)?);
    let (from, to) = (call.query.integer(&FROM)?, call.query.integer(&TO)?);
    match (index, size, from, to) {
        (Some(index), size, None, None) => {
            ok(&call.ops().inclusion_proof(Position(index), size).await?)
        }
        (None, None, Some(from), to) => ok(&call.ops().consistency_proof(from, to).await?),
        (None, ..) if from.is_none() => Err(invalid(
            INDEX.name,
            "expected index (and size), or from (and to)",
        )),
        _ => Err(invalid(
            FROM.name,
            "expected either index (and size) or from (and to), not both",
        )),
    }
}

async fn tile(call: Call) -> Answer {
    text(BYTES, call.ops().audit_tile(call.param("path")).await?)
}

async fn witness(call: Call) -> Answer {
    answered(call.ops().witness(&call.caller, note_of(&call)?).await?)
}

async fn witness_succession(call: Call) -> Answer {
    answered(
        call.ops()
            .witness_succession(&call.caller, note_of(&call)?)
            .await?,
    )
}

fn note_of(call: &Call) -> Result<&str, Refusal> {
    std::str::from_utf8(&call.body)
        .map_err(|_| Refusal::new("malformed_checkpoint", "the body is not UTF-8"))
}

fn answered(answer: WitnessAnswer) -> Answer {
    match answer {
        WitnessAnswer::Signed(line) => text(NOTE, line),
        WitnessAnswer::Conflict(size) => {
            let mut response = text(TREE_SIZE, format!("{size}\n"))?;
            *response.status_mut() = StatusCode::CONFLICT;
            Ok(response)
        }
    }
}

async fn export(call: Call) -> Answer {
    let agent = call.query.read(&AGENT)?;
    let witnessed = call.query.integer(&WITNESSED)?;
    if witnessed.is_some() && agent.is_none() {
        let detail = "goes with `agent` only: of the whole log its records show that it continues";
        return Err(invalid(WITNESSED.name, detail));
    }
    let of = agent.map(|agent| ExportOf { agent, witnessed });
    let permit = place(&call.shared)?;
    let chunks = call
        .ops()
        .export_audit(of, sees_memory(call.ops(), &call.caller))
        .await?;
    streamed(&call.shared, permit, JSON_LINES, chunks).await
}
