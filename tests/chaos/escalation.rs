//! More deaths than a group bears: it is restarted as a whole, and with it what stands after it; at last the mesh gives up.

use crate::history::History;
use crate::ledger::Way;
use crate::load::Load;
use crate::prey::Blow;
use crate::world::{PATIENCE, World, until};

/// Deaths within a minute that a group bears.
const INTENSITY: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_gives_up_is_restarted_and_its_agents_come_back() {
    let world = World::start().await;
    world.worker("left", 4).await;
    world.process("echo").await;
    let load = Load::default();
    load.submit(
        &world,
        &(0..20).map(|n| (n, Way::Slow(300))).collect::<Vec<_>>(),
    )
    .await;
    let (work, core) = (
        world.prey.up("work", None).await,
        world.prey.up("core", None).await,
    );
    let before = world.lives("echo").await;
    for _ in 0..INTENSITY {
        world.prey.strike("memory", Blow::Kill).await;
    }
    assert_eq!(
        world.prey.up("work", None).await.get_id(),
        work.get_id(),
        "it bears that many"
    );
    assert_eq!(world.lives("echo").await, before);

    world.prey.strike("bus", Blow::Kill).await;
    world.prey.up("work", Some(work.get_id())).await;
    assert_eq!(
        world.prey.up("core", None).await.get_id(),
        core.get_id(),
        "what stands before it stays"
    );
    until("the agents are started again", async || {
        let now = world.lives("echo").await;
        (now.len() == 1 && now[0].0 > before[0].0 && now[0].1.is_some()).then_some(())
    })
    .await;
    world.serves("left").await;
    load.submit(
        &world,
        &(20..40).map(|n| (n, Way::Quick)).collect::<Vec<_>>(),
    )
    .await;
    load.assert_all_is_well(&world).await;
    world.mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_die_and_come_back_with_all_that_stands_after_them() {
    let world = World::start().await;
    world.worker("left", 4).await;
    world.process("echo").await;
    let load = Load::default();
    let mut n = 0;
    for group in ["core", "work", "agents", "edge"] {
        for blow in [Blow::Kill, Blow::Stop] {
            println!("{blow:?} {group}");
            load.submit(
                &world,
                &(n..n + 10).map(|n| (n, Way::Slow(50))).collect::<Vec<_>>(),
            )
            .await;
            n += 10;
            world.prey.strike(group, blow).await;
            world.prey.up("health", None).await;
            world.serves("left").await;
            world.serves("echo").await;
        }
    }
    load.assert_all_is_well(&world).await;
    let world = world.again().await;
    load.assert_all_is_well(&world).await;
    world.mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_gives_up_when_the_root_bears_no_more() {
    let world = World::start().await;
    world.worker("left", 4).await;
    let load = Load::default();
    load.submit(
        &world,
        &(0..20).map(|n| (n, Way::Slow(100))).collect::<Vec<_>>(),
    )
    .await;
    for _ in 0..INTENSITY {
        world.prey.strike("edge", Blow::Kill).await;
    }
    let history = History::of(&*world.ops()).await;
    history.assert_epochs_rise();
    assert_eq!(
        history.count("activated"),
        1,
        "what may fail without touching an agent did not touch it"
    );

    let failed = world.mesh.failed();
    world.prey.up("edge", None).await.kill();
    let why = tokio::time::timeout(PATIENCE, failed).await.unwrap();
    assert!(why.contains("edge"), "{why}");
    // Whatever it was doing is on the disk, and the next run goes on with it.
    let world = world.again().await;
    world.serves("left").await;
    load.assert_all_is_well(&world).await;
    world.mesh.stop().await;
}
