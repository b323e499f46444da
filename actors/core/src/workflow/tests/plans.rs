//! Stored plans: read, edited, started once, and nothing of them runs before.

use mesh_messages::PlanId;
use mesh_messages::plan::{PlanState, StoredPlan};

use super::*;
use crate::workflow::stored::{
    NewPlan, PLANS_BYTES_MAX, PlanCommand, PlanRefusal, VERSIONS_KEPT_MAX,
};

fn id() -> PlanId {
    PlanId::new("p1").unwrap()
}

fn written(replaces: Option<u32>, capability: &str) -> Command {
    let document = json!({"name": "work", "steps": [{"id": "a", "requirements": [capability]}]});
    Command::Plan(PlanCommand::Write(Box::new(NewPlan {
        id: id(),
        replaces,
        goal: "to have it done".to_owned(),
        plan: Arc::new(plan(&document).unwrap()),
        input: json!({"n": 1}),
        by: "ann".to_owned(),
    })))
}

fn start(version: u32) -> Command {
    let by = "bob".to_owned();
    let id = id();
    Command::Plan(PlanCommand::Start { id, version, by })
}

impl World {
    fn plan(&self) -> StoredPlan {
        self.state.stored_plan(&id()).expect("the plan")
    }

    #[track_caller]
    fn refused(&mut self, command: Command) -> PlanRefusal {
        let before = self.state.applied();
        let refusal = self.state.decide(command, self.now).unwrap_err();
        assert_eq!(self.state.applied(), before, "nothing happened");
        match refusal {
            Refusal::Plan(refusal) => refusal,
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_plan_does_nothing_until_it_is_started_and_then_what_it_says() {
    let mut world = World::new();
    world.run(written(None, "x"));
    world.run(Command::Tick);
    assert!(world.open.is_empty(), "nothing of it runs");
    world.run(written(Some(1), "y"));
    let shown = world.plan();
    assert_eq!((shown.state, shown.current.version), (PlanState::Draft, 2));
    assert_eq!(shown.earlier.len(), 1);
    world.restart();
    world.run(start(2));
    let shown = world.plan();
    assert_eq!(shown.state, PlanState::Started);
    assert_eq!(shown.started_by.as_deref(), Some("bob"));
    let run = shown.run.expect("its run");
    let view = world.view(&run);
    assert_eq!(view.submitted_by, "bob");
    assert_eq!(view.input, json!({"n": 1}));
    let document = world.state.run(&run).unwrap().plan.document().clone();
    assert_eq!(document, *shown.current.workflow);
    assert_eq!(document.steps[0].requirements, ["y"]);
    assert_eq!(world.open.len(), 1);
}

#[test]
fn nobody_starts_or_replaces_what_another_one_changed_meanwhile() {
    let mut world = World::new();
    world.run(written(None, "x"));
    world.run(written(Some(1), "y"));
    let changed = PlanRefusal::Changed {
        plan: id(),
        current: 2,
    };
    assert_eq!(world.refused(start(1)), changed);
    assert_eq!(world.refused(written(Some(1), "z")), changed);
    assert_eq!(world.refused(written(None, "z")), changed);
    world.run(start(2));
    assert!(matches!(
        world.refused(written(Some(2), "z")),
        PlanRefusal::Started { .. }
    ));
    // Asked again, as after an answer that was lost, it is the same run.
    let run = world.plan().run;
    world.run(start(2));
    assert_eq!((world.plan().run, world.submitted.len()), (run, 1));
}

#[test]
fn a_plan_that_is_removed_is_gone_and_its_run_goes_on() {
    let mut world = World::new();
    world.run(written(None, "x"));
    world.run(start(1));
    let run = world.plan().run.unwrap();
    let by = "ann".to_owned();
    let remove = Command::Plan(PlanCommand::Remove { id: id(), by });
    world.run(remove.clone());
    assert_eq!(world.refused(remove), PlanRefusal::NotFound(id()));
    assert_eq!(world.refused(start(1)), PlanRefusal::NotFound(id()));
    let task = world.open.first().cloned().unwrap();
    world.end(&task, good(json!(1)));
    assert_eq!(world.ended, [run]);
}

#[test]
fn only_the_latest_versions_are_shown() {
    let mut world = World::new();
    world.run(written(None, "x"));
    for version in 1..20 {
        world.run(written(Some(version), "x"));
    }
    let shown = world.plan();
    assert_eq!(shown.current.version, 20);
    let earlier: Vec<_> = shown.earlier.iter().map(|v| v.version).collect();
    assert_eq!(earlier.len(), VERSIONS_KEPT_MAX);
    assert_eq!(earlier[0], 19);
}

#[test]
fn plans_are_held_up_to_so_many_bytes_and_what_is_removed_makes_room() {
    let mut world = World::new();
    for version in 0..10 {
        world.run(written((version > 0).then_some(version), "x"));
    }
    // What is counted is what a state that is read back holds.
    world.restart();
    let own = world.state.plans.bytes;
    assert!(own > 6 * 150 && own < 6 * 1000, "{own}");
    world.state.plans.bytes = PLANS_BYTES_MAX - 100;
    let Command::Plan(PlanCommand::Write(mut other)) = written(None, "x") else {
        unreachable!("a plan that is written");
    };
    other.id = PlanId::new("p2").unwrap();
    let other = Command::Plan(PlanCommand::Write(other));
    let refused = world.refused(other.clone());
    assert!(matches!(refused, PlanRefusal::TooLarge { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("67108864 are held at most"), "{text}");
    // Another version of one takes the place of its oldest.
    world
        .state
        .decide(written(Some(10), "x"), world.now)
        .unwrap();
    let by = "ann".to_owned();
    let remove = Command::Plan(PlanCommand::Remove { id: id(), by });
    world.state.decide(remove, world.now).unwrap();
    world.state.decide(other, world.now).unwrap();
}
