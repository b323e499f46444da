//! Whether an order for a durable subscription makes sense, and what it leaves out.

use std::ops::RangeInclusive;

use mesh_messages::bus::{
    ACK_TIMEOUT_MS, ACK_TIMEOUT_MS_DEFAULT, DELIVER_DEFAULT, DELIVER_MAX, Overflow, QUEUE_DEFAULT,
    QUEUE_MAX, SUBSCRIPTION_NAME_MAX, SubscriptionOrder, SubscriptionTerms, UNACKED_DEFAULT,
    UNACKED_MAX,
};

use super::durable::OWNED_MAX;

/// Why a durable subscription is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermsRefusal {
    /// A field makes no sense; nothing is tried again before it is corrected.
    #[error("{field}: {detail}")]
    Field {
        /// Which.
        field: &'static str,
        /// What was expected.
        detail: String,
    },
    /// Another subscription of the owner has the name. Remove that one, or use another name.
    #[error("subscription {0} exists with other terms; remove it first, or use another name")]
    Exists(String),
    /// A bound is reached. Remove subscriptions that are not needed.
    #[error("there are {OWNED_MAX} durable subscriptions of this owner, or too many altogether")]
    TooMany,
    /// An agent must not make publishers wait for it.
    #[error("an agent's subscription refuses no publisher; leave overflow out")]
    Bulkhead,
}

fn within<T: PartialOrd + std::fmt::Display>(
    field: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, TermsRefusal> {
    if range.contains(&value) {
        return Ok(value);
    }
    let detail = format!("expected {} to {}, not {value}", range.start(), range.end());
    Err(TermsRefusal::Field { field, detail })
}

/// The terms that an order means.
///
/// # Errors
/// [`TermsRefusal::Field`] and [`TermsRefusal::Bulkhead`].
pub(super) fn read(
    owner: &str,
    order: &SubscriptionOrder,
    push: bool,
) -> Result<SubscriptionTerms, TermsRefusal> {
    let name = order.name.as_deref().unwrap_or(order.topic.as_str());
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.*>".contains(&b);
    if name.is_empty() || name.len() > SUBSCRIPTION_NAME_MAX || !name.bytes().all(allowed) {
        let detail = format!(
            "expected 1 to {SUBSCRIPTION_NAME_MAX} characters out of A-Z a-z 0-9 - _ . * >"
        );
        return Err(TermsRefusal::Field {
            field: "name",
            detail,
        });
    }
    if order.overflow == Overflow::Reject && owner.starts_with("agent:") {
        return Err(TermsRefusal::Bulkhead);
    }
    let timeout = order.ack_timeout_ms.unwrap_or(ACK_TIMEOUT_MS_DEFAULT);
    let max_queue = within(
        "maxQueue",
        order.max_queue.unwrap_or(QUEUE_DEFAULT),
        1..=QUEUE_MAX,
    )?;
    Ok(SubscriptionTerms {
        id: format!("{owner}:{name}"),
        owner: owner.to_owned(),
        name: name.to_owned(),
        topic: order.topic.clone(),
        from: order.from,
        ack_timeout_ms: within("ackTimeoutMs", timeout, ACK_TIMEOUT_MS.0..=ACK_TIMEOUT_MS.1)?,
        max_unacked: within(
            "maxUnacked",
            order.max_unacked.unwrap_or(UNACKED_DEFAULT),
            1..=UNACKED_MAX,
        )?,
        max_deliver: within(
            "maxDeliver",
            order.max_deliver.unwrap_or(DELIVER_DEFAULT),
            1..=DELIVER_MAX,
        )?,
        max_queue,
        overflow: order.overflow,
        push,
    })
}
