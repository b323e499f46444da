//! Tasks that failed for good, and who takes them up.

use std::sync::Arc;

use mesh_messages::escalation::{EscalationEnd, GivenUp};
use mesh_messages::inbox::{AnswerRole, InboxAnswer, InboxState};

use super::*;

fn world() -> World {
    let mut world = World::new();
    world.agent("junior", &["work"], &[1]);
    world
}

/// A task of one attempt, with these steps.
fn doomed(steps: &Value) -> Value {
    json!({
        "type": "work",
        "input": {"n": 1},
        "retry": {"maxAttempts": 1},
        "escalate": steps,
    })
}

fn asked_by(world: &World, id: &TaskId) -> TaskId {
    world.waits(id, TaskState::Blocked, WaitReason::Escalation);
    let latest = world.tasks.get(id).unwrap().escalation.clone().unwrap();
    assert_eq!(latest.end, None);
    assert_eq!(
        world.view(id).waiting_for.unwrap().tasks,
        std::slice::from_ref(&latest.task)
    );
    latest.task
}

fn answer(task: &TaskId, role: AnswerRole, text: Option<&str>) -> Command {
    Command::Approve {
        task: task.clone(),
        by: Answerer {
            name: "user:ada".to_owned(),
            role,
        },
        answer: InboxAnswer {
            approve: text.is_some(),
            answer: text.map(str::to_owned),
            comment: None,
        },
    }
}

fn say(world: &mut World, question: &TaskId, text: Option<&str>) -> Decision {
    world.run(answer(question, AnswerRole::Admin, text))
}

fn end_of(world: &World, id: &TaskId) -> (TaskState, Option<EscalationEnd>, Option<String>) {
    let task = world.tasks.get(id).unwrap();
    let latest = task.escalation.clone().unwrap();
    (task.state, latest.end, latest.by)
}

