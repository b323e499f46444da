//! Agents that hold a key of their own: proven at the handshake, and what they sign afterwards.
//!
//! ```text
//! agent > HANDSHAKE {…, key}                  meshd: is it the one that is registered as this agent's?
//! meshd > HANDSHAKE {…, challenge}
//! agent > HANDSHAKE {…, key, proof}           meshd: does the key sign this node, agent, incarnation and challenge?
//! meshd > HANDSHAKE {…}                       hands are shaken
//! ```
//!
//! An agent that names no key is known by its channel, and meshd signs for it. With a `challenge` of its own in its
//! handshake it has meshd prove the node's key in the answer.

use mesh_messages::identity::{DidKey, KeyProof};
use mesh_messages::klp::{Envelope, ErrorCode, Handshake, MessageType, handshake_proof};
use mesh_messages::{Failure, FailureClass};

use super::Session;
use super::session::problem;
use crate::bus::UNSIGNED;

/// Bytes of randomness in a challenge.
const CHALLENGE_LEN: usize = 32;

/// A key that an agent named, and what it has to sign.
#[derive(Debug)]
pub(super) struct Challenge {
    key: DidKey,
    text: String,
}

impl Session {
    /// Whether hands may be shaken: the agent names no key, or has proven the one it names. Otherwise it was challenged,
    /// or is being ended.
    pub(super) fn has_proven(&mut self, hello: &Handshake, line: &Envelope) -> bool {
        let Some(key) = hello.key else {
            if self.challenge.is_some() || hello.proof.is_some() {
                self.violated(
                    "Trust validation failed: answered the challenge of its key without naming it",
                );
                return false;
            }
            if self.args.manifest.signs_itself() {
                let text = "Trust validation failed: it has crypto_required, and names no key in its handshake; it is to name and prove the one \
                    that is registered as its own";
                self.kill(Some(Failure::new(FailureClass::Start, text)));
                return false;
            }
            return true;
        };
        let registered = self.args.services.key_of(&self.args.agent);
        if registered != Some(key) {
            if registered.is_some() {
                self.violated("Trust validation failed: named a key that is not the one registered as its own");
            } else {
                let text = format!(
                    "Trust validation failed: it names the key {key}, which is not registered as its own; meshctl key register does that"
                );
                self.kill(Some(Failure::new(FailureClass::Start, text)));
            }
            return false;
        }
        let crypto = self.args.manifest.security.crypto;
        if !crypto.is_of(&key) {
            // It may have been registered after the version was accepted.
            let (named, kind) = (crypto.name(), key.kind());
            let text = format!(
                "its key is of kind {kind}, and its manifest says security.crypto: {named}"
            );
            self.kill(Some(Failure::new(FailureClass::Start, text)));
            return false;
        }
        match (self.challenge.take(), &hello.proof) {
            (None, None) => {
                self.challenge_with(&key, (hello, line));
                false
            }
            (Some(challenge), Some(proof)) if challenge.key == key => {
                let (node, agent) = (self.args.ctx.node.did.to_string(), &self.args.agent);
                let signed = handshake_proof(&node, agent, self.args.epoch, &challenge.text);
                let holds = key.verify(&signed, proof).is_ok();
                if holds {
                    self.proven = Some(Box::new(KeyProof {
                        key,
                        node,
                        challenge: challenge.text,
                        proof: *proof,
                    }));
                } else {
                    self.violated("Trust validation failed: could not prove that it holds the key that it named");
                }
                holds
            }
            _ => {
                self.violated("Trust validation failed: did not answer the challenge of the key that it named");
                false
            }
        }
    }

    fn challenge_with(&mut self, key: &DidKey, (hello, line): (&Handshake, &Envelope)) {
        let mut random = [0; CHALLENGE_LEN];
        if let Err(error) = getrandom::fill(&mut random) {
            let text = format!("the system gives no randomness for a challenge: {error}");
            return self.kill(Some(Failure::new(FailureClass::Start, text)));
        }
        let text = hex::encode(random);
        let mut reply = self.hello_reply(hello);
        reply.challenge = Some(text.clone());
        let payload = serde_json::to_value(reply).unwrap_or_default();
        let mut answer = self.message(MessageType::Handshake, payload);
        answer.in_reply_to = Some(line.id.clone());
        self.challenge = Some(Challenge { key: *key, text });
        answer.sign(self.args.ctx.node.signer().secret());
        self.send(&answer);
    }

    /// Whether a line counts for nothing because the agent has to sign itself and did not. The handshake, by which it proves
    /// its key, is signed by its proof.
    pub(super) fn is_unsigned(&mut self, line: &Envelope) -> bool {
        let excepted = line.kind == MessageType::Handshake && !self.shook;
        if excepted || !self.args.manifest.signs_itself() {
            return false;
        }
        let signature = line.auth.as_ref().and_then(|auth| auth.signature.as_ref());
        let key = self.args.services.key_of(&self.args.agent);
        if signature.is_some() && key.is_some() {
            return false; // Whether it holds is looked at elsewhere.
        }
        if line.kind == MessageType::TaskResult
            && let Some(task) = line.task_id.clone().or_else(|| self.only_task())
            && self.flights.contains_key(&task)
        {
            let text = "its TASK_RESULT is not signed by its own key, and it has crypto_required";
            self.land(&task, Err(Failure::new(FailureClass::Contract, text)));
        }
        let detail = format!("agent {} {UNSIGNED}", self.args.agent);
        let field = Some("auth.signature");
        self.refuse(
            Some(line.id.clone()),
            &problem(ErrorCode::Unsigned, field, detail),
        );
        true
    }

    /// Whether a line bears a signature that is not the agent's: a forgery, though it came on its own channel.
    pub(super) fn is_badly_signed(&mut self, line: &Envelope) -> bool {
        if line.auth.as_ref().is_none_or(|a| a.signature.is_none()) {
            return false;
        }
        let own = self.args.services.key_of(&self.args.agent);
        let Some(key) = own else {
            // What is passed on is refused by the bus; what is meshd's own affair is known by its channel.
            return false;
        };
        let bad = line.verify(&key).is_err();
        if bad {
            self.violated("wrote a line whose signature does not hold");
        } else {
            self.args.services.heard(&self.args.agent, line);
        }
        bad
    }
}
