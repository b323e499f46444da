//! Agents' memory.

use mesh_actors::operations::Action;
use mesh_messages::agent::Page;
use mesh_messages::system::MemoryEntry;
use mesh_messages::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT};
use crate::route::{BodySize, Call, Route, ok};

/// The body of a write.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MemoryWrite {
    /// The value.
    value: Value,
    /// How long it can be read; for good when absent.
    #[serde(default)]
    ttl: Option<Span>,
}

/// The answer to a deletion.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct DeletedKey {
    /// Which key.
    key: String,
    /// True: it is gone.
    deleted: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/memory/{agent}",
            "listMemory",
            "Lists what an agent remembers",
            list,
        )
        .needs(Action::Memory)
        .query(&[LIMIT, CURSOR])
        .answers::<Page<MemoryEntry>>(200, "A page of entries, by key."),
        Route::get(
            "/v1/memory/{agent}/{*key}",
            "getMemory",
            "Reads one entry; the key may hold slashes",
            get,
        )
        .needs(Action::Memory)
        .answers::<MemoryEntry>(200, "The entry."),
        Route::put(
            "/v1/memory/{agent}/{*key}",
            "setMemory",
            "Writes one entry",
            set,
        )
        .needs(Action::Memory)
        .takes::<MemoryWrite>(BodySize::Json)
        .answers::<MemoryEntry>(200, "The entry afterwards."),
        Route::delete(
            "/v1/memory/{agent}/{*key}",
            "deleteMemory",
            "Deletes one entry",
            delete,
        )
        .needs(Action::Memory)
        .answers::<DeletedKey>(200, "It is gone."),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&call
        .ops()
        .memory_list(call.param("agent"), call.query.page()?)
        .await?)
}

async fn get(call: Call) -> Answer {
    ok(&call
        .ops()
        .memory_get(call.param("agent"), call.param("key"))
        .await?)
}

async fn set(call: Call) -> Answer {
    let MemoryWrite { value, ttl } = call.json()?;
    let (agent, key) = (call.param("agent"), call.param("key"));
    ok(&call
        .ops()
        .memory_set(&call.caller, agent, key, value, ttl.map(Span::duration))
        .await?)
}

async fn delete(call: Call) -> Answer {
    let (agent, key) = (call.param("agent"), call.param("key"));
    if call.ops().memory_delete(&call.caller, agent, key).await? {
        ok(&DeletedKey {
            key: key.to_owned(),
            deleted: true,
        })
    } else {
        Err(Refusal::new(
            "memory_key_not_found",
            format!("agent {agent} remembers nothing under {key:?}"),
        ))
    }
}