#[test]
fn after_the_last_attempt_a_person_is_asked_once_and_the_task_has_not_ended() {
    let mut world = world();
    let mut spec = doomed(&json!([{"person": "admin"}]));
    spec["retry"]["maxAttempts"] = json!(2);
    let id = world.submit(spec);
    world.fail(&id, FailureClass::Timeout);
    world.next();
    let decision = world.fail(&id, FailureClass::Timeout);
    let question = asked_by(&world, &id);
    assert_eq!(
        kinds(&decision),
        [
            format!("{id} task.attempt_failed"),
            format!("{id} task.escalation"),
            format!("{question} task.submitted"),
        ]
    );
    assert!(!decision.effects.contains(&Effect::TaskEnded(id.clone())));
    let item = world.tasks.record(&question).unwrap().inbox_item().unwrap();
    assert_eq!(
        (item.state, item.role, item.parent, item.asked_by.as_str()),
        (
            InboxState::Open,
            AnswerRole::Admin,
            Some(id.clone()),
            "user:test"
        )
    );
    assert_eq!(item.about["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(item.about["input"], json!({"n": 1}));
    assert_eq!(item.about["error"]["class"], "timeout");
    // An operator is not enough, and no word but these is an answer.
    let by_operator = answer(&question, AnswerRole::Operator, Some("retry"));
    assert_eq!(
        world.refused(by_operator),
        Refusal::NotEntitled(question.clone())
    );
    for text in ["again", "output:", "output:{"] {
        let refused = world.refused(answer(&question, AnswerRole::Admin, Some(text)));
        assert!(matches!(refused, Refusal::Unfit(_)), "{text}: {refused:?}");
    }
    let decision = say(&mut world, &question, Some("drop"));
    assert!(decision.effects.contains(&Effect::Escalate(id.clone())));
    let by = Some("user:ada".to_owned());
    assert_eq!(
        end_of(&world, &id),
        (TaskState::DeadLettered, Some(EscalationEnd::Dropped), by)
    );
    let error = world.tasks.get(&id).unwrap().error.clone().unwrap();
    assert!(error.message.contains("user:ada gave it up"), "{error}");
    world.refused(answer(&question, AnswerRole::Admin, Some("retry")));
}

#[test]
fn an_answer_gives_another_round_and_each_round_is_escalated_anew() {
    let mut world = world();
    let id = world.submit(doomed(&json!([{"person": "operator"}])));
    world.fail(&id, FailureClass::Timeout);
    let first = asked_by(&world, &id);
    say(&mut world, &first, Some("retry"));
    assert_eq!(world.state(&id), TaskState::Assigned);
    let latest = world.tasks.get(&id).unwrap().escalation.clone().unwrap();
    assert_eq!(latest.end, Some(EscalationEnd::Retried));
    world.fail(&id, FailureClass::Timeout);
    let second = asked_by(&world, &id);
    assert_ne!(first, second);
    say(&mut world, &second, Some("retry"));
    world.succeed(&id);
    assert_eq!(world.state(&id), TaskState::Succeeded);
}

#[test]
fn an_answer_can_be_the_output_and_those_that_depend_on_it_go_on() {
    let mut world = world();
    let mut spec = doomed(&json!([{"person": "operator"}]));
    spec["contract"] = json!({"outputSchema": {"type": "object", "required": ["sum"]}});
    let id = world.submit(spec);
    let next = world.submit(json!({"type": "work", "dependsOn": [id]}));
    world.fail(&id, FailureClass::Refusal);
    let question = asked_by(&world, &id);
    world.waits(&next, TaskState::Blocked, WaitReason::Dependency);
    let unfit = world.refused(answer(&question, AnswerRole::Admin, Some("output:{}")));
    assert!(unfit.to_string().contains("contract"), "{unfit}");
    let decision = say(&mut world, &question, Some(r#"output: {"sum": 3}"#));
    assert!(decision.effects.contains(&Effect::TaskEnded(id.clone())));
    assert_eq!(
        world.tasks.get(&id).unwrap().output,
        Some(json!({"sum": 3}))
    );
    let by = Some("user:ada".to_owned());
    assert_eq!(
        end_of(&world, &id),
        (TaskState::Succeeded, Some(EscalationEnd::Done), by)
    );
    assert_eq!(world.state(&next), TaskState::Assigned);
}

#[test]
fn a_named_agent_gets_what_failed_and_its_output_is_the_tasks() {
    let mut world = world();
    world.agent("senior", &["other"], &[1]);
    let id = world.submit(doomed(&json!([{"agent": "senior"}])));
    world.fail(&id, FailureClass::Timeout);
    let follow_up = asked_by(&world, &id);
    assert_eq!(world.agent_of(&follow_up), "senior");
    let spec = &world.tasks.get(&follow_up).unwrap().spec;
    assert_eq!(spec.action(), "escalation");
    assert_eq!(
        (&spec.escalates, &spec.parent),
        (&Some(id.clone()), &Some(id.clone()))
    );
    assert_eq!(spec.input["task"], json!(id));
    assert_eq!(spec.input["attempts"][0]["agentId"], "junior");
    world.succeed(&follow_up);
    let task = world.tasks.get(&id).unwrap();
    assert_eq!(task.output, Some(json!("done")));
    let by = Some("agent:senior".to_owned());
    assert_eq!(
        end_of(&world, &id),
        (TaskState::Succeeded, Some(EscalationEnd::Done), by)
    );
}

#[test]
fn steps_are_taken_in_turn_until_none_is_left() {
    let mut world = world();
    world.agent("senior", &["mend"], &[1]);
    let steps = json!([
        {"requirements": ["mend"]},
        {"person": "operator", "withinMs": 60_000},
        {"agent": "nobody", "withinMs": 1000},
    ]);
    let id = world.submit(doomed(&steps));
    world.fail(&id, FailureClass::Timeout);
    let follow_up = asked_by(&world, &id);
    world.fail(&follow_up, FailureClass::Refusal);
    let question = asked_by(&world, &id);
    assert_ne!(question, follow_up);
    world.pass(Duration::from_mins(1));
    assert_eq!(world.state(&question), TaskState::DeadLettered);
    let last = asked_by(&world, &id);
    world.waits(&last, TaskState::Parked, WaitReason::NoAgent);
    world.pass(Duration::from_secs(1));
    assert_eq!(
        end_of(&world, &id),
        (TaskState::DeadLettered, Some(EscalationEnd::Dropped), None)
    );
    let latest = world.tasks.get(&id).unwrap().escalation.clone().unwrap();
    assert_eq!((latest.step, latest.otherwise), (2, GivenUp::DeadLettered));
}

#[test]
fn a_deadline_is_escalated_too_and_the_step_has_its_own_time() {
    let mut world = world();
    let mut spec = doomed(&json!([{"person": "operator", "withinMs": 5000}]));
    spec["deadlineMs"] = json!(1000);
    let running = world.submit(spec.clone());
    let waiting = world.submit(spec);
    let decision = world.pass(Duration::from_secs(1));
    let questions = [asked_by(&world, &running), asked_by(&world, &waiting)];
    assert!(decision.effects.iter().any(|effect| matches!(
        effect,
        Effect::CancelAttempt { task, .. } if *task == running
    )));
    for question in &questions {
        let until = world.tasks.get(question).unwrap().deadline_at;
        assert_eq!(until, world.now.plus(Duration::from_secs(5)));
    }
    world.pass(Duration::from_secs(5));
    for (id, question) in [&running, &waiting].into_iter().zip(&questions) {
        assert_eq!(world.state(id), TaskState::DeadLettered);
        let item = world.tasks.record(question).unwrap().inbox_item().unwrap();
        assert_eq!(item.state, InboxState::Expired);
    }
}

#[test]
fn a_task_that_is_retried_or_cancelled_takes_its_question_back() {
    let mut world = world();
    let mut end = |command: fn(TaskId) -> Command| {
        let id = world.submit(doomed(&json!([{"person": "operator"}])));
        world.fail(&id, FailureClass::Timeout);
        let question = asked_by(&world, &id);
        world.run(command(id.clone()));
        let item = world.tasks.record(&question).unwrap().inbox_item().unwrap();
        assert_eq!(item.state, InboxState::Withdrawn);
        world.refused(answer(&question, AnswerRole::Admin, Some("retry")));
        let state = world.state(&id);
        if !state.is_terminal() {
            world.succeed(&id);
        }
        state
    };
    assert_eq!(end(|task| Command::Retry { task }), TaskState::Assigned);
    let cancelled = end(|task| Command::Cancel {
        task,
        reason: "no longer wanted".to_owned(),
    });
    assert_eq!(cancelled, TaskState::Cancelled);
}

#[test]
fn what_survives_a_restart_is_asked_once() {
    let mut world = world();
    let id = world.submit(doomed(&json!([{"person": "operator"}])));
    world.fail(&id, FailureClass::Timeout);
    let question = asked_by(&world, &id);
    world.tasks = world.tasks.rebuilt();
    world.live = Live::default();
    let decision = world.run(Command::Recover);
    assert_eq!(kinds(&decision), [""; 0]);
    assert_eq!(asked_by(&world, &id), question);
    world.run(answer(&question, AnswerRole::Operator, Some("output: 7")));
    assert_eq!(world.tasks.get(&id).unwrap().output, Some(json!(7)));
}

#[test]
fn the_operators_policy_names_who_takes_up_what_does_not_say_so_itself() {
    let policy = json!({
        "default": {"escalate": [{"person": "operator"}]},
        "agents": {"junior": {"escalate": [{"person": "admin"}]}},
    });
    let mut world = World::with(TaskConfig {
        policy: Arc::new(serde_json::from_value(policy).unwrap()),
        ..TaskConfig::default()
    });
    world.agent("junior", &["work"], &[3]);
    world.agent("other", &["else"], &[1]);
    let once = json!({"maxAttempts": 1});
    let role = |world: &World, id: &TaskId| {
        let question = asked_by(world, id);
        world.tasks.record(&question).unwrap().answer_role()
    };
    let by_junior = world.submit(json!({"type": "work", "retry": once}));
    world.fail(&by_junior, FailureClass::Timeout);
    assert_eq!(role(&world, &by_junior), AnswerRole::Admin);
    let by_other = world.submit(json!({"type": "else", "retry": once}));
    world.fail(&by_other, FailureClass::Timeout);
    assert_eq!(role(&world, &by_other), AnswerRole::Operator);
    // It may want nobody; and what is delegated is its parent's to mind.
    let nobody = world.submit(json!({"type": "work", "retry": once, "escalate": []}));
    world.fail(&nobody, FailureClass::Timeout);
    assert_eq!(world.state(&nobody), TaskState::DeadLettered);
    let parent = world.submit(json!({"type": "else"}));
    let child = world.submit(json!({"type": "work", "retry": once, "parent": parent}));
    world.fail(&child, FailureClass::Timeout);
    assert_eq!(world.state(&child), TaskState::DeadLettered);
}

#[test]
fn policy_says_who_may_be_asked_for_what_agents_delegate() {
    let policy = json!({"default": {"approvals": [{"action": "escalation", "decision": "deny"}]}});
    let mut world = World::with(TaskConfig {
        policy: Arc::new(serde_json::from_value(policy).unwrap()),
        ..TaskConfig::default()
    });
    world.agent("planner", &["plan"], &[1]);
    world.agent("junior", &["work"], &[1]);
    let parent = world.submit(json!({"type": "plan"}));
    let (attempt, key) = world.attempt(&parent);
    let asker = Asker {
        parent: attempt,
        key,
        request: "r".to_owned(),
    };
    let steps = json!([{"person": "operator"}, {"person": "admin"}]);
    let spec = Box::new(serde_json::from_value(doomed(&steps)).unwrap());
    let decision = world.run(Command::Delegate {
        asker,
        spec,
        envelope: None,
    });
    let Answer::Child(child) = decision.answer else {
        panic!("a child")
    };
    let decision = world.fail(&child, FailureClass::Timeout);
    assert_eq!(world.state(&child), TaskState::DeadLettered);
    let told = |effect: &Effect| matches!(effect, Effect::ChildEnded { .. });
    assert!(decision.effects.iter().any(told));
    // Nothing is asked to be denied at once.
    assert_eq!(kinds(&decision), [format!("{child} task.attempt_failed")]);
}

/// A task without a parent that an agent submits.
fn by_agent(world: &mut World, spec: Value) -> TaskId {
    let Command::Submit { tasks, .. } = world.submission(vec![spec]) else {
        panic!("a submission")
    };
    let by = "agent:planner".to_owned();
    let decision = world.run(Command::Submit { by, tasks });
    receipts(&decision)[0].id.clone()
}

#[test]
fn a_person_whom_policy_lets_nobody_ask_is_passed_over() {
    let policy = json!({"default": {"approvals": [{"action": "escalation", "decision": "deny"}]}});
    let mut world = World::with(TaskConfig {
        policy: Arc::new(serde_json::from_value(policy).unwrap()),
        ..TaskConfig::default()
    });
    world.agent("junior", &["work"], &[1]);
    world.agent("senior", &["mend"], &[1]);
    let steps = json!([{"person": "operator"}, {"person": "admin"}, {"agent": "senior"}]);
    let id = by_agent(&mut world, doomed(&steps));
    world.fail(&id, FailureClass::Timeout);
    let follow_up = asked_by(&world, &id);
    assert_eq!(world.agent_of(&follow_up), "senior");
    assert_eq!(world.view(&id).escalation.unwrap().step, 2);
}

#[test]
fn the_operators_own_step_says_who_may_answer_also_for_agents() {
    let policy = json!({"default": {"escalate": [{"person": "admin"}]}});
    let mut world = World::with(TaskConfig {
        policy: Arc::new(serde_json::from_value(policy).unwrap()),
        ..TaskConfig::default()
    });
    world.agent("junior", &["work"], &[2]);
    let mut role_of = |spec: Value| {
        let id = by_agent(&mut world, spec);
        world.fail(&id, FailureClass::Timeout);
        let question = asked_by(&world, &id);
        world.tasks.record(&question).unwrap().answer_role()
    };
    let once = json!({"maxAttempts": 1});
    assert_eq!(
        role_of(json!({"type": "work", "retry": once})),
        AnswerRole::Admin
    );
    // What an agent says itself does not count.
    assert_eq!(
        role_of(doomed(&json!([{"person": "admin"}]))),
        AnswerRole::Operator
    );
}

#[test]
fn what_a_task_delegated_ends_when_it_is_escalated() {
    let mut world = world();
    world.agent("planner", &["plan"], &[1]);
    let mut spec = doomed(&json!([{"person": "operator"}]));
    spec["type"] = json!("plan");
    let parent = world.submit(spec);
    let work = json!({"requirements": ["work"]});
    let running = delegation::delegate(&mut world, &parent, "r1", work.clone());
    let waiting = delegation::delegate(&mut world, &parent, "r2", work.clone());
    let decision = world.fail(&parent, FailureClass::Timeout);
    let question = asked_by(&world, &parent);
    for child in [&running, &waiting] {
        assert_eq!(world.state(child), TaskState::Cancelled);
    }
    assert!(decision.effects.iter().any(|effect| matches!(
        effect,
        Effect::CancelAttempt { task, .. } if *task == running
    )));
    assert_eq!(world.state(&question), TaskState::Blocked);
    say(&mut world, &question, Some("retry"));
    let again = delegation::delegate(&mut world, &parent, "r1", work);
    assert_ne!(again, running);
}

#[test]
fn a_follow_up_that_is_over_is_not_retried() {
    let mut world = world();
    world.agent("senior", &["mend"], &[1]);
    let id = world.submit(doomed(&json!([{"agent": "senior"}])));
    world.fail(&id, FailureClass::Timeout);
    let follow_up = asked_by(&world, &id);
    world.fail(&follow_up, FailureClass::Refusal);
    assert_eq!(world.state(&follow_up), TaskState::Failed);
    let refused = world.refused(Command::Retry { task: follow_up });
    let Refusal::NotRetryable { why, .. } = refused else {
        panic!("{refused:?}")
    };
    assert!(why.contains(id.as_str()), "{why}");
}

fn bytes_of(decision: &Decision) -> usize {
    let sizes = decision.events.iter();
    sizes
        .map(|(_, event)| serde_json::to_vec(event).unwrap().len())
        .sum()
}

#[test]
fn what_one_group_does_not_hold_waits_for_the_next() {
    let mut world = World::new();
    let mut spec = doomed(&json!([{"person": "operator"}]));
    spec["deadlineMs"] = json!(1000);
    spec["input"] = json!("x".repeat(15_000));
    let ids: Vec<_> = (0..2)
        .flat_map(|_| {
            let decision = world.submit_all(vec![spec.clone(); 120]);
            let ids = receipts(&decision).iter().map(|receipt| receipt.id.clone());
            ids.collect::<Vec<_>>()
        })
        .collect();
    let mut decision = world.pass(Duration::from_secs(1));
    assert!(decision.more);
    while decision.more {
        assert!(bytes_of(&decision) < 2 * 1024 * 1024);
        decision = world.pass(Duration::ZERO);
    }
    for id in &ids {
        asked_by(&world, id);
    }
}

#[test]
fn a_limit_of_the_task_holds_for_its_follow_up() {
    let mut world = world();
    world.agent("senior", &["mend"], &[1]);
    let mut spec = doomed(&json!([{"requirements": ["mend"]}, {"person": "operator"}]));
    spec["within"] = json!([{"requirements": ["work"]}]);
    let id = world.submit(spec);
    world.fail(&id, FailureClass::Timeout);
    // The agent is left out; a person may be asked.
    let question = asked_by(&world, &id);
    assert!(world.tasks.get(&question).unwrap().spec.approval.is_some());
}

#[test]
fn what_makes_no_sense_is_refused_by_its_field() {
    let mut world = world();
    for (spec, field) in [
        (doomed(&json!([{}])), "escalate[0]"),
        (
            doomed(&json!([{"agent": "a"}, {"requirements": ["a b"]}])),
            "escalate[1].requirements[0]",
        ),
        (json!({"type": "work", "escalates": "t"}), "escalates"),
        (
            json!({"approval": {"message": "?"}, "escalate": []}),
            "escalate",
        ),
    ] {
        let command = world.submission(vec![spec]);
        let Refusal::Invalid { errors } = world.refused(command) else {
            panic!("expected a field error")
        };
        assert_eq!(errors[0].path, field, "{errors:?}");
    }
}
