//! What roles permit or refuse.

/// Something that a role permits or not. Each operation that changes or shows anything names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// See anything that is not a secret.
    Read,
    /// Submit tasks.
    TaskSubmit,
    /// Cancel, retry tasks; report outcomes.
    TaskControl,
    /// Answer what people are asked.
    InboxAnswer,
    /// Send messages.
    MessageSend,
    /// Have durable subscriptions of one's own, and take what they hold.
    MessageReceive,
    /// Put dead letters back, or give them up.
    BusControl,
    /// Register agents and versions.
    AgentRegister,
    /// Start, stop, restart, pause, resume, scale.
    AgentControl,
    /// Quarantine, recover, terminate, remove, upgrade, roll back.
    AgentGovern,
    /// Read and write agents' memory.
    Memory,
    /// Issue, list and revoke tokens.
    Tokens,
    /// Register and revoke keys.
    Keys,
    /// Set, list and delete secrets.
    Secrets,
    /// Register, change and remove services.
    Services,
    /// Call and check services.
    ServiceCall,
    /// Hurt agents and parts on purpose.
    Chaos,
    /// Change thresholds and limits.
    Policy,
    /// Hand in what admins signed. Their signatures count, not who brings them.
    Governance,
    /// Erase content of tasks and messages for ever.
    Erase,
    /// Take everything there is, secrets of agents included.
    Backup,
}

impl Action {
    /// The name in the audit, such as `task.submit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::TaskSubmit => "task.submit",
            Self::TaskControl => "task.control",
            Self::InboxAnswer => "inbox.answer",
            Self::MessageSend => "message.send",
            Self::MessageReceive => "message.receive",
            Self::BusControl => "bus.control",
            Self::AgentRegister => "agent.register",
            Self::AgentControl => "agent.control",
            Self::AgentGovern => "agent.govern",
            Self::Memory => "memory",
            Self::Tokens => "tokens",
            Self::Keys => "keys",
            Self::Secrets => "secrets",
            Self::Services => "services",
            Self::ServiceCall => "service.call",
            Self::Chaos => "chaos",
            Self::Policy => "policy",
            Self::Governance => "governance",
            Self::Erase => "erase",
            Self::Backup => "backup",
        }
    }
}
