//! What is bounded, set aside, counted, and waited for.

use std::sync::Arc;

use mesh_messages::budget::{AccountBudget, Amounts, BudgetStep, BudgetView, Dimension, Usage};
use mesh_messages::inbox::{AnswerRole, InboxAnswer};
use mesh_messages::policy::PolicyDocument;

use super::*;

pub(super) fn account(budget: Value) -> AccountBudget {
    serde_json::from_value(budget).unwrap()
}

pub(super) fn answer(task: TaskId, text: &str, approve: bool) -> Command {
    Command::Approve {
        task,
        by: Answerer {
            name: "user:ada".to_owned(),
            role: AnswerRole::Admin,
        },
        answer: InboxAnswer {
            approve,
            answer: approve.then(|| text.to_owned()),
            comment: None,
        },
    }
}

impl World {
    /// Nothing is set aside that is not there, and nothing is given out by two.
    pub(super) fn check_reservation(&self, id: &TaskId, event: &TaskEvent) {
        let TaskEvent::Budget { step, .. } = event else {
            return;
        };
        let BudgetStep::Reserved { charges, .. } = &**step else {
            return;
        };
        let views = self.replayed.budget_views(&self.live, self.context(), None);
        for charge in charges {
            let view = views.iter().find(|view| view.account == charge.account);
            let Some(view) = view else { continue };
            for d in &charge.dimensions {
                if let Some(left) = view.left.get(*d) {
                    let asked = charge.amounts.get(*d);
                    // Beside the attempt of the one above it.
                    let parent = self.replayed.get(id).and_then(|t| t.spec.parent.as_ref());
                    if *d == Dimension::WallTimeMs && parent.is_some() {
                        continue;
                    }
                    // A first attempt restarts nothing.
                    let needs_none = *d == Dimension::Restarts && asked == 0;
                    assert!(
                        asked <= left && (left > 0 || needs_none),
                        "{id} takes {asked} {d} of {view:?}"
                    );
                }
            }
        }
        assert!(self.replayed.budgets().held(id).is_none(), "{id} has two");
    }

    fn budget(&self, account: &str) -> BudgetView {
        let views = self.tasks.budget_views(&self.live, self.context(), None);
        let found = views.iter().find(|view| view.account == account);
        found
            .unwrap_or_else(|| panic!("no {account} in {views:?}"))
            .clone()
    }

    fn used(&self, account: &str, d: Dimension) -> (u64, u64) {
        let view = self.budget(account);
        (view.used.get(d), view.reserved.get(d))
    }

    fn question(&self, account: &str) -> TaskId {
        self.budget(account).question.expect("a question")
    }

    fn told(&mut self, id: &TaskId, tokens: u64, last: bool) -> Decision {
        let (attempt, key) = self.attempt(id);
        let usage = Usage {
            tokens: Some(tokens),
            ..Usage::default()
        };
        self.run(Command::AttemptUsed {
            attempt,
            key,
            usage,
            last,
        })
    }

