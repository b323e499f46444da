//! Blows that fall on the conversation with an agent: it is not heard, or things are heard that it did not say.
//!
//! Both go the way of the agent's own lines, through the same permits and at the same pace, so that what is tried out is
//! what protects meshd from a real agent.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use super::{InstanceMessage, Session};
use crate::agents::lines::{Input, LINES_IN_MAX, read_lines};

/// A blow on the conversation.
#[derive(Debug)]
pub(crate) enum Strike {
    /// Nothing that the agent writes is heard for so long.
    Deafen(Duration),
    /// These lines arrive as though the agent had written them.
    Say(Vec<u8>),
}

/// Why a blow on the conversation missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missed {
    /// It is an instance with which nobody speaks.
    #[error("nobody speaks with it: it has no process that talks KLP just now")]
    Silent,
}

impl Session {
    /// Lets a blow fall.
    pub(super) fn strike(&mut self, strike: Strike) -> Result<(), Missed> {
        if !self.converses() {
            return Err(Missed::Silent);
        }
        let lines = Arc::clone(&self.lines);
        match strike {
            Strike::Deafen(time) => self.spawn(async move {
                // Without permits the reader hands nothing over, and the pipe fills. Whoever waits for all of them is served
                // before whoever comes later, so it is over when its time is, however long some are held elsewhere.
                let all = u32::try_from(LINES_IN_MAX).unwrap_or(u32::MAX);
                let deaf = async {
                    let _permits = lines.acquire_many(all).await;
                    std::future::pending::<()>().await;
                };
                let _over = tokio::time::timeout(time, deaf).await;
            }),
            Strike::Say(bytes) => {
                let (me, rate) = (self.me.clone(), self.args.ctx.settings.agent_rate);
                self.spawn(read_lines(
                    Cursor::new(bytes),
                    lines,
                    rate,
                    move |input| match input {
                        // The end of these lines is not the end of the agent's output.
                        Input::End => false,
                        said @ (Input::Line(_) | Input::TooLong(_)) => {
                            me.cast(InstanceMessage::Line(said)).is_ok()
                        }
                    },
                ));
            }
        }
        Ok(())
    }
}
