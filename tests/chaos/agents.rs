//! Agents' actors and instances die, and agents panic: each task still ends once, and nobody starts twice under one number.

use mesh_tests::Random;

use crate::ledger::Way;
use crate::load::Load;
use crate::prey::Blow;
use crate::world::{World, random, steps, until};

const WAYS: [Way; 6] = [
    Way::Quick,
    Way::Slow(5),
    Way::Slow(60),
    Way::Slow(200),
    Way::PanicsOnce,
    Way::Never,
];
const NAMES: [&str; 3] = ["one", "two", "three"];

/// Agents' actors that may be struck within a minute, below what their supervisor bears.
const ACTORS_MAX: u64 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_die_and_their_tasks_end_once() {
    let mut random = random("agents_die_and_their_tasks_end_once");
    let world = World::start().await;
    for name in NAMES {
        world.worker(name, 3).await;
    }
    let load = Load::default();
    let blows = steps(20);
    let pouring = load.pour(&world, Random::new(random.next_u64()), blows * 12, &WAYS);
    let striking = async {
        let mut actors = 0;
        for _ in 0..blows {
            let whole = actors < ACTORS_MAX && random.between(0, 3) == 0;
            let prey = until("somebody to strike", async || {
                let all = if whole {
                    world.prey.agents()
                } else {
                    world.prey.instances()
                };
                (!all.is_empty()).then_some(all)
            })
            .await;
            let cell = &prey[usize::try_from(random.between(0, prey.len() as u64)).unwrap()];
            // Nobody but itself stops an instance in order, so it can only be killed.
            let blow = if whole {
                Blow::any(&mut random)
            } else {
                Blow::Kill
            };
            println!(
                "{blow:?} {} {}",
                if whole { "agent" } else { "instance" },
                cell.get_id()
            );
            actors += u64::from(whole);
            world.prey.fell(cell, blow).await;
            for name in NAMES {
                world.serves(name).await;
            }
            load.assert_reads_show_everything(&world, &mut random).await;
        }
    };
    tokio::join!(pouring, striking);

    let history = load.assert_exactly_once(&world).await;
    assert!(
        history.count("activated") > NAMES.len(),
        "somebody was started again"
    );
    for name in NAMES {
        world.serves(name).await;
    }
    assert_eq!(world.ledger.under_way(), 0);
    let world = world.again().await;
    load.assert_exactly_once(&world).await;
    world.mesh.stop().await;
}