    fn child(&mut self, parent: &TaskId, request: &str, spec: Value) -> TaskId {
        let (attempt, key) = self.attempt(parent);
        let asker = Asker {
            parent: attempt,
            key,
            request: request.to_owned(),
        };
        let spec = Box::new(serde_json::from_value(spec).unwrap());
        match self
            .run(Command::Delegate {
                asker,
                spec,
                envelope: None,
            })
            .answer
        {
            Answer::Child(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn limited(&mut self, name: &str, slots: &[u32], budget: Value) {
        let mut agent = agent_view(FaultState::Running, &["x"], slots, Epoch(1));
        agent.limits = Some(account(budget));
        self.fleet(name, agent);
    }
}

fn world() -> World {
    let mut world = World::new();
    world.agent("a", &["x"], &[2]);
    world.agent("b", &["x", "y"], &[4]);
    world
}

fn flaky() -> Value {
    json!({"requirements": ["x"], "retry": {"maxAttempts": 50, "baseDelayMs": 1, "jitter": false}})
}

#[test]
fn a_task_makes_exactly_as_many_calls_as_it_has_and_then_asks() {
    let mut world = world();
    let mut spec = flaky();
    spec["budget"] = json!({"calls": 3});
    let id = world.submit(spec);
    let own = format!("task:{id}");
    for call in 0..3 {
        assert_eq!(world.used(&own, Dimension::Calls), (call, 1));
        world.fail(&id, FailureClass::Unavailable);
        assert_eq!(world.used(&own, Dimension::Calls), (call + 1, 0));
        world.next();
    }
    world.waits(&id, TaskState::Parked, WaitReason::Budget);
    let detail = world.view(&id).waiting_for.unwrap();
    assert!(detail.detail.contains("3 of 3 calls used"), "{detail:?}");
    let question = world.question(&own);
    assert_eq!(detail.tasks, std::slice::from_ref(&question));
    // Bad answers change nothing.
    for wrong in ["", "-1", "0", "many", "1.5"] {
        let refused = world.refused(answer(question.clone(), wrong, true));
        assert!(matches!(refused, Refusal::Unfit(_)), "{refused}");
    }
    let decision = world.run(answer(question.clone(), "2", true));
    assert_eq!(delivered(&decision), [format!("{id}#4")], "it goes on");
    assert_eq!(world.budget(&own).limits.calls, Some(5));
    let again = world.refused(answer(question, "2", true));
    assert!(matches!(again, Refusal::NotAsking { .. }), "{again}");
    world.succeed(&id);
    assert!(world.tasks.budgets().is_empty(), "nothing is left behind");
    let used = world.tasks.get(&id).unwrap().attempts[3].used.unwrap();
    assert_eq!((used.calls, used.attempts), (1, 1));
}

#[test]
fn who_will_not_raise_it_ends_the_task() {
    for (text, approve) in [("cancel", true), ("", false)] {
        let mut world = world();
        let mut spec = flaky();
        spec["budget"] = json!({"attempts": 1});
        let id = world.submit(spec);
        world.fail(&id, FailureClass::Unavailable);
        world.next();
        let question = world.question(&format!("task:{id}"));
        world.run(answer(question, text, approve));
        assert_eq!(world.state(&id), TaskState::Cancelled);
    }
}

#[test]
fn a_tree_shares_one_budget_and_a_childs_own_is_carved_from_it() {
    let mut world = world();
    let root = world.submit(json!({"requirements": ["y"], "budget": {"calls": 5}}));
    let own = format!("task:{root}");
    let first = world.child(&root, "r1", json!({"requirements": ["x"]}));
    assert_eq!(
        world.used(&own, Dimension::Calls),
        (0, 2),
        "both draw on it"
    );
    world.succeed(&first);
    assert_eq!(world.used(&own, Dimension::Calls), (1, 1));
    let second = world.child(
        &root,
        "r2",
        json!({"requirements": ["x"], "budget": {"calls": 2}}),
    );
    // One was used, one is the root's own, two are the child's.
    assert_eq!(world.used(&own, Dimension::Calls), (1, 3));
    assert_eq!(
        world.used(&format!("task:{second}"), Dimension::Calls),
        (0, 1)
    );
    let (attempt, key) = world.attempt(&root);
    let asker = Asker {
        parent: attempt,
        key,
        request: "r3".to_owned(),
    };
    let spec = json!({"requirements": ["x"], "budget": {"calls": 2}});
    let spec = Box::new(serde_json::from_value(spec).unwrap());
    match world.refused(Command::Delegate {
        asker,
        spec,
        envelope: None,
    }) {
        Refusal::Invalid { errors } => {
            assert_eq!(errors[0].path, "budget.calls");
            let text = errors[0].to_string();
            assert!(
                text.contains(&format!("asks for 2, and 1 is left of {own}")),
                "{text}"
            );
        }
        other => panic!("{other}"),
    }
    world.succeed(&second);
    // What the child did not use came back.
    assert_eq!(world.used(&own, Dimension::Calls), (2, 1));
    assert_eq!(world.budget(&own).left.calls, Some(2));
    world.succeed(&root);
    assert!(world.tasks.budgets().is_empty());
}

#[test]
fn what_a_child_is_given_is_given_to_all_above_it() {
    let mut world = world();
    let root = world.submit(json!({"requirements": ["y"], "budget": {"calls": 2}}));
    let mut spec = flaky();
    spec["budget"] = json!({"calls": 1});
    let child = world.child(&root, "r1", spec);
    world.fail(&child, FailureClass::Unavailable);
    world.next();
    world.waits(&child, TaskState::Parked, WaitReason::Budget);
    let question = world.question(&format!("task:{child}"));
    world.run(answer(question, "3", true));
    assert!(world.state(&child).is_in_flight());
    let own = world.budget(&format!("task:{root}"));
    assert_eq!((own.limits.calls, own.left.calls), (Some(5), Some(0)));
}

#[test]
fn an_agent_has_so_much_in_each_window_and_work_goes_on_when_it_is_over() {
    let mut world = World::new();
    world.limited("a", &[1], json!({"calls": 2, "perMs": 60_000}));
    let all: Vec<_> = (0..5)
        .map(|_| world.submit(json!({"requirements": ["x"]})))
        .collect();
    for id in &all[..2] {
        world.succeed(id);
    }
    for id in &all[2..] {
        world.waits(id, TaskState::Parked, WaitReason::Budget);
    }
    let question = world.question("agent:a");
    let asks = world.tasks.counts()[&TaskState::Blocked];
    assert_eq!(asks, 1, "one question for all");
    let role = world.tasks.record(&question).unwrap().answer_role();
    assert_eq!(role, AnswerRole::Admin, "an agent is everybody's");
    world.pass(Duration::from_secs(59));
    world.waits(&all[2], TaskState::Parked, WaitReason::Budget);
    world.next();
    assert!(world.state(&all[2]).is_in_flight(), "the window is over");
    assert_eq!(world.used("agent:a", Dimension::Calls), (0, 1));
    world.succeed(&all[2]);
    world.succeed(&all[3]);
    world.waits(&all[4], TaskState::Parked, WaitReason::Budget);
    let question = world.question("agent:a");
    world.run(answer(question, "1", true));
    world.succeed(&all[4]);
}

#[test]
fn another_agent_takes_what_one_has_no_budget_for() {
    let mut world = World::new();
    world.limited("a", &[1], json!({"calls": 1, "perMs": 60_000}));
    let first = world.submit(json!({"requirements": ["x"]}));
    world.succeed(&first);
    let second = world.submit(json!({"requirements": ["x"]}));
    world.waits(&second, TaskState::Parked, WaitReason::Budget);
    let question = world.question("agent:a");
    world.agent("b", &["x"], &[1]);
    assert_eq!(world.agent_of(&second), "b");
    assert_eq!(world.state(&question), TaskState::Cancelled, "nobody waits");
}

#[test]
fn a_task_that_is_short_holds_up_nobody_behind_it() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let mut spec = flaky();
    spec["budget"] = json!({"calls": 1});
    let poor = world.submit(spec);
    let other = world.submit(json!({"requirements": ["x"]}));
    world.fail(&poor, FailureClass::Unavailable);
    assert_eq!(world.agent_of(&other), "a");
    world.succeed(&other);
    world.next();
    world.waits(&poor, TaskState::Parked, WaitReason::Budget);
    let third = world.submit(json!({"requirements": ["x"]}));
    assert_eq!(world.agent_of(&third), "a");
}

#[test]
fn an_attempt_gets_no_more_wall_time_than_is_left_and_is_cut_off_by_it() {
    let mut world = world();
    let id = world.submit(json!({"requirements": ["x"], "budget": {"wallTimeMs": 5000}}));
    let own = format!("task:{id}");
    let key = world.attempt(&id).1;
    world.take_up(&key);
    world.pass(Duration::from_millis(4999));
    assert!(world.state(&id).is_in_flight());
    world.pass(Duration::from_millis(500));
    world.waits(&id, TaskState::Parked, WaitReason::Budget);
    assert_eq!(
        world.used(&own, Dimension::WallTimeMs),
        (5000, 0),
        "meshd's delay is meshd's"
    );
    let record = world.tasks.record(&id).unwrap();
    assert_eq!(record.used, 0, "it used up no attempt");
    assert_eq!(
        record.task.attempts[0].error.as_ref().unwrap().class,
        FailureClass::Quota
    );
    assert!(world.tasks.gates().is_empty(), "no provider is to blame");
    let question = world.question(&own);
    world.run(answer(question, "1000", true));
    assert!(world.state(&id).is_in_flight());
    world.pass(Duration::from_millis(300));
    world.succeed(&id);
}

#[test]
fn what_is_told_beyond_the_reservation_is_taken_from_what_is_left_and_cuts_off_where_nothing_is() {
    let mut world = world();
    let id = world.submit(
        json!({"requirements": ["x"], "budget": {"tokens": 100, "reserve": {"tokens": 40}}}),
    );
    let own = format!("task:{id}");
    assert_eq!(world.used(&own, Dimension::Tokens), (0, 40));
    world.told(&id, 90, false);
    assert_eq!(world.used(&own, Dimension::Tokens), (0, 90));
    // Less than before is not believed.
    let decision = world.told(&id, 10, false);
    assert!(decision.events.is_empty(), "{decision:?}");
    world.told(&id, 130, false);
    world.waits(&id, TaskState::Parked, WaitReason::Budget);
    assert_eq!(
        world.used(&own, Dimension::Tokens),
        (130, 0),
        "the overdraft is shown"
    );
    let question = world.question(&own);
    world.run(answer(question, "10", true));
    world.waits(&id, TaskState::Parked, WaitReason::Budget);
    let question = world.question(&own);
    world.run(answer(question, "60", true));
    assert!(world.state(&id).is_in_flight());
}

#[test]
fn a_result_that_tells_too_much_is_taken_and_everything_else_waits() {
    let mut world = world();
    let root = world.submit(json!({"requirements": ["y"], "budget": {"tokens": 100}}));
    let child = world.child(&root, "r1", json!({"requirements": ["x"]}));
    world.told(&child, 250, true);
    world.succeed(&child);
    assert_eq!(world.state(&child), TaskState::Succeeded);
    let own = world.budget(&format!("task:{root}"));
    assert_eq!((own.used.tokens, own.left.tokens), (250, Some(0)));
    let next = world.child(&root, "r2", json!({"requirements": ["x"]}));
    world.waits(&next, TaskState::Parked, WaitReason::Budget);
}

#[test]
fn who_tells_nothing_is_charged_what_was_set_aside_and_who_never_had_it_nothing() {
    let mut world = World::new();
    world.agent("a", &["x"], &[1]);
    let mut spec = flaky();
    spec["budget"] = json!({"tokens": 100, "calls": 9, "reserve": {"tokens": 40, "calls": 3}});
    let id = world.submit(spec);
    let own = format!("task:{id}");
    world.fail(&id, FailureClass::Unavailable);
    assert_eq!(world.used(&own, Dimension::Tokens), (40, 0));
    assert_eq!(world.used(&own, Dimension::Calls), (3, 0));
    world.next();
    // The instance ends before it has taken the task in hand.
    let key = world.attempt(&id).1;
    world.run(Command::InstanceDown {
        key,
        failure: Failure::new(FailureClass::Crash, "signal 9"),
    });
    assert_eq!(world.used(&own, Dimension::Tokens), (40, 0));
}

#[test]
fn a_restart_counts_what_was_under_way_once() {
    let mut world = world();
    let mut spec = flaky();
    spec["budget"] = json!({"calls": 3});
    let id = world.submit(spec);
    let own = format!("task:{id}");
    world.tasks = world.tasks.rebuilt();
    world.run(Command::Recover);
    assert_eq!(world.used(&own, Dimension::Calls), (1, 1));
    world.run(Command::Recover);
    world.next();
    let (attempt, key) = world.attempt(&id);
    world.succeed(&id);
    let late = world.refused(Command::AttemptEnded {
        attempt,
        key: Some(key),
        result: Ok(json!(1)),
    });
    assert!(matches!(late, Refusal::Stale(_)));
    let used: u64 = world
        .tasks
        .get(&id)
        .unwrap()
        .attempts
        .iter()
        .map(|a| a.used.unwrap().calls)
        .sum();
    assert_eq!(used, 3);
}

#[test]
fn teams_and_providers_are_bounded_by_policy_and_a_new_one_is_looked_at() {
    let with = |budget: Option<Value>| TaskConfig {
        policy: Arc::new(PolicyDocument {
            budgets: [("provider:acme".to_owned(), budget.map(account))].into(),
            ..PolicyDocument::default()
        }),
        ..TaskConfig::default()
    };
    let mut world = World::with(with(Some(json!({"money": "1", "perMs": 3_600_000}))));
    for name in ["a", "b"] {
        let mut agent = agent_view(FaultState::Running, &["x"], &[1], Epoch(1));
        agent.account = Some("acme".to_owned());
        agent.prices = [("x".to_owned(), "0.4".parse().unwrap())].into();
        world.fleet(name, agent);
    }
    let all: Vec<_> = (0..3)
        .map(|_| world.submit(json!({"requirements": ["x"]})))
        .collect();
    world.succeed(&all[0]);
    world.succeed(&all[1]);
    world.waits(&all[2], TaskState::Parked, WaitReason::Budget);
    let left = world.budget("provider:acme").left.money.unwrap();
    assert_eq!(left.to_string(), "0.2");
    world.config = with(None);
    world.run(Command::Tick);
    world.succeed(&all[2]);
}

#[test]
fn a_cancelled_tree_gives_back_all_that_it_held() {
    let mut world = World::new();
    world.limited("a", &[4], json!({"calls": 10, "perMs": 60_000}));
    let root = world.submit(json!({"requirements": ["x"], "budget": {"calls": 6}}));
    world.child(
        &root,
        "r1",
        json!({"requirements": ["x"], "budget": {"calls": 2}}),
    );
    world.run(Command::Cancel {
        task: root,
        reason: "enough".to_owned(),
    });
    let agent = world.budget("agent:a");
    assert_eq!((agent.used.calls, agent.reserved), (2, Amounts::default()));
    let only: Vec<_> = world.tasks.budget_views(&world.live, world.context(), None);
    assert_eq!(only.len(), 1, "{only:?}");
}

#[test]
fn a_parent_with_no_more_wall_time_than_its_timeout_has_its_children_beside_it() {
    let mut world = world();
    let root = world
        .submit(json!({"requirements": ["y"], "timeoutMs": 5000, "budget": {"wallTimeMs": 5000}}));
    let own = format!("task:{root}");
    assert_eq!(world.used(&own, Dimension::WallTimeMs), (0, 5000));
    let child = world.child(&root, "r1", json!({"requirements": ["x"]}));
    assert!(world.state(&child).is_in_flight(), "it is not held up");
    let carved = world.child(
        &root,
        "r2",
        json!({"requirements": ["x"], "budget": {"calls": 1}}),
    );
    world.waits(&carved, TaskState::Parked, WaitReason::Budget);
    world.succeed(&child);
    assert!(world.state(&carved).is_in_flight(), "one after the other");
    world.succeed(&carved);
    let bounded = world.child(
        &root,
        "r3",
        json!({"requirements": ["x"], "budget": {"wallTimeMs": 4000}}),
    );
    assert!(world.state(&bounded).is_in_flight());
    world.succeed(&bounded);
    world.succeed(&root);
    assert!(world.tasks.budgets().is_empty());
}

#[test]
fn wall_time_as_long_as_the_timeout_is_cut_off_as_spent() {
    let mut world = world();
    let id = world
        .submit(json!({"requirements": ["x"], "timeoutMs": 5000, "budget": {"wallTimeMs": 5000}}));
    let key = world.attempt(&id).1;
    world.take_up(&key);
    world.pass(Duration::from_secs(5));
    let record = world.tasks.record(&id).unwrap();
    let error = record.task.attempts[0].error.as_ref().unwrap();
    assert_eq!(error.class, FailureClass::Quota, "no timeout");
}

#[test]
fn who_submits_sets_aside_no_less_than_the_price_where_the_operator_bounds() {
    let mut world = World::with(TaskConfig {
        policy: Arc::new(PolicyDocument {
            budgets: [(
                "provider:acme".to_owned(),
                Some(account(json!({"money": "1", "perMs": 3_600_000}))),
            )]
            .into(),
            ..PolicyDocument::default()
        }),
        ..TaskConfig::default()
    });
    let mut agent = agent_view(FaultState::Running, &["x"], &[4], Epoch(1));
    agent.account = Some("acme".to_owned());
    agent.prices = [("x".to_owned(), "0.4".parse().unwrap())].into();
    world.fleet("a", agent);
    let all: Vec<_> = (0..3)
        .map(|_| {
            world.submit(json!({"requirements": ["x"],
                "budget": {"money": "5", "reserve": {"money": "0"}}}))
        })
        .collect();
    world.succeed(&all[0]);
    world.succeed(&all[1]);
    world.waits(&all[2], TaskState::Parked, WaitReason::Budget);
    let view = world.budget("provider:acme");
    assert_eq!(view.used.money.to_string(), "0.8");
}

#[test]
fn a_childs_reserve_is_never_less_than_that_above_it() {
    let mut world = world();
    let root = world.submit(json!({"requirements": ["y"],
        "budget": {"tokens": 100, "calls": 10, "reserve": {"tokens": 20, "calls": 2}}}));
    let own = format!("task:{root}");
    let child = world.child(
        &root,
        "r1",
        json!({"requirements": ["x"], "budget": {"tokens": 50, "reserve": {"tokens": 1}}}),
    );
    let held = world.used(&format!("task:{child}"), Dimension::Tokens);
    assert_eq!(held, (0, 20));
    assert_eq!(world.used(&own, Dimension::Calls), (0, 4));
    let (attempt, key) = world.attempt(&root);
    let asker = Asker {
        parent: attempt,
        key,
        request: "r2".to_owned(),
    };
    let spec = json!({"requirements": ["x"], "budget": {"tokens": 19}});
    let spec = Box::new(serde_json::from_value(spec).unwrap());
    match world.refused(Command::Delegate {
        asker,
        spec,
        envelope: None,
    }) {
        Refusal::Invalid { errors } => assert_eq!(errors[0].path, "budget.tokens"),
        other => panic!("{other}"),
    }
}

#[test]
fn while_somebody_waits_somebody_is_asked() {
    let mut world = World::new();
    world.limited("a", &[1], json!({"calls": 1, "perMs": 60_000}));
    let all: Vec<_> = (0..4)
        .map(|_| world.submit(json!({"requirements": ["x"]})))
        .collect();
    let view = world.budget("agent:a");
    assert_eq!(view.question, None, "nothing is used yet: {view:?}");
    world.succeed(&all[0]);
    let question = world.question("agent:a");
    world.run(answer(question, "1", true));
    world.succeed(&all[1]);
    // The raise was enough for the first in line alone.
    let question = world.question("agent:a");
    world.waits(&all[2], TaskState::Parked, WaitReason::Budget);
    // Somebody takes the question itself back.
    world.run(Command::Cancel {
        task: question.clone(),
        reason: "not mine".to_owned(),
    });
    let again = world.question("agent:a");
    assert_ne!(again, question);
    // Who leaves it as it is, is not asked again; the next window begins with as many as fit.
    world.run(answer(again, "cancel", true));
    assert_eq!(world.budget("agent:a").question, None);
    world.run(Command::Tick);
    assert_eq!(world.budget("agent:a").question, None);
    let decision = world.next();
    let moved = |id: &TaskId| decision.events.iter().any(|(of, _)| of == id);
    assert!(world.state(&all[2]).is_in_flight());
    assert!(!moved(&all[3]), "it was not touched: {decision:?}");
    world.succeed(&all[2]);
    assert!(world.budget("agent:a").question.is_some());
}

#[test]
fn a_task_that_may_not_begin_anew_waits_with_a_question_after_its_first_failure() {
    let mut world = world();
    let mut spec = flaky();
    spec["budget"] = json!({"restarts": 2});
    let id = world.submit(spec);
    let own = format!("task:{id}");
    assert_eq!(
        world.used(&own, Dimension::Restarts),
        (0, 0),
        "the first is none"
    );
    for restart in 0..2 {
        world.fail(&id, FailureClass::Unavailable);
        world.next();
        assert_eq!(world.used(&own, Dimension::Restarts), (restart, 1));
    }
    world.fail(&id, FailureClass::Unavailable);
    world.next();
    world.waits(&id, TaskState::Parked, WaitReason::Budget);
    let why = world.view(&id).waiting_for.unwrap().detail;
    assert!(why.contains("2 of 2 restarts used"), "{why}");
    let question = world.question(&own);
    let decision = world.run(answer(question, "1", true));
    assert_eq!(delivered(&decision), [format!("{id}#4")], "it goes on");
    world.succeed(&id);
    assert!(world.tasks.budgets().is_empty(), "nothing is left behind");
}

#[test]
fn what_no_agent_had_in_hand_and_what_met_a_limit_is_begun_anew_for_nothing() {
    let mut world = world();
    let mut spec = flaky();
    spec["budget"] = json!({"restarts": 1, "tokens": 10});
    let id = world.submit(spec);
    let own = format!("task:{id}");
    // Its instance ends before it took it in hand.
    let key = world.attempt(&id).1;
    let failure = Failure::new(FailureClass::Crash, "signal 9");
    world.run(Command::InstanceDown { key, failure });
    assert_eq!(world.used(&own, Dimension::Restarts), (0, 0));
    // It tells of more tokens than there are, and is cut off.
    world.told(&id, 11, false);
    world.waits(&id, TaskState::Parked, WaitReason::Budget);
    let question = world.question(&own);
    world.run(answer(question, "50", true));
    assert_eq!(world.used(&own, Dimension::Restarts), (0, 0));
    world.fail(&id, FailureClass::Unavailable);
    world.next();
    assert_eq!(world.used(&own, Dimension::Restarts), (0, 1));
}

#[test]
fn restarts_of_a_tree_are_counted_together() {
    let mut world = world();
    let root = world.submit(json!({"requirements": ["y"], "budget": {"restarts": 1}}));
    let own = format!("task:{root}");
    let first = world.child(&root, "r1", flaky());
    let second = world.child(&root, "r2", flaky());
    world.fail(&first, FailureClass::Unavailable);
    world.fail(&second, FailureClass::Unavailable);
    world.next();
    let states = [world.state(&first), world.state(&second)];
    assert!(states.contains(&TaskState::Parked), "{states:?}");
    assert_eq!(world.used(&own, Dimension::Restarts), (0, 1));
}

#[test]
fn an_agent_that_failed_too_often_gets_no_more_work_in_the_window_and_people_are_asked() {
    let mut world = World::new();
    world.limited("a", &[4], json!({"restarts": 2, "perMs": 60_000}));
    let view = world.live.fleet.agent(&agent_id("a")).unwrap().clone();
    let mut spec = flaky();
    spec["retry"]["maxAttempts"] = json!(9);
    for crash in 1..=2 {
        let id = world.submit(spec.clone());
        let key = world.attempt(&id).1;
        world.run(Command::AttemptEnded {
            attempt: world.attempt(&id).0,
            key: Some(key.clone()),
            result: Ok(json!(1)),
        });
        // Nothing is in hand: that an instance ends badly counts all the same, and that it was told to end does not.
        let failure = Failure::new(FailureClass::Lost, "its instance was stopped");
        let told = world.run(Command::InstanceDown {
            key: key.clone(),
            failure,
        });
        assert_eq!(told.accounts, []);
        let failure = Failure::new(FailureClass::Crash, "signal 9");
        let decision = world.run(Command::InstanceDown { key, failure });
        assert_eq!(decision.accounts.len(), 1, "one record");
        assert_eq!(world.used("agent:a", Dimension::Restarts), (crash, 0));
        world.fleet("a", view.clone());
    }
    let all: Vec<_> = (0..3).map(|_| world.submit(spec.clone())).collect();
    for id in &all {
        world.waits(id, TaskState::Parked, WaitReason::Budget);
    }
    let asks = world.tasks.counts()[&TaskState::Blocked];
    assert_eq!(asks, 1, "one question for all");
    // Whoever waits for restarts uses none: one more is enough for all of them.
    let question = world.question("agent:a");
    let decision = world.run(answer(question, "1", true));
    assert_eq!(delivered(&decision).len(), 3);
    let failure = Failure::new(FailureClass::Crash, "signal 9");
    let key = world.attempt(&all[0]).1;
    world.take_up(&key);
    world.run(Command::InstanceDown { key, failure });
    world.fleet("a", view);
    world.next();
    world.waits(&all[0], TaskState::Parked, WaitReason::Budget);
    while world.state(&all[0]) == TaskState::Parked {
        world.next();
    }
    assert_eq!(world.used("agent:a", Dimension::Restarts).0, 0, "anew");
}

#[test]
fn what_was_noted_stands_without_the_records_that_it_followed_from() {
    let mut world = World::new();
    world.limited("a", &[1], json!({"calls": 5, "perMs": 60_000}));
    for _ in 0..3 {
        let id = world.submit(json!({"requirements": ["x"]}));
        world.succeed(&id);
    }
    let notes = world.tasks.budgets().notes(world.now);
    assert_eq!(notes.len(), 1);
    let step = BudgetStep::Noted { accounts: notes };
    // As a replay finds it after the records of the tasks were erased.
    let (mut fresh, now) = (Tasks::default(), world.now);
    fresh.apply_account(now, &step);
    let views = fresh.budget_views(&world.live, world.context(), None);
    assert_eq!((views[0].used.calls, views[0].left.calls), (3, Some(2)));
    // And where they still stand it changes nothing.
    let before = world.tasks.budgets().clone();
    world.tasks.apply_account(now, &step);
    assert_eq!(&before, world.tasks.budgets());
    let over = now.plus(Duration::from_mins(2));
    assert_eq!(world.tasks.budgets().notes(over), [], "the window is over");
}

#[test]
fn an_agent_leaves_its_bounds_behind_neither_without_a_parent_nor_with_anothers() {
    let mut world = world();
    let plain = json!({"requirements": ["x"]});
    let submits = |world: &mut World, by: &str, spec: &Value| {
        let spec = serde_json::from_value(spec.clone()).unwrap();
        let id = TaskId::new(format!("own-{}", world.tasks.ids().count())).unwrap();
        let task = NewTask {
            id,
            fresh: true,
            envelope: None,
            spec,
        };
        let by = by.to_owned();
        let tasks = vec![task];
        match world.decide(Command::Submit { by, tasks }) {
            Ok(_) => None,
            Err(Refusal::Invalid { errors }) => Some(errors[0].to_string()),
            Err(other) => panic!("{other}"),
        }
    };
    // With nothing in hand that is bounded it submits as it likes.
    assert_eq!(submits(&mut world, "agent:b", &plain), None);
    let own = format!("own-{}", world.tasks.ids().count());
    let kept = json!({"requirements": ["nobody"]});
    assert_eq!(submits(&mut world, "agent:b", &kept), None);
    let below_own = json!({"requirements": ["x"], "parent": own});
    assert_eq!(submits(&mut world, "agent:b", &below_own), None);
    let bounded = world.submit(json!({"requirements": ["y"], "budget": {"calls": 5}}));
    assert_eq!(world.agent_of(&bounded), "b");
    let refused = submits(&mut world, "agent:b", &plain).expect("refused");
    assert!(refused.contains("name the task"), "{refused}");
    // Nor by a parent of its own, submitted while nothing bounded it.
    let refused = submits(&mut world, "agent:b", &below_own).expect("refused");
    assert!(refused.contains("name the task"), "{refused}");
    let mut child = plain.clone();
    child["parent"] = json!(bounded.as_str());
    let below = format!("own-{}", world.tasks.ids().count());
    assert_eq!(submits(&mut world, "agent:b", &child), None);
    // Below what it has in hand it may go on.
    let further = json!({"requirements": ["x"], "parent": below});
    assert_eq!(submits(&mut world, "agent:b", &further), None);
    let refused = submits(&mut world, "agent:a", &child).expect("refused");
    assert!(refused.contains("neither has task"), "{refused}");
    assert_eq!(submits(&mut world, "agent:a", &plain), None);
    assert_eq!(submits(&mut world, "user:ada", &child), None);
}

#[test]
fn a_budget_is_looked_at_where_a_slot_is_free() {
    let mut world = World::new();
    world.limited("a", &[1], json!({"calls": 1, "perMs": 60_000}));
    world.agent("b", &["x", "y"], &[1]);
    let first = world.submit(json!({"requirements": ["x"]}));
    assert_eq!(world.agent_of(&first), "a");
    world.submit(json!({"requirements": ["y"]}));
    // Both are busy, and one of them has nothing left, either.
    let third = world.submit(json!({"requirements": ["x"]}));
    let why = world.tasks.explain(&world.live, world.context(), &third);
    let reasons: Vec<_> = why.unwrap().candidates.into_iter().collect();
    let reasons: Vec<_> = reasons.iter().map(|one| one.reasons.join("; ")).collect();
    assert_eq!(reasons, ["all of its 1 slots are taken"; 2]);
}
