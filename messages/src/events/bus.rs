//! What is journalled of messages, topics and subscriptions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bus::{
    DeadDetail, DeadSettlement, HandOut, Holder, PastMessage, Return, SubscriptionTerms,
};
use crate::failure::Severity;
use crate::ids::{AgentId, Epoch, Position};
use crate::time::Timestamp;

/// Messages between agents, and between people and agents. Partition `bus`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum BusEvent {
    /// An agent is about to get a message.
    #[serde(rename = "message_received")]
    Received {
        /// The envelope's id.
        message: String,
        /// Its sender.
        from: String,
        /// Its addressee.
        to: String,
        /// Its KLP type.
        kind: String,
        /// The whole envelope.
        envelope: Value,
    },
    /// An agent said something to others.
    #[serde(rename = "message_sent")]
    Sent {
        /// The envelope's id.
        message: String,
        /// Its sender.
        from: String,
        /// Its addressee.
        to: String,
        /// Its KLP type.
        kind: String,
        /// The whole envelope.
        envelope: Value,
    },
    /// A signed message was taken that leaves no other record here: a task's, a query, a subscription. It is not taken again.
    #[serde(rename = "message.taken")]
    Taken {
        /// The envelope's id.
        message: String,
        /// Its sender.
        from: String,
        /// The incarnation that it names as its sender's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        /// Its addressee.
        to: String,
        /// Its KLP type.
        kind: String,
        /// When it was sent, as it says.
        sent: Timestamp,
    },
    /// Somebody raised an alert; the message that did is the record before.
    #[serde(rename = "security.alert")]
    Alerted {
        /// The envelope's id.
        message: String,
        /// Who raised it.
        from: String,
        /// How bad it is, by their word.
        severity: Severity,
        /// What happened, by their word; the first 1000 characters.
        description: String,
        /// The agent that it is about, if they named one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<AgentId>,
    },
    /// Nobody could get it.
    #[serde(rename = "message.dead_lettered")]
    DeadLettered {
        /// The envelope's id.
        message: String,
        /// Its sender.
        from: String,
        /// Its addressee.
        to: String,
        /// Why.
        reason: String,
        /// Of a durable subscription's message: which, and how it came to that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<Box<DeadDetail>>,
    },
    /// An agent wants a topic.
    #[serde(rename = "topic.subscribed")]
    Subscribed {
        /// Who.
        agent: AgentId,
        /// The pattern.
        pattern: String,
    },
    /// A durable subscription was made. What is published from here on is in it.
    #[serde(rename = "subscription.made")]
    Made {
        /// What it was made with.
        terms: Box<SubscriptionTerms>,
    },
    /// A durable subscription was removed, and what waited in it.
    #[serde(rename = "subscription.removed")]
    Removed {
        /// Which.
        subscription: String,
        /// Why.
        reason: String,
    },
    /// Publications of before the subscription was made were put into it.
    #[serde(rename = "subscription.filled")]
    Filled {
        /// Which.
        subscription: String,
        /// What was put into it.
        messages: Vec<PastMessage>,
        /// Where to go on reading; absent when it has all.
        next: Option<Position>,
    },
    /// Messages are about to be handed out.
    #[serde(rename = "subscription.delivered")]
    HandedOut {
        /// By which subscription.
        subscription: String,
        /// Who has them, and until when.
        holder: Holder,
        /// Which.
        messages: Vec<HandOut>,
    },
    /// Messages were acknowledged.
    #[serde(rename = "subscription.acked")]
    Acked {
        /// Of which subscription.
        subscription: String,
        /// The records of their publications.
        records: Vec<Position>,
    },
    /// Their receiver needs more time.
    #[serde(rename = "subscription.extended")]
    Extended {
        /// Of which subscription.
        subscription: String,
        /// The records of their publications.
        records: Vec<Position>,
        /// Until when.
        until: Timestamp,
    },
    /// Messages go back into their queue.
    #[serde(rename = "subscription.returned")]
    Returned {
        /// Of which subscription.
        subscription: String,
        /// Which, and why.
        messages: Vec<Return>,
    },
    /// Dead letters were put back or given up.
    #[serde(rename = "message.dead_settled")]
    DeadSettled {
        /// Their records.
        letters: Vec<Position>,
        /// What became of them.
        how: DeadSettlement,
    },
}

kinds!(BusEvent {
    Received => "message_received",
    Sent => "message_sent",
    Taken => "message.taken",
    Alerted => "security.alert",
    DeadLettered => "message.dead_lettered",
    Subscribed => "topic.subscribed",
    Made => "subscription.made",
    Removed => "subscription.removed",
    Filled => "subscription.filled",
    HandedOut => "subscription.delivered",
    Acked => "subscription.acked",
    Extended => "subscription.extended",
    Returned => "subscription.returned",
    DeadSettled => "message.dead_settled",
});
