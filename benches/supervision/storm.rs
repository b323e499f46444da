//! Ten thousand crashes at once, and what a sibling of those that crash notices of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mesh_benches::{Goal, Report, Samples, Unit, number};
use mesh_supervision::{Child, Started, SupervisorHandle};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{mpsc, oneshot};

use crate::bare::{Bare, Limit};
use crate::restart::micros;
use crate::scale::pool;
use crate::victim::{Back, Probe, Tell};

const VICTIMS: usize = 10_000;
const STORMS: usize = 10;
/// Between two messages to the sibling.
const PACE: Duration = Duration::from_micros(200);
/// How long the sibling is watched in peace.
const PEACE: Duration = Duration::from_secs(2);

/// An actor that notes how old each message is when it comes to it.
struct Sibling;

/// When it was sent.
struct Sent(Instant);

impl ractor::Message for Sent {}

/// What the sibling has seen since it was last asked.
type Seen = Arc<Mutex<Samples>>;

impl Actor for Sibling {
    type Msg = Sent;
    type State = Seen;
    type Arguments = (Seen, Option<oneshot::Sender<ActorRef<Sent>>>);

    async fn pre_start(
        &self,
        myself: ActorRef<Sent>,
        (seen, tell): Self::Arguments,
    ) -> Result<Seen, ActorProcessingErr> {
        let tell = tell.ok_or("it is not meant to be restarted")?;
        drop(tell.send(myself));
        Ok(seen)
    }

    async fn handle(
        &self,
        _: ActorRef<Sent>,
        Sent(at): Sent,
        seen: &mut Seen,
    ) -> Result<(), ActorProcessingErr> {
        seen.lock().map_err(|_| "poisoned")?.push(at.elapsed());
        Ok(())
    }
}

/// A sibling that is sent messages, from a thread of its own so that the senders' own waits do not count.
struct Watch {
    seen: Seen,
    over: Arc<AtomicBool>,
}

impl Watch {
    async fn begin(supervisor: &SupervisorHandle) -> Result<Self, Box<dyn std::error::Error>> {
        let (tell, told) = oneshot::channel();
        let (seen, tell) = (Seen::default(), Mutex::new(Some(tell)));
        let child = Child::worker("sibling", {
            let seen = Arc::clone(&seen);
            move |context| {
                let tell = tell.lock().ok().and_then(|mut tell| tell.take());
                let arguments = (Arc::clone(&seen), tell);
                async move {
                    let spawned = Actor::spawn_linked(None, Sibling, arguments, context.supervisor);
                    Ok(Started::from(spawned.await?))
                }
            }
        });
        supervisor.add(child).await?;
        Ok(Self::over(told.await?, seen))
    }

    async fn begin_bare(bare: &ActorRef<Probe>) -> Result<Self, Box<dyn std::error::Error>> {
        let (tell, told) = oneshot::channel();
        let seen = Seen::default();
        let arguments = (Arc::clone(&seen), Some(tell));
        Actor::spawn_linked(None, Sibling, arguments, bare.get_cell()).await?;
        Ok(Self::over(told.await?, seen))
    }

    fn over(sibling: ActorRef<Sent>, seen: Seen) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(PACE);
                if sibling.send_message(Sent(Instant::now())).is_err() {
                    return;
                }
            }
        });
        Self { seen, over }
    }

    /// What the sibling has seen since the last time.
    fn take(&self) -> Samples {
        let seen = self.seen.lock();
        seen.map(|mut seen| std::mem::take(&mut *seen))
            .unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// What the sibling saw in peace and in the storms, and how long a storm took.
struct Weather {
    peace: Samples,
    storm: Samples,
    settled: Samples,
}

async fn weather(
    watch: Watch,
    mut victims: Vec<Back>,
    back: &mut mpsc::UnboundedReceiver<Back>,
) -> Result<Weather, Box<dyn std::error::Error>> {
    watch.take();
    tokio::time::sleep(PEACE).await;
    let peace = watch.take();
    let (mut storm, mut settled) = (Samples::default(), Samples::default());
    for _ in 0..STORMS {
        watch.take();
        let begin = Instant::now();
        for victim in &victims {
            victim.victim.send_message(Tell::Panic)?;
        }
        for victim in &mut victims {
            *victim = back.recv().await.ok_or("not all came back")?;
        }
        settled.push(begin.elapsed());
        storm.append(watch.take());
        // Let the queues run dry before the next.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(Weather {
        peace,
        storm,
        settled,
    })
}

pub(crate) async fn run(report: &mut Report) -> Result<(), Box<dyn std::error::Error>> {
    let (supervisor, victims, mut back) = pool(VICTIMS).await?;
    let watch = Watch::begin(&supervisor).await?;
    let ours = weather(watch, victims, &mut back).await?;
    let active = supervisor.counts().await?.active;
    supervisor.stop(Duration::from_mins(1)).await;

    let (sender, mut back) = mpsc::unbounded_channel();
    let limit = Limit {
        intensity: usize::MAX,
        period: Duration::from_secs(1),
    };
    let (bare, _join) = Actor::spawn(None, Bare, limit).await?;
    for _ in 0..VICTIMS {
        bare.send_message(Probe::new(&sender))?;
    }
    let mut victims = Vec::with_capacity(VICTIMS);
    while victims.len() < VICTIMS {
        victims.push(back.recv().await.ok_or("not all have started")?);
    }
    let watch = Watch::begin_bare(&bare).await?;
    let theirs = weather(watch, victims, &mut back).await?;
    bare.stop(None);

    report.row(
        "storm of 10,000: settled, children that run",
        Unit::Count,
        number(active as u64),
        ("all", number(VICTIMS as u64 + 1)),
        Goal::None,
    );
    report.row(
        "storm of 10,000: time until all are back, p50",
        Unit::Micros,
        micros(ours.settled.p50()),
        ("bare ractor", micros(theirs.settled.p50())),
        Goal::None,
    );
    report.row(
        "storm of 10,000: sibling's wait, p99",
        Unit::Micros,
        micros(ours.storm.p99()),
        ("undisturbed", micros(ours.peace.p99())),
        Goal::Times(2.0),
    );
    report.row(
        "storm of 10,000: sibling's wait, p99",
        Unit::Micros,
        micros(ours.storm.p99()),
        ("bare ractor in the same storm", micros(theirs.storm.p99())),
        Goal::None,
    );
    Ok(())
}
