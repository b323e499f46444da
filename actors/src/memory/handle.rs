//! The only way to the memory of agents.

use std::sync::Arc;
use std::time::Duration;

use ractor::RpcReplyPort;
use serde_json::Value;

use mesh_actors_core::memory::{Access, Range, check_access};
use mesh_messages::AgentId;
use mesh_messages::agent::Page;
use mesh_messages::klp::{MemoryOp, MemoryOpKind, MemoryReply};
use mesh_messages::manifest::MemoryConfig;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{Caller, MemoryEntry, MemoryStats, Role};

use super::problem::refused;
use super::{Message, Owner, Working};
use crate::operations::{PAGE_MAX, PageRequest};
use crate::partition::Cause;
use crate::sentinel::SentinelHandle;
use crate::slot::Slot;

/// How long a caller waits: a restart of the actor and a slow disk fit in.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How long a purge may take: it reads the partition's whole history.
const PURGE_LIMIT: Duration = Duration::from_mins(5);

/// Says by which rules an agent remembers: its manifest in force.
pub trait MemoryRules: Send + Sync + std::fmt::Debug + 'static {
    /// The rules; `None` for an agent that was never registered.
    fn rules(&self, agent: &AgentId) -> Option<MemoryConfig>;
}

/// The only way to talk to the memory actor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryHandle {
    pub(super) slot: Slot<Message>,
    pub(super) working: Working,
    rules: Arc<dyn MemoryRules>,
    sentinel: SentinelHandle,
}

impl MemoryHandle {
    /// A handle of a memory actor that is yet to be started. The sentinel audits who reads what is another's.
    pub fn new(rules: Arc<dyn MemoryRules>, sentinel: SentinelHandle) -> Self {
        Self {
            slot: Slot::new("memory"),
            working: Working::default(),
            rules,
            sentinel,
        }
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.slot.is_running()
    }

