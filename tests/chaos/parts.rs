//! The parts of the tree die while agents are at work: no agent notices, no task is lost or done twice.

use mesh_actors::operations::OutcomeReport;
use mesh_messages::task::TaskSpec;
use mesh_messages::{AttemptNo, Epoch};
use mesh_tests::Random;
use serde_json::json;

use crate::ledger::Way;
use crate::load::Load;
use crate::prey::{Blow, PARTS};
use crate::world::{World, admin, random, steps, until};

const WAYS: [Way; 6] = [
    Way::Quick,
    Way::Quick,
    Way::Slow(5),
    Way::Slow(60),
    Way::Slow(400),
    Way::Never,
];

/// Blows of a part's group within a minute: below what the group bears.
const GROUP_BLOWS_MAX: u32 = 9;

/// Which part is next: any whose group bears it.
fn next_part(random: &mut Random, dealt: &mut [u32; 3]) -> Option<&'static str> {
    let group = |part: &str| match part {
        "sentinel" | "registry" | "projector" => 0,
        "health" => 2,
        _ => 1,
    };
    let bear: Vec<_> = PARTS
        .into_iter()
        .filter(|part| dealt[group(part)] < GROUP_BLOWS_MAX)
        .collect();
    let chosen =
        *bear.get(usize::try_from(random.between(0, bear.len().max(1) as u64)).unwrap())?;
    dealt[group(chosen)] += 1;
    Some(chosen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_die_and_no_agent_notices() {
    let mut random = random("parts_die_and_no_agent_notices");
    let world = World::start().await;
    world.worker("left", 4).await;
    world.worker("right", 4).await;
    world.process("echo").await;
    let before = world.lives("echo").await;
    assert!(before.iter().all(|(_, pid)| pid.is_some()), "{before:?}");

    let load = Load::default();
    let blows = steps(14);
    let pouring = load.pour(&world, Random::new(random.next_u64()), blows * 20, &WAYS);
    let striking = async {
        let mut dealt = [0; 3];
        let mut since = tokio::time::Instant::now();
        for _ in 0..blows {
            let part = loop {
                if let Some(part) = next_part(&mut random, &mut dealt) {
                    break part;
                }
                // A long run waits until the groups have forgotten what they bore.
                tokio::time::sleep_until(since + std::time::Duration::from_secs(61)).await;
                (since, dealt) = (tokio::time::Instant::now(), [0; 3]);
            };
            let blow = Blow::any(&mut random);
            println!("{blow:?} {part}");
            world.prey.strike(part, blow).await;
            load.assert_reads_show_everything(&world, &mut random).await;
            assert_eq!(world.lives("echo").await, before, "the process is the same");
        }
    };
    tokio::join!(pouring, striking);

    let history = load.assert_all_is_well(&world).await;
    for (agent, epochs) in history.epochs() {
        assert_eq!(epochs.len(), 1, "{agent} was started once: {epochs:?}");
    }
    assert_eq!(world.ledger.under_way(), 0);
    assert_eq!(
        world.ledger.run_again(),
        Vec::<u64>::new(),
        "no agent died, so nothing is done again"
    );
    println!(
        "{} tasks, {} runs",
        load.acknowledged().len(),
        world.ledger.runs()
    );
    let world = world.again().await;
    load.assert_all_is_well(&world).await;
    world.mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_the_journal_is_refused_and_kills_nobody() {
    let world = World::start().await;
    world.worker("left", 4).await;
    let orchestrator = world.prey.up("orchestrator", None).await;
    let large = "x".repeat(20 * 1024);
    let spec = |n| TaskSpec {
        kind: Some("work".to_owned()),
        input: json!({ "n": n, "way": "quick", "large": large }),
        ..TaskSpec::default()
    };
    let load = Load::default();
    // Each of them is small enough; all of them are more than one write of the log may hold.
    let outcome = world
        .ops()
        .submit_tasks(&admin(), (0..400).map(spec).collect())
        .await;
    if let Err(problem) = outcome {
        assert_eq!(problem.kind.status(), 413, "{problem:?}");
    }
    let now = world.prey.up("orchestrator", None).await;
    assert_eq!(now.get_id(), orchestrator.get_id(), "nobody died of it");
    load.submit(&world, &[(1000, Way::Quick)]).await;
    load.assert_exactly_once(&world).await;
    world.mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_comes_too_late_is_refused_and_counted_whoever_died_meanwhile() {
    let world = World::start().await;
    world.worker("left", 4).await;
    let load = Load::default();
    load.submit(&world, &[(0, Way::Quick)]).await;
    load.ended(&world).await;
    world.prey.strike("orchestrator", Blow::Kill).await;
    let task = load.acknowledged().into_keys().next().unwrap();
    let late = OutcomeReport {
        attempt: AttemptNo(1),
        epoch: Epoch(1),
        output: Some(json!("another one")),
        error: None,
    };
    let ops = world.ops();
    let refused = until("an answer", async || {
        let answer = ops
            .report_outcome(&admin(), task.as_str(), late.clone())
            .await;
        answer.err().filter(|problem| problem.kind.status() < 500)
    })
    .await;
    assert_eq!(refused.kind.status(), 409, "{refused:?}");
    let counted = until("metrics", async || ops.metrics().await.ok()).await;
    assert!(
        counted.contains(r#"messages_refused_total{kind="stale_attempt"} 1"#),
        "{counted}"
    );
    load.assert_all_is_well(&world).await;
    world.mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_orchestrator_dies_in_the_middle_of_a_backlog_and_nothing_is_done_again() {
    let world = World::start().await;
    world.worker("left", 4).await;
    world.worker("right", 4).await;
    let load = Load::default();
    let backlog: Vec<_> = (0..160).map(|n| (n, Way::Slow(n % 40))).collect();
    load.submit(&world, &backlog).await;
    for death in 1..=GROUP_BLOWS_MAX {
        until("some more has been begun", async || {
            (world.ledger.runs() >= death * 12).then_some(())
        })
        .await;
        world.prey.strike("orchestrator", Blow::Kill).await;
    }
    load.assert_all_is_well(&world).await;
    assert_eq!(world.ledger.run_again(), Vec::<u64>::new());
    world.mesh.stop().await;
}
