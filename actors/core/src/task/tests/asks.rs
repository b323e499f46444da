//! Tasks that ask a person.

use std::sync::Arc;

use mesh_messages::inbox::{AnswerRole, InboxAnswer, InboxState};

use super::*;

fn world(policy: Value) -> (World, TaskId) {
    let mut world = World::with(TaskConfig {
        allow_cross_agent: false,
        policy: Arc::new(serde_json::from_value(policy).unwrap()),
        ..TaskConfig::default()
    });
    world.agent("planner", &["plan"], &[1]);
    let parent = world.submit(json!({"type": "plan"}));
    (world, parent)
}

fn ask(world: &World, parent: &TaskId, request: &str, approval: Value) -> Command {
    let (attempt, key) = world.attempt(parent);
    let asker = Asker {
        parent: attempt,
        key,
        request: request.to_owned(),
    };
    let spec = serde_json::from_value(json!({"approval": approval})).unwrap();
    Command::Delegate {
        envelope: None,
        asker,
        spec: Box::new(spec),
    }
}

fn asked(world: &mut World, parent: &TaskId, approval: Value) -> (TaskId, Decision) {
    let command = ask(world, parent, "q", approval);
    let decision = world.run(command);
    match &decision.answer {
        Answer::Child(id) => (id.clone(), decision),
        other => panic!("expected a child, got {other:?}"),
    }
}

fn answer(task: &TaskId, role: AnswerRole, approve: bool) -> Command {
    Command::Approve {
        task: task.clone(),
        by: Answerer {
            name: "user:ada".to_owned(),
            role,
        },
        answer: InboxAnswer {
            approve,
            answer: None,
            comment: None,
        },
    }
}

fn told(decision: &Decision) -> Vec<TaskState> {
    let ends = decision.effects.iter().filter_map(|effect| match effect {
        Effect::ChildEnded { child, .. } => Some(child.state),
        _ => None,
    });
    ends.collect()
}

#[test]
fn an_agent_that_may_not_delegate_may_still_ask_and_the_first_answer_is_the_only_one() {
    let (mut world, parent) = world(json!({}));
    let (id, decision) = asked(&mut world, &parent, json!({"message": "go on?"}));
    assert_eq!(told(&decision), []);
    let item = world.tasks.record(&id).unwrap().inbox_item().unwrap();
    assert_eq!(
        (item.state, item.asked_by.as_str()),
        (InboxState::Open, "agent:planner")
    );
    let decision = world.run(answer(&id, AnswerRole::Operator, true));
    assert_eq!(told(&decision), [TaskState::Succeeded]);
    for approve in [true, false] {
        let refused = world.refused(answer(&id, AnswerRole::Admin, approve));
        assert!(matches!(refused, Refusal::NotAsking { .. }), "{refused}");
    }
    let (again, decision) = asked(&mut world, &parent, json!({"message": "go on?"}));
    assert_eq!((again, told(&decision)), (id, vec![TaskState::Succeeded]));
}

#[test]
fn what_policy_answers_is_answered_in_the_same_decision() {
    for (ruled, state) in [("allow", TaskState::Succeeded), ("deny", TaskState::Failed)] {
        let rules = json!([{"action": "file.*", "decision": ruled}]);
        let (mut world, parent) = world(json!({"default": {"approvals": rules}}));
        let permission = json!({"kind": "permission", "permission": {"action": "file.read"}});
        let (id, decision) = asked(&mut world, &parent, permission);
        assert_eq!(told(&decision), [state]);
        let item = world.tasks.record(&id).unwrap().inbox_item().unwrap();
        assert_eq!(item.answered.unwrap().by, POLICY);
        assert_eq!(item.rule.as_deref(), Some("default.approvals[0]"));
    }
}

#[test]
fn a_later_policy_does_not_change_who_may_answer() {
    let rules = json!([{"action": "approval", "decision": "ask", "role": "admin"}]);
    let (mut world, parent) = world(json!({"default": {"approvals": rules}}));
    let (id, _) = asked(&mut world, &parent, json!({"role": "operator"}));
    world.config.policy = Arc::default();
    let refused = world.refused(answer(&id, AnswerRole::Operator, true));
    assert_eq!(refused, Refusal::NotEntitled(id.clone()));
    let decision = world.run(answer(&id, AnswerRole::Admin, false));
    assert_eq!(told(&decision), [TaskState::Failed]);
}

#[test]
fn an_agents_open_questions_are_bounded_and_an_answer_makes_room() {
    let (mut world, parent) = world(json!({}));
    let mut first = None;
    for n in 0..OPEN_ASKS_MAX {
        let command = ask(&world, &parent, &format!("q{n}"), json!({}));
        if let Answer::Child(id) = world.run(command).answer {
            first.get_or_insert(id);
        }
    }
    let command = ask(&world, &parent, "more", json!({}));
    let refused = world.refused(command.clone());
    assert!(matches!(refused, Refusal::TooManyAsks { .. }), "{refused}");
    world.run(answer(&first.unwrap(), AnswerRole::Operator, true));
    world.run(command);
}
