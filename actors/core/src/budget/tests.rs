//! The ledger alone: whatever is reserved, told, settled, raised and closed in whatever order, the sums agree.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

const TASKS: [&str; 4] = ["t0", "t1", "t2", "t3"];

#[derive(Debug, Clone)]
enum Step {
    Reserve(usize, u64),
    Told(usize, u64),
    Settle(usize, u64),
    SettleAgain(usize),
    Raise(usize, u64),
    Close(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let task = 0..TASKS.len();
    prop_oneof![
        6 => (task.clone(), 1..6_u64).prop_map(|(t, n)| Step::Reserve(t, n)),
        2 => (task.clone(), 0..12_u64).prop_map(|(t, n)| Step::Told(t, n)),
        5 => (task.clone(), 0..6_u64).prop_map(|(t, n)| Step::Settle(t, n)),
        1 => task.clone().prop_map(Step::SettleAgain),
        1 => (task.clone(), 1..5_u64).prop_map(|(t, n)| Step::Raise(t, n)),
        1 => task.prop_map(Step::Close),
        1 => (1..2000_u64).prop_map(Step::Pass),
    ]
}

fn id(index: usize) -> TaskId {
    TaskId::new(TASKS[index]).unwrap()
}

fn name(index: usize) -> String {
    task_account(&id(index))
}

/// A tree: t0 with 20 calls, below it t1 with 8 and t2 without a bound of calls, below t2 t3 with 5.
fn tree() -> Ledger {
    let mut ledger = Ledger::default();
    let budget = |text: serde_json::Value| serde_json::from_value::<TaskBudget>(text).unwrap();
    let calls = |n: u64| budget(json!({ "calls": n }));
    ledger.open(&id(0), &calls(20), None);
    ledger.open(&id(1), &calls(8), Some(&name(0)));
    ledger.open(&id(2), &budget(json!({"attempts": 100})), Some(&name(0)));
    ledger.open(&id(3), &calls(5), Some(&name(2)));
    ledger
}

fn terms() -> [Terms; 1] {
    [Terms {
        account: "agent:a".to_owned(),
        limits: Limits {
            calls: Some(15),
            ..Limits::default()
        },
        per_ms: 1000,
    }]
}

struct Run {
    ledger: Ledger,
    now: Timestamp,
    attempt: u64,
    told: bool,
}

impl Run {
    fn apply(&mut self, task: usize, step: &BudgetStep) {
        self.ledger.apply(&id(task), self.now, step);
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Reserve(task, calls) => {
                if self.ledger.held(&id(task)).is_some() || !self.ledger.has(&name(task)) {
                    return;
                }
                let need = Amounts {
                    calls,
                    attempts: 1,
                    ..Amounts::default()
                };
                let seeker = Seeker {
                    nearest: Some(name(task)),
                    ..Seeker::default()
                };
                let (charges, _) = self.ledger.charges(&seeker, &terms(), &need, self.now);
                let short = self.ledger.short(&charges, &terms(), &[], self.now);
                if short.is_some() {
                    return;
                }
                self.attempt += 1;
                let attempt = AttemptNo(u32::try_from(self.attempt).unwrap());
                let step = BudgetStep::Reserved {
                    attempt,
                    charges,
                    wall_time_ms: None,
                };
                self.apply(task, &step);
            }
            Step::Told(task, calls) => {
                let Some((attempt, _)) = self.ledger.held(&id(task)) else {
                    return;
                };
                self.told |= calls > self.ledger.reserved_for(&id(task)).calls;
                let usage = Usage {
                    calls: Some(calls),
                    ..Usage::default()
                };
                self.apply(task, &BudgetStep::Told { attempt, usage });
            }
            Step::Settle(task, calls) => {
                let Some((attempt, told)) = self.ledger.held(&id(task)) else {
                    return;
                };
                let reserved = self.ledger.reserved_for(&id(task)).calls;
                let used = Amounts {
                    calls: told.calls.unwrap_or(calls.min(reserved)),
                    attempts: 1,
                    ..Amounts::default()
                };
                self.apply(task, &BudgetStep::Settled { attempt, used });
            }
            Step::SettleAgain(task) => {
                let before = self.ledger.clone();
                let attempt = AttemptNo(u32::MAX);
                let used = Amounts {
                    calls: 1000,
                    ..Amounts::default()
                };
                self.apply(task, &BudgetStep::Settled { attempt, used });
                assert_eq!(before, self.ledger, "nothing is counted twice");
            }
            Step::Raise(task, by) => {
                let step = BudgetStep::Raised {
                    account: name(task),
                    dimension: Dimension::Calls,
                    by,
                    who: "ada".to_owned(),
                    per_ms: None,
                };
                self.apply(task, &step);
            }
            // What has an attempt under way is settled before it is closed.
            Step::Close(task) if self.ledger.held(&id(task)).is_some() => {}
            Step::Close(task) => self.ledger.close(&id(task)),
            Step::Pass(ms) => self.now = self.now.plus(Duration::from_millis(ms)),
        }
    }

    fn check(&self) {
        let text = serde_json::to_string(&self.ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), self.ledger);
        for (name, account) in &self.ledger.accounts {
            let each = account.held.iter().map(|(_, amounts)| amounts);
            let each = each.chain(account.carved.iter().map(|(_, amounts)| amounts));
            let sum = each.map(|amounts| amounts.calls).sum::<u64>();
            assert_eq!(account.reserved().calls, sum, "{name}: {account:?}");
            let Some(limit) = account.limits.get(Dimension::Calls) else {
                continue;
            };
            let (used, reserved) = (account.used.calls, account.reserved().calls);
            if !self.told {
                assert!(used + reserved <= limit, "{name}: {account:?}");
            }
            let left = self
                .ledger
                .left(name, None, (Dimension::Calls, &[]), self.now);
            assert_eq!(left, Some(limit.saturating_sub(used + reserved)));
        }
    }
}

proptest! {
    #[test]
    fn sums_agree_in_every_order(steps in prop::collection::vec(step(), 1..80)) {
        let mut run = Run {
            ledger: tree(),
            now: Timestamp::from_millis(1_000_000),
            attempt: 0,
            told: false,
        };
        for step in &steps {
            run.take(step);
            run.check();
        }
        // When all is over, nothing of the tree is left.
        for task in [3, 2, 1, 0] {
            run.take(&Step::Settle(task, 1));
        }
        for task in 0..TASKS.len() {
            run.take(&Step::Close(task));
        }
        prop_assert!(!run.ledger.accounts.keys().any(|name| name.starts_with("task:")));
    }
}
