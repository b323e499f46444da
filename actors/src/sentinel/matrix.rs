//! What a role may do.
//!
//! | | viewer | operator | admin | agent | publisher |
//! |---|---|---|---|---|---|
//! | `read` | ✓ | ✓ | ✓ | | ✓ |
//! | `task.submit` | | ✓ | ✓ | ✓ | |
//! | `task.control` | | ✓ | ✓ | | |
//! | `inbox.answer` | | ✓ | ✓ | | |
//! | `message.send` | | ✓ | ✓ | ✓ | |
//! | `agent.register` | | | ✓ | | ✓ |
//! | `agent.control` | | ✓ | ✓ | | |
//! | `agent.govern` | | | ✓ | | |
//! | `memory` | | | ✓ | | |
//! | `tokens` | | | ✓ | | |
//! | `keys` | | | ✓ | | |
//! | `secrets` | | | ✓ | | |
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

use mesh_messages::system::Role;

use crate::operations::Action;

/// Whether the role includes the action.
#[must_use]
pub const fn permits(role: Role, action: Action) -> bool {
    use Role::{Admin, Agent, Operator, Publisher, Viewer};
    match action {
        Action::Read => matches!(role, Viewer | Operator | Admin | Publisher),
        Action::TaskSubmit | Action::MessageSend => matches!(role, Operator | Admin | Agent),
        Action::TaskControl | Action::InboxAnswer | Action::AgentControl => {
            matches!(role, Operator | Admin)
        }
        Action::AgentRegister => matches!(role, Admin | Publisher),
        Action::AgentGovern
        | Action::Memory
        | Action::Tokens
        | Action::Keys
        | Action::Secrets
        | Action::Policy
        | Action::Chaos
        | Action::Governance
        | Action::Erase
        | Action::Backup => {
            matches!(role, Admin)
        }
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
    const TABLE: [(Action, [bool; 5]); 17] = [
        (Action::Read, [true, true, true, false, true]),
        (Action::TaskSubmit, [false, true, true, true, false]),
        (Action::TaskControl, [false, true, true, false, false]),
        (Action::InboxAnswer, [false, true, true, false, false]),
        (Action::MessageSend, [false, true, true, true, false]),
        (Action::AgentRegister, [false, false, true, false, true]),
        (Action::AgentControl, [false, true, true, false, false]),
        (Action::AgentGovern, [false, false, true, false, false]),
        (Action::Memory, [false, false, true, false, false]),
        (Action::Tokens, [false, false, true, false, false]),
        (Action::Keys, [false, false, true, false, false]),
        (Action::Chaos, [false, false, true, false, false]),
        (Action::Secrets, [false, false, true, false, false]),
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
