//! Accepted tasks, as whoever subscribed to `task.created` is told of them.
//!
//! What is told follows from the log of tasks: the bus knows the newest record that it told of, and whoever reads the log
//! goes on behind that. So nothing is lost between a task's record and its publication, whatever ends there.

use ractor::ActorProcessingErr;
use serde_json::{Value, json};

use mesh_actors_core::bus::FEED_RECORD;
use mesh_messages::Position;
use mesh_messages::bus::TASK_CREATED;
use mesh_messages::problem::Problem;

use super::durable::Look;
use super::route::CALL_LIMIT;
use super::state::answer_to;
use super::{BusHandle, Effect, Message, Reply, State};
use crate::partition::Cause;

/// A task that was accepted.
#[derive(Debug)]
pub(crate) struct Created {
    /// The record that says so.
    pub(crate) record: Position,
    /// Names the happening: told twice, it is published once.
    pub(crate) id: String,
    /// What is told.
    pub(crate) data: Value,
}

impl BusHandle {
    /// From which record on accepted tasks are to be told; `None` while nobody would get them.
    ///
    /// # Errors
    /// That the bus cannot be asked now.
    pub(crate) async fn feed_from(&self) -> Result<Option<Position>, Problem> {
        self.look(Look::Feed).await
    }

    /// Tells of accepted tasks, in the order of their records; when it answers, that can no longer be lost.
    ///
    /// # Errors
    /// That it could not be done now, or not all of it: tell the same again.
    pub(crate) async fn tell_created(&self, created: Vec<Created>) -> Result<(), Problem> {
        self.slot
            .call(CALL_LIMIT, |reply| Message::Feed { created, reply })
            .await?
    }
}

impl State {
    pub(super) async fn feed(
        &mut self,
        created: Vec<Created>,
        reply: Reply<()>,
    ) -> Result<(), ActorProcessingErr> {
        for Created { record, id, data } in created {
            // Nothing is published on a full disk, and no publication says so: each is looked at by itself.
            if let Err(problem) = self.writable() {
                answer_to(reply, Err(problem));
                return Ok(());
            }
            let context = json!({ FEED_RECORD: record });
            if let Ok(topic) = TASK_CREATED.parse() {
                self.announce((topic, id), data, Some(context)).await?;
            }
        }
        // The last one may have found it full although the look before it did not.
        if let Err(problem) = self.writable() {
            answer_to(reply, Err(problem));
            return Ok(());
        }
        let done = vec![Effect::Done { reply }];
        self.commit(Vec::new(), &Cause::meshd(), done).await
    }
}
