//! A team as a step: drafted when the step begins, over the agents that there are then.

use mesh_messages::AgentId;

use super::team::Candidate;
use super::*;

fn fleet(agents: &[(&str, &[&str])]) -> Vec<Candidate> {
    let candidate = |(name, can): &(&str, &[&str])| Candidate {
        agent: AgentId::new(*name).unwrap(),
        capabilities: can.iter().map(|one| (*one).to_owned()).collect(),
        serves: true,
        merits: BTreeMap::new(),
    };
    agents.iter().map(candidate).collect()
}

fn document() -> Value {
    json!({"steps": [
        {"id": "first", "requirements": ["x"]},
        {"id": "team", "after": ["first"], "input": {"n": "${steps.first.output}"},
         "team": {"pattern": "cross_functional", "requirements": ["write", "draw"]}},
        {"id": "last", "requirements": ["x"], "input": "${steps.team.output}"},
    ]})
}

impl World {
    fn end_one(&mut self, output: Value) {
        let task = self.open.first().cloned().expect("an open task");
        self.end(&task, good(output));
    }

    fn draft(&mut self, fleet: Vec<Candidate>) {
        let draft = Box::new(self.drafts.pop().expect("a team to be drafted"));
        self.run(Command::Drafted { draft, fleet });
    }
}

#[test]
fn a_team_is_drafted_when_its_step_begins_and_its_output_goes_on() {
    let mut world = World::new();
    let id = world.start(&document(), Value::Null);
    assert!(world.drafts.is_empty(), "its turn has not come");
    world.end_one(json!(7));
    assert_eq!(world.drafts.len(), 1);
    assert!(world.view(&id).steps[1].runs.is_empty());
    // Whatever is asked for twice, is drafted once.
    world.restart();
    let again = world.drafts[0].clone();
    world.draft(fleet(&[("w", &["write"]), ("d", &["draw"])]));
    world.drafts.push(again);
    world.draft(fleet(&[("both", &["write", "draw"])]));
    world.restart();
    assert!(
        world.drafts.is_empty() && world.open.len() == 2,
        "a part for each member"
    );
    let inner = world.view(&id).steps[1].runs[0].clone();
    assert_eq!(world.view(&inner).input, json!({"n": 7}));
    world.end_one(json!("a"));
    world.restart();
    world.end_one(json!("b"));
    let last = world.view(&id);
    let output = last.steps[1].output.clone().unwrap();
    let mut parts: Vec<_> = output.as_object().unwrap().keys().cloned().collect();
    parts.sort();
    assert_eq!(parts, ["draw", "write"]);
    world.end_one(json!("done"));
    assert_eq!(world.view(&id).state, TaskState::Succeeded);
}

#[test]
fn a_team_that_nobody_can_make_up_fails_its_step_and_says_what_is_missing() {
    let mut world = World::new();
    let id = world.start(&document(), Value::Null);
    world.end_one(json!(7));
    world.draft(fleet(&[("w", &["write"])]));
    let run = world.view(&id);
    assert_eq!(run.state, TaskState::Failed);
    let message = run.error.unwrap().message;
    assert!(
        message.contains("team.requirements[1]: no registered agent has draw"),
        "{message}"
    );
}

#[test]
fn what_ends_the_step_ends_its_team_drafted_or_not() {
    for drafted in [false, true] {
        let mut world = World::new();
        let id = world.start(&document(), Value::Null);
        world.end_one(json!(7));
        let late = world.drafts[0].clone();
        if drafted {
            world.draft(fleet(&[("both", &["write", "draw"])]));
        }
        let (run, reason) = (id.clone(), "enough".to_owned());
        world.run(Command::Cancel { run, reason });
        for task in world.to_cancel.clone() {
            world.end(&task, bad(StepState::Cancelled));
        }
        assert_eq!(world.view(&id).state, TaskState::Cancelled);
        world.drafts.push(late);
        world.draft(fleet(&[("both", &["write", "draw"])]));
        assert!(world.open.is_empty());
    }
}

#[test]
fn a_team_for_each_item_and_in_each_round() {
    let team = json!({"pattern": "cross_functional", "requirements": ["write"]});
    let mut world = World::new();
    let document = json!({"steps": [
        {"id": "each", "forEach": [1, 2, 3], "input": "${item}", "team": team},
        {"id": "again", "repeat": {"max": 2}, "after": ["each"], "team": team},
    ]});
    let id = world.start(&document, Value::Null);
    let mut drafted = 0;
    while !world.ended.contains(&id) {
        if world.drafts.is_empty() {
            world.end_one(json!(1));
        } else {
            drafted += 1;
            world.draft(fleet(&[("w", &["write"])]));
        }
    }
    assert_eq!(drafted, 5);
    assert_eq!(world.view(&id).state, TaskState::Succeeded);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_path() {
    let wrong = json!({"steps": [
        {"id": "a", "team": {"pattern": "hierarchical", "requirements": []}},
        {"id": "b", "requirements": ["x"], "team": {"pattern": "peer", "requirements": ["x"]}},
        {"id": "c", "contract": {}, "team": {"pattern": "swarm", "requirements": ["x"], "size": 1, "agreement": "majority"}},
    ]});
    let errors = plan(&wrong).unwrap_err();
    for path in [
        "steps[0].team.lead:",
        "steps[0].team.requirements",
        "steps[1]: is several things",
        "steps[2].contract:",
        "steps[2].team.agreement:",
        "steps[2].team.size",
    ] {
        assert!(
            errors.iter().any(|error| error.starts_with(path)),
            "{path} in {errors:#?}"
        );
    }
    let agents = fleet(&[("w", &["write"])]);
    let around = Surroundings {
        services: None,
        registered: None,
        fleet: Some(&agents),
        named: &nobody,
        offered: None,
    };
    let errors = check(&document(), around).unwrap_err();
    assert_eq!(errors[0].path, "steps[1].team.requirements[1]");
}
