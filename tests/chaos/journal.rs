//! The journal's actor dies: everything above it starts anew from what is on the disk, in the same process.

use std::time::Duration;

use mesh_messages::task::TaskSpec;
use mesh_tests::Random;
use serde_json::json;

use crate::ledger::Way;
use crate::load::Load;
use crate::prey::Blow;
use crate::world::{World, admin, random, steps, until};

const WAYS: [Way; 5] = [
    Way::Quick,
    Way::Quick,
    Way::Slow(5),
    Way::Slow(100),
    Way::PanicsOnce,
];

/// Within a minute, below what the root bears.
const BLOWS_MAX: u64 = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_dies_and_everything_is_what_the_disk_says() {
    let mut random = random("the_journal_dies_and_everything_is_what_the_disk_says");
    let world = World::start().await;
    world.worker("left", 4).await;
    world.worker("right", 4).await;
    world.process("echo").await;
    let load = Load::default();
    let blows = steps(5).min(BLOWS_MAX);
    let pouring = load.pour(&world, Random::new(random.next_u64()), blows * 25, &WAYS);
    let striking = async {
        for step in 1..=blows {
            let blow = Blow::any(&mut random);
            println!("{blow:?} journal");
            world.prey.strike("journal", blow).await;
            for part in ["health", "orchestrator", "registry"] {
                world.prey.up(part, None).await;
            }
            load.assert_reads_show_everything(&world, &mut random).await;
            for agent in ["left", "right", "echo"] {
                until("the next incarnation runs", async || {
                    let lives = world.lives(agent).await;
                    lives.iter().all(|(epoch, _)| *epoch > step).then_some(())
                })
                .await;
                world.serves(agent).await;
            }
        }
    };
    tokio::join!(pouring, striking);
    load.assert_exactly_once(&world).await;
    let world = world.again().await;
    load.assert_exactly_once(&world).await;
    world.mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_does_not_read_does_not_keep_the_journal_from_opening_again() {
    let world = World::start().await;
    world.worker("left", 4).await;
    let load = Load::default();
    load.submit(&world, &[(0, Way::Quick)]).await;
    // More than an export holds in its hands while nobody reads it.
    let large = "x".repeat(24 * 1024);
    for n in 0..160 {
        let spec = TaskSpec {
            kind: Some("nobody".to_owned()),
            input: json!({ "n": n, "large": large }),
            ..TaskSpec::default()
        };
        world
            .ops()
            .submit_tasks(&admin(), vec![spec])
            .await
            .unwrap();
    }
    let mut unread = world.ops().export_audit(None, true).await.unwrap();
    assert!(unread.recv().await.unwrap().is_ok(), "it has begun");

    let begun = tokio::time::Instant::now();
    world.prey.strike("journal", Blow::Kill).await;
    world.prey.up("health", None).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begun.elapsed()
    );
    load.submit(&world, &[(1, Way::Quick)]).await;
    load.ended(&world).await;
    // The reader learns that what it has is not all.
    let mut last = None;
    while let Some(chunk) = unread.recv().await {
        last = Some(chunk);
    }
    assert!(
        last.is_some_and(|chunk| chunk.is_err()),
        "the export does not look whole"
    );
    world.mesh.stop().await;
}
