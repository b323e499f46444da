//! The bus, as the outside asks for it.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use mesh_messages::Position;
use mesh_messages::bus::{
    AckOp, AckOrder, AckOutcome, DeadLetter, DeadSettlement, MessageTrace, Pulled, Route,
    SubscriptionOrder, SubscriptionView,
};
use mesh_messages::events::BusEvent;
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;

use super::Mesh;
use crate::operations::BusOperations;
use crate::partition::payload_of;
use crate::reads::{self, LookupError};
use crate::store::OpenStore;

#[async_trait]
impl BusOperations for Mesh {
    async fn make_subscription(
        &self,
        caller: &Caller,
        order: SubscriptionOrder,
    ) -> Result<(SubscriptionView, bool), Problem> {
        self.bus.make_subscription(caller, order).await
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, Problem> {
        self.bus.subscriptions().await
    }

    async fn subscription(&self, caller: &Caller, id: &str) -> Result<SubscriptionView, Problem> {
        self.bus.subscription(caller, id).await
    }

    async fn remove_subscription(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        self.bus.remove_subscription(caller, id).await
    }

    async fn pull(
        &self,
        caller: &Caller,
        id: &str,
        most: usize,
        wait: Duration,
    ) -> Result<Pulled, Problem> {
        self.bus.pull(caller, id, (most, wait)).await
    }

    async fn settle_deliveries(
        &self,
        caller: &Caller,
        id: &str,
        op: AckOp,
        order: AckOrder,
    ) -> Result<AckOutcome, Problem> {
        self.bus.settle_deliveries(caller, id, (op, order)).await
    }

    async fn routes(&self) -> Result<Vec<Route>, Problem> {
        self.bus.routes().await
    }

    async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Problem> {
        self.bus.dead_letters().await
    }

    async fn settle_dead(
        &self,
        caller: &Caller,
        id: Position,
        how: DeadSettlement,
    ) -> Result<(), Problem> {
        self.bus.settle_dead(caller, id, how).await
    }

    async fn message_trace(&self, id: &str) -> Result<MessageTrace, Problem> {
        let mut trace = self.bus.trace(id).await?;
        if !trace.traced {
            return Ok(trace);
        }
        let store = self.ctx.store.get()?;
        reads::blocking(store, move |store| {
            for hop in &mut trace.hops {
                hop.payload = payload_at(store, hop.position)?;
            }
            Ok::<_, LookupError>(trace)
        })
        .await
    }
}

/// The payload of the message that a record holds, if it holds one and it was not erased.
fn payload_at(store: &OpenStore, position: Position) -> Result<Option<Value>, LookupError> {
    let Some(record) = store.journal.get(position).map_err(LookupError::from)? else {
        return Ok(None);
    };
    // Content that is gone is shown as such, as in every view.
    let Ok(Some(bytes)) = payload_of(&record, &store.content) else {
        return Ok(None);
    };
    let (BusEvent::Sent { mut envelope, .. } | BusEvent::Received { mut envelope, .. }) =
        (match serde_json::from_slice(&bytes) {
            Ok(event) => event,
            Err(_) => return Ok(None),
        })
    else {
        return Ok(None);
    };
    Ok(envelope.get_mut("payload").map(Value::take))
}
