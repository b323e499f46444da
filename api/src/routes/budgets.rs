//! Budgets: what may be used, and what was.

use mesh_messages::agent::Page;
use mesh_messages::budget::BudgetView;

use super::page_of;
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT};
use crate::route::{Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/budgets",
            "listBudgets",
            "Lists what tasks, agents, teams and providers' accounts may use, and have used",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<BudgetView>>(200, "A page of accounts that something bounds, by name."),
        Route::get(
            "/v1/budgets/{account}",
            "getBudget",
            "Shows one account: its bounds, what was used, what is set aside, and who waits for it",
            show,
        )
        .answers::<BudgetView>(200, "The account."),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().budgets().await?, call.query.page()?)?)
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().budget(call.param("account")).await?)
}
