//! Dynamic supervisors of very many children.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use mesh_supervision::{
    Counts, End, Ended, Flags, Incarnation, REQUESTS_MAX, Strategy, SupervisorHandle,
    SupervisorSpec,
};

use crate::bench::{Journal, puppet, supervise};

const MEMBERS: usize = 10_000;
const CRASHES: usize = 1_000;

async fn pool(journal: &Journal, intensity: u32) -> SupervisorHandle {
    let flags = Flags {
        strategy: Strategy::Dynamic,
        intensity,
        ..Flags::default()
    };
    let supervisor = supervise(SupervisorSpec::new(flags)).await;
    stream::iter(0..MEMBERS)
        .for_each_concurrent(REQUESTS_MAX, |n| {
            let (supervisor, child) = (supervisor.clone(), puppet(&format!("m{n}"), journal));
            async move {
                supervisor.add(child).await.unwrap();
            }
        })
        .await;
    supervisor
}

async fn incarnations(supervisor: &SupervisorHandle) -> BTreeMap<String, Option<Incarnation>> {
    let children = supervisor.children().await.unwrap();
    children
        .into_iter()
        .map(|child| (child.spec.id.to_string(), child.incarnation))
        .collect()
}

fn all_active() -> Counts {
    Counts {
        specs: MEMBERS,
        active: MEMBERS,
        workers: MEMBERS,
        supervisors: 0,
    }
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_ten_thousand_restarts_just_those_that_crash_together_and_stops_as_one() {
    let journal = Journal::new();
    let supervisor = pool(&journal, u32::try_from(CRASHES).unwrap()).await;
    assert_eq!(supervisor.counts().await.unwrap(), all_active());
    let before = incarnations(&supervisor).await;
    let children = supervisor.children().await.unwrap();
    let crashed: Vec<String> = children
        .iter()
        .step_by(MEMBERS / CRASHES)
        .map(|child| {
            child.actor.as_ref().unwrap().kill();
            child.spec.id.to_string()
        })
        .collect();
    for child in children.iter().step_by(MEMBERS / CRASHES) {
        child.actor.as_ref().unwrap().wait(None).await.unwrap();
    }
    while supervisor.counts().await.unwrap() != all_active() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let after = incarnations(&supervisor).await;
    let restarted: Vec<&String> = after
        .iter()
        .filter(|(id, incarnation)| before[*id] != **incarnation)
        .map(|(id, _)| id)
        .collect();
    assert_eq!(restarted.len(), CRASHES);
    assert!(crashed.iter().all(|id| restarted.contains(&id)));
    journal.take();
    let ended = supervisor.stop(Duration::from_mins(1)).await;
    assert_eq!(ended, Ended::InOrder(End::Stopped));
    let stops = journal.take();
    assert_eq!(stops.matches("stop m").count(), MEMBERS);
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_ten_thousand_that_crashes_beyond_its_intensity_ends_whole() {
    let journal = Journal::new();
    let supervisor = pool(&journal, 10).await;
    let children = supervisor.children().await.unwrap();
    for child in children.iter().take(11) {
        child.actor.as_ref().unwrap().kill();
    }
    let ended = supervisor.terminated().await;
    assert!(
        matches!(ended, Ended::InOrder(End::Escalated { intensity: 10, .. })),
        "{ended:?}"
    );
    for child in children {
        child.actor.unwrap().wait(None).await.unwrap();
    }
}
