//! What a role may do.
//!
//! | | viewer | operator | admin | agent | publisher |
//! |---|---|---|---|---|---|
//! | `read` | ✓ | ✓ | ✓ | | ✓ |
//! | `task.submit` | | ✓ | ✓ | ✓ | |
//! | `task.control` | | ✓ | ✓ | | |
//! | `inbox.answer` | | ✓ | ✓ | | |
//! | `message.send` | | ✓ | ✓ | ✓ | |
//! | `message.receive` | | ✓ | ✓ | ✓ | |
//! | `bus.control` | | ✓ | ✓ | | |
//! | `agent.register` | | | ✓ | | ✓ |
//! | `agent.control` | | ✓ | ✓ | | |
//! | `agent.govern` | | | ✓ | | |
//! | `memory` | | | ✓ | | |
//! | `tokens` | | | ✓ | | |
//! | `keys` | | | ✓ | | |
//! | `secrets` | | | ✓ | | |
//! | `services` | | | ✓ | | |
//! | `service.call` | | ✓ | ✓ | | |
//! | `chaos` | | | ✓ | | |
//! | `policy` | | | ✓ | | |
//! | `governance` | | | ✓ | | |
//! | `erase` | | | ✓ | | |
//! | `backup` | | | ✓ | | |
//!
//! - An **agent** does not read: what the mesh shows is other people's tasks. What it asked for, it is answered.
//! - **Memory** is an admin's: it holds what others told the agent, and writing it steers the agent unseen. Agents reach
//!   their own over their channel, where the manifest's rules hold.
//! - An **operator** runs what is deployed; what changes *which* code runs, or undoes isolation, is an admin's.
//!   That holds for the commands of acceptance checks, too, which run in the sandbox of the agent that does the work.
//! - A **publisher** brings code in and sees what became of it; whether it runs is for others.
//!
//! Rules of the operator's policy give and take beside that; see `mesh_actors_core::access`.
//!
//! Beyond its role, the owner of a thing may make less of it: who registered an agent may stop, restart, pause,
//! terminate and remove it as publisher or operator, and an agent may cancel the tasks that it submitted on its own. A
//! viewer's token stays a viewer's, whoever has it. What others did to a thing, its owner does not undo.

use mesh_messages::system::Role;

use crate::operations::Action;

/// Whether the role includes the action.
#[must_use]
pub const fn permits(role: Role, action: Action) -> bool {
    use Role::{Admin, Agent, Operator, Publisher, Viewer};
    match action {
        Action::Read => matches!(role, Viewer | Operator | Admin | Publisher),
        Action::TaskSubmit | Action::MessageSend | Action::MessageReceive => {
            matches!(role, Operator | Admin | Agent)
        }
        Action::TaskControl
        | Action::InboxAnswer
        | Action::BusControl
        | Action::AgentControl
        | Action::ServiceCall => {
            matches!(role, Operator | Admin)
        }
        Action::AgentRegister => matches!(role, Admin | Publisher),
        Action::AgentGovern
        | Action::Memory
        | Action::Tokens
        | Action::Keys
        | Action::Secrets
        | Action::Services
        | Action::Policy
        | Action::Chaos
        | Action::Governance
        | Action::Erase
        | Action::Backup => {
            matches!(role, Admin)
        }
    }
}

/// What may be done to a thing by its owner, although the owner's role does not include it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnersAct {
    /// Stop one's agent.
    Stop,
    /// Restart it, while it is to run.
    Restart,
    /// Give it no work.
    Pause,
    /// End it for good.
    Terminate,
    /// Remove it.
    Remove,
    /// Cancel a task that one submitted.
    CancelTask,
}

/// Whether an owner of this role may do this.
#[must_use]
pub const fn owner_permits(role: Role, act: OwnersAct) -> bool {
    match act {
        OwnersAct::Stop
        | OwnersAct::Restart
        | OwnersAct::Pause
        | OwnersAct::Terminate
        | OwnersAct::Remove => matches!(role, Role::Operator | Role::Admin | Role::Publisher),
        OwnersAct::CancelTask => matches!(role, Role::Operator | Role::Admin | Role::Agent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 5] = [
        Role::Viewer,
        Role::Operator,
        Role::Admin,
        Role::Agent,
        Role::Publisher,
    ];

    /// One row an action, one column a role, in the order of [`ROLES`].
    const TABLE: [(Action, [bool; 5]); 21] = [
        (Action::Read, [true, true, true, false, true]),
        (Action::TaskSubmit, [false, true, true, true, false]),
        (Action::TaskControl, [false, true, true, false, false]),
        (Action::InboxAnswer, [false, true, true, false, false]),
        (Action::MessageSend, [false, true, true, true, false]),
        (Action::MessageReceive, [false, true, true, true, false]),
        (Action::BusControl, [false, true, true, false, false]),
        (Action::AgentRegister, [false, false, true, false, true]),
        (Action::AgentControl, [false, true, true, false, false]),
        (Action::AgentGovern, [false, false, true, false, false]),
        (Action::Memory, [false, false, true, false, false]),
        (Action::Tokens, [false, false, true, false, false]),
        (Action::Keys, [false, false, true, false, false]),
        (Action::Chaos, [false, false, true, false, false]),
        (Action::Secrets, [false, false, true, false, false]),
        (Action::Services, [false, false, true, false, false]),
        (Action::ServiceCall, [false, true, true, false, false]),
        (Action::Policy, [false, false, true, false, false]),
        (Action::Governance, [false, false, true, false, false]),
        (Action::Erase, [false, false, true, false, false]),
        (Action::Backup, [false, false, true, false, false]),
    ];

    #[test]
    fn every_role_may_do_exactly_what_the_table_says() {
        for (action, row) in TABLE {
            for (role, allowed) in ROLES.into_iter().zip(row) {
                assert_eq!(
                    permits(role, action),
                    allowed,
                    "{} {}",
                    role.name(),
                    action.name()
                );
            }
        }
    }

    #[test]
    fn rules_can_name_every_action() {
        for (action, _) in TABLE {
            let verb = mesh_messages::access::AccessVerb::named(action.name());
            assert!(verb.is_some(), "{}", action.name());
        }
    }

    #[test]
    fn ownership_adds_nothing_to_a_role_that_only_looks() {
        use OwnersAct::{CancelTask, Pause, Remove, Restart, Stop, Terminate};
        for act in [Stop, Restart, Pause, Terminate, Remove] {
            let who = ROLES.map(|role| owner_permits(role, act));
            assert_eq!(who, [false, true, true, false, true], "{act:?}");
        }
        let who = ROLES.map(|role| owner_permits(role, CancelTask));
        assert_eq!(who, [false, true, true, true, false]);
    }

    #[test]
    fn the_documentation_shows_the_same_table() {
        let text = include_str!("matrix.rs");
        for (action, row) in TABLE {
            let marks: Vec<&str> = row
                .iter()
                .map(|ok| if *ok { " ✓ |" } else { " |" })
                .collect();
            let line = format!("//! | `{}` |{}", action.name(), marks.concat());
            assert!(text.lines().any(|l| l == line), "missing: {line}");
        }
    }
}
