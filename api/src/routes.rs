//! The route table, a module per subject.

mod agents;
mod audit;
mod backup;
mod budgets;
mod bus;
mod chaos;
mod claims;
mod erasures;
mod export;
mod gates;
mod governance;
mod inbox;
mod keys;
mod memory;
mod past;
mod plans;
mod policies;
mod profiles;
mod schedules;
mod secrets;
mod services;
mod stream;
mod system;
pub(crate) mod tasks;
mod tokens;
mod trust;
mod verbs;
mod workflows;

use mesh_actors::operations::PageRequest;
use mesh_messages::agent::Page;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Refusal;
use crate::route::Route;

/// Every route.
pub(crate) fn table() -> Vec<Route> {
    [
        system::routes(),
        agents::routes(),
        verbs::routes(),
        tasks::routes(),
        inbox::routes(),
        trust::routes(),
        workflows::routes(),
        schedules::routes(),
        plans::routes(),
        claims::routes(),
        gates::routes(),
        profiles::routes(),
        budgets::routes(),
        bus::routes(),
        stream::routes(),
        audit::routes(),
        past::routes(),
        erasures::routes(),
        export::routes(),
        backup::routes(),
        memory::routes(),
        tokens::routes(),
        keys::routes(),
        secrets::routes(),
        services::routes(),
        policies::routes(),
        governance::routes(),
        chaos::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The body of a verb that takes none: `{}`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

/// A page of a list that is in memory anyway; its cursor is the index of the next row.
fn page_of<T: Clone>(rows: Vec<T>, page: PageRequest<'_>) -> Result<Page<T>, Refusal> {
    let start = match page.cursor {
        None => 0,
        Some(text) => text.parse().map_err(|_| {
            let detail = "cursor: is none that was given out; begin without one";
            Refusal::new("invalid_cursor", detail).field("cursor")
        })?,
    };
    let end = rows.len().min(page.limit.saturating_add(start));
    let next_cursor = (end < rows.len()).then(|| end.to_string());
    Ok(Page {
        items: rows.get(start..end).unwrap_or_default().to_vec(),
        next_cursor,
    })
}
