//! Slots are shared out among submitters: who floods the mesh waits for himself.

use super::delegation::delegate;
use super::*;

impl World {
    fn submit_as(&mut self, who: &str, spec: Value) -> TaskId {
        let id = self.next_id();
        self.run(Command::Submit {
            by: format!("user:{who}"),
            tasks: vec![NewTask {
                id: id.clone(),
                fresh: false,
                envelope: None,
                spec: serde_json::from_value(spec).unwrap(),
            }],
        });
        id
    }

    fn flood(&mut self, who: &str, spec: &Value, count: usize) -> Vec<TaskId> {
        (0..count)
            .map(|_| self.submit_as(who, spec.clone()))
            .collect()
    }

    fn at_work(&self, ids: &[TaskId]) -> usize {
        let at_work = |id: &&TaskId| self.state(id).is_in_flight();
        ids.iter().filter(at_work).count()
    }
}

#[test]
fn one_task_behind_a_flood_of_somebody_else_gets_the_next_free_slot() {
    let mut world = World::new();
    world.agent("worker", &["work"], &[2, 2]);
    let spec = json!({"requirements": ["work"]});
    let flood = world.flood("loud", &spec, 40);
    let urgent = json!({"requirements": ["work"], "priority": "critical"});
    let more = world.flood("loud", &urgent, 5);
    let quiet = world.submit_as("quiet", spec);
    assert_eq!(world.at_work(&flood), 4);
    assert_eq!(world.state(&quiet), TaskState::Queued);
    world.succeed(&flood[0]);
    assert!(world.state(&quiet).is_in_flight());
    // Among one's own, priorities hold.
    world.succeed(&flood[1]);
    assert_eq!(world.at_work(&more), 1);
}

#[test]
fn slots_are_shared_out_evenly_while_all_want_more() {
    let mut world = World::with(TaskConfig {
        max_parallel_tasks: 6,
        ..TaskConfig::default()
    });
    world.agent("worker", &["work"], &[6]);
    let spec = json!({"requirements": ["work"]});
    let each = ["a", "b", "c"].map(|who| world.flood(who, &spec, 12));
    assert_eq!(each.each_ref().map(|ids| world.at_work(ids)), [6, 0, 0]);
    // Whoever came first has its tasks ended first, until all have as many.
    for _ in 0..4 {
        let first = each[0].iter().find(|id| world.state(id).is_in_flight());
        let first = first.unwrap().clone();
        world.succeed(&first);
    }
    assert_eq!(each.each_ref().map(|ids| world.at_work(ids)), [2, 2, 2]);
}

#[test]
fn with_one_slot_all_take_turns_and_whoever_comes_is_next() {
    let mut world = World::new();
    world.agent("worker", &["work"], &[1]);
    let spec = json!({"requirements": ["work"]});
    let flood = world.flood("loud", &spec, 20);
    for id in &flood[..3] {
        world.succeed(id);
    }
    let quiet = world.flood("quiet", &spec, 2);
    world.succeed(&flood[3]);
    assert!(world.state(&quiet[0]).is_in_flight());
    world.succeed(&quiet[0]);
    assert!(world.state(&flood[4]).is_in_flight(), "turn by turn");
    world.succeed(&flood[4]);
    assert!(world.state(&quiet[1]).is_in_flight());
}

#[test]
fn whoever_waits_for_others_or_works_elsewhere_has_its_turn_all_the_same() {
    let mut world = World::with(TaskConfig {
        max_parallel_tasks: 3,
        ..TaskConfig::default()
    });
    world.agent("planner", &["plan"], &[8]);
    world.agent("worker", &["work"], &[8]);
    let work = json!({"requirements": ["work"]});
    // Three that wait for what they delegated hold no slots.
    let plans = world.flood("quiet", &json!({"requirements": ["plan"]}), 3);
    let flood = world.flood("loud", &work, 20);
    let delegated: Vec<_> = plans
        .iter()
        .map(|plan| delegate(&mut world, plan, "r", work.clone()))
        .collect();
    for _ in 0..4 {
        let first = flood.iter().find(|id| world.state(id).is_in_flight());
        let Some(first) = first.cloned() else { break };
        world.succeed(&first);
    }
    assert!(world.at_work(&delegated) > 0, "starved by a flood");
}

#[test]
fn what_agents_delegate_counts_for_whom_they_work() {
    let mut world = World::new();
    world.agent("planner", &["plan"], &[4]);
    world.agent("worker", &["work"], &[2]);
    let parent = world.submit_as("loud", json!({"requirements": ["plan"]}));
    let work = json!({"requirements": ["work"]});
    let children: Vec<_> = (0..6)
        .map(|n| delegate(&mut world, &parent, &format!("r{n}"), work.clone()))
        .collect();
    let quiet = world.submit_as("quiet", work);
    assert_eq!(world.at_work(&children), 2);
    world.succeed(&children[0]);
    assert!(world.state(&quiet).is_in_flight());
}

#[test]
fn nobody_fills_the_mesh_for_all() {
    let mut world = World::new();
    let spec = json!({"requirements": ["nothing"]});
    let submission = |world: &mut World, who: &str| Command::Submit {
        by: format!("user:{who}"),
        tasks: (0..1000)
            .map(|_| NewTask {
                id: world.next_id(),
                fresh: true,
                envelope: None,
                spec: serde_json::from_value(spec.clone()).unwrap(),
            })
            .collect(),
    };
    let decide = |world: &mut World, command: Command| {
        let ctx = Context {
            now: world.now,
            random: 1,
            config: &world.config,
            known: &world.known,
        };
        // What holds after every step is compared elsewhere; with so many tasks it would take minutes.
        world.tasks.decide(&mut world.live, command, ctx)
    };
    for _ in 0..LIVE_TASKS_OF_ONE_MAX / 1000 {
        let command = submission(&mut world, "loud");
        decide(&mut world, command).unwrap();
    }
    let command = submission(&mut world, "loud");
    let refused = decide(&mut world, command).unwrap_err();
    assert!(
        refused.to_string().contains("user:loud"),
        "{refused} names who"
    );
    let command = submission(&mut world, "quiet");
    decide(&mut world, command).unwrap();
}
