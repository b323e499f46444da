//! The one entrance to the machine.

use super::command::{Command, Context, Decision, Live, Refusal};
use super::state::Tasks;
use super::tx::Tx;
use super::{attempt, budgets, claims, control, gates, split, standing, submit};

impl Tasks {
    /// Decides on a command, and applies the events that follow from it.
    ///
    /// The state that results is the one that replaying the events gives. `live` changes along with it.
    ///
    /// # Errors
    /// [`Refusal`]; then neither the state nor `live` has changed.
    pub fn decide(
        &mut self,
        live: &mut Live,
        command: Command,
        ctx: Context<'_>,
    ) -> Result<Decision, Refusal> {
        let mut tx = Tx::new(self, live, ctx);
        let answer = match command {
            Command::Submit { by, tasks } => submit::submit(&mut tx, &by, tasks)?,
            Command::Delegate {
                asker,
                spec,
                envelope,
            } => submit::delegate(&mut tx, asker, (*spec, envelope))?,
            Command::AttemptStarted { attempt, key } => attempt::started(&mut tx, attempt, &key)?,
            Command::Claim { asker, op } => claims::claim(&mut tx, asker, &op)?,
            Command::AttemptChecking {
                attempt,
                key,
                checks,
            } => attempt::checking(&mut tx, attempt, &key, checks),
            Command::AttemptChecked {
                attempt,
                key,
                checks,
            } => attempt::checked(&mut tx, attempt, &key, checks),
            Command::AttemptUsed {
                attempt,
                key,
                usage,
                last,
            } => budgets::told(&mut tx, &attempt, &key, usage, last),
            Command::AttemptEnded {
                attempt,
                key,
                result,
            } => attempt::ended(&mut tx, attempt, key.as_ref(), result)?,
            Command::InstanceDown { key, failure } => {
                attempt::instance_down(&mut tx, &key, &failure)
            }
            Command::Cancel { task, reason } => control::cancel(&mut tx, &task, reason)?,
            Command::Retry { task } => control::retry(&mut tx, &task)?,
            Command::Split { task, by, parts } => split::split(&mut tx, &by, &task, parts)?,
            Command::Approve { task, by, answer } => control::approve(&mut tx, &task, by, answer)?,
            Command::ResetTrust { agent, by, reset } => {
                standing::reset(&mut tx, &agent, &by, &reset)?
            }
            Command::TryGate { account } => gates::try_now(&mut tx, account)?,
            Command::Tick => control::tick(&mut tx),
            Command::Fleet(change) => control::fleet(&mut tx, change),
            Command::News(news) => control::news(&mut tx, news),
            Command::Recover => control::recover(&mut tx),
            Command::Reconcile { agent, present } => control::reconcile(
                &mut tx,
                agent.as_ref(),
                &present,
                "no agent has it any more",
            ),
        };
        Ok(tx.finish(answer))
    }
}
