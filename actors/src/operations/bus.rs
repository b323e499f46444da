//! What is asked of the bus beside posting a message.

use std::time::Duration;

use async_trait::async_trait;

use mesh_messages::Position;
use mesh_messages::bus::{
    AckOp, AckOrder, AckOutcome, DeadLetter, DeadSettlement, MessageTrace, Pulled, Route,
    SubscriptionOrder, SubscriptionView,
};
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;

/// Durable subscriptions, dead letters, routes and traces.
#[async_trait]
pub trait BusOperations {
    /// Makes a subscription; answers when it is durable, with it and whether it was there before.
    async fn make_subscription(
        &self,
        caller: &Caller,
        order: SubscriptionOrder,
    ) -> Result<(SubscriptionView, bool), Problem>;
    /// All subscriptions, by id.
    async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, Problem>;
    /// One of them.
    async fn subscription(&self, caller: &Caller, id: &str) -> Result<SubscriptionView, Problem>;
    /// Removes one; answers when that is durable.
    async fn remove_subscription(&self, caller: &Caller, id: &str) -> Result<(), Problem>;
    /// Hands out at most `most` messages, after at most `wait`; that they are handed out is durable then.
    async fn pull(
        &self,
        caller: &Caller,
        id: &str,
        most: usize,
        wait: Duration,
    ) -> Result<Pulled, Problem>;
    /// Settles deliveries; answers when that is durable.
    async fn settle_deliveries(
        &self,
        caller: &Caller,
        id: &str,
        op: AckOp,
        order: AckOrder,
    ) -> Result<AckOutcome, Problem>;
    /// Who gets what.
    async fn routes(&self) -> Result<Vec<Route>, Problem>;
    /// The dead letters that are kept, oldest first.
    async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Problem>;
    /// Puts one back or gives it up; answers when that is durable.
    async fn settle_dead(
        &self,
        caller: &Caller,
        id: Position,
        how: DeadSettlement,
    ) -> Result<(), Problem>;
    /// The way of a message.
    async fn message_trace(&self, id: &str) -> Result<MessageTrace, Problem>;
}
