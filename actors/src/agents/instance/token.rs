//! The token of an incarnation: given with the answer to its handshake where the manifest asks for one, renewed by another
//! handshake, and void from the moment when the incarnation ends, is told to, or stands still.
//!
//! Nobody but the agent gets to see it: it travels in that answer alone, and no record, log or environment holds it.

use std::sync::Arc;

use mesh_messages::klp::{Envelope, ErrorCode, Handshake, KlpError, MessageType};
use mesh_messages::{AgentId, Epoch};

use super::session::{checked, problem};
use super::{Phase, Session};
use crate::agents::services::Services;

/// The tokens of an incarnation that may be valid. Dropped, none of them is, whatever became of the incarnation.
#[derive(Debug)]
pub(super) struct Pass {
    services: Arc<dyn Services>,
    agent: AgentId,
    epoch: Epoch,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.services.close_session(&self.agent, self.epoch);
    }
}

impl Session {
    /// Answers a handshake that is accepted, with a token where the manifest asks for one.
    pub(super) fn welcome(&mut self, hello: &Handshake, line: &Envelope) -> Result<(), KlpError> {
        let mut reply = self.hello_reply(hello);
        if self.args.manifest.security.session {
            let (services, agent) = (&self.args.services, &self.args.agent);
            let token = services.open_session(agent, self.args.epoch)?;
            reply.session = Some(token);
            self.pass.get_or_insert_with(|| Pass {
                services: Arc::clone(services),
                agent: agent.clone(),
                epoch: self.args.epoch,
            });
        }
        let payload = serde_json::to_value(reply).unwrap_or_default();
        let mut answer = self.message(MessageType::Handshake, payload);
        answer.in_reply_to = Some(line.id.clone());
        answer.sign(self.args.ctx.node.signer().secret());
        self.send(&answer);
        Ok(())
    }

    /// A further handshake asks for another token, and changes nothing else.
    pub(super) fn renew(&mut self, line: &Envelope) -> Result<(), KlpError> {
        let hello: Handshake = line.payload_as().and_then(checked)?;
        let goes_on = matches!(
            self.phase,
            Phase::Starting | Phase::Ready | Phase::Draining { .. }
        );
        if !goes_on || !self.moves() {
            let detail = "it was told to end or to pause, and is given no other token".to_owned();
            return Err(problem(ErrorCode::Unexpected, Some("type"), detail));
        }
        self.welcome(&hello, line)
    }
}
