//! The parts of the tree die while agents are at work: no agent notices, no task is lost or done twice.

use mesh_tests::Random;

use crate::ledger::Way;
use crate::load::Load;
use crate::prey::{Blow, PARTS};
use crate::world::{World, random, steps};

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
    println!(
        "{} tasks, {} runs",
        load.acknowledged().len(),
        world.ledger.runs()
    );
    let world = world.again().await;
    load.assert_all_is_well(&world).await;
    world.mesh.stop().await;
}