    /// How often it was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.slot.restarts()
    }

    /// An agent's entries, ordered by key; `cursor` is the last key of the page before.
    ///
    /// # Errors
    /// `agent_not_found`, `memory_sealed`.
    pub async fn list(
        &self,
        agent: &str,
        page: PageRequest<'_>,
    ) -> Result<Page<MemoryEntry>, Problem> {
        let (agent, _) = self.find(agent)?;
        let (prefix, after) = (String::new(), page.cursor.map(str::to_owned));
        self.range(
            agent,
            Range {
                prefix,
                after,
                limit: page.limit.clamp(1, PAGE_MAX),
            },
        )
        .await
    }

    /// One entry.
    ///
    /// # Errors
    /// `agent_not_found`, `memory_key_not_found`, `memory_sealed`.
    pub async fn get(&self, agent: &str, key: &str) -> Result<MemoryEntry, Problem> {
        let (id, _) = self.find(agent)?;
        self.read(id, key).await?.ok_or_else(|| {
            let detail = format!("agent {agent} remembers nothing under {key:?}");
            Problem::new(ProblemKind::NotFound, "memory_key_not_found", detail)
        })
    }

    /// Writes one entry; answers when it is durable, if it is to be.
    ///
    /// # Errors
    /// `agent_not_found`, `memory_full`, `memory_sealed`, `memory_not_yours`, or what is wrong with key, value or ttl.
    pub async fn set(
        &self,
        caller: &Caller,
        agent: &str,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
    ) -> Result<MemoryEntry, Problem> {
        let (agent, rules) = self.find_for(caller, agent)?;
        let owner = Owner {
            agent,
            rules,
            by: Cause::by(&caller.name),
        };
        self.write(owner, key, value, ttl).await
    }

    /// Deletes one entry; false when there was none.
    ///
    /// # Errors
    /// `agent_not_found`, `memory_sealed`, `memory_not_yours`.
    pub async fn delete(&self, caller: &Caller, agent: &str, key: &str) -> Result<bool, Problem> {
        let (agent, _) = self.find_for(caller, agent)?;
        self.remove(agent, Cause::by(&caller.name), key).await
    }

    /// An agent's memory in numbers.
    ///
    /// # Errors
    /// `agent_not_found`.
    pub async fn stats(&self, agent: &str) -> Result<MemoryStats, Problem> {
        let (agent, rules) = self.find(agent)?;
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Stats {
                agent,
                rules,
                reply,
            })
            .await?)
    }

    /// What an agent asks of its own memory, or of that of `owner`: another's is read where it is shared, and never
    /// written; both are audited.
    pub async fn agent_op(&self, agent: &AgentId, owner: &AgentId, op: MemoryOp) -> MemoryReply {
        match self.try_op(agent, owner, op).await {
            Ok((value, first)) => MemoryReply {
                ok: true,
                value,
                first,
                error: None,
            },
            Err(problem) => MemoryReply {
                ok: false,
                value: Value::Null,
                first: None,
                error: Some(problem.detail),
            },
        }
    }

    async fn try_op(
        &self,
        agent: &AgentId,
        owner: &AgentId,
        op: MemoryOp,
    ) -> Result<(Value, Option<bool>), Problem> {
        let rules = self.rules_of(owner)?;
        let access = match op.op {
            MemoryOpKind::Get | MemoryOpKind::List => Access::Read,
            MemoryOpKind::Set | MemoryOpKind::Delete | MemoryOpKind::Once => Access::Write,
        };
        self.check(agent, owner, &rules, access).await?;
        let by = Cause::by(format!("agent:{agent}"));
        let key = || {
            let missing = "Missing required field: payload.key";
            op.key
                .clone()
                .ok_or_else(|| Problem::invalid("missing_field", "payload.key", missing))
        };
        let value = match op.op {
            MemoryOpKind::Once => {
                let ttl = op.ttl.map(Duration::from_secs);
                let (key, owner) = (key()?, owner.clone());
                let owner = Owner {
                    agent: owner,
                    rules,
                    by,
                };
                let (entry, first) = self.record_once(owner, key, op.value, ttl).await?;
                return Ok((entry.value, Some(first)));
            }
            MemoryOpKind::Get => {
                let entry = self.read(owner.clone(), &key()?).await?;
                entry.map_or(Value::Null, |entry| entry.value)
            }
            MemoryOpKind::Set => {
                let ttl = op.ttl.map(Duration::from_secs);
                let key = key()?;
                self.write(
                    Owner {
                        agent: owner.clone(),
                        rules,
                        by,
                    },
                    &key,
                    op.value,
                    ttl,
                )
                .await?;
                Value::Null
            }
            MemoryOpKind::Delete => self
                .remove(owner.clone(), by, &key()?)
                .await
                .map(Value::Bool)?,
            MemoryOpKind::List => {
                let prefix = op.key.unwrap_or_default();
                let range = Range {
                    prefix,
                    after: None,
                    limit: PAGE_MAX,
                };
                let page = self.range(owner.clone(), range).await?;
                page.items.into_iter().map(|entry| entry.key).collect()
            }
        };
        Ok((value, None))
    }

    /// Whether an agent may, audited when it is not its own.
    async fn check(
        &self,
        agent: &AgentId,
        owner: &AgentId,
        rules: &MemoryConfig,
        access: Access,
    ) -> Result<(), Problem> {
        if agent == owner {
            return Ok(());
        }
        let user = format!("agent:{agent}");
        let (action, resource) = (
            match access {
                Access::Read => "memory.read",
                Access::Write => "memory.write",
            },
            format!("memory/{owner}"),
        );
        match check_access(agent, owner, rules, access) {
            Ok(()) => self.sentinel.record_allowed(&user, action, &resource).await,
            Err(refusal) => {
                self.sentinel
                    .record_denied(&user, action, &resource, &refusal.to_string());
                Err(refused(&refusal))
            }
        }
    }

    /// Closes an agent's memory: it was terminated. What is volatile is gone.
    ///
    /// # Errors
    /// That it cannot be written now.
    pub async fn seal(&self, by: &str, agent: &AgentId) -> Result<(), Problem> {
        self.clear_volatile(agent).await?;
        self.set_sealed(by, agent, true).await
    }

    /// Opens an agent's memory again: it was registered anew.
    ///
    /// # Errors
    /// That it cannot be written now.
    pub async fn unseal(&self, by: &str, agent: &AgentId) -> Result<(), Problem> {
        self.set_sealed(by, agent, false).await
    }

    async fn set_sealed(&self, by: &str, agent: &AgentId, sealed: bool) -> Result<(), Problem> {
        let (by, agent) = (Cause::by(by), agent.clone());
        self.ask(CALL_LIMIT, |reply| Message::Seal {
            agent,
            by,
            sealed,
            reply,
        })
        .await
    }

    /// Forgets all that an agent remembers, and erases what it ever wrote from the journal; answers when that is done.
    /// Idempotent.
    ///
    /// # Errors
    /// `erase_failed`: ask again. Or that it cannot be written now.
    pub async fn purge(&self, by: &str, agent: &AgentId) -> Result<(), Problem> {
        let (by, agent) = (Cause::by(by), agent.clone());
        self.ask(PURGE_LIMIT, |reply| Message::Purge { agent, by, reply })
            .await
    }

    /// Forgets what ends with an agent's run.
    ///
    /// # Errors
    /// That the actor is not there.
    pub async fn clear_volatile(&self, agent: &AgentId) -> Result<(), Problem> {
        let agent = agent.clone();
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::ClearVolatile { agent, reply })
            .await?)
    }

    fn rules_of(&self, agent: &AgentId) -> Result<MemoryConfig, Problem> {
        self.rules
            .rules(agent)
            .ok_or_else(|| Problem::agent_not_found(agent.as_str()))
    }

    fn find(&self, agent: &str) -> Result<(AgentId, MemoryConfig), Problem> {
        // What is no id is no agent's id.
        let id = AgentId::new(agent).map_err(|_| Problem::agent_not_found(agent))?;
        let rules = self.rules_of(&id)?;
        Ok((id, rules))
    }

    /// The same for a write: with an agent's token nobody writes but into that agent's memory.
    fn find_for(&self, caller: &Caller, agent: &str) -> Result<(AgentId, MemoryConfig), Problem> {
        let (owner, rules) = self.find(agent)?;
        if caller.role == Role::Agent {
            let own = caller
                .name
                .strip_prefix("agent:")
                .and_then(|id| AgentId::new(id).ok());
            let own = own.ok_or_else(|| Problem::agent_not_found(&caller.name))?;
            check_access(&own, &owner, &rules, Access::Write).map_err(|r| refused(&r))?;
        }
        Ok((owner, rules))
    }

    async fn read(&self, agent: AgentId, key: &str) -> Result<Option<MemoryEntry>, Problem> {
        let key = key.to_owned();
        self.ask(CALL_LIMIT, |reply| Message::Get { agent, key, reply })
            .await
    }

    async fn range(&self, agent: AgentId, range: Range) -> Result<Page<MemoryEntry>, Problem> {
        self.ask(CALL_LIMIT, |reply| Message::List {
            agent,
            range,
            reply,
        })
        .await
    }

    async fn write(
        &self,
        owner: Owner,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
    ) -> Result<MemoryEntry, Problem> {
        let key = key.to_owned();
        self.ask(CALL_LIMIT, |reply| Message::Set {
            owner,
            key,
            value,
            ttl,
            reply,
        })
        .await
    }

    async fn record_once(
        &self,
        owner: Owner,
        key: String,
        value: Value,
        ttl: Option<Duration>,
    ) -> Result<(MemoryEntry, bool), Problem> {
        self.ask(CALL_LIMIT, |reply| Message::Once {
            owner,
            key,
            value,
            ttl,
            reply,
        })
        .await
    }

    async fn remove(&self, agent: AgentId, by: Cause, key: &str) -> Result<bool, Problem> {
        let key = key.to_owned();
        self.ask(CALL_LIMIT, |reply| Message::Delete {
            agent,
            by,
            key,
            reply,
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        message: impl FnOnce(RpcReplyPort<Result<T, Problem>>) -> Message,
    ) -> Result<T, Problem> {
        self.slot.call(limit, message).await?
    }
}
